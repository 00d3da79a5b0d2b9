"""State machine: when to poll each feed for each zone, and its last reading.

Does no I/O and does not sleep; `now` is monotonic time in seconds.
"""

from collections.abc import Callable

from ..values.base import Value
from ..values.grid import GridReading

# Delay after the first failure; doubles with each further one up to the maximum.
_BACKOFF_SECONDS, _BACKOFF_SECONDS_MAX = 30.0, 3600.0
# Share by which polls are early or late, so that many gateways do not poll at once.
_JITTER_SHARE = 0.1


class PollTarget(Value, frozen=True):
    """A zone to poll a feed for."""

    feed: str
    zone: str


class _PollState:
    __slots__ = ("due_at", "failure_reason", "failures", "last_reading")

    def __init__(self, due_at: float) -> None:
        self.due_at = due_at
        self.failures = 0
        self.last_reading: GridReading | None = None
        self.failure_reason = ""


class PollSchedule:
    """Poll targets of one process, each polled every `refresh` seconds.

    `jitter` draws from [0, 1).
    """

    def __init__(self, targets: frozenset[PollTarget], refresh: float, jitter: Callable[[], float]) -> None:
        self._states = {target: _PollState(0.0) for target in targets}
        self._refresh_seconds = refresh
        self._jitter = jitter
        self.outcome_counts: dict[tuple[str, str], int] = {}

    def due(self, now: float) -> list[PollTarget]:
        """Returns the targets to poll now."""
        return [target for target, state in self._states.items() if state.due_at <= now]

    def record_reading(self, target: PollTarget, reading: GridReading, *, now: float) -> bool:
        """Records a valid reading; returns whether the previous poll had failed."""
        state = self._states[target]
        recovered, state.failures, state.failure_reason = state.failures > 0, 0, ""
        state.last_reading = reading
        state.due_at = now + self._refresh_seconds * (1 + _JITTER_SHARE * (2 * self._jitter() - 1))
        self._increment(target.feed, "answered")
        return recovered

    def record_failure(self, target: PollTarget, reason: str, *, now: float) -> bool:
        """Records a failed poll; returns whether the failure or its reason is new.

        The last valid reading is kept.
        """
        state = self._states[target]
        is_new = state.failures == 0 or state.failure_reason != reason
        backoff = min(_BACKOFF_SECONDS * 2.0 ** min(state.failures, 16), _BACKOFF_SECONDS_MAX)
        state.failures, state.failure_reason = state.failures + 1, reason
        state.due_at = now + backoff * (1 + _JITTER_SHARE * self._jitter())
        self._increment(target.feed, "failed")
        return is_new

    def last_reading(self, feed: str, zone: str) -> GridReading | None:
        """Returns the last valid reading, None before the first."""
        state = self._states.get(PollTarget(feed, zone))
        return state.last_reading if state is not None else None

    def _increment(self, feed: str, outcome: str) -> None:
        self.outcome_counts[feed, outcome] = self.outcome_counts.get((feed, outcome), 0) + 1
