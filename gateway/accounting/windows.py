"""Budget windows: calendar periods of a time zone, steps of rolling windows."""

from datetime import UTC, datetime, timedelta

from ..values.base import Value
from ..values.budget import Window

# Steps of a rolling window: an amount leaves it at most a sixtieth late, never early.
_ROLLING_BUCKETS = 60
_HOUR_SECONDS = 3600


class WindowPeriod(Value, frozen=True, kw_only=True):
    """One period of a window.

    name: unique within the budget
    starts_at, ends_at: seconds since the epoch; `ends_at` None: it never ends
    """

    name: str
    starts_at: float = 0.0
    ends_at: float | None = None


def period_of(window: Window, now: float) -> WindowPeriod:
    """The period of `window` that contains `now`. Weeks begin on Monday (ISO 8601)."""
    if window.kind in ("total", "session", "rolling"):
        return WindowPeriod(name=window.kind)
    zone = window.zone or UTC
    local = datetime.fromtimestamp(now, zone)
    if window.kind == "hour":
        # By UTC offset, not local time: where clocks are set back the repeated hour is a window of its own.
        offset = local.utcoffset() or timedelta(0)
        at = now - (now + offset.total_seconds()) % _HOUR_SECONDS
        return WindowPeriod(name=f"hour{int(at)}", starts_at=at, ends_at=at + _HOUR_SECONDS)
    midnight = datetime(local.year, local.month, local.day, tzinfo=zone)
    if window.kind == "day":
        first, after = midnight, midnight + timedelta(days=1)
    elif window.kind == "week":
        first = midnight - timedelta(days=local.weekday())
        after = first + timedelta(days=7)
    else:
        first = midnight.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    suffix = f"@{window.zone.key}" if window.zone is not None and window.zone.key != "UTC" else ""
    return WindowPeriod(
        name=f"{window.kind}{first:%Y-%m-%d}{suffix}", starts_at=first.timestamp(), ends_at=after.timestamp()
    )


def buckets_of(window: Window) -> tuple[int, int]:
    """(seconds per step, steps covered) of a rolling window; (0, 0) for any other."""
    if window.kind != "rolling":
        return 0, 0
    step = max(1, window.seconds // _ROLLING_BUCKETS)
    # One more than fits: the oldest counts until its last second has left the window.
    return step, -(-window.seconds // step) + 1
