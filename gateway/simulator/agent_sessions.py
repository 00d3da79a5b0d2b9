"""Agent sessions to replay: from JSON Lines, gzipped or not, or for the demo.

A session is the list of chat messages as an agent sent them; every assistant message is the answer of one call, whose
request is the history before it. Keys that begin with "_" are annotations and are not sent; `_demo` messages are
few-shot examples, not live.
"""

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

ChatMessage = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSession:
    """One session: an id, its messages, and the tools that it used."""

    id: str
    messages: tuple[ChatMessage, ...]
    tools: tuple[ChatMessage, ...]

    def calls(self) -> Iterator[tuple[list[ChatMessage], ChatMessage]]:
        """(history, reply) of each live call."""
        for index, message in enumerate(self.messages):
            if message["role"] == "assistant" and index > 0 and not message.get("_demo"):
                yield (
                    [_without_annotations(earlier) for earlier in self.messages[:index]],
                    _without_annotations(message),
                )

    @property
    def call_count(self) -> int:
        """The number of live calls."""
        return sum(
            1
            for index, message in enumerate(self.messages)
            if message["role"] == "assistant" and index and not message.get("_demo")
        )


def load_sessions(paths: Iterable[Path]) -> Iterator[AgentSession]:
    """Recorded sessions. Raises ValueError with file and line for an invalid one."""
    for path in paths:
        with _open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    document = json.loads(line)
                    messages = tuple(document["messages"])
                    yield AgentSession(id=str(document["id"]), messages=messages, tools=_tools_called(messages))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}:{number}: not a session: {error!r}") from error


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8"))
    return path.open(encoding="utf-8")


def demo_sessions(seed: int = 7) -> list[AgentSession]:
    """Forty-eight sessions of six task types, three of which are loops."""
    randomness = random.Random(seed)
    sessions = []
    for number in range(45):
        kind = _DEMO_TASKS[number % len(_DEMO_TASKS)]
        sessions.append(_demo_session(f"demo-{kind[0]}-{number}", kind, randomness))
    sessions += [_looping_session(f"demo-loop-{number}") for number in range(3)]
    randomness.shuffle(sessions)
    return sessions


def _without_annotations(message: ChatMessage) -> ChatMessage:
    return {name: value for name, value in message.items() if not name.startswith("_")}


def _tools_called(messages: Iterable[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The tools that the session called, with the parameters seen."""
    parameters: dict[str, set[str]] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            if isinstance(function.get("name"), str):
                parameters.setdefault(function["name"], set()).update(_argument_names(function.get("arguments")))
    return tuple(
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": {parameter: {"type": "string"} for parameter in sorted(names)},
                },
            },
        }
        for name, names in sorted(parameters.items())
    )


def _argument_names(arguments: Any) -> list[str]:
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return []
    return [str(name) for name in parsed] if isinstance(parsed, dict) else []


# (task type, system prompt, user's request, tools, number of tool turns, tool result)
_DEMO_TASKS = (
    ("code", "You are a coding agent in a repository.", "Debug why the parser fails on nested brackets and fix the function.",
     ("read_file", "edit_file", "run_tests"), 7, "def parse(text):\n    stack = []\n    for char in text:\n        if char == '(':"),
    ("research", "You are a research agent with a browser.", "Investigate how the three largest ports cut emissions and compare their strategy.",
     ("web_search", "open_page"), 6, "The port authority reports that shore power reached 61 percent of calls in the year."),
    ("extraction", "You extract fields from documents as JSON.", "Extract invoice number, date and total from this document.",
     (), 0, ""),
    ("support", "You are an airline support agent.", "Hi, I want to change my reservation to the Tuesday flight.",
     ("get_reservation", "update_reservation"), 4, '{"reservation": "JX81", "flights": ["HAT083"], "cabin": "economy"}'),
    ("summary", "You summarize meetings.", "Summarize this meeting and list the action items.", (), 0, ""),
    ("chat", "You are a helpful assistant.", "Hello! What is a good name for a friendly robot?", (), 2, ""),
)  # fmt: skip
_FILLER_TEXT = "The committee met at nine and went through the open points of the last session one by one. "


def _demo_session(
    name: str, kind: tuple[str, str, str, tuple[str, ...], int, str], randomness: random.Random
) -> AgentSession:
    task, system, request, tools, turns, result = kind
    filler = _FILLER_TEXT * randomness.randint(5, 60) if task in ("extraction", "summary") else ""
    messages: list[ChatMessage] = [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{request} (case {randomness.randint(1000, 9999)}) {filler}".strip()},
    ]
    for turn in range(randomness.randint(max(1, turns - 2), turns + 2) if turns else 0):
        if tools:
            tool = tools[turn % len(tools)]
            messages += _tool_messages(
                f"{name}-{turn}",
                tool,
                {"target": f"item-{turn}"},
                f"{result}\n# {turn} {_FILLER_TEXT * randomness.randint(1, 8)}",
            )
        else:
            messages.append({"role": "assistant", "content": f"How about option {turn}? {_FILLER_TEXT * 2}"})
            messages.append({"role": "user", "content": f"Nice, and another one, please? ({turn})"})
    messages.append({"role": "assistant", "content": f"Done: {_FILLER_TEXT * randomness.randint(1, 6)}"})
    return AgentSession(id=name, messages=tuple(messages), tools=_tools_called(messages))


def _looping_session(name: str) -> AgentSession:
    """An agent that repeats the same call."""
    messages: list[ChatMessage] = [
        {"role": "system", "content": "You are a coding agent in a repository."},
        {"role": "user", "content": f"Find out why the build fails. ({name})"},
    ]
    for turn in range(40):
        messages += _tool_messages(f"{name}-{turn}", "run_tests", {"path": "tests/"}, "error: module 'build' not found")
    messages.append({"role": "assistant", "content": "I give up."})
    return AgentSession(id=name, messages=tuple(messages), tools=_tools_called(messages))


def _tool_messages(call_id: str, tool: str, arguments: ChatMessage, result: str) -> list[ChatMessage]:
    call = {"id": call_id, "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": result},
    ]
