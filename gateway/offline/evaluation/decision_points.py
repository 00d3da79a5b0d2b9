"""A session as the published rules see it: turns, each an answer of the model with what its calls brought."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from .recordings import RecordedMessage, Recording


class TurnCall(msgspec.Struct, gc=False):
    """One tool call: arguments as canonical text, so that order and spacing of keys do not count. `result` is None
    until, or if never, one came."""

    name: str
    arguments: str
    result: str | None = None


class AgentTurn(msgspec.Struct):
    """One answer of the model: what it said, what it called, what the user said to it."""

    text: str
    calls: Sequence[TurnCall] = ()
    user_reply: str = ""


class DecisionPoint(msgspec.Struct):
    """A request at which a rule decides: the number of the call that it asks for (from 0), the time in seconds, and the
    turn that has ended since the request before."""

    call_number: int
    now: float
    last_turn: AgentTurn | None
    recording: Recording
    answer_position: int


def decision_points(recording: Recording, gap_seconds: float) -> Iterator[DecisionPoint]:
    """Every request of the session. After the last answer nothing was asked, so nothing is decided."""
    now, before = 0.0, None
    for number, place in enumerate(recording.answer_positions):
        gap = recording.messages[place].get("_gap")
        now += gap if isinstance(gap, int | float) else gap_seconds if number else 0.0
        turn = None if before is None else turn_between(recording.messages, before, place)
        yield DecisionPoint(call_number=number, now=now, last_turn=turn, recording=recording, answer_position=place)
        before = place


def turn_between(messages: Sequence[RecordedMessage], start: int, end: int) -> AgentTurn:
    """The turn that begins with the answer at `start` and ends before `end`.

    Results find their call by id; where ids are missing or not unique within the turn, by position.
    """
    answer = messages[start]
    raw = answer.get("tool_calls") or ()
    calls = [_turn_call(one) for one in raw]
    ids = [one.get("id") for one in raw]
    replies, position = [], 0
    for message in messages[start + 1 : end]:
        if message["role"] == "tool":
            wanted = message.get("tool_call_id")
            place = ids.index(wanted) if wanted and ids.count(wanted) == 1 else position
            position += 1
            if place < len(calls):
                calls[place].result = message_text(message)
        elif message["role"] == "user":
            replies.append(message_text(message))
    return AgentTurn(text=message_text(answer), calls=calls, user_reply="\n".join(replies))


def _turn_call(raw: Mapping[str, Any]) -> TurnCall:
    function = raw.get("function")
    if not isinstance(function, dict):
        return TurnCall(name="", arguments=_canonical_json(raw.get("function")))
    return TurnCall(name=str(function.get("name")), arguments=_canonical_arguments(function.get("arguments")))


def _canonical_arguments(arguments: Any) -> str:
    if not isinstance(arguments, str):
        return _canonical_json(arguments)
    try:
        return _canonical_json(orjson.loads(arguments))
    except orjson.JSONDecodeError:
        return arguments


def _canonical_json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def message_text(message: RecordedMessage) -> str:
    """What a message says, as one text; parts that are no text count as what they are written as."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(
        text if isinstance(text, str) else _canonical_json(part) for text, part in zip(texts, content, strict=True)
    )
