"""OpenAI Responses, caller side: body -> Request, answers and errors.

Sessions, the loop guard and request features read messages in the shape of chat completions: consecutive calls belong
to one assistant turn, the instructions are the first message.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import orjson

from ..values.caller_response import CallerResponse
from ..values.errors import PenstockError
from ..values.plan import Refusal
from ..values.request import ABSENT, NO_PROVIDER_STATE, TOOLS_BYTES_MAX, Message, Request
from ..values.usage import STANDARD_TERMS, PriceTerms
from . import answer_failure, openai_errors
from . import body as bodies
from . import price_terms as terms
from .body import DECODE_ERRORS, is_present
from .chat import message_sizes
from .responses_stream import ResponsesStreamMeter
from .sse import encode_event, utf8_bytes
from .stored_objects import StateKinds, ids_in_values

# Prefix of reasoning sealed by the gateway (translation/chat_answer_to_responses.py); any other is a provider's.
SEALED_REASONING_PREFIX = "penstock."


class _InputPart(msgspec.Struct, gc=False):
    type: str = ""
    text: Any = None
    image_url: Any = None
    file_id: Any = None


class _InputItem(msgspec.Struct, gc=False):
    """One input item of any type."""

    type: str | None = None
    role: str | None = None
    content: str | list[_InputPart] | None = None
    call_id: Any = None
    name: Any = None
    arguments: Any = None
    input: Any = None
    output: Any = None
    id: Any = None
    encrypted_content: Any = None
    tools: msgspec.Raw = ABSENT


class _ResponsesFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields the gateway acts on; all others are only checked to be JSON."""

    input: str | list[_InputItem] | None = None
    instructions: Any = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    stream: bool | None = None
    background: bool | None = None
    store: Any = None
    max_output_tokens: int | None = None
    tools: msgspec.Raw = ABSENT
    text: msgspec.Raw = ABSENT
    context_management: Any = None
    max_tool_calls: Any = None
    modalities: Any = None


class _ResponsesTool(msgspec.Struct, gc=False):
    """A tool, or a namespace of them."""

    type: Any = ""
    name: str = ""
    tools: list["_ResponsesTool"] = []
    vector_store_ids: Any = None
    container: Any = None


class _ResponsesFormat(msgspec.Struct, gc=False):
    type: str = ""


class _Text(msgspec.Struct, gc=False):
    format: _ResponsesFormat | None = None


_READER = bodies.BodyReader(_ResponsesFields, required="input")
_TOOLS = msgspec.json.Decoder(list[_ResponsesTool])
_TEXT = msgspec.json.Decoder(_Text | None)
# Fields that change the price; absent in most requests.
_PRICE_FIELDS = ("service_tier", "speed", "inference_geo", "context_management", "modalities")
_get_price_fields = attrgetter(*_PRICE_FIELDS)
_NO_PRICE_FIELDS = (None,) * len(_PRICE_FIELDS)
_UNFINISHED_STATUSES = ("queued", "in_progress")
_CALL_TYPES = ("function_call", "custom_tool_call", "mcp_call", "local_shell_call", "shell_call", "apply_patch_call")


def parse(body: bytes | bytearray) -> Request:
    """Parse a Responses body. Raises BadRequest naming the field. A bytearray is kept, not copied."""
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _READER.read(body)
    kinds = StateKinds()
    messages = list(_to_chat_messages(document, kinds))
    if not messages:
        # A continued answer without new input, or a stored prompt: an empty turn.
        messages = [Message("user", "")]
    if document.prompt is not None:
        kinds.add("stored")
    references = _referenced_ids(document)
    raw_tools = _raw_tools(document)
    tools = _decoded_tools(raw_tools)
    has_audio = "audio" in kinds
    kinds.discard("audio")
    return Request(
        dialect="responses",
        body=body,
        model=document.masked_model,
        model_span=span,
        messages=messages,
        sizes=message_sizes(messages),
        stream=bool(document.stream),
        wants_usage=True,
        usage_splice=None,
        max_output_tokens=bodies.check_output_limit("max_output_tokens", document.max_output_tokens),
        choice_count=1,
        tool_names=frozenset([inner.name for tool in tools or () for inner in (tool.tools or [tool]) if inner.name]),
        tools_head=bodies.first_bytes(document.tools, TOOLS_BYTES_MAX),
        has_schema=_has_schema(document.text),
        provider_state=frozenset(kinds) if kinds else NO_PROVIDER_STATE,
        referenced_ids=references,
        attached_ids=_attached_ids(kinds, tools or ()),
        item_ids=_item_ids(document) if "stored" in kinds else (),
        has_stored_prompt=document.prompt is not None,
        is_stored=document.store is not False or bool(document.background),
        previous_response_id=document.previous_response_id,
        conversation_id=_conversation_id(document),
        is_background=bool(document.background),
        user=bodies.end_user(document),
        session_fields=bodies.session_id_fields(document),
        price_terms=_price_terms(document, raw_tools, tools, has_audio=has_audio),
    )


def prepend_transcript(request: Request, transcript: bytes) -> Request:
    """Return the request with `transcript` in place of its previous_response_id."""
    document = bodies.parse_document(request.body)
    del document["previous_response_id"]
    document["input"] = [*orjson.loads(transcript), *_input_items(document.get("input"))]
    return parse(orjson.dumps(document))


def transcript(request: Request, output: list[dict[str, Any]]) -> bytes:
    """Return input and output as JSON, for a request that continues the conversation.

    Without the gateway's own ids and unsealed reasoning, which mean nothing to a provider.
    """
    input_items = _input_items(bodies.parse_document(request.body).get("input"))
    kept = [item for item in output if item["type"] != "reasoning" or item.get("encrypted_content")]
    return orjson.dumps([*input_items, *({name: item[name] for name in item if name != "id"} for item in kept)])


def _input_items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    return value if isinstance(value, list) else []


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """Return the caller's body with the deployment's model name; usage is always reported."""
    return bodies.splice_model(request, model)


def stream_meter(request: Request) -> ResponsesStreamMeter:
    """Create the meter of a streamed answer."""
    return ResponsesStreamMeter()


def failed_answer(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error body behind an unstreamed answer that is a failure, None for an answer."""
    if document.get("status") == "failed":
        return document if document.get("error") else {"error": {"message": "The response failed."}}
    return answer_failure.failed_answer(document, _has_output)


def _has_output(answer: Mapping[str, Any]) -> bool:
    return isinstance(answer.get("output"), list) or answer.get("status") in _UNFINISHED_STATUSES


def answer_events_of(document: Mapping[str, Any]) -> bytes | None:
    """Return an unstreamed answer as the events of a stream, None where that is not possible."""
    return None


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Return the UTF-8 bytes of text in an unstreamed answer."""
    output, size = document.get("output"), 0
    for item in output if isinstance(output, list) else ():
        if isinstance(item, dict):
            parts = item.get("content")
            texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
            size += sum(map(utf8_bytes, texts)) + utf8_bytes(item.get("arguments")) + utf8_bytes(item.get("input"))
    return size


def refusal_response(refusal: Refusal) -> CallerResponse:
    """Build the response to a refusal: 400, on which all measured clients stop."""
    return openai_errors.refusal_response(refusal)


def error_response(error: PenstockError) -> CallerResponse:
    """Build the response to an error, in OpenAI's shape."""
    return openai_errors.error_response(error)


def error_event(error: PenstockError) -> bytes:
    """Build the events for a failure mid-stream: `response.failed` for Codex, `error`, which SDKs raise."""
    details = {"code": error.code, "message": error.message}
    failed_response = {
        "id": "resp_failed", "object": "response", "created_at": 0, "status": "failed", "error": details, "output": [],
        "model": "", "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "usage": None,
    }  # fmt: skip
    return encode_event(
        {"type": "response.failed", "sequence_number": 0, "response": failed_response}, named=True
    ) + encode_event(
        {"type": "error", "sequence_number": 1, "param": None, **details, "error": {"type": "api_error", **details}},
        named=True,
    )


def interruption_event(error: PenstockError) -> bytes:
    """Build the event for the broken stream of a background response, which continues: it has not failed itself."""
    message = f"{error.message} The response continues in the background: retrieve it by its id."
    details = {"code": error.code, "message": message}
    return encode_event(
        {"type": "error", "sequence_number": 0, "param": None, **details, "error": {"type": "api_error", **details}},
        named=True,
    )


def _to_chat_messages(document: _ResponsesFields, kinds: StateKinds) -> Iterator[Message]:
    if isinstance(document.instructions, str) and document.instructions:
        yield Message("system", document.instructions)
    if isinstance(document.input, str):
        yield Message("user", document.input)
        return
    calls: list[dict[str, Any]] = []
    text: str | list[Any] | None = None
    for item in document.input or ():
        kind = item.type or ("item_reference" if _is_reference(item) else "message")
        if kind in _CALL_TYPES:
            arguments = item.arguments if item.arguments is not None else item.input
            calls.append({"id": item.call_id, "function": {"name": item.name or kind, "arguments": arguments}})
            continue
        if kind == "message" and item.role == "assistant" and not calls and text is None:
            text = _content(item.content, kinds)
            continue
        if kind == "reasoning":
            if isinstance(item.encrypted_content, str):
                own = item.encrypted_content.startswith(SEALED_REASONING_PREFIX)
                kinds.add("own_seal" if own else "encrypted_reasoning")
            continue
        if calls or text is not None:
            yield _assistant_message(text, calls)
            calls, text = [], None
        if kind == "message":
            yield Message(str(item.role or "user"), _content(item.content, kinds))
        elif kind.endswith("_output"):
            yield Message("tool", _tool_output(item.output), ABSENT, item.call_id)
        elif kind in ("item_reference", "compaction"):
            kinds.add("stored" if kind == "item_reference" else "encrypted_reasoning")
    if calls or text is not None:
        yield _assistant_message(text, calls)


def _assistant_message(text: str | list[Any] | None, calls: list[dict[str, Any]]) -> Message:
    return Message("assistant", text, msgspec.Raw(msgspec.json.encode(calls)) if calls else ABSENT)


def _content(content: str | list[_InputPart] | None, kinds: StateKinds) -> str | list[Any] | None:
    if not isinstance(content, list):
        return content
    if len(content) == 1 and isinstance(content[0].text, str):
        return content[0].text
    parts: list[Any] = []
    for part in content:
        if isinstance(part.file_id, str):
            kinds.add_file(part.file_id)
        if part.type == "input_audio":
            kinds.add("audio")
        if isinstance(part.text, str):
            parts.append({"text": part.text})
        elif part.type == "input_image":
            url = part.image_url
            inline = len(url) if isinstance(url, str) and url.startswith("data:") else 0
            parts.append({"media_bytes": inline, "media": str(url or part.file_id)[-64:]})
    return parts


def _tool_output(output: Any) -> str | list[Any] | None:
    if isinstance(output, str):
        return output
    parts = [part for part in output if isinstance(part, dict)] if isinstance(output, list) else []
    return [
        {"media_bytes": utf8_bytes(part.get("image_url")), "media": str(part.get("image_url"))[-64:]}
        if "image_url" in part
        else {"text": part.get("text")}
        for part in parts
    ]


def _conversation_id(document: _ResponsesFields) -> str:
    """The id of a conversation stored at the provider, "" without one."""
    conversation = document.conversation
    id_ = conversation.get("id") if isinstance(conversation, dict) else conversation
    return id_ if isinstance(id_, str) else ""


def _referenced_ids(document: _ResponsesFields) -> tuple[str, ...]:
    """Ids of objects stored at the provider: the previous response, the conversation."""
    ids = [document.previous_response_id] if document.previous_response_id else []
    conversation = document.conversation
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    if isinstance(conversation, str):
        ids.append(conversation)
    return tuple(ids)


def _attached_ids(kinds: StateKinds, tools: Sequence[_ResponsesTool]) -> tuple[str, ...]:
    """Ids of the files in the input, and of the vector stores, containers and files of the provider's tools."""
    values = [
        value
        for tool in tools
        if tool.vector_store_ids is not None or tool.container is not None
        for value in (tool.vector_store_ids, tool.container, _files_of(tool.container))
    ]
    return kinds.file_ids + ids_in_values(values) if values else kinds.file_ids


def _files_of(container: Any) -> Any:
    """The files that a container made for the answer begins with."""
    return container.get("file_ids") if isinstance(container, dict) else None


def _item_ids(document: _ResponsesFields) -> tuple[str, ...]:
    """Ids of items stored at the provider that the input refers to."""
    if not isinstance(document.input, list):
        return ()
    return tuple([item.id for item in document.input if _is_reference(item) and isinstance(item.id, str)])


def _is_reference(item: _InputItem) -> bool:
    """Whether an item is a reference; its type may be omitted (OpenAI's reference, July 2026)."""
    return item.type == "item_reference" or (item.type is None and item.role is None and item.id is not None)


def _raw_tools(document: _ResponsesFields) -> list[msgspec.Raw]:
    """Lists of the offered tools, including those in the input."""
    raws = [document.tools]
    if isinstance(document.input, list):
        raws += [item.tools for item in document.input if item.type == "additional_tools"]
    return [raw for raw in raws if is_present(raw)]


def _decoded_tools(raws: list[msgspec.Raw]) -> list[_ResponsesTool] | None:
    """The offered tools, None where they have another shape."""
    try:
        return [tool for raw in raws for tool in _TOOLS.decode(raw)]
    except DECODE_ERRORS:
        return None


def _price_terms(
    document: _ResponsesFields, raw_tools: list[msgspec.Raw], tools: list[_ResponsesTool] | None, *, has_audio: bool
) -> PriceTerms:
    """What the request asks for that changes its price; looks closer only where a field says so."""
    has_tools = tools is None or any(terms.runs_at_provider(tool.type) or tool.tools for tool in tools)
    if not has_tools and not has_audio and _get_price_fields(document) == _NO_PRICE_FIELDS:
        return STANDARD_TERMS
    return terms.price_terms(
        document,
        tools=raw_tools if has_tools else (),
        tool_calls_max=document.max_tool_calls,
        summarizes=terms.may_summarize(document.context_management),
        modalities=document.modalities,
        has_audio_input=has_audio,
    )


def _has_schema(text: msgspec.Raw) -> bool:
    try:
        decoded = _TEXT.decode(text) if is_present(text) else None
    except DECODE_ERRORS:
        return False
    format_ = decoded.format if decoded is not None else None
    return format_ is not None and format_.type in ("json_schema", "json_object")
