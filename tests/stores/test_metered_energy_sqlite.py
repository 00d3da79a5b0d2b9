"""Metered energy in the ledger's database: windows of a meter and shares of calls."""

import sqlite3
from pathlib import Path

import pytest

from gateway.stores.metered_energy_sqlite import SqliteMeteredEnergy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "l.sqlite"


def windows(path: Path) -> list[tuple[str, int, int, int, int]]:
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT * FROM meters ORDER BY at_ms").fetchall()
    finally:
        db.close()


def test_shares_of_several_windows_add_up_per_entry(path: Path):
    measured = SqliteMeteredEnergy(path)
    measured.append_window("d", 1_000, [("a.1", 100), ("b.1", 50)], total=200, idle=50)
    measured.append_window("d", 11_000, [("a.1", 30)], total=30, idle=0)
    assert (measured.millijoules_of("a.1"), measured.millijoules_of("b.1")) == (130, 50)
    assert measured.millijoules_of("unknown") is None


def test_a_window_records_its_total_idle_and_shared_energy(path: Path):
    measured = SqliteMeteredEnergy(path)
    measured.append_window("d", 1_000, iter([("a.1", 100), ("b.1", 50)]), total=200, idle=50)
    measured.append_window("d", 2_000, [], total=50, idle=50)
    assert windows(path) == [("d", 1_000, 200, 50, 150), ("d", 2_000, 50, 50, 0)]


def test_a_window_is_written_whole_or_not_at_all(path: Path):
    measured = SqliteMeteredEnergy(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TRIGGER full BEFORE INSERT ON meters BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.Error):
        measured.append_window("d", 1_000, [("a.1", 100)], total=100, idle=0)
    assert measured.millijoules_of("a.1") is None
    db.execute("DROP TRIGGER full")
    db.close()
    measured.append_window("d", 1_000, [("a.1", 100)], total=100, idle=0)
    assert measured.millijoules_of("a.1") == 100


def test_a_reopened_file_keeps_its_energy(path: Path):
    SqliteMeteredEnergy(path).append_window("d", 1_000, [("a.1", 100)], total=100, idle=0)
    assert SqliteMeteredEnergy(path).millijoules_of("a.1") == 100
