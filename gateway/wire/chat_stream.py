"""Chat-completions and completions streams: what is read of them, the unasked usage chunk withheld."""

import re
from typing import Any

from .sse import Meter, weight_of

# Within JSON strings a quote is escaped, so these never match inside text that the model wrote.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')


class ChatStream(Meter):
    """Meters one stream; `withhold_usage` keeps the usage chunk from a caller who did not ask for it."""

    __slots__ = ("_withhold",)

    def __init__(self, *, withhold_usage: bool) -> None:
        super().__init__()
        self._withhold = withhold_usage

    def _matters(self, data: bytes) -> bool:
        """Usage, an error, a finish reason, the end."""
        return (
            b"[DONE]" in data
            or b'_reason":"' in data
            or b'_reason": "' in data
            or b'"error"' in data
            or (b'"usage"' in data and _USAGE.search(data) is not None)
        )

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        if payload.get("error"):
            self.error = payload["error"]
        weight = 0
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            weight += text_bytes(delta) if isinstance(delta, dict) else weight_of(choice.get("text"))
            self.finished = self.finished or choice.get("finish_reason") is not None
        self._weigh(weight, event_bytes)
        usage = payload.get("usage")
        if not isinstance(usage, dict):
            return True
        self.usage = usage
        return not self._withhold or bool(choices)


def text_bytes(message: dict[str, Any]) -> int:
    """UTF-8 bytes that the model wrote in a message or delta: content, refusal, reasoning, tool names and arguments."""
    weight = 0
    for name in ("content", "reasoning_content", "reasoning", "refusal"):
        weight += weight_of(message.get(name))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            weight += sum(len(str(function.get(part) or "").encode(errors="replace")) for part in ("name", "arguments"))
    return weight
