"""Budgets of one process: restored at a start, in memory or on a shared store, with notices and metrics."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.accounting.budget_lines import lines_for
from gateway.accounting.budgets import BudgetAccounts
from gateway.services.budgets import BudgetService, LocalBudgets
from gateway.services.supervisor import Supervisor
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.budget import (
    BudgetExceeded,
    BudgetLine,
    Grant,
    Measure,
    Reservation,
    ThresholdCrossing,
    cap_budget,
)
from gateway.values.errors import Overloaded
from gateway.values.snapshot import Snapshot
from tests.budget_lines import amounts, line, offer
from tests.services.clocks import NOW, ManualClock, until
from tests.snapshots import snapshot
from tests.stores.records import entry
from tests.stores.servers import Server
from tests.stores.servers import until as until_server

BUDGETS = """
budgets:
  team: {scope: {team: research}, limit: {usd: 0.000001}, window: day, stages: {notify: [50]}}
  each: {scope: {key: "*"}, limit: {calls: 5}, window: month}
"""
# The limit of `team` in nUSD.
LIMIT = 1000
TEAM_ACCOUNT = "team|team=research|day2026-09-21"
SCOPE = {"org": "default", "team": "research", "key": "k1", "session": "s", "user": "", "task_type": "code"}
# Longer than any test runs: what waits so long was not woken.
LONG_SECONDS = 600.0
NOTHING_LISTENS = "redis://127.0.0.1:1/0"


class BudgetFixture:
    """A budget service of one data folder, its clock and its supervisor."""

    def __init__(self, folder: Path, configured: Snapshot, clock: ManualClock, redis_url: str | None) -> None:
        self.snapshot, self.clock = configured, clock
        self.supervisor = Supervisor(clock.sleep)
        redis = (redis_url, 5.0) if redis_url is not None else None
        self.service = BudgetService(lambda: self.snapshot, folder, redis, self.supervisor, clock.now)

    def lines(self, name: str, at: float) -> tuple[BudgetLine, ...]:
        """The line of one budget at a time."""
        return lines_for([budget for budget in self.snapshot.budgets if budget.name == name], SCOPE, now=at)

    async def reserve(self, name: str, amount: int = 100, budget: str = "team") -> Reservation | BudgetExceeded:
        """Holds an amount on one budget for a minute."""
        return await self.service.budgets.reserve(
            name,
            lambda at: [offer(self.lines(budget, at), (amount,))],
            tenant="default",
            now=self.clock.now(),
            lease=60.0,
        )

    def settle(self, name: str, nusd: int) -> None:
        """Settles a hold as one call of this cost."""
        assert self.service.budgets.settle(name, amounts(nusd=nusd, calls=1), now=self.clock.now())

    async def balance(self, budget: str = "team") -> tuple[int, int, int]:
        """(spent, held, granted) of one budget."""
        (of,) = self.lines(budget, self.clock.now())
        return await self.service.budgets.balance("default", of, now=self.clock.now())

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """A metric by its label values."""
        return next(dict(family.samples) for family in self.service.metrics() if family.name == name)


@contextlib.asynccontextmanager
async def running_budgets(
    folder: Path, *, more: str = BUDGETS, redis_url: str | None = None, clock: ManualClock | None = None
) -> AsyncIterator[BudgetFixture]:
    fixture = BudgetFixture(folder, snapshot(more=more), clock or ManualClock(), redis_url)
    ledger = SqliteLedger(folder / "ledger.sqlite")
    try:
        fixture.service.start(ledger)
        yield fixture
    finally:
        await fixture.supervisor.stop()
        await fixture.service.stop()
        ledger.close()


def write_entries(folder: Path, *names: str, **change: Any) -> None:
    """Writes calls of 100 nUSD to the ledger."""
    ledger = SqliteLedger(folder / "ledger.sqlite")
    ledger.append([entry(name, **change) for name in names])
    ledger.close()


# --- accounts in memory


class LocalFixture:
    """Budgets in memory and the threshold crossings that they report."""

    def __init__(self) -> None:
        self.crossings: list[ThresholdCrossing] = []
        self.budgets = LocalBudgets(BudgetAccounts(), self.crossings.append)
        self.line = line("money", Measure.nusd, 1000, notify=(50,))

    async def reserve(self, name: str, amount: int) -> Reservation | BudgetExceeded:
        options = [offer((self.line,), (amount,))]
        return await self.budgets.reserve(name, lambda at: options, tenant="default", now=NOW, lease=60.0)


async def test_a_threshold_crossed_in_memory_is_reported_once():
    fixture = LocalFixture()
    await fixture.reserve("a", 600)
    assert fixture.crossings == []
    assert fixture.budgets.settle("a", amounts(nusd=600), now=NOW)
    assert [(crossing.line.name, crossing.percent, crossing.spent) for crossing in fixture.crossings] == [
        ("money", 50, 600)
    ]
    assert not fixture.budgets.settle("a", amounts(nusd=600), now=NOW)
    assert len(fixture.crossings) == 1


async def test_a_grant_that_the_audit_had_before_is_not_applied_again_in_memory():
    fixture = LocalFixture()
    grant = Grant(id="g1", account="money", amount=500)
    assert await fixture.budgets.grant("default", fixture.line, grant, fresh=True)
    assert not await fixture.budgets.grant("default", fixture.line, grant, fresh=False)
    assert await fixture.budgets.balance("default", fixture.line, now=NOW) == (0, 0, 500)


async def test_a_hold_in_memory_is_extended_within_the_limit():
    fixture = LocalFixture()
    await fixture.reserve("a", 600)
    assert await fixture.budgets.extend("a", 1, (300,), now=NOW)
    assert not await fixture.budgets.extend("a", 2, (300,), now=NOW)
    assert await fixture.budgets.balance("default", fixture.line, now=NOW) == (0, 900, 0)
    assert isinstance(await fixture.reserve("b", 200), BudgetExceeded)


async def test_a_settlement_in_memory_wakes_who_waits_for_its_account():
    fixture = LocalFixture()
    await fixture.reserve("a", 1000)
    held = await fixture.reserve("b", 600)
    assert isinstance(held, BudgetExceeded) and held.is_held
    waiting = asyncio.ensure_future(
        fixture.budgets.wait_for_release(
            held.line, tenant="default", since=0.0, seconds=LONG_SECONDS, seconds_max=LONG_SECONDS
        )
    )
    await asyncio.sleep(0)
    fixture.budgets.settle("a", amounts(nusd=400), now=NOW)
    await waiting
    assert isinstance(await fixture.reserve("b", 600), Reservation)


# --- restart


async def test_spend_is_restored_from_the_ledger(tmp_path: Path):
    write_entries(tmp_path, "a", "b")
    async with running_budgets(tmp_path) as fixture:
        assert await fixture.balance() == (200, 0, 0)
        assert await fixture.balance("each") == (2, 0, 0)
        assert fixture.samples("penstock_budget_spent_ratio") == {("team",): 0.2}


async def test_output_estimates_are_restored_from_the_ledger(tmp_path: Path):
    write_entries(tmp_path, *(f"n{number}" for number in range(20)), usage_basis="exact", code="", output_tokens=5)
    async with running_budgets(tmp_path) as fixture:
        assert fixture.service.output_estimates.expected_tokens("code", "m") < 10


async def test_grants_of_the_current_window_are_restored(tmp_path: Path):
    clock = ManualClock()
    async with running_budgets(tmp_path, clock=clock) as fixture:
        for name, body in (
            ("team", {"amount": 0.0000005, "id": "kept"}),
            ("team", {"amount": 0.0000002, "id": "grace", "minutes": 10}),
            ("each", {"amount": 7, "scope": {"key": "k1"}}),
        ):
            await fixture.service.admin.grant(name, body, actor="admin")
    async with running_budgets(tmp_path, clock=clock) as fixture:
        assert await fixture.balance() == (0, 0, 700)
        assert await fixture.balance("each") == (0, 0, 7)
        again = await fixture.service.admin.grant("team", {"amount": 0.0000005, "id": "kept"}, actor="admin")
        assert not again["created"] and await fixture.balance() == (0, 0, 700), "the audit has it"
    clock.seconds += 601
    async with running_budgets(tmp_path, clock=clock) as fixture:
        assert await fixture.balance() == (0, 0, 500), "the grace period is over"
    clock.seconds += 24 * 3600
    async with running_budgets(tmp_path, clock=clock) as fixture:
        assert await fixture.balance() == (0, 0, 0), "granted for a day that has ended"
        assert await fixture.balance("each") == (0, 0, 7)


async def test_grants_of_a_budget_that_is_gone_are_ignored(tmp_path: Path):
    async with running_budgets(tmp_path) as fixture:
        await fixture.service.admin.grant("team", {"amount": 0.0000005}, actor="admin")
    narrower = "budgets: {team: {scope: {team: research, key: k1}, limit: {usd: 0.000001}, window: day}}"
    async with running_budgets(tmp_path, more=narrower) as fixture:
        assert await fixture.balance() == (0, 0, 0)


async def test_accounts_of_a_sessions_own_caps_are_restored_by_their_name(tmp_path: Path):
    write_entries(tmp_path, "a", "b", session="run-1", root="run-1")
    cap = cap_budget("run", "calls", 5)
    (of,) = lines_for([cap], {**SCOPE, "session": "run-1"}, now=NOW)
    async with running_budgets(tmp_path) as fixture:
        assert await fixture.service.budgets.balance("default", of, now=NOW) == (0, 0, 0)
        fixture.service.restore([of])
        assert await fixture.service.budgets.balance("default", of, now=NOW) == (2, 0, 0)


# --- while it runs


async def test_expired_holds_are_charged_in_full_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with running_budgets(tmp_path) as fixture:
        await fixture.reserve("lost", 300)
        assert fixture.samples("penstock_open_holds") == {(): 1}
        assert fixture.samples("penstock_budget_held_ratio") == {("team",): 0.3}
        fixture.clock.seconds += 59
        fixture.service.expire_holds()
        assert await fixture.balance() == (0, 300, 0) and "holds_expired" not in caplog.text
        fixture.clock.seconds += 1
        fixture.service.expire_holds()
        assert await fixture.balance() == (300, 0, 0)
        assert "holds_expired count=1 charged=full" in caplog.text


async def test_a_crossed_threshold_is_counted_and_stored_in_the_audit(tmp_path: Path):
    async with running_budgets(tmp_path) as fixture:
        await fixture.reserve("a", 600)
        fixture.settle("a", 600)
        await until(lambda: fixture.service.audit_events(0))
        (event,) = fixture.service.audit_events(0)
        assert {name: event[name] for name in ("kind", "budget", "account", "percent", "unit", "at_ms")} == {
            "kind": "budget_threshold", "budget": "team", "account": TEAM_ACCOUNT, "percent": 50, "unit": "USD",
            "at_ms": round(NOW * 1000),
        }  # fmt: skip
        assert event["spent"] == pytest.approx(600e-9) and event["limit"] == pytest.approx(LIMIT * 1e-9)
        assert fixture.service.audit_events(event["at_ms"] + 1) == []
        assert fixture.samples("penstock_budget_notices_total") == {("team", "50"): 1}


async def test_a_notice_that_cannot_be_stored_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with running_budgets(tmp_path) as fixture:
        (tmp_path / "ledger.sqlite").rename(tmp_path / "moved.sqlite")
        await fixture.reserve("a", 600)
        fixture.settle("a", 600)
        await until(lambda: "budget_event_not_stored error=" in caplog.text)


async def test_metrics_follow_a_budget_into_its_next_window(tmp_path: Path):
    write_entries(tmp_path, "a")
    async with running_budgets(tmp_path) as fixture:
        assert fixture.samples("penstock_budget_spent_ratio") == {("team",): 0.1}
        fixture.clock.seconds += 24 * 3600
        assert fixture.samples("penstock_budget_spent_ratio") == {("team",): 0.0}


async def test_metrics_follow_a_reloaded_configuration(tmp_path: Path):
    write_entries(tmp_path, "a")
    async with running_budgets(tmp_path) as fixture:
        fixture.snapshot = snapshot(more=BUDGETS.replace("usd: 0.000001", "usd: 0.000002"))
        assert fixture.samples("penstock_budget_spent_ratio") == {("team",): 0.05}


async def test_accounts_in_memory_have_no_shared_store(tmp_path: Path):
    async with running_budgets(tmp_path) as fixture:
        assert fixture.service.shared_budgets is None and fixture.service.shared_sessions is None
        assert fixture.service.not_ready_reasons() == []
        for name in ("failing", "backlog", "failures_total"):
            assert fixture.samples(f"penstock_budget_store_{name}") == {(): 0}
        assert fixture.samples("penstock_webhook_events_total") == {}


# --- on a shared store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "valkey", append=True)
    yield running
    running.kill()


async def test_replicas_share_budgets_and_a_restarted_one_counts_its_spend_once(tmp_path: Path, server: Server):
    one, two = tmp_path / "one", tmp_path / "two"
    clock = ManualClock(time.time())
    async with running_budgets(two, redis_url=server.url, clock=clock) as other:
        for spent in (100, 200):
            async with running_budgets(one, redis_url=server.url, clock=clock) as fixture:
                assert isinstance(await fixture.reserve("r", 300), Reservation)
                fixture.settle("r", 100)
                write_entries(one, f"call-{spent}", at_ms=round(clock.now() * 1000))
            assert (await other.balance())[:2] == (spent, 0)
        assert isinstance(await other.reserve("s", 900), BudgetExceeded)
        assert (one / "replica").read_text() != (two / "replica").read_text()


async def test_balances_of_a_shared_store_are_read_for_the_metrics(tmp_path: Path, server: Server):
    clock = ManualClock(time.time())
    async with running_budgets(tmp_path / "one", redis_url=server.url, clock=clock) as fixture:
        assert fixture.service.shared_budgets is not None and fixture.service.shared_sessions is not None
        await fixture.reserve("a", 400)
        fixture.settle("a", 250)
        await fixture.reserve("b", 100)

        async def is_read() -> bool:
            await clock.advance(1)
            shares = [fixture.samples(f"penstock_budget_{name}_ratio")["team",] for name in ("spent", "held")]
            return shares == [0.25, 0.1]

        await until_server(is_read)
        assert fixture.samples("penstock_open_holds") == {(): 1}
        assert fixture.samples("penstock_budget_store_failing") == {(): 0}
        assert fixture.service.not_ready_reasons() == []


CLOSED, OPEN = "window: day", "window: day, on_store_failure: open"


@pytest.mark.parametrize(
    "more, reasons",
    [
        (f"budgets: {{team: {{limit: {{calls: 9}}, {CLOSED}}}}}", ["budgets: shared store unavailable"]),
        (f"budgets: {{team: {{limit: {{calls: 9}}, {OPEN}}}}}", []),
        (f"budgets: {{team: {{limit: {{calls: 9}}, {CLOSED}, mode: shadow}}}}", []),
        ("sessions: {caps: {calls: 9}}", ["budgets: shared store unavailable"]),
    ],
    ids=["a closed budget", "only open budgets", "only shadow budgets", "a session cap"],
)
async def test_a_gateway_is_not_ready_while_a_closed_budget_has_no_store(tmp_path: Path, more: str, reasons: list[str]):
    async with running_budgets(tmp_path, more=more, redis_url=NOTHING_LISTENS) as fixture:
        await until(lambda: fixture.samples("penstock_budget_store_failing") == {(): 1})
        assert fixture.service.not_ready_reasons() == reasons
        assert fixture.samples("penstock_budget_store_failures_total")[()] >= 1


async def test_requests_of_closed_budgets_are_refused_and_of_open_ones_counted_without_a_store(tmp_path: Path):
    more = f"budgets: {{closed: {{limit: {{calls: 9}}, {CLOSED}}}, open: {{limit: {{calls: 9}}, {OPEN}}}}}"
    async with running_budgets(tmp_path, more=more, redis_url=NOTHING_LISTENS) as fixture:
        with pytest.raises(Overloaded):
            await fixture.reserve("a", 1, "closed")
        assert isinstance(await fixture.reserve("b", 1, "open"), Reservation)
        assert fixture.samples("penstock_unbudgeted_requests_total") == {(): 1}
        fixture.settle("b", 0)
        assert fixture.samples("penstock_budget_store_backlog")[()] >= 1
