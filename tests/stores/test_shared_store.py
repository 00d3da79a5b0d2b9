"""Tests of the shared budget store under failures, on real servers."""

import asyncio
import contextlib

import pytest

from gateway.stores.budgets_redis import RedisBudgets
from gateway.stores.redis_scripts import ScriptCluster, SingleNode
from gateway.values.budget import BudgetExceeded, Grant, Measure, Reservation
from gateway.values.errors import Overloaded
from tests.budget_lines import NOW, amounts, line, offer
from tests.stores.servers import Server, Tasks

MONEY = line("money", Measure.nusd, 1000)
CALLS = line("calls", Measure.calls, 40)
LINES = (MONEY, CALLS)
PATIENT = 5.0


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path / "valkey", append=True)
    yield running
    running.resume()
    running.kill()


@contextlib.asynccontextmanager
async def replica(server, name="one", *, seconds=PATIENT, quarantine=0, **more):
    tasks = Tasks()
    scripts = SingleNode(server.url, tasks.start, timeout=seconds)
    budgets = RedisBudgets(scripts, name, start=tasks.start, quarantine=quarantine, timeout_seconds=seconds, **more)
    try:
        yield budgets
    finally:
        await budgets.close()
        await tasks.stop()


async def reserve(budgets, name, money=90, *, lines=LINES, lease=60.0, tenant="acme", now=NOW):
    wanted = tuple(money if each.measure is Measure.nusd else 1 for each in lines)
    offered = [offer(lines, wanted)]
    return await budgets.reserve(name, lambda at: offered, tenant=tenant, now=now, lease=lease)


async def money(budgets, now=NOW):
    return (await budgets.balance("acme", MONEY, now=now))[:2]


async def test_concurrent_holds_on_two_replicas_never_exceed_the_limit(server):
    async with replica(server) as first, replica(server, "two") as second:
        results = await asyncio.gather(*(reserve((first, second)[n % 2], f"r{n}") for n in range(60)))
        assert sum(isinstance(result, Reservation) for result in results) == 11
        assert await money(first) == (0, 990)


async def test_an_expired_lease_is_charged_and_corrected_by_a_late_settlement(server):
    async with replica(server) as budgets:
        await reserve(budgets, "lost", 100, lease=0)
        await asyncio.sleep(1.1)
        await budgets.maintain(NOW)
        assert await money(budgets) == (100, 0)
        budgets.settle("lost", amounts(nusd=5, calls=1), now=NOW)
        await budgets.flush()
        assert await money(budgets) == (5, 0)


async def test_holds_with_an_unknown_result_are_released_after_a_hung_store_recovers(server):
    async with replica(server, seconds=0.05) as budgets:
        await reserve(budgets, "warm", 1)
        server.pause()
        for number in range(5):
            with pytest.raises(Overloaded):
                await asyncio.wait_for(reserve(budgets, f"stuck{number}", 500), 5)
        assert budgets.is_failing and budgets.failures >= 3
        server.resume()
        await asyncio.sleep(0.3)
        budgets.settle("warm", amounts(nusd=1, calls=1), now=NOW)
        await budgets.maintain(NOW)
        await budgets.flush()
        assert await money(budgets) == (1, 0)
        assert not budgets.is_failing and budgets.backlog == 0


async def test_open_budgets_admit_during_an_outage_and_are_charged_after_it(server):
    lines = (line("open", Measure.nusd, 1000, store_failure_mode="open"),)
    async with replica(server, seconds=0.05) as budgets:
        await reserve(budgets, "warm", 1, lines=lines)
        server.kill()
        for number in range(30):
            result = await reserve(budgets, f"r{number}", 90, lines=lines)
            assert isinstance(result, Reservation) and result.balances == ()
            budgets.settle(f"r{number}", amounts(nusd=90), now=NOW)
        assert budgets.unbudgeted_calls == 30
        server.start()
        await asyncio.sleep(0.1)
        budgets.settle("warm", amounts(nusd=1), now=NOW)
        await budgets.maintain(NOW)
        await budgets.flush()
        assert await budgets.balance("acme", lines[0], now=NOW) == (2701, 0, 0)


async def test_local_budgets_spend_no_more_than_their_allowance(server):
    lines = (line("local", Measure.nusd, 1000, store_failure_mode="local"),)
    async with replica(server, seconds=0.05) as budgets:
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
        await asyncio.sleep(0.1)
        await budgets.maintain(NOW + 1)
        await budgets.flush()
        assert (await budgets.balance("acme", lines[0], now=NOW))[0] == 21


async def test_replicas_restore_a_store_that_lost_its_data(server, tmp_path):
    async with replica(server) as first, replica(server, "two") as second:
        for number, each in enumerate((first, second, first, second)):
            await reserve(each, f"r{number}", 100)
        for number, each in enumerate((first, second)):
            each.settle(f"r{number}", amounts(nusd=60, calls=1), now=NOW)
            await each.flush()
        server.client().flushall()
        await asyncio.gather(first.maintain(NOW), second.maintain(NOW), first.maintain(NOW))
        assert await money(first) == (120, 200)
        for number, each in ((2, first), (3, second)):
            each.settle(f"r{number}", amounts(nusd=100, calls=1), now=NOW)
            await each.flush()
        assert await money(first) == (320, 0)


async def test_lost_newest_writes_are_restored(server):
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
            client.hset("penstock:{acme}:changes", "one", 1)
        await budgets.maintain(NOW)
        assert await money(budgets) == (60, 100)


async def test_nothing_is_reserved_during_the_quarantine_after_data_loss(server):
    async with replica(server, quarantine=2) as budgets:
        await reserve(budgets, "r0", 100)
        server.client().flushall()
        with pytest.raises(Overloaded):
            await reserve(budgets, "r1", 100)
        await asyncio.sleep(3.1)
        await budgets.maintain(NOW)
        assert isinstance(await reserve(budgets, "r2", 100), Reservation)


async def test_holds_of_a_killed_replica_are_released_by_its_ledger(server):
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
        before._holds.clear()


async def test_an_account_that_was_not_restored_is_queried_when_its_hold_is_released(server):
    session = line("session", Measure.nusd, 1000, session=True)
    async with replica(server) as before:
        await reserve(before, "open", 200, lines=(session,))
        recall = {"session": [(session, 200, NOW)]}
        async with replica(server, spent_of_account=lambda account, now: recall.get(account, [])) as after:
            await after.join("acme", now=NOW)
            assert await after.balance("acme", session, now=NOW) == (200, 0, 0)
        before._holds.clear()


async def test_a_replica_with_a_wrong_clock_charges_by_the_servers_clock(server):
    rolling = line("rolling", Measure.calls, 5, rolling=60)
    async with replica(server, "early") as early, replica(server, "late") as late:
        loop_now = __import__("time").time()
        for number in range(5):
            each, now = ((early, loop_now + 300), (late, loop_now - 300))[number % 2]
            assert isinstance(await reserve(each, f"r{number}", lines=(rolling,), now=now), Reservation)
            each.settle(f"r{number}", amounts(calls=1), now=now)
            await each.flush()
        assert isinstance(await reserve(early, "r9", lines=(rolling,), now=loop_now + 300), BudgetExceeded)
        assert (await late.balance("acme", rolling, now=loop_now - 300))[:2] == (5, 0)


async def test_a_restarted_server_with_an_append_only_file_keeps_its_data(server):
    async with replica(server, seconds=0.5) as budgets:
        await reserve(budgets, "a", 100)
        await reserve(budgets, "b", 100)
        budgets.settle("a", amounts(nusd=60, calls=1), now=NOW)
        await budgets.flush()
        server.kill()
        budgets.settle("b", amounts(nusd=70, calls=1), now=NOW)
        await budgets.flush()
        assert budgets.backlog == 1
        server.start()
        await budgets.maintain(NOW)
        await budgets.flush()
        assert await money(budgets) == (130, 0)


async def test_a_grant_is_applied_once(server):
    async with replica(server) as budgets:
        more = Grant(id="g1", account="money", amount=500)
        assert await budgets.grant("acme", MONEY, more, fresh=True) and not await budgets.grant(
            "acme", MONEY, more, fresh=False
        )
        assert isinstance(await reserve(budgets, "a", 1400), Reservation)


async def test_a_lost_cluster_node_stops_only_its_own_tenants(tmp_path):
    servers = [Server(tmp_path / f"n{number}", append=True, cluster=True) for number in range(3)]
    tasks = Tasks()
    try:
        for number, each in enumerate(servers):
            with each.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * 5461, min((number + 1) * 5461 - 1, 16383))
                for other in servers:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)
        with servers[2].client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", 16383)
        await _joined(servers)
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
        scripts = ScriptCluster(f"redis://{hosts}/0", tasks.start, timeout=PATIENT)
        budgets = RedisBudgets(scripts, "one", start=tasks.start, timeout_seconds=PATIENT)
        tenants = {_node_of(servers, f"org{number}"): f"org{number}" for number in range(40)}
        assert len(tenants) == 3
        for tenant in tenants.values():
            assert isinstance(await reserve(budgets, f"r-{tenant}", tenant=tenant), Reservation)
        servers[0].kill()
        with pytest.raises(Overloaded):
            await reserve(budgets, "lost", tenant=tenants[0])
        for node in (1, 2):
            assert isinstance(await reserve(budgets, f"still-{node}", tenant=tenants[node]), Reservation)
        servers[0].start()
        await _joined(servers)
        await asyncio.sleep(0.3)
        await budgets.maintain(NOW)
        await budgets.flush()
        assert (await budgets.balance(tenants[0], MONEY, now=NOW))[:2] == (0, 90)
        await budgets.close()
    finally:
        await tasks.stop()
        for each in servers:
            each.kill()


async def _joined(servers):
    for _ in range(100):
        states = []
        for each in servers:
            with each.client() as client:
                info = client.execute_command("CLUSTER", "INFO")
                states.append(
                    info if isinstance(info, dict) else dict(x.split(":") for x in info.decode().split("\r\n") if x)
                )
        if all(state.get("cluster_state") == "ok" and state.get("cluster_known_nodes") == "3" for state in states):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("cluster did not form")


def _node_of(servers, tenant):
    with servers[1].client() as client:
        slot = client.execute_command("CLUSTER", "KEYSLOT", f"{{{tenant}}}")
    return min(slot // 5461, 2)
