"""OpenAI and everything that speaks its dialects: vLLM, Ollama, Groq, Together, ...

Request -> call, usage -> Usage, failure -> what it means.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.catalog import Deployment
from ..values.usage import Usage
from . import upstream_call as calls
from .upstream_call import ProviderFailure, UpstreamCall, detail_count, error_object, token_count

SUPPORTED_DIALECTS = ("chat", "responses", "embeddings", "completions")
# What may be missing although the provider speaks OpenAI's dialect: it is tried, and its 404 is remembered.
OPTIONAL_DIALECTS = frozenset({"responses"})
_PATHS = {
    "chat": "/chat/completions", "responses": "/responses", "embeddings": "/embeddings", "completions": "/completions",
}  # fmt: skip
# openai-organization and -project stay with us: who is billed goes with the key, which is ours.
_FORWARDED_HEADERS = calls.FORWARDED_HEADERS | {"openai-beta", "http-referer", "x-title"}
_RETURNED_HEADER_PREFIXES = ("openai-", "x-ratelimit-")
# Refusals about the account's money: retrying them is useless (platform.openai.com error codes, 2026).
_BILLING_ERROR_CODES = frozenset({"insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"})
# Hosts whose newer models take `max_completion_tokens` only; other servers of the field may know `max_tokens` only.
_OPENAI_HOSTS = ("api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")


def build_call(
    speech: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """The call for one attempt; `headers` are the caller's, names in lower case."""
    return UpstreamCall(
        deployment=deployment,
        upstream_dialect=speech,
        url=deployment.base_url + _PATHS[speech],
        headers=_request_headers(deployment, headers, "application/json"),
        body=body,
    )


def build_passthrough_call(
    method: str, path: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """A call to any other path below the base URL, with the caller's own type of content."""
    return UpstreamCall(
        deployment=deployment,
        upstream_dialect="passage",
        url=deployment.base_url + path,
        headers=_request_headers(deployment, headers, headers.get("content-type", "")),
        body=body,
        method=method,
    )


def with_output_limit(document: dict[str, Any], speech: str, deployment: Deployment, tokens: int) -> dict[str, Any]:
    """The request with its output limit (per choice) lowered to `tokens`."""
    if speech == "responses":
        names: tuple[str, ...] = ("max_output_tokens",)
    elif speech == "completions":
        names = ("max_tokens",)
    elif any(host in deployment.base_url for host in _OPENAI_HOSTS):
        names = ("max_completion_tokens", "max_tokens")
    else:
        names = ("max_tokens", "max_completion_tokens")
    return calls.with_output_limit(document, names, tokens)


def encode_body(document: dict[str, Any], speech: str, deployment: Deployment) -> bytes:
    """The body of a carried request, fitted to what this deployment takes."""
    fitted = {"model": deployment.model, **document}
    if not deployment.takes_reasoning_effort:
        fitted.pop("reasoning_effort", None)
    if "max_tokens" in fitted and any(host in deployment.base_url for host in _OPENAI_HOSTS):
        fitted["max_completion_tokens"] = fitted.pop("max_tokens")
    if not deployment.stream_usage:
        fitted.pop("stream_options", None)
    return orjson.dumps(fitted)


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers that travel back to the caller; names in lower case."""
    return calls.returned_headers(headers, _RETURNED_HEADER_PREFIXES)


def usage_of(usage: Any) -> Usage | None:
    """Normalise a `usage` object of chat, completions, embeddings or Responses; None where it is missing, malformed or
    all zero (then we estimate).

    OpenAI counts cached tokens within input and reasoning within output, as we do. xAI and Gemini's compatible API count
    reasoning beside output: what the total has more than both is reasoning.
    """
    if not isinstance(usage, dict):
        return None
    given = token_count(usage.get("prompt_tokens", usage.get("input_tokens")))
    total = token_count(usage.get("total_tokens"))
    written = token_count(usage.get("completion_tokens", usage.get("output_tokens")))
    if written is None and given is not None and total == given:
        written = 0
    if given is None or written is None or given + written == 0:
        return None
    if "input_tokens" in usage and "prompt_tokens" not in usage:
        cached = detail_count(usage, "input_tokens_details", "cached_tokens")
        stored = detail_count(usage, "input_tokens_details", "cache_write_tokens")
        reasoning = detail_count(usage, "output_tokens_details", "reasoning_tokens")
    else:
        cached = detail_count(usage, "prompt_tokens_details", "cached_tokens")
        cached = cached or token_count(usage.get("prompt_cache_hit_tokens")) or 0
        stored = detail_count(usage, "prompt_tokens_details", "cache_write_tokens")
        stored = stored or detail_count(usage, "prompt_tokens_details", "cache_creation_tokens")
        reasoning = detail_count(usage, "completion_tokens_details", "reasoning_tokens")
    written_for = usage.get("prompt_tokens_details")
    long = detail_count(written_for, "cache_creation_token_details", "ephemeral_1h_input_tokens") if written_for else 0
    beside = total - given - written if total is not None and total > given + written else 0
    if beside and beside >= reasoning:
        written, reasoning = written + beside, beside
    cached = min(cached, given)
    stored = min(stored, given - cached)
    return Usage(
        input=given,
        output=written,
        cached_input=cached,
        cache_write=stored,
        cache_write_long=min(long, stored),
        reasoning=min(reasoning, written),
    )


def failure_of(status: int, body: bytes) -> ProviderFailure:
    """What an error status of the provider means for this request."""
    error = error_object(body)
    money = any(isinstance(error.get(name), str) and error[name] in _BILLING_ERROR_CODES for name in ("code", "type"))
    return calls.failure_of_status(status, str(error.get("message") or ""), money=money)


def _request_headers(deployment: Deployment, headers: Mapping[str, str], content_type: str) -> dict[str, str]:
    forward = {**calls.forwarded_headers(headers, _FORWARDED_HEADERS), "Accept-Encoding": "identity"}
    if content_type:
        forward["Content-Type"] = content_type
    if deployment.secret is not None:
        forward["Authorization"] = f"Bearer {deployment.secret}"
    return forward
