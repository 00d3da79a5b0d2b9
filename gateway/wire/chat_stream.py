"""A chat-completions stream on its way through: forwarded as it comes, metered, the unasked usage chunk withheld.

Blocks of whole events are forwarded as the provider's own bytes and, as a rule, only counted. A block is read where it
can matter: at the beginning (to learn how many bytes around the text every event has), and where it carries usage, an
error, a finish reason or the end. What the text weighs is then bytes minus envelopes, good enough for the estimate that
is needed when a provider never says, and free of cost when it does.
"""

import re
from typing import Any

import orjson

from ..errors import BrokenAnswer

# Within JSON strings a quote is escaped, so these never match inside text that the model wrote.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_BOUNDARY = re.compile(rb"\r?\n\r?\n")
# One event larger than this is not an answer but a flood (the largest real ones, inline images, stay under 8 MB).
EVENT_BYTES_MAX = 8 * 1024 * 1024
# Events with text that are read to learn the size of the envelope.
_LEARNT_FROM = 3


class ChatStream:
    """State of one stream: `usage` is the provider's usage object once seen, `done` whether [DONE] was, `finished`
    whether a finish reason was, `error` the provider's error object if it sent one in the stream."""

    __slots__ = (
        "_bytes", "_envelope", "_events", "_learnt", "_pending", "_pending_bytes", "_text_bytes", "_text_events", "_withhold",
        "done", "error", "finished", "usage",
    )  # fmt: skip

    def __init__(self, *, withhold_usage: bool) -> None:
        self._withhold = withhold_usage
        # The beginning of an event whose end has not arrived.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        # Blocks that were only counted: their bytes and events, and what is known of an event's envelope.
        self._bytes = 0
        self._events = 0
        self._envelope = 0
        self._learnt = 0
        # Events that were read.
        self._text_bytes = 0
        self._text_events = 0
        self.usage: dict[str, Any] | None = None
        self.error: Any = None
        self.done = False
        self.finished = False

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the caller may have now. Raises BrokenAnswer on an event without end."""
        if self._pending:
            data = self._joined(data)
        if not data.endswith(b"\n\n"):
            whole = _whole_events(data)
            if whole < len(data):
                self._keep(data[whole:])
            data = data[:whole]
        if not data or self.done:
            return b""
        if self._learnt < _LEARNT_FROM or _matters(data):
            return self._event_by_event(data)
        self._bytes += len(data)
        self._events += data.count(b"\n\n") or data.count(b"\r\n\r\n")
        return data

    def finish(self) -> bytes:
        """The provider closed the connection: what is left over, if it is a whole event but for its blank line."""
        rest = b"".join(self._pending)
        self._pending.clear()
        if self.done or (_data(rest) != b"[DONE]" and _payload(rest) is None):
            return b""
        return self._event_by_event(rest.rstrip(b"\r\n") + b"\n\n")

    def _joined(self, data: bytes) -> bytes:
        """What was kept and what arrived; b"" while no line has ended, so that a slow drip is not copied at every byte."""
        if b"\n" not in data:
            self._keep(data)
            return b""
        data = b"".join((*self._pending, data))
        self._pending.clear()
        self._pending_bytes = 0
        return data

    def _keep(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > EVENT_BYTES_MAX:
            raise BrokenAnswer("The provider sent an event that does not end.")

    @property
    def ended(self) -> bool:
        """Whether the answer came to its own end: [DONE], or a finish reason from providers that do not send it."""
        return self.done or self.finished

    def text(self) -> tuple[int, int]:
        """Bytes of answer text so far (content, reasoning, tool arguments), and how many events carried any."""
        counted = max(self._bytes - self._events * self._envelope, 0)
        return self._text_bytes + counted, self._text_events + self._events

    def _event_by_event(self, block: bytes) -> bytes:
        out, start = [], 0
        for boundary in _BOUNDARY.finditer(block):
            event = block[start : boundary.end()]
            start = boundary.end()
            if not self.done and self._passes(event):
                out.append(event)
        return b"".join(out)

    def _passes(self, event: bytes) -> bool:
        """Read one event; False if it is the usage chunk that the caller did not ask for."""
        if _data(event) == b"[DONE]":
            self.done = True
            return True
        payload = _payload(event)
        if payload is None:
            return True
        if payload.get("error"):
            self.error = payload["error"]
        self._weigh(payload, len(event))
        usage = payload.get("usage")
        if not isinstance(usage, dict):
            return True
        self.usage = usage
        return not self._withhold or bool(payload.get("choices"))

    def _weigh(self, payload: dict[str, Any], event_bytes: int) -> None:
        weight = 0
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict):
                weight += text_bytes(delta)
            self.finished = self.finished or choice.get("finish_reason") is not None
        if weight:
            self._text_bytes += weight
            self._text_events += 1
            self._learnt += 1
            self._envelope = event_bytes - weight if self._envelope == 0 else min(self._envelope, event_bytes - weight)


def _matters(data: bytes) -> bool:
    """Whether a block has to be read: usage, an error, a finish reason, the end."""
    return (
        b"[DONE]" in data
        or b'_reason":"' in data
        or b'_reason": "' in data
        or b'"error"' in data
        or (b'"usage"' in data and _USAGE.search(data) is not None)
    )


def text_bytes(message: dict[str, Any]) -> int:
    """UTF-8 bytes that the model wrote in a message or delta: content, refusal, reasoning, tool names and arguments."""
    weight = 0
    for name in ("content", "reasoning_content", "reasoning", "refusal"):
        value = message.get(name)
        if isinstance(value, str):
            weight += len(value.encode(errors="replace"))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            weight += sum(len(str(function.get(part) or "").encode(errors="replace")) for part in ("name", "arguments"))
    return weight


def _whole_events(data: bytes) -> int:
    """How many bytes of `data` are whole events."""
    unix, dos = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(unix + 2 if unix >= 0 else 0, dos + 4 if dos >= 0 else 0)


def _data(event: bytes) -> bytes:
    return b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def _payload(event: bytes) -> dict[str, Any] | None:
    """The JSON object of one event, None for comments, [DONE] and anything that is not an object."""
    data = _data(event)
    if not data.startswith(b"{"):
        return None
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None
