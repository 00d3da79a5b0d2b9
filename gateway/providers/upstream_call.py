"""Shared by all providers: upstream call, headers, counts. Pure."""

from collections.abc import Mapping
from typing import Any

from ..values.base import Value
from ..values.catalog import Deployment

# Caller headers forwarded to any provider; all others are dropped (cookies, our own, hop-by-hop, keys).
FORWARDED_HEADERS = frozenset(
    {
        "user-agent", "traceparent", "tracestate", "x-stainless-arch", "x-stainless-async", "x-stainless-helper-method",
        "x-stainless-lang", "x-stainless-os", "x-stainless-package-version", "x-stainless-poll-helper",
        "x-stainless-raw-response", "x-stainless-read-timeout", "x-stainless-retry-count", "x-stainless-runtime",
        "x-stainless-runtime-version", "x-stainless-timeout",
    }
)  # fmt: skip
# A quarter of what Node.js reads of all headers of an answer (16 KiB).
_RETURNED_CHARS_MAX = 4096
# Headers of any provider that are returned, because clients read them.
_RETURNED_HEADERS = frozenset(
    {"content-type", "retry-after", "retry-after-ms", "x-request-id", "request-id", "x-should-retry"}
)


class UpstreamCall(Value, frozen=True, kw_only=True):
    """One HTTP call to a provider.

    upstream_dialect: dialect of the body, "passthrough" for pass-through
    headers: with the provider's key
    body: chunks, sent in order
    dropped_fields: what of a translated request this deployment is not sent
    """

    deployment: Deployment
    upstream_dialect: str
    url: str
    headers: Mapping[str, str]
    body: tuple[bytes | memoryview, ...]
    method: str = "POST"
    dropped_fields: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without headers, body and URL: they hold the key, the prompt, and maybe a password."""
        return f"UpstreamCall(deployment={self.deployment.name!r}, method={self.method!r})"


def forwarded_headers(headers: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    """The caller's headers (names in lower case) that are forwarded."""
    return {name: value for name, value in headers.items() if name in names}


def returned_headers(headers: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """The provider's headers that are returned to the caller; names in lower case.

    Not those with control characters, which may not be sent on, or longer than a client may read.
    """
    lowered = ((name.lower(), value) for name, value in headers.items())
    return {
        name: value
        for name, value in lowered
        if (name in _RETURNED_HEADERS or name.startswith(prefixes))
        and len(value) <= _RETURNED_CHARS_MAX
        and value.isprintable()
    }


def with_model(document: dict[str, Any], deployment: Deployment) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A translated chat body with its model; a reasoning effort is dropped for a model that does not reason."""
    adapted = {"model": deployment.model, **document}
    if deployment.takes_reasoning_effort or adapted.pop("reasoning_effort", "none") == "none":
        return adapted, ()
    return adapted, ("reasoning_effort (the model does not reason)",)


def with_output_limit(document: dict[str, Any], names: tuple[str, ...], tokens: int) -> dict[str, Any]:
    """The document with its output limit set to `tokens`.

    Under every name that it uses, else the first of `names`.
    """
    used = [name for name in names if document.get(name) is not None] or list(names[:1])
    return {**document, **dict.fromkeys(used, tokens)}
