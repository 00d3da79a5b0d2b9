"""Audit events of budgets and sessions, append-only, in the ledger's database.

Events are rare and small: each is written at once, from a thread, over its own connection.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from ..values.base import Value
from .ledger_file import connect_existing

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, budget TEXT NOT NULL, account TEXT NOT NULL,
    details TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_at ON events (at_ms);
"""
# Events on one page of the audit trail.
PAGE_EVENTS_MAX = 1_000


class AuditEvent(Value, frozen=True, kw_only=True):
    """One audit event.

    id: unique id.
    at_ms: milliseconds since the epoch.
    kind: budget_threshold, budget_top_up, budget_grace, or a kind of session event.
    budget: name of the budget, "" for session events.
    account: budget account, or key/session.
    details: the rest, by kind.
    """

    id: str
    at_ms: int
    kind: str
    budget: str
    account: str
    details: Mapping[str, Any]


class SqliteAuditEvents:
    """Audit events in one SQLite file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
        try:
            db.executescript(SCHEMA)
        finally:
            db.close()

    def append(self, event: AuditEvent) -> bool:
        """Write one event; False if its id exists. Raises sqlite3.Error."""
        row = (event.id, event.at_ms, event.kind, event.budget, event.account, orjson.dumps(event.details).decode())
        db = self._connect()
        try:
            return db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)", row).rowcount == 1
        finally:
            db.close()

    def since(self, at_ms: int) -> list[AuditEvent]:
        """The newest events since then, oldest first; at most PAGE_EVENTS_MAX."""
        db = self._connect()
        try:
            rows = db.execute(
                "SELECT * FROM events WHERE at_ms >= ? ORDER BY at_ms DESC LIMIT ?", (at_ms, PAGE_EVENTS_MAX)
            )
            return [
                AuditEvent(
                    id=row[0], at_ms=row[1], kind=row[2], budget=row[3], account=row[4], details=orjson.loads(row[5])
                )
                for row in reversed(rows.fetchall())
            ]
        finally:
            db.close()

    def iter_kinds(self, kinds: Iterable[str], since_ms: int) -> Iterator[AuditEvent]:
        """Every event of these kinds since then, oldest first."""
        names = tuple(kinds)
        db = self._connect()
        try:
            marks = ",".join("?" * len(names))
            rows = db.execute(
                f"SELECT * FROM events WHERE at_ms >= ? AND kind IN ({marks}) ORDER BY at_ms, rowid", (since_ms, *names)
            )
            for row in rows:
                yield AuditEvent(
                    id=row[0], at_ms=row[1], kind=row[2], budget=row[3], account=row[4], details=orjson.loads(row[5])
                )
        finally:
            db.close()

    def grants(self, account: str) -> list[AuditEvent]:
        """The grants to an account, oldest first."""
        db = self._connect()
        try:
            rows = db.execute(
                "SELECT * FROM events WHERE account = ? AND kind IN ('budget_top_up', 'budget_grace') ORDER BY at_ms",
                (account,),
            )
            return [
                AuditEvent(
                    id=row[0], at_ms=row[1], kind=row[2], budget=row[3], account=row[4], details=orjson.loads(row[5])
                )
                for row in rows
            ]
        finally:
            db.close()

    def granted_accounts(self) -> list[tuple[str, str, Mapping[str, str]]]:
        """(account, budget, scope values) of every account with a grant."""
        db = self._connect()
        try:
            rows = db.execute(
                "SELECT account, budget, MAX(details) FROM events WHERE kind IN ('budget_top_up', 'budget_grace')"
                " GROUP BY account, budget"
            )
            return [(account, budget, orjson.loads(details)["scope"]) for account, budget, details in rows]
        finally:
            db.close()

    def _connect(self) -> sqlite3.Connection:
        return connect_existing(self._path, "events")
