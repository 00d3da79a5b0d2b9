"""The export of sums per group: parameters, derived columns, CSV and JSON."""

import csv
import io
import json
from typing import Any

import pytest

from gateway.exporters.grouped_export import ExportQuery, parse_query, render
from gateway.values.ledger_entry import GROUP_COLUMNS

NOW = 1_790_000_000.0
QUERY = ExportQuery(groups=("team",), start_ms=0, end_ms=1_000)


def row(**columns: Any) -> dict[str, Any]:
    """One group as the ledger sums it."""
    return {
        "team": "research", "requests": 4, "sessions": 2, "units": 8.0, "charge_nusd": 1, "reference_nusd": 2_500_000_000,
        "energy_mj_low": 3_600_000, "energy_mj_mid": 5_400_000, "energy_mj_high": 7_200_000, "carbon_ug_low": 1_000_000,
        "carbon_ug_mid": 2_000_000, "carbon_ug_high": 3_000_000, "units_carbon_ug_low": 400_000,
        "units_carbon_ug_mid": 800_000, "units_carbon_ug_high": 1_600_000, "reference_carbon_ug": 5_000_000,
        "undeferred_carbon_ug": 1_500_000, **columns,
    }  # fmt: skip


def exported(**columns: Any) -> dict[str, Any]:
    (exported_row,) = json.loads(render([row(**columns)], QUERY, "json"))["rows"]
    return exported_row


def test_groups_and_times_are_parsed():
    query = parse_query(by=" team , tier,", start="2026-01-01", end="2026-01-02T00:00:00+01:00", now=NOW)
    assert query == ExportQuery(groups=("team", "tier"), start_ms=1_767_225_600_000, end_ms=1_767_308_400_000)


def test_without_times_the_range_is_everything_until_now():
    assert parse_query(by="", start=None, end=None, now=NOW) == ExportQuery(
        groups=(), start_ms=0, end_ms=1_790_000_000_001
    )


@pytest.mark.parametrize("by", GROUP_COLUMNS)
def test_every_group_column_is_accepted(by):
    assert parse_query(by=by, start=None, end=None, now=NOW).groups == (by,)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"by": "team,secret"}, "cannot group by secret; choose from task_type,"),
        ({"start": "2026-01-02", "end": "2026-01-01"}, "'from' must be before 'to'"),
        ({"start": "2026-01-01", "end": "2026-01-01"}, "'from' must be before 'to'"),
        ({"start": "yesterday"}, "'from' must be an ISO 8601 time, like 2026-11-01"),
    ],
    ids=["unknown column", "reversed range", "empty range", "not a time"],
)
def test_invalid_parameters_are_refused_by_name(parameters, message):
    with pytest.raises(ValueError, match=message):
        parse_query(**{"by": "team", "start": None, "end": None, **parameters}, now=NOW)


def test_integer_columns_are_exact_and_have_readable_figures_beside_them():
    cells = exported()
    assert (cells["charge_nusd"], cells["charge_usd"]) == (1, "0.000000001")
    assert (cells["reference_nusd"], cells["reference_usd"]) == (2_500_000_000, "2.5")
    assert [cells[f"energy_wh_{bound}"] for bound in ("low", "mid", "high")] == ["1.000000", "1.500000", "2.000000"]
    assert [cells[f"carbon_g_{bound}"] for bound in ("low", "mid", "high")] == ["1.000000", "2.000000", "3.000000"]


@pytest.mark.parametrize(
    "unit, figures",
    [
        ("request", ["0.250000", "0.500000", "0.750000"]),
        ("session", ["0.500000", "1.000000", "1.500000"]),
        ("unit", ["0.050000", "0.100000", "0.200000"]),
    ],
)
def test_intensities_are_per_request_session_and_reported_unit(unit, figures):
    cells = exported()
    assert [cells[f"g_per_{unit}_{bound}"] for bound in ("low", "mid", "high")] == figures


def test_an_intensity_without_any_unit_is_empty_and_not_zero():
    cells = exported(units=None, units_carbon_ug_mid=None, sessions=0)
    assert (cells["g_per_unit_mid"], cells["g_per_session_mid"]) == ("", "")
    assert cells["units"] == 0


def test_savings_compare_with_the_frontier_and_with_not_waiting():
    cells = exported()
    assert (cells["g_saved_by_routing"], cells["g_saved_by_waiting"]) == ("3.000000", "-0.500000")


def test_sums_of_nothing_are_zero():
    cells = exported(charge_nusd=None, energy_mj_mid=None, carbon_ug_mid=None, reference_carbon_ug=None)
    assert (cells["charge_nusd"], cells["charge_usd"], cells["energy_wh_mid"]) == (0, "0", "0.000000")
    assert cells["g_saved_by_routing"] == "0.000000"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\n=1", "=", "-"])
def test_text_that_a_spreadsheet_would_run_is_quoted(text):
    assert exported(team=text)["team"] == f"'{text}"


@pytest.mark.parametrize("group", [group for group in GROUP_COLUMNS if group not in ("day", "hour")])
@pytest.mark.parametrize("empty", ["", None], ids=["empty", "missing"])
def test_an_empty_text_cell_is_empty(group, empty):
    query = ExportQuery(groups=(group, "team"), start_ms=0, end_ms=1_000)
    rows = [{group: empty, **row(**({"team": empty} if group == "team" else {}))}]
    (cells,) = json.loads(render(rows, query, "json"))["rows"]
    (line,) = csv.DictReader(io.StringIO(render(rows, query, "csv")))
    assert cells[group] == line[group] == ""


def test_other_text_is_unchanged():
    assert exported(team="re-search=1")["team"] == "re-search=1"


def test_csv_and_json_have_the_same_cells():
    rows = [row(), row(team='with "quotes", and commas')]
    parsed = list(csv.DictReader(io.StringIO(render(rows, QUERY, "csv"))))
    documents = json.loads(render(rows, QUERY, "json"))["rows"]
    assert parsed == [{name: str(value) for name, value in document.items()} for document in documents]


def test_json_names_its_range_and_groups():
    document = json.loads(render([], QUERY, "json"))
    assert document == {
        "from": "1970-01-01T00:00:00+00:00",
        "to": "1970-01-01T00:00:01+00:00",
        "by": ["team"],
        "rows": [],
    }


def test_csv_without_rows_is_a_heading():
    assert render([], QUERY, "csv") == "team\n"


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="format must be one of csv, json"):
        render([row()], QUERY, "xml")
