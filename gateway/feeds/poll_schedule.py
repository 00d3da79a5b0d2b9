"""When each feed is asked about each zone, and what it last said: a book. It neither asks nor sleeps; `now` is by a clock
that nobody sets.
"""

from collections.abc import Callable

from ..values.base import Value
from ..values.grid import GridNews

# After the first failure in a row, doubling up to the longest.
_COOL_SECONDS, _COOL_SECONDS_MAX = 30.0, 3600.0
# So much earlier or later than due, that many gateways do not ask at once.
_JITTER = 0.1


class Inquiry(Value, frozen=True):
    """A zone that a feed can be asked about."""

    feed: str
    zone: str


class _State:
    __slots__ = ("due_at", "failures", "last", "why")

    def __init__(self, due_at: float) -> None:
        self.due_at = due_at
        self.failures = 0
        self.last: GridNews | None = None
        self.why = ""


class Schedule:
    """Inquiries of one process, each asked anew every `refresh` seconds; `jitter` draws from [0, 1)."""

    def __init__(self, inquiries: frozenset[Inquiry], refresh: float, jitter: Callable[[], float]) -> None:
        self._states = {inquiry: _State(0.0) for inquiry in inquiries}
        self._refresh = refresh
        self._jitter = jitter
        self.counts: dict[tuple[str, str], int] = {}

    def due(self, now: float) -> list[Inquiry]:
        """What is to be asked now."""
        return [inquiry for inquiry, state in self._states.items() if state.due_at <= now]

    def answered(self, inquiry: Inquiry, news: GridNews, *, now: float) -> bool:
        """A feed has told; whether it had failed before."""
        state = self._states[inquiry]
        failed, state.failures, state.why = state.failures > 0, 0, ""
        state.last = news
        state.due_at = now + self._refresh * (1 + _JITTER * (2 * self._jitter() - 1))
        self._count(inquiry.feed, "answered")
        return failed

    def failed(self, inquiry: Inquiry, why: str, *, now: float) -> bool:
        """A feed has not told, or nonsense; its last good news stay. Whether this is news itself."""
        state = self._states[inquiry]
        fresh = state.failures == 0 or state.why != why
        cool = min(_COOL_SECONDS * 2.0 ** min(state.failures, 16), _COOL_SECONDS_MAX)
        state.failures, state.why = state.failures + 1, why
        state.due_at = now + cool * (1 + _JITTER * self._jitter())
        self._count(inquiry.feed, "failed")
        return fresh

    def last(self, feed: str, zone: str) -> GridNews | None:
        """The last good news."""
        state = self._states.get(Inquiry(feed, zone))
        return state.last if state is not None else None

    def _count(self, feed: str, how: str) -> None:
        self.counts[feed, how] = self.counts.get((feed, how), 0) + 1
