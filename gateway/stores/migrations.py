"""Brings a ledger file of an earlier version up to this one: renamed columns, keys and codes, all or none.

The version of a file is SQLite's `user_version`. Rows are rewritten only where a name changed; figures stay.
"""

import json
import sqlite3
from collections.abc import Callable

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


def migrate(db: sqlite3.Connection) -> None:
    """Run the migrations that the file still lacks, in one transaction. Raises sqlite3.Error."""
    if _version(db) >= len(_MIGRATIONS):
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
    """A journal line of an earlier version with today's column names."""
    for old, new in _RENAMED_COLUMNS.items():
        if f'"{new}":'.encode() not in line:
            line = line.replace(f'"{old}":'.encode(), f'"{new}":'.encode())
    return line


def _rename_to_field_names(db: sqlite3.Connection) -> None:
    columns = {row[1] for row in db.execute("PRAGMA table_info(entries)")}
    for old, new in _RENAMED_COLUMNS.items():
        if old in columns:
            db.execute(f"ALTER TABLE entries RENAME COLUMN {old} TO {new}")
    for old, new in _RENAMED_CODES.items():
        db.execute("UPDATE entries SET code = ? WHERE code = ?", (new, old))
    for event_id, text in db.execute("SELECT id, details FROM events").fetchall():
        details = json.loads(text)
        renamed = {_RENAMED_EVENT_KEYS.get(key, key): value for key, value in details.items()}
        if renamed.get("code") in _RENAMED_CODES:
            renamed["code"] = _RENAMED_CODES[renamed["code"]]
        if renamed != details:
            db.execute("UPDATE events SET details = ? WHERE id = ?", (json.dumps(renamed), event_id))


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_rename_to_field_names,)
