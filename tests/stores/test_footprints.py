"""Tests of energy and carbon in the ledger's sums."""

import sqlite3

import pytest

from gateway.exporters import grouped_export
from gateway.stores.events_sqlite import AuditEvent, SqliteAuditEvents
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.stores.metered_energy_sqlite import SqliteMeteredEnergy
from tests.stores.test_ledger import NOW, fact

HOUR_MS = 3_600_000
START = round(NOW * 1000) // HOUR_MS * HOUR_MS


@pytest.fixture
def store(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    yield store
    store.close()


def outcome(tmp_path, account: str, units: float, at: int = 0) -> None:
    event = AuditEvent(
        id=f"{account}{at}",
        at_ms=START + at,
        kind="session_outcome",
        budget="",
        account=account,
        details={"units": units},
    )
    SqliteAuditEvents(tmp_path / "l.sqlite").append(event)


def test_equal_session_ids_of_two_keys_are_two_sessions(store):
    store.append(
        [fact("a", key="k1", session="main"), fact("b", key="k2", session="main"), fact("c", key="k1", session="main")]
    )
    assert store.sum_by((), 0, 2**60)[0]["sessions"] == 2


def test_the_last_reported_units_add_up_over_any_grouping(store, tmp_path):
    entries = [
        fact(f"n{hour}", key="k1", session="s", at_ms=START + hour * HOUR_MS, carbon_ug_mid=100 * (hour + 1), task_type="ab"[hour % 2])
        for hour in range(3)
    ]  # fmt: skip
    store.append([*entries, fact("other", key="k1", session="never reported", at_ms=START, carbon_ug_mid=7)])
    outcome(tmp_path, "k1/s", 3, at=1)
    outcome(tmp_path, "k1/s", 12, at=2)
    for by in ((), ("hour",), ("task_type",), ("hour", "task_type")):
        rows = store.sum_by(by, 0, 2**60)
        assert sum(row["units"] for row in rows) == pytest.approx(12), by
        assert sum(row["units_carbon_ug_mid"] for row in rows) == 600, by
    pieces = [store.sum_by((), START + hour * HOUR_MS, START + (hour + 1) * HOUR_MS)[0]["units"] for hour in range(3)]
    assert sum(pieces) == pytest.approx(12), "units add up over adjacent time ranges"
    hours = {row["hour"]: row["units"] for row in store.sum_by(("hour",), 0, 2**60)}
    assert list(hours.values()) == pytest.approx([2, 4, 6])
    assert next(iter(hours)).endswith(":00Z")


def test_the_export_divides_by_requests_and_sessions_and_leaves_missing_units_empty(store, tmp_path):
    store.append([fact("a", key="k1", session="s", carbon_ug_low=1_000_000, carbon_ug_mid=2_000_000, carbon_ug_high=4_000_000,
                       reference_carbon_ug=5_000_000, undeferred_carbon_ug=3_000_000)])  # fmt: skip
    query = grouped_export.parse_query(by="team", start=None, end=None, now=NOW + 10)
    (row,) = [grouped_export._export_row(row) for row in store.sum_by(query.groups, 0, 2**60)]
    assert (row["g_per_request_low"], row["g_per_session_mid"], row["g_per_unit_mid"]) == ("1.000000", "2.000000", "")
    assert (row["g_saved_by_routing"], row["g_saved_by_waiting"]) == ("3.000000", "1.000000")
    assert grouped_export.render(store.sum_by((), 0, 1), query, "json")


def test_metered_shares_of_several_windows_add_up_per_entry(store, tmp_path):
    store.append([fact("a"), fact("b")])
    measured = SqliteMeteredEnergy(tmp_path / "l.sqlite")
    measured.append_window("d", START, [("a.1", 100), ("b.1", 50)], total=200, idle=50)
    measured.append_window("d", START + 10_000, [("a.1", 30)], total=30, idle=0)
    assert (measured.millijoules_of("a.1"), measured.millijoules_of("unknown")) == (130, None)
    assert store.sum_by((), 0, 2**60)[0]["metered_mj"] == 180


LATER = ("market_carbon_ug", "reference_carbon_ug", "undeferred_carbon_ug", "grid_zone", "deferred_ms", "energy_scale")


def create_older_ledger(tmp_path) -> None:
    """Create a ledger without the LATER columns."""
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact("a", carbon_ug_mid=100)])
    store.close()
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        for column in LATER:
            db.execute(f"ALTER TABLE entries DROP COLUMN {column}")


def test_an_older_ledger_gets_its_actual_carbon_as_counterfactuals(tmp_path):
    create_older_ledger(tmp_path)
    store = SqliteLedger(tmp_path / "l.sqlite")
    (entry,) = store.entries()
    assert (entry.market_carbon_ug, entry.reference_carbon_ug, entry.undeferred_carbon_ug) == (100, 100, 100)
    assert (entry.grid_zone, entry.deferred_ms) == ("", 0)
    store.close()


def test_missing_columns_are_added_all_or_none(tmp_path):
    create_older_ledger(tmp_path)
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        db.execute("CREATE TRIGGER full BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.Error):
        SqliteLedger(tmp_path / "l.sqlite")
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        assert not {row[1] for row in db.execute("PRAGMA table_info(entries)")} & set(LATER)
        db.execute("DROP TRIGGER full")
    store = SqliteLedger(tmp_path / "l.sqlite")
    assert [entry.reference_carbon_ug for entry in store.entries()] == [100]
    store.close()
