"""Joules off a meter, shared among the requests that were served while it ran: a book for one deployment's GPUs.

A window between two readings has the meter's joules; what the machine takes with nobody asking (idle watts x time) is idle,
the rest belongs to the requests of the window, by modelled energy spread evenly over the time that each was served. A window
is shared out once every request that touches it has ended, so that weights are those of the tokens it really took (SCI, ISO/IEC
21031: what is reserved and idle counts, and so stands in a figure of its own). Shares of a window and its idle part come to
the meter's joules, to the last bit of a float. Times are seconds of a clock that nobody sets.
"""

from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from ..values.base import Value

# Windows that wait, and requests in one of them: beyond that the oldest window is shared out with what is known, and a
# request has no share.
_WINDOWS_MAX, _REQUESTS_MAX = 512, 20_000
# Nobody waits longer for a request to end: a window is then shared among those that have.
_PATIENCE_SECONDS = 900.0
# Modelled and metered joules of about so many windows say how far the model is off here.
_NEWEST = 0.1
# A model is trusted no further off than its own band, and a meter says little until it has seen some requests.
_RATIO_MIN, _RATIO_MAX, _SHARES_MIN = 0.1, 10.0, 20
# No GPU takes more (GB300: 1.4 kW, data sheet 2025): a reading beyond that is none.
_WATTS_MAX = 3000.0
# GPUs of one deployment.
_GPUS_MAX = 1024


class Served(Value, frozen=True, kw_only=True):
    """A request that has ended: the ledger entry's id, its modelled accelerator joules, and whose it is."""

    entry: str
    joules: float
    task_type: str
    team: str


class Share(Value, frozen=True, kw_only=True):
    """A request's part of a window, in joules off the meter."""

    entry: str
    joules: float
    task_type: str
    team: str


class _Window(msgspec.Struct):
    """Joules off the meter from `start` to `end` beyond idle, whether all of that is believed, and modelled joules of the
    requests in it."""

    start: float
    end: float
    active: float
    believed: bool
    parts: list[tuple[Served, float]]


class Meter:
    """The book of one deployment's meter. `idle_watts` is what its GPUs take with the model loaded and nobody asking."""

    def __init__(self, idle_watts: float) -> None:
        self._idle_watts = idle_watts
        # By GPU: its counter, and when it was seen.
        self._counters: dict[str, tuple[float, float]] = {}
        self._read_at: float | None = None
        self._open: dict[str, float] = {}
        # Requests that have ended since the last reading, and when they were served.
        self._fresh: list[tuple[Served, float, float]] = []
        self._windows: deque[_Window] = deque()
        self._shared = 0
        self._modelled, self._metered = 0.0, 0.0
        # Joules: what the meter has counted since the first reading, what of it was idle, and what nobody was served in.
        self.total = self.idle = self.unattributed = 0.0

    @property
    def ratio(self) -> float | None:
        """Metered over modelled joules of the requests of late; None until enough of them were seen."""
        if self._shared < _SHARES_MIN or self._modelled <= 0:
            return None
        return min(_RATIO_MAX, max(_RATIO_MIN, self._metered / self._modelled))

    def began(self, entry: str, *, now: float) -> None:
        """A request is dialled."""
        if len(self._open) < _REQUESTS_MAX:
            self._open[entry] = now

    def ended(self, served: Served, *, now: float) -> None:
        """It is over."""
        start = self._open.pop(served.entry, None)
        if start is None:
            return
        for window in reversed(self._windows):
            if window.end <= start:
                break
            _put(window, served, start, now)
        if len(self._fresh) < _REQUESTS_MAX:
            self._fresh.append((served, start, now))

    def read(self, counters: Mapping[str, float], *, now: float) -> list[Share]:
        """A reading: joules by GPU. A counter that has become smaller begins anew (the driver was loaded); what no GPU can have
        taken is not believed. Gives what can be shared out now."""
        if self._read_at is not None and now > self._read_at:
            taken, believed = self._taken(counters, now)
            idle = min(taken, self._idle_watts * (now - self._read_at))
            self.total += taken
            self.idle += idle
            window = _Window(self._read_at, now, taken - idle, believed and taken > 0, [])
            for served, start, end in self._fresh:
                _put(window, served, start, end)
            self._fresh.clear()
            self._windows.append(window)
        if len(self._counters) + len(counters) > _GPUS_MAX:
            self._counters.clear()
        self._counters |= {gpu: (joules, now) for gpu, joules in counters.items()}
        self._read_at = now
        return list(self._due(now))

    def _taken(self, counters: Mapping[str, float], now: float) -> tuple[float, bool]:
        """(joules since each GPU was seen last, whether every counter's rise is one that a GPU can make)."""
        taken, believed = 0.0, True
        for gpu, joules in counters.items():
            before, seen = self._counters.get(gpu, (joules, now))
            if 0 <= joules - before <= _WATTS_MAX * (now - seen):
                taken += joules - before
            else:
                believed = False
        return taken, believed

    def _due(self, now: float) -> Iterator[Share]:
        oldest = min(self._open.values(), default=now)
        while self._windows:
            window = self._windows[0]
            patient = now - window.end < _PATIENCE_SECONDS and len(self._windows) <= _WINDOWS_MAX
            if oldest < window.end and patient:
                break
            self._windows.popleft()
            yield from self._shares(window, whole=oldest >= window.end)

    def _shares(self, window: _Window, *, whole: bool) -> Iterator[Share]:
        """A window's joules by modelled weight; `whole`: every request in it has ended. A window in which a counter began anew,
        stood still or lied is nobody's, and teaches nothing."""
        total = sum(weight for _, weight in window.parts)
        if not total or not window.believed:
            self.unattributed += window.active
            return
        if whole:
            keep = 1 - _NEWEST
            self._shared += len(window.parts)
            self._modelled, self._metered = self._modelled * keep + total, self._metered * keep + window.active
        for one, weight in window.parts:
            joules = window.active * weight / total
            yield Share(entry=one.entry, joules=joules, task_type=one.task_type, team=one.team)


def _put(window: _Window, served: Served, start: float, end: float) -> None:
    """Modelled joules of the part of a request that lies in the window."""
    overlap = min(end, window.end) - max(start, window.start)
    share = overlap / (end - start) if end > start else float(window.start <= end < window.end)
    if share > 0 and served.joules > 0 and len(window.parts) < _REQUESTS_MAX:
        window.parts.append((served, served.joules * share))
