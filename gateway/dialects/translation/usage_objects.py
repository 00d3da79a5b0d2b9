"""Usage objects from one dialect's words to another's. OpenAI counts cached input within input, Anthropic beside it."""

from typing import Any


def chat_to_messages_usage(usage: Any) -> dict[str, int]:
    """Chat's usage in Anthropic's words."""
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
    """Anthropic's usage in chat's words."""
    usage = usage if isinstance(usage, dict) else {}
    cached, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    given, output = _count(usage, "input_tokens") + cached + written, _count(usage, "output_tokens")
    thought = _count(_part(usage, "output_tokens_details"), "thinking_tokens")
    return {
        "prompt_tokens": given,
        "completion_tokens": output,
        "total_tokens": given + output,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": min(thought, output)},
    }


def chat_to_responses_usage(usage: Any) -> dict[str, Any] | None:
    """Chat's usage in the words of Responses; None where there is none."""
    if not isinstance(usage, dict):
        return None
    given, output = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached = _count(_part(usage, "prompt_tokens_details"), "cached_tokens")
    reasoning = _count(_part(usage, "completion_tokens_details"), "reasoning_tokens")
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": given + output,
    }


def _part(usage: dict[str, Any], name: str) -> dict[str, Any]:
    part = usage.get(name)
    return part if isinstance(part, dict) else {}


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
