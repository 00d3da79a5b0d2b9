"""Builds requests and reads answers in three dialects; part of `session_links.py`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.simulator.agent_sessions import ChatMessage

PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One message of a history; `received` is the answer in its dialect, None for other messages."""

    message: ChatMessage
    received: Any = None

    @property
    def role(self) -> str:
        """Role of the message."""
        return str(self.message["role"])

    @property
    def text(self) -> str:
        """Text of the message."""
        return str(self.message.get("content") or "")


History = list[HistoryEntry]


def _chat_body(history: History, tools: Sequence[ChatMessage]) -> dict[str, Any]:
    messages = [entry.message if entry.received is None else entry.received for entry in history]
    return {"messages": messages, **({"tools": list(tools)} if tools else {})}


def _messages_body(history: History, tools: Sequence[ChatMessage]) -> dict[str, Any]:
    """Roles alternate: everything after an answer is one user message."""
    turns: list[dict[str, Any]] = []
    for entry in history:
        if entry.role == "system":
            continue
        role = "assistant" if entry.role == "assistant" else "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += _blocks(entry)
    system = "\n".join(entry.text for entry in history if entry.role == "system")
    tool_list = [{"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]} for tool in tools]
    body = {"messages": turns, "max_tokens": 4096}
    return body | ({"system": system} if system else {}) | ({"tools": tool_list} if tool_list else {})


def _blocks(entry: HistoryEntry) -> list[dict[str, Any]]:
    if entry.received is not None:
        return list(entry.received)
    if entry.role == "tool" and entry.message["tool_call_id"]:
        return [{"type": "tool_result", "tool_use_id": entry.message["tool_call_id"], "content": entry.text}]
    return [{"type": "text", "text": entry.text}]


def _responses_body(history: History, tools: Sequence[ChatMessage]) -> dict[str, Any]:
    """Every item in each request, since nothing is stored."""
    items: list[dict[str, Any]] = []
    for entry in history:
        if entry.received is not None:
            items += entry.received
        elif entry.role == "tool" and entry.message["tool_call_id"]:
            id = entry.message["tool_call_id"]
            items.append({"type": "function_call_output", "call_id": id, "output": entry.text})
        elif entry.role != "system":
            role = "assistant" if entry.role == "assistant" else "user"
            items.append({"type": "message", "role": role, "content": entry.text})
    system = "\n".join(entry.text for entry in history if entry.role == "system")
    tool_list = [{"type": "function", **tool["function"]} for tool in tools]
    body = {"input": items, "store": False}
    return body | ({"instructions": system} if system else {}) | ({"tools": tool_list} if tool_list else {})


def _parse_chat_answer(answer: bytes, stream: bool) -> Any:
    """The message, assembled from its deltas if it was streamed."""
    if not stream:
        return orjson.loads(answer)["choices"][0]["message"]
    text = ""
    calls: dict[int, dict[str, Any]] = {}
    for event in _events(answer):
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            for delta in choice["delta"].get("tool_calls") or ():
                call = calls.setdefault(delta["index"], {"type": "function", "function": {"name": "", "arguments": ""}})
                call["id"] = delta.get("id") or call.get("id")
                call["function"]["name"] += delta["function"].get("name") or ""
                call["function"]["arguments"] += delta["function"].get("arguments") or ""
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls.values())} if calls else {})}


def _parse_messages_answer(answer: bytes, stream: bool) -> Any:
    """The content blocks."""
    if not stream:
        return orjson.loads(answer)["content"]
    blocks: list[dict[str, Any]] = []
    written = ""
    for event in _events(answer):
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
            written = ""
        elif event["type"] == "content_block_delta":
            written += event["delta"].get("text") or event["delta"].get("partial_json") or ""
        elif event["type"] == "content_block_stop":
            tool = blocks[-1]["type"] == "tool_use"
            blocks[-1] |= {"input": orjson.loads(written or "{}")} if tool else {"text": written}
    return blocks


def _parse_responses_answer(answer: bytes, stream: bool) -> Any:
    """The output items."""
    if not stream:
        return orjson.loads(answer)["output"]
    return next(event["response"]["output"] for event in _events(answer) if event["type"] == "response.completed")


def _events(answer: bytes) -> Iterator[Any]:
    for line in answer.splitlines():
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            yield orjson.loads(line[6:])


BODY_BUILDERS: dict[str, Callable[[History, Sequence[ChatMessage]], dict[str, Any]]] = {
    "chat": _chat_body,
    "messages": _messages_body,
    "responses": _responses_body,
}
ANSWER_PARSERS: dict[str, Callable[[bytes, bool], Any]] = {
    "chat": _parse_chat_answer,
    "messages": _parse_messages_answer,
    "responses": _parse_responses_answer,
}
# The ids of the tool calls in an answer, in order.
CALL_ID_GETTERS: dict[str, Callable[[Any], list[str]]] = {
    "chat": lambda message: [str(call.get("id") or "") for call in message.get("tool_calls") or ()],
    "messages": lambda blocks: [block["id"] for block in blocks if block["type"] == "tool_use"],
    "responses": lambda items: [item["call_id"] for item in items if item["type"] == "function_call"],
}
