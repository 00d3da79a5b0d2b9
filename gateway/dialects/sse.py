"""A stream of events on its way through: forwarded as it comes and metered. What all dialects have in common.

Blocks of whole events are forwarded as the provider's own bytes and, as a rule, only counted. A block is read where it
can matter: at the beginning (to learn how many bytes around the text every event has), and where the dialect's own
marks stand in it: usage, an error, the end. What the text weighs is then bytes minus envelopes, good enough for the
estimate that is needed when a provider never says, and free of cost when it does.

A stream that may have to be ended here, before its own end, is `watched`: every event of it is read, and what an end in
the provider's place has to say is kept.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from ..values.errors import BrokenResponse
from .answer_fingerprint import FINGERPRINT_CHARS_MAX, AnswerFingerprint

_EVENT_BOUNDARY = re.compile(rb"\r?\n\r?\n")
# One event larger than this is not an answer but a flood (the largest real ones, inline images, stay under 8 MB).
EVENT_BYTES_MAX = 8 * 1024 * 1024
# Events with text that are read to learn the size of the envelope.
_ENVELOPE_SAMPLES_MIN = 3


class StreamMeter:
    """State of one stream: `usage` is the provider's usage object once seen, `id` the answer's own name, `done` whether
    the end was seen, `finished` whether the answer said why it ended, `error` the provider's error object if it sent
    one. `watched` is set before the first byte where `ending` may be called; `listening` is how much is wanted of how
    the answer begins, in characters: `heard` then tells. `calls` are those of an answer that says them all at its end.

    A dialect says which blocks matter (`_matters`) and reads an event (`_read`); of a watched stream it keeps what its
    end needs (`_watch`), and words that end (`_closing`).
    """

    __slots__ = (
        "_envelope_bytes",
        "_envelope_samples",
        "_pending",
        "_pending_bytes",
        "_text_bytes",
        "_text_events",
        "_unread_bytes",
        "_unread_events",
        "done",
        "error",
        "fingerprint_call",
        "fingerprint_call_id",
        "fingerprint_chars",
        "fingerprint_text",
        "finish_reason_seen",
        "id",
        "may_end_early",
        "tool_calls",
        "usage",
        "usage_incomplete",
    )  # fmt: skip

    def __init__(self) -> None:
        # The beginning of an event whose end has not arrived.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        # Blocks that were only counted: their bytes and events, and what is known of an event's envelope.
        self._unread_bytes = 0
        self._unread_events = 0
        self._envelope_bytes = 0
        self._envelope_samples = 0
        # Events that were read.
        self._text_bytes = 0
        self._text_events = 0
        self.usage: dict[str, Any] | None = None
        self.error: Any = None
        # The usage seen so far does not hold all of the output yet.
        self.usage_incomplete = False
        self.id = ""
        self.done = False
        self.finish_reason_seen = False
        self.may_end_early = False
        self.fingerprint_chars = 0
        self.fingerprint_text = self.fingerprint_call_id = self.fingerprint_call = ""
        self.tool_calls: tuple[tuple[Any, Any, Any], ...] = ()

    def _must_read(self, data: bytes) -> bool:
        """Whether a block of whole events has to be read."""
        raise NotImplementedError

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        """Take what one event says; False withholds it from the caller."""
        raise NotImplementedError

    def _track(self, payload: dict[str, Any]) -> None:
        """Keep what `_closing` has to know; nothing where nobody knows how such a stream ends."""

    def _closing_events(self, input_tokens: int, output_tokens: int) -> bytes:
        """The events that end what was watched, b"" if there is nothing to end."""
        return b""

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the caller may have now. Raises BrokenAnswer on an event without end."""
        if self.done:
            return b""
        if self._pending:
            data = self._prepend_pending(data)
        if not data.endswith(b"\n\n"):
            whole = _whole_events_bytes(data)
            if whole < len(data):
                self._buffer(data[whole:])
            data = data[:whole]
        if not data:
            return b""
        if (
            self.may_end_early
            or self.fingerprint_chars
            or self._envelope_samples < _ENVELOPE_SAMPLES_MIN
            or self._must_read(data)
        ):
            return self._read_events(data)
        self._unread_bytes += len(data)
        self._unread_events += data.count(b"\n\n") or data.count(b"\r\n\r\n")
        return data

    def finish(self) -> bytes:
        """The provider closed the connection: what is left over, if it is a whole event but for its blank line."""
        rest = b"".join(self._pending)
        self._pending.clear()
        if self.done or (data_of(rest) != b"[DONE]" and payload_of(rest) is None):
            return b""
        return self._read_events(rest.rstrip(b"\r\n") + b"\n\n")

    def end_early(self, input_tokens: int, output_tokens: int) -> bytes:
        """The events that end the answer here as if its output limit had been reached; what comes after is dropped.

        The tokens are those of the whole answer so far, for callers who are told their usage. b"" where there is no
        answer to end: none has begun, it has ended, or an error has ended it.
        """
        over = self.done or self.error is not None
        events = b"" if over else self._closing_events(input_tokens, output_tokens)
        self._pending.clear()
        self._pending_bytes = 0
        self.done = True
        return events

    @property
    def is_complete(self) -> bool:
        """Whether the answer came to its own end, said by an end mark, or by a reason from providers without one."""
        return self.done or self.finish_reason_seen

    def text_totals(self) -> tuple[int, int]:
        """Bytes of answer text so far (content, reasoning, tool arguments), and how many events carried any."""
        counted = max(self._unread_bytes - self._unread_events * self._envelope_bytes, 0)
        return self._text_bytes + counted, self._text_events + self._unread_events

    def _extend_fingerprint(self, text: Any, call_id: Any = None, call: Any = None) -> None:
        """Something of the answer's beginning was read: words, or of its first call the id, the tool, arguments."""
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
        """How the answer begins, as far as that was listened to."""
        return AnswerFingerprint(
            self.fingerprint_text[:FINGERPRINT_CHARS_MAX],
            self.fingerprint_call_id,
            self.fingerprint_call[:FINGERPRINT_CHARS_MAX],
        )

    def _count_text(self, weight: int, event_bytes: int) -> None:
        """An event was read that carries `weight` bytes of text."""
        if weight:
            self._text_bytes += weight
            self._text_events += 1
            self._envelope_samples += 1
            self._envelope_bytes = (
                event_bytes - weight if self._envelope_bytes == 0 else min(self._envelope_bytes, event_bytes - weight)
            )

    def _prepend_pending(self, data: bytes) -> bytes:
        """What was kept and what arrived; b"" while no line has ended, so that a slow drip is not copied at every byte."""
        if b"\n" not in data:
            self._buffer(data)
            return b""
        data = b"".join((*self._pending, data))
        self._pending.clear()
        self._pending_bytes = 0
        return data

    def _buffer(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > EVENT_BYTES_MAX:
            raise BrokenResponse("The provider sent an event that does not end.")

    def _read_events(self, block: bytes) -> bytes:
        return b"".join([event for event in events_of(block) if not self.done and self._forwards(event)])

    def _forwards(self, event: bytes) -> bool:
        """Read one event; False if the caller is not to have it."""
        if data_of(event) == b"[DONE]":
            self.done = True
            return True
        payload = payload_of(event)
        if payload is None:
            return True
        if self.may_end_early:
            self._track(payload)
        return self._read(payload, len(event))


def events_of(block: bytes) -> Iterator[bytes]:
    """The whole events of a block, each with its blank line."""
    start = 0
    for boundary in _EVENT_BOUNDARY.finditer(block):
        yield block[start : boundary.end()]
        start = boundary.end()


def data_of(event: bytes) -> bytes:
    """The data of an event, its lines joined."""
    return b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def payload_of(event: bytes) -> dict[str, Any] | None:
    """The JSON object of one event, None for comments, [DONE] and anything that is not an object."""
    data = data_of(event)
    if not data.startswith(b"{"):
        return None
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None


def encode_event(payload: dict[str, Any], *, named: bool = False) -> bytes:
    """One event; `named` adds the `event:` line with the payload's type, as Anthropic and Responses have it."""
    data = b"data: " + orjson.dumps(payload) + b"\n\n"
    return b"event: " + str(payload.get("type")).encode() + b"\n" + data if named else data


def utf8_bytes(text: Any) -> int:
    """UTF-8 bytes of a text, 0 for anything else."""
    return len(text.encode(errors="replace")) if isinstance(text, str) else 0


def _whole_events_bytes(data: bytes) -> int:
    """How many bytes of `data` are whole events."""
    unix, dos = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(unix + 2 if unix >= 0 else 0, dos + 4 if dos >= 0 else 0)
