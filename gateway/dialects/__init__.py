"""The callers' dialects: bytes to values and back, incrementally. Pure.

One file per dialect reads its body and words its errors, with a `_stream` file that meters its streams and can end them
early (`response_so_far.py` keeps what that takes for Responses); what they share is in `body.py` (read and splice JSON
without re-serialising it) and `sse.py`. DIALECTS names them all.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..values.caller_response import CallerResponse
from ..values.errors import PenstockError
from ..values.plan import Refusal
from ..values.request import Request
from . import chat, completions, embeddings, messages, passthrough, responses
from .sse import StreamMeter

# Dialects in which agents converse.
CONVERSATION_DIALECTS = frozenset({"chat", "responses", "messages"})


class Dialect(Protocol):
    """What the gateway needs of a dialect; each is a module."""

    def upstream_body(self, request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]: ...
    def stream_meter(self, request: Request) -> StreamMeter: ...
    def answer_text_bytes(self, document: Mapping[str, Any]) -> int: ...
    def refusal_answer(self, refusal: Refusal) -> CallerResponse: ...
    def error_answer(self, error: PenstockError) -> CallerResponse: ...
    def error_event(self, error: PenstockError) -> bytes: ...


DIALECTS: Mapping[str, Dialect] = {
    "chat": chat,
    "responses": responses,
    "messages": messages,
    "embeddings": embeddings,
    "completions": completions,
    "passage": passthrough,
}
# How the bodies of those that name their model are read.
PARSERS: Mapping[str, Callable[[bytes | bytearray], Request]] = {
    "chat": chat.parse,
    "responses": responses.parse,
    "messages": messages.parse,
    "embeddings": embeddings.parse,
    "completions": completions.parse,
}
