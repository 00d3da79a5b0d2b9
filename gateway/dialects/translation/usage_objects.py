"""Translates usage objects. OpenAI includes cached tokens in the input count, Anthropic does not."""

from typing import Any


def chat_to_messages_usage(usage: Any) -> dict[str, int]:
    """Translate usage from chat completions to Messages."""
    usage = usage if isinstance(usage, dict) else {}
    details = _part(usage, "prompt_tokens_details")
    cached, written = _count(details, "cached_tokens"), _count(details, "cache_write_tokens")
    written = written or _count(details, "cache_creation_tokens")
    return {
        "input_tokens": max(0, _count(usage, "prompt_tokens") - cached - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": _count(usage, "completion_tokens"),
    }


def messages_to_chat_usage(usage: Any) -> dict[str, Any]:
    """Translate usage from Messages to chat completions."""
    usage = usage if isinstance(usage, dict) else {}
    cached, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    input_, output = _count(usage, "input_tokens") + cached + written, _count(usage, "output_tokens")
    reasoning = _count(_part(usage, "output_tokens_details"), "thinking_tokens")
    return {
        "prompt_tokens": input_,
        "completion_tokens": output,
        "total_tokens": input_ + output,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": min(reasoning, output)},
    }


def chat_to_responses_usage(usage: Any) -> dict[str, Any] | None:
    """Translate usage from chat completions to Responses; None without usage."""
    if not isinstance(usage, dict):
        return None
    input_, output = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached = _count(_part(usage, "prompt_tokens_details"), "cached_tokens")
    reasoning = _count(_part(usage, "completion_tokens_details"), "reasoning_tokens")
    return {
        "input_tokens": input_,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_ + output,
    }


def _part(usage: dict[str, Any], name: str) -> dict[str, Any]:
    part = usage.get(name)
    return part if isinstance(part, dict) else {}


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
