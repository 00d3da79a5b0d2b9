"""When work that can wait is best done: now, or at the greenest hour that its deadline leaves. Pure.

Looked at is the forecast of the deployment that would serve it now: where candidates' grids differ, rules of the plan choose
among them, then as now. A call takes seconds or minutes, so what counts is the intensity at its start. A forecast that lies costs grams,
never the deadline: the latest start is worked out without it.
"""

from ..values.catalog import Deployment

# A call is begun early enough for three times what such calls take, half a minute at least, and for its own timeout, as long as
# that leaves half of the time to wait in: a judgement.
_LEAD_FACTOR, _LEAD_SECONDS_MIN, _LEAD_SHARE_MAX = 3.0, 30.0, 0.5


def lead_seconds(expected_seconds: float, timeout_seconds: float, limit_seconds: float) -> float:
    """How long before its deadline a call must begin that is expected to take so long and is given up after its timeout;
    `limit_seconds` lie between its arrival and its deadline."""
    usual = max(_LEAD_FACTOR * expected_seconds, _LEAD_SECONDS_MIN)
    return max(usual, min(timeout_seconds, _LEAD_SHARE_MAX * limit_seconds))


def greenest_start(deployment: Deployment, *, now: float, latest: float, gain_min: float) -> float | None:
    """The greenest moment up to `latest`, in seconds since the epoch; None where now is as good, but for `gain_min` of what its
    grid emits now. Of equal moments the earliest. Where the energy is not known nobody waits."""
    grid = deployment.intensity
    if deployment.energy_models is None or latest <= now:
        return None
    ahead = [
        (one.grams_per_kwh, one.start) for one in grid.forecast if now < one.start <= min(latest, grid.forecast_ends_at)
    ]
    grams, start = min(ahead, default=(grid.grams_per_kwh, now))
    return (
        start if start > now and grams <= (1 - gain_min) * grid.grams_per_kwh and grams < grid.grams_per_kwh else None
    )
