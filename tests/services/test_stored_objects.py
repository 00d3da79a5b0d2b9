"""Objects beyond this process: found in the ledger, published, and booked once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs

from gateway.services.stored_objects import StoredObjects
from gateway.services.supervisor import Supervisor
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.stores.redis_scripts import SingleNode
from gateway.stores.sessions_redis import SharedSessions
from gateway.values.errors import Overloaded
from gateway.values.ledger_entry import AMOUNT_COLUMNS, correction_entry
from gateway.values.stored_object import object_of_entry
from tests.entries import ENTRY
from tests.gateways import until
from tests.stores.servers import Server

PENDING = structs.replace(ENTRY, usage_basis="estimated", object_ids="resp_1")
CORRECTION = correction_entry(PENDING, dict.fromkeys(AMOUNT_COLUMNS, 0), reason="", priced=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "valkey")
    yield running
    running.kill()


def write(folder: Path, *entries) -> None:
    ledger = SqliteLedger(folder / "ledger.sqlite")
    ledger.append(entries)
    ledger.close()


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder)
    return folder


@asynccontextmanager
async def replica(folder: Path, server: Server | None = None) -> AsyncIterator[StoredObjects]:
    supervisor = Supervisor()
    objects = StoredObjects(made(folder), supervisor)
    scripts = SingleNode(server.url, supervisor.spawn, timeout=5.0) if server is not None else None
    objects.start(SharedSessions(scripts, supervisor.spawn, lambda: 0.0) if scripts is not None else None)
    try:
        yield objects
    finally:
        await supervisor.stop()
        if scripts is not None:
            await scripts.close()


class Bookings:
    """What was called for one response."""

    def __init__(self) -> None:
        self.booked = self.lost = 0

    def book(self) -> None:
        self.booked += 1

    def lose(self) -> None:
        self.lost += 1


async def test_the_ledger_knows_the_objects_of_earlier_processes(tmp_path: Path):
    write(tmp_path, PENDING)
    async with replica(tmp_path) as objects:
        assert await objects.find(["resp_1", "x"], must_know=True) == {
            "resp_1": object_of_entry(PENDING, is_unsettled=True)
        }
        write(tmp_path, CORRECTION)
        assert (await objects.find(["resp_1"], must_know=True))["resp_1"].unsettled is None


async def test_an_exact_entry_has_nothing_to_settle(tmp_path: Path):
    write(tmp_path, structs.replace(PENDING, usage_basis="exact"))
    async with replica(tmp_path) as objects:
        assert (await objects.find(["resp_1"], must_know=True))["resp_1"].unsettled is None


async def test_a_single_replica_books_at_once(tmp_path: Path):
    bookings = Bookings()
    async with replica(tmp_path) as objects:
        assert objects.book_once("resp_1", CORRECTION.id, bookings.book, bookings.lose) is None
    assert (bookings.booked, bookings.lost) == (1, 0)


async def test_of_all_replicas_the_first_books_even_if_its_request_ends(tmp_path: Path, server: Server):
    ours, theirs = Bookings(), Bookings()
    async with replica(tmp_path / "one", server) as one, replica(tmp_path / "two", server) as two:
        waiting = one.book_once("resp_1", CORRECTION.id, ours.book, ours.lose)
        assert waiting is not None
        request = asyncio.ensure_future(waiting)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await until(lambda: ours.booked)
        for _ in range(2):
            lost = two.book_once("resp_1", CORRECTION.id, theirs.book, theirs.lose)
            assert lost is not None
            await lost
    assert (ours.booked, theirs.booked, theirs.lost) == (1, 0, 2)


async def test_a_claim_of_a_replica_that_crashed_before_it_booked_is_taken_up_once(tmp_path: Path, server: Server):
    async with replica(tmp_path / "one", server) as first:
        claimed = first.book_once("resp_1", CORRECTION.id, lambda: None, lambda: None)
        assert claimed is not None
        await claimed
    bookings = Bookings()
    async with replica(tmp_path / "one", server) as restarted:
        for _ in range(2):
            booking = restarted.book_once("resp_1", CORRECTION.id, bookings.book, bookings.lose)
            assert booking is not None
            await booking
            write(tmp_path / "one", CORRECTION)
    assert (bookings.booked, bookings.lost) == (1, 1)


async def test_without_the_store_nothing_is_booked_and_an_unknown_path_is_not_guessed(tmp_path: Path, server: Server):
    write(tmp_path, PENDING)
    bookings = Bookings()
    async with replica(tmp_path, server) as objects:
        server.kill()
        booking = objects.book_once("resp_1", CORRECTION.id, bookings.book, bookings.lose)
        assert booking is not None
        await booking
        assert (bookings.booked, bookings.lost) == (0, 0), "a later poll books"
        assert set(await objects.find(["resp_1"], must_know=True)) == {"resp_1"}
        with pytest.raises(Overloaded):
            await objects.find(["resp_2"], must_know=True)
        assert await objects.find(["resp_2"], must_know=False) == {}


async def test_a_ledger_that_cannot_be_read_is_logged_and_leaves_no_owner_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with replica(tmp_path) as objects:
        (tmp_path / "ledger.sqlite").unlink()
        assert await objects.find(["resp_1"], must_know=False) == {}
        with pytest.raises(Overloaded, match="owner"):
            await objects.find(["resp_1"], must_know=True)
    assert "ledger_lookup_failed" in caplog.text
    assert not (tmp_path / "ledger.sqlite").exists(), "a lookup begins no new ledger"
