"""Meters Responses streams: usage is in the event that ends them."""

from typing import Any

from .answer_failure import reported_error
from .answer_fingerprint import fingerprint_of, tool_calls_of
from .partial_response import PartialResponse
from .sse import StreamMeter, encode_event, utf8_bytes

# response.cancelled: of servers that stream the end of a cancelled background response.
_END_EVENTS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
# Events that say nothing of the answer yet, and items and parts that are announced before their content.
_OPENING_EVENTS = (
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.content_part.added",
    "response.reasoning_summary_part.added",
    "keepalive",
    "ping",
)
_EMPTY_ITEM_TYPES = ("message", "reasoning")


class ResponsesStreamMeter(StreamMeter):
    """Meters one stream; it withholds nothing."""

    __slots__ = ("_partial_response",)

    def __init__(self) -> None:
        super().__init__()
        self._partial_response = PartialResponse()

    def _must_read(self, data: bytes) -> bool:
        """Whether it may hold the first or last events of a response, or an error."""
        return (
            b'"response.c' in data
            or b'"response.failed"' in data
            or b'"response.incomplete"' in data
            or b'"error"' in data
            or b"event: error" in data
            or b"[DONE]" in data
        )

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        kind = str(payload.get("type"))
        if kind.endswith(".delta"):
            self._count_text(utf8_bytes(payload.get("delta")), event_bytes)
            return True
        response = payload.get("response")
        if isinstance(response, dict):
            self.id = str(response.get("id") or self.id)
        if kind in _END_EVENTS and isinstance(response, dict):
            # The last event repeats the whole response.
            self.fingerprint_text, self.fingerprint_call_id, self.fingerprint_call = fingerprint_of(response)
            self.tool_calls = tool_calls_of(response)
            self.answer = response
            self.done = self.finish_reason_seen = True
            if kind == "response.failed":
                self.error = response.get("error") or {"message": "The response failed."}
        if not self.answer_begun:
            self.answer_begun = self.error is None and not _is_opening(kind, payload)
        return True

    def _track(self, payload: dict[str, Any]) -> None:
        self._partial_response.read(payload)

    def _closing_events(self, input_tokens: int, output_tokens: int) -> bytes:
        """The events that close the response, b"" if it has not begun."""
        usage = {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens,
        }
        return b"".join(encode_event(event, named=True) for event in self._partial_response.closing_events(usage))


def _is_opening(kind: str, payload: dict[str, Any]) -> bool:
    """Whether an event comes before anything of the answer."""
    if kind == "response.output_item.added":
        item = payload.get("item")
        return isinstance(item, dict) and item.get("type") in _EMPTY_ITEM_TYPES
    return kind in _OPENING_EVENTS or kind == "error" or reported_error(payload) is not None
