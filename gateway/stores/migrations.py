"""Brings a ledger file of an earlier version up to this one: renamed columns, keys and codes, all or none.

The version of a file is SQLite's `user_version`. Rows are rewritten only where a name changed; figures stay.
"""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

# The names of version 0, before the first release: old -> new.
_RENAMED_COLUMNS = {"world": "config_hash"}
_RENAMED_CODES = {
    "deployments_resting": "circuit_breaker_open",
    "loop_held": "loop_approval_required",
    "not_carriable": "not_translatable",
    "upstream_broken": "upstream_invalid_response",
    "caller_gone": "client_closed_request",
    "hold_used_up": "hold_exhausted",
    "dialect_not_spoken": "dialect_not_supported",
    "not_escalated": "escalation_failed",
}
_RENAMED_EVENT_KEYS = {"acted": "enforced", "who": "actor", "why": "reason"}


class OutdatedLedger(sqlite3.DatabaseError):
    """A ledger file of an earlier version, which only the gateway that holds the data folder's lock may migrate."""


def migrate_file(path: Path) -> None:
    """Bring a ledger file up to this version; the caller holds the data folder's lock. Raises sqlite3.Error."""
    db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
    try:
        migrate(db)
    finally:
        db.close()


def check_version(db: sqlite3.Connection) -> None:
    """Raise OutdatedLedger for a file of an earlier version; mark a new, empty one as current."""
    if _version(db) >= len(_MIGRATIONS):
        return
    if _has_entries_table(db):
        raise OutdatedLedger(
            "the ledger file is of an earlier version; start this version's gateway once to migrate it"
        )
    db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def migrate(db: sqlite3.Connection) -> None:
    """Run the migrations that the file still lacks, in one transaction. Raises sqlite3.Error."""
    if _version(db) >= len(_MIGRATIONS) or not _has_entries_table(db):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated the file meanwhile.
        for run in _MIGRATIONS[_version(db) :]:
            run(db)
        db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def rename_keys_of_journal_line(line: bytes) -> bytes:
    """A journal line of an earlier version with today's column names and codes."""
    for old, new in _RENAMED_COLUMNS.items():
        if f'"{new}":'.encode() not in line:
            line = line.replace(f'"{old}":'.encode(), f'"{new}":'.encode())
    for old, new in _RENAMED_CODES.items():
        line = line.replace(f'"code":"{old}"'.encode(), f'"code":"{new}"'.encode())
    return line


def _rename_to_field_names(db: sqlite3.Connection) -> None:
    columns = {row[1] for row in db.execute("PRAGMA table_info(entries)")}
    for old, new in _RENAMED_COLUMNS.items():
        if old in columns:
            db.execute(f"ALTER TABLE entries RENAME COLUMN {old} TO {new}")
    cases, names = " ".join(["WHEN ? THEN ?"] * len(_RENAMED_CODES)), ", ".join("?" * len(_RENAMED_CODES))
    pairs = [name for pair in _RENAMED_CODES.items() for name in pair]
    db.execute(f"UPDATE entries SET code = CASE code {cases} END WHERE code IN ({names})", (*pairs, *_RENAMED_CODES))
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
        return
    for event_id, text in db.execute("SELECT id, details FROM events").fetchall():
        details = json.loads(text)
        renamed = {_RENAMED_EVENT_KEYS.get(key, key): value for key, value in details.items()}
        if renamed.get("code") in _RENAMED_CODES:
            renamed["code"] = _RENAMED_CODES[renamed["code"]]
        if renamed != details:
            db.execute("UPDATE events SET details = ? WHERE id = ?", (json.dumps(renamed), event_id))


def _has_entries_table(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone() is not None


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_rename_to_field_names,)
