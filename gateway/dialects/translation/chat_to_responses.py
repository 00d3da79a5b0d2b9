"""Translates chat answers to Responses, whole or chunk by chunk."""

import base64
from typing import Any

import orjson

from ...providers.streamed_answer import collect_chunk
from ..responses import SEALED_REASONING_PREFIX
from .translated import TranslatedRequest
from .usage_objects import chat_to_responses_usage

# Request fields that a response echoes, with OpenAI's values where the caller set none.
_ECHOED_DEFAULTS: dict[str, Any] = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0,
    "tool_choice": "auto", "tools": [], "top_p": 1.0, "previous_response_id": None, "text": {"format": {"type": "text"}},
    "truncation": "disabled", "user": None, "store": True, "service_tier": "default",
}  # fmt: skip


class ChatToResponsesAnswer:
    """Translates one answer; it keeps all items, which the event that ends the stream repeats."""

    def __init__(self, translated: TranslatedRequest, answer_id: str, created: int) -> None:
        self._caller_document, self._caller_tools = translated.caller_document, translated.caller_tools
        self._answer_id, self._created_seconds = answer_id, created
        include = translated.caller_document.get("include")
        self._seals_reasoning = isinstance(include, list) and "reasoning.encrypted_content" in include
        self._items: list[dict[str, Any]] = []
        # The open text or reasoning item, and calls by their index in chat (they may interleave).
        self._open_item: dict[str, Any] | None = None
        self._call_items: dict[int, dict[str, Any]] = {}
        self._call_arguments: dict[int, list[str]] = {}
        self._open_text: list[str] = []
        self._signed_blocks: list[dict[str, Any]] = []
        self._answer: dict[str, Any] = {}
        self._finish_reason = ""
        self._sequence_number = 0
        self._started = False

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]:
        """Translate an unstreamed answer, as a stream of one chunk."""
        choices = document.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        message = choice.get("message") or {}
        calls = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls") or ())]
        delta = {**message, "tool_calls": calls}
        self.feed({"choices": [{"delta": delta, "finish_reason": choice.get("finish_reason")}]})
        self._answer = document
        response: dict[str, Any] = self.end()[-1]["response"]
        return response

    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """Translate one chunk to events."""
        out: list[dict[str, Any]] = []
        collect_chunk(self._answer, payload)
        self._begin(out)
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = choice.get("delta") or {}
            self._write_reasoning(delta, out)
            for name in ("content", "refusal"):
                if isinstance(delta.get(name), str) and delta[name]:
                    self._write_text(delta[name], out)
            for position, call in enumerate(delta.get("tool_calls") or ()):
                self._write_call(call, call.get("index", position), out)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return out

    def end(self) -> list[dict[str, Any]]:
        """Return the events that close the response."""
        out: list[dict[str, Any]] = []
        self._begin(out)
        self._close_item(out)
        for index in self._call_items:
            self._close_call(index, out)
        incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self._finish_reason)
        status = "incomplete" if incomplete else "completed"
        response = self._response(status)
        response["usage"] = chat_to_responses_usage(self._answer)
        response["incomplete_details"] = {"reason": incomplete} if incomplete else None
        self._add_event(out, f"response.{status}", response=response)
        return out

    def stored_answer(self) -> tuple[str, list[dict[str, Any]]]:
        """Return the answer's id and items, ("", []) unless the caller wants it stored."""
        return (f"resp_{self._answer_id}", self._items) if self._caller_document.get("store") is not False else ("", [])

    def _begin(self, out: list[dict[str, Any]]) -> None:
        if not self._started:
            self._started = True
            self._add_event(out, "response.created", response=self._response("in_progress"))
            self._add_event(out, "response.in_progress", response=self._response("in_progress"))

    def _response(self, status: str) -> dict[str, Any]:
        echoed = {
            name: self._caller_document.get(name) if self._caller_document.get(name) is not None else default
            for name, default in _ECHOED_DEFAULTS.items()
        }
        reasoning = self._caller_document.get("reasoning")
        return {
            "id": f"resp_{self._answer_id}",
            "object": "response",
            "created_at": self._created_seconds,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": str(self._caller_document.get("model") or ""),
            "output": [{**item} for item in self._items] if status != "in_progress" else [],
            "usage": None,
            **echoed,
            "reasoning": {"effort": None, "summary": None, **(reasoning if isinstance(reasoning, dict) else {})},
        }

    def _add_event(self, out: list[dict[str, Any]], kind: str, **fields: Any) -> None:
        out.append({"type": kind, "sequence_number": self._sequence_number, **fields})
        self._sequence_number += 1

    def _add_item(self, item: dict[str, Any], out: list[dict[str, Any]]) -> None:
        self._items.append(item)
        self._add_event(out, "response.output_item.added", output_index=len(self._items) - 1, item={**item})

    def _new_item_id(self, prefix: str) -> str:
        return f"{prefix}_{self._answer_id}_{len(self._items)}"

    def _item_position(self, item: dict[str, Any]) -> dict[str, Any]:
        index = next(index for index, other in enumerate(self._items) if other is item)
        return {"item_id": item["id"], "output_index": index}

    def _write_reasoning(self, delta: dict[str, Any], out: list[dict[str, Any]]) -> None:
        text = next(
            (delta[name] for name in ("reasoning_content", "reasoning") if isinstance(delta.get(name), str)), ""
        )
        blocks = delta.get("thinking_blocks")
        if isinstance(blocks, list):
            # Some providers repeat a block as it grows; only a signed one is complete.
            self._signed_blocks += [b for b in blocks if isinstance(b, dict) and (b.get("signature") or b.get("data"))]
        if not text and not (self._signed_blocks and self._open_item is None):
            return
        if self._open_item is None or self._open_item["type"] != "reasoning":
            self._close_item(out)
            self._open_item = {
                "id": self._new_item_id("rs"),
                "type": "reasoning",
                "summary": [],
                "status": "in_progress",
            }
            self._add_item(self._open_item, out)
            part = {"type": "summary_text", "text": ""}
            self._add_event(
                out,
                "response.reasoning_summary_part.added",
                **self._item_position(self._open_item),
                summary_index=0,
                part=part,
            )
        if text:
            self._open_text.append(text)
            position = self._item_position(self._open_item)
            self._add_event(out, "response.reasoning_summary_text.delta", **position, summary_index=0, delta=text)

    def _write_text(self, text: str, out: list[dict[str, Any]]) -> None:
        if self._open_item is None or self._open_item["type"] != "message":
            self._close_item(out)
            self._open_item = {
                "id": self._new_item_id("msg"), "type": "message", "role": "assistant", "content": [], "status": "in_progress",
            }  # fmt: skip
            self._add_item(self._open_item, out)
            part = _output_text("")
            self._add_event(
                out, "response.content_part.added", **self._item_position(self._open_item), content_index=0, part=part
            )
        self._open_text.append(text)
        position = self._item_position(self._open_item)
        self._add_event(out, "response.output_text.delta", **position, content_index=0, delta=text, logprobs=[])

    def _close_item(self, out: list[dict[str, Any]]) -> None:
        """End the open text or reasoning item."""
        item, text = self._open_item, "".join(self._open_text)
        self._open_item, self._open_text = None, []
        if item is None:
            return
        position = self._item_position(item)
        item["status"] = "completed"
        if item["type"] == "message":
            part = _output_text(text)
            item["content"] = [part]
            self._add_event(out, "response.output_text.done", **position, content_index=0, text=text, logprobs=[])
            self._add_event(out, "response.content_part.done", **position, content_index=0, part=part)
        else:
            part = {"type": "summary_text", "text": text}
            item["summary"] = [part] if text else []
            if self._seals_reasoning:
                item["encrypted_content"] = (
                    SEALED_REASONING_PREFIX + base64.b64encode(orjson.dumps(self._signed_blocks)).decode()
                )
            self._signed_blocks = []
            self._add_event(out, "response.reasoning_summary_text.done", **position, summary_index=0, text=text)
            self._add_event(out, "response.reasoning_summary_part.done", **position, summary_index=0, part=part)
        self._add_event(out, "response.output_item.done", output_index=position["output_index"], item={**item})

    def _write_call(self, call: dict[str, Any], index: int, out: list[dict[str, Any]]) -> None:
        function = call.get("function") or {}
        item = self._call_items.get(index)
        if item is None:
            self._close_item(out)
            flat = str(function.get("name") or "")
            kind, name, namespace = self._caller_tools.get(flat, ("function", flat, ""))
            call_id = call.get("id") or f"call_{self._answer_id}_{index}"
            item = self._call_items[index] = {
                "id": self._new_item_id("ctc" if kind == "custom" else "fc"),
                "call_id": call_id,
                "name": name,
            }
            item |= (
                {"type": "custom_tool_call", "input": ""}
                if kind == "custom"
                else {"type": "function_call", "arguments": ""}
            )
            item["status"] = "in_progress"
            if namespace:
                item["namespace"] = namespace
            self._call_arguments[index] = []
            self._add_item(item, out)
        text = function.get("arguments")
        if isinstance(text, str) and text:
            self._call_arguments[index].append(text)
            if item["type"] == "function_call":
                position = self._item_position(item)
                self._add_event(out, "response.function_call_arguments.delta", **position, delta=text)

    def _close_call(self, index: int, out: list[dict[str, Any]]) -> None:
        item, arguments = self._call_items[index], "".join(self._call_arguments[index])
        position = self._item_position(item)
        item["status"] = "completed"
        if item["type"] == "custom_tool_call":
            item["input"] = _unwrap_free_text(arguments)
            self._add_event(out, "response.custom_tool_call_input.delta", **position, delta=item["input"])
            self._add_event(out, "response.custom_tool_call_input.done", **position, input=item["input"])
        else:
            item["arguments"] = arguments or "{}"
            self._add_event(
                out, "response.function_call_arguments.done", **position, name=item["name"], arguments=item["arguments"]
            )
        self._add_event(out, "response.output_item.done", output_index=position["output_index"], item={**item})


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _unwrap_free_text(arguments: str) -> str:
    """The text in a free-text tool's arguments; arguments of another shape are the text itself."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    return value["input"] if isinstance(value, dict) and isinstance(value.get("input"), str) else arguments
