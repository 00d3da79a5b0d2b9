"""The export: sums of ledger entries per group, as CSV or JSON, exact to the nano-dollar."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportQuery:
    """What is asked: groups, and the time from (included) to (excluded), in ms since the epoch."""

    groups: tuple[str, ...]
    start_ms: int
    end_ms: int


def parse_query(*, by: str, start: str | None, end: str | None, now: float) -> ExportQuery:
    """Read the parameters: `by` comma-separated, `start` and `end` ISO dates or times (UTC). Raises ValueError."""
    groups = tuple(part.strip() for part in by.split(",") if part.strip())
    wrong = [group for group in groups if group not in GROUP_COLUMNS]
    if wrong:
        raise ValueError(f"cannot group by {', '.join(wrong)}; choose from {', '.join(GROUP_COLUMNS)}")
    start_ms = _parse_time_ms(start) if start else 0
    end_ms = _parse_time_ms(end) if end else round(now * _MS_PER_SECOND) + 1
    if start_ms >= end_ms:
        raise ValueError("'from' must be before 'to'")
    return ExportQuery(groups=groups, start_ms=start_ms, end_ms=end_ms)


def render(rows: list[Row], asked: ExportQuery, format_: str) -> str:
    """The rows as CSV text with a header, or as one JSON object. Raises ValueError for another format."""
    if format_ not in CONTENT_TYPES:
        raise ValueError(f"format must be one of {', '.join(CONTENT_TYPES)}")
    shown = [_export_row(row) for row in rows]
    if format_ == "json":
        document = {"from": _iso(asked.start_ms), "to": _iso(asked.end_ms), "by": asked.groups, "rows": shown}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(shown[0]) if shown else list(asked.groups), lineterminator="\n")
    writer.writeheader()
    writer.writerows(shown)
    return out.getvalue()


def _export_row(row: Row) -> dict[str, str | int]:
    """Integer columns as they are summed, with money beside them in dollars and energy and carbon in Wh and grams."""
    shown: dict[str, str | int] = {name: _escape_cell(value) for name, value in row.items()}
    for name in ("charge", "reference"):
        shown[f"{name}_usd"] = nusd_to_usd(int(row[f"{name}_nusd"] or 0))
    for bound in ("low", "mid", "high"):
        shown[f"energy_wh_{bound}"] = f"{int(row[f'energy_mj_{bound}'] or 0) / MILLIJOULES_PER_WH:.6f}"
        shown[f"carbon_g_{bound}"] = f"{int(row[f'carbon_ug_{bound}'] or 0) / MICROGRAMS_PER_GRAM:.6f}"
    for unit, count in (("request", row["requests"]), ("session", row["sessions"]), ("unit", row["units"])):
        for bound in ("low", "mid", "high"):
            micrograms = row[f"units_carbon_ug_{bound}" if unit == "unit" else f"carbon_ug_{bound}"]
            shown[f"g_per_{unit}_{bound}"] = _grams_per_unit(micrograms, count)
    emitted = row["carbon_ug_mid"] or 0
    for name, other in (("routing", "reference_carbon_ug"), ("waiting", "undeferred_carbon_ug")):
        shown[f"g_saved_by_{name}"] = f"{((row[other] or 0) - emitted) / MICROGRAMS_PER_GRAM:.6f}"
    return shown


def _grams_per_unit(micrograms: int | None, count: float | None) -> str:
    """Grams for each of so many (SCI: carbon per functional unit); nothing where there was none."""
    return f"{(micrograms or 0) / MICROGRAMS_PER_GRAM / count:.6f}" if count else ""


def _escape_cell(value: str | int | None) -> str | int:
    """Text that a spreadsheet would take for a formula is quoted; sums over nothing are 0."""
    if isinstance(value, str) and value[:1] in "=+-@\t\r":
        return f"'{value}"
    return 0 if value is None else value


def _parse_time_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * _MS_PER_SECOND)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / _MS_PER_SECOND, UTC).isoformat()
