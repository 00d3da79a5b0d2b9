"""The ledger as the exchange sees it: journal first, then a bounded queue that a writer thread empties into SQLite.

If SQLite cannot be written the queue grows to its limit and new calls are answered 503 (nothing is dialled that cannot
be recorded); what has been settled stays in the journal and is written when the disk is back or at the next start.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable

from ..errors import Overloaded
from ..values.entry import Hold, LedgerEntry
from .journal import Journal
from .ledger_sqlite import SqliteLedger

log = logging.getLogger(__name__)

QUEUE_MAX = 20_000
_BATCH_MAX = 1_000
# Between batches: fewer commits under load, and an export is at most this far behind.
_BATCH_SECONDS = 0.1
_RETRY_SECONDS = 1.0


class Ledger:
    """Takes holds and facts on the event loop without waiting; `publish` hears every fact (metrics)."""

    def __init__(self, journal: Journal, store: SqliteLedger, publish: Callable[[LedgerEntry], None]) -> None:
        self._journal = journal
        self._store = store
        self._publish = publish
        self._queue: queue.SimpleQueue[tuple[int, LedgerEntry] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self.failing = False

    def start(self) -> list[LedgerEntry]:
        """Bring the store up to what the journal knows; gives the calls that were open when the last process died."""
        found = self._journal.recover()
        new = self._store.append(found) if found else 0
        lost = [entry for entry in found if entry.outcome == "expired"]
        if new:
            log.info(
                "the journal had %d entries that the ledger had not, %d of them calls that were open", new, len(lost)
            )
        self._journal.start()
        self._journal.forget_before(self._journal.generation)
        self._thread.start()
        return lost

    def hold(self, hold: Hold) -> None:
        """Write a hold down before dialling; raises Overloaded if it cannot be, or the writer is too far behind."""
        if self._queue.qsize() >= QUEUE_MAX:
            raise Overloaded("The ledger's queue is full; no call is made unrecorded.")
        self._journal.hold(hold)

    def record(self, entry: LedgerEntry) -> None:
        """Take a fact. A journal that cannot be written is reported; the fact still goes to the store."""
        try:
            self._journal.fact(entry)
            self.failing = False
        except OSError as error:
            self.failing = True
            log.error("the journal cannot be written: %s", error.strerror)
        self._queue.put((self._journal.generation, entry))
        self._publish(entry)

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

    def _write(self) -> None:
        running = True
        while running:
            batch = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= _BATCH_MAX:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            running = item is not None
            if batch:
                self._append([entry for _, entry in batch])
                # Generations older than the batch's first are wholly in the store: their facts were queued before it.
                self._journal.forget_before(batch[0][0])
            if running and len(batch) < _BATCH_MAX:
                time.sleep(_BATCH_SECONDS)

    def _append(self, entries: list[LedgerEntry]) -> None:
        """Write one batch, trying until it is written or the process ends; the journal has it meanwhile."""
        while True:
            try:
                self._store.append(entries)
                return
            except sqlite3.Error as error:
                self.failing = True
                log.error("the ledger cannot be written, trying again: %s", error)
                time.sleep(_RETRY_SECONDS)
