"""Our own loop guard as a rule, and what it costs; alone here in using it."""

import sys
import time
from typing import Any

import msgspec

from ...dialects import chat
from ...sessions import ladder
from ...sessions.conversation_memory import ConversationMemory
from ...sessions.session_index import Session
from ...values.errors import BadRequest
from ...values.session import LoopThresholds
from .decision_points import DecisionPoint
from .published_rules import Level


def loop_limits(stop: int | None) -> LoopThresholds:
    """The default loop thresholds, with `stop` replaced if given."""
    return LoopThresholds() if stop is None else LoopThresholds(stop=stop)


class GuardCost(msgspec.Struct):
    """The cost of the detector.

    nanoseconds: of each request
    messages: new messages observed
    state_bytes: of each session
    """

    nanoseconds: list[int] = []
    messages: int = 0
    state_bytes: list[int] = []


class PenstockRule:
    """The gateway's loop guard, on parsed bodies and the recording's clock."""

    def __init__(self, limits: LoopThresholds, cost: GuardCost) -> None:
        self._limits = limits
        self._cost = cost
        self._session = Session(id="eval", source="eval", started_at=0.0)
        self._messages_observed = 0

    def level_at(self, moment: DecisionPoint) -> Level:
        """Observe the request, then compare the score with the thresholds."""
        try:
            request = chat.parse(moment.recording.request_body(moment.answer_position))
        except BadRequest as error:
            position = f"session {moment.recording.id}, call {moment.call_number}"
            raise ValueError(f"{position}: the gateway would refuse this request: {error}") from error
        session = self._session
        started = time.perf_counter_ns()
        loop_state = ladder.observe(session, request, now=moment.now)
        self._cost.nanoseconds.append(time.perf_counter_ns() - started)
        self._cost.messages += moment.answer_position - self._messages_observed
        self._messages_observed = moment.answer_position
        return _level(loop_state.score, self._limits)

    def finish(self) -> None:
        """Record the size of the session's state."""
        self._cost.state_bytes.append(deep_size(self._session, set()))


def _level(score: float, limits: LoopThresholds) -> Level:
    for step, level in ((limits.stop, Level.stop), (limits.nudge, Level.nudge), (limits.warn, Level.warn)):
        if step is not None and score >= step:
            return level
    return Level.none


def deep_size(value: Any, seen: set[int]) -> int:
    """Bytes of an object and its contents, each counted once, without classes."""
    if id(value) in seen or isinstance(value, type):
        return 0
    seen.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(deep_size(item, seen) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return size + sum(deep_size(item, seen) for item in value)
    if isinstance(value, ConversationMemory):
        return size + sum(deep_size(records, seen) for records in value.records if records is not None)
    if isinstance(value, msgspec.Struct):
        return size + sum(deep_size(getattr(value, name), seen) for name in value.__struct_fields__)
    return size + (deep_size(vars(value), seen) if hasattr(value, "__dict__") else 0)
