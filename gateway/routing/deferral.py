"""When work that can wait is best done: now, or at the greenest hour that its deadline leaves. Pure.

The forecast is of each candidate's own grid; a call takes seconds or minutes, so what counts is the intensity at its start.
A forecast that lies costs grams, never the deadline: the latest start is worked out without it.
"""

from collections.abc import Sequence

from ..values.base import Value
from ..values.catalog import Deployment
from ..values.grid import Intensity

# A call is begun early enough for so many times what such calls take, and no later than so many seconds before its deadline:
# a judgement, room for one retry and a queue.
_ROOM_FACTOR, _ROOM_SECONDS = 3.0, 30.0


class Opening(Value, frozen=True, kw_only=True):
    """The best moment: `start` in seconds since the epoch, what the grid is forecast to emit then, and what it does now, in
    gCO2e/kWh."""

    start: float
    grams_per_kwh: float
    now_grams_per_kwh: float
    deployment: str


def latest_start(deadline: float, expected_seconds: float) -> float:
    """When a call must begin that is expected to take so long and is to be answered by `deadline`."""
    return deadline - max(_ROOM_FACTOR * expected_seconds, _ROOM_SECONDS)


def opening(candidates: Sequence[Deployment], *, now: float, latest: float, gain_min: float) -> Opening | None:
    """The greenest moment up to `latest`; None where now is as good, but for `gain_min` of what the first candidate, which
    would serve it now, emits. Of equal moments the earliest."""
    first = candidates[0]
    if first.energy is None or latest <= now:
        return None
    weight = _joules(first)
    best: tuple[float, float, str] | None = None
    for one in candidates:
        if one.energy is None:
            continue
        # The same tokens take more energy at one deployment than at another.
        factor = _joules(one) / weight
        for start, grams in _moments(one.intensity, now, latest):
            if best is None or (grams * factor, start) < best[:2]:
                best = grams * factor, start, one.name
    current = first.intensity.grams_per_kwh
    if best is None or best[1] <= now or best[0] > (1 - gain_min) * current:
        return None
    return Opening(start=best[1], grams_per_kwh=best[0], now_grams_per_kwh=current, deployment=best[2])


def _moments(intensity: Intensity, now: float, latest: float) -> list[tuple[float, float]]:
    """(start, g/kWh) of now and of every forecast slot that begins by `latest`."""
    moments = [(now, intensity.grams_per_kwh)]
    end = min(latest, intensity.ends_at)
    moments += [(one.start, one.grams_per_kwh) for one in intensity.forecast if now < one.start <= end]
    return moments


def _joules(one: Deployment) -> float:
    """Facility joules of an output token by the mid estimate: what deployments are compared by."""
    assert one.energy is not None, "only candidates of which it is known are compared"
    mid = one.energy[1]
    return mid.per_output * mid.facility
