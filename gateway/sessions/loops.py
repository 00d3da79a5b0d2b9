"""The loop guard: a score that grows when the same tool call brings the same result again, and falls with each new step.

Reads only messages that it has not seen. A turn all of whose calls and results were seen before adds 1, a new one takes
1 off, the floor is 0: long healthy work does
not accumulate, a run of any period does. A user turn that was not seen before starts afresh. Digests only, bounded.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import orjson

from ..values.catalog import LoopLimits
from ..values.plan import Refusal
from ..values.request import Message
from ..values.units import told
from .identity import Conversation, Session, text_ends

# Steps remembered of one conversation, and conversations of one session; the oldest are forgotten.
STEPS_MAX = 256
CONVERSATIONS_MAX = 4
# Of a long history that was never seen before (after a restart), only the newest messages are read: enough for a stop.
FIRST_LOOK = 32
# Arguments longer than this are compared as text, not by their parsed value.
_CANONICAL_CHARS = 4096
_SCORE_MAX = 50.0
# A system prompt and a question: shorter histories hold no step.
_OPENING = 3


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    id: Any = None
    function: _Function | None = None


_CALLS = msgspec.json.Decoder(list[_Call] | None)


def observe(session: Session, messages: Sequence[Message]) -> None:
    """Read what is new in the history and move the score of its conversation, which becomes the session's.

    One session holds several conversations (sub-agents, title generation): each is known by its opening and read on its
    own. A history that became shorter (compacted by the client) is taken as read.
    """
    if len(messages) < _OPENING:
        # Nothing has happened yet that could repeat itself.
        session.loop_score, session.loop_repeats = 0.0, 0
        return
    talk = _conversation(session, messages)
    seen, talk.seen = talk.seen, len(messages)
    if seen < len(messages):
        for step in _steps(messages, max(seen, len(messages) - FIRST_LOOK)):
            repeated = _remember(talk, step.digests)
            if step.turn:
                talk.score = talk.score if repeated else 0.0
            elif repeated:
                talk.score = min(_SCORE_MAX, talk.score + 1)
            else:
                talk.score = max(0.0, talk.score - 1)
    session.loop_score, session.loop_repeats = talk.score, max((talk.steps or {}).values(), default=0)


def _conversation(session: Session, messages: Sequence[Message]) -> Conversation:
    opening = hash(tuple([text_ends(message) for message in messages[:2] if message.role != "assistant"]))
    talk = session.talks.pop(opening, None) or Conversation()
    session.talks[opening] = talk
    if len(session.talks) > CONVERSATIONS_MAX:
        del session.talks[next(iter(session.talks))]
    return talk


def _remember(talk: Conversation, digests: Sequence[int]) -> bool:
    """Count what happened; True if all of it had happened before."""
    steps = talk.steps
    if steps is None:
        steps = talk.steps = {}
    repeated = True
    for digest in digests:
        count = steps.pop(digest, 0) + 1
        steps[digest] = count
        repeated = repeated and count > 1
        if len(steps) > STEPS_MAX:
            del steps[next(iter(steps))]
    return repeated


def step_of(session: Session, limits: LoopLimits) -> str:
    """Where the session stands on the ladder: "", "warn" or "stop"."""
    if session.loop_score >= limits.stop:
        return "stop"
    return "warn" if session.loop_score >= limits.warn else ""


def refusal(session: Session, limits: LoopLimits) -> Refusal:
    """The stop, with its evidence."""
    repeats = session.loop_repeats
    return Refusal(
        code="loop_stopped",
        message=(
            f"This session repeats itself: the same tool call brought the same result {told(repeats)} times "
            f"(score {session.loop_score:g}, stop at {limits.stop}). Try another approach in a new session, or report "
            "that you are blocked."
        ),
        details={
            "session": session.id,
            "score": session.loop_score,
            "limit": limits.stop,
            "repeats": repeats,
            "calls": session.calls,
        },
    )


class _Step(msgspec.Struct, frozen=True, gc=False):
    """What one turn did, and whether the turn was the user's rather than the agent's."""

    digests: Sequence[int]
    turn: bool = False


def _steps(messages: Sequence[Message], start: int) -> Iterator[_Step]:
    """From `start` on: the (call, result) pairs of each agent turn together, every user turn, and for text agents
    (answer, reply)."""
    while 0 < start < len(messages) and messages[start].role == "tool":
        start -= 1
    calls: list[_Call] = []
    pairs: list[int] = []
    position = 0
    for place in range(start, len(messages)):
        message = messages[place]
        if message.role == "tool":
            call = _answered(calls, message, position)
            position += 1
            if call is not None:
                pairs.append(hash((call, _result(message))))
            continue
        if pairs:
            yield _Step(pairs)
            pairs = []
        position, calls = 0, _calls(message)
        if message.role == "user":
            said = _result(message)
            yield _Step((hash(said),), turn=True)
            answer = messages[place - 1] if place > 0 else message
            if answer.role == "assistant" and not memoryview(answer.tool_calls).nbytes:
                yield _Step((hash((_result(answer), said)),))
    if pairs:
        yield _Step(pairs)


def _answered(calls: Sequence[_Call], message: Message, position: int) -> int | None:
    """Digest of the call that a tool result answers: by id, else by position after the assistant turn."""
    wanted = message.tool_call_id
    matching = [call for call in calls if wanted and call.id == wanted]
    if len(matching) != 1:
        matching = list(calls[position : position + 1])
    function = matching[0].function if matching else None
    return hash((repr(function.name), _canonical(function.arguments))) if function is not None else None


def _calls(message: Message) -> list[_Call]:
    if not memoryview(message.tool_calls).nbytes:
        return []
    try:
        return _CALLS.decode(message.tool_calls) or []
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def _canonical(arguments: Any) -> str:
    """Arguments as one text whatever the order and spacing of their keys; text that is no JSON as it is."""
    if not isinstance(arguments, str):
        return json.dumps(arguments, sort_keys=True, default=str)
    if len(arguments) > _CANONICAL_CHARS:
        return arguments
    try:
        return orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return arguments


def _result(message: Message) -> str:
    content = message.content
    return content if isinstance(content, str) else repr(content)
