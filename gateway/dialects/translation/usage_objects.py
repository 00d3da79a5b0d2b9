"""Writes usage objects of one dialect from the usage that an answer of another dialect reports.

They are read as the ledger reads them (`providers`), so that a caller sees what is booked. OpenAI includes cached tokens
in the input count, Anthropic does not.
"""

from typing import Any

from ...providers import anthropic, openai_compatible
from ...values.usage import NO_USAGE, Usage, sum_of_counts

# Counts of `server_tool_use` by the unit that they count (docs.anthropic.com, Messages, 2026-08).
_ANTHROPIC_TOOLS = (("web_search", "web_search_requests"), ("web_fetch", "web_fetch_requests"))
# Anthropic's names of the service tiers that it has.
_ANTHROPIC_TIERS = ("priority", "batch")


def chat_to_messages_usage(answer: Any) -> dict[str, Any]:
    """The usage object of Messages for a chat answer, or for what was collected of a streamed one."""
    return _messages_usage(openai_compatible.usage_of(answer) or NO_USAGE)


def messages_to_chat_usage(answer: Any) -> dict[str, Any]:
    """The usage object of chat completions for a Messages answer, or for what was collected of a streamed one."""
    usage = anthropic.usage_of(answer) or NO_USAGE
    if usage.further_calls and not usage.output:
        # Another model answered.
        usage = sum_of_counts(call.usage for call in usage.further_calls)
    return _chat_usage(usage)


def chat_to_responses_usage(answer: Any) -> dict[str, Any] | None:
    """The usage object of Responses for a chat answer; None where it reports none."""
    usage = openai_compatible.usage_of(answer)
    if usage is None:
        return None
    return {
        "input_tokens": usage.input,
        "input_tokens_details": _input_details(usage),
        "output_tokens": usage.output,
        "output_tokens_details": _output_details(usage),
        "total_tokens": usage.input + usage.output,
    }


def usage_payload(upstream_dialect: str, usage: Usage) -> dict[str, Any]:
    """The chunk or event by which an upstream would report this usage at the end of a stream."""
    if upstream_dialect == "messages":
        return {"type": "message_delta", "usage": _messages_usage(usage)}
    return {"choices": [], "usage": _chat_usage(usage)}


def _messages_usage(usage: Usage) -> dict[str, Any]:
    written: dict[str, Any] = {
        "input_tokens": usage.input - usage.cached_input - usage.cache_write,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output,
    }
    if usage.cache_write_long:
        written["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write - usage.cache_write_long,
            "ephemeral_1h_input_tokens": usage.cache_write_long,
        }
    if usage.reasoning:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    calls = dict(usage.server_tools)
    if any(unit in calls for unit, _ in _ANTHROPIC_TOOLS):
        written["server_tool_use"] = {name: calls.get(unit, 0) for unit, name in _ANTHROPIC_TOOLS}
    if usage.service_tier in _ANTHROPIC_TIERS:
        written["service_tier"] = usage.service_tier
    return written


def _chat_usage(usage: Usage) -> dict[str, Any]:
    written: dict[str, Any] = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": _input_details(usage),
        "completion_tokens_details": _output_details(usage),
    }
    if usage.cache_write_long:
        lifetimes = {"ephemeral_1h_input_tokens": usage.cache_write_long}
        written["prompt_tokens_details"]["cache_creation_token_details"] = lifetimes
    if usage.server_tools:
        written["server_tool_use"] = {f"{unit}_requests": count for unit, count in usage.server_tools}
    return written


def _input_details(usage: Usage) -> dict[str, Any]:
    details = {"cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write}
    parts = {"audio_tokens": usage.input_audio, "image_tokens": usage.input_image}
    return details | {name: count for name, count in parts.items() if count}


def _output_details(usage: Usage) -> dict[str, Any]:
    parts = {"audio_tokens": usage.output_audio, "image_tokens": usage.output_image}
    return {"reasoning_tokens": usage.reasoning} | {name: count for name, count in parts.items() if count}
