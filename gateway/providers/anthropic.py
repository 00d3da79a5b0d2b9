"""Anthropic and what speaks its Messages dialect.

Request -> call, usage -> Usage, failure -> what it means.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.catalog import Deployment
from ..values.usage import Usage
from . import upstream_call as calls
from .upstream_call import ProviderFailure, UpstreamCall, detail_count, error_object, token_count

SUPPORTED_DIALECTS = ("messages",)
OPTIONAL_DIALECTS: frozenset[str] = frozenset()
_FORWARDED_HEADERS = calls.FORWARDED_HEADERS | {
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "x-app",
}
_RETURNED_HEADER_PREFIXES = ("anthropic-",)
# The version that callers of other dialects are served with (docs.anthropic.com, API versions).
_API_VERSION = "2023-06-01"
# Thinking for models that take a budget rather than "adaptive": Anthropic's least, and what each effort gets.
_THINKING_TOKENS_MIN = 1024
_THINKING_TOKENS_BY_EFFORT = {"low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 24576}
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k")


def build_call(
    speech: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """The call for one attempt; `headers` are the caller's, names in lower case."""
    # Beta features are asked for in a header, and by SDKs that use one in the query as well.
    path = "/messages?beta=true" if "anthropic-beta" in headers else "/messages"
    return _upstream_call(speech, path, body, deployment, headers, "application/json")


def build_passthrough_call(
    method: str, path: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """A call to any path below /v1, with the caller's own type of content."""
    return _upstream_call("passage", path, body, deployment, headers, headers.get("content-type", ""), method)


def with_output_limit(document: dict[str, Any], speech: str, deployment: Deployment, tokens: int) -> dict[str, Any]:
    """The request with its output limit lowered to `tokens`; thinking, which counts as output, has to stay below it."""
    fitted = calls.with_output_limit(document, ("max_tokens",), tokens)
    thinking = fitted.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if isinstance(thinking, dict) and isinstance(budget, int) and budget >= tokens:
        if tokens > _THINKING_TOKENS_MIN:
            fitted["thinking"] = {**thinking, "budget_tokens": max(_THINKING_TOKENS_MIN, tokens // 2)}
        else:
            del fitted["thinking"]
    return fitted


def encode_body(document: dict[str, Any], speech: str, deployment: Deployment) -> bytes:
    """The body of a carried request, fitted to what this deployment takes: Anthropic wants `max_tokens` always, and its
    generations differ in how they are told to think."""
    fitted = {"model": deployment.model, "max_tokens": deployment.output_tokens_max, **document}
    if "thinking" in fitted and not deployment.takes_reasoning_effort:
        del fitted["thinking"]
    config = dict(fitted.pop("output_config", {}))
    if "thinking" in fitted and not deployment.adapts_thinking:
        budget = min(
            _THINKING_TOKENS_BY_EFFORT.get(str(config.pop("effort", "medium")), _THINKING_TOKENS_MIN),
            fitted["max_tokens"] - 1,
        )
        fitted["thinking"] = {"type": "enabled", "budget_tokens": budget}
        if budget < _THINKING_TOKENS_MIN:
            del fitted["thinking"]
    if not deployment.adapts_thinking:
        config.pop("effort", None)
    if config:
        fitted["output_config"] = config
    choice = fitted.get("tool_choice")
    if "thinking" in fitted and isinstance(choice, dict) and choice.get("type") in ("any", "tool"):
        # Anthropic takes no forced tool while it thinks.
        del fitted["thinking"]
    if "thinking" in fitted:
        for name in _SAMPLING_FIELDS:
            fitted.pop(name, None)
    return orjson.dumps(fitted)


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers that travel back to the caller; names in lower case."""
    return calls.returned_headers(headers, _RETURNED_HEADER_PREFIXES)


def usage_of(usage: Any) -> Usage | None:
    """Normalise a `usage` object; None where it is missing, malformed or all zero (then we estimate).

    Anthropic counts what it reads from and writes to its cache beside `input_tokens`; thinking lies within output.
    """
    if not isinstance(usage, dict):
        return None
    plain, written = token_count(usage.get("input_tokens")), token_count(usage.get("output_tokens"))
    cached, stored = (
        token_count(usage.get("cache_read_input_tokens")) or 0,
        token_count(usage.get("cache_creation_input_tokens")) or 0,
    )
    if plain is None or written is None or plain + cached + stored + written == 0:
        return None
    thought = detail_count(usage, "output_tokens_details", "thinking_tokens")
    return Usage(
        input=plain + cached + stored,
        output=written,
        cached_input=cached,
        cache_write=stored,
        cache_write_long=min(detail_count(usage, "cache_creation", "ephemeral_1h_input_tokens"), stored),
        reasoning=min(thought, written),
    )


def failure_of(status: int, body: bytes) -> ProviderFailure:
    """What an error status of the provider means for this request.

    Spend limits come as a 429 without retry-after, or for a workspace as a 400 (docs.anthropic.com, errors, 2026).
    """
    error = error_object(body)
    message = str(error.get("message") or "")
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    lowered = message.lower()
    money = (
        error.get("type") == "billing_error"
        or code == "enforced_spend_limit_reached"
        or (status == 400 and ("usage limits" in lowered or "credit balance is too low" in lowered))
    )
    return calls.failure_of_status(status, message, money=money)


def _upstream_call(
    speech: str,
    path: str,
    body: tuple[bytes | memoryview, ...],
    deployment: Deployment,
    headers: Mapping[str, str],
    content_type: str,
    method: str = "POST",
) -> UpstreamCall:
    base = deployment.base_url
    forward = {
        "anthropic-version": _API_VERSION,
        **calls.forwarded_headers(headers, _FORWARDED_HEADERS),
        "Accept-Encoding": "identity",
    }
    if content_type:
        forward["Content-Type"] = content_type
    if deployment.secret is not None:
        forward["x-api-key"] = deployment.secret
    url = f"{base}{path}" if base.endswith("/v1") else f"{base}/v1{path}"
    return UpstreamCall(
        deployment=deployment, upstream_dialect=speech, url=url, headers=forward, body=body, method=method
    )
