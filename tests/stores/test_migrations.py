"""Ledger files and journals of the names before the first release."""

import json
import sqlite3
from pathlib import Path

import msgspec
import pytest

from gateway.app import App
from gateway.cli.main import main
from gateway.config.settings import Settings
from gateway.stores.events_sqlite import SqliteAuditEvents
from gateway.stores.journal import Journal
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.stores.migrations import OutdatedLedger, migrate, migrate_file, rename_keys_of_journal_line
from tests.entries import ENTRY
from tests.snapshots import snapshot


@pytest.fixture
def old_ledger(tmp_path: Path) -> Path:
    """A ledger file as the version before named its columns, codes and event keys."""
    path = tmp_path / "ledger.sqlite"
    ledger = SqliteLedger(path)
    ledger.append([msgspec.structs.replace(ENTRY, code="caller_gone", config_hash="abc")])
    ledger.close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("ALTER TABLE entries RENAME COLUMN config_hash TO world")
    details = json.dumps({"acted": True, "who": "admin", "code": "loop_held", "nested": {"why": "kept"}})
    db.execute("INSERT INTO events VALUES ('e', 1, 'session_stop', '', 'k/s', ?)", (details,))
    db.execute("PRAGMA user_version = 0")
    db.close()
    return path


def test_columns_codes_and_event_keys_are_renamed_and_figures_stay(old_ledger: Path):
    migrate_file(old_ledger)
    ledger = SqliteLedger(old_ledger)
    (entry,) = ledger.entries()
    ledger.close()
    assert (entry.config_hash, entry.code) == ("abc", "client_closed_request")
    assert entry == msgspec.structs.replace(ENTRY, code="client_closed_request", config_hash="abc")
    (event,) = SqliteAuditEvents(old_ledger).since(0)
    assert event.details == {
        "code": "loop_approval_required", "nested": {"why": "kept"}, "enforced": True, "actor": "admin",
    }  # fmt: skip


def test_a_migrated_file_is_not_migrated_again(old_ledger: Path):
    migrate_file(old_ledger)
    db = sqlite3.connect(old_ledger, isolation_level=None)
    before = db.total_changes
    migrate(db)
    assert db.total_changes == before
    db.close()


def test_a_failed_migration_changes_nothing(old_ledger: Path):
    db = sqlite3.connect(old_ledger, isolation_level=None)
    db.execute("UPDATE events SET details = 'not json'")
    with pytest.raises(json.JSONDecodeError):
        migrate(db)
    columns = {row[1] for row in db.execute("PRAGMA table_info(entries)")}
    assert "world" in columns and "config_hash" not in columns
    db.close()


def test_a_journal_line_of_the_version_before_is_recovered(tmp_path: Path):
    entry = msgspec.structs.replace(ENTRY, code="client_closed_request")
    fact = msgspec.json.encode(entry).replace(b'"config_hash":', b'"world":')
    fact = fact.replace(b"client_closed_request", b"caller_gone")
    (tmp_path / "00000001.jsonl").write_bytes(b'{"fact":' + fact + b"}\n")
    assert Journal(tmp_path).recover() == [entry]


@pytest.mark.parametrize(
    "line, renamed",
    [
        (b'{"fact":{"world":"abc"}}', b'{"fact":{"config_hash":"abc"}}'),
        (b'{"fact":{"config_hash":"abc"}}', b'{"fact":{"config_hash":"abc"}}'),
        (b'{"fact":{"config_hash":"abc","user":""world":"}}', b'{"fact":{"config_hash":"abc","user":""world":"}}'),
        (b"\xff not json", b"\xff not json"),
    ],
    ids=["the version before", "this version", "a user of that name", "garbage"],
)
def test_only_journal_lines_of_the_version_before_are_renamed(line: bytes, renamed: bytes):
    assert rename_keys_of_journal_line(line) == renamed


def test_a_file_of_the_version_before_is_not_opened_before_it_is_migrated(old_ledger):
    with pytest.raises(OutdatedLedger, match="start this version's gateway once"):
        SqliteLedger(old_ledger)
    db = sqlite3.connect(old_ledger)
    assert db.execute("PRAGMA user_version").fetchone() == (0,)
    db.close()


async def test_a_start_on_a_folder_of_a_running_gateway_leaves_its_ledger_as_it_is(old_ledger):
    running = Journal(old_ledger.parent / "journal")
    running.acquire_lock()
    with pytest.raises(OSError, match="in use by another gateway"):
        await App(Settings(data=old_ledger.parent, port=0), snapshot()).start()
    running.close()
    db = sqlite3.connect(old_ledger)
    columns = {row[1] for row in db.execute("PRAGMA table_info(entries)")}
    db.close()
    assert "world" in columns


async def test_a_start_migrates_the_ledger_of_the_version_before(old_ledger):
    app = App(Settings(data=old_ledger.parent, port=0), snapshot())
    await app.start()
    await app.stop()
    ledger = SqliteLedger(old_ledger)
    assert [entry.code for entry in ledger.entries()] == ["client_closed_request"]
    ledger.close()


def test_export_asks_for_the_migration_of_an_outdated_file(old_ledger, monkeypatch, capsys):
    monkeypatch.setenv("PENSTOCK_DATA", str(old_ledger.parent))
    assert main(["export"]) == 1
    assert "start this version's gateway once" in capsys.readouterr().err
