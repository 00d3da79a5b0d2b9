"""The wire formats of callers: bytes to values and back, incrementally. Pure.

One file per dialect parses its body and builds its errors; a `_stream` file beside it meters its streams and can end
them early (`partial_response.py` holds the state for that in Responses). `body.py` (reads and splices JSON without
re-serializing it), `body_errors.py` and `sse.py` are shared. DIALECTS is the registry.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..values.caller_response import CallerResponse
from ..values.errors import PenstockError
from ..values.plan import Refusal
from ..values.request import Request
from . import chat, completions, embeddings, messages, passthrough, responses
from .sse import StreamMeter

# Dialects with a conversation history.
CONVERSATION_DIALECTS = frozenset({"chat", "responses", "messages"})


class Dialect(Protocol):
    """What the gateway needs of a dialect; implemented by modules."""

    def upstream_body(self, request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]: ...
    def stream_meter(self, request: Request) -> StreamMeter: ...
    def failed_answer(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None: ...
    def answer_events_of(self, document: Mapping[str, Any]) -> bytes | None: ...
    def answer_text_bytes(self, document: Mapping[str, Any]) -> int: ...
    def refusal_response(self, refusal: Refusal) -> CallerResponse: ...
    def error_response(self, error: PenstockError) -> CallerResponse: ...
    def error_event(self, error: PenstockError) -> bytes: ...


DIALECTS: Mapping[str, Dialect] = {
    "chat": chat,
    "responses": responses,
    "messages": messages,
    "embeddings": embeddings,
    "completions": completions,
    "passthrough": passthrough,
}
# Body parsers of the dialects that require a model.
PARSERS: Mapping[str, Callable[[bytes | bytearray], Request]] = {
    "chat": chat.parse,
    "responses": responses.parse,
    "messages": messages.parse,
    "embeddings": embeddings.parse,
    "completions": completions.parse,
}
