"""The ledger in SQLite: entries, sums, spend per window, and files of earlier versions."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.exporters import grouped_export
from gateway.stores.events_sqlite import AuditEvent, SqliteAuditEvents
from gateway.stores.ledger_sqlite import LedgerReader, SqliteLedger
from gateway.stores.metered_energy_sqlite import SqliteMeteredEnergy
from gateway.values.ledger_entry import AMOUNT_COLUMNS, correction_entry
from gateway.values.quality import SHADOW_KEY
from tests.stores.records import NOW, NOW_MS, entry

HOUR_MS = 3_600_000
START_MS = NOW_MS // HOUR_MS * HOUR_MS
END_MS = 2**60
ONE_CALL = (100, 30, 1, 70, 9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "l.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteLedger]:
    store = SqliteLedger(path)
    yield store
    store.close()


def report_units(path: Path, account: str, units: float, at: int = 0) -> None:
    event = AuditEvent(
        id=f"{account}{at}",
        at_ms=START_MS + at,
        kind="session_outcome",
        budget="",
        account=account,
        details={"units": units},
    )
    SqliteAuditEvents(path).append(event)


# --- entries


def test_appending_an_entry_twice_keeps_the_first(store: SqliteLedger):
    assert store.append([entry("a"), entry("b")]) == 2
    assert store.append([entry("a", charge_nusd=999)]) == 0
    assert [(each.request_id, each.charge_nusd) for each in store.entries()] == [("a", 100), ("b", 100)]


def test_an_entry_round_trips(store: SqliteLedger):
    original = entry("a", complexity=0.123, session="é' --")
    store.append([original])
    assert list(store.entries()) == [original]


def test_a_batch_with_an_unstorable_entry_is_not_written_at_all(store: SqliteLedger):
    with pytest.raises(OverflowError):
        store.append([*(entry(f"n{number}") for number in range(50)), entry("huge", charge_nusd=2**63)])
    assert list(store.entries()) == []
    assert store.append([entry("a")]) == 1, "the transaction was rolled back"


def test_the_entries_of_a_request_are_found_by_its_exact_id(store: SqliteLedger):
    store.append([entry("ab", id="ab.2", attempts=2), entry("ab", id="ab.1"), entry("a"), entry("abc")])
    assert [each.id for each in store.entries_of_request("ab")] == ["ab.1", "ab.2"]
    assert store.entries_of_request("nothing") == []


def test_output_tokens_are_those_of_the_newest_complete_answers(store: SqliteLedger):
    store.append(
        [entry(f"n{number}", at_ms=NOW_MS + number, usage_basis="exact", code="", output_tokens=number) for number in range(5)]
    )  # fmt: skip
    for name, change in (
        ("cut", {"outcome": "cut"}),
        ("guess", {"usage_basis": "estimated"}),
        ("odd", {"code": "hold_exhausted"}),
    ):
        store.append([entry(name, **{"at_ms": NOW_MS + 9, "usage_basis": "exact", "code": "", **change})])
    assert store.newest_output_tokens(3) == [("code", "m", 2), ("code", "m", 3), ("code", "m", 4)]


# --- sums


def test_groups_sum_exactly(store: SqliteLedger):
    store.append([entry(f"n{number}", charge_nusd=number, task_type="ab"[number % 2]) for number in range(10)])
    rows = store.sum_by(("task_type",), 0, END_MS)
    assert {row["task_type"]: row["charge_nusd"] for row in rows} == {"a": 20, "b": 25}
    assert store.sum_by((), 0, 1)[0]["requests"] is None


def test_a_time_range_includes_its_start_and_excludes_its_end(store: SqliteLedger):
    store.append([entry(f"n{number}", at_ms=START_MS + number) for number in range(4)])
    assert store.sum_by((), START_MS + 1, START_MS + 3)[0]["requests"] == 2


@pytest.mark.parametrize("by", ["final; DROP TABLE entries", "complexity"])
def test_only_group_columns_reach_the_statement(store: SqliteLedger, by: str):
    with pytest.raises(AssertionError):
        store.sum_by((by,), 0, END_MS)
    with pytest.raises(AssertionError):
        list(store.iter_spent((by,), 0))


def test_equal_session_ids_of_two_keys_are_two_sessions(store: SqliteLedger):
    store.append(
        [
            entry("a", key="k1", session="main"),
            entry("b", key="k2", session="main"),
            entry("c", key="k1", session="main"),
        ]
    )
    assert store.sum_by((), 0, END_MS)[0]["sessions"] == 2


def test_the_last_reported_units_add_up_over_any_grouping(store: SqliteLedger, path: Path):
    entries = [
        entry(f"n{hour}", key="k1", session="s", at_ms=START_MS + hour * HOUR_MS, carbon_ug_mid=100 * (hour + 1), task_type="ab"[hour % 2])
        for hour in range(3)
    ]  # fmt: skip
    store.append([*entries, entry("other", key="k1", session="never reported", at_ms=START_MS, carbon_ug_mid=7)])
    report_units(path, "k1/s", 3, at=1)
    report_units(path, "k1/s", 12, at=2)
    for by in ((), ("hour",), ("task_type",), ("hour", "task_type")):
        rows = store.sum_by(by, 0, END_MS)
        assert sum(row["units"] for row in rows) == pytest.approx(12), by
        assert sum(row["units_carbon_ug_mid"] for row in rows) == 600, by
    pieces = [
        store.sum_by((), START_MS + hour * HOUR_MS, START_MS + (hour + 1) * HOUR_MS)[0]["units"] for hour in range(3)
    ]
    assert sum(pieces) == pytest.approx(12), "units add up over adjacent time ranges"
    hours = {row["hour"]: row["units"] for row in store.sum_by(("hour",), 0, END_MS)}
    assert list(hours.values()) == pytest.approx([2, 4, 6])
    assert next(iter(hours)).endswith(":00Z")


def test_metered_shares_of_calls_are_summed(store: SqliteLedger, path: Path):
    store.append([entry("a"), entry("b")])
    measured = SqliteMeteredEnergy(path)
    measured.append_window("d", START_MS, [("a.1", 100), ("b.1", 50)], total=200, idle=50)
    measured.append_window("d", START_MS + 10_000, [("a.1", 30)], total=30, idle=0)
    assert store.sum_by((), 0, END_MS)[0]["metered_mj"] == 180


def test_the_export_divides_by_requests_and_sessions_and_leaves_missing_units_empty(store: SqliteLedger):
    store.append([entry("a", key="k1", session="s", carbon_ug_low=1_000_000, carbon_ug_mid=2_000_000, carbon_ug_high=4_000_000,
                        reference_carbon_ug=5_000_000, undeferred_carbon_ug=3_000_000)])  # fmt: skip
    query = grouped_export.parse_query(by="team", start=None, end=None, now=NOW + 10)
    (row,) = json.loads(grouped_export.render(store.sum_by(query.groups, 0, END_MS), query, "json"))["rows"]
    assert (row["g_per_request_low"], row["g_per_session_mid"], row["g_per_unit_mid"]) == ("1.000000", "2.000000", "")
    assert (row["g_saved_by_routing"], row["g_saved_by_waiting"]) == ("3.000000", "1.000000")
    assert grouped_export.render(store.sum_by((), 0, 1), query, "json")


# --- spend of budget windows


def test_spend_is_summed_per_group_and_by_fixed_values(store: SqliteLedger):
    store.append([entry("a"), entry("b", key="k2"), entry("c", team="sales"), entry("old", at_ms=START_MS - HOUR_MS)])
    assert list(store.iter_spent(("team",), START_MS)) == [
        (("research",), 0, (200, 60, 2, 140, 18)), (("sales",), 0, ONE_CALL),
    ]  # fmt: skip
    assert list(store.iter_spent((), START_MS, fixed={"key": "k2"})) == [((), 0, ONE_CALL)]


def test_steps_of_a_rolling_window_are_dated_by_the_end_of_the_call(store: SqliteLedger):
    store.append([entry("long", at_ms=NOW_MS, duration_ms=90_000), entry("short", at_ms=NOW_MS)])
    first, last = int(NOW) // 60 * 60, (int(NOW) + 90) // 60 * 60
    assert first < last
    assert list(store.iter_spent((), NOW_MS, step_seconds=60)) == [((), first, ONE_CALL), ((), last, ONE_CALL)]


def test_shadow_calls_are_summed_apart_from_all_others(store: SqliteLedger):
    store.append([entry("a"), entry("shadow", key=SHADOW_KEY, charge_nusd=7)])
    assert [row[2][0] for row in store.iter_spent((), 0)] == [100]
    assert [row[2][0] for row in store.iter_spent((), 0, shadows=True)] == [7]


def test_a_call_without_usage_counts_as_no_call(store: SqliteLedger):
    store.append([entry("a", usage_basis="none", charge_nusd=0)])
    assert [row[2][2] for row in store.iter_spent((), 0)] == [0]


# --- files of earlier versions


LATER = ("market_carbon_ug", "reference_carbon_ug", "undeferred_carbon_ug", "grid_zone", "deferred_ms", "energy_scale")


def create_older_ledger(path: Path) -> None:
    """Create a ledger without the LATER columns."""
    store = SqliteLedger(path)
    store.append([entry("a", carbon_ug_mid=100)])
    store.close()
    with sqlite3.connect(path) as db:
        for column in LATER:
            db.execute(f"ALTER TABLE entries DROP COLUMN {column}")
    db.close()


def test_a_ledger_of_an_earlier_version_gets_missing_columns(path: Path):
    store = SqliteLedger(path)
    store.append([entry("a", org="acme", user="u", root="s")])
    store.close()
    db = sqlite3.connect(path)
    for column in ("org", "user", "root"):
        db.execute(f"ALTER TABLE entries DROP COLUMN {column}")
    db.commit()
    db.close()
    again = SqliteLedger(path)
    again.append([entry("b", org="acme")])
    assert [(each.org, each.user, each.root) for each in again.entries()] == [("default", "", ""), ("acme", "", "s")]
    again.close()


def test_an_older_ledger_gets_its_actual_carbon_as_counterfactuals(path: Path):
    create_older_ledger(path)
    store = SqliteLedger(path)
    (migrated,) = store.entries()
    assert (migrated.market_carbon_ug, migrated.reference_carbon_ug, migrated.undeferred_carbon_ug) == (100, 100, 100)
    assert (migrated.grid_zone, migrated.deferred_ms) == ("", 0)
    store.close()


def test_missing_columns_are_added_all_or_none(path: Path):
    create_older_ledger(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TRIGGER full BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.Error):
        SqliteLedger(path)
    assert not {row[1] for row in db.execute("PRAGMA table_info(entries)")} & set(LATER)
    db.execute("DROP TRIGGER full")
    db.close()
    store = SqliteLedger(path)
    assert [each.reference_carbon_ug for each in store.entries()] == [100]
    store.close()


# --- corrections and stored objects


def corrected(name: str, **differences: int):
    estimate = entry(name, usage_basis="estimated", object_ids=f"resp_{name} cntr_{name}")
    actual = {column: getattr(estimate, column) + differences.get(column, 0) for column in AMOUNT_COLUMNS}
    return estimate, correction_entry(estimate, actual, reason="usage", priced=True)


def test_a_correction_changes_the_sums_and_counts_as_nothing_else(store: SqliteLedger):
    store.append([*corrected("a", charge_nusd=-40, output_tokens=5), entry("b", usage_basis="estimated", priced=0)])
    (row,) = store.sum_by((), 0, END_MS)
    assert (row["charge_nusd"], row["output_tokens"]) == (160, 2 * entry("x").output_tokens + 5)
    assert (row["requests"], row["failed"], row["estimated_entries"], row["unpriced_entries"]) == (2, 0, 1, 1)
    by_outcome = {row["outcome"]: row["charge_nusd"] for row in store.sum_by(("outcome",), 0, END_MS)}
    assert by_outcome == {"completed": 200, "corrected": -40}


def test_spend_has_what_was_taken_back_in_rows_of_its_own(store: SqliteLedger):
    store.append([*corrected("a", charge_nusd=-40), *corrected("b", charge_nusd=7)])
    rows = [amounts for _, _, amounts in store.iter_spent((), 0)]
    calls, tokens = 2, 2 * ONE_CALL[1]
    assert rows == [(207, tokens, calls, 140, 18), (-40, 0, 0, 0, 0)]


def test_an_object_leads_to_the_entry_that_created_it(store: SqliteLedger, path: Path):
    estimate, correction = corrected("a")
    store.append([estimate])
    reader = LedgerReader(path)
    assert reader.objects(["resp_a", "cntr_a", "resp_b"]) == {"resp_a": (estimate, False), "cntr_a": (estimate, False)}
    store.append([correction, entry("c", object_ids="resp_a")])
    assert reader.objects(["resp_a"]) == {"resp_a": (estimate, True)}, "the first entry keeps its object"
    assert reader.has_entry(correction.id) and not reader.has_entry("x")
    reader.close()


def test_a_lookup_creates_no_ledger(path: Path):
    with pytest.raises(sqlite3.OperationalError):
        LedgerReader(path)
    assert not path.exists()
