"""What long sessions are made of: steps, texts and whole talks of real healthy sessions."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from .decision_points import message_text
from .recordings import RecordedMessage, Recording

# Longer texts are cut, so that five hundred calls stay a session that some model could have read.
_MAX_TEXT_CHARS = 1500
# Shorter results are no page of a document.
_MIN_LONG_RESULT_CHARS = 200
# Results that say no more than that it was done.
_CONFIRMATION_RESULTS = frozenset({"none", "ok", "null", "true", "success", "done", "transfer successful"})
_MIN_MULTI_TURN_USER_TURNS = 3
# More of the very same step are a loop by Crush's rule (loops.md section 1, without its window).
_MAX_SAME_STEPS = 5


class RecordedCall(msgspec.Struct, frozen=True):
    """One real call: what the agent said with it, the call as it was sent, the result."""

    text: str
    name: str
    arguments: str
    result: str


class SessionMaterial(msgspec.Struct, frozen=True):
    """`tools` are distinct pairs by tool, the richest tool first; `neutral` brought nothing to read; `pages` are
    results long enough to be one; `talks` have several user turns, `errands` one, both by source."""

    calls_by_tool: Sequence[Sequence[RecordedCall]]
    confirmations: Sequence[RecordedCall]
    long_results: Sequence[str]
    multi_turn_sessions: Mapping[str, Sequence[Recording]]
    single_turn_sessions: Mapping[str, Sequence[Recording]]


def gather_material(recordings: Iterable[Recording]) -> SessionMaterial:
    """Take apart the real healthy sessions. Raises ValueError if there is too little to make anything of."""
    tools: dict[str, dict[tuple[str, str], RecordedCall]] = defaultdict(dict)
    pages: dict[str, None] = {}
    conversations: dict[str, list[Recording]] = defaultdict(list)
    errands: dict[str, list[Recording]] = defaultdict(list)
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
            whole = conversations if turns >= _MIN_MULTI_TURN_USER_TURNS else errands
            whole[recording.source].append(recording)
    every = sorted((list(found.values()) for found in tools.values()), key=len, reverse=True)
    neutral = [pair for found in every for pair in found if pair.result.strip().lower() in _CONFIRMATION_RESULTS]
    if not (every and neutral and pages and conversations and errands):
        raise ValueError("too few healthy sessions to make long ones of: tools, pages of text and talks are needed")
    return SessionMaterial(
        calls_by_tool=every,
        confirmations=neutral,
        long_results=list(pages),
        multi_turn_sessions=conversations,
        single_turn_sessions=errands,
    )


def _has_loop(pairs: Sequence[RecordedCall]) -> bool:
    """Whether the session, though it came to a good end, had a loop in it by Crush's rule: that is no healthy work."""
    done = [(pair.name, pair.arguments, pair.result) for pair in pairs]
    return any(done.count(one) > _MAX_SAME_STEPS for one in set(done))


def recorded_calls(recording: Recording) -> list[RecordedCall]:
    """The session's live turns of one call and one result; turns of several calls stay out of it."""
    pairs = []
    for place in recording.answer_positions:
        calls: Sequence[RecordedMessage] = recording.messages[place].get("tool_calls") or ()
        after = recording.messages[place + 1 : place + 2]
        function = calls[0].get("function") if len(calls) == 1 else None
        if not after or after[0]["role"] != "tool" or not isinstance(function, dict):
            continue
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and isinstance(arguments, str):
            said, result = message_text(recording.messages[place]), message_text(after[0])[:_MAX_TEXT_CHARS]
            pairs.append(RecordedCall(said, name, arguments, result))
    return pairs


def _command_outputs(recording: Recording) -> list[str]:
    """What commands of text protocols printed: the user's turn after an answer with a command in it."""
    messages = recording.messages
    return [
        message_text(messages[place + 1])[:_MAX_TEXT_CHARS]
        for place in recording.answer_positions
        if "_action" in messages[place] and place + 1 < len(messages) and messages[place + 1]["role"] == "user"
    ]
