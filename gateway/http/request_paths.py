"""Reads the path of a request: its dialect, whether it may be passed through, and what is wrong with it. Pure."""

import difflib
import re
from urllib.parse import unquote

# Path -> dialect of its requests.
DIALECT_BY_PATH = {
    "/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages",
    "/v1/embeddings": "embeddings", "/v1/completions": "completions",
}  # fmt: skip
# Anthropic's clients may have /anthropic in their base URL.
ANTHROPIC_PREFIX = "/anthropic"
# Never passed through: the account's administration, endpoints that hand out keys, and data that other callers stored.
_BLOCKED_PREFIXES = (
    "/v1/organization", "/v1/projects", "/v1/api_keys", "/v1/admin", "/v1/realtime", "/v1/chat", "/v1/completions",
    "/v1/embeddings",
)  # fmt: skip
# Endpoints by the first segment below /v1 that is meant by who writes it, or misspells it.
_DIALECT_ENDPOINTS = {
    "chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings",
    "messages": "/v1/messages", "models": "/v1/models", "responses": "/v1/responses",
}  # fmt: skip
# What the gateway answers itself: no provider is asked for a path that resembles one.
_OWN_ENDPOINTS = {
    "budgets": "/v1/budgets/me", "sessions": "/v1/sessions", "approve": "/approve/TOKEN", "metrics": "/metrics",
    "export": "/export", "livez": "/livez", "readyz": "/readyz", "healthz": "/healthz",
}  # fmt: skip
# Last segments of the endpoints of dialects. Messages of a thread are OpenAI's Assistants API.
_DIALECT_LAST_NAMES = tuple({path.rpartition("/")[2] for path in DIALECT_BY_PATH})
_ENDPOINTS = _DIALECT_ENDPOINTS | _OWN_ENDPOINTS
# Similarity (difflib) from which a segment counts as a misspelling: one letter in seven.
_MISSPELLING_RATIO = 0.85
# Canonical paths only: no escapes, no empty segments, no segments of dots alone.
_PASSTHROUGH_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:@=+-]+)+")
_VERSION, _SHOWN_CHARS_MAX = "v1", 100
# Segments of a path that a wrong base URL may consist of, like /anthropic/v1/v1.
_PREFIX_SEGMENTS_MAX = 4


def normalized_path(path: str) -> str:
    """Returns a path without Anthropic's prefix and trailing slashes."""
    return path.removeprefix(ANTHROPIC_PREFIX).rstrip("/")


def provider_path(raw_path: str) -> str:
    """Returns a path as a provider's base URL is continued: without Anthropic's prefix and /v1."""
    return raw_path.removeprefix(ANTHROPIC_PREFIX).removeprefix("/v1")


def is_passed_through(raw_path: str) -> bool:
    """Whether a path that is not ours may be sent to a provider.

    Not what is an endpoint of a dialect behind another prefix: there it would be neither classified nor limited.
    """
    path = normalized_path(raw_path)
    if not path.startswith("/v1/") or path.lower().startswith(_BLOCKED_PREFIXES):
        return False
    if _PASSTHROUGH_PATH.fullmatch(provider_path(raw_path)) is None:
        return False
    names = _segments(path)[1:]
    return (
        _VERSION not in names[:2]
        and _endpoint_after_endpoint(names) is None
        and (names[-1] not in _DIALECT_LAST_NAMES or names[0] in (*_DIALECT_LAST_NAMES, "threads"))
        and names[0] != ANTHROPIC_PREFIX[1:]
        and (names[0] in _DIALECT_ENDPOINTS or _closest_name(names[0]) is None)
    )


def dialect_of_error(raw_path: str) -> str | None:
    """Returns the dialect whose endpoint a path is meant to be, None where it is none."""
    names = _segments(raw_path)
    doubled = _endpoint_after_endpoint(_segments(normalized_path(raw_path))[1:])
    if doubled is not None and doubled in DIALECT_BY_PATH:
        return DIALECT_BY_PATH[doubled]
    for path, dialect in DIALECT_BY_PATH.items():
        endpoint = path.split("/")[2:]
        before = names[: -len(endpoint)]
        if names[-len(endpoint) :] == endpoint and (not before or before[-1] in (_VERSION, ANTHROPIC_PREFIX[1:])):
            return dialect
    return None


def no_such_endpoint(method: str, raw_path: str) -> str:
    """Returns the message for a path without an endpoint; it says how to correct a base URL."""
    message = f"No such endpoint: {method} {raw_path[:_SHOWN_CHARS_MAX]}."
    names = _segments(raw_path)
    versions = [index for index, name in enumerate(names[:_PREFIX_SEGMENTS_MAX]) if name == _VERSION]
    if len(versions) > 1:
        meant = "/".join(("/v1", *names[versions[-1] + 1 :]))[:_SHOWN_CHARS_MAX]
        return f"{message} The base URL has one /v1 too many; the endpoint is {meant}."
    if not normalized_path(raw_path).startswith("/v1/") or "//" in raw_path:
        return f"{message} Endpoints begin with /v1; check that the base URL is http://HOST:PORT/v1."
    doubled = _endpoint_after_endpoint(_segments(normalized_path(raw_path))[1:])
    if doubled is not None:
        return f"{message} The base URL must end before the endpoint, with /v1; the endpoint is {doubled}."
    close = _closest_name(names[1]) if len(names) > 1 else None
    return f"{message} Did you mean {_ENDPOINTS[close]}?" if close else message


def _segments(path: str) -> list[str]:
    """Returns the segments of a path in lower case, unescaped, without empty ones."""
    return [name for name in unquote(path, errors="replace").lower().split("/") if name not in ("", ".")]


def _endpoint_after_endpoint(names: list[str]) -> str | None:
    """Returns the endpoint that the segments below /v1 name after that of a dialect, None where it has no second."""
    for path in DIALECT_BY_PATH:
        endpoint = path.split("/")[2:]
        if names[: len(endpoint)] == endpoint and len(names) > len(endpoint):
            return _DIALECT_ENDPOINTS.get(names[len(endpoint)])
    return None


def _closest_name(name: str) -> str | None:
    """Returns the first segment of an endpoint that a segment is or misspells, None if it is like none."""
    close = difflib.get_close_matches(name[:_SHOWN_CHARS_MAX], _ENDPOINTS, n=1, cutoff=_MISSPELLING_RATIO)
    return close[0] if close else None
