"""Attributes a meter's joules to the requests of its deployment.

A window between two readings has the meter's joules. What the machine draws without requests (idle watts x time) is
idle; the rest belongs to the requests of the window, by modelled energy spread evenly over the time that each was
served. A window is attributed once every request in it has ended, so that weights are those of the tokens really used
(SCI, ISO/IEC 21031: reserved and idle energy counts, and so has a figure of its own). Shares and idle part of a window
add up to the meter's joules, to the last bit of a float. Times are seconds of a monotonic clock.
"""

from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from ..values.base import Value

# Pending windows, and requests in one window: beyond that the oldest window is attributed to the requests that have
# ended, and further requests have no share.
_WINDOWS_MAX, _REQUESTS_MAX = 512, 20_000
# How long a window waits for its requests to end; it is then attributed to those that have.
_WAIT_SECONDS_MAX = 900.0
# Weight of a new window in the averages of modelled and metered joules: about the last ten windows count.
_EWMA_WEIGHT = 0.1
# Bounds of the metered ratio, and the requests it needs.
_RATIO_MIN, _RATIO_MAX, _REQUESTS_MIN = 0.1, 10.0, 20
# No GPU draws more (GB300: 1.4 kW, data sheet 2025): a higher reading is invalid.
_WATTS_MAX = 3000.0
# GPUs of one deployment.
_GPUS_MAX = 1024


class EndedRequest(Value, frozen=True, kw_only=True):
    """A request that has ended.

    entry_id: the ledger entry's id
    joules: modelled accelerator energy
    """

    entry_id: str
    joules: float
    task_type: str
    team: str


class EnergyShare(Value, frozen=True, kw_only=True):
    """A request's share of a window.

    joules: metered
    """

    entry_id: str
    joules: float
    task_type: str
    team: str


class _MeterWindow(msgspec.Struct):
    """The time between two readings.

    active_joules: metered beyond idle
    plausible: whether all of it is
    parts: requests with their modelled joules within the window
    """

    start: float
    end: float
    active_joules: float
    plausible: bool
    parts: list[tuple[EndedRequest, float]]


class EnergyMeter:
    """The meter of one deployment.

    `idle_watts`: what its GPUs draw with the model loaded and no request.
    """

    def __init__(self, idle_watts: float) -> None:
        self._idle_watts = idle_watts
        # By GPU: its counter in joules, and when it was read.
        self._counters: dict[str, tuple[float, float]] = {}
        self._read_at: float | None = None
        self._open_requests: dict[str, float] = {}
        # (request, start, end) of those ended since the last reading.
        self._ended_requests: list[tuple[EndedRequest, float, float]] = []
        self._windows: deque[_MeterWindow] = deque()
        self._attributed_requests = 0
        self._modelled_joules, self._metered_joules = 0.0, 0.0
        # Joules since the first reading: all, the idle part, and the part without a request to attribute it to.
        self.total_joules = self.idle_joules = self.unattributed_joules = 0.0

    @property
    def metered_ratio(self) -> float | None:
        """Metered over modelled joules of recent requests; None until there are enough."""
        if self._attributed_requests < _REQUESTS_MIN or self._modelled_joules <= 0:
            return None
        return min(_RATIO_MAX, max(_RATIO_MIN, self._metered_joules / self._modelled_joules))

    def start_request(self, entry: str, *, now: float) -> None:
        """Record that a request is dialled; `entry` is its ledger entry's id."""
        if len(self._open_requests) < _REQUESTS_MAX:
            self._open_requests[entry] = now

    def end_request(self, served: EndedRequest, *, now: float) -> None:
        """Record that a request has ended."""
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
        """Record the joules of each GPU; returns the shares that can be attributed now.

        A counter that has fallen starts anew (the driver was reloaded); a rise that no GPU can make is ignored.
        """
        if self._read_at is not None and now > self._read_at:
            consumed, plausible = self._consumed(counters, now)
            idle = min(consumed, self._idle_watts * (now - self._read_at))
            self.total_joules += consumed
            self.idle_joules += idle
            window = _MeterWindow(self._read_at, now, consumed - idle, plausible and consumed > 0, [])
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
        """(joules since each GPU was last read, whether every rise is plausible)."""
        consumed, plausible = 0.0, True
        for gpu, joules in counters.items():
            before, read_at = self._counters.get(gpu, (joules, now))
            if 0 <= joules - before <= _WATTS_MAX * (now - read_at):
                consumed += joules - before
            else:
                plausible = False
        return consumed, plausible

    def _due_shares(self, now: float) -> Iterator[EnergyShare]:
        oldest = min(self._open_requests.values(), default=now)
        while self._windows:
            window = self._windows[0]
            may_wait = now - window.end < _WAIT_SECONDS_MAX and len(self._windows) <= _WINDOWS_MAX
            if oldest < window.end and may_wait:
                break
            self._windows.popleft()
            yield from self._share_window(window, complete=oldest >= window.end)

    def _share_window(self, window: _MeterWindow, *, complete: bool) -> Iterator[EnergyShare]:
        """A window's joules by modelled weight.

        `complete`: every request in it has ended. A window with an implausible counter is not attributed, and does not
        change the ratio.
        """
        total = sum(weight for _, weight in window.parts)
        if not total or not window.plausible:
            self.unattributed_joules += window.active_joules
            return
        if complete:
            keep = 1 - _EWMA_WEIGHT
            self._attributed_requests += len(window.parts)
            self._modelled_joules, self._metered_joules = (
                self._modelled_joules * keep + total,
                self._metered_joules * keep + window.active_joules,
            )
        for request, weight in window.parts:
            joules = window.active_joules * weight / total
            yield EnergyShare(entry_id=request.entry_id, joules=joules, task_type=request.task_type, team=request.team)


def _add_overlap(window: _MeterWindow, served: EndedRequest, start: float, end: float) -> None:
    """Add the modelled joules of the part of a request within the window."""
    overlap = min(end, window.end) - max(start, window.start)
    share = overlap / (end - start) if end > start else float(window.start <= end < window.end)
    if share > 0 and served.joules > 0 and len(window.parts) < _REQUESTS_MAX:
        window.parts.append((served, served.joules * share))
