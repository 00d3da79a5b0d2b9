"""All other providers (Bedrock, Vertex, Gemini, ...), through litellm. Pure.

The body is chat completions with litellm's extensions; `http/litellm_adapter.py` makes the call and returns OpenAI's
shapes, so usage and failures are read as OpenAI's.
"""

from collections.abc import Mapping
from typing import Any

from ..values.catalog import Deployment
from ..values.errors import NotTranslatable
from . import openai_compatible
from . import upstream_call as calls
from .upstream_call import UpstreamCall

SUPPORTED_DIALECTS = ("chat", "embeddings")
# Body fields that may reach litellm, whose own parameters (base URLs, keys, callbacks, mock responses) share the namespace.
ALLOWED_FIELDS = {
    "chat": frozenset(
        {
            "audio", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages",
            "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty", "reasoning_effort", "response_format",
            "seed", "service_tier", "stop", "stream", "stream_options", "temperature", "thinking", "tool_choice", "tools",
            "top_k", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
        }
    ),
    "embeddings": frozenset({"dimensions", "encoding_format", "input", "user"}),
}  # fmt: skip
# Labels that do not affect the answer.
_IGNORED_FIELDS = frozenset(
    {"model", "metadata", "store", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"}
)
OPTIONAL_DIALECTS: frozenset[str] = frozenset()
returned_headers = openai_compatible.returned_headers
usage_of = openai_compatible.usage_of
billed_extras_of = openai_compatible.billed_extras_of
failure_of = openai_compatible.failure_of
with_output_limit = openai_compatible.with_output_limit


def unsupported_content(document: Mapping[str, Any], dialect: str) -> NotTranslatable | None:
    """The part of a body that may not reach litellm, None if all may.

    That is a field that is not allowed, or media that litellm would fetch from a URL of the caller's choice.
    """
    for name in document:
        if name not in ALLOWED_FIELDS[dialect] and name not in _IGNORED_FIELDS and document[name] is not None:
            return NotTranslatable(name, "not supported by deployments behind litellm")
    messages = document.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if not _is_inline(part):
                return NotTranslatable(
                    f"messages.{index}.content", "deployments behind litellm require inline media (data URLs)"
                )
    return None


def _is_inline(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    kind, content = part.get("type"), part.get(str(part.get("type")))
    if kind == "image_url":
        url = content.get("url") if isinstance(content, dict) else content
        return isinstance(url, str) and url.startswith("data:")
    if kind == "file":
        data = content.get("file_data") if isinstance(content, dict) else None
        return isinstance(data, str) and data.startswith("data:")
    return kind in ("text", "input_audio", "refusal", "thinking", "redacted_thinking")


def build_call(
    dialect: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """The call of one attempt; keys and regions are part of the deployment."""
    return UpstreamCall(deployment=deployment, upstream_dialect=dialect, url="", headers={}, body=body)


def build_passthrough_call(
    method: str, path: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """Never called: litellm has no pass-through."""
    raise AssertionError("litellm has no pass-through")


def adapted_body(
    document: dict[str, Any], dialect: str, deployment: Deployment
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body of a translated request, and the names of what was dropped."""
    return calls.with_model(document, deployment)
