"""Everybody else (Bedrock, Vertex, Gemini, Azure, Cohere, Mistral, ...), by litellm's names, through its lazy door.

The body is chat completions with litellm's additions; edge/litellm_adapter.py makes the call and answers in OpenAI's
shapes, so that usage and failures read like OpenAI's.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.catalog import Deployment
from ..values.errors import NotTranslatable
from . import openai_compatible
from .upstream_call import UpstreamCall

SUPPORTED_DIALECTS = ("chat", "embeddings")
# What of a body may reach litellm, whose own parameters (base URLs, keys, callbacks, canned answers) share its namespace.
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
# Labels that no answer depends on.
_IGNORED_FIELDS = frozenset(
    {"model", "metadata", "store", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"}
)
OPTIONAL_DIALECTS: frozenset[str] = frozenset()
returned_headers = openai_compatible.returned_headers
usage_of = openai_compatible.usage_of
failure_of = openai_compatible.failure_of
with_output_limit = openai_compatible.with_output_limit


def unsupported_content(document: Mapping[str, Any], speech: str) -> NotTranslatable | None:
    """What of a caller's body may not reach litellm, None if all may: a field that it does not take from callers, or
    something that it would fetch itself, from wherever the caller says."""
    for name in document:
        if name not in ALLOWED_FIELDS[speech] and name not in _IGNORED_FIELDS and document[name] is not None:
            return NotTranslatable(name, "deployments behind litellm do not take it")
    messages = document.get("messages")
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if not _is_inline(part):
                return NotTranslatable(f"messages.{place}.content", "behind litellm media must be inline, as data URLs")
    return None


def _is_inline(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    kind, inner = part.get("type"), part.get(str(part.get("type")))
    if kind == "image_url":
        url = inner.get("url") if isinstance(inner, dict) else inner
        return isinstance(url, str) and url.startswith("data:")
    if kind == "file":
        data = inner.get("file_data") if isinstance(inner, dict) else None
        return isinstance(data, str) and data.startswith("data:")
    return kind in ("text", "input_audio", "refusal", "thinking", "redacted_thinking")


def build_call(
    speech: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """The call for one attempt. Keys and regions lie in the deployment and reach litellm with the call."""
    return UpstreamCall(deployment=deployment, upstream_dialect=speech, url="", headers={}, body=body)


def build_passthrough_call(
    method: str, path: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """Never called: no other path leads through litellm."""
    raise AssertionError("litellm serves chat and embeddings only")


def encode_body(document: dict[str, Any], speech: str, deployment: Deployment) -> bytes:
    """The body of a carried request."""
    fitted = {"model": deployment.model, **document}
    if not deployment.takes_reasoning_effort:
        fitted.pop("reasoning_effort", None)
    return orjson.dumps(fitted)
