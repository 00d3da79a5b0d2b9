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
_WAIT_SECONDS_MAX = 900.0
# Modelled and metered joules of about so many windows say how far the model is off here.
_EWMA_WEIGHT = 0.1
# A model is trusted no further off than its own band, and a meter says little until it has seen some requests.
_RATIO_MIN, _RATIO_MAX, _REQUESTS_MIN = 0.1, 10.0, 20
# No GPU takes more (GB300: 1.4 kW, data sheet 2025): a reading beyond that is none.
_WATTS_MAX = 3000.0
# GPUs of one deployment.
_GPUS_MAX = 1024


class EndedRequest(Value, frozen=True, kw_only=True):
    """A request that has ended: the ledger entry's id, its modelled accelerator joules, and whose it is."""

    entry_id: str
    joules: float
    task_type: str
    team: str


class EnergyShare(Value, frozen=True, kw_only=True):
    """A request's part of a window, in joules off the meter."""

    entry_id: str
    joules: float
    task_type: str
    team: str


class _MeterWindow(msgspec.Struct):
    """Joules off the meter from `start` to `end` beyond idle, whether all of that is believed, and modelled joules of the
    requests in it."""

    start: float
    end: float
    active_joules: float
    plausible: bool
    parts: list[tuple[EndedRequest, float]]


class EnergyMeter:
    """The book of one deployment's meter. `idle_watts` is what its GPUs take with the model loaded and nobody asking."""

    def __init__(self, idle_watts: float) -> None:
        self._idle_watts = idle_watts
        # By GPU: its counter, and when it was seen.
        self._counters: dict[str, tuple[float, float]] = {}
        self._read_at: float | None = None
        self._open_requests: dict[str, float] = {}
        # Requests that have ended since the last reading, and when they were served.
        self._ended_requests: list[tuple[EndedRequest, float, float]] = []
        self._windows: deque[_MeterWindow] = deque()
        self._attributed_requests = 0
        self._modelled_joules, self._metered_joules = 0.0, 0.0
        # Joules: what the meter has counted since the first reading, what of it was idle, and what nobody was served in.
        self.total_joules = self.idle_joules = self.unattributed_joules = 0.0

    @property
    def metered_ratio(self) -> float | None:
        """Metered over modelled joules of the requests of late; None until enough of them were seen."""
        if self._attributed_requests < _REQUESTS_MIN or self._modelled_joules <= 0:
            return None
        return min(_RATIO_MAX, max(_RATIO_MIN, self._metered_joules / self._modelled_joules))

    def start_request(self, entry: str, *, now: float) -> None:
        """A request is dialled."""
        if len(self._open_requests) < _REQUESTS_MAX:
            self._open_requests[entry] = now

    def end_request(self, served: EndedRequest, *, now: float) -> None:
        """It is over."""
        start = self._open_requests.pop(served.entry_id, None)
        if start is None:
            return
        for window in reversed(self._windows):
            if window.end <= start:
                break
            _add_overlap(window, served, start, now)
        if len(self._ended_requests) < _REQUESTS_MAX:
            self._ended_requests.append((served, start, now))

    def record_reading(self, counters: Mapping[str, float], *, now: float) -> list[EnergyShare]:
        """A reading: joules by GPU. A counter that has become smaller begins anew (the driver was loaded); what no GPU can have
        taken is not believed. Gives what can be shared out now."""
        if self._read_at is not None and now > self._read_at:
            taken, believed = self._consumed(counters, now)
            idle = min(taken, self._idle_watts * (now - self._read_at))
            self.total_joules += taken
            self.idle_joules += idle
            window = _MeterWindow(self._read_at, now, taken - idle, believed and taken > 0, [])
            for served, start, end in self._ended_requests:
                _add_overlap(window, served, start, end)
            self._ended_requests.clear()
            self._windows.append(window)
        if len(self._counters) + len(counters) > _GPUS_MAX:
            self._counters.clear()
        self._counters |= {gpu: (joules, now) for gpu, joules in counters.items()}
        self._read_at = now
        return list(self._due_shares(now))

    def _consumed(self, counters: Mapping[str, float], now: float) -> tuple[float, bool]:
        """(joules since each GPU was seen last, whether every counter's rise is one that a GPU can make)."""
        taken, believed = 0.0, True
        for gpu, joules in counters.items():
            before, seen = self._counters.get(gpu, (joules, now))
            if 0 <= joules - before <= _WATTS_MAX * (now - seen):
                taken += joules - before
            else:
                believed = False
        return taken, believed

    def _due_shares(self, now: float) -> Iterator[EnergyShare]:
        oldest = min(self._open_requests.values(), default=now)
        while self._windows:
            window = self._windows[0]
            patient = now - window.end < _WAIT_SECONDS_MAX and len(self._windows) <= _WINDOWS_MAX
            if oldest < window.end and patient:
                break
            self._windows.popleft()
            yield from self._share_window(window, whole=oldest >= window.end)

    def _share_window(self, window: _MeterWindow, *, whole: bool) -> Iterator[EnergyShare]:
        """A window's joules by modelled weight; `whole`: every request in it has ended. A window in which a counter began anew,
        stood still or lied is nobody's, and teaches nothing."""
        total = sum(weight for _, weight in window.parts)
        if not total or not window.plausible:
            self.unattributed_joules += window.active_joules
            return
        if whole:
            keep = 1 - _EWMA_WEIGHT
            self._attributed_requests += len(window.parts)
            self._modelled_joules, self._metered_joules = (
                self._modelled_joules * keep + total,
                self._metered_joules * keep + window.active_joules,
            )
        for one, weight in window.parts:
            joules = window.active_joules * weight / total
            yield EnergyShare(entry_id=one.entry_id, joules=joules, task_type=one.task_type, team=one.team)


def _add_overlap(window: _MeterWindow, served: EndedRequest, start: float, end: float) -> None:
    """Modelled joules of the part of a request that lies in the window."""
    overlap = min(end, window.end) - max(start, window.start)
    share = overlap / (end - start) if end > start else float(window.start <= end < window.end)
    if share > 0 and served.joules > 0 and len(window.parts) < _REQUESTS_MAX:
        window.parts.append((served, served.joules * share))
