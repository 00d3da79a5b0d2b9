"""Chat completions -> Responses, whole or chunk by chunk: the way back of a Responses caller."""

import base64
from typing import Any

import orjson

from ..responses import SEAL
from .translated import Carried
from .usage_objects import responses_usage

# What a response says about its request, with the values that OpenAI gives where the caller set none.
_ECHOED: dict[str, Any] = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0,
    "tool_choice": "auto", "tools": [], "top_p": 1.0, "previous_response_id": None, "text": {"format": {"type": "text"}},
    "truncation": "disabled", "user": None, "store": True, "service_tier": "default",
}  # fmt: skip


class Back:
    """One answer on its way back. Items are kept as they grow, for the event that ends the stream holds them all."""

    def __init__(self, carried: Carried, answer_id: str, created: int) -> None:
        self._asked, self._tools = carried.asked, carried.tools
        self._answer_id, self._created = answer_id, created
        include = carried.asked.get("include")
        self._seals = isinstance(include, list) and "reasoning.encrypted_content" in include
        self._items: list[dict[str, Any]] = []
        # The text or reasoning item that grows, and calls by the index that chat gives them (interleaving is allowed).
        self._open: dict[str, Any] | None = None
        self._calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, list[str]] = {}
        self._text: list[str] = []
        self._signed: list[dict[str, Any]] = []
        self._usage: Any = None
        self._reason = ""
        self._number = 0
        self._begun = False

    def whole(self, document: dict[str, Any]) -> dict[str, Any]:
        """The whole answer: the same as a stream of one chunk, without its events."""
        choices = document.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        message = choice.get("message") or {}
        calls = [{**call, "index": place} for place, call in enumerate(message.get("tool_calls") or ())]
        delta = {**message, "tool_calls": calls}
        self.feed({"choices": [{"delta": delta, "finish_reason": choice.get("finish_reason")}]})
        self._usage = document.get("usage")
        done: dict[str, Any] = self.end()[-1]["response"]
        return done

    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """The events that one chunk makes."""
        out: list[dict[str, Any]] = []
        if isinstance(payload.get("usage"), dict):
            self._usage = payload["usage"]
        self._begin(out)
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = choice.get("delta") or {}
            self._thought(delta, out)
            for name in ("content", "refusal"):
                if isinstance(delta.get(name), str) and delta[name]:
                    self._write(delta[name], out)
            for place, call in enumerate(delta.get("tool_calls") or ()):
                self._call(call, call.get("index", place), out)
            self._reason = choice.get("finish_reason") or self._reason
        return out

    def end(self) -> list[dict[str, Any]]:
        """What closes the response."""
        out: list[dict[str, Any]] = []
        self._begin(out)
        self._close(out)
        for index in self._calls:
            self._close_call(index, out)
        incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self._reason)
        status = "incomplete" if incomplete else "completed"
        response = self._response(status)
        response["usage"] = responses_usage(self._usage)
        response["incomplete_details"] = {"reason": incomplete} if incomplete else None
        self._event(out, f"response.{status}", response=response)
        return out

    def kept(self) -> tuple[str, list[dict[str, Any]]]:
        """The answer's id and items, if the caller wants them stored."""
        return (f"resp_{self._answer_id}", self._items) if self._asked.get("store") is not False else ("", [])

    def _begin(self, out: list[dict[str, Any]]) -> None:
        if not self._begun:
            self._begun = True
            self._event(out, "response.created", response=self._response("in_progress"))
            self._event(out, "response.in_progress", response=self._response("in_progress"))

    def _response(self, status: str) -> dict[str, Any]:
        echoed = {
            name: self._asked.get(name) if self._asked.get(name) is not None else usual
            for name, usual in _ECHOED.items()
        }
        reasoning = self._asked.get("reasoning")
        return {
            "id": f"resp_{self._answer_id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": str(self._asked.get("model") or ""),
            "output": [{**item} for item in self._items] if status != "in_progress" else [],
            "usage": None,
            **echoed,
            "reasoning": {"effort": None, "summary": None, **(reasoning if isinstance(reasoning, dict) else {})},
        }

    def _event(self, out: list[dict[str, Any]], kind: str, **more: Any) -> None:
        out.append({"type": kind, "sequence_number": self._number, **more})
        self._number += 1

    def _added(self, item: dict[str, Any], out: list[dict[str, Any]]) -> None:
        self._items.append(item)
        self._event(out, "response.output_item.added", output_index=len(self._items) - 1, item={**item})

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._answer_id}_{len(self._items)}"

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": next(n for n, one in enumerate(self._items) if one is item)}

    def _thought(self, delta: dict[str, Any], out: list[dict[str, Any]]) -> None:
        text = next(
            (delta[name] for name in ("reasoning_content", "reasoning") if isinstance(delta.get(name), str)), ""
        )
        blocks = delta.get("thinking_blocks")
        if isinstance(blocks, list):
            # Streams of some providers repeat a block as it grows: only signed ones are whole.
            self._signed += [b for b in blocks if isinstance(b, dict) and (b.get("signature") or b.get("data"))]
        if not text and not (self._signed and self._open is None):
            return
        if self._open is None or self._open["type"] != "reasoning":
            self._close(out)
            self._open = {"id": self._id("rs"), "type": "reasoning", "summary": [], "status": "in_progress"}
            self._added(self._open, out)
            part = {"type": "summary_text", "text": ""}
            self._event(
                out, "response.reasoning_summary_part.added", **self._place(self._open), summary_index=0, part=part
            )
        if text:
            self._text.append(text)
            more = self._place(self._open)
            self._event(out, "response.reasoning_summary_text.delta", **more, summary_index=0, delta=text)

    def _write(self, text: str, out: list[dict[str, Any]]) -> None:
        if self._open is None or self._open["type"] != "message":
            self._close(out)
            self._open = {
                "id": self._id("msg"), "type": "message", "role": "assistant", "content": [], "status": "in_progress",
            }  # fmt: skip
            self._added(self._open, out)
            part = _output_text("")
            self._event(out, "response.content_part.added", **self._place(self._open), content_index=0, part=part)
        self._text.append(text)
        more = self._place(self._open)
        self._event(out, "response.output_text.delta", **more, content_index=0, delta=text, logprobs=[])

    def _close(self, out: list[dict[str, Any]]) -> None:
        """End the text or reasoning item that grows."""
        item, text = self._open, "".join(self._text)
        self._open, self._text = None, []
        if item is None:
            return
        place = self._place(item)
        item["status"] = "completed"
        if item["type"] == "message":
            part = _output_text(text)
            item["content"] = [part]
            self._event(out, "response.output_text.done", **place, content_index=0, text=text, logprobs=[])
            self._event(out, "response.content_part.done", **place, content_index=0, part=part)
        else:
            part = {"type": "summary_text", "text": text}
            item["summary"] = [part] if text else []
            if self._seals:
                item["encrypted_content"] = SEAL + base64.b64encode(orjson.dumps(self._signed)).decode()
            self._signed = []
            self._event(out, "response.reasoning_summary_text.done", **place, summary_index=0, text=text)
            self._event(out, "response.reasoning_summary_part.done", **place, summary_index=0, part=part)
        self._event(out, "response.output_item.done", output_index=place["output_index"], item={**item})

    def _call(self, call: dict[str, Any], index: int, out: list[dict[str, Any]]) -> None:
        function = call.get("function") or {}
        item = self._calls.get(index)
        if item is None:
            self._close(out)
            flat = str(function.get("name") or "")
            kind, name, namespace = self._tools.get(flat, ("function", flat, ""))
            call_id = call.get("id") or f"call_{self._answer_id}_{index}"
            item = self._calls[index] = {
                "id": self._id("ctc" if kind == "custom" else "fc"),
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
            self._arguments[index] = []
            self._added(item, out)
        text = function.get("arguments")
        if isinstance(text, str) and text:
            self._arguments[index].append(text)
            if item["type"] == "function_call":
                more = self._place(item)
                self._event(out, "response.function_call_arguments.delta", **more, delta=text)

    def _close_call(self, index: int, out: list[dict[str, Any]]) -> None:
        item, arguments = self._calls[index], "".join(self._arguments[index])
        place = self._place(item)
        item["status"] = "completed"
        if item["type"] == "custom_tool_call":
            item["input"] = _unwrapped(arguments)
            self._event(out, "response.custom_tool_call_input.delta", **place, delta=item["input"])
            self._event(out, "response.custom_tool_call_input.done", **place, input=item["input"])
        else:
            item["arguments"] = arguments or "{}"
            self._event(
                out, "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
            )
        self._event(out, "response.output_item.done", output_index=place["output_index"], item={**item})


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _unwrapped(arguments: str) -> str:
    """The text that a tool of free text was called with; what does not fit is taken as the text itself."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    return value["input"] if isinstance(value, dict) and isinstance(value.get("input"), str) else arguments
