"""The ledger's file: what happened to it, and that nothing else begins a new one."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gateway.stores.events_sqlite import SqliteAuditEvents
from gateway.stores.ledger_file import LedgerFile, LostLedger, connect_existing, require_ledger
from gateway.stores.ledger_sqlite import LedgerReader, SqliteLedger
from gateway.stores.metered_energy_sqlite import SqliteMeteredEnergy
from tests.stores.records import entry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of a thousand entries, with all of its pages in its file."""
    path = tmp_path / "ledger.sqlite"
    store = SqliteLedger(path)
    store.append(entry(f"r{number}") for number in range(1000))
    store.close()
    return path


def copied(path: Path) -> None:
    content = path.read_bytes()
    path.rename(path.parent / "old")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("lose", "fault"),
    [
        (lambda path: None, ""),
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.rename(path.parent / "x"), "missing"),
        (lambda path: path.parent.rename(path.parent.parent / "gone"), "missing"),
        (copied, "replaced"),
        (lambda path: os.truncate(path, 0), "truncated"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "truncated"),
    ],
    ids=["nothing", "deleted", "moved", "its folder moved", "a copy", "emptied", "cut in half"],
)
def test_a_fault_of_the_file_is_named(path: Path, lose: Callable[[Path], None], fault: str):
    file = LedgerFile(path)
    lose(path)
    assert file.fault() == fault
    file.check_content()
    assert file.fault() == fault


def test_a_file_that_is_moved_back_has_no_fault(path: Path):
    file = LedgerFile(path)
    path.rename(path.parent / "x")
    assert file.fault() == "missing"
    (path.parent / "x").rename(path)
    assert file.fault() == ""


def test_a_file_that_was_cut_stays_faulty_even_where_it_grows_again(path: Path):
    file, content = LedgerFile(path), path.read_bytes()
    os.truncate(path, len(content) // 2)
    assert file.fault() == "truncated"
    file.check_content()
    path.write_bytes(content)
    file.check_content()
    assert file.fault() == "truncated", "the open connection may have read pages of the damaged file"


def test_a_sound_file_may_become_smaller(path: Path):
    file = LedgerFile(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM entries WHERE id > 'r2'")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert file.fault() == "truncated"
    file.check_content()
    assert file.fault() == ""


@pytest.mark.parametrize("state", ["missing", "empty", "another database"])
def test_no_connection_begins_a_new_ledger(tmp_path: Path, state: str):
    path = tmp_path / "ledger.sqlite"
    SqliteLedger(path).close()
    events, meters = SqliteAuditEvents(path), SqliteMeteredEnergy(path)
    path.unlink()
    if state == "empty":
        path.touch()
        (tmp_path / "ledger.sqlite-wal").write_bytes(b"entries that are not in the file yet")
    elif state == "another database":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE things (id)")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for connect in (
        lambda: SqliteLedger(path, must_exist=True),
        lambda: events.since(0),
        lambda: meters.millijoules_of("a.1"),
        lambda: connect_existing(path),
        lambda: LedgerReader(path),
    ):
        with pytest.raises(sqlite3.OperationalError, match=r"^file (is missing|is empty|holds no ledger)$"):
            connect()
    with pytest.raises(LostLedger, match="penstock serve --new-ledger"):
        require_ledger(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_file_that_is_no_database_is_a_lost_ledger(path: Path):
    path.write_bytes(b"text" * 1000)
    with pytest.raises(LostLedger, match="file is not a database"):
        require_ledger(path)


@pytest.mark.parametrize("name", ["with space", "per%20cent", "question?mode=memory", "hash#"])
def test_any_name_of_a_folder_is_taken(tmp_path: Path, name: str):
    path = tmp_path / name / "ledger.sqlite"
    SqliteLedger(path).close()
    SqliteLedger(path, must_exist=True).close()
    require_ledger(path)
