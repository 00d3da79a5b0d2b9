"""Metered energy in the ledger's database: shares of calls and meter readings.

Written from a thread, one window at a time. A kill loses windows that were not attributed yet: their joules belong to
no call, and the ledger's modelled figures apply.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from .ledger_file import connect_existing

SCHEMA = """
CREATE TABLE IF NOT EXISTS measured (entry TEXT PRIMARY KEY, millijoules INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meters (
    deployment TEXT NOT NULL, at_ms INTEGER NOT NULL, millijoules INTEGER NOT NULL, idle_millijoules INTEGER NOT NULL,
    shared_millijoules INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS meters_at ON meters (at_ms);
"""


class SqliteMeteredEnergy:
    """Metered energy in one SQLite file. All calls block and raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
        try:
            db.executescript(SCHEMA)
        finally:
            db.close()

    def append_window(
        self, deployment: str, at_ms: int, shares: Iterable[tuple[str, int]], *, total: int, idle: int
    ) -> None:
        """Add one window of a meter: total, idle and (entry, share) energy in mJ.

        A call in several windows gets the sum of its shares.
        """
        rows = list(shares)
        db = self._connect()
        try:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO measured VALUES (?, ?) ON CONFLICT (entry)"
                " DO UPDATE SET millijoules = millijoules + excluded.millijoules",
                rows,
            )
            shared = sum(millijoules for _, millijoules in rows)
            db.execute("INSERT INTO meters VALUES (?, ?, ?, ?, ?)", (deployment, at_ms, total, idle, shared))
            db.execute("COMMIT")
        finally:
            # Closing rolls back what was not committed.
            db.close()

    def millijoules_of(self, entry: str) -> int | None:
        """The metered accelerator energy of a call in mJ; None if it was not metered."""
        db = self._connect()
        try:
            row = db.execute("SELECT millijoules FROM measured WHERE entry = ?", (entry,)).fetchone()
        finally:
            db.close()
        return int(row[0]) if row is not None else None

    def _connect(self) -> sqlite3.Connection:
        return connect_existing(self._path, "measured")
