"""Tests of journal and ledger: recovery, deduplication, budget restoration."""

import sqlite3
import threading

import msgspec
import pytest

from gateway.accounting.budget_lines import lines_for
from gateway.accounting.budgets import BudgetAccounts
from gateway.stores import journal as journals
from gateway.stores.journal import Journal
from gateway.stores.ledger import JournaledLedger
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.stores.restore_budgets import iter_spent
from gateway.values.errors import Overloaded
from gateway.values.ledger_entry import Hold, LedgerEntry, expired_entry
from tests.snapshots import snapshot

NOW = 1_790_000_000.0


def hold(name: str, **change: object) -> Hold:
    base = Hold(
        id=f"{name}.1", at_ms=round(NOW * 1000), request_id=name, key="k1", team="research", session="s", session_source="h",
        route="auto", stream=0, task_type="code", complexity=0.5, tier="small", provider="p", deployment="d", model="m",
        attempts=1, reason="r", input_tokens=10, output_tokens=20, priced=1, hold_nusd=500, hold_millijoules=70,
        hold_micrograms=9, config_hash="w", root="s",
    )  # fmt: skip
    return msgspec.structs.replace(base, **change)


def fact(name: str, **change: object) -> LedgerEntry:
    return msgspec.structs.replace(expired_entry(hold(name)), **{"outcome": "completed", "charge_nusd": 100, **change})


def started_journal(tmp_path) -> Journal:
    journal = Journal(tmp_path / "journal")
    journal.start()
    return journal


def test_entries_and_open_holds_are_recovered_after_a_kill(tmp_path):
    journal = started_journal(tmp_path)
    for name in ("a", "b", "c"):
        journal.append_hold(hold(name))
    journal.append_entry(fact("a"))
    found = {entry.request_id: entry for entry in Journal(tmp_path / "journal").recover()}
    assert found["a"].outcome == "completed"
    assert [found[name].outcome for name in ("b", "c")] == ["expired", "expired"]
    assert found["b"].charge_nusd == 500, "an open hold is charged in full, never refunded silently"


def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path, caplog):
    journal = started_journal(tmp_path)
    journal.append_hold(hold("a"))
    journal.append_entry(fact("a"))
    (path,) = (tmp_path / "journal").glob("*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"fact":{"id":"b.1","at_')
    assert [entry.request_id for entry in Journal(tmp_path / "journal").recover()] == ["a"]
    assert "journal_line_unreadable" in caplog.text


@pytest.mark.parametrize("noise", [b"\x00" * 100, b"{}\n", b"[]\n7\nnull\n", b"\xff\xfe\n"])
def test_garbage_in_the_journal_does_not_prevent_a_start(tmp_path, noise):
    journal = started_journal(tmp_path)
    journal.append_entry(fact("a"))
    (path,) = (tmp_path / "journal").glob("*.jsonl")
    path.write_bytes(noise + b"\n" + path.read_bytes())
    assert [entry.request_id for entry in Journal(tmp_path / "journal").recover()] == ["a"]


def test_a_new_generation_begins_with_the_open_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "GENERATION_BYTES_MAX", 1000)
    journal = started_journal(tmp_path)
    journal.append_hold(hold("open"))
    for number in range(10):
        journal.append_hold(hold(f"n{number}"))
        journal.append_entry(fact(f"n{number}"))
    journal.remove_before(journal.generation)
    assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 1
    assert "open" in {entry.request_id for entry in Journal(tmp_path / "journal").recover()}


def test_an_unwritable_journal_refuses_holds_and_keeps_entries(tmp_path):
    journal, published = started_journal(tmp_path), []
    store = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger = JournaledLedger(journal, store, published.append)
    ledger.start()
    journal.close()
    with pytest.raises(Overloaded):
        ledger.append_hold(hold("a"))
    ledger.append_entry(fact("b"))
    assert ledger.is_failing
    assert [entry.request_id for entry in published] == ["b"]
    ledger.close()
    assert [entry.request_id for entry in SqliteLedger(tmp_path / "ledger.sqlite").entries()] == ["b"]


def test_appending_an_entry_twice_keeps_the_first(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact("a"), fact("b")])
    store.append([fact("a", charge_nusd=999)])
    assert [(entry.request_id, entry.charge_nusd) for entry in store.entries()] == [("a", 100), ("b", 100)]


def test_an_entry_round_trips(tmp_path):
    store, entry = SqliteLedger(tmp_path / "l.sqlite"), fact("a", complexity=0.123, session="é' --")
    store.append([entry])
    assert list(store.entries()) == [entry]


def test_a_restart_writes_journal_entries_to_the_ledger_and_empties_the_journal(tmp_path):
    journal = started_journal(tmp_path)
    journal.append_hold(hold("a"))
    journal.append_hold(hold("b"))
    journal.append_entry(fact("a"))
    store = SqliteLedger(tmp_path / "l.sqlite")
    ledger = JournaledLedger(Journal(tmp_path / "journal"), store, lambda _: None)
    assert [entry.request_id for entry in ledger.start()] == ["b"]
    ledger.close()
    assert {entry.outcome for entry in SqliteLedger(tmp_path / "l.sqlite").entries()} == {"completed", "expired"}
    assert Journal(tmp_path / "journal").recover() == []


def test_entries_are_written_after_sqlite_was_locked(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    ledger = JournaledLedger(started_journal(tmp_path), store, lambda _: None)
    ledger.start()
    other = sqlite3.connect(tmp_path / "l.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    ledger.append_entry(fact("a"))
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    ledger.close()
    other.close()
    assert len(list(SqliteLedger(tmp_path / "l.sqlite").entries())) == 1


def test_budgets_are_restored_from_the_ledger(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    long_ago = round((NOW - 40 * 86_400) * 1000)
    store.append([fact("a"), fact("b", key="k2", team="sales"), fact("old", at_ms=long_ago)])
    at = snapshot(more=BUDGETS)
    accounts = BudgetAccounts()
    for line, spent, charged_at in iter_spent(at, store, now=NOW):
        accounts.restore(line, spent, at=charged_at)
    scope = {
        "key": "k1", "team": "research", "task_type": "code", "session": "s", "user": "", "org": "default",
        "model": "m",
    }  # fmt: skip
    lines = lines_for((*at.budgets, *at.default_caps.tree_budgets), scope, now=NOW)
    assert {line.name: accounts.balance(line, now=NOW)[0] for line in lines} == {
        "day": 100, "each": 70, "ever": 3, "rolling": 2, "tokens": 30, "session-calls": 1,
    }  # fmt: skip


BUDGETS = """
budgets:
  day: {scope: {team: research}, limit: {usd: 1}, window: day}
  each: {scope: {key: "*"}, limit: {wh: 1}, window: month}
  ever: {limit: {calls: 9}, window: total}
  rolling: {limit: {calls: 9}, window: rolling-1h}
  tokens: {scope: {session: "*"}, limit: {tokens: 900}, window: session}
sessions: {caps: {calls: 5}}
"""


def test_a_ledger_of_an_earlier_version_gets_missing_columns(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact("a", org="acme", user="u", root="s")])
    store.close()
    db = sqlite3.connect(tmp_path / "l.sqlite")
    for column in ("org", "user", "root"):
        db.execute(f"ALTER TABLE entries DROP COLUMN {column}")
    db.commit()
    db.close()
    again = SqliteLedger(tmp_path / "l.sqlite")
    again.append([fact("b", org="acme")])
    assert [(entry.org, entry.user, entry.root) for entry in again.entries()] == [
        ("default", "", ""),
        ("acme", "", "s"),
    ]
    again.close()


def test_groups_sum_exactly(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact(f"n{number}", charge_nusd=number, task_type="ab"[number % 2]) for number in range(10)])
    rows = store.sum_by(("task_type",), 0, 2**60)
    assert {row["task_type"]: row["charge_nusd"] for row in rows} == {"a": 20, "b": 25}
    assert store.sum_by((), 0, 1)[0]["requests"] is None


def test_an_entry_that_sqlite_cannot_store_is_skipped_and_the_others_are_written(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    ledger = JournaledLedger(Journal(tmp_path / "journal"), store, lambda _: None)
    ledger.start()
    for entry in (fact("a"), fact("huge", charge_nusd=2**63), fact("b")):
        ledger.append_entry(entry)
    ledger.close()
    reopened = SqliteLedger(tmp_path / "l.sqlite")
    assert [entry.request_id for entry in reopened.entries()] == ["a", "b"]
    again = JournaledLedger(Journal(tmp_path / "journal"), reopened, lambda _: None)
    again.start()
    assert not again.is_failing
    again.close()


def test_a_line_after_a_torn_line_is_kept(tmp_path, monkeypatch):
    journal, write = started_journal(tmp_path), journals.os.write
    monkeypatch.setattr(journals.os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(Overloaded):
        journal.append_hold(hold("a"))
    monkeypatch.setattr(journals.os, "write", write)
    journal.append_hold(hold("b"))
    assert [entry.request_id for entry in Journal(tmp_path / "journal").recover()] == ["b"]


def test_only_sessions_with_a_callers_id_are_restored(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact("a"), fact("b", session="s-b", root="s-b", session_source="new")])
    lines = [line.account for line, _, _ in iter_spent(snapshot(more="sessions: {caps: {calls: 5}}"), store, now=NOW)]
    assert lines == ["session-calls|key=k1/session=s|session"]


def test_an_active_session_is_restored_whole_however_old(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    hours = 3_600_000
    store.append([fact(f"n{n}", at_ms=round(NOW * 1000) - n * 8 * hours) for n in range(6)])
    store.append([fact("gone", root="old", at_ms=round(NOW * 1000) - 30 * hours)])
    found = list(iter_spent(snapshot(more="sessions: {caps: {calls: 50}}"), store, now=NOW))
    assert [(line.account, spent) for line, spent, _ in found] == [("session-calls|key=k1/session=s|session", 6)]


def test_windows_are_restored_by_their_window_time(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    midnight = (int(NOW) // 86_400) * 86_400_000
    # Routed before midnight and held after it; and dated by a clock that is five minutes fast.
    store.append([fact("late", at_ms=midnight - 2000, window_ms=midnight + 500)])
    store.append([fact("fast", at_ms=midnight + 1000, window_ms=midnight - 299_000)])
    at = snapshot(more="budgets: {day: {limit: {calls: 9}, window: day}}")
    assert [spent for _, spent, _ in iter_spent(at, store, now=NOW)] == [1]


def test_budgets_with_equal_grouping_share_one_ledger_query(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact("a"), fact("b", key="k2", team="sales")])
    queries = []
    spent, store.iter_spent = store.iter_spent, lambda *args, **more: queries.append(args) or spent(*args, **more)
    many = "".join(f"  b{n}: {{scope: {{key: k{n % 2 + 1}}}, limit: {{calls: 9}}, window: day}}\n" for n in range(50))
    found = list(iter_spent(snapshot(more="budgets:\n" + many), store, now=NOW))
    assert len(found) == 50 and len(queries) == 1
