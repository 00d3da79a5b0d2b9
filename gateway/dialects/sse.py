"""Forwards and meters server-sent events; shared by all dialects.

Blocks of whole events are forwarded as the provider's bytes and mostly only counted. A block is parsed at the beginning
(to learn the size of an event's envelope) and where it contains a mark of the dialect: usage, an error, the end. The
text's size is then bytes minus envelopes: an estimate for providers that report no usage, at no cost for those that do.

Where the gateway may have to end a stream early (`may_end_early`), the bytes are kept and every event is parsed once that
is needed: for the exact size of the text, for the closing events, or because more than _DEFERRED_BYTES_MAX are kept. Most
streams end before.
"""

import re
from collections.abc import Iterator
from typing import Any

from ..providers.usage_spellings import usage_objects_of
from . import lenient_json
from .answer_failure import reported_error
from .answer_fingerprint import FINGERPRINT_CHARS_MAX, AnswerFingerprint

_EVENT_BOUNDARY = re.compile(rb"\r?\n\r?\n")
# The longest event boundary, less the byte that ends it.
_BOUNDARY_BYTES = 3
# Bytes that are read of an error event that is plain text.
_ERROR_TEXT_BYTES_MAX = 2000
_ERROR_EVENT = re.compile(rb"(?:^|[\r\n])event:\s*error\s*[\r\n]")
# Events with text that are parsed to learn the size of the envelope.
_ENVELOPE_SAMPLES_MIN = 3
# Bytes of a stream that are kept unparsed where it may end early: some 600 events of one token.
_DEFERRED_BYTES_MAX = 128 * 1024


class StreamMeter:
    """State of one stream.

    answer: what of the answer bears on its price, in the shape of a whole one: usage, service tier, tool calls
    id: the answer's id
    error: the provider's error object, None without one
    answer_begun: whether anything of the answer was seen: text, a call, a finish reason; not just its opening
    done: whether the answer's last event was seen
    end_mark_seen: whether `[DONE]` was seen, which some servers send after the last event of any dialect
    finish_reason_seen: whether the answer gave its finish reason
    may_end_early: set before the first byte where `end_early` may be called
    fingerprint_chars: characters still to record for `fingerprint`; 0 when complete or not wanted
    fingerprint_text, fingerprint_call_id, fingerprint_call: what was recorded (see AnswerFingerprint)
    tool_calls: (id, name, arguments) of each call, where the last event repeats them

    A dialect decides which blocks to parse (`_must_read`) and reads an event (`_read`). For an early end it keeps state
    (`_track`) and builds the closing events (`_closing_events`).
    """

    __slots__ = (
        "_deferred",
        "_deferred_bytes",
        "_envelope_bytes",
        "_envelope_samples",
        "_pending",
        "_pending_tail",
        "_read_positions",
        "_text_bytes",
        "_text_events",
        "_unread_bytes",
        "_unread_events",
        "answer",
        "answer_begun",
        "done",
        "end_mark_seen",
        "error",
        "fingerprint_call",
        "fingerprint_call_id",
        "fingerprint_chars",
        "fingerprint_text",
        "finish_reason_seen",
        "id",
        "may_end_early",
        "tool_calls",
    )  # fmt: skip

    def __init__(self) -> None:
        # The beginning of an incomplete event.
        self._pending: list[bytes] = []
        self._pending_tail = b""
        # Blocks that were only counted, and the envelope: its smallest size and how many events were measured.
        self._unread_bytes = 0
        self._unread_events = 0
        self._envelope_bytes = 0
        self._envelope_samples = 0
        # Blocks whose events are still to be tracked for an early end, and the positions of those that were read.
        self._deferred: list[bytes] = []
        self._read_positions: set[int] = set()
        self._deferred_bytes = 0
        # Events that were parsed.
        self._text_bytes = 0
        self._text_events = 0
        self.answer: dict[str, Any] = {}
        self.error: Any = None
        self.answer_begun = False
        self.id = ""
        self.done = False
        self.end_mark_seen = False
        self.finish_reason_seen = False
        self.may_end_early = False
        self.fingerprint_chars = 0
        self.fingerprint_text = self.fingerprint_call_id = self.fingerprint_call = ""
        self.tool_calls: tuple[tuple[Any, Any, Any], ...] = ()

    def _must_read(self, data: bytes) -> bool:
        """Whether a block of whole events has to be parsed."""
        raise NotImplementedError

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        """Read one event; False withholds it from the caller."""
        raise NotImplementedError

    def _track(self, payload: dict[str, Any]) -> None:
        """Keep state for `_closing_events`; nothing where the dialect has no known end."""

    def _closing_events(self, input_tokens: int, output_tokens: int) -> bytes:
        """The events that end the stream, b"" if there is nothing to end."""
        return b""

    def feed(self, data: bytes) -> bytes:
        """Read bytes, return those to forward. An incomplete event is kept; the caller of this method limits the total."""
        if self.done:
            return b"" if self.end_mark_seen else self._read_events(data)
        if self._pending:
            data = self._prepend_pending(data)
        if not data.endswith(b"\n\n"):
            size = _whole_events_bytes(data)
            if size < len(data):
                self._buffer(data[size:])
            data = data[:size]
        if not data:
            return b""
        if self.fingerprint_chars or self._envelope_samples < _ENVELOPE_SAMPLES_MIN or self._must_read(data):
            if self.may_end_early:
                self._read_positions.add(len(self._deferred))
                self._defer(data)
            return self._read_events(data)
        self._unread_bytes += len(data)
        self._unread_events += data.count(b"\n\n") or data.count(b"\r\n\r\n")
        if self.may_end_early:
            self._defer(data)
        return data

    def finish(self) -> bytes:
        """Return the rest after the connection closed, if it is a whole event but for its blank line."""
        rest = b"".join(self._pending)
        self._pending.clear()
        if self.done or (data_of(rest) != b"[DONE]" and payload_of(rest) is None):
            return b""
        return self._read_events(rest.rstrip(b"\r\n") + b"\n\n")

    def end_early(self, input_tokens: int, output_tokens: int) -> bytes:
        """Return the events that end the answer as if at its output limit; later input is dropped.

        The token counts are those of the answer so far, for the usage that it reports. b"" where there is no answer to
        end: none has begun, it has ended, or an error has ended it.
        """
        has_ended = self.done or self.error is not None
        self._read_deferred()
        events = b"" if has_ended else self._closing_events(input_tokens, output_tokens)
        self._pending.clear()
        self._pending_tail = b""
        self.done = self.answer_begun = self.end_mark_seen = True
        return events

    @property
    def usage(self) -> dict[str, Any] | None:
        """The provider's usage object, None until seen."""
        return next(usage_objects_of(self.answer), None)

    @property
    def is_complete(self) -> bool:
        """Whether the answer ended: by a finish reason, or by the end mark of an answer that had begun."""
        return self.finish_reason_seen or (self.done and self.answer_begun)

    @property
    def usage_is_final(self) -> bool:
        """Whether no text followed the usage reported last; True without usage."""
        return True

    def text_totals(self) -> tuple[int, int]:
        """Return the bytes of text so far (content, reasoning, tool arguments) and the events that held any.

        To the byte where the stream may end early.
        """
        self._read_deferred()
        return self.estimated_text_totals()

    def estimated_text_totals(self) -> tuple[int, int]:
        """Return the same without parsing: bytes of unread events less their envelopes."""
        counted = max(self._unread_bytes - self._unread_events * self._envelope_bytes, 0)
        return self._text_bytes + counted, self._text_events + self._unread_events

    def _extend_fingerprint(self, text: Any, call_id: Any = None, call: Any = None) -> None:
        """Record a piece of the text, or of the first call's id, name and arguments."""
        if isinstance(call_id, str) and not self.fingerprint_call_id:
            self.fingerprint_call_id = call_id
        if isinstance(call, str) and len(self.fingerprint_call) < FINGERPRINT_CHARS_MAX:
            self.fingerprint_call += "".join(call.split())
        if isinstance(text, str) and len(self.fingerprint_text) < FINGERPRINT_CHARS_MAX:
            self.fingerprint_text += text
        if len(self.fingerprint_text) >= self.fingerprint_chars or len(self.fingerprint_call) >= self.fingerprint_chars:
            self.fingerprint_chars = 0

    @property
    def fingerprint(self) -> AnswerFingerprint:
        """The beginning of the answer, as far as it was recorded."""
        return AnswerFingerprint(
            self.fingerprint_text[:FINGERPRINT_CHARS_MAX],
            self.fingerprint_call_id,
            self.fingerprint_call[:FINGERPRINT_CHARS_MAX],
        )

    def _count_text(self, weight: int, event_bytes: int) -> None:
        """Count a parsed event that holds `weight` bytes of text."""
        if weight:
            self.answer_begun = True
            self._text_bytes += weight
            self._text_events += 1
            self._envelope_samples += 1
            self._envelope_bytes = (
                event_bytes - weight if self._envelope_bytes == 0 else min(self._envelope_bytes, event_bytes - weight)
            )

    def _prepend_pending(self, data: bytes) -> bytes:
        """Join buffered and new data; b"" while no event has ended, so that long events are not copied each time."""
        if not _has_boundary(self._pending_tail + data):
            self._buffer(data)
            return b""
        data = b"".join((*self._pending, data))
        self._pending.clear()
        self._pending_tail = b""
        return data

    def _buffer(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_tail = (self._pending_tail + data[-_BOUNDARY_BYTES:])[-_BOUNDARY_BYTES:]

    def _defer(self, block: bytes) -> None:
        self._deferred.append(block)
        self._deferred_bytes += len(block)
        if self._deferred_bytes > _DEFERRED_BYTES_MAX:
            self._read_deferred()

    def _read_deferred(self) -> None:
        """Track the events of deferred blocks, and count the text of those that were not read."""
        deferred, self._deferred, self._deferred_bytes = self._deferred, [], 0
        read_positions, self._read_positions = self._read_positions, set()
        for position, block in enumerate(deferred):
            was_read = position in read_positions
            if not was_read:
                self._unread_bytes -= len(block)
                self._unread_events -= block.count(b"\n\n") or block.count(b"\r\n\r\n")
            for event in events_of(block):
                payload = payload_of(event)
                if payload is not None:
                    self._track(payload)
                    if not was_read:
                        self._read(payload, len(event))

    def _read_events(self, block: bytes) -> bytes:
        return b"".join([event for event in events_of(block) if self._forwards(event)])

    def _forwards(self, event: bytes) -> bool:
        """Read one event; False if it is withheld from the caller."""
        data = data_of(event)
        if data == b"[DONE]":
            is_first, self.done, self.end_mark_seen = not self.end_mark_seen, True, True
            return is_first
        if self.done:
            return False
        payload = _json_object(data)
        if payload is None:
            if self.error is None and _ERROR_EVENT.search(event):
                self.error = {"message": data[:_ERROR_TEXT_BYTES_MAX].decode(errors="replace") or "error"}
            return True
        forwards = self._read(payload, len(event))
        if self.error is None:
            self.error = reported_error(payload) or (payload if _ERROR_EVENT.search(event) else None)
        return forwards


def events_of(block: bytes) -> Iterator[bytes]:
    """Yield the events of a block, each with its blank line."""
    start = 0
    for boundary in _EVENT_BOUNDARY.finditer(block):
        yield block[start : boundary.end()]
        start = boundary.end()


def data_of(event: bytes) -> bytes:
    """Return the data of an event, its lines joined."""
    return b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def payload_of(event: bytes) -> dict[str, Any] | None:
    """Return the JSON object of an event, None for comments, [DONE] and other data."""
    return _json_object(data_of(event))


def _json_object(data: bytes) -> dict[str, Any] | None:
    if not data.startswith(b"{"):
        return None
    try:
        payload = lenient_json.loads(data)
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None


def encode_event(payload: dict[str, Any], *, named: bool = False) -> bytes:
    """Encode an event; `named` adds the `event:` line with the payload's type (Anthropic, Responses)."""
    data = b"data: " + lenient_json.dumps(payload) + b"\n\n"
    return b"event: " + str(payload.get("type")).encode() + b"\n" + data if named else data


def utf8_bytes(text: Any) -> int:
    """Return the UTF-8 bytes of a text, 0 for any other value."""
    return len(text.encode(errors="replace")) if isinstance(text, str) else 0


def _has_boundary(data: bytes) -> bool:
    return b"\n\n" in data or b"\n\r\n" in data


def _whole_events_bytes(data: bytes) -> int:
    """Length of the whole events in `data`, in bytes."""
    unix, dos = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(unix + 2 if unix >= 0 else 0, dos + 4 if dos >= 0 else 0)
