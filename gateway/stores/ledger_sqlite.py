"""The ledger in SQLite (WAL): append-only, idempotent by entry id.

All calls block; `ledger.py` makes them from its writer thread.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import FieldInfo, astuple, fields

from ..values.budget import Amounts
from ..values.catalog import UNKNOWN_FOOTPRINT_METHOD
from ..values.ledger_entry import AMOUNT_COLUMNS, GROUP_COLUMNS, LedgerEntry, correction_id
from ..values.quality import SHADOW_KEY
from . import events_sqlite, metered_energy_sqlite
from .ledger_file import LedgerFile, connect_existing
from .migrations import check_version

_COLUMNS = tuple(field.name for field in fields(LedgerEntry))
_TYPES = {str: "TEXT", int: "INTEGER", float: "REAL"}
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS entries (
    {", ".join(f"{field.name} {_TYPES[field.type]} NOT NULL" for field in fields(LedgerEntry))},
    UNIQUE (id)
);
CREATE INDEX IF NOT EXISTS entries_at ON entries (at_ms);
CREATE TABLE IF NOT EXISTS objects (id TEXT NOT NULL PRIMARY KEY, entry TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMN_LIST = ", ".join(_COLUMNS)
_ROW_PLACEHOLDERS = f"({', '.join('?' * len(_COLUMNS))})"
# Rows per statement: below the 999 variables that older SQLite builds allow. Fewer statements matter, because sqlite3
# releases the GIL at each and the event loop then takes it.
_ROWS_MAX = 20
# End of a call in ms: its spend is charged at that time.
_ENDED_MS = "(at_ms + duration_ms)"
# Time that determines an entry's budget windows; at_ms in entries of earlier versions.
_WINDOW_MS = "CASE window_ms WHEN 0 THEN at_ms ELSE window_ms END"
NO_FILTER: Mapping[str, str] = {}
# Amounts that an entry charges to budgets, in the order of Measure; a correction is no call.
_ENTRY_AMOUNTS = (
    "charge_nusd", "input_tokens + output_tokens", "usage_basis != 'none' AND outcome != 'corrected'", "energy_mj_mid",
    "carbon_ug_mid",
)  # fmt: skip
# Their sums: what was charged, then what corrections took back, which replicas report as totals of their own.
_AMOUNT_SUMS = ", ".join(
    f"COALESCE(SUM({pick}({amount}, 0)), 0)" for pick in ("MAX", "MIN") for amount in _ENTRY_AMOUNTS
)
_NOT_CORRECTED = f"NOT EXISTS (SELECT 1 FROM entries AS later WHERE later.id = entries.id || '{correction_id('')}')"
# Sessions from other sources cannot be found again after a restart.
_HAS_CALLER_SESSION = "session_source NOT IN ('new', 'lineage')"
# No call takes longer than a day.
_CALL_MS_MAX = 86_400_000
# Last reported units of each session: (account, units). SQLite returns the other columns of the MAX row; the account is
# key/session.
_REPORTED_UNITS = (
    "SELECT account, CAST(json_extract(details, '$.units') AS REAL) AS units, MAX(at_ms) FROM events"
    " WHERE kind = 'session_outcome' GROUP BY account"
)
_TIME_FORMATS = {"day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H:00Z"}
_UNIT_COLUMNS = ("units", "units_carbon_ug_low", "units_carbon_ug_mid", "units_carbon_ug_high")
# Carbon counterfactuals: in entries of versions without them, the actual carbon.
_CARBON_COUNTERFACTUALS = ("market_carbon_ug", "reference_carbon_ug", "undeferred_carbon_ug")


class SqliteLedger:
    """One connection to one ledger file; OutdatedLedger for a file of an earlier version (see migrations.py).

    must_exist: raise sqlite3.OperationalError where the file is missing, instead of creating it
    file: the file that was opened
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        if must_exist:
            self._db = connect_existing(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=10.0, check_same_thread=False, isolation_level=None)
        try:
            # NORMAL in WAL: a commit survives a crash of the process; the journal covers uncommitted entries.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            # Checkpoints every 16 MB instead of 4, so that a busy ledger copies its pages a quarter as often.
            self._db.execute("PRAGMA wal_autocheckpoint=4000")
            check_version(self._db)
            self._db.executescript(_SCHEMA + metered_energy_sqlite.SCHEMA + events_sqlite.SCHEMA)
            self._add_missing_columns()
            self.file = LedgerFile(path)
        except (sqlite3.Error, OSError):
            self._db.close()
            raise

    def append(self, entries: Iterable[LedgerEntry]) -> int:
        """Write entries in one transaction; returns how many were new.

        Known ids are ignored. Raises sqlite3.Error.
        """
        entries = tuple(entries)
        rows = [astuple(entry) for entry in entries]
        chunks = [rows[at : at + _ROWS_MAX] for at in range(0, len(rows), _ROWS_MAX)]
        before = self._db.total_changes
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for chunk in chunks:
                statement = f"INSERT OR IGNORE INTO entries ({_COLUMN_LIST}) VALUES {', '.join([_ROW_PLACEHOLDERS] * len(chunk))}"
                self._db.execute(statement, [value for row in chunk for value in row])
            objects = [
                (name, entry.id) for entry in entries if entry.object_ids for name in entry.object_ids.split(" ")
            ]
            new = self._db.total_changes - before
            if objects:
                self._db.executemany("INSERT OR IGNORE INTO objects (id, entry) VALUES (?, ?)", objects)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return new

    def _add_missing_columns(self) -> None:
        """Add columns that an earlier version's ledger lacks, all or none.

        Its entries get the defaults.
        """
        if not self._missing_columns():
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have added them meanwhile.
            for field in self._missing_columns():
                default = repr(field.default) if isinstance(field.default, str) else "0"
                column = f"{field.name} {_TYPES[field.type]} NOT NULL DEFAULT {default}"
                self._db.execute(f"ALTER TABLE entries ADD COLUMN {column}")
                if field.name in _CARBON_COUNTERFACTUALS:
                    self._db.execute(f"UPDATE entries SET {field.name} = carbon_ug_mid")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _missing_columns(self) -> list[FieldInfo]:
        existing = {row[1] for row in self._db.execute("PRAGMA table_info(entries)")}
        return [field for field in fields(LedgerEntry) if field.name not in existing]

    def entries(self) -> Iterator[LedgerEntry]:
        """Every entry, oldest first."""
        for row in self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM entries ORDER BY at_ms, id"):
            yield LedgerEntry(**dict(zip(_COLUMNS, row, strict=True)))

    def entries_of_request(self, request_id: str) -> list[LedgerEntry]:
        """The entries of one request, first attempt first; uses the index on ids."""
        rows = self._db.execute(
            f"SELECT {_COLUMN_LIST} FROM entries WHERE id >= ? AND id < ? ORDER BY attempts",
            (f"{request_id}.", f"{request_id}/"),
        )
        return [LedgerEntry(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def sum_by(self, by: Sequence[str], start_ms: int, end_ms: int) -> list[dict[str, Any]]:
        """Sums per group of entries with start_ms <= at_ms < end_ms.

        `by` is a subset of GROUP_COLUMNS.
        """
        assert set(by) <= set(GROUP_COLUMNS), "only known columns reach the statement"
        columns = [f"{_group_expression(name)} AS {name}" for name in by]
        names = (
            *by, "requests", "refused", "failed", "loops_stopped", "small_requests", "frontier_requests",
            "estimated_entries", "unpriced_entries", "unknown_footprints", "sessions", "deferred_entries", *AMOUNT_COLUMNS,
            "metered_mj",
        )  # fmt: skip
        aggregates = [
            "SUM(final)",
            "SUM(final AND outcome = 'refused')",
            "SUM(final AND outcome NOT IN ('completed', 'refused', 'rejected'))",
            "COUNT(DISTINCT CASE WHEN code = 'loop_stopped' THEN session END)",
            "SUM(final AND tier = 'small')",
            "SUM(final AND tier = 'frontier')",
            f"SUM(usage_basis = 'estimated' AND {_NOT_CORRECTED})",
            f"SUM((NOT priced OR unpriced_parts != '') AND {_NOT_CORRECTED})",
            "SUM(usage_basis != 'none' AND outcome != 'corrected'"
            f" AND footprint_method = '{UNKNOWN_FOOTPRINT_METHOD}')",
            "COUNT(DISTINCT CASE WHEN usage_basis != 'none' THEN key || '/' || session END)",
            "SUM(deferred_ms > 0)",
            *(f"SUM({name})" for name in AMOUNT_COLUMNS),
            "SUM((SELECT millijoules FROM measured WHERE entry = entries.id))",
        ]
        grouping = f" GROUP BY {', '.join(by)} ORDER BY {', '.join(by)}" if by else ""
        statement = f"SELECT {', '.join([*columns, *aggregates])} FROM entries WHERE at_ms >= ? AND at_ms < ?{grouping}"
        rows = [dict(zip(names, row, strict=True)) for row in self._db.execute(statement, (start_ms, end_ms))]
        units = self._units_by(by, start_ms, end_ms)
        no_units = (0.0, 0, 0, 0)
        return [
            row | dict(zip(_UNIT_COLUMNS, units.get(tuple([row[name] for name in by]), no_units), strict=True))
            for row in rows
        ]

    def _units_by(self, by: Sequence[str], start_ms: int, end_ms: int) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        """Reported units and carbon of the sessions with calls in each group.

        A session with calls in several groups, or outside this time, has its units divided among them by carbon.
        """
        if self._db.execute(f"SELECT 1 FROM ({_REPORTED_UNITS}) LIMIT 1").fetchone() is None:
            return {}
        names = "".join(f"{name}, " for name in by)
        columns = "".join(f"{_group_expression(name)} AS {name}, " for name in by)
        grouping = f" GROUP BY {', '.join(by)}" if by else ""
        account, is_reported = "key || '/' || session", "key || '/' || session IN (SELECT account FROM reported)"
        rows = self._db.execute(
            f"WITH reported AS ({_REPORTED_UNITS}), took AS (SELECT {columns}{account} AS account, COUNT(*) AS calls,"
            " SUM(carbon_ug_low) AS low, SUM(carbon_ug_mid) AS mid, SUM(carbon_ug_high) AS high"
            f" FROM entries WHERE at_ms >= ? AND at_ms < ? AND {is_reported} GROUP BY {names}account),"
            f" whole AS (SELECT {account} AS account, SUM(carbon_ug_mid) AS all_mid, COUNT(*) AS all_calls FROM entries"
            f" WHERE {is_reported} GROUP BY account)"
            f" SELECT {names}SUM(units * CASE WHEN all_mid > 0 THEN 1.0 * mid / all_mid ELSE 1.0 * calls / all_calls END),"
            " SUM(low), SUM(mid), SUM(high)"
            f" FROM took JOIN whole USING (account) JOIN reported USING (account){grouping}",
            (start_ms, end_ms),
        )
        count = len(by)
        return {row[:count]: row[count:] for row in rows if row[count] is not None}

    def iter_spent(
        self,
        by: Sequence[str],
        start_ms: int,
        *,
        fixed: Mapping[str, str] = NO_FILTER,
        step_seconds: int = 0,
        active_ms: int | None = None,
        shadows: bool = False,
    ) -> Iterator[tuple[tuple[str, ...], int, Amounts]]:
        """Spend per group: (values of `by`, seconds since the epoch, amounts).

        Rows are ordered by time, oldest first. What corrections took back is in a row of its own after them, with
        negative amounts.

        by: grouping columns.
        start_ms: only entries whose window time (with steps: end) is at or after this.
        fixed: values that columns must have.
        step_seconds: one row per step of this length by the end of the calls; 0: one row with time 0.
        active_ms: only sessions with a caller's id and a call since then.
        shadows: shadow calls only, or all others.
        """
        assert set(by) | set(fixed) <= set(GROUP_COLUMNS), "only known columns reach the statement"
        step = f"{_ENDED_MS} / 1000 / {int(step_seconds)} * {int(step_seconds)}" if step_seconds else "0"
        where = f" AND key {'=' if shadows else '!='} '{SHADOW_KEY}'"
        where += "".join(f" AND {name} = ?" for name in fixed)
        where += f" AND {_ENDED_MS if step_seconds else _WINDOW_MS} >= {int(start_ms)}"
        if active_ms is not None:
            where += f" AND {_HAS_CALLER_SESSION} AND root IN (SELECT DISTINCT root FROM entries WHERE at_ms >= {int(active_ms)} AND {_HAS_CALLER_SESSION})"
        columns = "".join(f"{name}, " for name in by)
        rows = self._db.execute(
            f"SELECT {columns}{step} AS step, {_AMOUNT_SUMS} FROM entries WHERE at_ms >= ?{where}"
            f" GROUP BY {columns}step ORDER BY step",
            # A call may start long before it is charged, and clocks differ.
            (start_ms - _CALL_MS_MAX, *fixed.values()),
        )
        count = len(by)
        for row in rows:
            spent, taken_back = row[count + 1 : -len(_ENTRY_AMOUNTS)], row[-len(_ENTRY_AMOUNTS) :]
            yield row[:count], row[count], spent
            if any(taken_back):
                yield row[:count], row[count], taken_back

    def newest_output_tokens(self, limit: int) -> list[tuple[str, str, int]]:
        """(task type, model, output tokens) of the newest complete answers, oldest first."""
        rows = self._db.execute(
            "SELECT task_type, model, output_tokens FROM entries WHERE outcome = 'completed' AND usage_basis = 'exact'"
            " AND code = '' ORDER BY at_ms DESC LIMIT ?",
            (limit,),
        )
        return list(reversed(rows.fetchall()))

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


class LedgerReader:
    """Looks entries up in a ledger file that another connection writes; never creates the file.

    Raises sqlite3.Error, also where there is no file.
    """

    def __init__(self, path: Path) -> None:
        self._db = connect_existing(path)
        self._db.execute("PRAGMA query_only = ON")

    def objects(self, names: Sequence[str]) -> dict[str, tuple[LedgerEntry, bool]]:
        """By id of an object: the entry of the call that created it, and whether a correction of it was booked."""
        columns = ", ".join(f"entries.{name}" for name in _COLUMNS)
        rows = self._db.execute(
            f"SELECT objects.id, {_NOT_CORRECTED}, {columns} FROM objects JOIN entries ON entries.id = objects.entry"
            f" WHERE objects.id IN ({', '.join('?' * len(names))})",
            tuple(names),
        )
        return {row[0]: (LedgerEntry(**dict(zip(_COLUMNS, row[2:], strict=True))), not row[1]) for row in rows}

    def has_entry(self, entry_id: str) -> bool:
        """Whether the entry with this id is written."""
        return self._db.execute("SELECT 1 FROM entries WHERE id = ?", (entry_id,)).fetchone() is not None

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def _group_expression(name: str) -> str:
    return f"strftime('{_TIME_FORMATS[name]}', at_ms / 1000, 'unixepoch')" if name in _TIME_FORMATS else name
