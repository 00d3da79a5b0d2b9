"""A session as published rules see it: turns of an answer with its results."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from .recordings import RecordedMessage, Recording


class TurnCall(msgspec.Struct, gc=False):
    """One tool call.

    arguments: canonical text, independent of key order and spacing
    result: None: none yet, or never
    """

    name: str
    arguments: str
    result: str | None = None


class AgentTurn(msgspec.Struct):
    """One answer of the model, with what followed.

    text: of the answer
    calls: its tool calls
    user_reply: text of the user messages after it
    """

    text: str
    calls: Sequence[TurnCall] = ()
    user_reply: str = ""


class DecisionPoint(msgspec.Struct):
    """A request at which a rule decides.

    call_number: of the requested call, from 0
    now: time in seconds
    last_turn: the turn that ended since the previous request; None: the first request
    answer_position: index of the message that answers the request
    """

    call_number: int
    now: float
    last_turn: AgentTurn | None
    recording: Recording
    answer_position: int


def decision_points(recording: Recording, gap_seconds: float) -> Iterator[DecisionPoint]:
    """Every request of the session; none follows the last answer.

    `gap_seconds`: time between requests where the recording has none.
    """
    now, previous = 0.0, None
    for number, position in enumerate(recording.answer_positions):
        gap = recording.messages[position].get("_gap")
        now += gap if isinstance(gap, int | float) else gap_seconds if number else 0.0
        turn = None if previous is None else turn_between(recording.messages, previous, position)
        yield DecisionPoint(call_number=number, now=now, last_turn=turn, recording=recording, answer_position=position)
        previous = position


def turn_between(messages: Sequence[RecordedMessage], start: int, end: int) -> AgentTurn:
    """The turn that starts with the answer at `start` and ends before `end`.

    Results are matched to calls by id; where ids are missing or not unique within the turn, by position.
    """
    answer = messages[start]
    raw_calls = answer.get("tool_calls") or ()
    calls = [_turn_call(call) for call in raw_calls]
    ids = [call.get("id") for call in raw_calls]
    replies, position = [], 0
    for message in messages[start + 1 : end]:
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            index = ids.index(call_id) if call_id and ids.count(call_id) == 1 else position
            position += 1
            if index < len(calls):
                calls[index].result = message_text(message)
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
    """The text of a message; parts other than text as their JSON."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(
        text if isinstance(text, str) else _canonical_json(part) for text, part in zip(texts, content, strict=True)
    )
