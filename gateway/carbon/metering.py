"""Joules off a meter, shared among the requests that were served while it ran: a book for one deployment's GPUs.

A window between two readings has the meter's joules; what the machine takes with nobody asking (idle watts x time) is idle,
the rest belongs to the requests of the window, by modelled energy spread evenly over the time that each was served. A window
is shared out once every request that touches it has ended, so that weights are those of the tokens it really took (SCI, ISO/IEC
21031: what is reserved and idle counts, and so stands in a figure of its own). Shares of a window and its idle part come to
the meter's joules, to the last bit of a float.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ..values.base import Value

# Windows and requests that wait; beyond it the oldest windows are shared out with what is known.
_WINDOWS_MAX, _REQUESTS_MAX = 512, 20_000
# Nobody waits longer for a request to end: a window is then shared among those that have.
_PATIENCE_SECONDS = 900.0
# Modelled and metered joules of about so many windows say how far the model is off here.
_NEWEST = 0.1
# A model is trusted no further off than its own band, and a meter says little until it has seen some requests.
_RATIO_MIN, _RATIO_MAX, _SHARES_MIN = 0.1, 10.0, 20


class Served(Value, frozen=True, kw_only=True):
    """A request that has ended: the ledger entry's id, when it was served (seconds since the epoch), its modelled
    accelerator joules, and whose it is."""

    entry: str
    start: float
    end: float
    joules: float
    task_type: str
    team: str


class Share(Value, frozen=True, kw_only=True):
    """A request's part of a window, in joules off the meter."""

    entry: str
    joules: float
    task_type: str
    team: str


class Window(msgspec.Struct):
    """Joules off the meter from `start` to `end`, those beyond idle, and the idle ones."""

    start: float
    end: float
    active: float
    idle: float


class Meter:
    """The book of one deployment's meter. `idle_watts` is what its GPUs take with the model loaded and nobody asking."""

    def __init__(self, idle_watts: float) -> None:
        self._idle_watts = idle_watts
        self._counters: Mapping[str, float] = {}
        self._read_at: float | None = None
        self._open: dict[str, float] = {}
        self._ended: deque[Served] = deque()
        self._windows: deque[Window] = deque()
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

    def ended(self, served: Served) -> None:
        """It is over."""
        self._open.pop(served.entry, None)
        self._ended.append(served)
        if len(self._ended) > _REQUESTS_MAX:
            self._ended.popleft()

    def read(self, counters: Mapping[str, float], *, now: float) -> list[Share]:
        """A reading: joules by GPU, which only grow (a smaller one: the driver was loaded anew, and counts from 0). Gives what
        can be shared out now."""
        if self._read_at is not None and now > self._read_at:
            taken = 0.0
            for gpu, joules in counters.items():
                before = self._counters.get(gpu)
                if before is not None:
                    taken += joules - before if joules >= before else joules
            idle = min(taken, self._idle_watts * (now - self._read_at))
            self.total += taken
            self.idle += idle
            self._windows.append(Window(self._read_at, now, taken - idle, idle))
        self._counters, self._read_at = dict(counters), now
        return list(self._due(now))

    def _due(self, now: float) -> Iterator[Share]:
        oldest = min(self._open.values(), default=now)
        while self._windows:
            window = self._windows[0]
            patient = now - window.end < _PATIENCE_SECONDS and len(self._windows) <= _WINDOWS_MAX
            if oldest < window.end and patient:
                break
            self._windows.popleft()
            yield from self._shares(window)
        self._forget()

    def _shares(self, window: Window) -> Iterator[Share]:
        """A window's joules by modelled weight."""
        weights = [(one, weight) for one in self._ended if (weight := _weight(one, window)) > 0]
        total = sum(weight for _, weight in weights)
        if not total:
            self.unattributed += window.active
            return
        self._learn(total, window.active, len(weights))
        for one, weight in weights:
            yield Share(entry=one.entry, joules=window.active * weight / total, task_type=one.task_type, team=one.team)

    def _learn(self, modelled: float, metered: float, shares: int) -> None:
        self._shared += shares
        keep = 1 - _NEWEST
        self._modelled, self._metered = self._modelled * keep + modelled, self._metered * keep + metered

    def _forget(self) -> None:
        """Requests whose windows have all been shared out."""
        until = self._windows[0].start if self._windows else self._read_at or 0.0
        while self._ended and self._ended[0].end <= until:
            self._ended.popleft()


def _weight(served: Served, window: Window) -> float:
    """Modelled joules of the part of a request that lies in the window."""
    length = served.end - served.start
    if length <= 0:
        return served.joules if window.start <= served.end < window.end else 0.0
    overlap = min(served.end, window.end) - max(served.start, window.start)
    return served.joules * max(0.0, overlap) / length


def by_label(shares: Iterable[Share]) -> dict[tuple[str, str], float]:
    """Joules by task type and team."""
    found: dict[tuple[str, str], float] = {}
    for share in shares:
        key = share.task_type, share.team
        found[key] = found.get(key, 0.0) + share.joules
    return found
