"""Budget accounts are restored from the ledger at a start."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from gateway.accounting.budget_lines import lines_for
from gateway.accounting.budgets import BudgetAccounts
from gateway.accounting.output_estimate import OutputEstimates
from gateway.stores.ledger_sqlite import NO_FILTER, SqliteLedger
from gateway.stores.restore_budgets import iter_spent, iter_spent_of_account, parse_scope, restore_outputs
from gateway.values.budget import Amounts, Measure, cap_budget
from tests.budget_lines import budget
from tests.snapshots import snapshot
from tests.stores.records import NOW, NOW_MS, entry

HOUR_MS = 3_600_000
BUDGETS = """
budgets:
  day: {scope: {team: research}, limit: {usd: 1}, window: day}
  each: {scope: {key: "*"}, limit: {wh: 1}, window: month}
  ever: {limit: {calls: 9}, window: total}
  rolling: {limit: {calls: 9}, window: rolling-1h}
  tokens: {scope: {session: "*"}, limit: {tokens: 900}, window: session}
sessions: {caps: {calls: 5}}
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteLedger]:
    store = SqliteLedger(tmp_path / "l.sqlite")
    yield store
    store.close()


def test_budgets_are_restored_from_the_ledger(store: SqliteLedger):
    store.append(
        [entry("a"), entry("b", key="k2", team="sales"), entry("old", at_ms=round((NOW - 40 * 86_400) * 1000))]
    )
    at = snapshot(more=BUDGETS)
    accounts = BudgetAccounts()
    for line, spent, charged_at in iter_spent(at, store, now=NOW):
        accounts.restore(line, spent, at=charged_at)
    scope = {
        "key": "k1", "team": "research", "task_type": "code", "session": "s", "user": "", "org": "default",
        "model": "m",
    }  # fmt: skip
    lines = lines_for((*at.budgets, *at.default_caps.tree_budgets), scope, now=NOW)
    assert {line.name: accounts.balance(line, now=NOW)[0] for line in lines} == {
        "day": 100, "each": 70, "ever": 3, "rolling": 2, "tokens": 30, "session-calls": 1,
    }  # fmt: skip


def test_only_sessions_with_a_callers_id_are_restored(store: SqliteLedger):
    store.append([entry("a"), entry("b", session="s-b", root="s-b", session_source="new")])
    lines = [line.account for line, _, _ in iter_spent(snapshot(more="sessions: {caps: {calls: 5}}"), store, now=NOW)]
    assert lines == ["session-calls|key=k1/session=s|session"]


def test_an_active_session_is_restored_whole_however_old(store: SqliteLedger):
    store.append([entry(f"n{n}", at_ms=NOW_MS - n * 8 * HOUR_MS) for n in range(6)])
    store.append([entry("gone", root="old", at_ms=NOW_MS - 30 * HOUR_MS)])
    found = list(iter_spent(snapshot(more="sessions: {caps: {calls: 50}}"), store, now=NOW))
    assert [(line.account, spent) for line, spent, _ in found] == [("session-calls|key=k1/session=s|session", 6)]


def test_windows_are_restored_by_their_window_time(store: SqliteLedger):
    midnight = (int(NOW) // 86_400) * 86_400_000
    # Routed before midnight and held after it; and dated by a clock that is five minutes fast.
    store.append([entry("late", at_ms=midnight - 2000, window_ms=midnight + 500)])
    store.append([entry("fast", at_ms=midnight + 1000, window_ms=midnight - 299_000)])
    at = snapshot(more="budgets: {day: {limit: {calls: 9}, window: day}}")
    assert [spent for _, spent, _ in iter_spent(at, store, now=NOW)] == [1]


class CountingLedger(SqliteLedger):
    """A ledger that counts the queries for spend."""

    queries = 0

    def iter_spent(
        self,
        by: Sequence[str],
        start_ms: int,
        *,
        fixed: Mapping[str, str] = NO_FILTER,
        step_seconds: int = 0,
        active_ms: int | None = None,
        shadows: bool = False,
    ) -> Iterator[tuple[tuple[str, ...], int, Amounts]]:
        self.queries += 1
        return super().iter_spent(
            by, start_ms, fixed=fixed, step_seconds=step_seconds, active_ms=active_ms, shadows=shadows
        )


def test_budgets_with_equal_grouping_share_one_ledger_query(tmp_path: Path):
    store = CountingLedger(tmp_path / "l.sqlite")
    store.append([entry("a"), entry("b", key="k2", team="sales")])
    many = "".join(f"  b{n}: {{scope: {{key: k{n % 2 + 1}}}, limit: {{calls: 9}}, window: day}}\n" for n in range(50))
    found = list(iter_spent(snapshot(more="budgets:\n" + many), store, now=NOW))
    assert len(found) == 50 and store.queries == 1
    store.close()


@pytest.mark.parametrize(
    "account, scope",
    [
        ("day|team=research|day2026-09-21", {"team": "research"}),
        ("b|key=k1/session=a%2Fb%7Cc|session", {"key": "k1", "session": "a/b|c"}),
        ("b|user=x=y|total", {"user": "x=y"}),
        ("ever||total", {}),
    ],
    ids=["one dimension", "quoted separators", "a value with an equals sign", "no scope"],
)
def test_an_account_name_contains_its_scope(account: str, scope: dict[str, str]):
    assert parse_scope(account) == scope


def test_the_spend_of_one_account_is_restored_by_its_name(store: SqliteLedger):
    store.append([entry("a"), entry("b", team="sales")])
    team = budget("ever", Measure.nusd, 1000, scope={"team": "*"})
    found = [(line.account, spent, at) for line, spent, at in iter_spent_of_account(team, "ever|team=sales|total", store, now=NOW)]  # fmt: skip
    assert found == [("ever|team=sales|total", 100, NOW)]


@pytest.mark.parametrize(
    "account", ["ever|team=sales|day2026-09-20", "ever|key=k1|total"], ids=["ended window", "another scope"]
)
def test_an_account_that_the_budget_does_not_have_now_has_no_spend(store: SqliteLedger, account: str):
    store.append([entry("a", team="sales")])
    team = budget("ever", Measure.nusd, 1000, scope={"team": "*"})
    assert list(iter_spent_of_account(team, account, store, now=NOW)) == []


def test_a_sessions_own_cap_counts_its_tree_or_its_own_calls_within_another_tree(store: SqliteLedger):
    store.append([entry("a", session="head", root="head"), entry("b", session="child", root="head")])
    cap = cap_budget("run", "calls", 9)
    spent = {
        session: sum(
            amount for _, amount, _ in iter_spent_of_account(cap, f"run-calls|key=k1/session={session}|session", store, now=NOW)
        )
        for session in ("head", "child", "missing")
    }  # fmt: skip
    assert spent == {"head": 2, "child": 1, "missing": 0}


def test_output_estimates_are_restored_from_complete_answers(store: SqliteLedger):
    fresh, restored = OutputEstimates(), OutputEstimates()
    store.append([entry(f"n{n}", usage_basis="exact", code="", output_tokens=500) for n in range(50)])
    restore_outputs(restored, store)
    for _ in range(50):
        fresh.observe("code", "m", 500)
    assert restored.median_tokens("code", "m") == fresh.median_tokens("code", "m")
    assert restored.expected_tokens("code", "m") == fresh.expected_tokens("code", "m")
    assert restored.expected_tokens("code", "m") != OutputEstimates().expected_tokens("code", "m")
