"""Recorded sessions: JSON Lines (gz or not) -> Recording, one session per line.

`messages` are chat messages as they were sent; keys that begin with "_" are annotations that no detector sees: `_demo`
(a few-shot turn, not live), `_chars` (length before a long text was cut), `_gap` (seconds before the request).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import orjson

from ...feeds import json_lines

RecordedMessage = dict[str, Any]

# The labels that are counted; any other, or none, is "unknown" and never a negative.
LABELS = ("healthy", "completed", "loop")
# Recordings have no times: the gap between two requests of a busy agent.
DEFAULT_GAP_SECONDS = 5.0


class _SessionLine(msgspec.Struct):
    """The keys that are read of a line; only the first two are required."""

    id: str
    messages: list[RecordedMessage]
    source: str | None = None
    label: str | None = None
    loop_class: str | None = None
    loop_onset_call: int | None = None
    label_provenance: str | None = None
    cost_usd: float | None = None
    syn_kind: str | None = None
    task: str | None = None


_LINE_DECODER = msgspec.json.Decoder(_SessionLine)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One session.

    label: one of LABELS, or unknown
    synthetic: generated
    onset: number of the first looping call; None: unknown
    answer_positions: indexes of the answers to live calls; call k's request is `messages[:answer_positions[k]]`
    """

    id: str
    source: str
    label: str
    messages: tuple[RecordedMessage, ...]
    synthetic: bool = False
    loop_class: str = ""
    onset: int | None = None
    cost_usd: float | None = None
    task: str = ""

    @cached_property
    def answer_positions(self) -> tuple[int, ...]:
        """Indexes of the live answers; a session's first message answers nothing."""
        return tuple(
            index
            for index, message in enumerate(self.messages)
            if index > 0 and message["role"] == "assistant" and not message.get("_demo")
        )

    @cached_property
    def _encoded_messages(self) -> list[bytes]:
        return [
            orjson.dumps({key: value for key, value in message.items() if not key.startswith("_")})
            for message in self.messages
        ]

    @cached_property
    def _body_prefix(self) -> bytes:
        tools = orjson.dumps([{"type": "function", "function": {"name": name}} for name in _tool_names(self.messages)])
        return b'{"model":"m",' + (b'"tools":' + tools + b"," if len(tools) > 2 else b"") + b'"messages":['

    def request_body(self, index: int) -> bytes:
        """The chat-completions body of the request that message `index` answers."""
        return self._body_prefix + b",".join(self._encoded_messages[:index]) + b"]}"


def load_recordings(paths: Iterable[Path]) -> Iterator[Recording]:
    """The sessions of files, and of .jsonl and .jsonl.gz files in folders, by name.

    Raises ValueError with file and line for an invalid session, and without data.
    """
    yield from json_lines.read(
        paths, _parse_recording, "a session", (msgspec.MsgspecError, UnicodeDecodeError, _InvalidSession)
    )


class _InvalidSession(Exception):
    """What is wrong with a line."""


def _parse_recording(line: bytes, file: Path) -> Recording:
    fields = _LINE_DECODER.decode(line)
    for index, message in enumerate(fields.messages):
        _check_message(message, f"messages[{index}]")
    if not fields.messages:
        raise _InvalidSession("'messages' is empty")
    source = fields.source or file.name.split(".")[0]
    provenance = fields.label_provenance or ""
    synthetic = fields.id.startswith("syn/") or "synthetic" in source.lower() or "SYNTHETIC" in provenance
    label = fields.label if fields.label in LABELS else "unknown"
    if synthetic:
        # Each is derived from another real session, so they are grouped by how they were generated.
        source = f"synthetic {label}: {fields.syn_kind or fields.loop_class or 'any'}"
    return Recording(
        id=fields.id,
        source=source,
        label=label,
        messages=tuple(fields.messages),
        synthetic=synthetic,
        loop_class=fields.loop_class or "",
        onset=fields.loop_onset_call if label == "loop" else None,
        cost_usd=fields.cost_usd,
        task=fields.task or "",
    )


def _check_message(message: RecordedMessage, path: str) -> None:
    if not isinstance(message.get("role"), str):
        raise _InvalidSession(f"{path} has no 'role'")
    if not isinstance(message.get("content"), str | list | None):
        raise _InvalidSession(f"{path}: 'content' is neither text nor a list of parts")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise _InvalidSession(f"{path}: 'tool_calls' is not a list of objects")


def _tool_names(messages: Iterable[RecordedMessage]) -> list[str]:
    """The tools that the session calls, offered with each request."""
    functions = [call.get("function") for message in messages for call in message.get("tool_calls") or ()]
    names = {function.get("name") for function in functions if isinstance(function, dict)}
    return sorted(name for name in names if isinstance(name, str))
