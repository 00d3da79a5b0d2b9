"""Meters Anthropic's streams: usage is in message_start and, cumulative, in message_delta."""

from typing import Any

from ..providers.streamed_answer import collect_event
from .sse import StreamMeter, encode_event, utf8_bytes


class MessagesStreamMeter(StreamMeter):
    """Meters one stream; it withholds nothing."""

    __slots__ = ("_first_call_index", "_message_started", "_open_blocks")

    def __init__(self) -> None:
        super().__init__()
        self._first_call_index: Any = None
        # Kept where the stream may end early. Blocks of Anthropic-compatible servers may interleave.
        self._message_started = False
        self._open_blocks: list[Any] = []

    def _must_read(self, data: bytes) -> bool:
        """Whether it may hold more than block deltas; an event's type is on its own line and in its data."""
        return b'"message_' in data or b'"error"' in data or b"event: error" in data

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        kind = payload.get("type")
        collect_event(self.answer, payload)
        if kind == "content_block_delta":
            delta = payload.get("delta")
            names = ("text", "partial_json", "thinking")
            weight = sum(utf8_bytes(delta.get(name)) for name in names) if isinstance(delta, dict) else 0
            self._count_text(weight, event_bytes)
            if self.fingerprint_chars and isinstance(delta, dict):
                in_first_call = payload.get("index") == self._first_call_index
                self._extend_fingerprint(delta.get("text"), None, delta.get("partial_json") if in_first_call else None)
        elif kind == "content_block_start":
            block = payload.get("content_block")
            # An empty block of text or thinking says nothing yet.
            self.answer_begun = self.answer_begun or not _is_empty_block(block)
            if isinstance(block, dict) and block.get("type") == "tool_use" and self._first_call_index is None:
                self._first_call_index = payload.get("index")
                self._extend_fingerprint(None, block.get("id"), block.get("name"))
        elif kind == "message_start":
            message = payload.get("message")
            if isinstance(message, dict):
                self.id = str(message.get("id") or "")
        elif kind == "message_delta":
            delta = payload.get("delta")
            if isinstance(delta, dict) and delta.get("stop_reason"):
                self.finish_reason_seen = self.answer_begun = True
        elif kind == "message_stop":
            self.done = True
        return True

    def _track(self, payload: dict[str, Any]) -> None:
        kind, index = payload.get("type"), payload.get("index")
        if kind == "message_start":
            self._message_started = True
        elif kind == "content_block_start":
            self._open_blocks.append(index)
        elif kind == "content_block_stop" and index in self._open_blocks:
            self._open_blocks.remove(index)

    def _closing_events(self, input_tokens: int, output_tokens: int) -> bytes:
        """The ends of open blocks, a stop reason if none was sent, and the end of the message.

        message_start has counted the input already. Thinking that is cut off has no signature.
        """
        if not self._message_started:
            return b""
        events: list[dict[str, Any]] = [{"type": "content_block_stop", "index": index} for index in self._open_blocks]
        if not self.finish_reason_seen:
            delta = {"stop_reason": "max_tokens", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}})
        events.append({"type": "message_stop"})
        return b"".join(encode_event(event, named=True) for event in events)


def _is_empty_block(block: Any) -> bool:
    return (
        isinstance(block, dict)
        and block.get("type") in ("text", "thinking")
        and not (block.get("text") or block.get("thinking"))
    )
