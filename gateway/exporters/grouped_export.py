"""Exports sums of ledger entries per group as CSV or JSON, exact to 1 nUSD."""

import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from ..values.ledger_entry import GROUP_COLUMNS
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, nusd_to_usd

Row = dict[str, Any]
CONTENT_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_MS_PER_SECOND = 1000
# OWASP's list for CSV injection.
_FORMULA_OPENERS = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportQuery:
    """Groups and time range of an export.

    groups: ledger columns to group by.
    start_ms: first time included, ms since the epoch.
    end_ms: first time excluded, ms since the epoch.
    """

    groups: tuple[str, ...]
    start_ms: int
    end_ms: int


def parse_query(*, by: str, start: str | None, end: str | None, now: float) -> ExportQuery:
    """Parses the query parameters. Raises ValueError.

    `by` is comma-separated; `start` and `end` are ISO dates or times (UTC).
    """
    groups = tuple(part.strip() for part in by.split(",") if part.strip())
    unknown = [group for group in groups if group not in GROUP_COLUMNS]
    if unknown:
        raise ValueError(f"cannot group by {', '.join(unknown)}; choose from {', '.join(GROUP_COLUMNS)}")
    start_ms = _parse_time_ms("from", start) if start else 0
    end_ms = _parse_time_ms("to", end) if end else round(now * _MS_PER_SECOND) + 1
    if start_ms >= end_ms:
        raise ValueError("'from' must be before 'to'")
    return ExportQuery(groups=groups, start_ms=start_ms, end_ms=end_ms)


def render(rows: list[Row], query: ExportQuery, format_: str) -> str:
    """Renders the rows as CSV or as one JSON object. Raises ValueError."""
    if format_ not in CONTENT_TYPES:
        raise ValueError(f"format must be one of {', '.join(CONTENT_TYPES)}")
    export_rows = [_export_row(row) for row in rows]
    if format_ == "json":
        document = {
            "from": _iso(query.start_ms),
            "to": _iso(query.end_ms),
            "by": query.groups,
            "rows": export_rows,
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"
    out = io.StringIO()
    columns = list(export_rows[0]) if export_rows else list(query.groups)
    writer = csv.DictWriter(out, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(export_rows)
    return out.getvalue()


def _export_row(row: Row) -> dict[str, str | int]:
    """Returns the summed integer columns, with dollars, Wh and grams beside them."""
    cells: dict[str, str | int] = {
        name: ("" if value is None else _escape_cell(value)) if name in GROUP_COLUMNS else value or 0
        for name, value in row.items()
    }
    for name in ("charge", "reference"):
        cells[f"{name}_usd"] = nusd_to_usd(int(row[f"{name}_nusd"] or 0))
    for bound in ("low", "mid", "high"):
        cells[f"energy_wh_{bound}"] = f"{int(row[f'energy_mj_{bound}'] or 0) / MILLIJOULES_PER_WH:.6f}"
        cells[f"carbon_g_{bound}"] = f"{int(row[f'carbon_ug_{bound}'] or 0) / MICROGRAMS_PER_GRAM:.6f}"
    for unit, count in (("request", row["requests"]), ("session", row["sessions"]), ("unit", row["units"])):
        for bound in ("low", "mid", "high"):
            micrograms = row[f"units_carbon_ug_{bound}" if unit == "unit" else f"carbon_ug_{bound}"]
            cells[f"g_per_{unit}_{bound}"] = _grams_per_unit(micrograms, count)
    emitted = row["carbon_ug_mid"] or 0
    for name, baseline in (("routing", "reference_carbon_ug"), ("waiting", "undeferred_carbon_ug")):
        cells[f"g_saved_by_{name}"] = f"{((row[baseline] or 0) - emitted) / MICROGRAMS_PER_GRAM:.6f}"
    return cells


def _grams_per_unit(micrograms: int | None, count: float | None) -> str:
    """Returns grams per functional unit (SCI), "" without any unit."""
    return f"{(micrograms or 0) / MICROGRAMS_PER_GRAM / count:.6f}" if count else ""


def _escape_cell(value: str) -> str:
    """Quotes text that a spreadsheet would treat as a formula; empty text stays empty."""
    return f"'{value}" if value.startswith(_FORMULA_OPENERS) else value


def _parse_time_ms(name: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"'{name}' must be an ISO 8601 time, like 2026-11-01") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * _MS_PER_SECOND)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / _MS_PER_SECOND, UTC).isoformat()
