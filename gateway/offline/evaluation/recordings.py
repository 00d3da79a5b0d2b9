"""Recorded sessions: JSON Lines (gz or not) -> Recording. One line is one session, whole, with its label.

`messages` are chat messages as they were sent; keys that begin with "_" are annotations that no detector is shown:
`_demo` (a few-shot turn, not live), `_chars` (length before a long text was cut), `_gap` (seconds before the request).
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

# The labels that are counted; any other, and none at all, is "unknown" and never a negative.
LABELS = ("healthy", "completed", "loop")
# Recordings carry no times: the gap between two requests of an agent that is busy.
DEFAULT_GAP_SECONDS = 5.0


class _SessionLine(msgspec.Struct):
    """The keys of a line that are read; only the first two have to be there."""

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
    """One session. `places` are the messages that were answers to live calls, in order: call k's request is
    `messages[:places[k]]`. `onset` is the first looping call, None where it is not known."""

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
        """Where the live answers stand; a session's first message answers nothing."""
        return tuple(
            place
            for place, message in enumerate(self.messages)
            if place > 0 and message["role"] == "assistant" and not message.get("_demo")
        )

    @cached_property
    def _encoded_messages(self) -> list[bytes]:
        return [orjson.dumps({k: v for k, v in one.items() if not k.startswith("_")}) for one in self.messages]

    @cached_property
    def _body_prefix(self) -> bytes:
        tools = orjson.dumps([{"type": "function", "function": {"name": name}} for name in _tool_names(self.messages)])
        return b'{"model":"m",' + (b'"tools":' + tools + b"," if len(tools) > 2 else b"") + b'"messages":['

    def request_body(self, place: int) -> bytes:
        """The chat-completions body of the request that the message at `place` answers."""
        return self._body_prefix + b",".join(self._encoded_messages[:place]) + b"]}"


def load_recordings(paths: Iterable[Path]) -> Iterator[Recording]:
    """Sessions of files, and of the .jsonl and .jsonl.gz files in folders, in order of name.

    Raises ValueError with file and line for what is no session, and for what is no data.
    """
    yield from json_lines.read(
        paths, _parse_recording, "a session", (msgspec.MsgspecError, UnicodeDecodeError, _InvalidSession)
    )


class _InvalidSession(Exception):
    """What is wrong with the line."""


def _parse_recording(line: bytes, file: Path) -> Recording:
    read = _LINE_DECODER.decode(line)
    for place, message in enumerate(read.messages):
        _check_message(message, f"messages[{place}]")
    if not read.messages:
        raise _InvalidSession("'messages' is empty")
    source = read.source or file.name.split(".")[0]
    provenance = read.label_provenance or ""
    synthetic = read.id.startswith("syn/") or "synthetic" in source.lower() or "SYNTHETIC" in provenance
    label = read.label if read.label in LABELS else "unknown"
    if synthetic:
        # Each has another real session as its source; what tells them apart is how they were made.
        source = f"synthetic {label}: {read.syn_kind or read.loop_class or 'any'}"
    return Recording(
        id=read.id,
        source=source,
        label=label,
        messages=tuple(read.messages),
        synthetic=synthetic,
        loop_class=read.loop_class or "",
        onset=read.loop_onset_call if label == "loop" else None,
        cost_usd=read.cost_usd,
        task=read.task or "",
    )


def _check_message(message: RecordedMessage, where: str) -> None:
    if not isinstance(message.get("role"), str):
        raise _InvalidSession(f"{where} has no 'role'")
    if not isinstance(message.get("content"), str | list | None):
        raise _InvalidSession(f"{where}: 'content' is neither text nor a list of parts")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise _InvalidSession(f"{where}: 'tool_calls' is not a list of objects")


def _tool_names(messages: Iterable[RecordedMessage]) -> list[str]:
    """The tools that the session calls: what an agent like this one offers with each request."""
    functions = [call.get("function") for message in messages for call in message.get("tool_calls") or ()]
    names = {one.get("name") for one in functions if isinstance(one, dict)}
    return sorted(name for name in names if isinstance(name, str))
