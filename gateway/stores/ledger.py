"""The ledger as the exchange sees it: journal first, then a bounded queue that a writer thread empties into SQLite.

If SQLite cannot be written the queue grows to its limit and new calls are answered 503 (nothing is dialled that cannot
be recorded); what has been settled stays in the journal and is written when the disk is back or at the next start.
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
# Between batches: fewer commits under load, and an export is at most this far behind.
_BATCH_SECONDS = 0.1
_RETRY_SECONDS = 1.0
# What SQLite says of a value that it can never take (an integer beyond 64 bits), as opposed to a disk that is full.
_NOT_STORABLE_ERRORS = (OverflowError, ValueError, TypeError, sqlite3.DataError, sqlite3.InterfaceError)


class JournaledLedger:
    """Takes holds and facts on the event loop without waiting; `publish` hears every fact (metrics)."""

    def __init__(self, journal: Journal, store: SqliteLedger, publish: Callable[[LedgerEntry], None]) -> None:
        self._journal = journal
        self._store = store
        self._publish = publish
        self._queue: queue.SimpleQueue[tuple[int, LedgerEntry] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_writer, name="ledger", daemon=True)
        self._journal_failing = False
        self._store_failing = False

    def start(self) -> list[LedgerEntry]:
        """Bring the store up to what the journal knows; gives the calls that were open when the last process died.

        Raises OSError if another process works on the same folder.
        """
        self._journal.acquire_lock()
        found = self._journal.recover()
        try:
            new = self._store.append(found) if found else 0
        except _NOT_STORABLE_ERRORS:
            new = self._store_each(found)
        lost = [entry for entry in found if entry.outcome == "expired"]
        if new:
            log.info(
                "the journal had %d entries that the ledger had not, %d of them calls that were open", new, len(lost)
            )
        self._journal.start()
        self._journal.remove_before(self._journal.generation)
        self._thread.start()
        return lost

    def append_hold(self, hold: Hold) -> None:
        """Write a hold down before dialling; raises Overloaded if it cannot be, or the writer is too far behind."""
        if self._queue.qsize() >= QUEUE_MAX:
            raise Overloaded("The ledger's queue is full; no call is made unrecorded.")
        self._journal.append_hold(hold)
        self._journal_failing = False

    def append_entry(self, entry: LedgerEntry) -> None:
        """Take a fact. A journal that cannot be written is reported; the fact still goes to the store."""
        try:
            self._journal.append_entry(entry)
            self._journal_failing = False
        except OSError as error:
            self._journal_failing = True
            log.error("the journal cannot be written: %s", error.strerror)
        self._queue.put((self._journal.generation, entry))
        self._publish(entry)

    def probe(self) -> None:
        """See whether a journal that could not be written can be again, though nobody calls."""
        if self._journal_failing:
            self._journal_failing = not self._journal.probe_writable()

    @property
    def is_failing(self) -> bool:
        """Whether journal or store cannot be written."""
        return self._journal_failing or self._store_failing or not self._thread.is_alive()

    @property
    def backlog(self) -> int:
        """Facts that the store has not yet taken."""
        return self._queue.qsize()

    def close(self) -> None:
        """Write what is queued and stop."""
        self._queue.put(None)
        self._thread.join(timeout=30.0)
        self._journal.close()
        self._store.close()

    def _run_writer(self) -> None:
        """The writer thread: batches, until the end is queued."""
        going_on = True
        while going_on:
            batch, going_on = self._next_batch()
            if batch:
                self._store_batch([entry for _, entry in batch])
                # Generations older than the batch's first are wholly in the store: their facts were queued before it.
                self._journal.remove_before(batch[0][0])
            if going_on and len(batch) < _BATCH_MAX:
                time.sleep(_BATCH_SECONDS)

    def _next_batch(self) -> tuple[list[tuple[int, LedgerEntry]], bool]:
        """What is queued, at least one item; False with it when the end was among them."""
        batch = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) >= _BATCH_MAX or self._queue.empty():
                return batch, True
            item = self._queue.get()
        return batch, False

    def _store_batch(self, entries: Sequence[LedgerEntry]) -> None:
        """Write one batch, trying until it is written or the process ends; the journal has it meanwhile."""
        while True:
            try:
                self._store.append(entries)
                self._store_failing = False
                return
            except _NOT_STORABLE_ERRORS:
                self._store_each(entries)
                return
            except sqlite3.Error as error:
                self._store_failing = True
                log.error("the ledger cannot be written, trying again: %s", error)
                time.sleep(_RETRY_SECONDS)

    def _store_each(self, entries: Sequence[LedgerEntry]) -> int:
        """Write what can be written and say what cannot: one bad entry must not stop the others. Gives how many were
        new."""
        new = 0
        for entry in entries:
            try:
                new += self._store.append([entry])
            except _NOT_STORABLE_ERRORS as error:
                log.error("entry %s cannot be stored and was set aside: %s", entry.id, error)
        return new
