"""The shared store when things go wrong: it hangs, dies, forgets; replicas die and come back. On real servers."""

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
    running.go_on()
    running.kill()


@contextlib.asynccontextmanager
async def replica(server, name="one", *, seconds=PATIENT, quarantine=0, **more):
    tasks = Tasks()
    scripts = SingleNode(server.url, tasks.start, timeout=seconds)
    budgets = RedisBudgets(scripts, name, start=tasks.start, quarantine=quarantine, patience=seconds, **more)
    try:
        yield budgets
    finally:
        await budgets.close()
        await tasks.stop()


async def reserve(budgets, name, money=90, *, lines=LINES, lease=60.0, tenant="acme", now=NOW):
    wanted = tuple(money if one.measure is Measure.nusd else 1 for one in lines)
    offered = [offer(lines, wanted)]
    return await budgets.reserve(name, lambda at: offered, tenant=tenant, now=now, lease=lease)


async def money(budgets, now=NOW):
    return (await budgets.balance("acme", MONEY, now=now))[:2]


async def test_many_at_once_on_two_replicas_never_pass_the_limit(server):
    async with replica(server) as one, replica(server, "two") as two:
        results = await asyncio.gather(*(reserve((one, two)[n % 2], f"r{n}") for n in range(60)))
        assert sum(isinstance(result, Reservation) for result in results) == 11
        assert await money(one) == (0, 990)


async def test_a_lease_that_runs_out_is_charged_and_a_late_settlement_puts_it_right(server):
    async with replica(server) as one:
        await reserve(one, "lost", 100, lease=0)
        await asyncio.sleep(1.1)
        await one.maintain(NOW)
        assert await money(one) == (100, 0)
        one.settle("lost", amounts(nusd=5, calls=1), now=NOW)
        await one.flush()
        assert await money(one) == (5, 0)


async def test_a_hung_store_is_known_and_holds_that_nobody_heard_of_are_given_back(server):
    async with replica(server, seconds=0.05) as one:
        await reserve(one, "warm", 1)
        server.pause()
        for number in range(5):
            with pytest.raises(Overloaded):
                await asyncio.wait_for(reserve(one, f"stuck{number}", 500), 5)
        assert one.is_failing and one.failures >= 3
        server.go_on()
        await asyncio.sleep(0.3)
        one.settle("warm", amounts(nusd=1, calls=1), now=NOW)
        await one.maintain(NOW)
        await one.flush()
        assert await money(one) == (1, 0)
        assert not one.is_failing and one.backlog == 0


async def test_open_budgets_admit_while_the_store_is_down_and_are_charged_when_it_is_back(server):
    lines = (line("open", Measure.nusd, 1000, fail="open"),)
    async with replica(server, seconds=0.05) as one:
        await reserve(one, "warm", 1, lines=lines)
        server.kill()
        for number in range(30):
            result = await reserve(one, f"r{number}", 90, lines=lines)
            assert isinstance(result, Reservation) and result.balances == ()
            one.settle(f"r{number}", amounts(nusd=90), now=NOW)
        assert one.unbudgeted_calls == 30
        server.start()
        await asyncio.sleep(0.1)
        one.settle("warm", amounts(nusd=1), now=NOW)
        await one.maintain(NOW)
        await one.flush()
        assert await one.balance("acme", lines[0], now=NOW) == (2701, 0, 0)


async def test_local_budgets_spend_their_own_share_and_no_more(server):
    lines = (line("local", Measure.nusd, 1000, fail="local"),)
    async with replica(server, seconds=0.05) as one:
        first = await reserve(one, "warm", 10, lines=lines)
        assert isinstance(first, Reservation)
        await one.maintain(NOW)
        assert await one.balance("acme", lines[0], now=NOW) == (0, 60, 0), "a pot of 5 %"
        server.kill()
        for number, fits in enumerate((True, True, False)):
            if fits:
                assert isinstance(await reserve(one, f"r{number}", 20, lines=lines), Reservation)
            else:
                with pytest.raises(Overloaded):
                    await reserve(one, f"r{number}", 20, lines=lines)
        with pytest.raises(Overloaded):
            await reserve(one, "stale", 1, lines=lines, now=NOW + 115)
        for name in ("warm", "r0", "r1"):
            one.settle(name, amounts(nusd=7), now=NOW)
        server.start()
        await asyncio.sleep(0.1)
        await one.maintain(NOW + 1)
        await one.flush()
        assert (await one.balance("acme", lines[0], now=NOW))[0] == 21


async def test_a_store_that_lost_its_data_gets_it_back_from_its_replicas(server, tmp_path):
    async with replica(server) as one, replica(server, "two") as two:
        for number, each in enumerate((one, two, one, two)):
            await reserve(each, f"r{number}", 100)
        for number, each in enumerate((one, two)):
            each.settle(f"r{number}", amounts(nusd=60, calls=1), now=NOW)
            await each.flush()
        server.client().flushall()
        await asyncio.gather(one.maintain(NOW), two.maintain(NOW), one.maintain(NOW))
        assert await money(one) == (120, 200)
        for number, each in ((2, one), (3, two)):
            each.settle(f"r{number}", amounts(nusd=100, calls=1), now=NOW)
            await each.flush()
        assert await money(one) == (320, 0)


async def test_newest_writes_that_were_lost_are_brought_back(server):
    async with replica(server) as one:
        await reserve(one, "a", 100)
        await reserve(one, "b", 100)
        one.settle("a", amounts(nusd=60, calls=1), now=NOW)
        await one.flush()
        with server.client() as client:
            # As a node that took over a little behind: hold, booking and count of changes are older than we know.
            client.delete("penstock:{acme}:hold:b", "penstock:{acme}:totals:money|total")
            client.hset("penstock:{acme}:account:money", mapping={"held": 0, "spent": 0})
            client.delete("penstock:{acme}:totals:money")
            client.hset("penstock:{acme}:changes", "one", 1)
        await one.maintain(NOW)
        assert await money(one) == (60, 100)


async def test_nothing_is_reserved_until_every_replica_had_the_time_to_come_back(server):
    async with replica(server, quarantine=2) as one:
        await reserve(one, "r0", 100)
        server.client().flushall()
        with pytest.raises(Overloaded):
            await reserve(one, "r1", 100)
        await asyncio.sleep(3.1)
        await one.maintain(NOW)
        assert isinstance(await reserve(one, "r2", 100), Reservation)


async def test_what_a_killed_replica_held_is_closed_as_its_ledger_has_it(server):
    async with replica(server) as before:
        await reserve(before, "done", 100)
        await reserve(before, "open", 200)
        await reserve(before, "unwritten", 300)
        # Killed here: "done" was settled but not delivered, "open" stands in the ledger as held, "unwritten" was never dialled.
        async with replica(server) as after:
            after.restore_spent("acme", MONEY, 40 + 200, at=NOW)
            after.restore_spent("acme", CALLS, 2, at=NOW)
            await after.join("acme", now=NOW)
            assert await money(after) == (240, 0)
        before._holds.clear()


async def test_an_account_that_was_not_told_of_is_looked_up_when_its_hold_is_closed(server):
    session = line("session", Measure.nusd, 1000, session=True)
    async with replica(server) as before:
        await reserve(before, "open", 200, lines=(session,))
        recall = {"session": [(session, 200, NOW)]}
        async with replica(server, recall=lambda account, now: recall.get(account, [])) as after:
            await after.join("acme", now=NOW)
            assert await after.balance("acme", session, now=NOW) == (200, 0, 0)
        before._holds.clear()


async def test_a_replica_with_a_wrong_clock_books_by_the_servers(server):
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


async def test_a_killed_and_restarted_server_has_forgotten_nothing_with_an_append_only_file(server):
    async with replica(server, seconds=0.5) as one:
        await reserve(one, "a", 100)
        await reserve(one, "b", 100)
        one.settle("a", amounts(nusd=60, calls=1), now=NOW)
        await one.flush()
        server.kill()
        one.settle("b", amounts(nusd=70, calls=1), now=NOW)
        await one.flush()
        assert one.backlog == 1
        server.start()
        await one.maintain(NOW)
        await one.flush()
        assert await money(one) == (130, 0)


async def test_a_grant_is_made_once(server):
    async with replica(server) as one:
        more = Grant(id="g1", account="money", amount=500)
        assert await one.grant("acme", MONEY, more, fresh=True) and not await one.grant(
            "acme", MONEY, more, fresh=False
        )
        assert isinstance(await reserve(one, "a", 1400), Reservation)


async def test_in_a_cluster_tenants_lie_apart_and_one_lost_node_stops_only_its_own(tmp_path):
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
        budgets = RedisBudgets(scripts, "one", start=tasks.start, patience=PATIENT)
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
    raise AssertionError("the cluster did not come together")


def _node_of(servers, tenant):
    with servers[1].client() as client:
        slot = client.execute_command("CLUSTER", "KEYSLOT", f"{{{tenant}}}")
    return min(slot // 5461, 2)
