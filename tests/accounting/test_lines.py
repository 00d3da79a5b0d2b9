"""Which budgets apply to a request, and when they reset."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.accounting.budget_lines import BudgetLineCache, line_of, lines_for
from gateway.accounting.windows import buckets_of, period_of
from gateway.values.budget import Budget, Measure, Window
from tests.budget_lines import NOW
from tests.snapshots import snapshot

SCOPE = {
    "org": "default", "team": "a", "key": "k1", "user": "", "session": "s1", "task_type": "x", "route": "auto",
}  # fmt: skip
REQUEST_VALUES = tuple(SCOPE.values())


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


def make_budget(name: str, scope: dict[str, str], kind: str = "day") -> Budget:
    return Budget(name=name, scope=scope, measure=Measure.nusd, limit=1, window=Window(kind=kind))


def test_budgets_apply_by_scope_and_a_star_gives_each_value_its_own_account():
    budgets = (make_budget("all", {}), make_budget("team", {"team": "a"}), make_budget("each", {"key": "*"}))
    accounts = {line.name: line.account for line in lines_for(budgets, SCOPE, now=NOW)}
    assert set(accounts) == {"all", "team", "each"}
    others = lines_for(budgets, {**SCOPE, "key": "k2", "team": "b"}, now=NOW)
    assert [line.name for line in others] == ["all", "each"]
    assert others[1].account != accounts["each"]


def test_no_scope_value_can_imitate_another_account():
    budget = make_budget("each", {"user": "*", "session": "*"})
    first = line_of(budget, {"user": "a/user=b", "session": "s"}, now=NOW)
    second = line_of(budget, {"user": "b", "session": "s"}, now=NOW)
    third = line_of(budget, {"user": "a|total", "session": "s"}, now=NOW)
    assert len({first.account, second.account, third.account}) == 3
    assert first.account.count("/") == 1 and third.account.count("|") == 2


def test_lines_depend_on_the_deployment_where_a_budget_does():
    budgets = (
        make_budget("tier", {"tier": "frontier"}),
        make_budget("model", {"model": "*"}),
        make_budget("provider", {"provider": "near"}),
    )
    deployments, cache = snapshot().deployments, BudgetLineCache()
    small = [line.name for line in cache.lines(budgets, REQUEST_VALUES, deployments["small"], now=NOW).lines]
    frontier = [line.name for line in cache.lines(budgets, REQUEST_VALUES, deployments["frontier"], now=NOW).lines]
    assert (small, frontier) == (["model", "provider"], ["tier", "model"])


def test_lines_are_cached_until_the_first_of_their_windows_ends():
    budgets = (make_budget("h", {"key": "*"}, "hour"), make_budget("d", {"key": "*"}))
    cache, small = BudgetLineCache(), snapshot().deployments["small"]
    first = cache.lines(budgets, REQUEST_VALUES, small, now=NOW)
    assert cache.lines(budgets, REQUEST_VALUES, small, now=NOW + 60) is first
    later = cache.lines(budgets, REQUEST_VALUES, small, now=NOW + 3600)
    assert later.lines[0].account != first.lines[0].account and later.lines[1].account == first.lines[1].account


def test_only_the_callers_budget_of_thousands_applies():
    mine = make_budget("mine", {"key": "k1"})
    budgets = (*[make_budget(f"b{n}", {"key": f"other{n}"}) for n in range(5000)], mine)
    cache, small = BudgetLineCache(), snapshot().deployments["small"]
    assert [line.name for line in cache.lines(budgets, REQUEST_VALUES, small, now=NOW).lines] == ["mine"]


def test_total_and_session_windows_never_reset():
    for kind in ("total", "session"):
        assert line_of(make_budget("x", {"session": "*"}, kind), SCOPE, now=NOW).resets_at is None
    assert datetime.fromtimestamp(line_of(make_budget("x", {}), SCOPE, now=NOW).resets_at or 0, UTC).hour == 0
