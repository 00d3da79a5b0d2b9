"""The audit trail in the ledger's database."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gateway.stores.events_sqlite import PAGE_EVENTS_MAX, AuditEvent, SqliteAuditEvents


def event(name: str, at_ms: int = 1, kind: str = "session_killed", **change: Any) -> AuditEvent:
    fields: dict[str, Any] = {"budget": "", "account": "k1/s", "details": {}}
    return AuditEvent(id=name, at_ms=at_ms, kind=kind, **(fields | change))


def grant(name: str, at_ms: int, account: str, kind: str = "budget_top_up") -> AuditEvent:
    scope = {"key": account.removeprefix("mine|key=")}
    return event(name, at_ms, kind, budget="mine", account=account, details={"amount": at_ms, "scope": scope})


@pytest.fixture
def events(tmp_path: Path) -> SqliteAuditEvents:
    return SqliteAuditEvents(tmp_path / "data" / "ledger.sqlite")


def names(found: list[AuditEvent]) -> list[str]:
    return [each.id for each in found]


def test_an_event_round_trips_and_is_kept_after_a_restart(events: SqliteAuditEvents, tmp_path: Path):
    original = event("e", details={"note": "é' --", "nested": {"budget": {"usd": 1.5}}, "key": None})
    assert events.append(original)
    assert SqliteAuditEvents(tmp_path / "data" / "ledger.sqlite").since(0) == [original]


def test_an_id_is_recorded_once(events: SqliteAuditEvents):
    assert events.append(event("e", details={"note": "first"}))
    assert not events.append(event("e", details={"note": "second"}))
    assert [each.details for each in events.since(0)] == [{"note": "first"}]


def test_a_page_has_the_newest_events_since_then_oldest_first(events: SqliteAuditEvents, tmp_path: Path):
    for name, at_ms in (("c", 30), ("a", 10), ("b", 20)):
        events.append(event(name, at_ms))
    assert names(events.since(20)) == ["b", "c"]
    db = sqlite3.connect(tmp_path / "data" / "ledger.sqlite")
    with db:
        rows = [(f"n{number}", 40 + number, "loop_stop", "", "k1/s", "{}") for number in range(PAGE_EVENTS_MAX)]
        db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.close()
    page = events.since(0)
    assert len(page) == PAGE_EVENTS_MAX
    assert (page[0].id, page[-1].id) == ("n0", f"n{PAGE_EVENTS_MAX - 1}"), "the oldest are left out"


def test_events_of_some_kinds_are_replayed_in_order(events: SqliteAuditEvents):
    for name, at_ms, kind in (
        ("late", 30, "loop_stop"),
        ("early", 10, "session_killed"),
        ("same time", 10, "loop_stop"),
        ("other", 20, "loop_warn"),
        ("old", 5, "loop_stop"),
    ):
        events.append(event(name, at_ms, kind))
    assert names(list(events.iter_kinds(["loop_stop", "session_killed"], 10))) == ["early", "same time", "late"]


def test_the_grants_of_an_account_are_listed_without_its_other_events(events: SqliteAuditEvents):
    events.append(grant("g2", 20, "mine|key=k1", "budget_grace"))
    events.append(grant("g1", 10, "mine|key=k1"))
    events.append(grant("g3", 30, "mine|key=k2"))
    events.append(event("threshold", 15, "budget_threshold", budget="mine", account="mine|key=k1"))
    assert names(events.grants("mine|key=k1")) == ["g1", "g2"]
    assert events.grants("unknown") == []
    assert sorted(events.granted_accounts()) == [
        ("mine|key=k1", "mine", {"key": "k1"}),
        ("mine|key=k2", "mine", {"key": "k2"}),
    ]
