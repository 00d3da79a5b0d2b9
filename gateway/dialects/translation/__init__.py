"""Translates between the caller's and the deployment's dialect. Pure; one file per pair and direction.

`Translator` translates the request, `TranslatedStream` a streamed answer. Unused where a deployment supports the
caller's dialect.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from ...providers import litellm
from ...values.errors import BadRequest, NotTranslatable
from ...values.request import Request
from .. import body as bodies
from .. import sse
from . import (
    chat_answer_to_messages,
    chat_answer_to_responses,
    chat_to_messages,
    messages_answer_to_chat,
    messages_to_chat,
    responses_to_chat,
    responses_to_messages,
)
from .fields import Table
from .translated import AnswerTranslator, TranslatedRequest, Translation

# Raised when a document does not have the shape of its dialect.
_SHAPE_ERRORS = (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError)
# Data of events without content: comments, and the end mark of chat completions.
_NO_CONTENT = (b"", b"[DONE]")
_TRANSLATIONS: Mapping[tuple[str, str], Translation] = {
    ("messages", "chat"): messages_to_chat,
    ("responses", "chat"): responses_to_chat,
    ("chat", "messages"): chat_to_messages,
    ("responses", "messages"): responses_to_messages,
}
# How each pair translates the fields of an answer, from the provider's dialect to the caller's.
ANSWER_TABLES: Mapping[tuple[str, str], Table] = {
    ("chat", "messages"): chat_answer_to_messages.ANSWER_FIELDS,
    ("chat", "responses"): chat_answer_to_responses.ANSWER_FIELDS,
    ("messages", "chat"): messages_answer_to_chat.ANSWER_FIELDS,
}
# How each pair translates the fields of a request, by the path of their object, "" for the request itself. Responses go
# to Messages by way of chat completions.
TABLES: Mapping[tuple[str, str], Mapping[str, Table]] = {
    ("messages", "chat"): {"": messages_to_chat.REQUEST_FIELDS, **messages_to_chat.NESTED_FIELDS},
    ("responses", "chat"): {"": responses_to_chat.REQUEST_FIELDS, **responses_to_chat.NESTED_FIELDS},
    ("chat", "messages"): {"": chat_to_messages.REQUEST_FIELDS, **chat_to_messages.NESTED_FIELDS},
}


def upstream_dialect_of(dialect: str, supported: Iterable[str]) -> str | None:
    """Return the caller's dialect if supported, else the first it translates to, None without one."""
    if dialect in supported:
        return dialect
    return next((other for other in supported if (dialect, other) in _TRANSLATIONS), None)


class Translator:
    """Translates one request to other dialects, each once."""

    __slots__ = ("_document", "_request", "_translated")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._document: dict[str, Any] | None = None
        self._translated: dict[tuple[str, bool], TranslatedRequest | NotTranslatable] | None = None

    def translate(self, upstream_dialect: str, *, extended: bool) -> TranslatedRequest | NotTranslatable:
        """Return the request in another dialect, or the error that names the field without a counterpart."""
        if self._translated is None:
            self._translated = {}
        translated = self._translated.get((upstream_dialect, extended))
        if translated is None:
            translated = self._translated[upstream_dialect, extended] = self._translate(upstream_dialect, extended)
        return translated

    def litellm_refusal(self, upstream_dialect: str) -> NotTranslatable | None:
        """Return what of an untranslated request litellm must not receive, None if it may have all."""
        try:
            return litellm.unsupported_content(self._parsed_body(), upstream_dialect)
        except BadRequest as error:
            return NotTranslatable("body", error.message)

    def _parsed_body(self) -> dict[str, Any]:
        if self._document is None:
            self._document = bodies.parse_document(self._request.body)
        return self._document

    def _translate(self, upstream_dialect: str, extended: bool) -> TranslatedRequest | NotTranslatable:
        try:
            document = self._parsed_body()
            translated = _TRANSLATIONS[self._request.dialect, upstream_dialect].translate_request(
                document, extended=extended
            )
            # What cannot be serialized has to fail here, before anything is paid for.
            orjson.dumps([translated.document, document])
        except NotTranslatable as error:
            return error
        except BadRequest as error:
            return NotTranslatable("body", error.message)
        except _SHAPE_ERRORS:
            return NotTranslatable("body", "a field has an invalid shape or is nested too deeply")
        if extended and upstream_dialect in litellm.SUPPORTED_DIALECTS:
            return litellm.unsupported_content(translated.document, upstream_dialect) or translated
        return translated

    def answer_translator(
        self, translated: TranslatedRequest, upstream_dialect: str, *, answer_id: str, created: int
    ) -> AnswerTranslator:
        """Create the translator of the answer to a translated request."""
        return _TRANSLATIONS[self._request.dialect, upstream_dialect].answer_translator(
            translated, answer_id=answer_id, created=created
        )


class TranslatedStream:
    """Translates metered events of the upstream dialect to bytes of the caller's.

    last_payload: called at the end; a further chunk or event to translate, with usage that the provider did not report
    """

    __slots__ = ("_is_chat", "_last_payload", "_translator")

    def __init__(
        self,
        translator: AnswerTranslator,
        *,
        chat: bool,
        last_payload: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._translator = translator
        self._is_chat = chat
        self._last_payload = last_payload

    def feed(self, block: bytes) -> bytes:
        """Translate a block of whole events."""
        out: list[bytes] = []
        for event in sse.events_of(block):
            payload = sse.payload_of(event)
            if payload is not None:
                out += [sse.encode_event(each, named=not self._is_chat) for each in self._translator.feed(payload)]
            elif sse.data_of(event) not in _NO_CONTENT:
                self._translator.drop("other", "an event that is no JSON object")
        return b"".join(out)

    def finish(self) -> bytes:
        """Return what ends the stream."""
        payload = self._last_payload()
        events = [*(self._translator.feed(payload) if payload is not None else ()), *self._translator.end()]
        last = b"".join(sse.encode_event(event, named=not self._is_chat) for event in events)
        return last + b"data: [DONE]\n\n" if self._is_chat else last
