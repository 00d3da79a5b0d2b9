"""Sessions that replicas share on a store: what one knows the others learn, and what happens when it does not answer."""

import asyncio
import contextlib
import time

import pytest

from gateway.dialects.answer_fingerprint import Beginning
from gateway.sessions.replica_records import BELONGS, CHANGES, adopted, record_of
from gateway.sessions.session_index import Session, SessionBook
from gateway.stores.redis_scripts import OneNode
from gateway.stores.sessions_redis import SharedSessions
from gateway.values.session import Stop
from tests.budget_lines import NOW
from tests.stores.servers import Server, Tasks

HEARD = Beginning("I will look.", "call_00000001", 'bash{"cmd":"ls"}')


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path / "valkey")
    yield running
    running.go_on()
    running.kill()


@contextlib.asynccontextmanager
async def replica(server, *, seconds=5.0):
    tasks = Tasks()
    scripts = OneNode(server.url, tasks.start, timeout=seconds)
    try:
        yield SharedSessions(scripts, tasks.start, time.monotonic)
    finally:
        await scripts.close()
        await tasks.stop()


async def test_what_one_has_answered_the_other_can_ask_for(server):
    async with replica(server) as one, replica(server) as two:
        one.answered("acme", 7, "s-1", HEARD, [70])
        one.answered("acme", 7, "s-2", HEARD, [])
        assert await one.flush()
        assert await two.waiting_at("acme", [9, 7]) == {7: {"s-1": HEARD, "s-2": HEARD}}
        assert await two.answered_with("acme", [70, 71]) == {70: ["s-1"]}
        assert await two.waiting_at("other", [7]) == {}


async def test_only_what_changed_is_told_so_that_nobody_undoes_anybodys_word(server):
    async with replica(server) as one, replica(server) as two:
        killed = Session(id="s", source="h", started_at=NOW)
        killed.stop = Stop(id="k", at=NOW, code="session_killed", message="ended", details={})
        record = record_of(killed, now=NOW)
        one.changed("acme", "k1", "s", {name: record[name] for name in CHANGES["session_killed"]}, now=NOW)
        assert await one.flush()
        # The other has not heard of it yet, and says who the session belongs to.
        mine = record_of(Session(id="s", source="h", started_at=NOW), now=NOW + 1)
        two.changed("acme", "k1", "s", {name: mine[name] for name in BELONGS}, now=NOW + 1)
        assert await two.flush()
        ((key, name, told),) = await two.changes("acme", NOW - 5, lambda key, name: True)
        book = SessionBook()
        session = adopted(book, key, name, told)
        assert session.stop is not None and session.stop.code == "session_killed"


async def test_a_session_that_was_let_go_on_elsewhere_goes_on_here(server):
    async with replica(server) as one:
        here = Session(id="s", source="h", started_at=NOW)
        here.stop = Stop(id="x", at=NOW, code="loop_stopped", message="loop", details={})
        here.taken = frozenset({"nudge", "stop"})
        there = Session(id="s", source="h", started_at=NOW)
        there.resumes, there.note = 1, "Try another host."
        record = record_of(there, now=NOW + 1)
        one.changed("acme", "k1", "s", {name: record[name] for name in CHANGES["session_resumed"]}, now=NOW + 1)
        assert await one.flush()
        book = SessionBook()
        book._kept("k1", here)
        adopted(book, "k1", "s", await one.session("acme", "k1", "s"))
        assert (here.stop, here.note, here.taken) == (None, "Try another host.", frozenset())


async def test_a_store_that_hangs_costs_one_wait_and_then_nothing_for_a_while(server):
    async with replica(server, seconds=0.05) as one:
        assert await one.session("acme", "k1", "s") is None
        server.pause()
        began = time.monotonic()
        answers = [await one.session("acme", "k1", f"s{number}") for number in range(50)]
        assert answers == [None] * 50 and time.monotonic() - began < 2
        assert one.failing
        one.answered("acme", 7, "s-1", HEARD, [70])
        assert not await one.flush() and one.dropped > 0


async def test_odd_names_travel(server):
    async with replica(server) as one:
        name = 'a/b "c" {d}\n|=~'
        record = record_of(Session(id=name, source="h", started_at=NOW), now=NOW)
        one.changed("acme", "k1", name, record, now=NOW)
        assert await one.flush()
        found = await one.session("acme", "k1", name)
        assert found is not None and found["root"] == name
        await asyncio.sleep(0)
