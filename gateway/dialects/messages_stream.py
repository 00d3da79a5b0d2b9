"""Anthropic's stream: what is read of it. Usage begins in message_start and ends, cumulative, in message_delta."""

from typing import Any

from .sse import StreamMeter, encode_event, utf8_bytes


class MessagesStreamMeter(StreamMeter):
    """Meters one stream; nothing of it is withheld."""

    __slots__ = ("_first_call_index", "_message_started", "_open_blocks")

    def __init__(self) -> None:
        super().__init__()
        # Of a watched stream: whether the message has begun, and its open blocks; those of imitators may interleave.
        self._first_call_index: Any = None
        self._message_started = False
        self._open_blocks: list[Any] = []

    def _must_read(self, data: bytes) -> bool:
        """Everything but the deltas of a block; the type of an event stands on its own line as well as in its data."""
        return b'"message_' in data or b'"error"' in data or b"message_stop" in data

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        kind = payload.get("type")
        if kind == "content_block_delta":
            delta = payload.get("delta")
            names = ("text", "partial_json", "thinking")
            self._count_text(
                sum(utf8_bytes(delta.get(n)) for n in names) if isinstance(delta, dict) else 0, event_bytes
            )
            if self.fingerprint_chars and isinstance(delta, dict):
                first = payload.get("index") == self._first_call_index
                self._extend_fingerprint(delta.get("text"), None, delta.get("partial_json") if first else None)
        elif kind == "content_block_start":
            block = payload.get("content_block")
            if isinstance(block, dict) and block.get("type") == "tool_use" and self._first_call_index is None:
                self._first_call_index = payload.get("index")
                self._extend_fingerprint(None, block.get("id"), block.get("name"))
        elif kind == "message_start":
            message = payload.get("message")
            if isinstance(message, dict):
                self.id = str(message.get("id") or "")
                self._merge_usage(message.get("usage"))
                self.usage_incomplete = True
        elif kind == "message_delta":
            delta = payload.get("delta")
            self.finish_reason_seen = self.finish_reason_seen or (
                isinstance(delta, dict) and delta.get("stop_reason") is not None
            )
            self._merge_usage(payload.get("usage"))
            self.usage_incomplete = False
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            self.error = payload.get("error") or payload
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
        """The ends of open blocks, why the message stops if that was not said yet, and its end. The input was counted
        when it began; thinking that is cut off stays without a signature."""
        if not self._message_started:
            return b""
        events: list[dict[str, Any]] = [{"type": "content_block_stop", "index": index} for index in self._open_blocks]
        if not self.finish_reason_seen:
            delta = {"stop_reason": "max_tokens", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}})
        events.append({"type": "message_stop"})
        return b"".join(encode_event(event, named=True) for event in events)

    def _merge_usage(self, usage: Any) -> None:
        """Later counts replace earlier ones; what a later one leaves out stands."""
        if isinstance(usage, dict):
            given = {name: value for name, value in usage.items() if value is not None}
            self.usage = {**(self.usage or {}), **given}
