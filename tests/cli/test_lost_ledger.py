"""A ledger whose files are moved, deleted, replaced or cut while a gateway serves, and the start after that."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import urllib.error
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from gateway.simulator.provider import SimulatedModel, SimulatedProvider
from tests.cli.processes import Serving, free_port, penstock, query
from tests.gateways import until
from tests.snapshots import BASE_CONFIG, ENV

FILES = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm")


class Site:
    """A data folder with a gateway that serves from it."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.data, self.config, self.port = folder / "data", folder / "r.yaml", free_port()
        self.config.write_text(BASE_CONFIG.format(more="", small="", near=base_url, far="http://127.0.0.1:1/v1"))
        self.serving: Serving

    async def start(self, *arguments: str) -> None:
        self.serving = await asyncio.to_thread(Serving, self.config, self.data, self.port, *arguments)

    async def end(self, number: int = signal.SIGTERM) -> str:
        """The output, standard error included."""
        return await asyncio.to_thread(self.serving.end, number)

    async def call(self, count: int = 1) -> None:
        for _ in range(count):
            await asyncio.to_thread(self.serving.post)

    async def refused_status(self) -> int:
        try:
            await self.call()
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        return 0

    async def get(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(self.serving.get, path)

    async def is_ready(self) -> bool:
        return (await self.get("/readyz"))[0] == 200

    async def is_failing(self) -> bool:
        return "\npenstock_ledger_failing 1.0\n" in (await self.get("/metrics"))[1]

    def start_error(self) -> str:
        """What a start prints that does not succeed."""
        env = ENV | {"PENSTOCK_DATA": str(self.data), "PENSTOCK_PORT": "0"}
        done = penstock("serve", str(self.config), **env)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]

    def count(self) -> int:
        return query(self.data, "SELECT COUNT(*) FROM entries")[0][0]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    provider = SimulatedProvider(SimulatedModel(model="sim-small"))
    site = Site(tmp_path, await provider.start())
    await site.start()
    await site.call(3)
    await until(lambda: site.count() == 3)
    yield site
    if site.serving.process.poll() is None:
        await site.end(signal.SIGKILL)
    await provider.stop()


def move(data: Path) -> None:
    for name in FILES:
        (data / name).rename(data.parent / name)


def move_alone(data: Path) -> None:
    (data / "ledger.sqlite").rename(data.parent / "ledger.sqlite")


def delete(data: Path) -> None:
    for name in FILES:
        (data / name).unlink()


def replace_by_another(data: Path) -> None:
    delete(data)
    with closing(sqlite3.connect(data / "ledger.sqlite")) as db:
        db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE things (id)")


def replace_by_an_empty_file(data: Path) -> None:
    (data / "ledger.sqlite").unlink()
    (data / "ledger.sqlite").touch()


def cut(data: Path) -> None:
    os.truncate(data / "ledger.sqlite", 0)


@pytest.mark.parametrize(
    ("lose", "fault", "at_start"),
    [
        (move, "missing", "is missing"),
        (move_alone, "missing", "is missing"),
        (delete, "missing", "is missing"),
        (replace_by_another, "replaced", "holds no ledger"),
        (replace_by_an_empty_file, "replaced", "is empty"),
        (cut, "truncated", "is empty"),
    ],
    ids=["moved", "moved without its log", "deleted", "another database", "an empty file", "cut to nothing"],
)
async def test_a_lost_ledger_is_noticed_and_not_begun_anew(
    site: Site, lose: Callable[[Path], None], fault: str, at_start: str
):
    lose(site.data)
    await until(site.is_failing)
    assert await site.get("/readyz") == (503, f"ledger: its file is {fault}\n")
    await site.call(2)
    assert (await site.get("/export?by=user"))[0] == 503
    assert (await site.get("/admin/budgets/events"))[0] == 503
    text = await site.end(signal.SIGKILL)
    assert f"ledger_file_lost path={site.data / 'ledger.sqlite'} fault={fault} entries=kept_in_journal" in text
    assert text.count("ledger_file_lost") == 1 and "ledger_write_failed" not in text
    assert site.start_error().startswith(
        f"penstock: cannot start: ledger {site.data / 'ledger.sqlite'}: file {at_start}, but"
    )
    assert "--new-ledger" in site.start_error()


async def test_a_ledger_that_is_moved_back_continues_without_a_gap(site: Site):
    move(site.data)
    await until(site.is_failing)
    await site.call(2)
    for name in FILES:
        (site.data.parent / name).rename(site.data / name)
    await until(site.is_ready)
    await site.call()
    await until(lambda: site.count() == 6)
    text = await site.end()
    assert "ledger_file_restored" in text and site.count() == 6


async def test_entries_of_the_time_without_a_ledger_are_written_at_the_next_start(site: Site):
    move(site.data)
    await until(site.is_failing)
    await site.call(2)
    text = await site.end()
    assert site.serving.process.returncode == 0 and "ledger_entries_unwritten entries=2 kept_in=journal" in text
    assert not (site.data / "ledger.sqlite").exists()
    for name in FILES:
        if (site.data.parent / name).exists():
            (site.data.parent / name).rename(site.data / name)
    await site.start()
    assert site.count() == 5


async def test_a_new_ledger_is_begun_on_request_with_the_entries_of_the_journal(site: Site):
    delete(site.data)
    await until(site.is_failing)
    await site.call(2)
    await site.end(signal.SIGKILL)
    await site.start("--new-ledger")
    assert site.count() >= 2 and await site.is_ready()
    assert "ledger_begun_anew" in await site.end()
    await site.start()
    assert await site.is_ready()


async def test_a_vacuum_by_an_operator_is_no_fault(site: Site):
    with closing(sqlite3.connect(site.data / "ledger.sqlite", isolation_level=None)) as db:
        db.execute(
            "CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) SELECT randomblob(500) FROM n"
        )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = (site.data / "ledger.sqlite").stat().st_size
        await asyncio.sleep(1)
        db.execute("DROP TABLE filler")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert (site.data / "ledger.sqlite").stat().st_size < size
    await site.call()
    await until(lambda: site.count() == 4)
    await until(site.is_ready)
    text = await site.end()
    assert site.count() == 4 and "ledger_write_failed" not in text


@pytest.mark.parametrize(
    "lose", [shutil.rmtree, lambda path: path.rename(path.parent.parent / "j")], ids=["deleted", "moved"]
)
async def test_a_lost_journal_is_begun_anew_beside_its_ledger(site: Site, lose: Callable[[Path], None]):
    lose(site.data / "journal")
    await until(
        lambda: (site.data / "journal" / "lock").exists() and len(list((site.data / "journal").glob("*.jsonl"))) == 1
    )
    await until(site.is_ready)
    await site.call()
    await until(lambda: site.count() == 4)
    assert "data folder" in site.start_error(), "the new lock is held"
    text = await site.end()
    assert "journal_lost folder=" in text and "journal_begun_anew" in text and site.count() == 4


async def test_no_call_is_made_while_the_whole_data_folder_is_gone(site: Site):
    site.data.rename(site.data.parent / "elsewhere")
    await until(site.is_failing)
    assert await site.refused_status() == 503
    assert not site.data.exists(), "nothing begins it anew"
    (site.data.parent / "elsewhere").rename(site.data)
    await until(site.is_ready)
    await site.call()
    await until(lambda: site.count() == 4)
    text = await site.end()
    assert "fault=missing" in text and "journal_restored" in text


async def test_a_full_disk_refuses_calls_until_there_is_space(site: Site):
    pid = site.serving.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    assert await site.refused_status() == 503
    assert not await site.is_ready() and await site.is_failing()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await until(site.is_ready)
    await site.call()
    await until(lambda: site.count() == 4)
    await site.end()
    assert site.serving.process.returncode == 0
