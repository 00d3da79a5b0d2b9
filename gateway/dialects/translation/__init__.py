"""Between dialects: a caller of one before a deployment that speaks another. Pure; one file per pair and direction.

`Carrier` decides in which dialect a deployment is spoken to and carries the request there; `CrossedStream` brings a
stream back. Where a deployment speaks the caller's dialect nothing here is used.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from ...providers import litellm
from ...values.errors import BadRequest, NotTranslatable
from ...values.request import Request
from .. import body as bodies
from .. import sse
from . import chat_to_messages, messages_to_chat, responses_to_chat, responses_to_messages
from .translated import AnswerTranslator, TranslatedRequest, Translation

# What reading a document of the wrong shape may raise.
_SHAPE_ERRORS = (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError)
_TRANSLATIONS: Mapping[tuple[str, str], Translation] = {
    ("messages", "chat"): messages_to_chat,
    ("responses", "chat"): responses_to_chat,
    ("chat", "messages"): chat_to_messages,
    ("responses", "messages"): responses_to_messages,
}


def upstream_dialect_of(dialect: str, speaks: Iterable[str]) -> str | None:
    """The dialect in which a caller of `dialect` is served by who speaks `speaks`: the same, else one that can be
    crossed to; None if there is no way."""
    return (
        dialect if dialect in speaks else next((other for other in speaks if (dialect, other) in _TRANSLATIONS), None)
    )


class Translator:
    """Carries one request to other dialects, each once."""

    __slots__ = ("_document", "_request", "_translated")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._document: dict[str, Any] | None = None
        self._translated: dict[tuple[str, bool], TranslatedRequest | NotTranslatable] | None = None

    def translate(self, speech: str, *, extended: bool) -> TranslatedRequest | NotTranslatable:
        """The request in another dialect, or why it cannot be said there."""
        if self._translated is None:
            self._translated = {}
        found = self._translated.get((speech, extended))
        if found is None:
            found = self._translated[speech, extended] = self._translate(speech, extended)
        return found

    def litellm_refusal(self, speech: str) -> NotTranslatable | None:
        """What of a request in litellm's own dialect may not reach it, None if all may."""
        try:
            return litellm.unsupported_content(self._parsed_body(), speech)
        except BadRequest as wrong:
            return NotTranslatable("body", wrong.message)

    def _parsed_body(self) -> dict[str, Any]:
        if self._document is None:
            self._document = bodies.parse_document(self._request.body)
        return self._document

    def _translate(self, speech: str, extended: bool) -> TranslatedRequest | NotTranslatable:
        try:
            document = self._parsed_body()
            found = _TRANSLATIONS[self._request.dialect, speech].translate_request(document, extended=extended)
            # What cannot be written again is found out here, not once it is paid for.
            orjson.dumps([found.document, document])
        except NotTranslatable as why:
            return why
        except BadRequest as wrong:
            return NotTranslatable("body", wrong.message)
        except _SHAPE_ERRORS:
            return NotTranslatable(
                "body", "a field does not have the shape that its dialect gives it, or nests too deeply"
            )
        if extended and speech in litellm.SUPPORTED_DIALECTS:
            return litellm.unsupported_content(found.document, speech) or found
        return found

    def answer_translator(
        self, translated: TranslatedRequest, speech: str, *, answer_id: str, created: int
    ) -> AnswerTranslator:
        """The way back of the answer to what was carried."""
        return _TRANSLATIONS[self._request.dialect, speech].answer_translator(
            translated, answer_id=answer_id, created=created
        )


class TranslatedStream:
    """Events of the provider's dialect in, bytes of the caller's out; the meter has read them before."""

    __slots__ = ("_is_chat", "_translator")

    def __init__(self, back: AnswerTranslator, *, chat: bool) -> None:
        self._translator = back
        self._is_chat = chat

    def feed(self, block: bytes) -> bytes:
        """What a block of whole events becomes."""
        payloads = (sse.payload_of(event) for event in sse.events_of(block))
        events = (event for payload in payloads if payload is not None for event in self._translator.feed(payload))
        return b"".join(sse.encode_event(event, named=not self._is_chat) for event in events)

    def finish(self) -> bytes:
        """What ends the stream."""
        last = b"".join(sse.encode_event(event, named=not self._is_chat) for event in self._translator.end())
        return last + b"data: [DONE]\n\n" if self._is_chat else last
