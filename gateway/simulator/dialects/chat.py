"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from ..directives import CHARS_PER_TOKEN, Asked, Order, Reply, Tool, ordered
from ..usage import Usage, size
from . import chat_rules
from .base import Body, Dialect, Event, Told, data, pieces
from .errors import Complaint
from .newest_turn import Turn, newest

_THINKS_NOT = ("none", "minimal")


class Chat(Dialect):
    """POST /v1/chat/completions."""

    name = "chat"
    streams = True
    parameters = chat_rules.PARAMETERS

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """Unknown parameters, then wrong shapes."""
        yield from super().complaints(body, headers)
        yield from chat_rules.complaints(body)

    def read(self, body: Body) -> Asked:
        """The request in neutral words; what the answer will not depend on is not read."""
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if ordered(body.get("sim")):
            return Asked(limit=limit)
        turn = newest(_backwards(body["messages"]))
        images, files = _attached(body["messages"])
        return Asked(
            text=turn.text,
            prompt=turn.prompt,
            results=turn.results,
            step=turn.step,
            images=images,
            files=files,
            tools=tuple(_tools(body)),
            choice=_choice(body.get("tool_choice")),
            parallel=body.get("parallel_tool_calls") is not False,
            schema=_schema(body.get("response_format")),
            limit=limit,
        )

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """Messages and tools by the length of their JSON."""
        messages = body["messages"]
        texts = [
            len(orjson.dumps(message.get("content"))) + len(orjson.dumps(message.get("tool_calls")))
            for message in messages
        ]
        given = sum(texts) // CHARS_PER_TOKEN + 4 * len(messages) + size(body.get("tools"))
        reasoning = 0 if (body.get("reasoning_effort") or "none") in _THINKS_NOT else _REASONING_TOKENS
        count = int(order.get("output_tokens") or size(self._message(0, reply)) + 1 + reasoning)
        count = min(count, asked.limit) if asked.limit else count
        cached = self.meter.cached(messages[:2], given)
        return Usage(given=given, written=count, cached=cached, reasoning=min(reasoning, count))

    def answer_id(self, number: int) -> str:
        """Numbered, as short as can be."""
        return f"chatcmpl-sim{number}"

    def whole(self, told: Told) -> Body:
        """A chat.completion."""
        choice = {"index": 0, "message": self._message(told.number, told.reply), "finish_reason": told.reply.finish}
        document = {**self._head(told), "object": "chat.completion", "choices": [choice]}
        if told.usage is not None:
            document["usage"] = _worded(told.usage)
        return document

    def events(self, told: Told) -> Iterator[Event]:
        """Chunks of a token each, then the finish, then the usage if it was asked for."""
        head = {**self._head(told), "object": "chat.completion.chunk"}
        asks_usage = told.usage is not None and (told.body.get("stream_options") or {}).get("include_usage")
        for delta in _deltas(self._message(told.number, told.reply)):
            chunk: dict[str, Any] = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            if asks_usage:
                chunk["usage"] = None
            yield data(chunk), True
        yield data({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": told.reply.finish}]}), False
        if asks_usage and told.usage is not None:
            yield data({**head, "choices": [], "usage": _worded(told.usage)}), False
        yield b"data: [DONE]\n\n", False

    def _head(self, told: Told) -> Body:
        return {"id": self.answer_id(told.number), "created": told.created, "model": told.body["model"]}

    def _message(self, number: int, reply: Reply) -> Body:
        if reply.message is not None:
            return reply.message
        message: Body = {"role": "assistant", "content": reply.text or (None if reply.calls else "")}
        if reply.calls:
            message["tool_calls"] = [
                {
                    "id": call.id or self.mint.id("call_", number, index),
                    **_kind(call.name, call.arguments, call.custom),
                }
                for index, call in enumerate(reply.calls)
            ]
        return message


# What a model that was told to reason claims to have spent on it, in chat completions, which do not show it.
_REASONING_TOKENS = 64


def _kind(name: str, arguments: str, custom: bool) -> Body:
    if custom:
        return {"type": "custom", "custom": {"name": name, "input": arguments}}
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _backwards(messages: Sequence[Body]) -> Iterator[Turn]:
    for message in reversed(messages):
        role = message["role"]
        if role in ("user", "tool", "assistant"):
            yield Turn("model" if role == "assistant" else role, _texts(message))


def _texts(message: Body) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _attached(messages: Sequence[Body]) -> tuple[int, int]:
    kinds = [
        part.get("type")
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    ]
    return kinds.count("image_url"), kinds.count("file") + kinds.count("input_audio")


def _tools(body: Body) -> Iterator[Tool]:
    for tool in body.get("tools") or ():
        if tool.get("type") == "custom":
            yield Tool(name=tool["custom"]["name"], custom=True)
        elif "function" in tool:
            yield Tool(name=tool["function"]["name"], schema=tool["function"].get("parameters") or {})


def _choice(choice: Any) -> str:
    if isinstance(choice, dict):
        named = choice.get("function") or choice.get("custom")
        return f"tool:{named['name']}" if named else str((choice.get("allowed_tools") or {}).get("mode") or "auto")
    return choice or "auto"


def _schema(wanted: Any) -> Any:
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {}
    return wanted["json_schema"].get("schema") or {} if wanted.get("type") == "json_schema" else None


def _deltas(message: Body) -> Iterator[Body]:
    """The message in pieces of about a token, as providers send them."""
    yield {"role": "assistant", "content": ""}
    content = message.get("content")
    for piece in pieces(content if isinstance(content, str) else "", CHARS_PER_TOKEN):
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls") or []):
        kind = "custom" if call.get("type") == "custom" else "function"
        function, wording = call.get(kind) or {}, "input" if kind == "custom" else "arguments"
        arguments = function.get(wording)
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
        first = {"index": index, "id": call.get("id") or f"call_{index}", "type": kind}
        yield {"tool_calls": [{**first, kind: {"name": function.get("name"), wording: ""}}]}
        yield {"tool_calls": [{"index": index, kind: {wording: arguments}}]}


def _worded(usage: Usage) -> Body:
    return {
        "prompt_tokens": usage.given,
        "completion_tokens": usage.written,
        "total_tokens": usage.given + usage.written,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
