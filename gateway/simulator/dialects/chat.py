"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from ..directives import CHARS_PER_TOKEN, Directive, OfferedTool, SimulatedReply, SimulatedRequest, is_complete
from ..usage import SimulatedUsage, json_tokens
from . import chat_rules
from .base import AnswerContent, Body, PacedEvent, SimulatedDialect, sse_data, text_chunks
from .errors import ApiError
from .newest_turn import HistoryTurn, newest_turn

_EFFORTS_WITHOUT_THINKING = ("none", "minimal")


class Chat(SimulatedDialect):
    """POST /v1/chat/completions."""

    name = "chat"
    supports_streaming = True
    known_parameters = chat_rules.PARAMETERS

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """Unknown parameters, then wrong shapes."""
        yield from super().validation_errors(body, headers)
        yield from chat_rules.validation_errors(body)

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The request in dialect-neutral form.

        Only as much is read as the answer depends on.
        """
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if is_complete(body.get("sim")):
            return SimulatedRequest(max_output_tokens=limit)
        turn = newest_turn(_turns_newest_first(body["messages"]))
        images, files = _attachment_counts(body["messages"])
        return SimulatedRequest(
            text=turn.text,
            prompt=turn.prompt,
            tool_results=turn.tool_results,
            step=turn.step,
            image_count=images,
            file_count=files,
            tools=tuple(_offered_tools(body)),
            tool_choice=_tool_choice(body.get("tool_choice")),
            parallel_tool_calls=body.get("parallel_tool_calls") is not False,
            output_schema=_output_schema(body.get("response_format")),
            max_output_tokens=limit,
        )

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """Messages and tools by the length of their JSON."""
        messages = body["messages"]
        sizes = [
            len(orjson.dumps(message.get("content"))) + len(orjson.dumps(message.get("tool_calls")))
            for message in messages
        ]
        input_tokens = sum(sizes) // CHARS_PER_TOKEN + 4 * len(messages) + json_tokens(body.get("tools"))
        reasoning = 0 if (body.get("reasoning_effort") or "none") in _EFFORTS_WITHOUT_THINKING else _REASONING_TOKENS
        count = int(directive.get("output_tokens") or json_tokens(self._message(0, reply)) + 1 + reasoning)
        count = min(count, request.max_output_tokens) if request.max_output_tokens else count
        cached = self.prompt_cache.openai_cached_tokens(messages[:2], input_tokens)
        return SimulatedUsage(
            input_tokens=input_tokens, output_tokens=count, cached_tokens=cached, reasoning_tokens=min(reasoning, count)
        )

    def response_id(self, number: int) -> str:
        """Numbered and short."""
        return f"chatcmpl-sim{number}"

    def document(self, answer: AnswerContent) -> Body:
        """A chat.completion."""
        choice = {
            "index": 0,
            "message": self._message(answer.sequence_number, answer.reply),
            "finish_reason": answer.reply.finish_reason,
        }
        document = {**self._common_fields(answer), "object": "chat.completion", "choices": [choice]}
        if answer.usage is not None:
            document["usage"] = _usage_body(answer.usage)
        return document

    def events(self, answer: AnswerContent) -> Iterator[PacedEvent]:
        """Chunks of a token each, then the finish, then the usage if requested."""
        head = {**self._common_fields(answer), "object": "chat.completion.chunk"}
        asks_usage = answer.usage is not None and (answer.body.get("stream_options") or {}).get("include_usage")
        for delta in _deltas(self._message(answer.sequence_number, answer.reply)):
            chunk: dict[str, Any] = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            if asks_usage:
                chunk["usage"] = None
            yield sse_data(chunk), True
        yield (
            sse_data({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.reply.finish_reason}]}),
            False,
        )
        if asks_usage and answer.usage is not None:
            yield sse_data({**head, "choices": [], "usage": _usage_body(answer.usage)}), False
        yield b"data: [DONE]\n\n", False

    def _common_fields(self, answer: AnswerContent) -> Body:
        fields = {
            "id": self.response_id(answer.sequence_number),
            "created": answer.created_at,
            "model": answer.body["model"],
        }
        return fields | ({"service_tier": answer.extras.service_tier} if answer.extras.service_tier else {})

    def _message(self, number: int, reply: SimulatedReply) -> Body:
        if reply.message is not None:
            return reply.message
        message: Body = {"role": "assistant", "content": reply.text or (None if reply.tool_calls else "")}
        if reply.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id or self.ids.id("call_", number, index),
                    **_typed_call_fields(call.name, call.arguments, call.is_custom),
                }
                for index, call in enumerate(reply.tool_calls)
            ]
        return message


# Reasoning tokens that a model with reasoning effort reports; chat completions do not show the reasoning.
_REASONING_TOKENS = 64


def _typed_call_fields(name: str, arguments: str, custom: bool) -> Body:
    if custom:
        return {"type": "custom", "custom": {"name": name, "input": arguments}}
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _turns_newest_first(messages: Sequence[Body]) -> Iterator[HistoryTurn]:
    for message in reversed(messages):
        role = message["role"]
        if role in ("user", "tool", "assistant"):
            yield HistoryTurn("model" if role == "assistant" else role, _text_parts(message))


def _text_parts(message: Body) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _attachment_counts(messages: Sequence[Body]) -> tuple[int, int]:
    kinds = [
        part.get("type")
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    ]
    return kinds.count("image_url"), kinds.count("file") + kinds.count("input_audio")


def _offered_tools(body: Body) -> Iterator[OfferedTool]:
    for tool in body.get("tools") or ():
        if tool.get("type") == "custom":
            yield OfferedTool(name=tool["custom"]["name"], is_custom=True)
        elif "function" in tool:
            yield OfferedTool(name=tool["function"]["name"], schema=tool["function"].get("parameters") or {})


def _tool_choice(choice: Any) -> str:
    if isinstance(choice, dict):
        named = choice.get("function") or choice.get("custom")
        return f"tool:{named['name']}" if named else str((choice.get("allowed_tools") or {}).get("mode") or "auto")
    return choice or "auto"


def _output_schema(response_format: Any) -> Any:
    if not isinstance(response_format, dict):
        return None
    if response_format.get("type") == "json_object":
        return {}
    return response_format["json_schema"].get("schema") or {} if response_format.get("type") == "json_schema" else None


def _deltas(message: Body) -> Iterator[Body]:
    """The message in chunks of about a token, as providers send them."""
    yield {"role": "assistant", "content": ""}
    content = message.get("content")
    for chunk in text_chunks(content if isinstance(content, str) else "", CHARS_PER_TOKEN):
        yield {"content": chunk}
    for index, call in enumerate(message.get("tool_calls") or []):
        kind = "custom" if call.get("type") == "custom" else "function"
        function, field = call.get(kind) or {}, "input" if kind == "custom" else "arguments"
        arguments = function.get(field)
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
        first = {"index": index, "id": call.get("id") or f"call_{index}", "type": kind}
        yield {"tool_calls": [{**first, kind: {"name": function.get("name"), field: ""}}]}
        yield {"tool_calls": [{"index": index, kind: {field: arguments}}]}


def _usage_body(usage: SimulatedUsage) -> Body:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
