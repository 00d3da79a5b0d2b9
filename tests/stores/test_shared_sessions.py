"""Tests of sessions shared by replicas, with and without an answering store."""

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

ANSWER = AnswerFingerprint("I will look.", "call_00000001", 'bash{"cmd":"ls"}')


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path / "valkey")
    yield running
    running.resume()
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


async def test_an_answer_published_by_one_replica_is_found_by_another(server):
    async with replica(server) as first, replica(server) as second:
        first.publish_answer("acme", 7, "s-1", ANSWER, [70])
        first.publish_answer("acme", 7, "s-2", ANSWER, [])
        assert await first.flush()
        assert await second.sessions_at_history("acme", [9, 7]) == {7: {"s-1": ANSWER, "s-2": ANSWER}}
        assert await second.sessions_with_answer("acme", [70, 71]) == {70: ["s-1"]}
        assert await second.sessions_at_history("other", [7]) == {}


async def test_publishing_only_changed_fields_keeps_another_replicas_change(server):
    async with replica(server) as first, replica(server) as second:
        killed = Session(id="s", source="h", started_at=NOW)
        killed.stop = SessionStop(id="k", stopped_at=NOW, code="session_killed", message="ended", details={})
        record = to_record(killed, now=NOW)
        first.publish_record(
            "acme", "k1", "s", {name: record[name] for name in FIELDS_BY_EVENT["session_killed"]}, now=NOW
        )
        assert await first.flush()
        # The other replica does not have the change yet and publishes the lineage.
        lineage = to_record(Session(id="s", source="h", started_at=NOW), now=NOW + 1)
        second.publish_record("acme", "k1", "s", {name: lineage[name] for name in LINEAGE_FIELDS}, now=NOW + 1)
        assert await second.flush()
        ((key, name, changed),) = await second.read_changes("acme", NOW - 5, lambda key, name: True)
        index = SessionIndex()
        session = adopt_record(index, key, name, changed)
        assert session.stop is not None and session.stop.code == "session_killed"


async def test_a_session_resumed_at_another_replica_is_resumed_here(server):
    async with replica(server) as first:
        here = Session(id="s", source="h", started_at=NOW)
        here.stop = SessionStop(id="x", stopped_at=NOW, code="loop_stopped", message="loop", details={})
        here.steps_taken = frozenset({"nudge", "stop"})
        there = Session(id="s", source="h", started_at=NOW)
        there.resume_count, there.resume_note = 1, "Try another host."
        record = to_record(there, now=NOW + 1)
        first.publish_record(
            "acme", "k1", "s", {name: record[name] for name in FIELDS_BY_EVENT["session_resumed"]}, now=NOW + 1
        )
        assert await first.flush()
        index = SessionIndex()
        index._store("k1", here)
        adopt_record(index, "k1", "s", await first.read_record("acme", "k1", "s"))
        assert (here.stop, here.resume_note, here.steps_taken) == (None, "Try another host.", frozenset())


async def test_a_hung_store_costs_one_timeout_and_is_then_skipped(server):
    async with replica(server, seconds=0.05) as first:
        assert await first.read_record("acme", "k1", "s") is None
        server.pause()
        began = time.monotonic()
        answers = [await first.read_record("acme", "k1", f"s{number}") for number in range(50)]
        assert answers == [None] * 50 and time.monotonic() - began < 2
        assert first.is_failing
        first.publish_answer("acme", 7, "s-1", ANSWER, [70])
        assert not await first.flush() and first.dropped_writes > 0


async def test_unusual_session_ids_round_trip(server):
    async with replica(server) as first:
        name = 'a/b "c" {d}\n|=~'
        record = to_record(Session(id=name, source="h", started_at=NOW), now=NOW)
        first.publish_record("acme", "k1", name, record, now=NOW)
        assert await first.flush()
        found = await first.read_record("acme", "k1", name)
        assert found is not None and found["root"] == name
        await asyncio.sleep(0)
