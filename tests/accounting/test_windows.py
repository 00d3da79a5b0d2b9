"""Budget windows: calendar periods by the clock of their zone, rolling buckets."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.accounting.windows import buckets_of, period_of
from gateway.values.budget import Window


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    "kind, zone, now, starts, ends",
    [
        ("hour", None, "2026-09-21T14:13:20Z", "2026-09-21T14:00Z", "2026-09-21T15:00Z"),
        ("day", None, "2026-09-21T14:13:20Z", "2026-09-21T00:00Z", "2026-09-22T00:00Z"),
        ("week", None, "2026-09-23T14:13:20Z", "2026-09-21T00:00Z", "2026-09-28T00:00Z"),
        ("month", None, "2026-12-31T14:13:20Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("hour", "Asia/Kolkata", "2026-09-21T14:13:20Z", "2026-09-21T13:30Z", "2026-09-21T14:30Z"),
        ("day", "America/New_York", "2026-09-21T03:00Z", "2026-09-20T04:00Z", "2026-09-21T04:00Z"),
        ("day", "Europe/Berlin", "2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
        ("day", "Europe/Berlin", "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
        ("hour", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-25T00:00Z", "2026-10-25T01:00Z"),
        ("hour", "Europe/Berlin", "2026-10-25T01:30Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z"),
        ("month", "Pacific/Auckland", "2026-04-10T00:00Z", "2026-03-31T11:00Z", "2026-04-30T12:00Z"),
        # Clocks are set forward at midnight: the day begins when there is one.
        ("day", "America/Santiago", "2026-09-06T12:00Z", "2026-09-06T04:00Z", "2026-09-07T03:00Z"),
    ],
)
def test_calendar_windows_begin_and_end_by_the_clock_of_their_zone(kind, zone, now, starts, ends):
    period = period_of(Window(kind=kind, zone=ZoneInfo(zone) if zone else None), at(now))
    assert (period.starts_at, period.ends_at) == (at(starts), at(ends))


@pytest.mark.parametrize("kind", ["hour", "day", "week", "month"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana"])
def test_the_periods_of_a_window_follow_without_gap_through_a_year(kind, zone):
    window, now, names = Window(kind=kind, zone=ZoneInfo(zone)), at("2026-01-01T00:00Z"), set()
    while now < at("2027-01-01T00:00Z"):
        period = period_of(window, now)
        assert period.ends_at is not None and period.starts_at <= now < period.ends_at
        assert period.name not in names
        assert period_of(window, period.ends_at - 0.001).name == period.name
        names.add(period.name)
        now = period.ends_at


def test_a_rolling_window_has_sixty_steps_and_one():
    assert buckets_of(Window(kind="rolling", seconds=3600)) == (60, 61)
    assert buckets_of(Window(kind="rolling", seconds=45)) == (1, 46)
    assert buckets_of(Window(kind="day")) == (0, 0)
