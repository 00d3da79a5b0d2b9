"""The pipeline's ledger: journal first, then a queue and a writer thread.

If SQLite is not writable the queue grows to its limit and new calls are answered 503 (no unrecorded call is dialled).
Settled calls stay in the journal and are written once the disk is back, or at the next start. The same holds while the
ledger's file is not at its place; without a place for the journal no call is made.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

from ..values.errors import Overloaded
from ..values.ledger_entry import Hold, LedgerEntry
from .journal import Journal
from .ledger_sqlite import SqliteLedger

log = logging.getLogger(__name__)

QUEUE_MAX = 20_000
_BATCH_MAX = 1_000
# Pause between batches: fewer commits under load; exports lag by at most this.
_BATCH_SECONDS = 0.1
_RETRY_SECONDS = 1.0
# Errors of a value that SQLite can never store (an integer beyond 64 bits), unlike those of a full disk.
_NOT_STORABLE_ERRORS = (OverflowError, ValueError, TypeError, sqlite3.DataError, sqlite3.InterfaceError)


class JournaledLedger:
    """Takes holds and entries without waiting.

    publish: receives every entry
    sleep: waits so many seconds in the writer thread, between batches and before a retry
    """

    def __init__(
        self,
        journal: Journal,
        store: SqliteLedger,
        publish: Callable[[LedgerEntry], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._journal = journal
        self._store = store
        self._publish = publish
        self._sleep = sleep
        self._queue: queue.SimpleQueue[tuple[int, LedgerEntry] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_writer, name="ledger", daemon=True)
        self._journal_failing = False
        self._journal_lost = False
        self._store_failing = False
        self._file_fault = ""
        self._is_closing = False

    def start(self) -> list[LedgerEntry]:
        """Write journal entries that the store lacks; returns the calls left open.

        Raises OSError if another process has the folder.
        """
        self._journal.acquire_lock()
        recovered = self._journal.recover()
        try:
            new = self._store.append(recovered) if recovered else 0
        except _NOT_STORABLE_ERRORS:
            new = self._store_each(recovered)
        lost = [entry for entry in recovered if entry.outcome == "expired"]
        if new:
            log.info("journal_recovered entries=%d open_calls=%d", new, len(lost))
        self._journal.start()
        self._journal.remove_before(self._journal.generation)
        self._thread.start()
        return lost

    def append_hold(self, hold: Hold) -> None:
        """Write a hold before dialling. Raises Overloaded if that is impossible."""
        if self._queue.qsize() >= QUEUE_MAX:
            raise Overloaded("Ledger queue is full; no unrecorded call is made.")
        if self._journal_lost:
            raise Overloaded("Ledger not writable (its journal is missing); no unrecorded call is made.")
        try:
            self._journal.append_hold(hold)
        except Overloaded:
            self._journal_failing = True
            raise
        self._journal_failing = False

    def append_entry(self, entry: LedgerEntry) -> None:
        """Write an entry to the journal and queue it for the store.

        A journal failure is logged; the entry still reaches the store.
        """
        try:
            self._journal.append_entry(entry)
            self._journal_failing = False
        except OSError as error:
            self._journal_failing = True
            log.error("journal_write_failed error=%s", error.strerror)
        self._queue.put((self._journal.generation, entry))
        self._publish(entry)

    def probe(self) -> None:
        """Check whether a failing journal is writable again, even without calls."""
        if self._journal_failing:
            self._journal_failing = not self._journal.probe_writable()

    def check_files(self) -> None:
        """Notice files that were moved or deleted, or are back; begin the journal anew where only that is lost."""
        fault = self._store.file.fault()
        if fault and fault != self._file_fault:
            log.error("ledger_file_lost path=%s fault=%s entries=kept_in_journal", self._store.file.path, fault)
        elif self._file_fault and not fault:
            log.warning("ledger_file_restored path=%s entries_waiting=%d", self._store.file.path, self.backlog)
        self._file_fault = fault
        was_lost, self._journal_lost = self._journal_lost, self._journal.is_lost
        if not self._journal_lost:
            if was_lost:
                log.warning("journal_restored calls=resumed")
            self.probe()
            return
        if not was_lost:
            log.error("journal_lost folder=%s", self._journal.folder)
        if not fault:
            # The folder is there, as the ledger's file is: what is lost are copies of entries, and holds that are open.
            try:
                self._journal.begin_anew()
            except OSError as error:
                if not was_lost:
                    log.error("journal_not_begun_anew calls=refused error=%s", error.strerror)
            else:
                self._journal_lost = self._journal_failing = False
                log.warning("journal_begun_anew generation=%d", self._journal.generation)

    @property
    def has_shrunk(self) -> bool:
        """Whether the ledger's file was smaller at the last look, so that its content has to be checked."""
        return self._file_fault == "truncated"

    def check_content(self) -> None:
        """Read a ledger file that has become smaller. Blocks while it is read."""
        self._store.file.check_content()

    @property
    def is_failing(self) -> bool:
        """Whether journal or store is not writable, or a file of theirs is not at its place."""
        return (
            self._journal_failing
            or self._journal_lost
            or self._store_failing
            or bool(self._file_fault)
            or not self._thread.is_alive()
        )

    @property
    def failure(self) -> str:
        """What is failing, "" for nothing."""
        if self._file_fault:
            return f"its file is {self._file_fault}"
        if self._journal_lost:
            return "its journal is missing"
        return "not writable" if self.is_failing else ""

    @property
    def backlog(self) -> int:
        """Entries that the store does not have yet."""
        return self._queue.qsize()

    def close(self) -> None:
        """Write what is queued and stop the writer; what cannot be written stays in the journal."""
        self._is_closing = True
        self._queue.put(None)
        self._thread.join(timeout=30.0)
        self._journal.close()
        self._store.close()

    def _run_writer(self) -> None:
        """Write batches until the end marker is queued."""
        running = True
        while running:
            batch, running = self._next_batch()
            if batch:
                if not self._store_batch([entry for _, entry in batch]):
                    # Without the end marker in the queue.
                    unwritten = len(batch) + max(0, self.backlog - 1)
                    log.error("ledger_entries_unwritten entries=%d kept_in=journal", unwritten)
                    return
                # All entries of generations older than the batch's first were queued before it, so they are stored.
                self._journal.remove_before(batch[0][0])
            if running and len(batch) < _BATCH_MAX:
                self._sleep(_BATCH_SECONDS)

    def _next_batch(self) -> tuple[list[tuple[int, LedgerEntry]], bool]:
        """(queued entries, whether to continue); waits for at least one item."""
        batch = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) >= _BATCH_MAX or self._queue.empty():
                return batch, True
            item = self._queue.get()
        return batch, False

    def _store_batch(self, entries: Sequence[LedgerEntry]) -> bool:
        """Write one batch, retrying until it succeeds; the journal has it meanwhile. False if the ledger closes first."""
        while True:
            is_last_try = self._is_closing
            try:
                if self._append(entries):
                    self._store_failing = False
                    return True
            except sqlite3.Error as error:
                log.error("ledger_write_failed retry_seconds=%s error=%s", _RETRY_SECONDS, error)
            self._store_failing = True
            if is_last_try:
                return False
            self._sleep(_RETRY_SECONDS)

    def _append(self, entries: Sequence[LedgerEntry]) -> bool:
        """Write entries; False if the file is not at its place, before or after: what a deleted file holds is lost."""
        if self._store.file.fault():
            return False
        try:
            self._store.append(entries)
        except _NOT_STORABLE_ERRORS:
            self._store_each(entries)
        return not self._store.file.fault()

    def _store_each(self, entries: Sequence[LedgerEntry]) -> int:
        """Write entries singly and log unstorable ones; returns how many were new."""
        new = 0
        for entry in entries:
            try:
                new += self._store.append([entry])
            except _NOT_STORABLE_ERRORS as error:
                log.error("ledger_entry_not_storable entry=%s error=%s", entry.id, error)
        return new
