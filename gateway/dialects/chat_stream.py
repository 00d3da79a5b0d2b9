"""Meters chat-completions and completions streams and withholds an unrequested usage chunk."""

import re
from typing import Any

from ..providers.streamed_answer import collect_chunk
from ..providers.usage_spellings import read_usage, usage_objects_of
from .answer_failure import FAILED_FINISH_REASON, choice_error
from .sse import StreamMeter, encode_event, utf8_bytes

# Quotes within JSON strings are escaped, so this never matches inside the model's text.
_find_usage = re.compile(rb'"usage"\s*:\s*\{').search
# Fields that every chunk of a stream repeats.
_CHUNK_FIELDS = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
# Bytes of unread events after the usage that may be other fields than text: half an event's usual envelope.
_LATER_BYTES_MAX = 64


class ChatStreamMeter(StreamMeter):
    """Meters one stream; `withhold_usage` drops the usage chunk for a caller who did not request it."""

    __slots__ = (
        "_finished_by_choice",
        "_is_text_completion",
        "_latest_chunk",
        "_text_bytes_at_usage",
        "_text_read_since_usage",
        "_usage_chunk_seen",
        "_withhold_usage",
    )  # fmt: skip

    def __init__(self, *, withhold_usage: bool) -> None:
        super().__init__()
        self._withhold_usage = withhold_usage
        # Kept where the stream may end early: its latest chunk, and per choice whether it has a finish reason.
        self._latest_chunk: dict[str, Any] = {}
        self._finished_by_choice: dict[int, bool] = {}
        # Whether choices hold plain text (completions); whether the chunk with the total usage was seen.
        self._is_text_completion = False
        self._usage_chunk_seen = False
        # Text at the usage reported last, None without one; whether an event that was read since holds text.
        self._text_bytes_at_usage: int | None = None
        self._text_read_since_usage = False

    @property
    def usage_is_final(self) -> bool:
        """Whether no text followed the usage reported last: some servers open a stream with a placeholder."""
        return not self._text_read_since_usage and self._later_text_bytes() <= _LATER_BYTES_MAX

    def _must_read(self, data: bytes) -> bool:
        """Whether it may hold usage, tools that ran, an error, a finish reason or the end mark."""
        return (
            b"[DONE]" in data
            or b'_reason":"' in data
            or b'_reason": "' in data
            or b'"error"' in data
            or b"event: error" in data
            or _find_usage(data) is not None
            or b'"url_citation"' in data
            or b'"executed_tools"' in data
        )

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        weight = 0
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            weight += text_bytes(delta) if isinstance(delta, dict) else utf8_bytes(choice.get("text"))
            if self.fingerprint_chars and isinstance(delta, dict):
                self._fingerprint_delta(delta)
            self._read_ending(choice)
            if not self.answer_begun and isinstance(delta, dict):
                self.answer_begun = any(value for name, value in delta.items() if name != "role")
        self._count_text(weight, event_bytes)
        has_usage = collect_chunk(self.answer, payload)
        if has_usage and _reports_output(payload):
            self._text_bytes_at_usage, self._text_read_since_usage = self.estimated_text_totals()[0], False
        elif weight and self._text_bytes_at_usage is not None:
            self._text_read_since_usage = True
        return not self._withhold_usage or bool(choices) or not isinstance(payload.get("usage"), dict)

    def _later_text_bytes(self) -> int:
        at_usage = self._text_bytes_at_usage
        return 0 if at_usage is None else self.estimated_text_totals()[0] - at_usage

    def _read_deferred(self) -> None:
        """Read deferred events, which may precede the usage: what is known of the text after it remains."""
        later, was_read = self._later_text_bytes(), self._text_read_since_usage
        super()._read_deferred()
        if self._text_bytes_at_usage is not None:
            self._text_bytes_at_usage, self._text_read_since_usage = self.estimated_text_totals()[0] - later, was_read

    def _read_ending(self, choice: dict[str, Any]) -> None:
        """Read the finish reason and the error of a choice; an empty reason is none."""
        reason = choice.get("finish_reason")
        if reason and reason != FAILED_FINISH_REASON:
            self.finish_reason_seen = self.answer_begun = True
        if self.error is None and (reason or "error" in choice):
            self.error = choice_error(choice)

    def _fingerprint_delta(self, delta: dict[str, Any]) -> None:
        calls = delta.get("tool_calls")
        call = calls[0] if isinstance(calls, list) and calls else None
        if not isinstance(call, dict) or call.get("index", 0) != 0:
            self._extend_fingerprint(delta.get("content"))
            return
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        self._extend_fingerprint(
            delta.get("content"), call.get("id"), f"{function.get('name') or ''}{function.get('arguments') or ''}"
        )

    def _track(self, payload: dict[str, Any]) -> None:
        choices = payload.get("choices")
        if not isinstance(choices, list):
            return
        # Azure's chunks about filtered content have no id.
        if payload.get("id") or not self._latest_chunk:
            self._latest_chunk = payload
        for choice in choices:
            if isinstance(choice, dict):
                index = choice.get("index")
                index = index if isinstance(index, int) else 0
                self._finished_by_choice[index] = self._finished_by_choice.get(index, False) or bool(
                    choice.get("finish_reason")
                )
                self._is_text_completion = self._is_text_completion or "text" in choice
        self._usage_chunk_seen = isinstance(payload.get("usage"), dict) and all(self._finished_by_choice.values())

    def _closing_events(self, input_tokens: int, output_tokens: int) -> bytes:
        """A chunk with a finish reason per unfinished choice, the usage chunk if requested, and the end mark."""
        if not self._latest_chunk:
            return b""
        head = {name: self._latest_chunk[name] for name in _CHUNK_FIELDS if name in self._latest_chunk}
        usage = {
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        }
        no_text: dict[str, Any] = {"text": ""} if self._is_text_completion else {"delta": {}}
        choices = [
            {"index": index, **no_text, "logprobs": None, "finish_reason": "length"}
            for index, finished in (self._finished_by_choice or {0: False}).items()
            if not finished
        ]
        chunks = [{**head, "choices": [choice]} for choice in choices]
        if not self._withhold_usage:
            chunks = [{**chunk, "usage": None} for chunk in chunks]
            chunks += [] if self._usage_chunk_seen else [{**head, "choices": [], "usage": usage}]
        return b"".join(map(encode_event, chunks)) + b"data: [DONE]\n\n"


def _reports_output(chunk: dict[str, Any]) -> bool:
    """Whether a chunk reports an output count; a zero never replaces a figure."""
    return any((counts := read_usage(usage)) is not None and counts.output for usage in usage_objects_of(chunk))


def text_bytes(message: dict[str, Any]) -> int:
    """Return the UTF-8 bytes of a message or delta: content, refusal, reasoning, tool names and arguments."""
    weight = 0
    for name in ("content", "reasoning_content", "reasoning", "refusal"):
        weight += utf8_bytes(message.get(name))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            weight += sum(len(str(function.get(part) or "").encode(errors="replace")) for part in ("name", "arguments"))
    return weight
