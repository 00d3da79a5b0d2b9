"""OpenAI, and compatible providers: vLLM, Ollama, Groq, Together, ... Pure.

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

SUPPORTED_DIALECTS = ("chat", "responses", "embeddings", "completions")
# Compatible servers may lack these: they are tried once, and a 404 is remembered.
OPTIONAL_DIALECTS = frozenset({"responses"})
_PATHS = {
    "chat": "/chat/completions", "responses": "/responses", "embeddings": "/embeddings", "completions": "/completions",
}  # fmt: skip
# openai-organization and openai-project are dropped: billing follows the key, which is ours.
_FORWARDED_HEADERS = calls.FORWARDED_HEADERS | {"openai-beta", "http-referer", "x-title"}
_RETURNED_HEADER_PREFIXES = ("openai-", "x-ratelimit-")
# Billing errors of our account: retrying is useless (platform.openai.com error codes, 2026).
_BILLING_ERROR_CODES = frozenset({"insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"})
# Hosts whose newer models accept only `max_completion_tokens`; other servers may accept only `max_tokens`.
_OPENAI_HOSTS = ("api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")


def build_call(
    dialect: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """The call of one attempt; `headers` are the caller's, names in lower case."""
    return UpstreamCall(
        deployment=deployment,
        upstream_dialect=dialect,
        url=deployment.base_url + _PATHS[dialect],
        headers=_request_headers(deployment, headers, "application/json"),
        body=body,
    )


def build_passthrough_call(
    method: str, path: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """A call to any other path below the base URL, with the caller's content type."""
    return UpstreamCall(
        deployment=deployment,
        upstream_dialect="passthrough",
        url=deployment.base_url + path,
        headers=_request_headers(deployment, headers, headers.get("content-type", "")),
        body=body,
        method=method,
    )


def with_output_limit(document: dict[str, Any], dialect: str, deployment: Deployment, tokens: int) -> dict[str, Any]:
    """The request with its output limit (per choice) set to `tokens`."""
    if dialect == "responses":
        names: tuple[str, ...] = ("max_output_tokens",)
    elif dialect == "completions":
        names = ("max_tokens",)
    elif any(host in deployment.base_url for host in _OPENAI_HOSTS):
        names = ("max_completion_tokens", "max_tokens")
    else:
        names = ("max_tokens", "max_completion_tokens")
    return calls.with_output_limit(document, names, tokens)


def encode_body(document: dict[str, Any], dialect: str, deployment: Deployment) -> bytes:
    """The body of a translated request, adapted to the deployment."""
    adapted = {"model": deployment.model, **document}
    if not deployment.takes_reasoning_effort:
        adapted.pop("reasoning_effort", None)
    if "max_tokens" in adapted and any(host in deployment.base_url for host in _OPENAI_HOSTS):
        adapted["max_completion_tokens"] = adapted.pop("max_tokens")
    if not deployment.stream_usage:
        adapted.pop("stream_options", None)
    return orjson.dumps(adapted)


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers that are returned to the caller; names in lower case."""
    return calls.returned_headers(headers, _RETURNED_HEADER_PREFIXES)


def usage_of(usage: Any) -> Usage | None:
    """Normalize a `usage` object of chat, completions, embeddings or Responses.

    None where it is missing, malformed or all zero (then usage is estimated). OpenAI counts cached tokens as part of
    input and reasoning as part of output, as we do. xAI and Gemini's compatible API count reasoning separately: it is
    what the total exceeds input and output by.
    """
    if not isinstance(usage, dict):
        return None
    input_tokens = token_count(usage.get("prompt_tokens", usage.get("input_tokens")))
    total = token_count(usage.get("total_tokens"))
    output_tokens = token_count(usage.get("completion_tokens", usage.get("output_tokens")))
    if output_tokens is None and input_tokens is not None and total == input_tokens:
        output_tokens = 0
    if input_tokens is None or output_tokens is None or input_tokens + output_tokens == 0:
        return None
    if "input_tokens" in usage and "prompt_tokens" not in usage:
        cached_input = detail_count(usage, "input_tokens_details", "cached_tokens")
        cache_write = detail_count(usage, "input_tokens_details", "cache_write_tokens")
        reasoning = detail_count(usage, "output_tokens_details", "reasoning_tokens")
    else:
        cached_input = detail_count(usage, "prompt_tokens_details", "cached_tokens")
        cached_input = cached_input or token_count(usage.get("prompt_cache_hit_tokens")) or 0
        cache_write = detail_count(usage, "prompt_tokens_details", "cache_write_tokens")
        cache_write = cache_write or detail_count(usage, "prompt_tokens_details", "cache_creation_tokens")
        reasoning = detail_count(usage, "completion_tokens_details", "reasoning_tokens")
    input_details = usage.get("prompt_tokens_details")
    cache_write_long = (
        detail_count(input_details, "cache_creation_token_details", "ephemeral_1h_input_tokens") if input_details else 0
    )
    extra_reasoning = (
        total - input_tokens - output_tokens if total is not None and total > input_tokens + output_tokens else 0
    )
    if extra_reasoning and extra_reasoning >= reasoning:
        output_tokens, reasoning = output_tokens + extra_reasoning, extra_reasoning
    cached_input = min(cached_input, input_tokens)
    cache_write = min(cache_write, input_tokens - cached_input)
    return Usage(
        input=input_tokens,
        output=output_tokens,
        cached_input=cached_input,
        cache_write=cache_write,
        cache_write_long=min(cache_write_long, cache_write),
        reasoning=min(reasoning, output_tokens),
    )


def failure_of(status: int, body: bytes) -> ProviderFailure:
    """What an error status means for this request."""
    error = error_object(body)
    is_billing = any(
        isinstance(error.get(name), str) and error[name] in _BILLING_ERROR_CODES for name in ("code", "type")
    )
    return failure_of_status(status, error, is_billing=is_billing)


def _request_headers(deployment: Deployment, headers: Mapping[str, str], content_type: str) -> dict[str, str]:
    forwarded = {**calls.forwarded_headers(headers, _FORWARDED_HEADERS), "Accept-Encoding": "identity"}
    if content_type:
        forwarded["Content-Type"] = content_type
    if deployment.secret is not None:
        forwarded["Authorization"] = f"Bearer {deployment.secret}"
    return forwarded
