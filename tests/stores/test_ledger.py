"""The journaled ledger: recovery at a start, a writer thread, failures of disk and database."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from gateway.stores.journal import Journal
from gateway.stores.ledger import QUEUE_MAX, JournaledLedger
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.errors import Overloaded
from gateway.values.ledger_entry import LedgerEntry
from tests.stores.records import entry, hold

DEADLINE_SECONDS = 30.0


def started_journal(folder: Path) -> Journal:
    journal = Journal(folder / "journal")
    journal.start()
    return journal


def open_ledger(
    folder: Path, publish: Callable[[LedgerEntry], None] = lambda published: None, **options: Callable[[float], None]
) -> JournaledLedger:
    return JournaledLedger(Journal(folder / "journal"), SqliteLedger(folder / "l.sqlite"), publish, **options)


def stored(folder: Path) -> list[LedgerEntry]:
    store = SqliteLedger(folder / "l.sqlite")
    try:
        return list(store.entries())
    finally:
        store.close()


def until(condition: Callable[[], object]) -> None:
    """Waits for the writer thread."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.001)


def test_a_restart_writes_journal_entries_to_the_ledger_and_empties_the_journal(tmp_path: Path):
    journal = started_journal(tmp_path)
    journal.append_hold(hold("a"))
    journal.append_hold(hold("b"))
    journal.append_entry(entry("a"))
    ledger = open_ledger(tmp_path)
    assert [lost.request_id for lost in ledger.start()] == ["b"]
    ledger.close()
    assert {written.outcome for written in stored(tmp_path)} == {"completed", "expired"}
    assert Journal(tmp_path / "journal").recover() == []


def test_every_entry_is_published_and_written(tmp_path: Path):
    published: list[LedgerEntry] = []
    ledger = open_ledger(tmp_path, published.append)
    ledger.start()
    ledger.append_hold(hold("a"))
    ledger.append_entry(entry("a"))
    assert published == [entry("a")], "published at once, on the caller's thread"
    until(lambda: ledger.backlog == 0)
    assert not ledger.is_failing
    ledger.close()
    assert stored(tmp_path) == [entry("a")]


def test_an_unwritable_journal_refuses_holds_and_keeps_entries(tmp_path: Path):
    journal = started_journal(tmp_path)
    published: list[LedgerEntry] = []
    ledger = JournaledLedger(journal, SqliteLedger(tmp_path / "l.sqlite"), published.append)
    ledger.start()
    journal.close()
    with pytest.raises(Overloaded):
        ledger.append_hold(hold("a"))
    ledger.append_entry(entry("b"))
    assert ledger.is_failing
    assert [each.request_id for each in published] == ["b"]
    ledger.close()
    assert [written.request_id for written in stored(tmp_path)] == ["b"]


def test_a_probe_finds_that_the_journal_is_writable_again(tmp_path: Path):
    journal = started_journal(tmp_path)
    ledger = JournaledLedger(journal, SqliteLedger(tmp_path / "l.sqlite"), lambda published: None)
    ledger.start()
    journal.close()
    ledger.append_entry(entry("a"))
    ledger.probe()
    assert ledger.is_failing
    journal.start()
    assert ledger.is_failing, "known only after a probe"
    ledger.probe()
    assert not ledger.is_failing
    ledger.close()


@pytest.mark.parametrize("is_deleted", [False, True], ids=["moved", "deleted"])
def test_entries_wait_in_the_journal_while_the_file_is_not_at_its_place(
    tmp_path: Path, is_deleted: bool, caplog: pytest.LogCaptureFixture
):
    ledger = open_ledger(tmp_path, sleep=lambda seconds: time.sleep(0.001))
    ledger.start()
    path = tmp_path / "l.sqlite"
    path.rename(tmp_path / "moved")
    if is_deleted:
        (tmp_path / "moved").unlink()
    ledger.check_files()
    assert ledger.is_failing and ledger.failure == "its file is missing"
    ledger.append_hold(hold("a"))
    ledger.append_entry(entry("a"))
    ledger.check_files()
    assert caplog.text.count("ledger_file_lost") == 1 and f"path={path} fault=missing" in caplog.text
    if not is_deleted:
        (tmp_path / "moved").rename(path)
        ledger.check_files()
        assert "ledger_file_restored" in caplog.text
        until(lambda: not ledger.is_failing)
    ledger.close()
    assert [found.request_id for found in Journal(tmp_path / "journal").recover()] == ["a"]
    assert [written.request_id for written in stored(tmp_path)] == ([] if is_deleted else ["a"])
    again = open_ledger(tmp_path)
    again.start()
    again.close()
    assert [written.request_id for written in stored(tmp_path)] == ["a"]


def test_entries_of_a_file_that_is_deleted_while_they_are_written_stay_in_the_journal(tmp_path: Path):
    store = DeletedStore(tmp_path / "l.sqlite")
    ledger = JournaledLedger(Journal(tmp_path / "journal", generation_bytes_max=1), store, lambda published: None)
    ledger.start()
    ledger.append_hold(hold("a"))
    ledger.append_entry(entry("a"))
    until(lambda: ledger.is_failing)
    ledger.close()
    assert [found.request_id for found in Journal(tmp_path / "journal").recover()] == ["a"]


class DeletedStore(SqliteLedger):
    """A store whose file is deleted as it writes."""

    def append(self, entries: Iterable[LedgerEntry]) -> int:
        count = super().append(entries)
        self.file.path.unlink(missing_ok=True)
        return count


def test_a_lost_journal_refuses_holds_until_it_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ledger = open_ledger(tmp_path)
    ledger.start()
    ledger.append_hold(hold("open"))
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "l.sqlite").rename(tmp_path / "moved")
    ledger.check_files()
    with pytest.raises(Overloaded, match="journal is missing"):
        ledger.append_hold(hold("a"))
    (tmp_path / "moved").rename(tmp_path / "l.sqlite")
    ledger.check_files()
    assert not ledger.is_failing and "journal_begun_anew" in caplog.text
    ledger.append_hold(hold("a"))
    assert {found.request_id for found in Journal(tmp_path / "journal").recover()} == {"open", "a"}
    with pytest.raises(OSError, match="in use by another gateway"):
        Journal(tmp_path / "journal").acquire_lock()
    ledger.close()


def test_a_journal_that_another_process_has_taken_is_not_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ledger = open_ledger(tmp_path)
    ledger.start()
    shutil.rmtree(tmp_path / "journal")
    other = Journal(tmp_path / "journal")
    other.acquire_lock()
    ledger.check_files()
    ledger.check_files()
    assert ledger.is_failing and caplog.text.count("journal_not_begun_anew") == 1
    other.close()
    ledger.check_files()
    assert not ledger.is_failing
    ledger.close()


def test_entries_are_written_after_sqlite_was_locked(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    ledger.start()
    other = sqlite3.connect(tmp_path / "l.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.append_entry(entry("a"))
    until(lambda: ledger.backlog == 0)
    assert other.execute("SELECT COUNT(*) FROM entries").fetchone() == (0,)
    other.execute("COMMIT")
    ledger.close()
    other.close()
    assert len(stored(tmp_path)) == 1


def test_a_batch_is_written_again_until_the_database_accepts_it(tmp_path: Path):
    failed, repaired = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        # The pause before a retry, unlike that between two batches.
        if seconds >= 1.0:
            failed.set()
            assert repaired.wait(DEADLINE_SECONDS)

    ledger = open_ledger(tmp_path, sleep=sleep)
    ledger.start()
    other = sqlite3.connect(tmp_path / "l.sqlite", isolation_level=None)
    other.execute("CREATE TRIGGER broken BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'disk error'); END")
    ledger.append_entry(entry("a"))
    assert failed.wait(DEADLINE_SECONDS)
    assert ledger.is_failing
    assert [found.request_id for found in Journal(tmp_path / "journal").recover()] == ["a"], "kept in the journal"
    other.execute("DROP TRIGGER broken")
    other.close()
    repaired.set()
    until(lambda: not ledger.is_failing)
    ledger.close()
    assert [written.request_id for written in stored(tmp_path)] == ["a"]


def test_holds_are_refused_while_the_queue_is_full(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    ledger.start()
    other = sqlite3.connect(tmp_path / "l.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    queued = entry("a")
    while ledger.backlog < QUEUE_MAX:
        ledger.append_entry(queued)
    with pytest.raises(Overloaded, match="queue is full"):
        ledger.append_hold(hold("b"))
    other.execute("COMMIT")
    other.close()
    until(lambda: ledger.backlog < QUEUE_MAX)
    ledger.append_hold(hold("b"))
    ledger.close()


def test_an_entry_that_sqlite_cannot_store_is_skipped_and_the_others_are_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    ledger = open_ledger(tmp_path)
    ledger.start()
    for each in (entry("a"), entry("huge", charge_nusd=2**63), entry("b")):
        ledger.append_entry(each)
    ledger.close()
    assert "ledger_entry_not_storable entry=huge.1" in caplog.text
    assert [written.request_id for written in stored(tmp_path)] == ["a", "b"]
    again = open_ledger(tmp_path)
    again.start()
    assert not again.is_failing
    again.close()


def test_a_journaled_entry_that_sqlite_cannot_store_does_not_prevent_a_start(tmp_path: Path):
    journal = started_journal(tmp_path)
    for each in (entry("huge", charge_nusd=2**63), entry("a")):
        journal.append_entry(each)
    ledger = open_ledger(tmp_path)
    assert ledger.start() == []
    ledger.close()
    assert [written.request_id for written in stored(tmp_path)] == ["a"]


def test_a_second_gateway_on_the_same_folder_does_not_start(tmp_path: Path):
    ledger, second = open_ledger(tmp_path), open_ledger(tmp_path)
    ledger.start()
    with pytest.raises(OSError, match="in use by another gateway"):
        second.start()
    ledger.close()
    second.start()
    second.close()
