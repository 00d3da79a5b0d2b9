"""The loop guard: a score that grows when the same tool call brings the same result again, and falls with each new step.

Reads only messages that it has not seen. A turn all of whose calls and results were seen before adds 1, a new one takes
1 off, the floor is 0: long healthy work does
not accumulate, a run of any period does. A user turn that was not seen before starts afresh. Digests only; at most
STEPS_MAX per session.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import orjson

from ..values.catalog import LoopLimits
from ..values.plan import Refusal
from ..values.request import Message
from .identity import Session

STEPS_MAX = 1000
# Of a long history that was never seen before (after a restart), only the newest messages are read.
FIRST_LOOK = 128
# Arguments longer than this are compared as text, not by their parsed value.
_CANONICAL_CHARS = 4096
_SCORE_MAX = 50.0


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    id: Any = None
    function: _Function | None = None


_CALLS = msgspec.json.Decoder(list[_Call] | None)


def observe(session: Session, messages: Sequence[Message]) -> None:
    """Read what is new in the history and move the session's score.

    A history that became shorter (compacted by the client) is taken as read.
    """
    seen, session.messages_seen = session.messages_seen, len(messages)
    if seen >= len(messages):
        return
    for step in _steps(messages, max(seen, len(messages) - FIRST_LOOK)):
        repeated = _remember(session, step.digests)
        if step.turn:
            session.loop_score = session.loop_score if repeated else 0.0
        elif repeated:
            session.loop_score = min(_SCORE_MAX, session.loop_score + 1)
        else:
            session.loop_score = max(0.0, session.loop_score - 1)


def _remember(session: Session, digests: Sequence[int]) -> bool:
    """Count what happened; True if all of it had happened before."""
    steps = session.steps
    if steps is None:
        steps = session.steps = {}
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
    repeats = max((session.steps or {}).values(), default=0)
    return Refusal(
        code="loop_stopped",
        message=(
            f"This session repeats itself: the same tool call brought the same result {repeats} times "
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
    pairs: list[int] = []
    for place in range(start, len(messages)):
        message = messages[place]
        if message.role == "tool":
            call = _call_of(messages, place)
            if call is not None:
                pairs.append(hash((call, _result(message))))
            continue
        if pairs:
            yield _Step(pairs)
            pairs = []
        if message.role == "user":
            said = _result(message)
            yield _Step((hash(said),), turn=True)
            answer = messages[place - 1] if place > 0 else message
            if answer.role == "assistant" and not memoryview(answer.tool_calls).nbytes:
                yield _Step((hash((_result(answer), said)),))
    if pairs:
        yield _Step(pairs)


def _call_of(messages: Sequence[Message], place: int) -> int | None:
    """Digest of the call that the tool result at `place` answers: by id, else by position after the assistant turn."""
    first = place
    while first > 0 and messages[first - 1].role == "tool":
        first -= 1
    calls = _calls(messages[first - 1]) if first > 0 else []
    wanted = messages[place].tool_call_id
    matching = [call for call in calls if wanted and call.id == wanted]
    position = place - first
    if len(matching) != 1:
        matching = calls[position : position + 1]
    function = matching[0].function if matching else None
    return hash((function.name, _canonical(function.arguments))) if function is not None else None


def _calls(message: Message) -> list[_Call]:
    if not memoryview(message.tool_calls).nbytes:
        return []
    try:
        return _CALLS.decode(message.tool_calls) or []
    except msgspec.ValidationError:
        return []


def _canonical(arguments: Any) -> Any:
    """Arguments as one text whatever the order and spacing of their keys."""
    if isinstance(arguments, str) and len(arguments) <= _CANONICAL_CHARS:
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return arguments
    if isinstance(arguments, str):
        return arguments
    return orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)


def _result(message: Message) -> Any:
    content = message.content
    return content if isinstance(content, str) else orjson.dumps(content)
