"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..directives import Directive, OfferedTool, SimulatedReply, SimulatedRequest, SimulatedToolCall
from ..issued_ids import IdIssuer
from ..usage import PromptCache, SimulatedUsage, json_tokens, output_token_counts
from . import responses_rules, responses_stream
from .base import AnswerContent, Body, PacedEvent, ResourceHandler, SimulatedDialect, sse_named
from .errors import ApiError
from .newest_turn import HistoryTurn, newest_turn

_MAX_STORED = 1000
_TOOL_OUTPUT_TYPES = ("function_call_output", "custom_tool_call_output", "local_shell_call_output", "shell_call_output")
_INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
# Fields of a response that repeat the request, with their defaults.
_ECHOED_DEFAULTS: dict[str, Any] = {
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


class Responses(SimulatedDialect):
    """POST /v1/responses; responses are stored unless `store` is false.

    A background response ends after it was read a number of times, whether or not its stream is read to the end
    (https://platform.openai.com/docs/guides/background, July 2026).
    """

    name = "responses"
    supports_streaming = True
    known_parameters = responses_rules.PARAMETERS

    def __init__(self, prompt_cache: PromptCache, ids: IdIssuer) -> None:
        super().__init__(prompt_cache, ids)
        # A response's id -> (the response, all items up to its own); an item's id -> the item.
        self.stored_responses: OrderedDict[str, tuple[Body, list[Body]]] = OrderedDict()
        self._stored_items: OrderedDict[str, Body] = OrderedDict()
        # Background responses: how often they are read before they end, and the events of those that were streamed.
        self._polls_left: dict[str, int] = {}
        self._events: dict[str, list[bytes]] = {}

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """Unknown parameters, then wrong shapes."""
        yield from super().validation_errors(body, headers)
        yield from responses_rules.validation_errors(body, self._previous_items(body), self.ids)

    def missing_reference_error(self, body: Body, request: SimulatedRequest) -> ApiError | None:
        """Stored responses and items that are not here."""
        previous = body.get("previous_response_id")
        if previous and previous not in self.stored_responses:
            return ApiError(
                message=f"Previous response with id '{previous}' not found.",
                openai_code="previous_response_not_found",
                param="previous_response_id",
            )
        for item in _as_items(body.get("input")):
            if item.get("type") == "item_reference" and item.get("id") not in self._stored_items:
                return ApiError(status=404, message=f"Item with id '{item.get('id')}' not found.", param="input")
        return None

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The request in dialect-neutral form."""
        items = self._all_items(body)
        turn = newest_turn(_turns_newest_first(items))
        images, files = _attachment_counts(items)
        return SimulatedRequest(
            text=turn.text,
            prompt=turn.prompt,
            tool_results=turn.tool_results,
            step=turn.step,
            image_count=images,
            file_count=files,
            tools=tuple(_offered_tools([*(body.get("tools") or ()), *_input_tools(items)])),
            tool_choice=_tool_choice(body.get("tool_choice")),
            parallel_tool_calls=body.get("parallel_tool_calls") is not False,
            output_schema=_output_schema((body.get("text") or {}).get("format")),
            wants_thinking=((body.get("reasoning") or {}).get("effort") or "none") not in ("none", "minimal"),
            max_output_tokens=body.get("max_output_tokens"),
        )

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """Instructions, tools and every item up to now, those of stored responses too."""
        items = self._all_items(body)
        input_tokens = json_tokens([body.get("instructions"), items]) + json_tokens(body.get("tools"))
        count, reasoning = output_token_counts(reply, directive.get("output_tokens"), request.max_output_tokens)
        cached = self.prompt_cache.openai_cached_tokens([body.get("instructions"), items[:2]], input_tokens)
        return SimulatedUsage(
            input_tokens=input_tokens, output_tokens=count, cached_tokens=cached, reasoning_tokens=reasoning
        )

    def response_id(self, number: int) -> str:
        """As long as real ones."""
        return self.ids.id("resp_", number, length=48)

    def document(self, answer: AnswerContent) -> Body:
        """A response, which is stored."""
        response = self._response_body(answer, self._output_items(answer))
        self._store(answer, response)
        return _unfinished(response, "queued") if answer.body.get("background") else response

    def events(self, answer: AnswerContent) -> Iterator[PacedEvent]:
        """The sequence of events; the response is stored when complete."""
        output = self._output_items(answer)
        completed = self._response_body(answer, output)
        started = _unfinished(completed, "in_progress")
        queued = _unfinished(completed, "queued") if answer.body.get("background") else None
        events = list(responses_stream.events(started, output, completed, queued))
        yield from events
        self._store(answer, completed)
        if queued is not None:
            self._events[completed["id"]] = [event for event, _ in events]

    def resource_routes(self) -> dict[str, ResourceHandler]:
        """A stored response, its input items, cancellation and deletion."""
        return {
            "GET /v1/responses": lambda id, _: ApiError(status=426, message="Upgrade Required"),
            "GET /v1/responses/{id}": self._retrieve,
            "POST /v1/responses/{id}/cancel": self._cancel,
            "GET /v1/responses/{id}/input_items": self._input_items,
            "DELETE /v1/responses/{id}": self._delete,
        }

    def resource_stream(self, id: str, after: int) -> bytes | ApiError:
        """The events of a background response from the one `after` that number on; it has ended by then."""
        if id not in self._events:
            return ApiError(message=f"Response with id '{id}' was not created with stream=true.")
        self._polls_left[id] = 0
        return b"".join(self._events[id][after + 1 :])

    def _retrieve(self, id: str, anthropic: bool) -> Body | ApiError:
        if id not in self.stored_responses:
            return _response_not_found(id)
        response, polls_left = self.stored_responses[id][0], self._polls_left.get(id, 0)
        if not polls_left:
            return response
        self._polls_left[id] = polls_left - 1
        return _unfinished(response, "in_progress")

    def _cancel(self, id: str, anthropic: bool) -> Body | ApiError:
        """The cancelled response, whose usage is not reported; one that has ended stays as it is."""
        if id not in self.stored_responses:
            return _response_not_found(id)
        response, items = self.stored_responses[id]
        if not response["background"]:
            return ApiError(message="Cannot cancel a synchronous response.")
        if self._polls_left.get(id, 0):
            self._polls_left[id] = 0
            response = _unfinished(response, "cancelled")
            self.stored_responses[id] = response, items
        return response

    def _input_items(self, id: str, anthropic: bool) -> Body | ApiError:
        if id not in self.stored_responses:
            return _response_not_found(id)
        response, items = self.stored_responses[id]
        input_items = items[: len(items) - len(response["output"])]
        return {"object": "list", "data": input_items, "has_more": False}

    def _delete(self, id: str, anthropic: bool) -> Body | ApiError:
        if self.stored_responses.pop(id, None) is None:
            return _response_not_found(id)
        return {"id": id, "object": "response", "deleted": True}

    def error_event(self, answer: AnswerContent, sent: int) -> bytes:
        """An error event that makes clients raise, then the failed response."""
        error = {"code": "server_error", "message": "overloaded"}
        failed = {**self._response_body(answer, []), "status": "failed", "error": error}
        nested = {"type": "server_error", **error, "param": None}
        first = sse_named({"type": "error", "sequence_number": sent, "error": nested})
        return first + sse_named({"type": "response.failed", "sequence_number": sent + 1, "response": failed})

    def _response_body(self, answer: AnswerContent, output: list[Body]) -> Body:
        reason = _INCOMPLETE_REASONS.get(answer.reply.finish_reason)
        response = {
            "id": self.response_id(answer.sequence_number),
            "object": "response",
            "created_at": answer.created_at,
            "status": "incomplete" if reason else "completed",
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": answer.body["model"],
            "output": output,
            **{name: answer.body.get(name, default) for name, default in _ECHOED_DEFAULTS.items()},
        }
        if answer.extras.service_tier:
            response["service_tier"] = answer.extras.service_tier
        if answer.usage is not None:
            response["usage"] = _usage_body(answer.usage)
        return response

    def _output_items(self, answer: AnswerContent) -> list[Body]:
        """The items: searches, reasoning, message, calls."""
        reply, number = answer.reply, answer.sequence_number
        output: list[Body] = [self._search_item(number, index) for index in range(answer.extras.searches)]
        if reply.thinking:
            output.append(self._reasoning_item(answer))
        if reply.text or not reply.tool_calls:
            status = "incomplete" if reply.finish_reason in _INCOMPLETE_REASONS else "completed"
            text = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
            id = self.ids.id("msg_", number, length=48)
            output.append({"id": id, "type": "message", "status": status, "role": "assistant", "content": [text]})
        return output + [self._call_item(number, index, call) for index, call in enumerate(reply.tool_calls)]

    def _search_item(self, number: int, index: int) -> Body:
        action = {"type": "search", "query": f"news {index}"}
        id = self.ids.id("ws_", number, index, length=48)
        return {"id": id, "type": "web_search_call", "status": "completed", "action": action}

    def _reasoning_item(self, answer: AnswerContent) -> Body:
        thinking = answer.reply.thinking
        asks_summary = (answer.body.get("reasoning") or {}).get("summary")
        summary = [{"type": "summary_text", "text": thinking}] if asks_summary else []
        item = {"id": self.ids.id("rs_", answer.sequence_number, length=48), "type": "reasoning", "summary": summary}
        if "reasoning.encrypted_content" in (answer.body.get("include") or ()):
            item["encrypted_content"] = self.ids.seal(thinking)
        return item

    def _call_item(self, number: int, index: int, call: SimulatedToolCall) -> Body:
        id = self.ids.id("ctc_" if call.is_custom else "fc_", number, index, length=48)
        item = {
            "id": id,
            "type": "custom_tool_call" if call.is_custom else "function_call",
            "status": "completed",
            "call_id": call.id or self.ids.id("call_", number, index),
            "name": call.name,
            "input" if call.is_custom else "arguments": call.arguments,
        }
        return {**item, "namespace": call.namespace} if call.namespace else item

    def _store(self, answer: AnswerContent, response: Body) -> None:
        if answer.body.get("background"):
            self._polls_left[response["id"]] = answer.reply.polls
        elif answer.body.get("store") is False:
            return
        self.stored_responses[response["id"]] = (response, self._all_items(answer.body) + response["output"])
        if len(self.stored_responses) > _MAX_STORED:
            self.stored_responses.popitem(last=False)
        for item in response["output"]:
            self._stored_items[item["id"]] = item
        while len(self._stored_items) > _MAX_STORED:
            self._stored_items.popitem(last=False)

    def _previous_items(self, body: Body) -> list[Body]:
        """The items up to the response that this one continues."""
        return self.stored_responses.get(body.get("previous_response_id") or "", ({}, []))[1]

    def _all_items(self, body: Body) -> list[Body]:
        """Every item, with references resolved."""
        own = (
            self._stored_items.get(item["id"], item) if item.get("type") == "item_reference" else item
            for item in _as_items(body.get("input"))
        )
        return [*self._previous_items(body), *own]


def _unfinished(response: Body, status: str) -> Body:
    """The response before its end."""
    return {**response, "status": status, "output": [], "usage": None, "incomplete_details": None}


def _response_not_found(id: str) -> ApiError:
    return ApiError(status=404, message=f"Response with id '{id}' not found.")


def _as_items(value: Any) -> list[Body]:
    """Text as the message that it abbreviates."""
    return [{"type": "message", "role": "user", "content": value}] if isinstance(value, str) else list(value or ())


def _turns_newest_first(items: Sequence[Body]) -> Iterator[HistoryTurn]:
    for item in reversed(items):
        kind, role = item.get("type", "message"), item.get("role")
        if kind in _TOOL_OUTPUT_TYPES:
            yield HistoryTurn("tool", _text_parts(item.get("output")))
        elif kind == "message" and role == "user":
            yield HistoryTurn("user", _text_parts(item.get("content")))
        elif kind != "message" or role == "assistant":
            yield HistoryTurn("model", [])


def _text_parts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _attachment_counts(items: Sequence[Body]) -> tuple[int, int]:
    """(images, files) in messages and in tool results."""
    contents = [item.get("output") or item.get("content") for item in items]
    kinds = [part.get("type") for content in contents if isinstance(content, list) for part in content]
    return kinds.count("input_image"), kinds.count("input_file") + kinds.count("input_audio")


def _input_tools(items: list[Body]) -> Iterator[Any]:
    """Tools among the input items, as newer Codex offers them."""
    for item in items:
        if item.get("type") == "additional_tools":
            yield from item.get("tools") or ()


def _offered_tools(tools: Any, namespace: str | None = None) -> Iterator[OfferedTool]:
    """Functions and free-text tools; those that OpenAI runs are not called."""
    for tool in tools or ():
        kind = tool.get("type")
        if kind == "namespace":
            yield from _offered_tools(tool.get("tools"), tool.get("name"))
        elif kind == "function":
            yield OfferedTool(name=tool["name"], schema=tool.get("parameters") or {}, namespace=namespace)
        elif kind == "custom":
            yield OfferedTool(name=tool["name"], is_custom=True, namespace=namespace)


def _tool_choice(choice: Any) -> str:
    if isinstance(choice, dict):
        return f"tool:{choice['name']}" if "name" in choice else str(choice.get("mode") or "auto")
    return choice or "auto"


def _output_schema(text_format: Any) -> Any:
    kind = (text_format or {}).get("type")
    return text_format.get("schema") or {} if kind == "json_schema" else {} if kind == "json_object" else None


def _usage_body(usage: SimulatedUsage) -> Body:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
