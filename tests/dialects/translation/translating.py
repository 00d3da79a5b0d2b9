"""Translates the minimal request of a dialect, with fields added, for tests."""

import json
from collections.abc import Sequence
from typing import Any

from gateway.dialects import PARSERS, lenient_json
from gateway.dialects.translation import TranslatedStream, Translator
from gateway.dialects.translation.translated import AnswerTranslator, TranslatedRequest
from gateway.values.errors import NotTranslatable
from tests.dialects.translation.dialect_clients import CLIENTS, ReceivedAnswer

USER = [{"role": "user", "content": "hi"}]


FUNCTION = {"name": "f", "parameters": {"type": "object"}}


MINIMAL_BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": USER},
    "messages": {"messages": USER, "max_tokens": 9},
    "responses": {"input": "hi"},
}


def translator(dialect: str, **fields: Any) -> Translator:
    """The translator of a request in this dialect."""
    return Translator(PARSERS[dialect](json.dumps({"model": "m", **MINIMAL_BODIES[dialect], **fields}).encode()))


def translate(dialect: str, to: str, *, extended: bool = False, **fields: Any) -> TranslatedRequest:
    """The request in another dialect; raises NotTranslatable."""
    translated = translator(dialect, **fields).translate(to, extended=extended)
    if isinstance(translated, NotTranslatable):
        raise translated
    return translated


def answer_translator(dialect: str, to: str, *, extended: bool = False, **fields: Any) -> AnswerTranslator:
    """The translator of the answer to such a request."""
    translated = translate(dialect, to, extended=extended, **fields)
    return translator(dialect, **fields).answer_translator(translated, to, answer_id="a", created=1)


THINKING_FIELDS: dict[str, dict[str, Any]] = {"messages": {"thinking": {"type": "adaptive"}}}


def received(
    caller: str, upstream: str, answer: dict[str, Any] | Sequence[dict[str, Any]], **fields: Any
) -> tuple[ReceivedAnswer, list[str]]:
    """What a caller who asked for thinking reads of an answer, whole or as a stream, and the names of what was lost."""
    fields = {**THINKING_FIELDS.get(caller, {}), **fields}
    if isinstance(answer, dict):
        translator = answer_translator(caller, upstream, **fields)
        body = lenient_json.dumps(translator.translate_document(answer))
        return CLIENTS[caller].parse_answer(json.loads(body)), [loss.name for loss in translator.losses()]
    if caller == "chat":
        fields["stream_options"] = {"include_usage": True}
    translator = answer_translator(caller, upstream, stream=True, **fields)
    stream = TranslatedStream(translator, chat=caller == "chat")
    out = b"".join(stream.feed(b"data: " + provider_json(payload) + b"\n\n") for payload in answer) + stream.finish()
    return CLIENTS[caller].parse_stream(out), [loss.name for loss in translator.losses()]


def provider_json(payload: dict[str, Any]) -> bytes:
    """The payload as a careless provider encodes it: bytes of cut characters as they are, or lone surrogates escaped."""
    try:
        return json.dumps(payload, ensure_ascii=False).encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return json.dumps(payload).encode()


USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def chat_answer(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    """An unstreamed answer of chat completions."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE, **more}


def chat_chunks(*deltas: dict[str, Any], reason: str = "stop") -> list[dict[str, Any]]:
    """A stream of chat completions."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    return [*chunks, {**head, "choices": [], "usage": USAGE}]
