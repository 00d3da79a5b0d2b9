"""A simulated Gemini API, for what reaches a foreign wire: POST /v1beta/models/NAME:generateContent and
:streamGenerateContent.

Answers are ordered as in `script.py`, through `[[sim {...}]]` in the newest user text, and go wrong as in `faults.py`.
Thoughts are counted beside the answer and shown only to who asks (`includeThoughts`); the first call of a thinking
model carries a `thoughtSignature` that must come back. A caller may write names in camelCase or snake_case, as the real
API lets it.
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
from .dialects.base import Event
from .dialects.errors import Complaint
from .dialects.newest_turn import Turn, newest
from .directives import CHARS_PER_TOKEN, Asked, Reply, Tool
from .issued_ids import Mint
from .usage import Meter, written

_BODY_BYTES_MAX = 64 * 1024 * 1024
_DEFAULT_MODEL = "gemini-2.5-flash"
Body = dict[str, Any]

# https://cloud.google.com/apis/design/errors
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FINISHES = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
# https://ai.google.dev/api/generate-content#request-body
_FIELDS = frozenset(
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
# What lies below these is the caller's, not the API's; its names stay as they are.
_CALLERS = frozenset({"args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"})
# https://ai.google.dev/gemini-api/docs/tokens: a small image is always as many.
_IMAGE_TOKENS = 258
# Gemini streams in longer pieces than a token.
_PIECE = 4 * CHARS_PER_TOKEN
# From this generation on a model always thinks, and numbers its calls.
_THINKING_GENERATION = 3
_GENERATION = re.compile(r"gemini-(\d+)")
# What callers may send in place of a signature they never had: https://ai.google.dev/gemini-api/docs/thought-signatures
_SKIPPED = b"skip_thought_signature_validator"
_NO_KEY = "Method doesn't allow unregistered callers (callers without established identity)."
_NO_MODEL = "models/{} is not found for API version v1beta, or is not supported for {}."
_UNEVEN = (
    "Please ensure that the number of function response parts is equal to the number of function call parts of the"
    " function call turn."
)
_MISPLACED = (
    "Please ensure that function call turn comes immediately after a user turn or after a function response turn."
)
_UNSIGNED = (
    "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly,"
    " and missing thought_signature may lead to degraded model performance."
)


class SimulatedGemini:
    """One model behind one port. `received` are the bodies it got, oldest first, `headers` and `paths` what they came with.

    `key`: the only one that is let in; None lets in any, but not none. `strict`: refuse what the real API refuses.
    """

    def __init__(self, model: str = _DEFAULT_MODEL, *, key: str | None = None, strict: bool = True) -> None:
        generation = _GENERATION.match(model)
        self._model, self._key, self._strict = model, key, strict
        self._always_thinks = generation is not None and int(generation[1]) >= _THINKING_GENERATION
        self._runner: web.AppRunner | None = None
        self._meter = Meter()
        self._mint = Mint("", f"gemini/{model}")
        self.received: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.hung_up = 0
        self.keep = 1000

    async def start(self, port: int = 0) -> str:
        """Listen on loopback; gives the base URL, which ends with the API's version."""
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
        if len(self.received) < self.keep:
            self.received.append(raw)
            self.headers.append(dict(request.headers))
            self.paths.append(request.path_qs)
        try:
            return await self._answer(request, raw)
        except (asyncio.CancelledError, ConnectionError):
            self.hung_up += 1
            raise

    async def _answer(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        number = self._mint.number()
        stranger = self._stranger(request)
        if stranger is not None:
            return _refused(stranger)
        try:
            body: Body = _camel(orjson.loads(raw))
            asked = self._read(body)
            wrong = next(self._complaints(body, asked), None) if self._strict else None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            return _refused(Complaint(message=f"Invalid JSON payload received. {error!r}"))
        order = directives.order_in(asked)
        fault = str(order.get("fault") or "")
        complaint = faults.refusal(fault) or wrong
        if complaint is not None:
            return _refused(complaint)
        if fault == "hang":
            await faults.hang()
        if fault == "not_json":
            return web.Response(text="<html>bad gateway</html>", content_type="text/html")
        reply = directives.answer(order, asked)
        usage = None if fault == "no_usage" else self._usage(body, asked, reply, order)
        if request.match_info["method"] == "streamGenerateContent":
            return await self._stream(request, list(self._chunks(body, number, reply, usage)), fault)
        document = self._document(number, self._parts(body, number, reply), usage, _finish(reply))
        return await self._whole(request, document, fault)

    async def _whole(self, request: web.Request, document: Body, fault: str) -> web.StreamResponse:
        content = b"\xff\xfe{{{" if fault == "garbage" else orjson.dumps(document)
        if fault not in faults.BREAKS:
            return web.Response(body=content, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        await faults.break_off(request, response, fault)
        return response

    async def _stream(self, request: web.Request, chunks: Sequence[Body], fault: str) -> web.StreamResponse:
        if request.query.get("alt") != "sse":
            return web.Response(body=orjson.dumps(chunks), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events: list[Event] = [(_event(chunk), chunk is not chunks[-1]) for chunk in chunks]
        broken = faults.breaks_at(fault, events)
        if fault == "garbage":
            events.insert(0, (b"data: \xff{not json\r\n\r\n", False))
        await response.write(b"".join(event for event, _ in events[:broken]))
        if fault == "error_event":
            overloaded = Complaint(status=503, message="The model is overloaded. Please try again later.")
            await response.write(_event(_error(overloaded)))
        if fault in faults.BREAKS:
            await faults.break_off(request, response, fault)
        else:
            await response.write_eof()
        return response

    # reading

    def _read(self, body: Body) -> Asked:
        """The request in neutral words."""
        generation, contents = body.get("generationConfig") or {}, body.get("contents") or []
        turn = newest(_backwards(contents))
        images, files = _attached(contents)
        return Asked(
            text=turn.text,
            prompt=turn.prompt,
            results=turn.results,
            step=turn.step,
            images=images,
            files=files,
            tools=tuple(_tools(body)),
            choice=_choice(body),
            schema=_schema(generation),
            thinks=self._always_thinks or _thinks(generation),
            limit=generation.get("maxOutputTokens"),
        )

    def _stranger(self, request: web.Request) -> Complaint | None:
        """Why this caller or this address is not served."""
        key = request.headers.get("x-goog-api-key") or request.query.get("key")
        if not key:
            return Complaint(status=403, message=_NO_KEY)
        if self._key not in (None, key):
            return Complaint(message="API key not valid. Please pass a valid API key.")
        model, method = request.match_info["model"], request.match_info["method"]
        if model != self._model or method not in ("generateContent", "streamGenerateContent"):
            return Complaint(status=404, message=_NO_MODEL.format(model, method))
        return None

    def _complaints(self, body: Body, asked: Asked) -> Iterator[Complaint]:
        """What the real API would reject, the first thing first."""
        for name in body:
            if name not in _FIELDS:
                yield Complaint(message=f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
        contents = body.get("contents") or []
        if not contents:
            yield Complaint(message="* GenerateContentRequest.contents: contents is not specified\n")
        before: list[Body] | None = None
        for place, content in enumerate(contents):
            parts: list[Body] = content.get("parts") or []
            if not parts:
                field = f"GenerateContentRequest.contents[{place}].parts"
                yield Complaint(message=f"* {field}: contents.parts must not be empty.\n")
            calls, results = _of(parts, "functionCall"), _of(parts, "functionResponse")
            called = _of(before or [], "functionCall")
            if len(called) != len(results):
                yield Complaint(message=_UNEVEN)
            if calls and (before is None or called):
                yield Complaint(message=_MISPLACED)
            before = parts
        if asked.thinks:
            yield from self._unsigned(contents)

    def _unsigned(self, contents: Sequence[Body]) -> Iterator[Complaint]:
        """Of the calls since the newest user text, the first of each turn must carry the signature it was given."""
        start = max((place for place, content in enumerate(contents) if _said(content)), default=0)
        for place, content in enumerate(contents[start:], start):
            part = next((part for part in content.get("parts") or [] if "functionCall" in part), None)
            if part is None:
                continue
            name, signature = part["functionCall"].get("name"), part.get("thoughtSignature")
            if not signature:
                more = f" Additional data, function call `default_api:{name}`, position {place + 1}."
                yield Complaint(message=_UNSIGNED + more)
            elif not (self._mint.signed(_signed(part["functionCall"]), signature) or _skips(signature)):
                yield Complaint(message="Corrupted thought signature.")

    # wording

    def _parts(self, body: Body, number: int, reply: Reply) -> list[Body]:
        shown = _thinking(body.get("generationConfig") or {}).get("includeThoughts")
        parts: list[Body] = [{"text": reply.thinking, "thought": True}] if reply.thinking and shown else []
        if reply.text or not reply.calls:
            parts.append({"text": reply.text})
        for index, call in enumerate(reply.calls):
            made: Body = {"name": call.name, "args": json.loads(call.arguments)}
            if self._always_thinks:
                made = {"id": call.id or self._mint.id("", number, index, length=8), **made}
            part: Body = {"functionCall": made}
            if index == 0 and reply.thinking:
                part["thoughtSignature"] = self._mint.sign(_signed(made))
            parts.append(part)
        return parts

    def _chunks(self, body: Body, number: int, reply: Reply, usage: Body | None) -> Iterator[Body]:
        """The parts, long texts in pieces, then the finish with the whole usage; the others know the prompt's alone."""
        early = {name: (usage or {}).get(name) for name in ("promptTokenCount", "promptTokensDetails")}
        running = None if usage is None else {**early, "totalTokenCount": early["promptTokenCount"]}
        for part in self._parts(body, number, reply):
            text = part.get("text")
            pieces = [part] if not text else [{**part, "text": text[at : at + _PIECE]} for at in _starts(text)]
            for piece in pieces:
                yield self._document(number, [piece], running, None)
        yield self._document(number, [{"text": ""}], usage, _finish(reply))

    def _document(self, number: int, parts: Sequence[Body], usage: Body | None, finish: str | None) -> Body:
        candidate: Body = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = finish
        document: Body = {"candidates": [candidate], "modelVersion": self._model, "responseId": f"sim{number}"}
        if usage is not None:
            document["usageMetadata"] = usage
        return document

    def _usage(self, body: Body, asked: Asked, reply: Reply, order: directives.Order) -> Body:
        """Thoughts lie beside the answer's tokens, what was cached within the prompt's."""
        texts = len(orjson.dumps([body.get("systemInstruction"), body.get("tools")]))
        texts += sum(len(orjson.dumps(_without_data(content))) for content in body.get("contents") or [])
        text, images = texts // CHARS_PER_TOKEN, asked.images * _IMAGE_TOKENS
        given = text + images
        count, thoughts = written(reply, order.get("output_tokens"), asked.limit)
        details = [{"modality": "TEXT", "tokenCount": text}]
        details += [{"modality": "IMAGE", "tokenCount": images}] if images else []
        usage: Body = {
            "promptTokenCount": given,
            "candidatesTokenCount": count - thoughts,
            "totalTokenCount": given + count,
            "promptTokensDetails": details,
        }
        opening = [body.get("systemInstruction"), body.get("tools"), (body.get("contents") or [])[:1]]
        cached = self._meter.cached(opening, given)
        return {
            **usage,
            **({"thoughtsTokenCount": thoughts} if thoughts else {}),
            **({"cachedContentTokenCount": cached} if cached else {}),
        }


def _camel(value: Any) -> Any:
    """All of the API's own names in camelCase."""
    if isinstance(value, list):
        return [_camel(one) for one in value]
    if not isinstance(value, dict):
        return value
    named = ((re.sub(r"_([a-z])", lambda found: found[1].upper(), name), one) for name, one in value.items())
    return {name: one if name in _CALLERS else _camel(one) for name, one in named}


def _of(parts: Sequence[Body], kind: str) -> list[Body]:
    return [part[kind] for part in parts if kind in part]


def _backwards(contents: Sequence[Body]) -> Iterator[Turn]:
    for content in reversed(contents):
        parts: list[Body] = content.get("parts") or []
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str) and not part.get("thought")]
        if content.get("role") == "model":
            yield Turn("model", texts)
            continue
        results = _of(parts, "functionResponse")
        if texts or not results:
            yield Turn("user", texts)
        for result in reversed(results):
            yield Turn("tool", [_told(result.get("response"))])


def _told(response: Any) -> str:
    """What a tool said: the only text of its answer, else the answer's JSON."""
    if isinstance(response, Mapping) and len(response) == 1:
        (only,) = response.values()
        if isinstance(only, str):
            return only
    return orjson.dumps(response).decode()


def _said(content: Body) -> bool:
    """Whether a user opens a turn here; text beside tool results does not."""
    parts: list[Body] = content.get("parts") or []
    return (
        content.get("role") != "model" and not _of(parts, "functionResponse") and any("text" in part for part in parts)
    )


def _attached(contents: Sequence[Body]) -> tuple[int, int]:
    """How many images there are, and how many other files, tool results included."""
    parts = [part for content in contents for part in content.get("parts") or []]
    parts += [inner for result in _of(parts, "functionResponse") for inner in result.get("parts") or []]
    data = [part.get("inlineData") or part.get("fileData") for part in parts]
    kinds = [str(one.get("mimeType")) for one in data if one]
    images = sum(kind.startswith("image/") for kind in kinds)
    return images, len(kinds) - images


def _without_data(value: Any) -> Any:
    """The same without the bytes of attachments, which do not count as text."""
    if isinstance(value, list):
        return [_without_data(one) for one in value]
    if isinstance(value, dict):
        return {name: _without_data(one) for name, one in value.items() if name != "inlineData"}
    return value


def _tools(body: Body) -> Iterator[Tool]:
    for tool in body.get("tools") or []:
        for function in tool.get("functionDeclarations") or []:
            schema = function.get("parametersJsonSchema") or function.get("parameters")
            yield Tool(name=function["name"], schema=_lower(schema))


def _choice(body: Body) -> str:
    config = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    allowed = config.get("allowedFunctionNames") or []
    if config.get("mode") == "ANY":
        return f"tool:{allowed[0]}" if len(allowed) == 1 else "required"
    return "none" if config.get("mode") == "NONE" else "auto"


def _schema(generation: Body) -> Any:
    schema = generation.get("responseJsonSchema") or generation.get("responseSchema")
    if schema is None and generation.get("responseMimeType") == "application/json":
        return {"type": "object"}
    return _lower(schema)


def _lower(schema: Any) -> Any:
    """A schema whose types may be shouted, as Google's are, in JSON schema's words."""
    if isinstance(schema, list):
        return [_lower(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: one.lower() if name == "type" and isinstance(one, str) else _lower(one) for name, one in schema.items()
    }


def _thinking(generation: Body) -> Body:
    return generation.get("thinkingConfig") or {}


def _thinks(generation: Body) -> bool:
    config = _thinking(generation)
    return bool(config) and config.get("thinkingBudget") != 0


def _signed(call: Body) -> str:
    """What a signature vouches for."""
    return f"{call.get('name')} {json.dumps(call.get('args') or {}, sort_keys=True)}"


def _skips(signature: str) -> bool:
    return signature in (_SKIPPED.decode(), base64.b64encode(_SKIPPED).decode())


def _starts(text: str) -> range:
    return range(0, len(text), _PIECE)


def _finish(reply: Reply) -> str:
    return _FINISHES.get(reply.finish, reply.finish)


def _event(document: Body) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\r\n\r\n"


def _error(complaint: Complaint) -> Body:
    status = complaint.status
    error: Body = {"code": status, "message": complaint.message, "status": _STATUSES.get(status, "INTERNAL")}
    after = complaint.headers.get("Retry-After")
    if after is not None:
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{after}s"}]
    return {"error": error}


def _refused(complaint: Complaint) -> web.Response:
    """The refusal; when to come back is told in the body, where Google tells it."""
    content = orjson.dumps(_error(complaint))
    return web.Response(status=complaint.status, body=content, content_type="application/json")
