"""Minimal clients of the three dialects: build requests, parse answers."""

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL_NAME = "look_up"


@dataclass
class ReceivedAnswer:
    """An answer, independent of the dialect.

    tool_calls: (id, name, arguments) of each call
    history_messages: what the caller appends to its history
    """

    text: str = ""
    thinking: str = ""
    tool_calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    finish_reason: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    history_messages: list[Any] = field(default_factory=list)


def sse_payloads(body: bytes) -> list[dict[str, Any]]:
    payloads = []
    for block in body.decode().split("\n\n"):
        data = "".join(line[5:].strip() for line in block.split("\n") if line.startswith("data:"))
        if data.startswith("{"):
            payloads.append(json.loads(data))
    return payloads


class DialectClient(Protocol):
    """What a test needs of a client; each has the path of its dialect."""

    path: str

    def request_body(
        self, model: str, turns: list[Any], *, stream: bool, tools: bool = False, thinking: bool = False
    ) -> dict[str, Any]: ...
    def user_message(self, text: str, image: str | None = None) -> dict[str, Any]: ...
    def tool_result_messages(self, results: list[tuple[str, str]]) -> list[Any]: ...
    def parse_answer(self, document: dict[str, Any]) -> ReceivedAnswer: ...
    def parse_stream(self, body: bytes) -> ReceivedAnswer: ...


class ChatClient:
    """OpenAI chat completions."""

    path = "/v1/chat/completions"

    def request_body(
        self, model: str, turns: list[Any], *, stream: bool, tools: bool = False, thinking: bool = False
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "messages": turns, "max_completion_tokens": 4000}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if tools:
            function = {"name": TOOL_NAME, "description": "looks up", "parameters": SCHEMA}
            body["tools"] = [{"type": "function", "function": function}]
        if thinking:
            body["reasoning_effort"] = "low"
        return body

    def user_message(self, text: str, image: str | None = None) -> dict[str, Any]:
        if image is None:
            return {"role": "user", "content": text}
        image_part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
        return {"role": "user", "content": [{"type": "text", "text": text}, image_part]}

    def tool_result_messages(self, results: list[tuple[str, str]]) -> list[Any]:
        return [{"role": "tool", "tool_call_id": call, "content": text} for call, text in results]

    def parse_answer(self, document: dict[str, Any]) -> ReceivedAnswer:
        choice, usage = document["choices"][0], document["usage"]
        message = choice["message"]
        calls = [
            (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls") or ()
        ]
        kept = {name: message[name] for name in ("role", "content", "tool_calls", "thinking_blocks") if name in message}
        return ReceivedAnswer(
            text=message.get("content") or "",
            thinking=message.get("reasoning_content") or "",
            tool_calls=calls,
            finish_reason=choice["finish_reason"],
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            history_messages=[kept],
        )

    def parse_stream(self, body: bytes) -> ReceivedAnswer:
        assert body.endswith(b"data: [DONE]\n\n"), body[-200:]
        message: dict[str, Any] = {"role": "assistant", "content": None}
        calls: dict[int, dict[str, Any]] = {}
        usage, finish = None, ""
        for chunk in sse_payloads(body):
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                delta = choice["delta"]
                finish = choice["finish_reason"] or finish
                for name in ("content", "reasoning_content"):
                    if delta.get(name):
                        message[name] = (message.get(name) or "") + delta[name]
                signed = [block for block in delta.get("thinking_blocks") or () if block.get("signature")]
                if signed:
                    message["thinking_blocks"] = [*message.get("thinking_blocks", []), *signed]
                for call in delta.get("tool_calls") or ():
                    merged = calls.setdefault(
                        call["index"], {"type": "function", "function": {"name": "", "arguments": ""}}
                    )
                    merged["id"] = call.get("id") or merged.get("id")
                    merged["function"]["name"] += call["function"].get("name") or ""
                    merged["function"]["arguments"] += call["function"].get("arguments") or ""
        if calls:
            message["tool_calls"] = [calls[index] for index in sorted(calls)]
        return self.parse_answer({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


class ResponsesClient:
    """OpenAI Responses."""

    path = "/v1/responses"

    def request_body(
        self, model: str, turns: list[Any], *, stream: bool, tools: bool = False, thinking: bool = False
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "input": turns, "max_output_tokens": 4000, "store": False}
        if stream:
            body["stream"] = True
        if tools:
            body["tools"] = [
                {"type": "function", "name": TOOL_NAME, "description": "looks up", "parameters": SCHEMA, "strict": True}
            ]
        if thinking:
            body |= {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}
        return body

    def user_message(self, text: str, image: str | None = None) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"type": "input_text", "text": text}]
        if image is not None:
            parts.append({"type": "input_image", "image_url": f"data:image/png;base64,{image}", "detail": "auto"})
        return {"role": "user", "content": parts}

    def tool_result_messages(self, results: list[tuple[str, str]]) -> list[Any]:
        return [{"type": "function_call_output", "call_id": call, "output": text} for call, text in results]

    def parse_answer(self, document: dict[str, Any]) -> ReceivedAnswer:
        assert document["object"] == "response" and document["status"] in ("completed", "incomplete"), document
        answer = ReceivedAnswer(finish_reason=document["status"], history_messages=document["output"])
        answer.input_tokens, answer.output_tokens = (
            document["usage"]["input_tokens"],
            document["usage"]["output_tokens"],
        )
        for item in document["output"]:
            if item["type"] == "message":
                answer.text += "".join(part.get("text", part.get("refusal")) for part in item["content"])
            elif item["type"] == "function_call":
                answer.tool_calls.append((item["call_id"], item["name"], json.loads(item["arguments"])))
            elif item["type"] == "reasoning":
                answer.thinking += "".join(part["text"] for part in item["summary"]) or "(encrypted)"
        return answer

    def parse_stream(self, body: bytes) -> ReceivedAnswer:
        events = sse_payloads(body)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[0]["type"] == "response.created", events[0]
        assert events[-1]["type"] in ("response.completed", "response.incomplete"), events[-1]
        text_kinds = ("response.output_text.delta", "response.refusal.delta")
        texts = "".join(event["delta"] for event in events if event["type"] in text_kinds)
        arguments = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
        answer = self.parse_answer(events[-1]["response"])
        assert texts == answer.text
        assert json.loads("".join(arguments) if len(answer.tool_calls) == 1 else "{}") == (
            answer.tool_calls[0][2] if len(answer.tool_calls) == 1 else {}
        )
        added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
        done = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
        assert added == sorted(done, key=added.index) == [item["id"] for item in answer.history_messages]
        return answer


class MessagesClient:
    """Anthropic Messages."""

    path = "/v1/messages"

    def request_body(
        self, model: str, turns: list[Any], *, stream: bool, tools: bool = False, thinking: bool = False
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "messages": turns, "max_tokens": 4000}
        if stream:
            body["stream"] = True
        if tools:
            body["tools"] = [{"name": TOOL_NAME, "description": "looks up", "input_schema": SCHEMA}]
        if thinking:
            body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        return body

    def user_message(self, text: str, image: str | None = None) -> dict[str, Any]:
        if image is None:
            return {"role": "user", "content": text}
        source = {"type": "base64", "media_type": "image/png", "data": image}
        return {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": text}]}

    def tool_result_messages(self, results: list[tuple[str, str]]) -> list[Any]:
        blocks = [{"type": "tool_result", "tool_use_id": call, "content": text} for call, text in results]
        return [{"role": "user", "content": blocks}]

    def parse_answer(self, document: dict[str, Any]) -> ReceivedAnswer:
        assert document["type"] == "message", document
        usage = document["usage"]
        answer = ReceivedAnswer(
            finish_reason=document["stop_reason"],
            history_messages=[{"role": "assistant", "content": document["content"]}],
        )
        answer.input_tokens = (
            usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
        )
        answer.output_tokens = usage["output_tokens"]
        for block in document["content"]:
            if block["type"] == "text":
                answer.text += block["text"]
            elif block["type"] == "tool_use":
                answer.tool_calls.append((block["id"], block["name"], block["input"]))
            elif block["type"] == "thinking":
                answer.thinking += block["thinking"]
        return answer

    def parse_stream(self, body: bytes) -> ReceivedAnswer:
        events = [event for event in sse_payloads(body) if event["type"] != "ping"]
        assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop"), events
        message = events[0]["message"]
        blocks: dict[int, dict[str, Any]] = {}
        partial: dict[int, str] = {}
        open_index = None
        for event in events:
            kind, index = event["type"], event.get("index", -1)
            if kind == "content_block_start":
                assert index == len(blocks), "blocks are numbered as they begin"
                assert open_index is None, "blocks do not interleave"
                blocks[index], open_index = dict(event["content_block"]), index
            elif kind == "content_block_stop":
                assert index == open_index
                open_index = None
            elif kind == "content_block_delta":
                delta = event["delta"]
                assert index == open_index
                if delta["type"] == "input_json_delta":
                    partial[index] = partial.get(index, "") + delta["partial_json"]
                else:
                    name = delta["type"].removesuffix("_delta")
                    blocks[index][name] = blocks[index].get(name, "") + delta[name]
            elif kind == "message_delta":
                message["stop_reason"] = event["delta"]["stop_reason"]
                message["usage"] |= {name: value for name, value in event["usage"].items() if value is not None}
        stopped = [event["index"] for event in events if event["type"] == "content_block_stop"]
        assert sorted(stopped) == sorted(blocks)
        for index, text in partial.items():
            blocks[index]["input"] = json.loads(text)
        return self.parse_answer({**message, "content": [blocks[index] for index in sorted(blocks)]})


CLIENTS: dict[str, DialectClient] = {"chat": ChatClient(), "responses": ResponsesClient(), "messages": MessagesClient()}
