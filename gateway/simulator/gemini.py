"""A simulated Gemini API: :generateContent and :streamGenerateContent.

Answers are controlled as in `directives.py`, through `[[sim {...}]]` in the newest user text, and fail as in
`faults.py`. Thoughts are counted beside the answer and returned only on request (`includeThoughts`); the first call of
a thinking model carries a `thoughtSignature` that must come back. A caller may write names in camelCase or snake_case,
as with the real API.
"""

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from . import directives, faults
from .dialects.base import PacedEvent
from .dialects.errors import ApiError
from .dialects.newest_turn import HistoryTurn, newest_turn
from .directives import CHARS_PER_TOKEN, OfferedTool, SimulatedReply, SimulatedRequest
from .issued_ids import IdIssuer
from .usage import PromptCache, output_token_counts

_BODY_BYTES_MAX = 64 * 1024 * 1024
_DEFAULT_MODEL = "gemini-2.5-flash"
Body = dict[str, Any]

# https://cloud.google.com/apis/design/errors
_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FINISH_REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
# https://ai.google.dev/api/generate-content#request-body
_REQUEST_FIELDS = frozenset(
    {
        "cachedContent",
        "contents",
        "generationConfig",
        "model",
        "safetySettings",
        "serviceTier",
        "store",
        "systemInstruction",
        "toolConfig",
        "tools",
    }
)
# Names below these are the caller's, not the API's, and are not converted.
_CALLER_DEFINED_FIELDS = frozenset(
    {"args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"}
)
# Tokens of a small image: https://ai.google.dev/gemini-api/docs/tokens
_IMAGE_TOKENS = 258
# Gemini streams in chunks longer than a token.
_CHUNK_CHARS = 4 * CHARS_PER_TOKEN
# From this generation on a model always thinks, and its calls have ids.
_THINKING_GENERATION = 3
_GENERATION_PATTERN = re.compile(r"gemini-(\d+)")
# Sent by callers in place of a signature they never had: https://ai.google.dev/gemini-api/docs/thought-signatures
_SKIP_SIGNATURE = b"skip_thought_signature_validator"
_MISSING_KEY_MESSAGE = "Method doesn't allow unregistered callers (callers without established identity)."
_UNKNOWN_MODEL_MESSAGE = "models/{} is not found for API version v1beta, or is not supported for {}."
_CALL_COUNT_MESSAGE = (
    "Please ensure that the number of function response parts is equal to the number of function call parts of the"
    " function call turn."
)
_CALL_ORDER_MESSAGE = (
    "Please ensure that function call turn comes immediately after a user turn or after a function response turn."
)
_MISSING_SIGNATURE_MESSAGE = (
    "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly,"
    " and missing thought_signature may lead to degraded model performance."
)


class SimulatedGemini:
    """One model on one port.

    `request_bodies`, `request_headers` and `request_paths` are those of the requests received, oldest first, bounded.
    `key`: the only accepted one; None accepts any, but requires one. `strict`: refuse what the real API refuses.
    """

    def __init__(self, model: str = _DEFAULT_MODEL, *, key: str | None = None, strict: bool = True) -> None:
        generation = _GENERATION_PATTERN.match(model)
        self._model, self._api_key, self._strict = model, key, strict
        self._always_thinks = generation is not None and int(generation[1]) >= _THINKING_GENERATION
        self._runner: web.AppRunner | None = None
        self._prompt_cache = PromptCache()
        self._ids = IdIssuer("", f"gemini/{model}")
        self.request_bodies: list[bytes] = []
        self.request_headers: list[dict[str, str]] = []
        self.request_paths: list[str] = []
        self.disconnects = 0
        self.max_recorded_requests = 1000

    async def start(self, port: int = 0) -> str:
        """Listen on loopback; returns the base URL, which ends with the API's version."""
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        app.router.add_post("/v1beta/models/{model}:{method}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1beta"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        if len(self.request_bodies) < self.max_recorded_requests:
            self.request_bodies.append(raw)
            self.request_headers.append(dict(request.headers))
            self.request_paths.append(request.path_qs)
        try:
            return await self._answer(request, raw)
        except (asyncio.CancelledError, ConnectionError):
            self.disconnects += 1
            raise

    async def _answer(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        number = self._ids.next_number()
        access_error = self._access_error(request)
        if access_error is not None:
            return _error_response(access_error)
        try:
            body: Body = _to_camel_case(orjson.loads(raw))
            parsed = self._parse_request(body)
            validation_error = next(self._validation_errors(body, parsed), None) if self._strict else None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            return _error_response(ApiError(message=f"Invalid JSON payload received. {error!r}"))
        directive = directives.directive_in(parsed)
        fault = str(directive.get("fault") or "")
        refusal = faults.error_for(fault) or validation_error
        if refusal is not None:
            return _error_response(refusal)
        if fault == "hang":
            await faults.hang()
        if fault == "not_json":
            return web.Response(text="<html>bad gateway</html>", content_type="text/html")
        reply = directives.reply_to(directive, parsed)
        usage = None if fault == "no_usage" else self._usage(body, parsed, reply, directive)
        if request.match_info["method"] == "streamGenerateContent":
            return await self._send_stream(request, list(self._chunks(body, number, reply, usage)), fault)
        document = self._document(number, self._parts(body, number, reply), usage, _finish_reason(reply))
        return await self._send_document(request, document, fault)

    async def _send_document(self, request: web.Request, document: Body, fault: str) -> web.StreamResponse:
        content = b"\xff\xfe{{{" if fault == "garbage" else orjson.dumps(document)
        if fault not in faults.INTERRUPTING_FAULTS:
            return web.Response(body=content, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        await faults.interrupt(request, response, fault)
        return response

    async def _send_stream(self, request: web.Request, chunks: Sequence[Body], fault: str) -> web.StreamResponse:
        if request.query.get("alt") != "sse":
            return web.Response(body=orjson.dumps(chunks), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events: list[PacedEvent] = [(_sse_event(chunk), chunk is not chunks[-1]) for chunk in chunks]
        broken = faults.interruption_index(fault, events)
        if fault == "garbage":
            events.insert(0, (b"data: \xff{not json\r\n\r\n", False))
        await response.write(b"".join(event for event, _ in events[:broken]))
        if fault == "error_event":
            overloaded = ApiError(status=503, message="The model is overloaded. Please try again later.")
            await response.write(_sse_event(_error_body(overloaded)))
        if fault in faults.INTERRUPTING_FAULTS:
            await faults.interrupt(request, response, fault)
        else:
            await response.write_eof()
        return response

    def _parse_request(self, body: Body) -> SimulatedRequest:
        """The request in dialect-neutral form."""
        generation, contents = body.get("generationConfig") or {}, body.get("contents") or []
        turn = newest_turn(_turns_newest_first(contents))
        images, files = _attachment_counts(contents)
        return SimulatedRequest(
            text=turn.text,
            prompt=turn.prompt,
            tool_results=turn.tool_results,
            step=turn.step,
            image_count=images,
            file_count=files,
            tools=tuple(_offered_tools(body)),
            tool_choice=_tool_choice(body),
            output_schema=_output_schema(generation),
            wants_thinking=self._always_thinks or _thinking_enabled(generation),
            max_output_tokens=generation.get("maxOutputTokens"),
        )

    def _access_error(self, request: web.Request) -> ApiError | None:
        """Why this caller or path is not served."""
        key = request.headers.get("x-goog-api-key") or request.query.get("key")
        if not key:
            return ApiError(status=403, message=_MISSING_KEY_MESSAGE)
        if self._api_key not in (None, key):
            return ApiError(message="API key not valid. Please pass a valid API key.")
        model, method = request.match_info["model"], request.match_info["method"]
        if model != self._model or method not in ("generateContent", "streamGenerateContent"):
            return ApiError(status=404, message=_UNKNOWN_MODEL_MESSAGE.format(model, method))
        return None

    def _validation_errors(self, body: Body, parsed: SimulatedRequest) -> Iterator[ApiError]:
        """What the real API would reject, most important first."""
        for name in body:
            if name not in _REQUEST_FIELDS:
                yield ApiError(message=f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
        contents = body.get("contents") or []
        if not contents:
            yield ApiError(message="* GenerateContentRequest.contents: contents is not specified\n")
        previous: list[Body] | None = None
        for index, content in enumerate(contents):
            parts: list[Body] = content.get("parts") or []
            if not parts:
                field = f"GenerateContentRequest.contents[{index}].parts"
                yield ApiError(message=f"* {field}: contents.parts must not be empty.\n")
            calls, results = _parts_of_kind(parts, "functionCall"), _parts_of_kind(parts, "functionResponse")
            called = _parts_of_kind(previous or [], "functionCall")
            if len(called) != len(results):
                yield ApiError(message=_CALL_COUNT_MESSAGE)
            if calls and (previous is None or called):
                yield ApiError(message=_CALL_ORDER_MESSAGE)
            previous = parts
        if parsed.wants_thinking:
            yield from self._signature_errors(contents)

    def _signature_errors(self, contents: Sequence[Body]) -> Iterator[ApiError]:
        """Missing or invalid signatures of calls since the newest user text.

        The first call of each turn must carry the signature it was issued with.
        """
        start = max((index for index, content in enumerate(contents) if _opens_user_turn(content)), default=0)
        for index, content in enumerate(contents[start:], start):
            part = next((part for part in content.get("parts") or [] if "functionCall" in part), None)
            if part is None:
                continue
            name, signature = part["functionCall"].get("name"), part.get("thoughtSignature")
            if not signature:
                details = f" Additional data, function call `default_api:{name}`, position {index + 1}."
                yield ApiError(message=_MISSING_SIGNATURE_MESSAGE + details)
            elif not (
                self._ids.is_signed(_signed_content(part["functionCall"]), signature) or _skips_validation(signature)
            ):
                yield ApiError(message="Corrupted thought signature.")

    def _parts(self, body: Body, number: int, reply: SimulatedReply) -> list[Body]:
        includes_thoughts = _thinking_config(body.get("generationConfig") or {}).get("includeThoughts")
        parts: list[Body] = [{"text": reply.thinking, "thought": True}] if reply.thinking and includes_thoughts else []
        if reply.text or not reply.tool_calls:
            parts.append({"text": reply.text})
        for index, call in enumerate(reply.tool_calls):
            function_call: Body = {"name": call.name, "args": json.loads(call.arguments)}
            if self._always_thinks:
                function_call = {"id": call.id or self._ids.id("", number, index, length=8), **function_call}
            part: Body = {"functionCall": function_call}
            if index == 0 and reply.thinking:
                part["thoughtSignature"] = self._ids.sign(_signed_content(function_call))
            parts.append(part)
        return parts

    def _chunks(self, body: Body, number: int, reply: SimulatedReply, usage: Body | None) -> Iterator[Body]:
        """The parts, long texts in chunks, then the finish with the full usage.

        Earlier chunks report the prompt's usage only.
        """
        early = {name: (usage or {}).get(name) for name in ("promptTokenCount", "promptTokensDetails")}
        prompt_usage = None if usage is None else {**early, "totalTokenCount": early["promptTokenCount"]}
        for part in self._parts(body, number, reply):
            text = part.get("text")
            pieces = (
                [part]
                if not text
                else [{**part, "text": text[offset : offset + _CHUNK_CHARS]} for offset in _chunk_offsets(text)]
            )
            for piece in pieces:
                yield self._document(number, [piece], prompt_usage, None)
        yield self._document(number, [{"text": ""}], usage, _finish_reason(reply))

    def _document(self, number: int, parts: Sequence[Body], usage: Body | None, finish: str | None) -> Body:
        candidate: Body = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = finish
        document: Body = {"candidates": [candidate], "modelVersion": self._model, "responseId": f"sim{number}"}
        if usage is not None:
            document["usageMetadata"] = usage
        return document

    def _usage(
        self, body: Body, parsed: SimulatedRequest, reply: SimulatedReply, directive: directives.Directive
    ) -> Body:
        """Usage: thoughts beside the answer's tokens, cached tokens within the prompt's."""
        text_bytes = len(orjson.dumps([body.get("systemInstruction"), body.get("tools")]))
        text_bytes += sum(len(orjson.dumps(_without_inline_data(content))) for content in body.get("contents") or [])
        text_tokens, image_tokens = text_bytes // CHARS_PER_TOKEN, parsed.image_count * _IMAGE_TOKENS
        prompt_tokens = text_tokens + image_tokens
        count, thoughts = output_token_counts(reply, directive.get("output_tokens"), parsed.max_output_tokens)
        details = [{"modality": "TEXT", "tokenCount": text_tokens}]
        details += [{"modality": "IMAGE", "tokenCount": image_tokens}] if image_tokens else []
        usage: Body = {
            "promptTokenCount": prompt_tokens,
            "candidatesTokenCount": count - thoughts,
            "totalTokenCount": prompt_tokens + count,
            "promptTokensDetails": details,
        }
        opening = [body.get("systemInstruction"), body.get("tools"), (body.get("contents") or [])[:1]]
        cached = self._prompt_cache.openai_cached_tokens(opening, prompt_tokens)
        return {
            **usage,
            **({"thoughtsTokenCount": thoughts} if thoughts else {}),
            **({"cachedContentTokenCount": cached} if cached else {}),
        }


def _to_camel_case(value: Any) -> Any:
    """All of the API's own names in camelCase."""
    if isinstance(value, list):
        return [_to_camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = ((re.sub(r"_([a-z])", lambda match: match[1].upper(), name), item) for name, item in value.items())
    return {name: item if name in _CALLER_DEFINED_FIELDS else _to_camel_case(item) for name, item in named}


def _parts_of_kind(parts: Sequence[Body], kind: str) -> list[Body]:
    return [part[kind] for part in parts if kind in part]


def _turns_newest_first(contents: Sequence[Body]) -> Iterator[HistoryTurn]:
    for content in reversed(contents):
        parts: list[Body] = content.get("parts") or []
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str) and not part.get("thought")]
        if content.get("role") == "model":
            yield HistoryTurn("model", texts)
            continue
        results = _parts_of_kind(parts, "functionResponse")
        if texts or not results:
            yield HistoryTurn("user", texts)
        for result in reversed(results):
            yield HistoryTurn("tool", [_tool_result_text(result.get("response"))])


def _tool_result_text(response: Any) -> str:
    """The text of a tool's result: its only field if that is text, else its JSON."""
    if isinstance(response, Mapping) and len(response) == 1:
        (only,) = response.values()
        if isinstance(only, str):
            return only
    return orjson.dumps(response).decode()


def _opens_user_turn(content: Body) -> bool:
    """Whether a user opens a turn here; text beside tool results does not."""
    parts: list[Body] = content.get("parts") or []
    return (
        content.get("role") != "model"
        and not _parts_of_kind(parts, "functionResponse")
        and any("text" in part for part in parts)
    )


def _attachment_counts(contents: Sequence[Body]) -> tuple[int, int]:
    """(images, other files), those in tool results included."""
    parts = [part for content in contents for part in content.get("parts") or []]
    parts += [inner for result in _parts_of_kind(parts, "functionResponse") for inner in result.get("parts") or []]
    data = [part.get("inlineData") or part.get("fileData") for part in parts]
    kinds = [str(attachment.get("mimeType")) for attachment in data if attachment]
    images = sum(kind.startswith("image/") for kind in kinds)
    return images, len(kinds) - images


def _without_inline_data(value: Any) -> Any:
    """The value without the bytes of attachments, which do not count as text."""
    if isinstance(value, list):
        return [_without_inline_data(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_inline_data(item) for name, item in value.items() if name != "inlineData"}
    return value


def _offered_tools(body: Body) -> Iterator[OfferedTool]:
    for tool in body.get("tools") or []:
        for function in tool.get("functionDeclarations") or []:
            schema = function.get("parametersJsonSchema") or function.get("parameters")
            yield OfferedTool(name=function["name"], schema=_lowercase_types(schema))


def _tool_choice(body: Body) -> str:
    config = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    allowed = config.get("allowedFunctionNames") or []
    if config.get("mode") == "ANY":
        return f"tool:{allowed[0]}" if len(allowed) == 1 else "required"
    return "none" if config.get("mode") == "NONE" else "auto"


def _output_schema(generation: Body) -> Any:
    schema = generation.get("responseJsonSchema") or generation.get("responseSchema")
    if schema is None and generation.get("responseMimeType") == "application/json":
        return {"type": "object"}
    return _lowercase_types(schema)


def _lowercase_types(schema: Any) -> Any:
    """A schema with Google's upper-case type names in JSON Schema's lower case."""
    if isinstance(schema, list):
        return [_lowercase_types(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: item.lower() if name == "type" and isinstance(item, str) else _lowercase_types(item)
        for name, item in schema.items()
    }


def _thinking_config(generation: Body) -> Body:
    return generation.get("thinkingConfig") or {}


def _thinking_enabled(generation: Body) -> bool:
    config = _thinking_config(generation)
    return bool(config) and config.get("thinkingBudget") != 0


def _signed_content(call: Body) -> str:
    """What a signature covers."""
    return f"{call.get('name')} {json.dumps(call.get('args') or {}, sort_keys=True)}"


def _skips_validation(signature: str) -> bool:
    return signature in (_SKIP_SIGNATURE.decode(), base64.b64encode(_SKIP_SIGNATURE).decode())


def _chunk_offsets(text: str) -> range:
    return range(0, len(text), _CHUNK_CHARS)


def _finish_reason(reply: SimulatedReply) -> str:
    return _FINISH_REASONS.get(reply.finish_reason, reply.finish_reason)


def _sse_event(document: Body) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\r\n\r\n"


def _error_body(refusal: ApiError) -> Body:
    status = refusal.status
    error: Body = {"code": status, "message": refusal.message, "status": _STATUS_NAMES.get(status, "INTERNAL")}
    after = refusal.headers.get("Retry-After")
    if after is not None:
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{after}s"}]
    return {"error": error}


def _error_response(error: ApiError) -> web.Response:
    """The error response; Google puts the retry delay in the body."""
    content = orjson.dumps(_error_body(error))
    return web.Response(status=error.status, body=content, content_type="application/json")
