"""OpenAI, and compatible providers: vLLM, Ollama, Groq, Together, ... Pure.

Request -> call, answer -> Usage, error status -> failure.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from ..values.catalog import Deployment
from ..values.usage import FurtherCall, Usage
from . import upstream_call as calls
from .billed_extras import extras_beside_tokens
from .error_body import error_object
from .failure import ProviderFailure, failure_of_status
from .upstream_call import UpstreamCall
from .usage_spellings import read_usage, usage_objects_of

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
# The model of the image generation tool where the request names none (platform.openai.com, image generation, 2026-08).
_IMAGE_TOOL_MODEL = "gpt-image-1"
# Hosts whose newer models accept only `max_completion_tokens`; other servers may accept only `max_tokens`.
OPENAI_HOSTS = ("api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")


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
    elif any(host in deployment.base_url for host in OPENAI_HOSTS):
        names = ("max_completion_tokens", "max_tokens")
    else:
        names = ("max_tokens", "max_completion_tokens")
    return calls.with_output_limit(document, names, tokens)


def adapted_body(
    document: dict[str, Any], dialect: str, deployment: Deployment
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body of a translated request, adapted to the deployment, and the names of what was dropped."""
    adapted, dropped = calls.with_model(document, deployment)
    if "max_tokens" in adapted and any(host in deployment.base_url for host in OPENAI_HOSTS):
        adapted["max_completion_tokens"] = adapted.pop("max_tokens")
    if not deployment.stream_usage:
        adapted.pop("stream_options", None)
    return adapted, dropped


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers that are returned to the caller; names in lower case."""
    return calls.returned_headers(headers, _RETURNED_HEADER_PREFIXES)


def usage_of(answer: Any) -> Usage | None:
    """Normalized usage of a whole answer, or of what a stream's meter kept of one; None where it reports none.

    OpenAI counts cached tokens as part of input and reasoning as part of output, as we do.
    """
    for usage in usage_objects_of(answer) if isinstance(answer, dict) else ():
        counts = read_usage(usage)
        if counts is not None:
            extras = _extras_of(answer, usage)
            if counts.output and not counts.input and "reported_cost_nusd" not in extras:
                # No output comes of no input: a placeholder, unless the provider bills so (OpenRouter, free video).
                extras["exact"] = False
            if counts.output and not counts.output_image and _is_image_answer(answer):
                extras["output_image"] = counts.output - counts.output_audio
            return structs.replace(counts, **extras) if extras else counts
    return None


def billed_extras_of(answer: Any) -> dict[str, Any]:
    """Fields of Usage that an answer sets although it reports no token counts."""
    if not isinstance(answer, dict):
        return {}
    return _extras_of(answer, next(usage_objects_of(answer), {}))


def failure_of(status: int, body: bytes) -> ProviderFailure:
    """What an error status means for this request."""
    error = error_object(body)
    is_billing = any(
        isinstance(error.get(name), str) and error[name] in _BILLING_ERROR_CODES for name in ("code", "type")
    )
    return failure_of_status(status, error, is_billing=is_billing)


def _extras_of(answer: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    extras = extras_beside_tokens(answer, usage)
    drawn = _image_tool_call(answer) if "tool_usage" in answer else None
    if drawn is not None:
        # Its tokens are billed instead of the call.
        tools = extras.get("server_tools", ())
        extras["server_tools"] = tuple(tool for tool in tools if not tool[0].startswith("image_generation"))
        extras["further_calls"] = (drawn,)
    return extras


def _image_tool_call(answer: dict[str, Any]) -> FurtherCall | None:
    """The image model's part of a Responses answer, where it reports its tokens."""
    tool_usage = answer.get("tool_usage")
    usage = tool_usage.get("image_gen") if isinstance(tool_usage, dict) else None
    counts = read_usage(usage) if isinstance(usage, dict) else None
    if counts is None:
        return None
    tools = answer.get("tools")
    models = (
        tool.get("model")
        for tool in (tools if isinstance(tools, list) else ())
        if isinstance(tool, dict) and tool.get("type") == "image_generation"
    )
    model = next(models, None)
    if not counts.output_image:
        counts = structs.replace(counts, output_image=counts.output - counts.output_audio)
    return FurtherCall(
        model=model if isinstance(model, str) and model else _IMAGE_TOOL_MODEL, kind="image_generation", usage=counts
    )


def _is_image_answer(answer: dict[str, Any]) -> bool:
    """Whether the answer is that of the images API, whose output tokens are all of images."""
    data = answer.get("data")
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, dict) and ("b64_json" in first or "url" in first)


def _request_headers(deployment: Deployment, headers: Mapping[str, str], content_type: str) -> dict[str, str]:
    forwarded = {**calls.forwarded_headers(headers, _FORWARDED_HEADERS), "Accept-Encoding": "identity"}
    if content_type:
        forwarded["Content-Type"] = content_type
    if deployment.secret is not None:
        forwarded["Authorization"] = f"Bearer {deployment.secret}"
    return forwarded
