"""The adapter to Redis and Valkey: batches, timeouts, lost scripts, a cluster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.stores.budgets_redis import RedisBudgets
from gateway.stores.redis_scripts import ScriptCluster, SingleNode, StoreUnavailable, script_sources
from gateway.values.budget import BudgetExceeded, Measure, Reservation
from gateway.values.errors import Overloaded
from tests.budget_lines import NOW, line, offer
from tests.stores.servers import Server, Tasks, until

MONEY, CALLS = line("money", Measure.nusd, 1000), line("calls", Measure.calls, 40)
PATIENT = 5.0
NOTHING_LISTENS = "127.0.0.1:1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "valkey")
    yield running
    running.kill()


@contextlib.asynccontextmanager
async def single_node(url: str, seconds: float = PATIENT) -> AsyncIterator[tuple[SingleNode, Tasks]]:
    tasks = Tasks()
    scripts = SingleNode(url, tasks.start, timeout=seconds)
    try:
        yield scripts, tasks
    finally:
        await tasks.stop()
        await scripts.close()


def test_every_script_reads_the_clock_and_the_shared_functions():
    sources = script_sources("return 7")
    assert set(sources) == {"reserve", "extend", "settle", "join_tenant", "restore_hold", "list_holds", "grant"}
    for name, text in sources.items():
        assert text.startswith("local function NOW() return 7 end\n"), name
        assert text.count("local function release_hold") == 1, name


async def test_answers_return_in_the_order_of_the_calls(server: Server):
    async with single_node(server.url) as (scripts, _):
        answers = await asyncio.gather(*(scripts.command("k", "ECHO", f"{number}") for number in range(50)))
        assert answers == [str(number).encode() for number in range(50)]


async def test_an_error_of_one_command_fails_that_command_only(server: Server):
    async with single_node(server.url) as (scripts, _):
        answers = await asyncio.gather(
            scripts.command("k", "SET", "k", "text"),
            scripts.command("k", "INCR", "k"),
            scripts.command("k", "GET", "k"),
            return_exceptions=True,
        )
        assert (answers[0], answers[2]) == (True, b"text")
        assert isinstance(answers[1], StoreUnavailable) and "not an integer" in str(answers[1])


async def test_scripts_are_loaded_again_after_the_server_lost_them(server: Server):
    async with single_node(server.url) as (scripts, _):
        arguments = ["5", "", "60", "0"]
        assert await scripts.run("grant", ["account", "grant:1"], arguments) == 1
        with server.client() as client:
            client.script_flush()
        answers = await asyncio.gather(
            *(scripts.run("grant", ["account", f"grant:{number}"], arguments) for number in (1, 2, 3))
        )
        assert answers == [0, 1, 1]


async def test_a_hung_server_fails_every_waiting_call_and_serves_again_afterwards(server: Server):
    async with single_node(server.url, seconds=0.3) as (scripts, _):
        await scripts.command("k", "PING")
        server.pause()
        answers = await asyncio.gather(
            *(scripts.command("k", "ECHO", f"{number}") for number in range(30)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 30
        server.resume()

        async def answers_again() -> bool:
            with contextlib.suppress(StoreUnavailable):
                return bool(await scripts.command("k", "ECHO", "back") == b"back")
            return False

        await until(answers_again)


async def test_a_server_that_does_not_listen_is_unavailable():
    async with single_node(f"redis://{NOTHING_LISTENS}/0") as (scripts, _):
        with pytest.raises(StoreUnavailable):
            await scripts.command("k", "PING")


async def test_calls_are_sent_again_after_background_tasks_were_cancelled(server: Server):
    async with single_node(server.url, seconds=0.3) as (scripts, tasks):
        await scripts.command("k", "PING")
        server.pause()
        waiting = asyncio.ensure_future(scripts.command("k", "ECHO", "lost"))
        # The call is queued at the first switch, and its batch begun at the second.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await tasks.stop()
        with pytest.raises(StoreUnavailable):
            await waiting
        server.resume()
        scripts.reset()
        assert await scripts.command("k", "ECHO", "again") == b"again"


async def test_a_call_whose_caller_disconnected_fails_no_other(server: Server):
    async with single_node(server.url) as (scripts, _):
        calls = [asyncio.ensure_future(scripts.command("k", "ECHO", f"{number}")) for number in range(3)]
        await asyncio.sleep(0)
        calls[1].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert (answers[0], answers[2]) == (b"0", b"2")
        assert isinstance(answers[1], asyncio.CancelledError)


async def test_a_cluster_without_an_answering_node_is_unavailable():
    tasks = Tasks()
    scripts = ScriptCluster(f"redis://{NOTHING_LISTENS}/0", tasks.start, timeout=PATIENT)
    with pytest.raises(StoreUnavailable, match="no cluster node answers"):
        await scripts.command("k", "GET", "k")
    with pytest.raises(StoreUnavailable, match="a moment ago"):
        await scripts.run("grant", ["account", "grant:1"], [])
    await tasks.stop()
    await scripts.close()


# --- a cluster of three nodes


SLOTS = 16_384


async def started_cluster(folder: Path) -> list[Server]:
    servers = [Server(folder / f"n{number}", append=True, cluster=True) for number in range(3)]
    for number, each in enumerate(servers):
        with each.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * 5461, min((number + 1) * 5461 - 1, SLOTS - 1))
            for other in servers:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)
    with servers[2].client() as client:
        client.execute_command("CLUSTER", "ADDSLOTS", SLOTS - 1)
    await joined(servers)
    return servers


async def joined(servers: list[Server]) -> None:
    """Waits until every node knows that the others answer."""

    async def is_joined() -> bool:
        for each in servers:
            with each.client() as client:
                info = client.execute_command("CLUSTER", "INFO")
            if not isinstance(info, dict):
                info = dict(part.split(":") for part in info.decode().split("\r\n") if part)
            if info.get("cluster_state") != "ok" or info.get("cluster_known_nodes") != "3":
                return False
        return True

    await until(is_joined)


def node_of(servers: list[Server], tenant: str) -> int:
    with servers[1].client() as client:
        slot = client.execute_command("CLUSTER", "KEYSLOT", f"{{{tenant}}}")
    return min(int(slot) // 5461, 2)


async def reserve(budgets: RedisBudgets, name: str, tenant: str) -> Reservation | BudgetExceeded:
    offered = [offer((MONEY, CALLS), (90, 1))]
    return await budgets.reserve(name, lambda at: offered, tenant=tenant, now=NOW, lease=60.0)


async def test_a_lost_cluster_node_stops_only_its_own_tenants(tmp_path: Path):
    servers = await started_cluster(tmp_path)
    tasks = Tasks()
    try:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
        scripts = ScriptCluster(f"redis://{hosts}/0", tasks.start, timeout=PATIENT)
        budgets = RedisBudgets(scripts, "one", start=tasks.start, timeout_seconds=PATIENT)
        tenants = {node_of(servers, f"org{number}"): f"org{number}" for number in range(40)}
        assert len(tenants) == 3
        for tenant in tenants.values():
            assert isinstance(await reserve(budgets, f"r-{tenant}", tenant), Reservation)
        servers[0].kill()
        with pytest.raises(Overloaded):
            await reserve(budgets, "lost", tenants[0])
        for node in (1, 2):
            assert isinstance(await reserve(budgets, f"still-{node}", tenants[node]), Reservation)
        servers[0].start()
        await joined(servers)

        async def is_restored() -> bool:
            await budgets.maintain(NOW)
            await budgets.flush()
            return not budgets.is_failing and not budgets.backlog

        await until(is_restored)
        assert (await budgets.balance(tenants[0], MONEY, now=NOW))[:2] == (0, 90)
        await budgets.close()
    finally:
        await tasks.stop()
        for each in servers:
            each.kill()
