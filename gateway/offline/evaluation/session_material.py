"""Material of long sessions: steps, texts, conversations of healthy sessions."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from .decision_points import message_text
from .recordings import RecordedMessage, Recording

# Longer texts are cut, so that five hundred calls fit in some model's context.
_MAX_TEXT_CHARS = 1500
# Shorter results do not count as a page of a document.
_MIN_LONG_RESULT_CHARS = 200
# Results that only confirm.
_CONFIRMATION_RESULTS = frozenset({"none", "ok", "null", "true", "success", "done", "transfer successful"})
_MIN_MULTI_TURN_USER_TURNS = 3
# More repetitions of a step are a loop by Crush's rule (loops.md section 1, without its window).
_MAX_SAME_STEPS = 5


class RecordedCall(msgspec.Struct, frozen=True):
    """One real call.

    text: what the agent wrote with it
    name, arguments: as sent
    """

    text: str
    name: str
    arguments: str
    result: str


class SessionMaterial(msgspec.Struct, frozen=True):
    """Material from real sessions.

    calls_by_tool: distinct calls, the tool with most of them first
    confirmations: calls whose result only confirms
    long_results: results long enough for a page
    multi_turn_sessions, single_turn_sessions: with several user turns, with few; by source
    """

    calls_by_tool: Sequence[Sequence[RecordedCall]]
    confirmations: Sequence[RecordedCall]
    long_results: Sequence[str]
    multi_turn_sessions: Mapping[str, Sequence[Recording]]
    single_turn_sessions: Mapping[str, Sequence[Recording]]


def gather_material(recordings: Iterable[Recording]) -> SessionMaterial:
    """The material of the real healthy sessions. Raises ValueError for too little."""
    tools: dict[str, dict[tuple[str, str], RecordedCall]] = defaultdict(dict)
    pages: dict[str, None] = {}
    multi_turn: dict[str, list[Recording]] = defaultdict(list)
    single_turn: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.label != "healthy" or recording.synthetic:
            continue
        pairs = recorded_calls(recording)
        for pair in pairs:
            tools[pair.name].setdefault((pair.arguments, pair.result), pair)
        texts = [pair.result for pair in pairs] + _command_outputs(recording)
        pages.update((text, None) for text in texts if len(text) >= _MIN_LONG_RESULT_CHARS)
        turns = sum(message["role"] == "user" for message in recording.messages)
        if pairs and not _has_loop(pairs):
            sessions = multi_turn if turns >= _MIN_MULTI_TURN_USER_TURNS else single_turn
            sessions[recording.source].append(recording)
    calls_by_tool = sorted((list(calls.values()) for calls in tools.values()), key=len, reverse=True)
    confirmations = [
        pair for calls in calls_by_tool for pair in calls if pair.result.strip().lower() in _CONFIRMATION_RESULTS
    ]
    if not (calls_by_tool and confirmations and pages and multi_turn and single_turn):
        raise ValueError("too few healthy sessions: tool calls, long results and conversations are required")
    return SessionMaterial(
        calls_by_tool=calls_by_tool,
        confirmations=confirmations,
        long_results=list(pages),
        multi_turn_sessions=multi_turn,
        single_turn_sessions=single_turn,
    )


def _has_loop(pairs: Sequence[RecordedCall]) -> bool:
    """Whether a session, though it ended well, had a loop by Crush's rule."""
    steps = [(pair.name, pair.arguments, pair.result) for pair in pairs]
    return any(steps.count(step) > _MAX_SAME_STEPS for step in set(steps))


def recorded_calls(recording: Recording) -> list[RecordedCall]:
    """The live turns of one call and one result; turns of several calls are left out."""
    pairs = []
    for index in recording.answer_positions:
        calls: Sequence[RecordedMessage] = recording.messages[index].get("tool_calls") or ()
        following = recording.messages[index + 1 : index + 2]
        function = calls[0].get("function") if len(calls) == 1 else None
        if not following or following[0]["role"] != "tool" or not isinstance(function, dict):
            continue
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and isinstance(arguments, str):
            text, result = message_text(recording.messages[index]), message_text(following[0])[:_MAX_TEXT_CHARS]
            pairs.append(RecordedCall(text, name, arguments, result))
    return pairs


def _command_outputs(recording: Recording) -> list[str]:
    """Outputs of commands in text protocols: the user's turn after a command."""
    messages = recording.messages
    return [
        message_text(messages[index + 1])[:_MAX_TEXT_CHARS]
        for index in recording.answer_positions
        if "_action" in messages[index] and index + 1 < len(messages) and messages[index + 1]["role"] == "user"
    ]
