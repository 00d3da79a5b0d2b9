"""Our own loop guard as a rule among the others, and what it costs. The one file here that knows the detector."""

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
    """The limits that the gateway ships with, `stop` apart if given."""
    return LoopThresholds() if stop is None else LoopThresholds(stop=stop)


class GuardCost(msgspec.Struct):
    """What the detector took: nanoseconds and new messages of each request, bytes of state of each session."""

    nanoseconds: list[int] = []
    messages: int = 0
    state_bytes: list[int] = []


class PenstockRule:
    """The gateway's guard: the body is parsed as the gateway parses it, and the clock is the recording's."""

    def __init__(self, chosen: LoopThresholds, meter: GuardCost) -> None:
        self._limits = chosen
        self._cost = meter
        self._session = Session(id="eval", source="eval", started_at=0.0)
        self._messages_observed = 0

    def level_at(self, moment: DecisionPoint) -> Level:
        """Observe the request, then compare the score with the limits."""
        try:
            request = chat.parse(moment.recording.request_body(moment.answer_position))
        except BadRequest as error:
            place = f"session {moment.recording.id}, call {moment.call_number}"
            raise ValueError(f"{place}: the gateway would refuse this request: {error}") from error
        session = self._session
        started = time.perf_counter_ns()
        standing = ladder.observe(session, request, now=moment.now)
        self._cost.nanoseconds.append(time.perf_counter_ns() - started)
        self._cost.messages += moment.answer_position - self._messages_observed
        self._messages_observed = moment.answer_position
        return _level(standing.score, self._limits)

    def finish(self) -> None:
        """Weigh what was remembered."""
        self._cost.state_bytes.append(deep_size(self._session, set()))


def _level(score: float, chosen: LoopThresholds) -> Level:
    for step, level in ((chosen.stop, Level.stop), (chosen.nudge, Level.nudge), (chosen.warn, Level.warn)):
        if step is not None and score >= step:
            return level
    return Level.none


def deep_size(value: Any, counted: set[int]) -> int:
    """Bytes of an object and of what it holds, each counted once; classes and modules are not state."""
    if id(value) in counted or isinstance(value, type):
        return 0
    counted.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(deep_size(one, counted) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return size + sum(deep_size(one, counted) for one in value)
    if isinstance(value, ConversationMemory):
        return size + sum(deep_size(records, counted) for records in value.records if records is not None)
    if isinstance(value, msgspec.Struct):
        return size + sum(deep_size(getattr(value, name), counted) for name in value.__struct_fields__)
    return size + (deep_size(vars(value), counted) if hasattr(value, "__dict__") else 0)
