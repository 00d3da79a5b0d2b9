"""Start of a deferrable request: now, or a greener time before the deadline.

Uses the grid forecast of the deployment that would serve it now; which one serves it later is up to the plan at that
time. A call takes seconds or minutes, so the intensity at its start counts. A wrong forecast costs grams, never the
deadline: the latest start does not depend on it.
"""

from ..values.catalog import Deployment

# Lead before the deadline (a judgment): three times the expected duration, at least half a minute; and the timeout, as
# far as that takes no more than half of the time available.
_LEAD_FACTOR, _LEAD_SECONDS_MIN, _LEAD_SHARE_MAX = 3.0, 30.0, 0.5


def lead_seconds(expected_seconds: float, timeout_seconds: float, limit_seconds: float) -> float:
    """How long before its deadline a call must start, in seconds.

    expected_seconds: expected duration of the call
    timeout_seconds: its timeout
    limit_seconds: from its arrival to its deadline
    """
    usual = max(_LEAD_FACTOR * expected_seconds, _LEAD_SECONDS_MIN)
    return max(usual, min(timeout_seconds, _LEAD_SHARE_MAX * limit_seconds))


def lowest_carbon_start(deployment: Deployment, *, now: float, latest: float, gain_min: float) -> float | None:
    """The greenest time up to `latest`, the earliest of equals; None to start now.

    now, latest: seconds since the epoch
    gain_min: least reduction worth waiting for, as a share of the present intensity

    Starts now where the deployment's energy is unknown.
    """
    grid = deployment.intensity
    if deployment.energy_models is None or latest <= now:
        return None
    ahead = [
        (sample.grams_per_kwh, sample.start)
        for sample in grid.forecast
        if now < sample.start <= min(latest, grid.forecast_ends_at)
    ]
    grams, start = min(ahead, default=(grid.grams_per_kwh, now))
    return (
        start if start > now and grams <= (1 - gain_min) * grid.grams_per_kwh and grams < grid.grams_per_kwh else None
    )
