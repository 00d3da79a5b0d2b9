"""Shared by all providers: upstream call, failure, headers. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.base import Value
from ..values.catalog import Deployment

# No model reads or writes a hundred million tokens in one call: a larger count is invalid, and usage is estimated.
_TOKENS_MAX = 100_000_000
# Caller headers forwarded to any provider; all others are dropped (cookies, our own, hop-by-hop, keys).
FORWARDED_HEADERS = frozenset(
    {
        "user-agent", "traceparent", "tracestate", "x-stainless-arch", "x-stainless-async", "x-stainless-helper-method",
        "x-stainless-lang", "x-stainless-os", "x-stainless-package-version", "x-stainless-poll-helper",
        "x-stainless-raw-response", "x-stainless-read-timeout", "x-stainless-retry-count", "x-stainless-runtime",
        "x-stainless-runtime-version", "x-stainless-timeout",
    }
)  # fmt: skip
# Headers of any provider that are returned, because clients read them.
_RETURNED_HEADERS = frozenset(
    {"content-type", "retry-after", "retry-after-ms", "x-request-id", "request-id", "x-should-retry"}
)
# Statuses that a retry may cure, and those that mean a problem with our key or account.
_RETRYABLE_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_ACCOUNT_STATUSES = frozenset({401, 402, 403})


class UpstreamCall(Value, frozen=True, kw_only=True):
    """One HTTP call to a provider.

    upstream_dialect: dialect of the body, "passthrough" for pass-through
    headers: with the provider's key
    body: chunks, sent in order
    """

    deployment: Deployment
    upstream_dialect: str
    url: str
    headers: Mapping[str, str]
    body: tuple[bytes | memoryview, ...]
    method: str = "POST"

    def __repr__(self) -> str:
        """Without headers, body and URL: they hold the key, the prompt, and maybe a password."""
        return f"UpstreamCall(deployment={self.deployment.name!r}, method={self.method!r})"


class ProviderFailure(Value, frozen=True, kw_only=True):
    """What an error status means for the next attempt and for the caller.

    retry_same: the same deployment may be tried again
    try_other: another deployment may be tried; with neither, the response goes to the caller
    code: error code, see docs/errors.md
    hides_message: the provider's message must not reach the caller
    message: the provider's message in plain text, "" for none
    """

    retry_same: bool
    try_other: bool
    code: str
    hides_message: bool
    message: str = ""


def forwarded_headers(headers: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    """The caller's headers (names in lower case) that are forwarded."""
    return {name: value for name, value in headers.items() if name in names}


def returned_headers(headers: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """The provider's headers that are returned to the caller; names in lower case."""
    lowered = ((name.lower(), value) for name, value in headers.items())
    return {name: value for name, value in lowered if name in _RETURNED_HEADERS or name.startswith(prefixes)}


def failure_of_status(status: int, message: str, *, is_billing: bool) -> ProviderFailure:
    """What an error status means; `is_billing`: our account may not spend more."""
    if status in _ACCOUNT_STATUSES or is_billing:
        return ProviderFailure(retry_same=False, try_other=True, code="provider_account", hides_message=True)
    if status < 400:
        # Redirects are not followed: they would send the key elsewhere.
        return ProviderFailure(retry_same=False, try_other=True, code="upstream_error", hides_message=True)
    if status in _RETRYABLE_STATUSES or status >= 500:
        code = "provider_rate_limited" if status == 429 else "upstream_error"
        return ProviderFailure(retry_same=True, try_other=True, code=code, hides_message=status != 429, message=message)
    # The request itself is rejected, as it would be elsewhere: the provider's message helps the caller most.
    return ProviderFailure(
        retry_same=False, try_other=False, code="provider_rejected", hides_message=False, message=message
    )


def error_object(body: bytes) -> dict[str, Any]:
    """The `error` object of an error body, {} where there is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}


def token_count(value: Any) -> int | None:
    """A valid count of tokens, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _TOKENS_MAX else None


def detail_count(usage: Any, group: str, name: str) -> int:
    """A count within a group of counts, 0 where it is missing."""
    details = usage.get(group) if isinstance(usage, dict) else None
    return (token_count(details.get(name)) or 0) if isinstance(details, dict) else 0


def with_output_limit(document: dict[str, Any], names: tuple[str, ...], tokens: int) -> dict[str, Any]:
    """The document with its output limit set to `tokens`.

    Under every name that it uses, else the first of `names`.
    """
    used = [name for name in names if document.get(name) is not None] or list(names[:1])
    return {**document, **dict.fromkeys(used, tokens)}
