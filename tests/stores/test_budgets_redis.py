"""The shared budget store under failures, on real servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from gateway.stores.budgets_redis import RedisBudgets
from gateway.stores.redis_scripts import SingleNode
from gateway.values.budget import (
    BudgetExceeded,
    BudgetLine,
    Grant,
    HoldOption,
    Measure,
    Reservation,
    ThresholdCrossing,
)
from gateway.values.errors import Overloaded
from tests.budget_lines import NOW, amounts, line, offer
from tests.stores.servers import SET_CLOCK, Server, Tasks, until

MONEY = line("money", Measure.nusd, 1000)
CALLS = line("calls", Measure.calls, 40)
OPEN = line("open", Measure.nusd, 1000, store_failure_mode="open")
LINES = (MONEY, CALLS)
PATIENT = 5.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "valkey", append=True)
    running.set_time(NOW)
    yield running
    running.kill()


@contextlib.asynccontextmanager
async def replica(
    server: Server, name: str = "one", *, seconds: float = PATIENT, quarantine: int = 0, **more: Any
) -> AsyncIterator[RedisBudgets]:
    """A replica by the clock that the test sets."""
    tasks = Tasks()
    scripts = SingleNode(server.url, tasks.start, clock=SET_CLOCK, timeout=seconds)
    budgets = RedisBudgets(
        scripts,
        name,
        start=tasks.start,
        quarantine=quarantine,
        timeout_seconds=seconds,
        # The server's clock does not advance during a call.
        monotonic=lambda: 0.0,
        **more,
    )
    try:
        yield budgets
    finally:
        await budgets.close()
        await tasks.stop()


async def reserve(
    budgets: RedisBudgets,
    name: str,
    money: int = 90,
    *,
    lines: Sequence[BudgetLine] = LINES,
    lease: float = 60.0,
    tenant: str = "acme",
    now: float = NOW,
) -> Reservation | BudgetExceeded:
    wanted = tuple(money if each.measure is Measure.nusd else 1 for each in lines)
    offered = [offer(tuple(lines), wanted)]
    return await budgets.reserve(name, lambda at: offered, tenant=tenant, now=now, lease=lease)


async def money(budgets: RedisBudgets, now: float = NOW) -> tuple[int, int]:
    """(spent, held) on the account of money."""
    return (await budgets.balance("acme", MONEY, now=now))[:2]


async def recover(budgets: RedisBudgets, now: float = NOW) -> None:
    """Waits until the store answers again and has everything that was queued."""

    async def is_recovered() -> bool:
        await budgets.maintain(now)
        await budgets.flush()
        return not budgets.is_failing and not budgets.backlog

    await until(is_recovered)


async def test_concurrent_holds_on_two_replicas_never_exceed_the_limit(server: Server):
    async with replica(server) as first, replica(server, "two") as second:
        results = await asyncio.gather(*(reserve((first, second)[n % 2], f"r{n}") for n in range(60)))
        assert sum(isinstance(result, Reservation) for result in results) == 11
        assert await money(first) == (0, 990)


async def test_a_settlement_wakes_who_waits_for_its_account_once_the_store_has_it(server: Server):
    async with replica(server) as budgets:
        await reserve(budgets, "a", 1000)
        held = await reserve(budgets, "b", 600)
        assert isinstance(held, BudgetExceeded) and held.is_held
        waiting = asyncio.ensure_future(
            budgets.wait_for_release(held.line, tenant="acme", since=0.0, seconds=600.0, seconds_max=600.0)
        )
        await asyncio.sleep(0)
        budgets.settle("a", amounts(nusd=400), now=NOW)
        await waiting
        assert isinstance(await reserve(budgets, "b", 600), Reservation)


async def test_what_another_replica_holds_is_called_held(server: Server):
    async with replica(server) as first, replica(server, "two") as second:
        await reserve(first, "a", 900)
        held = await reserve(second, "b", 200)
        assert isinstance(held, BudgetExceeded)
        assert (held.is_held, held.spent, held.held, held.requested) == (True, 0, 900, 200)
        first.settle("a", amounts(nusd=900, calls=1), now=NOW)
        await first.flush()
        spent = await reserve(second, "c", 200)
        assert isinstance(spent, BudgetExceeded) and not spent.is_held


async def test_a_request_without_budgets_needs_no_store(server: Server):
    async with replica(server) as budgets:
        server.kill()
        reserved = await budgets.reserve("r", lambda at: [offer((), ())], tenant="acme", now=NOW, lease=60.0)
        assert isinstance(reserved, Reservation) and reserved.lines == ()
        assert budgets.open_holds == 1 and not budgets.is_failing
        assert await budgets.extend("r", 1, (), now=NOW)
        assert budgets.settle("r", amounts(nusd=5, calls=1), now=NOW)
        assert budgets.backlog == 0


async def test_a_hold_is_resolved_once(server: Server):
    async with replica(server) as budgets:
        await reserve(budgets, "a", 100)
        assert budgets.open_holds == 1
        assert budgets.settle("a", amounts(nusd=60, calls=1), now=NOW)
        assert not budgets.settle("a", amounts(nusd=60, calls=1), now=NOW)
        assert not budgets.settle("unknown", amounts(nusd=60), now=NOW)
        assert not await budgets.extend("a", 1, (1, 0), now=NOW)
        await budgets.flush()
        assert await money(budgets) == (60, 0) and budgets.open_holds == 0


async def test_a_threshold_is_reported_by_the_replica_that_crosses_it(server: Server):
    lines = (line("money", Measure.nusd, 1000, notify=(50, 90)),)
    crossings: list[tuple[str, ThresholdCrossing]] = []
    async with (
        replica(server, notify=lambda crossing: crossings.append(("one", crossing))) as first,
        replica(server, "two", notify=lambda crossing: crossings.append(("two", crossing))) as second,
    ):
        for number, each in enumerate((first, second, first)):
            await reserve(each, f"r{number}", 300, lines=lines)
            each.settle(f"r{number}", amounts(nusd=300), now=NOW)
            await each.flush()
        assert [(name, each.percent, each.spent, each.crossed_at) for name, each in crossings] == [
            ("two", 50, 600, NOW), ("one", 90, 900, NOW),
        ]  # fmt: skip


async def test_an_expired_lease_is_charged_and_corrected_by_a_late_settlement(server: Server):
    async with replica(server) as budgets:
        await reserve(budgets, "lost", 100)
        server.set_time(NOW + 61)
        await budgets.maintain(NOW + 61)
        assert await money(budgets, NOW + 61) == (100, 0)
        budgets.settle("lost", amounts(nusd=5, calls=1), now=NOW + 61)
        await budgets.flush()
        assert await money(budgets, NOW + 61) == (5, 0)


async def test_holds_with_an_unknown_result_are_released_after_a_hung_store_recovers(server: Server):
    async with replica(server, seconds=0.3) as budgets:
        await reserve(budgets, "warm", 1)
        server.pause()
        for number in range(5):
            with pytest.raises(Overloaded):
                await asyncio.wait_for(reserve(budgets, f"stuck{number}", 500), 60)
        assert budgets.is_failing and budgets.failures >= 3
        server.resume()
        budgets.settle("warm", amounts(nusd=1, calls=1), now=NOW)
        await recover(budgets)
        assert await money(budgets) == (1, 0)
        assert not budgets.is_failing and budgets.backlog == 0


async def test_open_budgets_admit_during_an_outage_and_are_charged_after_it(server: Server):
    async with replica(server) as budgets:
        await reserve(budgets, "warm", 1, lines=(OPEN,))
        server.kill()
        for number in range(30):
            result = await reserve(budgets, f"r{number}", 90, lines=(OPEN,))
            assert isinstance(result, Reservation) and result.balances == ()
            budgets.settle(f"r{number}", amounts(nusd=90), now=NOW)
        assert budgets.unbudgeted_calls == 30
        server.start()
        budgets.settle("warm", amounts(nusd=1), now=NOW)
        await recover(budgets)
        assert await budgets.balance("acme", OPEN, now=NOW) == (2701, 0, 0)


async def test_the_first_offer_without_a_closed_budget_is_admitted_during_an_outage(server: Server):
    shadow = line("shadow", Measure.nusd, 10, shadow=True)
    offers: Iterable[HoldOption] = [offer((MONEY, OPEN), (1, 1)), offer((OPEN, shadow), (2, 2))]
    async with replica(server) as budgets:
        server.kill()
        reserved = await budgets.reserve("r", lambda at: offers, tenant="acme", now=NOW, lease=60.0)
        assert isinstance(reserved, Reservation)
        assert (reserved.option_index, reserved.amounts) == (1, (2, 2))
        assert await budgets.extend("r", 1, (1, 1), now=NOW), "held without the store"


async def test_a_running_call_extends_during_an_outage_unless_a_budget_is_closed(server: Server):
    async with replica(server) as budgets:
        await reserve(budgets, "open", 10, lines=(OPEN,))
        await reserve(budgets, "closed", 10, lines=(OPEN, MONEY))
        server.kill()
        assert await budgets.extend("open", 1, (5,), now=NOW)
        assert not await budgets.extend("closed", 1, (5, 5), now=NOW)


async def test_local_budgets_spend_no_more_than_their_allowance(server: Server):
    lines = (line("local", Measure.nusd, 1000, store_failure_mode="local"),)
    async with replica(server) as budgets:
        reservation = await reserve(budgets, "warm", 10, lines=lines)
        assert isinstance(reservation, Reservation)
        await budgets.maintain(NOW)
        assert await budgets.balance("acme", lines[0], now=NOW) == (0, 60, 0), "an allowance of 5 %"
        server.kill()
        for number, fits in enumerate((True, True, False)):
            if fits:
                assert isinstance(await reserve(budgets, f"r{number}", 20, lines=lines), Reservation)
            else:
                with pytest.raises(Overloaded):
                    await reserve(budgets, f"r{number}", 20, lines=lines)
        with pytest.raises(Overloaded):
            await reserve(budgets, "stale", 1, lines=lines, now=NOW + 115)
        for name in ("warm", "r0", "r1"):
            budgets.settle(name, amounts(nusd=7), now=NOW)
        server.start()
        await recover(budgets, NOW + 1)
        assert (await budgets.balance("acme", lines[0], now=NOW))[0] == 21


async def test_allowances_are_released_at_shutdown(server: Server):
    lines = (line("local", Measure.nusd, 1000, store_failure_mode="local"),)
    async with replica(server, "two") as other:
        async with replica(server) as budgets:
            await reserve(budgets, "warm", 10, lines=lines)
            budgets.settle("warm", amounts(nusd=10), now=NOW)
            await budgets.flush()
            await budgets.maintain(NOW)
            assert (await other.balance("acme", lines[0], now=NOW))[1] == 50
        assert await other.balance("acme", lines[0], now=NOW) == (10, 0, 0)


async def test_queued_resolutions_are_delivered_at_shutdown(server: Server):
    async with replica(server, "two") as other:
        async with replica(server) as budgets:
            await reserve(budgets, "a", 100)
            budgets.settle("a", amounts(nusd=60, calls=1), now=NOW)
            assert budgets.backlog == 1
        assert await money(other) == (60, 0)


async def test_replicas_restore_a_store_that_lost_its_data(server: Server):
    async with replica(server) as first, replica(server, "two") as second:
        for number, each in enumerate((first, second, first, second)):
            await reserve(each, f"r{number}", 100)
        for number, each in enumerate((first, second)):
            each.settle(f"r{number}", amounts(nusd=60, calls=1), now=NOW)
            await each.flush()
        server.lose_data()
        server.set_time(NOW)
        await asyncio.gather(first.maintain(NOW), second.maintain(NOW), first.maintain(NOW))
        assert await money(first) == (120, 200)
        for number, each in ((2, first), (3, second)):
            each.settle(f"r{number}", amounts(nusd=100, calls=1), now=NOW)
            await each.flush()
        assert await money(first) == (320, 0)


async def test_grants_are_restored_to_a_store_that_lost_its_data(server: Server):
    grants = [
        ("acme", MONEY, Grant(id="g1", account="money", amount=500)),
        ("other", CALLS, Grant(id="g2", account="calls", amount=7)),
    ]
    async with replica(server, grants=lambda: grants) as budgets:
        await budgets.join("acme", now=NOW)
        assert (await budgets.balance("acme", MONEY, now=NOW))[2] == 500
        server.lose_data()
        server.set_time(NOW)
        await budgets.maintain(NOW)
        assert (await budgets.balance("acme", MONEY, now=NOW))[2] == 500
        assert (await budgets.balance("acme", CALLS, now=NOW))[2] == 0, "a grant of another tenant"


async def test_lost_newest_writes_are_restored(server: Server):
    async with replica(server) as budgets:
        await reserve(budgets, "a", 100)
        await reserve(budgets, "b", 100)
        budgets.settle("a", amounts(nusd=60, calls=1), now=NOW)
        await budgets.flush()
        with server.client() as client:
            # Like a failover to a lagging node: hold, charge and change count are older than this replica's.
            client.delete("penstock:{acme}:hold:b", "penstock:{acme}:totals:money|total")
            client.hset("penstock:{acme}:account:money", mapping={"held": 0, "spent": 0})
            client.delete("penstock:{acme}:totals:money")
            client.hset("penstock:{acme}:changes", "one", "1")
        await budgets.maintain(NOW)
        assert await money(budgets) == (60, 100)


async def test_nothing_is_reserved_during_the_quarantine_after_data_loss(server: Server):
    async with replica(server, quarantine=2) as budgets:
        await reserve(budgets, "r0", 100)
        server.lose_data()
        server.set_time(NOW)
        for _ in range(2):
            with pytest.raises(Overloaded):
                await reserve(budgets, "r1", 100)
        server.set_time(NOW + 2)
        await budgets.maintain(NOW + 2)
        assert isinstance(await reserve(budgets, "r2", 100, now=NOW + 2), Reservation)


async def test_holds_of_a_killed_replica_are_released_by_its_ledger(server: Server):
    async with replica(server) as before:
        await reserve(before, "done", 100)
        await reserve(before, "open", 200)
        await reserve(before, "unwritten", 300)
        # Killed here: "done" was settled but not delivered, "open" is in the ledger as held, "unwritten" was not dialled.
        async with replica(server) as after:
            after.restore_spent("acme", MONEY, 40 + 200, at=NOW)
            after.restore_spent("acme", CALLS, 2, at=NOW)
            await after.join("acme", now=NOW)
            assert await money(after) == (240, 0)


async def test_an_account_that_was_not_restored_is_queried_when_its_hold_is_released(server: Server):
    session = line("session", Measure.nusd, 1000, session=True)
    async with replica(server) as before:
        await reserve(before, "open", 200, lines=(session,))
        spent = {"session": [(session, 200, NOW)]}
        async with replica(server, spent_of_account=lambda account, now: spent.get(account, [])) as after:
            await after.join("acme", now=NOW)
            assert await after.balance("acme", session, now=NOW) == (200, 0, 0)


async def test_expected_tenants_are_joined_before_their_first_call(server: Server):
    async with replica(server) as budgets:
        budgets.restore_spent("acme", MONEY, 40, at=NOW)
        budgets.expect_tenants(["acme"])
        await budgets.maintain(NOW)
        assert await money(budgets) == (40, 0)


async def test_a_replica_with_a_wrong_clock_charges_by_the_servers_clock(server: Server):
    rolling = line("rolling", Measure.calls, 5, rolling=60)
    async with replica(server, "early") as early, replica(server, "late") as late:
        for number in range(5):
            each, now = ((early, NOW + 300), (late, NOW - 300))[number % 2]
            assert isinstance(await reserve(each, f"r{number}", lines=(rolling,), now=now), Reservation)
            each.settle(f"r{number}", amounts(calls=1), now=now)
            await each.flush()
        assert isinstance(await reserve(early, "r9", lines=(rolling,), now=NOW + 300), BudgetExceeded)
        assert (await late.balance("acme", rolling, now=NOW - 300))[:2] == (5, 0)


async def test_a_restarted_server_with_an_append_only_file_keeps_its_data(server: Server):
    async with replica(server) as budgets:
        await reserve(budgets, "a", 100)
        await reserve(budgets, "b", 100)
        budgets.settle("a", amounts(nusd=60, calls=1), now=NOW)
        await budgets.flush()
        server.kill()
        budgets.settle("b", amounts(nusd=70, calls=1), now=NOW)
        await budgets.flush()
        assert budgets.backlog == 1
        server.start()
        await recover(budgets)
        assert await money(budgets) == (130, 0)


async def test_a_grant_is_applied_once(server: Server):
    async with replica(server) as budgets:
        more = Grant(id="g1", account="money", amount=500)
        assert await budgets.grant("acme", MONEY, more, fresh=True) and not await budgets.grant(
            "acme", MONEY, more, fresh=False
        )
        assert isinstance(await reserve(budgets, "a", 1400), Reservation)


async def test_a_grant_ends_at_its_time_by_the_servers_clock(server: Server):
    async with replica(server) as budgets:
        await budgets.join("acme", now=NOW)
        await budgets.grant("acme", MONEY, Grant(id="g1", account="money", amount=500, until=NOW + 60), fresh=True)
        assert isinstance(await reserve(budgets, "a", 1400), Reservation)
        assert (await budgets.balance("acme", MONEY, now=NOW + 59))[2] == 500
        server.set_time(NOW + 60)
        assert (await budgets.balance("acme", MONEY, now=NOW + 60))[2] == 0
        assert isinstance(await reserve(budgets, "b", 1, now=NOW + 60), BudgetExceeded)


async def test_balances_and_grants_need_the_store(server: Server):
    async with replica(server) as budgets:
        server.kill()
        with pytest.raises(Overloaded):
            await budgets.balance("acme", MONEY, now=NOW)
        with pytest.raises(Overloaded, match="retry with the same id"):
            await budgets.grant("acme", MONEY, Grant(id="g1", account="money", amount=500), fresh=True)
        assert budgets.is_failing and budgets.failures == 2


async def test_corrections_are_booked_once_and_survive_a_restart_and_a_loss_of_data(server: Server):
    async def spent(budgets: RedisBudgets) -> int:
        return (await money(budgets))[0]

    def restore(budgets: RedisBudgets, *changes: int) -> None:
        for change in changes:
            budgets.restore_spent("acme", MONEY, change, at=NOW)

    async with replica(server, "one") as one, replica(server, "two") as two:
        assert isinstance(await reserve(one, "a", lines=(MONEY,)), Reservation)
        one.settle("a", amounts(nusd=90), now=NOW)
        await one.flush()
        two.correct([(MONEY, -60)], tenant="acme", at=NOW, now=NOW)
        await two.flush()
        assert await spent(one) == 30
        two.correct([(MONEY, 5)], tenant="acme", at=NOW, now=NOW)
        two.correct([(MONEY, -4)], tenant="acme", at=NOW, now=NOW)
        await two.flush()
        assert await spent(one) == 31
        server.lose_data()
        server.set_time(NOW)
        await one.maintain(NOW)
        await two.maintain(NOW)
        assert await spent(one) == 31
    async with replica(server, "one") as one, replica(server, "two") as two:
        restore(one, 90)
        restore(two, 5, -60, -4)
        await one.maintain(NOW)
        await two.maintain(NOW)
        assert await spent(two) == 31, "the totals of the ledger are the reported ones"
        assert isinstance(await reserve(two, "b", lines=(MONEY,)), Reservation)
        two.settle("b", amounts(nusd=90), now=NOW)
        await two.flush()
        assert await spent(two) == 121


async def test_a_correction_of_an_ended_window_changes_nothing(server: Server):
    ended = structs.replace(line("ended", Measure.nusd, 1000), resets_at=NOW)
    async with replica(server) as budgets:
        budgets.correct([(ended, -5)], tenant="acme", at=NOW - 9, now=NOW)
        await budgets.flush()
        assert await budgets.balance("acme", ended, now=NOW) == (0, 0, 0)
