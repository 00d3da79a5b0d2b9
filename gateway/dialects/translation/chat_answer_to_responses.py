"""Translates chat answers to Responses, whole or chunk by chunk."""

import base64
import re
from typing import Any

from ...providers.streamed_answer import collect_chunk
from .. import lenient_json
from ..responses import SEALED_REASONING_PREFIX
from .answer_account import AccountedAnswer
from .chat_answer import ChatAnswerReader
from .chat_calls import ChatCall
from .fields import dropped, mapped, table
from .translated import TranslatedRequest
from .usage_objects import chat_to_responses_usage

# Request fields that a response echoes, with OpenAI's values where the caller set none.
_ECHOED_DEFAULTS: dict[str, Any] = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0,
    "tool_choice": "auto", "tools": [], "top_p": 1.0, "previous_response_id": None, "text": {"format": {"type": "text"}},
    "truncation": "disabled", "user": None, "store": True, "service_tier": "default",
}  # fmt: skip
ANSWER_FIELDS = table(
    mapped(
        content="`output_text` of a message, and reasoning, in their order",
        refusal="a `refusal` part",
        tool_calls="`function_call` and `custom_tool_call` items; each has an id and arguments",
        function_call="a `function_call` item",
        reasoning_content="the summary of a reasoning item",
        reasoning="the same",
        reasoning_text="the same",
        thinking="the same",
        reasoning_details="the same, where there is no text of these names; encrypted ones are dropped",
        thinking_blocks="the same; sealed in `encrypted_content`, if requested",
        images="`image_generation_call` items; those by URL are dropped",
        annotations="`url_citation` of the text",
        finish_reason="`status`, `incomplete_details`, also of other APIs' names",
        usage="`usage`",
    ),
    dropped("no counterpart", "audio", "citations", "search_results", "context"),
)
_INLINE_IMAGE = re.compile(r"data:image/[\w.+-]+(?:;[\w=.-]+)*;base64,", re.ASCII | re.IGNORECASE)


class _Item:
    """An output item and its place in the output.

    text, annotations: of its open part; or the arguments of its call
    part_kind: type of the open part, "" without one
    """

    __slots__ = ("annotations", "document", "index", "part_kind", "text")

    def __init__(self, document: dict[str, Any], index: int) -> None:
        self.document, self.index = document, index
        self.text: list[str] = []
        self.annotations: list[dict[str, Any]] = []
        self.part_kind = ""

    @property
    def position(self) -> dict[str, Any]:
        """What its events name it by."""
        return {"item_id": self.document["id"], "output_index": self.index}


class ChatToResponsesAnswer(AccountedAnswer):
    """Translates one answer; it keeps all items, which the event that ends the stream repeats."""

    def __init__(self, translated: TranslatedRequest, answer_id: str, created: int) -> None:
        super().__init__()
        self._caller_document, self._caller_tool = translated.caller_document, translated.caller_tool
        self._answer_id, self._created_seconds = answer_id, created
        include = translated.caller_document.get("include")
        self._seals_reasoning = isinstance(include, list) and "reasoning.encrypted_content" in include
        self._reader = ChatAnswerReader(self, self._account, answer_id, ANSWER_FIELDS)
        self._events: list[dict[str, Any]] = []
        self._items: list[dict[str, Any]] = []
        # The open message or reasoning, and the calls, which stay open: their arguments may interleave.
        self._open: _Item | None = None
        self._calls: dict[int, _Item] = {}
        self._signed_blocks: list[dict[str, Any]] = []
        self._citations: list[dict[str, Any]] = []
        self._answer: dict[str, Any] = {}
        self._sequence_number = 0
        self._is_started = False

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]:
        """Translate an unstreamed answer, as a stream of one chunk."""
        self._answer = document
        self._reader.read_document(document)
        response: dict[str, Any] = self.end()[-1]["response"]
        return response

    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """Translate one chunk to events."""
        collect_chunk(self._answer, payload)
        self._begin()
        self._reader.read_chunk(payload)
        events, self._events = self._events, []
        return events

    def end(self) -> list[dict[str, Any]]:
        """Return the events that close the response."""
        self._begin()
        self._reader.end()
        self._account.is_closed = True
        self._close_open()
        for call in self._calls.values():
            self._close_call(call)
        for _ in self._citations:
            self._account.drop("citation", "message.annotations")
        incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self._reader.finish_reason)
        status = "incomplete" if incomplete else "completed"
        response = self._response(status)
        response["usage"] = chat_to_responses_usage(self._answer)
        response["incomplete_details"] = {"reason": incomplete} if incomplete else None
        self._add_event(f"response.{status}", response=response)
        return self._events

    def stored_answer(self) -> tuple[str, list[dict[str, Any]]]:
        """Return the answer's id and items, ("", []) unless the caller wants it stored."""
        return (f"resp_{self._answer_id}", self._items) if self._caller_document.get("store") is not False else ("", [])

    def write_text(self, text: str) -> None:
        """Write text."""
        self._write_part("output_text", text)

    def write_refusal(self, text: str) -> None:
        """Write a refusal."""
        self._write_part("refusal", text)

    def write_thinking(self, text: str) -> None:
        """Write reasoning, as its summary."""
        item = self._reasoning_item()
        item.text.append(text)
        self._account.text_out += len(text)
        self._add_event("response.reasoning_summary_text.delta", **item.position, summary_index=0, delta=text)

    def write_signed(self, block: dict[str, Any]) -> None:
        """Keep a signed block, for `encrypted_content` of the reasoning."""
        self._reasoning_item()
        self._signed_blocks.append(block)

    def begin_call(self, call: ChatCall) -> None:
        """Begin an item for a call."""
        self._close_open()
        tool = self._caller_tool(call.name)
        is_custom = tool.kind == "custom"
        document = {"id": self._new_item_id("ctc" if is_custom else "fc"), "call_id": call.id, "name": tool.name}
        document |= (
            {"type": "custom_tool_call", "input": ""} if is_custom else {"type": "function_call", "arguments": ""}
        )
        document["status"] = "in_progress"
        if tool.namespace:
            document["namespace"] = tool.namespace
        self._account.calls_out += 1
        self._calls[call.number] = self._add_item(document)

    def write_arguments(self, call: ChatCall, text: str) -> None:
        """Write arguments of a call; those of free-text tools are unwrapped at its end."""
        item = self._calls[call.number]
        item.text.append(text)
        self._account.text_out += len(text)
        if item.document["type"] == "function_call":
            self._add_event("response.function_call_arguments.delta", **item.position, delta=text)

    def write_image(self, url: str) -> None:
        """Write an image, as that of OpenAI's image tool."""
        match = _INLINE_IMAGE.match(url)
        if match is None:
            self._account.drop("media", "message.images (by URL)")
            return
        self._close_open()
        document = {
            "id": self._new_item_id("ig"),
            "type": "image_generation_call",
            "status": "in_progress",
            "result": None,
        }
        item = self._add_item(document)
        document |= {"status": "completed", "result": url[match.end() :]}
        self._add_event("response.image_generation_call.completed", **item.position)
        self._add_event("response.output_item.done", output_index=item.index, item={**document})

    def write_citation(self, citation: dict[str, Any]) -> None:
        """Write a citation, at the text that is open or comes next."""
        inner = citation.get("url_citation")
        inner = inner if isinstance(inner, dict) else citation
        if not isinstance(inner.get("url"), str):
            self._account.drop("citation", "message.annotations")
            return
        self._citations.append(inner)
        if self._open is not None and self._open.part_kind == "output_text":
            self._place_citations(self._open)

    def _begin(self) -> None:
        if not self._is_started:
            self._is_started = True
            self._add_event("response.created", response=self._response("in_progress"))
            self._add_event("response.in_progress", response=self._response("in_progress"))

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

    def _add_event(self, kind: str, **fields: Any) -> None:
        self._events.append({"type": kind, "sequence_number": self._sequence_number, **fields})
        self._sequence_number += 1

    def _add_item(self, document: dict[str, Any]) -> _Item:
        self._items.append(document)
        item = _Item(document, len(self._items) - 1)
        self._add_event("response.output_item.added", output_index=item.index, item={**document})
        return item

    def _new_item_id(self, prefix: str) -> str:
        return f"{prefix}_{self._answer_id}_{len(self._items)}"

    def _reasoning_item(self) -> _Item:
        """The open reasoning item, a new one where none is open."""
        if self._open is not None and self._open.document["type"] == "reasoning":
            return self._open
        self._close_open()
        document = {"id": self._new_item_id("rs"), "type": "reasoning", "summary": [], "status": "in_progress"}
        item = self._open = self._add_item(document)
        item.part_kind = "summary_text"
        part = {"type": "summary_text", "text": ""}
        self._add_event("response.reasoning_summary_part.added", **item.position, summary_index=0, part=part)
        return item

    def _write_part(self, kind: str, text: str) -> None:
        """Write text to a part of a message."""
        item = self._open
        if item is None or item.document["type"] != "message":
            self._close_open()
            document = {
                "id": self._new_item_id("msg"), "type": "message", "role": "assistant", "content": [], "status": "in_progress",
            }  # fmt: skip
            item = self._open = self._add_item(document)
        if item.part_kind != kind:
            self._close_part(item)
            item.part_kind = kind
            index = len(item.document["content"])
            self._add_event(
                "response.content_part.added", **item.position, content_index=index, part=_content_part(kind, "")
            )
        item.text.append(text)
        self._account.text_out += len(text)
        more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        index = len(item.document["content"])
        self._add_event(f"response.{kind}.delta", **item.position, content_index=index, delta=text, **more)
        if self._citations and kind == "output_text":
            self._place_citations(item)

    def _place_citations(self, item: _Item) -> None:
        """Add the citations that wait to the open text."""
        end, index = sum(map(len, item.text)), len(item.document["content"])
        for citation in self._citations:
            annotation = {
                "type": "url_citation", "url": citation["url"], "title": str(citation.get("title") or ""),
                "start_index": citation.get("start_index") or 0, "end_index": citation.get("end_index") or end,
            }  # fmt: skip
            item.annotations.append(annotation)
            self._add_event(
                "response.output_text.annotation.added", **item.position, content_index=index,
                annotation_index=len(item.annotations) - 1, annotation=annotation,
            )  # fmt: skip
        self._citations.clear()

    def _close_part(self, item: _Item) -> None:
        """End the open part of a message."""
        kind, text = item.part_kind, "".join(item.text)
        if not kind:
            return
        part, index = _content_part(kind, text), len(item.document["content"])
        more: dict[str, Any] = {"refusal": text}
        if kind == "output_text":
            part["annotations"], more = item.annotations, {"text": text, "logprobs": []}
        item.part_kind, item.text, item.annotations = "", [], []
        self._add_event(f"response.{kind}.done", **item.position, content_index=index, **more)
        self._add_event("response.content_part.done", **item.position, content_index=index, part=part)
        item.document["content"].append(part)

    def _close_open(self) -> None:
        """End the open message or reasoning."""
        item, self._open = self._open, None
        if item is None:
            return
        if item.document["type"] == "message":
            self._close_part(item)
        else:
            self._close_reasoning(item)
        item.document["status"] = "completed"
        self._add_event("response.output_item.done", output_index=item.index, item={**item.document})

    def _close_reasoning(self, item: _Item) -> None:
        text = "".join(item.text)
        part = {"type": "summary_text", "text": text}
        item.document["summary"] = [part] if text else []
        if self._seals_reasoning:
            sealed = base64.b64encode(lenient_json.dumps(self._signed_blocks)).decode()
            item.document["encrypted_content"] = SEALED_REASONING_PREFIX + sealed
        self._signed_blocks = []
        self._add_event("response.reasoning_summary_text.done", **item.position, summary_index=0, text=text)
        self._add_event("response.reasoning_summary_part.done", **item.position, summary_index=0, part=part)

    def _close_call(self, item: _Item) -> None:
        document, arguments = item.document, "".join(item.text)
        document["status"] = "completed"
        if document["type"] == "custom_tool_call":
            document["input"] = _unwrap_free_text(arguments)
            self._add_event("response.custom_tool_call_input.delta", **item.position, delta=document["input"])
            self._add_event("response.custom_tool_call_input.done", **item.position, input=document["input"])
        else:
            document["arguments"] = arguments or "{}"
            if not arguments:
                self._add_event("response.function_call_arguments.delta", **item.position, delta="{}")
            self._add_event(
                "response.function_call_arguments.done", **item.position, name=document["name"],
                arguments=document["arguments"],
            )  # fmt: skip
        self._add_event("response.output_item.done", output_index=item.index, item={**document})


def _content_part(kind: str, text: str) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _unwrap_free_text(arguments: str) -> str:
    """The text in a free-text tool's arguments; arguments of another shape are the text itself."""
    try:
        value = lenient_json.loads(arguments)
    except ValueError:
        return arguments
    return value["input"] if isinstance(value, dict) and isinstance(value.get("input"), str) else arguments
