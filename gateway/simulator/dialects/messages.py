"""Anthropic's messages: https://docs.claude.com/en/api/messages and /messages-streaming"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from ..directives import CHARS_PER_TOKEN, Asked, Call, Order, Reply, Tool
from ..issued_ids import TOOL_ID
from ..usage import Block, Usage, written
from . import messages_rules
from .base import Body, Dialect, Event, Told, named, pieces
from .errors import Complaint, anthropic_error
from .newest_turn import Turn, newest

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
# How a block of each kind begins in a stream.
_EMPTY: dict[str, Body] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


class Messages(Dialect):
    """POST /v1/messages."""

    name = "messages"
    streams = True
    anthropic = True

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """Unknown parameters, then wrong shapes."""
        yield from messages_rules.complaints(body, headers, self.mint)

    def read(self, body: Body) -> Asked:
        """The request in neutral words."""
        turn = newest(_backwards(body["messages"]))
        images, files = _attached(body["messages"])
        thinking = (body.get("thinking") or {}).get("type", "disabled")
        choice = body.get("tool_choice") or {}
        return Asked(
            text=turn.text,
            prompt=turn.prompt,
            results=turn.results,
            step=turn.step,
            images=images,
            files=files,
            tools=tuple(_tools(body)),
            choice=_choice(choice),
            parallel=not choice.get("disable_parallel_tool_use"),
            schema=_schema(body),
            thinks=thinking != "disabled",
            limit=body.get("max_tokens"),
        )

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """The prompt block by block, since the caller says what to cache."""
        blocks = list(_blocks(body))
        read, write = self.meter.prefixes(blocks)
        given = max(sum(len(block.content) for block in blocks) // CHARS_PER_TOKEN, read + write) + 1
        count, reasoning = written(reply, order.get("output_tokens"), asked.limit)
        return Usage(given=given, written=count, cached=read, cache_write=write, reasoning=reasoning)

    def answer_id(self, number: int) -> str:
        """As long as real ones."""
        return self.mint.id("msg_01", number, length=22)

    def request_id(self, number: int) -> str:
        """Not the message's: the call's."""
        return self.mint.id("req_011", number, length=21)

    def whole(self, told: Told) -> Body:
        """A message."""
        message = {**self._opened(told), "content": self._content(told)}
        message |= {"stop_reason": _STOP_REASONS.get(told.reply.finish, told.reply.finish), "stop_sequence": None}
        if told.usage is not None:
            message["usage"] = _worded(told.usage, told.body)
        return message

    def events(self, told: Told) -> Iterator[Event]:
        """message_start, each block's start, deltas and stop, then how it ended."""
        message = {**self._opened(told), "content": [], "stop_reason": None, "stop_sequence": None}
        if told.usage is not None:
            # The first event counts the input, and the one token that has been written.
            message["usage"] = {**_worded(told.usage, told.body), "output_tokens": 1}
        yield named({"type": "message_start", "message": message}), False
        yield named({"type": "ping"}), False
        for index, block in enumerate(self._content(told)):
            yield from _block_events(index, block)
        ending: Body = {"stop_reason": _STOP_REASONS.get(told.reply.finish, told.reply.finish), "stop_sequence": None}
        delta: Body = {"type": "message_delta", "delta": ending}
        if told.usage is not None:
            names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
            usage = _worded(told.usage, told.body)
            delta["usage"] = {name: usage[name] for name in names}
        yield named(delta), False
        yield named({"type": "message_stop"}), False

    def error(self, complaint: Complaint, number: int) -> Body:
        """With the id of the call."""
        return anthropic_error(complaint, self.request_id(number))

    def broken(self, told: Told, sent: int) -> bytes:
        """An event of type error."""
        overloaded = Complaint(status=529, message="Overloaded")
        return named(anthropic_error(overloaded, self.request_id(told.number)))

    def garbage(self) -> bytes:
        """An event that is none."""
        return b"event: content_block_delta\n" + super().garbage()

    def headers(self, number: int) -> dict[str, str]:
        """What Anthropic adds to each answer."""
        return {"request-id": self.request_id(number), **_HEADERS}

    def _opened(self, told: Told) -> Body:
        return {
            "id": self.answer_id(told.number),
            "type": "message",
            "role": "assistant",
            "model": told.body["model"],
        }

    def _content(self, told: Told) -> list[Body]:
        """The blocks: thinking, text, tool uses."""
        reply, thinking = told.reply, (told.body.get("thinking") or {})
        content: list[Body] = []
        if reply.thinking and thinking.get("type", "disabled") != "disabled":
            shown = "" if thinking.get("display") == "omitted" else reply.thinking
            content.append({"type": "thinking", "thinking": shown, "signature": self.mint.sign(shown)})
        if reply.text or not reply.calls:
            content.append({"type": "text", "text": reply.text})
        content += [self._tool_use(told.number, index, call) for index, call in enumerate(reply.calls)]
        return content

    def _tool_use(self, number: int, index: int, call: Call) -> Body:
        id = call.id if TOOL_ID.fullmatch(call.id) else self.mint.id("toolu_01", number, index, length=22)
        return {"type": "tool_use", "id": id, "name": call.name, "input": _object(call.arguments)}


class CountTokens(Messages):
    """POST /v1/messages/count_tokens."""

    streams = False

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """As for a message, but for the limit of its answer."""
        yield from messages_rules.complaints(body, headers, self.mint, counting=True)

    def whole(self, told: Told) -> Body:
        """The count that a message would be charged for."""
        return {"input_tokens": sum(len(block.content) for block in _blocks(told.body)) // CHARS_PER_TOKEN + 1}


# https://docs.claude.com/en/api/rate-limits#response-headers
_HEADERS = {
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


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {"text": arguments}


def _block_events(index: int, block: Body) -> Iterator[Event]:
    """One block: empty, then in pieces."""
    kind = block["type"]
    empty = _EMPTY[kind]
    yield named({"type": "content_block_start", "index": index, "content_block": {**block, **empty}}), False
    if kind == "tool_use":
        # Like the real one, an empty piece first.
        steps = [("input_json_delta", "partial_json", piece) for piece in _json_pieces(block["input"])]
    else:
        steps = [(f"{kind}_delta", kind, piece) for piece in pieces(block[kind], CHARS_PER_TOKEN)]
    if kind == "thinking":
        steps.append(("signature_delta", "signature", block["signature"]))
    for name, key, value in steps:
        yield named({"type": "content_block_delta", "index": index, "delta": {"type": name, key: value}}), True
    yield named({"type": "content_block_stop", "index": index}), False


def _json_pieces(value: Any) -> list[str]:
    text = json.dumps(value)
    return ["", *pieces(text, max(1, -(-len(text) // 3)))] if value else [""]


def _worded(usage: Usage, body: Body) -> Body:
    """Cache tokens stand beside the input, not within it; `cache_write` is split by the lifetimes that were asked for."""
    hour = usage.cache_write if b'"ttl":"1h"' in orjson.dumps(body) else 0
    return {
        "input_tokens": usage.given - usage.cached - usage.cache_write,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write - hour,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": usage.written,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "service_tier": "standard",
    }


def _backwards(messages: Sequence[Body]) -> Iterator[Turn]:
    for message in reversed(messages):
        if message["role"] == "assistant":
            yield Turn("model", [])
        elif message["role"] == "user":
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            texts = [part["text"] for part in parts if part["type"] == "text"]
            if texts:
                yield Turn("user", texts)
            for part in reversed(parts):
                if part["type"] == "tool_result":
                    yield Turn("tool", _result_texts(part.get("content")))


def _result_texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if part.get("type") == "text"]


def _attached(messages: Sequence[Body]) -> tuple[int, int]:
    kinds = [part.get("type") for message in messages for part in _parts(message.get("content"))]
    return kinds.count("image"), kinds.count("document")


def _parts(content: Any) -> Iterator[Body]:
    """The blocks, and those inside tool results."""
    for part in content if isinstance(content, list) else ():
        yield part
        if part.get("type") == "tool_result":
            yield from _parts(part.get("content"))


def _tools(body: Body) -> Iterator[Tool]:
    """Tools with a schema; those that Anthropic runs or defines itself are not called here."""
    for tool in body.get("tools") or ():
        if "input_schema" in tool:
            yield Tool(name=tool["name"], schema=tool["input_schema"])


def _choice(choice: Mapping[str, Any]) -> str:
    kind = choice.get("type", "auto")
    return f"tool:{choice['name']}" if kind == "tool" else {"any": "required"}.get(kind, kind)


def _schema(body: Body) -> Any:
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format")
    return wanted.get("schema") if isinstance(wanted, dict) else None


def _blocks(body: Body) -> Iterator[Block]:
    """The prompt in the order in which Anthropic caches it: tools, system, messages."""
    content: list[Any] = [*(body.get("tools") or ()), *_listed(body.get("system"))]
    for message in body["messages"]:
        content.append(message["role"])
        content += _listed(message["content"])
    automatic = body.get("cache_control") is not None
    for place, part in enumerate(content):
        marked = isinstance(part, dict) and part.get("cache_control") is not None
        plain = {name: value for name, value in part.items() if name != "cache_control"} if marked else part
        yield Block(orjson.dumps(plain), marked or (automatic and place == len(content) - 1))


def _listed(content: Any) -> list[Any]:
    """Text as the block that it is shorthand for."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
