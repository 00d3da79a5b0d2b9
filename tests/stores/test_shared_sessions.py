"""Sessions that replicas share on a store: what one knows the others learn, and what happens when it does not answer."""

import asyncio
import contextlib
import time

import pytest

from gateway.dialects.answer_fingerprint import AnswerFingerprint
from gateway.sessions.replica_records import FIELDS_BY_EVENT, LINEAGE_FIELDS, adopt_record, to_record
from gateway.sessions.session_index import Session, SessionIndex
from gateway.stores.redis_scripts import SingleNode
from gateway.stores.sessions_redis import SharedSessions
from gateway.values.session import SessionStop
from tests.budget_lines import NOW
from tests.stores.servers import Server, Tasks

HEARD = AnswerFingerprint("I will look.", "call_00000001", 'bash{"cmd":"ls"}')


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path / "valkey")
    yield running
    running.go_on()
    running.kill()


@contextlib.asynccontextmanager
async def replica(server, *, seconds=5.0):
    tasks = Tasks()
    scripts = SingleNode(server.url, tasks.start, timeout=seconds)
    try:
        yield SharedSessions(scripts, tasks.start, time.monotonic)
    finally:
        await scripts.close()
        await tasks.stop()


async def test_what_one_has_answered_the_other_can_ask_for(server):
    async with replica(server) as one, replica(server) as two:
        one.publish_answer("acme", 7, "s-1", HEARD, [70])
        one.publish_answer("acme", 7, "s-2", HEARD, [])
        assert await one.flush()
        assert await two.sessions_at_history("acme", [9, 7]) == {7: {"s-1": HEARD, "s-2": HEARD}}
        assert await two.sessions_with_answer("acme", [70, 71]) == {70: ["s-1"]}
        assert await two.sessions_at_history("other", [7]) == {}


async def test_only_what_changed_is_told_so_that_nobody_undoes_anybodys_word(server):
    async with replica(server) as one, replica(server) as two:
        killed = Session(id="s", source="h", started_at=NOW)
        killed.stop = SessionStop(id="k", stopped_at=NOW, code="session_killed", message="ended", details={})
        record = to_record(killed, now=NOW)
        one.publish_record(
            "acme", "k1", "s", {name: record[name] for name in FIELDS_BY_EVENT["session_killed"]}, now=NOW
        )
        assert await one.flush()
        # The other has not heard of it yet, and says who the session belongs to.
        mine = to_record(Session(id="s", source="h", started_at=NOW), now=NOW + 1)
        two.publish_record("acme", "k1", "s", {name: mine[name] for name in LINEAGE_FIELDS}, now=NOW + 1)
        assert await two.flush()
        ((key, name, told),) = await two.read_changes("acme", NOW - 5, lambda key, name: True)
        book = SessionIndex()
        session = adopt_record(book, key, name, told)
        assert session.stop is not None and session.stop.code == "session_killed"


async def test_a_session_that_was_let_go_on_elsewhere_goes_on_here(server):
    async with replica(server) as one:
        here = Session(id="s", source="h", started_at=NOW)
        here.stop = SessionStop(id="x", stopped_at=NOW, code="loop_stopped", message="loop", details={})
        here.steps_taken = frozenset({"nudge", "stop"})
        there = Session(id="s", source="h", started_at=NOW)
        there.resume_count, there.resume_note = 1, "Try another host."
        record = to_record(there, now=NOW + 1)
        one.publish_record(
            "acme", "k1", "s", {name: record[name] for name in FIELDS_BY_EVENT["session_resumed"]}, now=NOW + 1
        )
        assert await one.flush()
        book = SessionIndex()
        book._store("k1", here)
        adopt_record(book, "k1", "s", await one.read_record("acme", "k1", "s"))
        assert (here.stop, here.resume_note, here.steps_taken) == (None, "Try another host.", frozenset())


async def test_a_store_that_hangs_costs_one_wait_and_then_nothing_for_a_while(server):
    async with replica(server, seconds=0.05) as one:
        assert await one.read_record("acme", "k1", "s") is None
        server.pause()
        began = time.monotonic()
        answers = [await one.read_record("acme", "k1", f"s{number}") for number in range(50)]
        assert answers == [None] * 50 and time.monotonic() - began < 2
        assert one.is_failing
        one.publish_answer("acme", 7, "s-1", HEARD, [70])
        assert not await one.flush() and one.dropped_writes > 0


async def test_odd_names_travel(server):
    async with replica(server) as one:
        name = 'a/b "c" {d}\n|=~'
        record = to_record(Session(id=name, source="h", started_at=NOW), now=NOW)
        one.publish_record("acme", "k1", name, record, now=NOW)
        assert await one.flush()
        found = await one.read_record("acme", "k1", name)
        assert found is not None and found["root"] == name
        await asyncio.sleep(0)
