"""Session records of other replicas: merged without loosening or reviving anything."""

import json
from typing import Any

from gateway.sessions import caps, ladder
from gateway.sessions.replica_records import FIELDS_BY_EVENT, LADDER_FIELDS, adopt_record, apply_record, to_record
from gateway.sessions.session_index import Session, SessionIndex
from tests.sessions.agent_requests import NOW


def session(**fields: Any) -> Session:
    return Session(id="s", source="header", started_at=NOW, **fields)


def record_of(source: Session, at: float = NOW + 1) -> dict[str, Any]:
    """The record as another replica receives it."""
    document: dict[str, Any] = json.loads(json.dumps(to_record(source, now=at)))
    return document


def test_a_record_creates_the_session_elsewhere():
    index = SessionIndex()
    source = index.get_or_create("k", "child", "header", now=NOW, parent="root")
    caps.tighten_caps(source, caps.parse_caps({"usd": 2}))
    source.steps_taken, source.loop_label, source.is_exempt = frozenset({"warn"}), "loop", True
    ladder.kill_session(source, id="x", at=NOW, note="enough")
    copy = adopt_record(SessionIndex(), "k", "child", record_of(source))
    assert (copy.parent, copy.root, copy.started_at, copy.own_caps) == ("root", "root", NOW, source.own_caps)
    assert (copy.steps_taken, copy.loop_label, copy.is_exempt) == (frozenset({"warn"}), "loop", True)
    assert copy.stop is not None and copy.stop == source.stop
    assert record_of(copy) == record_of(source)


def test_an_older_record_changes_nothing():
    index = SessionIndex()
    newer = session(loop_label="loop")
    adopt_record(index, "k", "s", record_of(newer, at=NOW + 5))
    adopted = adopt_record(index, "k", "s", record_of(session(loop_label="no loop"), at=NOW + 4))
    assert adopted.loop_label == "loop"


def test_caps_of_another_replica_only_tighten_unless_an_operator_resumed():
    own, other = session(), session()
    caps.tighten_caps(own, caps.parse_caps({"usd": 1}))
    caps.tighten_caps(other, caps.parse_caps({"usd": 5}))
    apply_record(own, record_of(other))
    assert own.own_caps is not None and caps.caps_to_json(own.own_caps) == {"usd": 1.0}
    ladder.resume_session(other, note="go")
    apply_record(own, record_of(other))
    assert caps.caps_to_json(own.own_caps) == {"usd": 5.0}


def test_a_resumption_elsewhere_ends_the_stop_here():
    own = session()
    ladder.kill_session(own, id="x", at=NOW, note="")
    own.steps_taken, own.refusals_since_stop = frozenset({"stop"}), 3
    other = session()
    ladder.resume_session(other, note="try again")
    apply_record(own, record_of(other))
    assert (own.stop, own.steps_taken, own.refusals_since_stop) == (None, frozenset(), 0)
    assert (own.resume_note, own.resume_count) == ("try again", 1)


def test_a_stop_from_before_a_resumption_is_not_revived():
    own, other = session(resume_count=1), session()
    ladder.kill_session(other, id="x", at=NOW, note="")
    apply_record(own, record_of(other))
    assert own.stop is None


def test_a_record_of_one_event_leaves_all_other_fields():
    own = session(loop_label="loop", is_exempt=True, extra_seconds=60.0)
    apply_record(own, {"at": NOW + 1, "label": "no loop"})
    assert (own.loop_label, own.is_exempt, own.extra_seconds, own.started_at) == ("no loop", True, 60.0, NOW)


def test_events_publish_fields_of_the_record():
    fields = set(record_of(session()))
    assert {field for names in FIELDS_BY_EVENT.values() for field in names} | set(LADDER_FIELDS) <= fields
