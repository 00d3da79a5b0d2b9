"""Which budgets meet a request, and when they start again."""

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
WHO = tuple(SCOPE.values())


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
def test_calendar_windows_begin_and_end_with_the_zones_own_clock(kind, zone, now, starts, ends):
    span = period_of(Window(kind=kind, zone=ZoneInfo(zone) if zone else None), at(now))
    assert (span.starts_at, span.ends_at) == (at(starts), at(ends))


@pytest.mark.parametrize("kind", ["hour", "day", "week", "month"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana"])
def test_the_turns_of_a_window_follow_each_other_without_gap_through_a_year(kind, zone):
    window, now, names = Window(kind=kind, zone=ZoneInfo(zone)), at("2026-01-01T00:00Z"), set()
    while now < at("2027-01-01T00:00Z"):
        span = period_of(window, now)
        assert span.ends_at is not None and span.starts_at <= now < span.ends_at
        assert span.name not in names
        assert period_of(window, span.ends_at - 0.001).name == span.name
        names.add(span.name)
        now = span.ends_at


def test_a_rolling_window_is_looked_back_over_in_sixty_steps_and_one():
    assert buckets_of(Window(kind="rolling", seconds=3600)) == (60, 61)
    assert buckets_of(Window(kind="rolling", seconds=45)) == (1, 46)
    assert buckets_of(Window(kind="day")) == (0, 0)


def made(name: str, scope: dict[str, str], kind: str = "day") -> Budget:
    return Budget(name=name, scope=scope, measure=Measure.nusd, limit=1, window=Window(kind=kind))


def test_budgets_apply_by_scope_and_stars_give_each_value_its_own_account():
    budgets = (made("all", {}), made("team", {"team": "a"}), made("each", {"key": "*"}))
    names = {one.name: one.account for one in lines_for(budgets, SCOPE, now=NOW)}
    assert set(names) == {"all", "team", "each"}
    others = lines_for(budgets, {**SCOPE, "key": "k2", "team": "b"}, now=NOW)
    assert [one.name for one in others] == ["all", "each"]
    assert others[1].account != names["each"]


def test_no_value_of_a_caller_passes_for_another_account():
    each = made("each", {"user": "*", "session": "*"})
    one = line_of(each, {"user": "a/user=b", "session": "s"}, now=NOW)
    two = line_of(each, {"user": "b", "session": "s"}, now=NOW)
    three = line_of(each, {"user": "a|total", "session": "s"}, now=NOW)
    assert len({one.account, two.account, three.account}) == 3
    assert one.account.count("/") == 1 and three.account.count("|") == 2


def test_lines_depend_on_the_deployment_where_a_budget_does():
    budgets = (
        made("tier", {"tier": "frontier"}),
        made("model", {"model": "*"}),
        made("provider", {"provider": "near"}),
    )
    deployments, book = snapshot().deployments, BudgetLineCache()
    small = [one.name for one in book.lines(budgets, WHO, deployments["small"], now=NOW).lines]
    frontier = [one.name for one in book.lines(budgets, WHO, deployments["frontier"], now=NOW).lines]
    assert (small, frontier) == (["model", "provider"], ["tier", "model"])


def test_lines_are_remembered_until_the_first_of_their_windows_ends():
    budgets = (made("h", {"key": "*"}, "hour"), made("d", {"key": "*"}))
    book, small = BudgetLineCache(), snapshot().deployments["small"]
    first = book.lines(budgets, WHO, small, now=NOW)
    assert book.lines(budgets, WHO, small, now=NOW + 60) is first
    later = book.lines(budgets, WHO, small, now=NOW + 3600)
    assert later.lines[0].account != first.lines[0].account and later.lines[1].account == first.lines[1].account


def test_thousands_of_budgets_for_others_are_not_looked_at():
    mine = made("mine", {"key": "k1"})
    budgets = (*[made(f"b{n}", {"key": f"other{n}"}) for n in range(5000)], mine)
    book, small = BudgetLineCache(), snapshot().deployments["small"]
    assert [one.name for one in book.lines(budgets, WHO, small, now=NOW).lines] == ["mine"]


def test_lines_of_the_open_ended_windows_have_no_end():
    for kind in ("total", "session"):
        assert line_of(made("x", {"session": "*"}, kind), SCOPE, now=NOW).resets_at is None
    assert datetime.fromtimestamp(line_of(made("x", {}), SCOPE, now=NOW).resets_at or 0, UTC).hour == 0
