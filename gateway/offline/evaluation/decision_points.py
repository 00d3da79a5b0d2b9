"""A session as the published rules see it: turns, each an answer of the model with what its calls brought."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from .recordings import Message, Recording


class Call(msgspec.Struct, gc=False):
    """One tool call: arguments as canonical text, so that order and spacing of keys do not count. `result` is None
    until, or if never, one came."""

    name: str
    arguments: str
    result: str | None = None


class Turn(msgspec.Struct):
    """One answer of the model: what it said, what it called, what the user said to it."""

    text: str
    calls: Sequence[Call] = ()
    reply: str = ""


class Moment(msgspec.Struct):
    """A request at which a rule decides: the number of the call that it asks for (from 0), the time in seconds, and the
    turn that has ended since the request before."""

    number: int
    now: float
    turn: Turn | None
    recording: Recording
    place: int


def moments(recording: Recording, gap_seconds: float) -> Iterator[Moment]:
    """Every request of the session. After the last answer nothing was asked, so nothing is decided."""
    now, before = 0.0, None
    for number, place in enumerate(recording.places):
        gap = recording.messages[place].get("_gap")
        now += gap if isinstance(gap, int | float) else gap_seconds if number else 0.0
        turn = None if before is None else turn_at(recording.messages, before, place)
        yield Moment(number=number, now=now, turn=turn, recording=recording, place=place)
        before = place


def turn_at(messages: Sequence[Message], start: int, end: int) -> Turn:
    """The turn that begins with the answer at `start` and ends before `end`.

    Results find their call by id; where ids are missing or not unique within the turn, by position.
    """
    answer = messages[start]
    raw = answer.get("tool_calls") or ()
    calls = [_call(one) for one in raw]
    ids = [one.get("id") for one in raw]
    replies, position = [], 0
    for message in messages[start + 1 : end]:
        if message["role"] == "tool":
            wanted = message.get("tool_call_id")
            place = ids.index(wanted) if wanted and ids.count(wanted) == 1 else position
            position += 1
            if place < len(calls):
                calls[place].result = text_of(message)
        elif message["role"] == "user":
            replies.append(text_of(message))
    return Turn(text=text_of(answer), calls=calls, reply="\n".join(replies))


def _call(raw: Mapping[str, Any]) -> Call:
    function = raw.get("function")
    if not isinstance(function, dict):
        return Call(name="", arguments=_sorted(raw.get("function")))
    return Call(name=str(function.get("name")), arguments=_canonical(function.get("arguments")))


def _canonical(arguments: Any) -> str:
    if not isinstance(arguments, str):
        return _sorted(arguments)
    try:
        return _sorted(orjson.loads(arguments))
    except orjson.JSONDecodeError:
        return arguments


def _sorted(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def text_of(message: Message) -> str:
    """What a message says, as one text; parts that are no text count as what they are written as."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(
        text if isinstance(text, str) else _sorted(part) for text, part in zip(texts, content, strict=True)
    )
