"""Reads a caller's headers: the key, and hints such as session and task type.

Header names are in lower case.
"""

import hashlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from ..sessions.body_session_id import safe_session_id
from ..values.errors import BadRequest, Unauthenticated
from ..values.request import Caller, HeaderHints
from ..values.snapshot import Snapshot

_SESSION_CHARS_MAX = 128
# Retry counter of OpenAI's and Anthropic's SDKs.
_RETRY_HEADER, _CAPS_HEADER = "x-stainless-retry-count", "x-penstock-session-caps"
_TASK_HEADER, _ROUTE_HEADER = "x-penstock-task-type", "x-penstock-route"
_ROLE_HEADER, _DEADLINE_HEADER = "x-penstock-role", "x-penstock-deadline-ms"
# Two days: within the horizon of the forecasts (UK 96 h, Electricity Maps 72 h).
_SECONDS_BY_UNIT, _DEFER_SECONDS_MAX = {"s": 1, "m": 60, "h": 3600}, 172_800
_DEFER_HEADER = "x-penstock-defer"
# Headers besides Authorization in which clients send a key: Anthropic's, Azure's and Google's.
_KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
# Values of one repeated header that are tried as keys.
_KEYS_MAX = 8
# Headers with one value by their definition: of several, the first counts.
_SINGLE_HEADERS = ("anthropic-version", "traceparent", "user-agent", "expect", "x-stainless-")
_OWN_PREFIX = "x-penstock-"


def collect_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers by name in lower case; a repeated one becomes a list. Raises BadRequest.

    headers: with a key for each header line, repeated names included
    """
    collected = {name.lower(): value for name, value in headers.items()}
    return collected if len(collected) == len(headers) else _joined_headers(headers)


def _joined_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Joins repeated headers with commas (RFC 9110, 5.3), equal values once. Raises BadRequest."""
    values: dict[str, list[str]] = {}
    for name, value in headers.items():
        found = values.setdefault(name.lower(), [])
        if value and value not in found:
            found.append(value)
    for name, found in values.items():
        if len(found) > 1 and name.startswith(_OWN_PREFIX):
            raise BadRequest(f"Header '{name}' is given {len(found)} times with different values; give it once.")
    return {name: ",".join(found[:1] if name.startswith(_SINGLE_HEADERS) else found) for name, found in values.items()}


def authenticate(headers: Mapping[str, str], snapshot: Snapshot) -> Caller:
    """Returns the caller that an API key belongs to. Raises Unauthenticated.

    Of several keys the first that is known counts, Authorization before the others: clients may send a login of the
    provider besides.
    """
    has_key = False
    for secret in _secrets(headers):
        has_key = True
        # Header bytes that are not UTF-8 arrive as lone surrogates.
        caller = snapshot.callers.get(hashlib.sha256(secret.encode(errors="surrogateescape")).digest())
        if caller is not None:
            return caller
    if snapshot.anonymous_caller is not None:
        return snapshot.anonymous_caller
    if not has_key:
        raise Unauthenticated("Missing API key; send it as 'Authorization: Bearer ...'.", code="missing_api_key")
    raise Unauthenticated("Invalid API key.")


def _secrets(headers: Mapping[str, str]) -> Iterator[str]:
    """Yields what may be a key; the parts of a repeated header after the whole, as a key may contain a comma."""
    authorization = headers.get("authorization", "")
    if authorization and (token := _bearer_token(authorization)):
        yield token
    for name in _KEY_HEADERS:
        if secret := headers.get(name):
            yield secret
    if "," in authorization:
        yield from filter(None, map(_bearer_token, authorization.split(",")[:_KEYS_MAX]))
    for name in _KEY_HEADERS:
        if "," in headers.get(name, ""):
            yield from filter(None, headers[name].split(",")[:_KEYS_MAX])


def _bearer_token(authorization: str) -> str:
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def parse_hints(headers: Mapping[str, str], snapshot: Snapshot) -> HeaderHints:
    """Returns the hints in the headers. Raises BadRequest."""
    session, source = _session_header(headers, snapshot.session_headers)
    return HeaderHints(
        session=session,
        session_source=source,
        parent=_first_value(headers, snapshot.parent_headers),
        root=_first_value(headers, snapshot.root_headers),
        sub_agent=_first_value(headers, snapshot.agent_headers),
        caps_text=headers.get(_CAPS_HEADER),
        is_repeat=headers.get(_RETRY_HEADER, "0") != "0",
        user=_first_value(headers, snapshot.user_headers),
        task_type=headers.get(_TASK_HEADER),
        role=headers.get(_ROLE_HEADER),
        deadline_ms=_parse_deadline_ms(headers[_DEADLINE_HEADER]) if _DEADLINE_HEADER in headers else None,
        defer_seconds=_parse_defer_seconds(headers[_DEFER_HEADER]) if _DEFER_HEADER in headers else None,
        route=safe_session_id(headers[_ROUTE_HEADER]) if _ROUTE_HEADER in headers else None,
        headers=headers,
    )


def _parse_deadline_ms(value: str) -> float:
    """Returns milliseconds. Raises BadRequest."""
    if not value.isascii() or not value.isdecimal() or len(value) > 10 or int(value) == 0:
        raise BadRequest(f"'{_DEADLINE_HEADER}' must be a positive whole number of milliseconds.")
    return float(value)


def _parse_defer_seconds(value: str) -> float:
    """Returns seconds. Raises BadRequest.

    Accepts `4h`, `30m`, `90s`, a number of seconds, or `no` for 0; at most two days.
    """
    text = value.strip().lower()
    unit = _SECONDS_BY_UNIT.get(text[-1:], 0)
    number = text[:-1] if unit else text
    if text == "no":
        return 0.0
    if number.isascii() and number.isdecimal() and len(number) <= 6 and int(number) * (unit or 1) <= _DEFER_SECONDS_MAX:
        return float(int(number) * (unit or 1))
    raise BadRequest(f"'{_DEFER_HEADER}' must be a duration like 4h, 30m or 90s, or no; two days at most.")


def _first_value(headers: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """Returns the first of these headers with a value."""
    for name in names:
        if name in headers:
            value = safe_session_id(headers[name])[:_SESSION_CHARS_MAX]
            if value:
                return value
    return None


def _session_header(headers: Mapping[str, str], names: tuple[str, ...]) -> tuple[str | None, str]:
    for name in names:
        value = headers.get(name)
        if value:
            return safe_session_id(_trace_id(value) if name == "traceparent" else value), name
        if "*" in name:
            match = next((header for header in headers if fnmatchcase(header, name) and headers[header]), None)
            if match is not None:
                return safe_session_id(headers[match]), match
    return None, ""


def _trace_id(traceparent: str) -> str:
    """Returns the trace id alone: every request has its own span id."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 else traceparent
