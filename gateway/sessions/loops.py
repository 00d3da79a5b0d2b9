"""The loop guard: a score that grows when the same tool call brings the same result again, and falls with each new step.

Reads only messages that it has not seen. Repeats add 1, a new step takes 1 off, the floor is 0: long healthy work does
not accumulate, a run of any period does. Digests only; at most STEPS_MAX per session.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from ..values.catalog import LoopLimits
from ..values.plan import Refusal
from .identity import Session

STEPS_MAX = 1000
# Of a long history that was never seen before (after a restart), only the newest messages are read.
FIRST_LOOK = 128
# Arguments longer than this are compared as text, not by their parsed value.
_CANONICAL_CHARS = 4096
_SCORE_MAX = 50.0


def observe(session: Session, messages: Sequence[Mapping[str, Any]]) -> None:
    """Read what is new in the history and move the session's score.

    A history that became shorter (compacted by the client) is taken as read.
    """
    seen, session.messages_seen = session.messages_seen, len(messages)
    if seen >= len(messages):
        return
    seen = max(seen, len(messages) - FIRST_LOOK)
    for step in _steps(messages, seen):
        count = session.steps.pop(step, 0) + 1
        session.steps[step] = count
        if len(session.steps) > STEPS_MAX:
            del session.steps[next(iter(session.steps))]
        session.loop_score = min(_SCORE_MAX, session.loop_score + 1) if count > 1 else max(0.0, session.loop_score - 1)


def step_of(session: Session, limits: LoopLimits) -> str:
    """Where the session stands on the ladder: "", "warn" or "stop"."""
    if session.loop_score >= limits.stop:
        return "stop"
    return "warn" if session.loop_score >= limits.warn else ""


def refusal(session: Session, limits: LoopLimits) -> Refusal:
    """The stop, with its evidence."""
    repeats = max(session.steps.values(), default=0)
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


def _steps(messages: Sequence[Mapping[str, Any]], start: int) -> Iterator[int]:
    """Digests of (call, result) for every tool result from `start` on; text agents: (answer, reply)."""
    for place in range(start, len(messages)):
        message = messages[place]
        role = message["role"]
        if role == "tool":
            call = _call_of(messages, place)
            if call is not None:
                yield hash((call, _result(message)))
        elif role == "user" and place > 0 and messages[place - 1]["role"] == "assistant":
            answer = messages[place - 1]
            if not answer.get("tool_calls"):
                yield hash((_result(answer), _result(message)))


def _call_of(messages: Sequence[Mapping[str, Any]], place: int) -> int | None:
    """Digest of the call that the tool result at `place` answers: by id, else by position after the assistant turn."""
    first = place
    while first > 0 and messages[first - 1]["role"] == "tool":
        first -= 1
    calls = messages[first - 1].get("tool_calls") if first > 0 else None
    if not isinstance(calls, list):
        return None
    wanted = messages[place].get("tool_call_id")
    matching = [call for call in calls if isinstance(call, dict) and wanted and call.get("id") == wanted]
    position = place - first
    if len(matching) != 1 and position < len(calls):
        matching = [calls[position]]
    function = matching[0].get("function") if matching and isinstance(matching[0], dict) else None
    if not isinstance(function, dict):
        return None
    return hash((str(function.get("name")), _canonical(function.get("arguments"))))


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


def _result(message: Mapping[str, Any]) -> Any:
    content = message.get("content")
    return content if isinstance(content, str) else orjson.dumps(content)
