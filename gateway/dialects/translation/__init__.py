"""Between dialects: a caller of one before a deployment that speaks another. Pure; one file per pair and direction.

`Carrier` decides in which dialect a deployment is spoken to and carries the request there; `CrossedStream` brings a
stream back. Where a deployment speaks the caller's dialect nothing here is used.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from ...providers import litellm
from ...values.errors import BadRequest, NotCarriable
from ...values.request import Request
from .. import body as bodies
from .. import sse
from . import chat_to_messages, messages_to_chat, responses_to_chat, responses_to_messages
from .translated import Back, Carried, Crossing

# What reading a document of the wrong shape may raise.
_MISSHAPEN = (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError)
_CROSSINGS: Mapping[tuple[str, str], Crossing] = {
    ("messages", "chat"): messages_to_chat,
    ("responses", "chat"): responses_to_chat,
    ("chat", "messages"): chat_to_messages,
    ("responses", "messages"): responses_to_messages,
}


def speech_of(dialect: str, speaks: Iterable[str]) -> str | None:
    """The dialect in which a caller of `dialect` is served by who speaks `speaks`: the same, else one that can be
    crossed to; None if there is no way."""
    return dialect if dialect in speaks else next((other for other in speaks if (dialect, other) in _CROSSINGS), None)


class Carrier:
    """Carries one request to other dialects, each once."""

    __slots__ = ("_document", "_done", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._document: dict[str, Any] | None = None
        self._done: dict[tuple[str, bool], Carried | NotCarriable] | None = None

    def to(self, speech: str, *, extended: bool) -> Carried | NotCarriable:
        """The request in another dialect, or why it cannot be said there."""
        if self._done is None:
            self._done = {}
        found = self._done.get((speech, extended))
        if found is None:
            found = self._done[speech, extended] = self._carried(speech, extended)
        return found

    def behind_litellm(self, speech: str) -> NotCarriable | None:
        """What of a request in litellm's own dialect may not reach it, None if all may."""
        try:
            return litellm.refused(self._whole(), speech)
        except BadRequest as wrong:
            return NotCarriable("body", wrong.message)

    def _whole(self) -> dict[str, Any]:
        if self._document is None:
            self._document = bodies.whole(self._request.body)
        return self._document

    def _carried(self, speech: str, extended: bool) -> Carried | NotCarriable:
        try:
            document = self._whole()
            found = _CROSSINGS[self._request.dialect, speech].carry(document, extended=extended)
            # What cannot be written again is found out here, not once it is paid for.
            orjson.dumps([found.document, document])
        except NotCarriable as why:
            return why
        except BadRequest as wrong:
            return NotCarriable("body", wrong.message)
        except _MISSHAPEN:
            return NotCarriable(
                "body", "a field does not have the shape that its dialect gives it, or nests too deeply"
            )
        if extended and speech in litellm.SPEAKS:
            return litellm.refused(found.document, speech) or found
        return found

    def back(self, carried: Carried, speech: str, *, answer_id: str, created: int) -> Back:
        """The way back of the answer to what was carried."""
        return _CROSSINGS[self._request.dialect, speech].back(carried, answer_id=answer_id, created=created)


class CrossedStream:
    """Events of the provider's dialect in, bytes of the caller's out; the meter has read them before."""

    __slots__ = ("_back", "_chat")

    def __init__(self, back: Back, *, chat: bool) -> None:
        self._back = back
        self._chat = chat

    def feed(self, block: bytes) -> bytes:
        """What a block of whole events becomes."""
        payloads = (sse.payload_of(event) for event in sse.events_of(block))
        events = (event for payload in payloads if payload is not None for event in self._back.feed(payload))
        return b"".join(sse.written(event, named=not self._chat) for event in events)

    def finish(self) -> bytes:
        """What ends the stream."""
        last = b"".join(sse.written(event, named=not self._chat) for event in self._back.end())
        return last + b"data: [DONE]\n\n" if self._chat else last
