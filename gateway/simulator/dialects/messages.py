"""Anthropic's messages.

https://docs.claude.com/en/api/messages and https://docs.claude.com/en/api/messages-streaming
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from ..directives import CHARS_PER_TOKEN, Directive, OfferedTool, SimulatedReply, SimulatedRequest, SimulatedToolCall
from ..issued_ids import TOOL_ID_PATTERN
from ..priced_extras import PricedExtras
from ..usage import PromptBlock, SimulatedUsage, output_token_counts
from . import messages_rules
from .base import AnswerContent, Body, PacedEvent, SimulatedDialect, sse_named, text_chunks
from .errors import ApiError, anthropic_error_body
from .newest_turn import HistoryTurn, newest_turn

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
# Fields with which a block of each type starts in a stream.
_EMPTY_BLOCK_FIELDS: dict[str, Body] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


class Messages(SimulatedDialect):
    """POST /v1/messages."""

    name = "messages"
    supports_streaming = True
    is_anthropic = True

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """Unknown parameters, then wrong shapes."""
        yield from messages_rules.validation_errors(body, headers, self.ids)

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The request in dialect-neutral form."""
        turn = newest_turn(_turns_newest_first(body["messages"]))
        images, files = _attachment_counts(body["messages"])
        thinking = (body.get("thinking") or {}).get("type", "disabled")
        choice = body.get("tool_choice") or {}
        return SimulatedRequest(
            text=turn.text,
            prompt=turn.prompt,
            tool_results=turn.tool_results,
            step=turn.step,
            image_count=images,
            file_count=files,
            tools=tuple(_offered_tools(body)),
            tool_choice=_tool_choice(choice),
            parallel_tool_calls=not choice.get("disable_parallel_tool_use"),
            output_schema=_output_schema(body),
            wants_thinking=thinking != "disabled",
            max_output_tokens=body.get("max_tokens"),
        )

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """The prompt block by block, since the caller marks what to cache."""
        blocks = list(_cacheable_blocks(body))
        read, write = self.prompt_cache.anthropic_cache_tokens(blocks)
        input_tokens = max(sum(len(block.content) for block in blocks) // CHARS_PER_TOKEN, read + write) + 1
        count, reasoning = output_token_counts(reply, directive.get("output_tokens"), request.max_output_tokens)
        return SimulatedUsage(
            input_tokens=input_tokens,
            output_tokens=count,
            cached_tokens=read,
            cache_write_tokens=write,
            reasoning_tokens=reasoning,
        )

    def response_id(self, number: int) -> str:
        """As long as real ones."""
        return self.ids.id("msg_01", number, length=22)

    def request_id(self, number: int) -> str:
        """The id of the request, which differs from the message's."""
        return self.ids.id("req_011", number, length=21)

    def document(self, answer: AnswerContent) -> Body:
        """A message."""
        message = {**self._initial_message(answer), "content": self._content(answer)}
        message |= {
            "stop_reason": _stop_reason(answer),
            "stop_sequence": None,
        }
        if answer.usage is not None:
            message["usage"] = _usage_body(answer.usage, answer.body) | _extra_usage(answer.extras, answer.usage)
        return message

    def events(self, answer: AnswerContent) -> Iterator[PacedEvent]:
        """message_start, each block's start, deltas and stop, then the ending."""
        message = {**self._initial_message(answer), "content": [], "stop_reason": None, "stop_sequence": None}
        if answer.usage is not None:
            # The first event reports the input and one output token.
            message["usage"] = {**_usage_body(answer.usage, answer.body), "output_tokens": 1}
        yield sse_named({"type": "message_start", "message": message}), False
        yield sse_named({"type": "ping"}), False
        for index, block in enumerate(self._content(answer)):
            yield from _block_events(index, block)
        ending: Body = {
            "stop_reason": _stop_reason(answer),
            "stop_sequence": None,
        }
        delta: Body = {"type": "message_delta", "delta": ending}
        if answer.usage is not None:
            names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
            usage = _usage_body(answer.usage, answer.body)
            delta["usage"] = {name: usage[name] for name in names} | _extra_usage(answer.extras, answer.usage)
        yield sse_named(delta), False
        yield sse_named({"type": "message_stop"}), False

    def error_body(self, error: ApiError, number: int) -> Body:
        """With the request's id."""
        return anthropic_error_body(error, self.request_id(number))

    def error_event(self, answer: AnswerContent, sent: int) -> bytes:
        """An event of type error."""
        overloaded = ApiError(status=529, message="Overloaded")
        return sse_named(anthropic_error_body(overloaded, self.request_id(answer.sequence_number)))

    def malformed_event(self) -> bytes:
        """An invalid event."""
        return b"event: content_block_delta\n" + super().malformed_event()

    def response_headers(self, number: int) -> dict[str, str]:
        """Anthropic's headers of each answer."""
        return {"request-id": self.request_id(number), **_RATE_LIMIT_HEADERS}

    def _initial_message(self, answer: AnswerContent) -> Body:
        return {
            "id": self.response_id(answer.sequence_number),
            "type": "message",
            "role": "assistant",
            "model": answer.body["model"],
        }

    def _content(self, answer: AnswerContent) -> list[Body]:
        """The blocks: thinking, text, tool uses."""
        if answer.body.get("max_tokens") == 0:
            # The prompt cache is filled, nothing is generated.
            return []
        reply, thinking = answer.reply, (answer.body.get("thinking") or {})
        content: list[Body] = []
        if reply.thinking and thinking.get("type", "disabled") != "disabled":
            visible = "" if thinking.get("display") == "omitted" else reply.thinking
            content.append({"type": "thinking", "thinking": visible, "signature": self.ids.sign(visible)})
        if reply.text or not reply.tool_calls:
            content.append({"type": "text", "text": reply.text})
        content += [self._tool_use(answer.sequence_number, index, call) for index, call in enumerate(reply.tool_calls)]
        return content

    def _tool_use(self, number: int, index: int, call: SimulatedToolCall) -> Body:
        id = call.id if TOOL_ID_PATTERN.fullmatch(call.id) else self.ids.id("toolu_01", number, index, length=22)
        return {"type": "tool_use", "id": id, "name": call.name, "input": _parsed_arguments(call.arguments)}


class CountTokens(Messages):
    """POST /v1/messages/count_tokens."""

    supports_streaming = False

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """As for a message, but without an output limit."""
        yield from messages_rules.validation_errors(body, headers, self.ids, counting=True)

    def document(self, answer: AnswerContent) -> Body:
        """The input tokens that a message would be charged for."""
        return {
            "input_tokens": sum(len(block.content) for block in _cacheable_blocks(answer.body)) // CHARS_PER_TOKEN + 1
        }


# https://docs.claude.com/en/api/rate-limits#response-headers
_RATE_LIMIT_HEADERS = {
    "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
    **{
        f"anthropic-ratelimit-{kind}-{what}": value
        for kind, limit, left in (
            ("requests", "4000", "3999"),
            ("tokens", "2000000", "1999000"),
            ("input-tokens", "1600000", "1599000"),
            ("output-tokens", "400000", "399000"),
        )
        for what, value in (("limit", limit), ("remaining", left), ("reset", "2026-01-01T00:00:00Z"))
    },
}


def _parsed_arguments(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {"text": arguments}


def _block_events(index: int, block: Body) -> Iterator[PacedEvent]:
    """One block: empty, then in chunks."""
    kind = block["type"]
    empty = _EMPTY_BLOCK_FIELDS[kind]
    yield sse_named({"type": "content_block_start", "index": index, "content_block": {**block, **empty}}), False
    if kind == "tool_use":
        # As from the real API, an empty chunk first.
        deltas = [("input_json_delta", "partial_json", chunk) for chunk in _json_pieces(block["input"])]
    else:
        deltas = [(f"{kind}_delta", kind, chunk) for chunk in text_chunks(block[kind], CHARS_PER_TOKEN)]
    if kind == "thinking":
        deltas.append(("signature_delta", "signature", block["signature"]))
    for name, key, value in deltas:
        yield sse_named({"type": "content_block_delta", "index": index, "delta": {"type": name, key: value}}), True
    yield sse_named({"type": "content_block_stop", "index": index}), False


def _json_pieces(value: Any) -> list[str]:
    text = json.dumps(value)
    return ["", *text_chunks(text, max(1, -(-len(text) // 3)))] if value else [""]


def _stop_reason(answer: AnswerContent) -> str:
    if answer.body.get("max_tokens") == 0:
        return "max_tokens"
    return _STOP_REASONS.get(answer.reply.finish_reason, answer.reply.finish_reason)


def _usage_body(usage: SimulatedUsage, body: Body) -> Body:
    """Cache tokens beside the input tokens, writes split by cache lifetime."""
    long_cache = usage.cache_write_tokens if b'"ttl":"1h"' in orjson.dumps(body) else 0
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - long_cache,
            "ephemeral_1h_input_tokens": long_cache,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "service_tier": "standard",
    }


def _extra_usage(extras: PricedExtras, usage: SimulatedUsage) -> Body:
    """Usage beside tokens: web searches, and `iterations` where a compaction came first.

    `input_tokens` and `output_tokens` of the answer are those of its last iteration.
    """
    fields: Body = {}
    if extras.searches:
        fields["server_tool_use"] = {"web_search_requests": extras.searches, "web_fetch_requests": 0}
    if extras.compaction is not None:
        summarized, summary = extras.compaction
        calls = (("compaction", summarized, summary), ("message", usage.input_tokens, usage.output_tokens))
        fields["iterations"] = [
            {
                "type": kind,
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            }
            for kind, input_tokens, output_tokens in calls
        ]
    return fields


def _turns_newest_first(messages: Sequence[Body]) -> Iterator[HistoryTurn]:
    for message in reversed(messages):
        if message["role"] == "assistant":
            yield HistoryTurn("model", [])
        elif message["role"] == "user":
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            texts = [part["text"] for part in parts if part["type"] == "text"]
            if texts:
                yield HistoryTurn("user", texts)
            for part in reversed(parts):
                if part["type"] == "tool_result":
                    yield HistoryTurn("tool", _result_texts(part.get("content")))


def _result_texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if part.get("type") == "text"]


def _attachment_counts(messages: Sequence[Body]) -> tuple[int, int]:
    kinds = [part.get("type") for message in messages for part in _nested_blocks(message.get("content"))]
    return kinds.count("image"), kinds.count("document")


def _nested_blocks(content: Any) -> Iterator[Body]:
    """The blocks, and those inside tool results."""
    for part in content if isinstance(content, list) else ():
        yield part
        if part.get("type") == "tool_result":
            yield from _nested_blocks(part.get("content"))


def _offered_tools(body: Body) -> Iterator[OfferedTool]:
    """Tools with a schema; those that Anthropic runs or defines are not called."""
    for tool in body.get("tools") or ():
        if "input_schema" in tool:
            yield OfferedTool(name=tool["name"], schema=tool["input_schema"])


def _tool_choice(choice: Mapping[str, Any]) -> str:
    kind = choice.get("type", "auto")
    return f"tool:{choice['name']}" if kind == "tool" else {"any": "required"}.get(kind, kind)


def _output_schema(body: Body) -> Any:
    output_format = (body.get("output_config") or {}).get("format") or body.get("output_format")
    return output_format.get("schema") if isinstance(output_format, dict) else None


def _cacheable_blocks(body: Body) -> Iterator[PromptBlock]:
    """The prompt in Anthropic's caching order: tools, system, messages."""
    content: list[Any] = [*(body.get("tools") or ()), *_as_blocks(body.get("system"))]
    for message in body["messages"]:
        content.append(message["role"])
        content += _as_blocks(message["content"])
    automatic = body.get("cache_control") is not None
    for index, part in enumerate(content):
        marked = isinstance(part, dict) and part.get("cache_control") is not None
        unmarked = {name: value for name, value in part.items() if name != "cache_control"} if marked else part
        yield PromptBlock(orjson.dumps(unmarked), marked or (automatic and index == len(content) - 1))


def _as_blocks(content: Any) -> list[Any]:
    """Text as the block that it abbreviates."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
