"""The ledger's memory: what a kill leaves behind is found again, once."""

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
        hold_micrograms=9, world="w", root="s",
    )  # fmt: skip
    return msgspec.structs.replace(base, **change)


def fact(name: str, **change: object) -> LedgerEntry:
    return msgspec.structs.replace(expired_entry(hold(name)), **{"outcome": "completed", "charge_nusd": 100, **change})


def opened(tmp_path) -> Journal:
    journal = Journal(tmp_path / "journal")
    journal.start()
    return journal


def test_facts_and_open_holds_are_found_after_a_kill(tmp_path):
    journal = opened(tmp_path)
    for name in ("a", "b", "c"):
        journal.append_hold(hold(name))
    journal.append_entry(fact("a"))
    found = {entry.request_id: entry for entry in Journal(tmp_path / "journal").recover()}
    assert found["a"].outcome == "completed"
    assert [found[name].outcome for name in ("b", "c")] == ["expired", "expired"]
    assert found["b"].charge_nusd == 500, "an open hold is charged in full, never refunded in silence"


def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path, caplog):
    journal = opened(tmp_path)
    journal.append_hold(hold("a"))
    journal.append_entry(fact("a"))
    (path,) = (tmp_path / "journal").glob("*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"fact":{"id":"b.1","at_')
    assert [entry.request_id for entry in Journal(tmp_path / "journal").recover()] == ["a"]
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("noise", [b"\x00" * 100, b"{}\n", b"[]\n7\nnull\n", b"\xff\xfe\n"])
def test_noise_in_the_journal_never_stops_a_start(tmp_path, noise):
    journal = opened(tmp_path)
    journal.append_entry(fact("a"))
    (path,) = (tmp_path / "journal").glob("*.jsonl")
    path.write_bytes(noise + b"\n" + path.read_bytes())
    assert [entry.request_id for entry in Journal(tmp_path / "journal").recover()] == ["a"]


def test_a_new_generation_begins_with_the_holds_that_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "GENERATION_BYTES_MAX", 1000)
    journal = opened(tmp_path)
    journal.append_hold(hold("open"))
    for number in range(10):
        journal.append_hold(hold(f"n{number}"))
        journal.append_entry(fact(f"n{number}"))
    journal.remove_before(journal.generation)
    assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 1
    assert "open" in {entry.request_id for entry in Journal(tmp_path / "journal").recover()}


def test_a_disk_that_is_full_refuses_holds_and_keeps_facts(tmp_path):
    journal, published = opened(tmp_path), []
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


def test_the_same_fact_twice_is_one_entry(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact("a"), fact("b")])
    store.append([fact("a", charge_nusd=999)])
    assert [(entry.request_id, entry.charge_nusd) for entry in store.entries()] == [("a", 100), ("b", 100)]


def test_an_entry_comes_back_as_it_went_in(tmp_path):
    store, entry = SqliteLedger(tmp_path / "l.sqlite"), fact("a", complexity=0.123, session="é' --")
    store.append([entry])
    assert list(store.entries()) == [entry]


def test_a_restart_writes_what_the_journal_knew_and_starts_afresh(tmp_path):
    journal = opened(tmp_path)
    journal.append_hold(hold("a"))
    journal.append_hold(hold("b"))
    journal.append_entry(fact("a"))
    store = SqliteLedger(tmp_path / "l.sqlite")
    ledger = JournaledLedger(Journal(tmp_path / "journal"), store, lambda _: None)
    assert [entry.request_id for entry in ledger.start()] == ["b"]
    ledger.close()
    assert {entry.outcome for entry in SqliteLedger(tmp_path / "l.sqlite").entries()} == {"completed", "expired"}
    assert Journal(tmp_path / "journal").recover() == []


def test_facts_reach_the_store_while_sqlite_is_locked_for_a_while(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    ledger = JournaledLedger(opened(tmp_path), store, lambda _: None)
    ledger.start()
    other = sqlite3.connect(tmp_path / "l.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    ledger.append_entry(fact("a"))
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    ledger.close()
    other.close()
    assert len(list(SqliteLedger(tmp_path / "l.sqlite").entries())) == 1


def test_budgets_come_back_at_what_the_ledger_says(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    long_ago = round((NOW - 40 * 86_400) * 1000)
    store.append([fact("a"), fact("b", key="k2", team="sales"), fact("old", at_ms=long_ago)])
    at = snapshot(more=BUDGETS)
    book = BudgetAccounts()
    for line, spent, when in iter_spent(at, store, now=NOW):
        book.restore(line, spent, at=when)
    scope = {
        "key": "k1", "team": "research", "task_type": "code", "session": "s", "user": "", "org": "default",
        "model": "m",
    }  # fmt: skip
    lines = lines_for((*at.budgets, *at.default_caps.tree_budgets), scope, now=NOW)
    assert {line.name: book.balance(line, now=NOW)[0] for line in lines} == {
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


def test_a_ledger_of_an_earlier_version_gets_the_columns_that_it_lacks(tmp_path):
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


def test_a_value_that_sqlite_cannot_take_is_set_aside_and_the_others_are_written(tmp_path):
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


def test_a_line_after_a_torn_one_is_not_swallowed(tmp_path, monkeypatch):
    journal, write = opened(tmp_path), journals.os.write
    monkeypatch.setattr(journals.os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(Overloaded):
        journal.append_hold(hold("a"))
    monkeypatch.setattr(journals.os, "write", write)
    journal.append_hold(hold("b"))
    assert [entry.request_id for entry in Journal(tmp_path / "journal").recover()] == ["b"]


def test_only_sessions_that_callers_name_come_back(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact("a"), fact("b", session="s-b", root="s-b", session_source="new")])
    lines = [line.account for line, _, _ in iter_spent(snapshot(more="sessions: {caps: {calls: 5}}"), store, now=NOW)]
    assert lines == ["session-calls|key=k1/session=s|session"]


def test_a_session_that_goes_on_is_restored_whole_however_long_ago_it_began(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    hours = 3_600_000
    store.append([fact(f"n{n}", at_ms=round(NOW * 1000) - n * 8 * hours) for n in range(6)])
    store.append([fact("gone", root="old", at_ms=round(NOW * 1000) - 30 * hours)])
    found = list(iter_spent(snapshot(more="sessions: {caps: {calls: 50}}"), store, now=NOW))
    assert [(line.account, spent) for line, spent, _ in found] == [("session-calls|key=k1/session=s|session", 6)]


def test_windows_are_restored_by_the_time_that_told_them(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    midnight = (int(NOW) // 86_400) * 86_400_000
    # Decided before midnight, held after it; and by a clock that is five minutes fast.
    store.append([fact("late", at_ms=midnight - 2000, window_ms=midnight + 500)])
    store.append([fact("fast", at_ms=midnight + 1000, window_ms=midnight - 299_000)])
    at = snapshot(more="budgets: {day: {limit: {calls: 9}, window: day}}")
    assert [spent for _, spent, _ in iter_spent(at, store, now=NOW)] == [1]


def test_budgets_that_are_grouped_alike_ask_the_ledger_once(tmp_path):
    store = SqliteLedger(tmp_path / "l.sqlite")
    store.append([fact("a"), fact("b", key="k2", team="sales")])
    questions = []
    spent, store.iter_spent = store.iter_spent, lambda *args, **more: questions.append(args) or spent(*args, **more)
    many = "".join(f"  b{n}: {{scope: {{key: k{n % 2 + 1}}}, limit: {{calls: 9}}, window: day}}\n" for n in range(50))
    found = list(iter_spent(snapshot(more="budgets:\n" + many), store, now=NOW))
    assert len(found) == 50 and len(questions) == 1
