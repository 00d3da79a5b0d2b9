"""Objects that providers keep, as known beyond this process: at the other replicas, and in the ledger."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ..stores.ledger_sqlite import LedgerReader
from ..values.errors import Overloaded
from ..values.stored_object import StoredObject, object_of_entry
from .budgets import replica_id
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..stores.sessions_redis import SharedSessions

log = logging.getLogger(__name__)


class StoredObjects:
    """Finds objects by id, and has the usage of each background response booked once.

    folder: data folder that holds the ledger
    """

    def __init__(self, folder: Path, supervisor: Supervisor) -> None:
        self._ledger_path = folder / "ledger.sqlite"
        self._replica_path = folder / "replica"
        self._supervisor = supervisor
        self._shared: SharedSessions | None = None
        self._replica = ""

    def start(self, shared: "SharedSessions | None") -> None:
        """Use the store of all replicas; None for a single replica."""
        self._shared = shared
        self._replica = replica_id(self._replica_path) if shared is not None else ""

    async def find(self, names: Sequence[str], *, must_know: bool) -> Mapping[str, StoredObject]:
        """The known ones of these ids. Raises Overloaded with `must_know` where replicas or ledger cannot be asked."""
        found = dict(await self._shared.read_objects(names)) if self._shared is not None else {}
        missing = [name for name in names if name not in found]
        if missing:
            try:
                found |= await asyncio.to_thread(self._read_ledger, missing)
            except sqlite3.Error as error:
                log.error("ledger_lookup_failed error=%s", error)
                if must_know:
                    raise Overloaded("Ledger not readable: the owner of this object is not known.") from error
        if (
            must_know
            and self._shared is not None
            and self._shared.is_failing
            and any(name not in found for name in names)
        ):
            raise Overloaded("Shared store unavailable: the provider of this object is not known.")
        return found

    def publish(self, name: str, stored: StoredObject, *, is_new: bool) -> None:
        """Publish an object to the other replicas, without waiting."""
        if self._shared is not None:
            is_lasting = is_new or stored.unsettled is not None
            self._shared.publish_object(name, stored, is_lasting=is_lasting, is_new=is_new)

    async def flush(self) -> None:
        """Wait until what was published is known to the other replicas, or the store has failed."""
        if self._shared is not None:
            await self._shared.flush()

    def book_once(
        self, name: str, correction_id: str, book: Callable[[], None], lost: Callable[[], object]
    ) -> Awaitable[None] | None:
        """Call `book`, or `lost` where another replica has booked the usage of this response.

        Among replicas in a task of its own, which the end of a request does not cancel.
        """
        if self._shared is None:
            book()
            return None
        ended = asyncio.get_running_loop().create_future()
        self._supervisor.spawn(
            "booking",
            self._claim_and_book(self._shared, name, correction_id, book, lost, ended),
            lambda error: log.error("usage_not_booked error=%s retry=next_poll", type(error).__name__),
        )
        return asyncio.shield(ended)

    async def _claim_and_book(
        self,
        shared: "SharedSessions",
        name: str,
        correction_id: str,
        book: Callable[[], None],
        lost: Callable[[], object],
        ended: "asyncio.Future[None]",
    ) -> None:
        try:
            winner = await shared.claim_booking(name, self._replica)
            if winner == self._replica and not await asyncio.to_thread(self._is_written, correction_id):
                # Claimed a moment ago, or by this replica before it crashed.
                book()
            elif winner is not None:
                lost()
        finally:
            if not ended.done():
                ended.set_result(None)

    def _read_ledger(self, names: Sequence[str]) -> dict[str, StoredObject]:
        with closing(LedgerReader(self._ledger_path)) as ledger:
            return {
                name: object_of_entry(entry, is_unsettled=entry.usage_basis == "estimated" and not is_corrected)
                for name, (entry, is_corrected) in ledger.objects(names).items()
            }

    def _is_written(self, entry_id: str) -> bool:
        with closing(LedgerReader(self._ledger_path)) as ledger:
            return ledger.has_entry(entry_id)
