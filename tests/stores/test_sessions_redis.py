"""Sessions shared by replicas, with and without an answering store."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from gateway.dialects.answer_fingerprint import AnswerFingerprint
from gateway.sessions.replica_records import FIELDS_BY_EVENT, LINEAGE_FIELDS, adopt_record, to_record
from gateway.sessions.session_index import Session, SessionIndex
from gateway.simulator.playbook import FakeClock
from gateway.stores.redis_scripts import SingleNode
from gateway.stores.sessions_redis import SharedSessions
from gateway.values.session import SessionStop
from gateway.values.stored_object import StoredObject
from tests.budget_lines import NOW
from tests.entries import ENTRY
from tests.stores.servers import Server, Tasks, until

ANSWER = AnswerFingerprint("I will look.", "call_00000001", 'bash{"cmd":"ls"}')


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "valkey")
    yield running
    running.kill()


class CountingScripts:
    """A node that counts the commands that are sent to it."""

    def __init__(self, node: SingleNode) -> None:
        self._node = node
        self.commands = 0

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[str]) -> Any:
        return await self._node.run(name, keys, arguments)

    async def command(self, key: str, *parts: str) -> Any:
        self.commands += 1
        return await self._node.command(key, *parts)

    def reset(self) -> None:
        self._node.reset()

    async def close(self) -> None:
        await self._node.close()


class Replica:
    """The shared sessions of one replica, the commands that they send, and their clock."""

    def __init__(self, server: Server, tasks: Tasks, seconds: float) -> None:
        self.scripts = CountingScripts(SingleNode(server.url, tasks.start, timeout=seconds))
        self.clock = FakeClock()
        self.shared = SharedSessions(self.scripts, tasks.start, self.clock.monotonic)


@contextlib.asynccontextmanager
async def counted_replica(server: Server, seconds: float) -> AsyncIterator[Replica]:
    tasks = Tasks()
    started = Replica(server, tasks, seconds)
    try:
        yield started
    finally:
        await started.scripts.close()
        await tasks.stop()


@contextlib.asynccontextmanager
async def replica(server: Server, *, seconds: float = 5.0) -> AsyncIterator[SharedSessions]:
    async with counted_replica(server, seconds) as started:
        yield started.shared


def is_known(key: str, name: str) -> bool:
    return True


async def test_an_answer_published_by_one_replica_is_found_by_another(server: Server):
    async with replica(server) as first, replica(server) as second:
        first.publish_answer("acme", 7, "s-1", ANSWER, [70])
        first.publish_answer("acme", 7, "s-2", ANSWER, [])
        assert await first.flush()
        assert await second.sessions_at_history("acme", [9, 7]) == {7: {"s-1": ANSWER, "s-2": ANSWER}}
        assert await second.sessions_with_answer("acme", [70, 71]) == {70: ["s-1"]}
        assert await second.sessions_at_history("other", [7]) == {}


async def test_publishing_only_changed_fields_keeps_another_replicas_change(server: Server):
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
        ((key, name, changed),) = await second.read_changes("acme", NOW - 5, is_known)
        index = SessionIndex()
        session = adopt_record(index, key, name, changed)
        assert session.stop is not None and session.stop.code == "session_killed"


async def test_a_session_resumed_at_another_replica_is_resumed_here(server: Server):
    async with replica(server) as first:
        index = SessionIndex()
        here = index.get_or_create("k1", "s", "h", now=NOW)
        here.stop = SessionStop(id="x", stopped_at=NOW, code="loop_stopped", message="loop", details={})
        here.steps_taken = frozenset({"nudge", "stop"})
        there = Session(id="s", source="h", started_at=NOW)
        there.resume_count, there.resume_note = 1, "Try another host."
        record = to_record(there, now=NOW + 1)
        first.publish_record(
            "acme", "k1", "s", {name: record[name] for name in FIELDS_BY_EVENT["session_resumed"]}, now=NOW + 1
        )
        assert await first.flush()
        shared = await first.read_record("acme", "k1", "s")
        assert shared is not None
        assert adopt_record(index, "k1", "s", shared) is here
        assert here.stop is None
        assert (here.resume_note, here.steps_taken) == ("Try another host.", frozenset())


async def test_changes_are_listed_for_known_sessions_since_a_time(server: Server):
    async with replica(server) as first, replica(server) as second:
        for name, at in (("early", NOW), ("late", NOW + 10), ("unknown", NOW + 10)):
            first.publish_record("acme", "k1", name, {"label": name}, now=at)
        first.publish_record("acme", "k1", "unlisted", {"label": "x"}, now=NOW + 10, lists_change=False)
        assert await first.flush()
        changes = await second.read_changes("acme", NOW + 5, lambda key, name: name != "unknown")
        assert changes == [("k1", "late", {"at": NOW + 10, "label": "late"})]
        assert await second.read_record("acme", "k1", "unlisted") == {"at": NOW + 10, "label": "x"}
        assert await second.read_changes("other", NOW, is_known) == []


async def test_changes_stay_listed_for_ten_minutes(server: Server):
    async with replica(server) as first:
        first.publish_record("acme", "k1", "old", {"label": "x"}, now=NOW)
        first.publish_record("acme", "k1", "new", {"label": "x"}, now=NOW + 601)
        assert await first.flush()
        assert [name for _, name, _ in await first.read_changes("acme", 0.0, is_known)] == ["new"]


async def test_equal_names_of_two_keys_are_two_sessions(server: Server):
    async with replica(server) as first:
        first.publish_record("acme", "k1", "main", {"label": "one"}, now=NOW)
        first.publish_record("acme", "k2", "main", {"label": "two"}, now=NOW)
        assert await first.flush()
        record = await first.read_record("acme", "k2", "main")
        assert record is not None and record["label"] == "two"
        assert await first.read_record("acme", "k3", "main") is None


async def test_a_hung_store_costs_one_timeout_and_is_then_skipped(server: Server):
    async with counted_replica(server, seconds=0.3) as first:
        assert await first.shared.read_record("acme", "k1", "s") is None
        server.pause()
        before = first.scripts.commands
        answers = [await first.shared.read_record("acme", "k1", f"s{number}") for number in range(50)]
        assert answers == [None] * 50 and first.scripts.commands == before + 1
        assert first.shared.is_failing
        first.shared.publish_answer("acme", 7, "s-1", ANSWER, [70])
        assert not await first.shared.flush() and first.shared.dropped_writes > 0
        assert first.scripts.commands == before + 1, "writes are dropped meanwhile"


async def test_a_store_is_contacted_again_after_a_pause(server: Server):
    async with counted_replica(server, seconds=5.0) as first:
        first.shared.publish_record("acme", "k1", "s", {"label": "x"}, now=NOW)
        assert await first.shared.flush()
        server.kill()
        assert await first.shared.read_record("acme", "k1", "s") is None
        server.start()
        first.shared.publish_record("acme", "k1", "s", {"label": "dropped"}, now=NOW)
        assert await first.shared.read_record("acme", "k1", "s") is None, "not contacted during the pause"
        first.clock.seconds += 1.0

        async def is_written() -> bool:
            first.clock.seconds += 1.0
            first.shared.publish_record("acme", "k1", "s", {"label": "y"}, now=NOW)
            return await first.shared.flush()

        await until(is_written)
        record = await first.shared.read_record("acme", "k1", "s")
        assert record is not None and record["label"] == "y"


async def test_queued_writes_that_fail_are_counted_as_dropped(server: Server):
    async with replica(server) as first:
        server.kill()
        first.publish_record("acme", "k1", "s", {"label": "x"}, now=NOW)
        assert not await first.flush()
        # Record, its expiry, the listed change and the end of the oldest ones.
        assert first.dropped_writes == 4 and first.is_failing


async def test_unusual_session_ids_round_trip(server: Server):
    async with replica(server) as first:
        name = 'a/b "c" {d}\n|=~'
        record = to_record(Session(id=name, source="h", started_at=NOW), now=NOW)
        first.publish_record("acme", "k1", name, record, now=NOW)
        assert await first.flush()
        found = await first.read_record("acme", "k1", name)
        assert found is not None and found["root"] == name


STORED = StoredObject(
    org="acme", key="k1", provider="far", deployment="frontier", route="auto", session="s", session_source="header",
    root="s", created_at=NOW, unsettled=ENTRY,
)  # fmt: skip


async def test_objects_are_known_to_every_replica(server: Server):
    async with replica(server) as first, replica(server) as second:
        first.publish_object("resp_1", STORED, is_lasting=True, is_new=False)
        first.publish_object("file {1}\n", structs.replace(STORED, unsettled=None), is_lasting=False, is_new=True)
        await first.flush()
        found = await second.read_objects(["resp_1", "file {1}\n", "unknown"])
        assert found == {"resp_1": STORED, "file {1}\n": structs.replace(STORED, unsettled=None)}
        second.publish_object("resp_1", structs.replace(STORED, key="k2"), is_lasting=True, is_new=True)
        await second.flush()
        assert (await first.read_objects(["resp_1"]))["resp_1"].key == "k1", "a known id keeps its owner"


async def test_only_the_first_replica_books(server: Server):
    async with replica(server) as first, replica(server) as second:
        assert await first.claim_booking("resp_1", "one") == "one"
        assert await second.claim_booking("resp_1", "two") == "one"
        assert await first.claim_booking("resp_1", "one") == "one"
        server.kill()
        assert await first.claim_booking("resp_2", "one") is None
        assert await first.read_objects(["resp_1"]) == {}


async def test_an_object_of_another_version_is_ignored(server: Server, caplog: pytest.LogCaptureFixture):
    async with replica(server) as shared:
        shared.publish_object("resp_1", STORED, is_lasting=True, is_new=False)
        await shared.flush()
        with server.client() as client:
            (key,) = client.keys("penstock:object:*")
            client.set(key, b'{"org": 7}')
        assert await shared.read_objects(["resp_1"]) == {}
        assert "shared_object_unreadable" in caplog.text
