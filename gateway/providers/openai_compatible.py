"""OpenAI and everything that speaks its chat completions: vLLM, Ollama, Groq, Together, ...

Request -> call, response -> usage, failure -> what it means.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.base import Value
from ..values.catalog import Deployment
from ..values.request import Request
from ..values.usage import Usage
from ..wire import chat
from ..wire.chat_stream import text_bytes

# Caller headers that the provider may want; everything else stays with us (cookies, our own, hop-by-hop, keys, and
# openai-organization and -project: who is billed goes with the key, which is ours).
_FORWARD_PREFIXES = ("x-stainless-",)
_FORWARD = frozenset(
    {"openai-beta", "user-agent", "traceparent", "tracestate", "idempotency-key", "http-referer", "x-title"}
)
# Provider headers that clients read.
_RETURN_PREFIXES = ("openai-", "x-ratelimit-")
_RETURN = frozenset({"content-type", "retry-after", "retry-after-ms", "x-request-id"})
# Refusals about the account's money: retrying them is useless (platform.openai.com error codes, 2026).
_MONEY_CODES = frozenset({"insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"})
# No model of the field reads or writes a hundred million tokens in one call; a larger count is nonsense, and estimated.
_TOKENS_MAX = 100_000_000
# Status codes that another try may cure.
_RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# Our key or account is wrong there, which is nothing the caller can mend: another deployment may do.
_OURS = frozenset({401, 402, 403})


class UpstreamCall(Value, frozen=True, kw_only=True):
    """One HTTP call to a provider. The pieces of `body` are sent one after the other; headers hold the provider's key."""

    deployment: Deployment
    url: str
    headers: Mapping[str, str]
    body: tuple[bytes | memoryview, ...]


class Failure(Value, frozen=True, kw_only=True):
    """What an error status means: try this deployment again, try another one, or hand it to the caller."""

    retry_same: bool
    try_other: bool
    code: str
    hide: bool


def call(request: Request, deployment: Deployment, forward: Mapping[str, str]) -> UpstreamCall:
    """The call for one attempt: the caller's own bytes with the deployment's model spliced in."""
    headers = {**forward, "Content-Type": "application/json", "Accept-Encoding": "identity"}
    if deployment.secret is not None:
        headers["Authorization"] = f"Bearer {deployment.secret}"
    return UpstreamCall(
        deployment=deployment,
        url=f"{deployment.base_url}/chat/completions",
        headers=headers,
        body=chat.spliced(request, deployment.model, ask_usage=deployment.stream_usage),
    )


def forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """The caller's headers (names in lower case) that travel on to the provider."""
    return {name: value for name, value in headers.items() if name in _FORWARD or name.startswith(_FORWARD_PREFIXES)}


def returned(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers that travel back to the caller; names in lower case."""
    lowered = ((name.lower(), value) for name, value in headers.items())
    return {name: value for name, value in lowered if name in _RETURN or name.startswith(_RETURN_PREFIXES)}


def usage_of(usage: Any) -> Usage | None:
    """Normalise the `usage` object; None where it is missing, malformed or all zero (then we estimate).

    OpenAI counts cached tokens within prompt_tokens and reasoning within completion_tokens, as we do.
    """
    if not isinstance(usage, Mapping):
        return None
    given, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if given is None or written is None or given + written == 0:
        return None
    cached = (
        _detail(usage, "prompt_tokens_details", "cached_tokens") or _count(usage.get("prompt_cache_hit_tokens")) or 0
    )
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens") or 0
    return Usage(input=given, output=written, cached_input=min(cached, given), reasoning=min(reasoning, written))


def answer_of(body: bytes) -> tuple[Usage | None, int] | None:
    """Usage and bytes of text of a whole answer; None if the body is no JSON object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    usage = usage_of(document.get("usage"))
    if usage is not None:
        return usage, 0
    choices = document.get("choices")
    messages = [one.get("message") for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    return None, sum(text_bytes(message) for message in messages if isinstance(message, dict))


def failure_of(status: int, body: bytes) -> Failure:
    """What an error status of the provider means for this request."""
    code = _error_code(body)
    money = code in _MONEY_CODES
    if status in _OURS or money:
        return Failure(retry_same=False, try_other=True, code="provider_account", hide=True)
    if status < 400:
        # A redirect is not followed: it would carry the key elsewhere.
        return Failure(retry_same=False, try_other=True, code="upstream_error", hide=True)
    if status in _RETRYABLE or status >= 500:
        code = "provider_rate_limited" if status == 429 else "upstream_error"
        return Failure(retry_same=True, try_other=True, code=code, hide=status != 429)
    # The provider understood the request and rejects it: so would the next one; its own words help the caller most.
    return Failure(retry_same=False, try_other=False, code="provider_rejected", hide=False)


def _error_code(body: bytes) -> str:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return ""
    named = [error.get("code"), error.get("type")]
    return next((name for name in named if isinstance(name, str) and name in _MONEY_CODES), "")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _TOKENS_MAX else None


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return _count(details.get(name)) if isinstance(details, Mapping) else None
