"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..directives import Asked, Call, Order, Reply, Tool
from ..issued_ids import Mint
from ..usage import Meter, Usage, size, written
from . import responses_rules, responses_stream
from .base import Body, Dialect, Event, Lookup, Told, named
from .errors import Complaint
from .newest_turn import Turn, newest

_STORED_MAX = 1000
_OUTPUTS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output", "shell_call_output")
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# Fields of a response that repeat the request, with what they are if it says nothing.
_ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


class Responses(Dialect):
    """POST /v1/responses, which remembers what it answered unless told not to."""

    name = "responses"
    streams = True
    parameters = responses_rules.PARAMETERS

    def __init__(self, meter: Meter, mint: Mint) -> None:
        super().__init__(meter, mint)
        # A response's id -> (the response, all items up to its own); an item's id -> the item.
        self.stored: OrderedDict[str, tuple[Body, list[Body]]] = OrderedDict()
        self._items: OrderedDict[str, Body] = OrderedDict()

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """Unknown parameters, then wrong shapes."""
        yield from super().complaints(body, headers)
        yield from responses_rules.complaints(body, self._before(body), self.mint)

    def missing(self, body: Body, asked: Asked) -> Complaint | None:
        """Stored responses and items that are not here."""
        previous = body.get("previous_response_id")
        if previous and previous not in self.stored:
            return Complaint(
                message=f"Previous response with id '{previous}' not found.",
                slug="previous_response_not_found",
                param="previous_response_id",
            )
        for item in _listed(body.get("input")):
            if item.get("type") == "item_reference" and item.get("id") not in self._items:
                return Complaint(status=404, message=f"Item with id '{item.get('id')}' not found.", param="input")
        return None

    def read(self, body: Body) -> Asked:
        """The request in neutral words."""
        items = self._all(body)
        turn = newest(_backwards(items))
        images, files = _attached(items)
        return Asked(
            text=turn.text,
            prompt=turn.prompt,
            results=turn.results,
            step=turn.step,
            images=images,
            files=files,
            tools=tuple(_tools([*(body.get("tools") or ()), *_added(items)])),
            choice=_choice(body.get("tool_choice")),
            parallel=body.get("parallel_tool_calls") is not False,
            schema=_schema((body.get("text") or {}).get("format")),
            thinks=((body.get("reasoning") or {}).get("effort") or "none") not in ("none", "minimal"),
            limit=body.get("max_output_tokens"),
        )

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """Instructions, tools and every item up to now, those of stored responses too."""
        items = self._all(body)
        given = size([body.get("instructions"), items]) + size(body.get("tools"))
        count, reasoning = written(reply, order.get("output_tokens"), asked.limit)
        cached = self.meter.cached([body.get("instructions"), items[:2]], given)
        return Usage(given=given, written=count, cached=cached, reasoning=reasoning)

    def answer_id(self, number: int) -> str:
        """As long as real ones."""
        return self.mint.id("resp_", number, length=48)

    def whole(self, told: Told) -> Body:
        """A response, which is stored."""
        response = self._response(told, self._output(told))
        self._store(told, response)
        return response

    def events(self, told: Told) -> Iterator[Event]:
        """The sequence of events; the response is stored when it is complete."""
        output = self._output(told)
        opened = {**self._response(told, []), "status": "in_progress", "usage": None, "incomplete_details": None}
        done = self._response(told, output)
        yield from responses_stream.events(opened, output, done)
        self._store(told, done)

    def lookups(self) -> dict[str, Lookup]:
        """A stored response, what was said to it, and away with it."""
        return {
            "GET /v1/responses": lambda id, _: Complaint(status=426, message="Upgrade Required"),
            "GET /v1/responses/{id}": lambda id, _: self.stored[id][0] if id in self.stored else _no_response(id),
            "GET /v1/responses/{id}/input_items": self._said,
            "DELETE /v1/responses/{id}": self._delete,
        }

    def _said(self, id: str, anthropic: bool) -> Body | Complaint:
        if id not in self.stored:
            return _no_response(id)
        response, items = self.stored[id]
        given = items[: len(items) - len(response["output"])]
        return {"object": "list", "data": given, "has_more": False}

    def _delete(self, id: str, anthropic: bool) -> Body | Complaint:
        if self.stored.pop(id, None) is None:
            return _no_response(id)
        return {"id": id, "object": "response", "deleted": True}

    def broken(self, told: Told, sent: int) -> bytes:
        """An error event, in the shape that is really sent and makes clients raise, then how the response ended."""
        error = {"code": "server_error", "message": "overloaded"}
        failed = {**self._response(told, []), "status": "failed", "error": error}
        typed = {"type": "server_error", **error, "param": None}
        first = named({"type": "error", "sequence_number": sent, "error": typed})
        return first + named({"type": "response.failed", "sequence_number": sent + 1, "response": failed})

    def _response(self, told: Told, output: list[Body]) -> Body:
        reason = _INCOMPLETE.get(told.reply.finish)
        response = {
            "id": self.answer_id(told.number),
            "object": "response",
            "created_at": told.created,
            "status": "incomplete" if reason else "completed",
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": told.body["model"],
            "output": output,
            **{name: told.body.get(name, usual) for name, usual in _ECHOED.items()},
        }
        if told.usage is not None:
            response["usage"] = _worded(told.usage)
        return response

    def _output(self, told: Told) -> list[Body]:
        """The items: reasoning, message, calls."""
        reply, number = told.reply, told.number
        output: list[Body] = []
        if reply.thinking:
            output.append(self._reasoning(told))
        if reply.text or not reply.calls:
            status = "incomplete" if reply.finish in _INCOMPLETE else "completed"
            text = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
            id = self.mint.id("msg_", number, length=48)
            output.append({"id": id, "type": "message", "status": status, "role": "assistant", "content": [text]})
        return output + [self._call(number, index, call) for index, call in enumerate(reply.calls)]

    def _reasoning(self, told: Told) -> Body:
        thinking = told.reply.thinking
        asks_summary = (told.body.get("reasoning") or {}).get("summary")
        summary = [{"type": "summary_text", "text": thinking}] if asks_summary else []
        item = {"id": self.mint.id("rs_", told.number, length=48), "type": "reasoning", "summary": summary}
        if "reasoning.encrypted_content" in (told.body.get("include") or ()):
            item["encrypted_content"] = self.mint.seal(thinking)
        return item

    def _call(self, number: int, index: int, call: Call) -> Body:
        id = self.mint.id("ctc_" if call.custom else "fc_", number, index, length=48)
        item = {
            "id": id,
            "type": "custom_tool_call" if call.custom else "function_call",
            "status": "completed",
            "call_id": call.id or self.mint.id("call_", number, index),
            "name": call.name,
            "input" if call.custom else "arguments": call.arguments,
        }
        return {**item, "namespace": call.namespace} if call.namespace else item

    def _store(self, told: Told, response: Body) -> None:
        if told.body.get("store") is False:
            return
        self.stored[response["id"]] = (response, self._all(told.body) + response["output"])
        if len(self.stored) > _STORED_MAX:
            self.stored.popitem(last=False)
        for item in response["output"]:
            self._items[item["id"]] = item
        while len(self._items) > _STORED_MAX:
            self._items.popitem(last=False)

    def _before(self, body: Body) -> list[Body]:
        """The items of the response that this one continues."""
        return self.stored.get(body.get("previous_response_id") or "", ({}, []))[1]

    def _all(self, body: Body) -> list[Body]:
        """Every item, with references looked up."""
        own = (
            self._items.get(i["id"], i) if i.get("type") == "item_reference" else i for i in _listed(body.get("input"))
        )
        return [*self._before(body), *own]


def _no_response(id: str) -> Complaint:
    return Complaint(status=404, message=f"Response with id '{id}' not found.")


def _listed(given: Any) -> list[Body]:
    """Text as the message that it is shorthand for."""
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else list(given or ())


def _backwards(items: Sequence[Body]) -> Iterator[Turn]:
    for item in reversed(items):
        kind, role = item.get("type", "message"), item.get("role")
        if kind in _OUTPUTS:
            yield Turn("tool", _texts(item.get("output")))
        elif kind == "message" and role == "user":
            yield Turn("user", _texts(item.get("content")))
        elif kind != "message" or role == "assistant":
            yield Turn("model", [])


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _attached(items: Sequence[Body]) -> tuple[int, int]:
    """(images, files) in messages and in tool results."""
    contents = [item.get("output") or item.get("content") for item in items]
    kinds = [part.get("type") for content in contents if isinstance(content, list) for part in content]
    return kinds.count("input_image"), kinds.count("input_file") + kinds.count("input_audio")


def _added(items: list[Body]) -> Iterator[Any]:
    """Tools that stand among the input, as newer Codex offers them."""
    for item in items:
        if item.get("type") == "additional_tools":
            yield from item.get("tools") or ()


def _tools(tools: Any, namespace: str | None = None) -> Iterator[Tool]:
    """Functions and free-text tools; those that OpenAI runs itself are not called here."""
    for tool in tools or ():
        kind = tool.get("type")
        if kind == "namespace":
            yield from _tools(tool.get("tools"), tool.get("name"))
        elif kind == "function":
            yield Tool(name=tool["name"], schema=tool.get("parameters") or {}, namespace=namespace)
        elif kind == "custom":
            yield Tool(name=tool["name"], custom=True, namespace=namespace)


def _choice(choice: Any) -> str:
    if isinstance(choice, dict):
        return f"tool:{choice['name']}" if "name" in choice else str(choice.get("mode") or "auto")
    return choice or "auto"


def _schema(wanted: Any) -> Any:
    kind = (wanted or {}).get("type")
    return wanted.get("schema") or {} if kind == "json_schema" else {} if kind == "json_object" else None


def _worded(usage: Usage) -> Body:
    return {
        "input_tokens": usage.given,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.written,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.given + usage.written,
    }
