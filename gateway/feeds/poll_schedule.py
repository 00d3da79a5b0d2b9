"""When each feed is asked about each zone, and what it last said: a book. It neither asks nor sleeps; `now` is by a clock
that nobody sets.
"""

from collections.abc import Callable

from ..values.base import Value
from ..values.grid import GridReading

# After the first failure in a row, doubling up to the longest.
_BACKOFF_SECONDS, _BACKOFF_SECONDS_MAX = 30.0, 3600.0
# So much earlier or later than due, that many gateways do not ask at once.
_JITTER_SHARE = 0.1


class PollTarget(Value, frozen=True):
    """A zone that a feed can be asked about."""

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
    """Inquiries of one process, each asked anew every `refresh` seconds; `jitter` draws from [0, 1)."""

    def __init__(self, inquiries: frozenset[PollTarget], refresh: float, jitter: Callable[[], float]) -> None:
        self._states = {inquiry: _PollState(0.0) for inquiry in inquiries}
        self._refresh_seconds = refresh
        self._jitter = jitter
        self.outcome_counts: dict[tuple[str, str], int] = {}

    def due(self, now: float) -> list[PollTarget]:
        """What is to be asked now."""
        return [inquiry for inquiry, state in self._states.items() if state.due_at <= now]

    def record_reading(self, inquiry: PollTarget, session_sync: GridReading, *, now: float) -> bool:
        """A feed has told; whether it had failed before."""
        state = self._states[inquiry]
        failed, state.failures, state.failure_reason = state.failures > 0, 0, ""
        state.last_reading = session_sync
        state.due_at = now + self._refresh_seconds * (1 + _JITTER_SHARE * (2 * self._jitter() - 1))
        self._increment(inquiry.feed, "answered")
        return failed

    def record_failure(self, inquiry: PollTarget, why: str, *, now: float) -> bool:
        """A feed has not told, or nonsense; its last good news stay. Whether this is news itself."""
        state = self._states[inquiry]
        fresh = state.failures == 0 or state.failure_reason != why
        cool = min(_BACKOFF_SECONDS * 2.0 ** min(state.failures, 16), _BACKOFF_SECONDS_MAX)
        state.failures, state.failure_reason = state.failures + 1, why
        state.due_at = now + cool * (1 + _JITTER_SHARE * self._jitter())
        self._increment(inquiry.feed, "failed")
        return fresh

    def last_reading(self, feed: str, zone: str) -> GridReading | None:
        """The last good news."""
        state = self._states.get(PollTarget(feed, zone))
        return state.last_reading if state is not None else None

    def _increment(self, feed: str, how: str) -> None:
        self.outcome_counts[feed, how] = self.outcome_counts.get((feed, how), 0) + 1
