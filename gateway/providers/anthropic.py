"""Anthropic, and providers compatible with its Messages dialect. Pure.

Request -> call, usage -> Usage, error status -> failure.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.catalog import Deployment
from ..values.usage import Usage
from . import upstream_call as calls
from .failure import ProviderFailure, error_object, failure_of_status
from .upstream_call import UpstreamCall, detail_count, token_count

SUPPORTED_DIALECTS = ("messages",)
OPTIONAL_DIALECTS: frozenset[str] = frozenset()
_FORWARDED_HEADERS = calls.FORWARDED_HEADERS | {
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "x-app",
}
_RETURNED_HEADER_PREFIXES = ("anthropic-",)
# API version for callers of other dialects (docs.anthropic.com, API versions).
_API_VERSION = "2023-06-01"
# Thinking budgets for models without "adaptive" thinking: Anthropic's minimum, and the budget of each effort, tokens.
_THINKING_TOKENS_MIN = 1024
_THINKING_TOKENS_BY_EFFORT = {"low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 24576}
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k")


def build_call(
    dialect: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """The call of one attempt; `headers` are the caller's, names in lower case."""
    # SDKs that send the beta header also set the query parameter.
    path = "/messages?beta=true" if "anthropic-beta" in headers else "/messages"
    return _upstream_call(dialect, path, body, deployment, headers, "application/json")


def build_passthrough_call(
    method: str, path: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """A call to any path below /v1, with the caller's content type."""
    return _upstream_call("passthrough", path, body, deployment, headers, headers.get("content-type", ""), method)


def with_output_limit(document: dict[str, Any], dialect: str, deployment: Deployment, tokens: int) -> dict[str, Any]:
    """The request with its output limit set to `tokens`.

    The thinking budget is part of output and stays below that.
    """
    limited = calls.with_output_limit(document, ("max_tokens",), tokens)
    thinking = limited.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if isinstance(thinking, dict) and isinstance(budget, int) and budget >= tokens:
        if tokens > _THINKING_TOKENS_MIN:
            limited["thinking"] = {**thinking, "budget_tokens": max(_THINKING_TOKENS_MIN, tokens // 2)}
        else:
            del limited["thinking"]
    return limited


def encode_body(document: dict[str, Any], dialect: str, deployment: Deployment) -> bytes:
    """The body of a translated request, adapted to the deployment.

    Anthropic requires `max_tokens`, and its model generations differ in how thinking is requested.
    """
    adapted = {"model": deployment.model, "max_tokens": deployment.output_tokens_max, **document}
    if "thinking" in adapted and not deployment.takes_reasoning_effort:
        del adapted["thinking"]
    config = dict(adapted.pop("output_config", {}))
    if "thinking" in adapted and not deployment.adapts_thinking:
        budget = min(
            _THINKING_TOKENS_BY_EFFORT.get(str(config.pop("effort", "medium")), _THINKING_TOKENS_MIN),
            adapted["max_tokens"] - 1,
        )
        adapted["thinking"] = {"type": "enabled", "budget_tokens": budget}
        if budget < _THINKING_TOKENS_MIN:
            del adapted["thinking"]
    if not deployment.adapts_thinking:
        config.pop("effort", None)
    if config:
        adapted["output_config"] = config
    choice = adapted.get("tool_choice")
    if "thinking" in adapted and isinstance(choice, dict) and choice.get("type") in ("any", "tool"):
        # Anthropic allows no forced tool with thinking.
        del adapted["thinking"]
    if "thinking" in adapted:
        for name in _SAMPLING_FIELDS:
            adapted.pop(name, None)
    return orjson.dumps(adapted)


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers that are returned to the caller; names in lower case."""
    return calls.returned_headers(headers, _RETURNED_HEADER_PREFIXES)


def usage_of(usage: Any) -> Usage | None:
    """Normalize a `usage` object; None where it is missing or invalid.

    All zero counts as invalid, and usage is estimated then.
    Anthropic counts cache reads and writes in addition to `input_tokens`; thinking is part of output.
    """
    if not isinstance(usage, dict):
        return None
    uncached_input, output = token_count(usage.get("input_tokens")), token_count(usage.get("output_tokens"))
    cached_input, cache_write = (
        token_count(usage.get("cache_read_input_tokens")) or 0,
        token_count(usage.get("cache_creation_input_tokens")) or 0,
    )
    if uncached_input is None or output is None or uncached_input + cached_input + cache_write + output == 0:
        return None
    thinking = detail_count(usage, "output_tokens_details", "thinking_tokens")
    return Usage(
        input=uncached_input + cached_input + cache_write,
        output=output,
        cached_input=cached_input,
        cache_write=cache_write,
        cache_write_long=min(detail_count(usage, "cache_creation", "ephemeral_1h_input_tokens"), cache_write),
        reasoning=min(thinking, output),
    )


def failure_of(status: int, body: bytes) -> ProviderFailure:
    """What an error status means for this request.

    A spend limit is a 429 without retry-after, or a 400 for a workspace (docs.anthropic.com, errors, 2026).
    """
    error = error_object(body)
    message = str(error.get("message") or "")
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    lowered = message.lower()
    is_billing = (
        error.get("type") == "billing_error"
        or code == "enforced_spend_limit_reached"
        or (status == 400 and ("usage limits" in lowered or "credit balance is too low" in lowered))
    )
    return failure_of_status(status, error, is_billing=is_billing)


def _upstream_call(
    dialect: str,
    path: str,
    body: tuple[bytes | memoryview, ...],
    deployment: Deployment,
    headers: Mapping[str, str],
    content_type: str,
    method: str = "POST",
) -> UpstreamCall:
    base = deployment.base_url
    forwarded = {
        "anthropic-version": _API_VERSION,
        **calls.forwarded_headers(headers, _FORWARDED_HEADERS),
        "Accept-Encoding": "identity",
    }
    if content_type:
        forwarded["Content-Type"] = content_type
    if deployment.secret is not None:
        forwarded["x-api-key"] = deployment.secret
    url = f"{base}{path}" if base.endswith("/v1") else f"{base}/v1{path}"
    return UpstreamCall(
        deployment=deployment, upstream_dialect=dialect, url=url, headers=forwarded, body=body, method=method
    )
