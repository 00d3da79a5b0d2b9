"""The loop guard: a score that grows when the same tool call brings the same result again, and falls with each new step.

Reads only messages that it has not seen. Repeats add 1, a new step takes 1 off, the floor is 0: long healthy work does
not accumulate, a run of any period does. Digests only; at most STEPS_MAX per session.
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
    seen = max(seen, len(messages) - FIRST_LOOK)
    steps = session.steps
    for step in _steps(messages, seen):
        if steps is None:
            steps = session.steps = {}
        count = steps.pop(step, 0) + 1
        steps[step] = count
        if len(steps) > STEPS_MAX:
            del steps[next(iter(steps))]
        session.loop_score = min(_SCORE_MAX, session.loop_score + 1) if count > 1 else max(0.0, session.loop_score - 1)


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


def _steps(messages: Sequence[Message], start: int) -> Iterator[int]:
    """Digests of (call, result) for every tool result from `start` on; text agents: (answer, reply)."""
    for place in range(start, len(messages)):
        message = messages[place]
        if message.role == "tool":
            call = _call_of(messages, place)
            if call is not None:
                yield hash((call, _result(message)))
        elif message.role == "user" and place > 0 and messages[place - 1].role == "assistant":
            answer = messages[place - 1]
            if not memoryview(answer.tool_calls).nbytes:
                yield hash((_result(answer), _result(message)))


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
