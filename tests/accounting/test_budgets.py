"""The book: never over the limit, all lines or none, each hold resolved once."""

from datetime import UTC, datetime

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from gateway.accounting.budgets import BudgetBook, Exceeded, Line, LineCache, Reservation, lines_for, refusal, window_of
from gateway.values.catalog import Budget, Measure, Window

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC, a Monday


def line(name: str, measure: Measure, limit: int, keep: float = float("inf")) -> Line:
    return Line(account=name, name=name, measure=measure, limit=limit, resets_at=None, keep_until=keep)


LINES = (line("money", Measure.nusd, 1000), line("energy", Measure.millijoules, 300), line("calls", Measure.calls, 7))
AMOUNTS = st.tuples(st.integers(0, 600), st.integers(0, 200), st.just(1))


class Book(RuleBasedStateMachine):
    """Random reservations, settlements and time; the limits hold at every step and nothing is resolved twice."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.book, self.now, self.count = BudgetBook(), NOW, 0
        self.open: dict[str, Reservation] = {}
        self.spent = [0, 0, 0]

    @rule(target=holds, offers=st.lists(AMOUNTS, min_size=1, max_size=3), lease=st.integers(1, 50))
    def reserve(self, offers, lease):
        self.count += 1
        before = [self.book.standing(one) for one in LINES]
        result = self.book.reserve(f"r{self.count}", LINES, offers, now=self.now, lease=lease)
        if isinstance(result, Exceeded):
            assert before == [self.book.standing(one) for one in LINES], "a refusal changes nothing"
            return multiple()
        assert all(not self._fits(before, amounts) for amounts in offers[: result.choice]), "the first that fits"
        self.open[result.id] = result
        return result.id

    @rule(hold=consumes(holds), share=st.floats(0, 1))
    def settle(self, hold, share):
        found = self.open.pop(hold, None)
        spent = tuple(int((amount or 0) * share) for amount in (found.amounts if found else (0, 0, 0)))
        assert self.book.settle(hold, spent) is (found is not None)
        assert self.book.settle(hold, spent) is False, "resolved once"
        if found:
            self.spent = [a + b for a, b in zip(self.spent, spent, strict=True)]

    @rule(seconds=st.integers(0, 30))
    def time_passes(self, seconds):
        self.now += seconds
        for late in self.book.expire(self.now):
            assert self.open.pop(late.id).expires_at <= self.now
            self.spent = [a + (b or 0) for a, b in zip(self.spent, late.amounts, strict=True)]

    def _fits(self, before, amounts):
        return all(sum(before[n]) + amounts[one.measure] <= one.limit for n, one in enumerate(LINES))

    @invariant()
    def limits_hold_and_books_agree(self):
        for one in LINES:
            spent, held = self.book.standing(one)
            assert spent + held <= one.limit
            assert spent == self.spent[one.measure]
            assert held == sum(r.amounts[one.measure] or 0 for r in self.open.values())
        assert self.book.open_holds == len(self.open)


TestBook = Book.TestCase


def test_an_unpriced_call_meets_no_money_budget():
    result = BudgetBook().reserve("a", LINES[:1], [(None, 1, 1)], now=NOW, lease=1)
    assert isinstance(result, Exceeded)
    assert "not known" in refusal(result, NOW).message


def test_usage_above_its_hold_is_booked_in_full():
    book = BudgetBook()
    book.reserve("a", LINES[:1], [(10, 0, 1)], now=NOW, lease=1)
    book.settle("a", (5000, 0, 1))
    assert book.standing(LINES[0]) == (5000, 0)


def test_accounts_whose_time_is_over_are_forgotten():
    book, short = BudgetBook(), line("short", Measure.calls, 5, keep=NOW + 10)
    book.reserve("a", (short,), [(0, 0, 1)], now=NOW, lease=100)
    book.settle("a", (0, 0, 1))
    book.expire(NOW + 11)
    assert book.standing(short) == (0, 0)


@pytest.mark.parametrize(
    "window, ends",
    [
        (Window.hour, "2026-09-21T15:00:00"), (Window.day, "2026-09-22T00:00:00"),
        (Window.week, "2026-09-28T00:00:00"), (Window.month, "2026-10-01T00:00:00"),
    ],
)  # fmt: skip
def test_calendar_windows_end_when_the_calendar_says(window, ends):
    end = window_of(window, NOW)[1]
    assert end is not None and datetime.fromtimestamp(end, UTC).isoformat().startswith(ends)
    assert window_of(window, end - 1)[0] == window_of(window, NOW)[0] != window_of(window, end)[0]


def test_budgets_apply_by_scope_and_stars_give_each_value_its_own_account():
    budgets = (
        Budget(name="all", scope={}, measure=Measure.nusd, limit=1, window=Window.day),
        Budget(name="team", scope={"team": "a"}, measure=Measure.nusd, limit=1, window=Window.day),
        Budget(name="each", scope={"key": "*"}, measure=Measure.nusd, limit=1, window=Window.day),
    )
    names = {one.name: one.account for one in lines_for(budgets, {"key": "k1", "team": "a", "task_type": "x"}, now=NOW)}
    assert set(names) == {"all", "team", "each"}
    others = lines_for(budgets, {"key": "k2", "team": "b", "task_type": "x"}, now=NOW)
    assert [one.name for one in others] == ["all", "each"]
    assert others[1].account != names["each"]


def test_remembered_lines_are_those_of_the_hour():
    budgets = (Budget(name="h", scope={"key": "*"}, measure=Measure.calls, limit=1, window=Window.hour),)
    cache, who = LineCache(), ("k", "t", "x")
    assert cache.of(budgets, who, now=NOW) is cache.of(budgets, who, now=NOW + 60)
    assert cache.of(budgets, who, now=NOW) != cache.of(budgets, who, now=NOW + 3600)
