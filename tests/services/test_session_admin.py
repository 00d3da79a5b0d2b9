"""The session API: callers act on their own sessions, operators on any, and every action is an event."""

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.services.session_admin import QUALITY_BY_OUTCOME, SessionAdmin
from gateway.sessions.session_index import Session, SessionIndex
from gateway.values.budget import add_amounts
from gateway.values.errors import BadRequest, CallerError, NotFound
from gateway.values.request import Caller
from gateway.values.session import SessionEvent, SessionStop
from tests.services.clocks import ManualClock
from tests.snapshots import snapshot

CALLER, OTHER = Caller(key="k1", team="research"), Caller(key="k2", team="sales")
CAPS = "sessions: {caps: {calls: 5, usd: 1, minutes: 60, depth: 3}, caps_per_session: {calls: 2}}"
DAY_SECONDS = 24 * 3600.0


class AdminFixture:
    """A session API with its sessions, events, grants and clock.

    events: every event of an action
    grants: (budget, body, actor) of every raised limit
    fetched: (key, organization, name) of the sessions that were fetched from other gateways
    """

    def __init__(self, more: str = "") -> None:
        self.clock, self.sessions = ManualClock(), SessionIndex()
        self.events: list[SessionEvent] = []
        self.grants: list[tuple[str, dict[str, Any], str]] = []
        self.fetched: list[tuple[str, str, str]] = []
        self._ids = 0
        configured = snapshot(more=more)
        self.admin = SessionAdmin(
            lambda: configured, self.sessions, self.events.append, self._fresh_id, self.clock.now, b"secret", self._fetch,
            self._grant, self._flush,
        )  # fmt: skip

    def _fresh_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    async def _fetch(self, key: str, org: str, name: str) -> None:
        self.fetched.append((key, org, name))

    async def _grant(self, name: str, body: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        self.grants.append((name, dict(body), actor))
        return {}

    async def _flush(self) -> None:
        pass

    def session(self, name: str = "run-1", key: str = "k1", **change: Any) -> Session:
        """A session of a key."""
        session = self.sessions.get_or_create(key, name, "header", now=self.clock.now(), **change)
        session.last_request_at = self.clock.now()
        return session

    def stopped(self, name: str = "run-1", stop_id: str = "stop1") -> Session:
        """A session that the loop guard stopped."""
        session = self.session(name)
        session.stop = SessionStop(
            id=stop_id, stopped_at=self.clock.now(), code="loop_stopped", message="repeats itself", details={"tool": "bash"}
        )  # fmt: skip
        session.steps_taken = frozenset({"warn", "stop"})
        return session

    @property
    def kinds(self) -> list[str]:
        """The kinds of the events so far."""
        return [event.kind for event in self.events]


# --- callers


def test_a_caller_opens_a_session_with_caps():
    fixture = AdminFixture()
    opened = fixture.admin.open_session(CALLER, {"id": "run-1", "caps": {"usd": 2, "minutes": 20}})
    assert (opened["id"], opened["key"], opened["status"], opened["calls"]) == ("run-1", "k1", "running", 0)
    assert opened["caps"] == {"usd": 2, "minutes": 20}
    (event,) = fixture.events
    assert (event.kind, event.key, event.session, event.was_enforced) == ("session_caps", "k1", "run-1", True)
    assert event.details["caps"] == {"usd": 2, "minutes": 20}
    assert fixture.admin.get_own(CALLER, "run-1") == opened


def test_a_session_opened_without_an_id_gets_one():
    fixture = AdminFixture()
    assert fixture.admin.open_session(CALLER, {})["id"] == "s-id1"
    assert fixture.events == [], "nothing was capped"


def test_opening_a_session_again_only_tightens_its_caps():
    fixture = AdminFixture()
    fixture.admin.open_session(CALLER, {"id": "run-1", "caps": {"calls": 5}})
    assert fixture.admin.open_session(CALLER, {"id": "run-1", "caps": {"calls": 9}})["caps"] == {"calls": 5}
    assert fixture.admin.open_session(CALLER, {"id": "run-1", "caps": {"calls": 3}})["caps"] == {"calls": 3}
    assert fixture.kinds == ["session_caps", "session_caps"]


def test_a_session_is_opened_in_the_tree_of_its_parent():
    fixture = AdminFixture()
    fixture.admin.open_session(CALLER, {"id": "head"})
    child = fixture.admin.open_session(CALLER, {"id": "child", "parent": "head", "root": "head"})
    assert (child["parent"], child["root"], child["depth"]) == ("head", "head", 1)


@pytest.mark.parametrize(
    "body, param",
    [
        ({"name": "x"}, "name"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"parent": []}, "parent"),
        ({"caps": [1]}, "caps"),
        ({"caps": {"usd": -1}}, "caps"),
        ({"caps": {"bananas": 1}}, "caps"),
    ],
)
def test_an_invalid_session_is_not_opened(body: dict[str, Any], param: str):
    fixture = AdminFixture()
    with pytest.raises(BadRequest) as refused:
        fixture.admin.open_session(CALLER, body)
    assert refused.value.param == param and len(fixture.sessions) == 0


@pytest.mark.parametrize("act", ["get_own", "report_outcome", "record_feedback"])
def test_a_caller_has_no_access_to_sessions_of_other_keys(act: str):
    fixture = AdminFixture()
    fixture.session()
    calls = {
        "get_own": lambda: fixture.admin.get_own(OTHER, "run-1"),
        "report_outcome": lambda: fixture.admin.report_outcome(OTHER, "run-1", {"outcome": "success"}),
        "record_feedback": lambda: fixture.admin.record_feedback(OTHER, "run-1", {"redone": True}),
    }
    with pytest.raises(NotFound, match="No such session: 'run-1'"):
        calls[act]()
    assert fixture.events == []


@pytest.mark.parametrize("outcome, quality", QUALITY_BY_OUTCOME.items())
def test_an_outcome_is_reported_with_its_quality(outcome: str, quality: float):
    fixture = AdminFixture()
    session = fixture.session()
    body = {"outcome": outcome, "units": 3, "unit": "ticket", "note": "fine"}
    reported = fixture.admin.report_outcome(CALLER, "run-1", body)
    assert reported == {"object": "session.outcome", "session": "run-1", "quality": quality, **body}
    assert session.reported_units == 3.0
    assert fixture.kinds == ["session_outcome"] and fixture.events[0].details["quality"] == quality


def test_an_outcome_counts_as_one_unit_by_default():
    fixture = AdminFixture()
    fixture.session()
    reported = fixture.admin.report_outcome(CALLER, "run-1", {"outcome": "partial"})
    assert (reported["units"], reported["unit"], reported["note"]) == (1, "", "")


@pytest.mark.parametrize(
    "body, param",
    [
        ({}, "outcome"),
        ({"outcome": "great"}, "outcome"),
        ({"outcome": ["success"]}, "outcome"),
        ({"outcome": "success", "units": -1}, "units"),
        ({"outcome": "success", "units": True}, "units"),
        ({"outcome": "success", "units": 2e9}, "units"),
        ({"outcome": "success", "unit": "x" * 65}, "unit"),
        ({"outcome": "success", "note": "x" * 1001}, "note"),
        ({"outcome": "success", "stars": 5}, "stars"),
    ],
)
def test_an_invalid_outcome_is_refused_by_its_field(body: dict[str, Any], param: str):
    fixture = AdminFixture()
    fixture.session()
    with pytest.raises(BadRequest) as refused:
        fixture.admin.report_outcome(CALLER, "run-1", body)
    assert refused.value.param == param and fixture.events == []


@pytest.mark.parametrize(
    "body, quality",
    [
        ({"rating": 0.25}, 0.25),
        ({"rating": 1, "request_id": "r1"}, 1),
        ({"redone": True}, 0.0),
        ({"rating": 0.9, "redone": True}, 0.0),
    ],
    ids=["a rating", "a rating of one answer", "work done again", "work done again despite its rating"],
)
def test_feedback_is_recorded_with_its_quality(body: dict[str, Any], quality: float):
    fixture = AdminFixture()
    fixture.session()
    recorded = fixture.admin.record_feedback(CALLER, "run-1", body)
    assert (recorded["quality"], recorded["request_id"]) == (quality, body.get("request_id"))
    assert fixture.kinds == ["session_feedback"] and fixture.events[0].details["quality"] == quality


@pytest.mark.parametrize(
    "body, param",
    [
        ({}, "rating"),
        ({"rating": 7}, "rating"),
        ({"rating": True}, "rating"),
        ({"rating": "0.5"}, "rating"),
        ({"redone": 1}, "redone"),
        ({"rating": 1, "request_id": 7}, "request_id"),
        ({"rating": 1, "stars": 5}, "stars"),
    ],
)
def test_invalid_feedback_is_refused_by_its_field(body: dict[str, Any], param: str):
    fixture = AdminFixture()
    fixture.session()
    with pytest.raises(BadRequest) as refused:
        fixture.admin.record_feedback(CALLER, "run-1", body)
    assert refused.value.param == param and fixture.events == []


# --- operators read


def test_sessions_are_listed_with_the_most_recent_first():
    fixture = AdminFixture()
    for name in ("old", "new"):
        fixture.session(name)
        fixture.clock.seconds += 1
    fixture.stopped("stopped")
    assert [each["id"] for each in fixture.admin.list_sessions(stopped=False)["data"]] == ["stopped", "new", "old"]
    assert [each["id"] for each in fixture.admin.list_sessions(stopped=True)["data"]] == ["stopped"]


def test_a_list_is_cut_and_counts_what_it_leaves_out():
    fixture = AdminFixture()
    for number in range(1_002):
        fixture.session(f"s{number}")
        fixture.clock.seconds += 1
    listed = fixture.admin.list_sessions(stopped=False)
    assert (len(listed["data"]), listed["total"]) == (1_000, 1_002)
    assert listed["data"][-1]["id"] == "s2", "the oldest are left out"


def test_a_name_that_several_keys_use_needs_its_key():
    fixture = AdminFixture()
    for key in ("k1", "k2"):
        fixture.session("main", key)
    with pytest.raises(BadRequest, match="'key' must be one of k1, k2"):
        fixture.admin.get("main", None)
    assert fixture.admin.get("main", "k2")["key"] == "k2"
    with pytest.raises(NotFound):
        fixture.admin.get("missing", None)
    with pytest.raises(NotFound):
        fixture.admin.get("main", "k3")


def test_a_session_is_described_in_the_units_that_people_read():
    fixture = AdminFixture()
    session = fixture.session()
    session.inherited, session.spent = (500_000_000, 10, 1, 3_600_000, 0), (250_000_000, 20, 2, 1_800_000, 0)
    described = fixture.admin.get("run-1", None)
    assert {name: described[name] for name in ("cost_usd", "tokens", "calls", "energy_wh", "loop", "label")} == {
        "cost_usd": 0.75, "tokens": 30, "calls": 3, "energy_wh": 1.5, "loop": None, "label": None,
    }  # fmt: skip
    assert "stop" not in described


def test_a_stop_is_described_with_its_evidence():
    fixture = AdminFixture()
    fixture.stopped().refusals_since_stop = 4
    described = fixture.admin.get("run-1", None)
    assert described["status"] == "stopped" and described["ladder_steps"] == ["stop", "warn"]
    assert described["stop"] == {
        "id": "stop1", "code": "loop_stopped", "at": fixture.clock.now(), "requests_refused": 4, "evidence": {"tool": "bash"},
    }  # fmt: skip


# --- operators act


async def test_a_resumed_session_runs_with_a_note():
    fixture = AdminFixture()
    session = fixture.stopped()
    described = await fixture.admin.resume("run-1", None, {"note": "Try another host."}, actor="admin")
    assert described["status"] == "running"
    assert (session.stop, session.resume_note, session.resume_count) == (None, "Try another host.", 1)
    (event,) = fixture.events
    assert (event.kind, event.details["actor"], event.details["note"]) == (
        "session_resumed",
        "admin",
        "Try another host.",
    )


async def test_resuming_raises_the_caps_of_session_tree_and_operator():
    fixture = AdminFixture(CAPS)
    fixture.admin.open_session(CALLER, {"id": "head", "caps": {"calls": 3}})
    fixture.admin.open_session(CALLER, {"id": "child", "parent": "head", "caps": {"calls": 2}})
    child, head = fixture.sessions.get("k1", "child"), fixture.sessions.get("k1", "head")
    assert child is not None and head is not None
    described = await fixture.admin.resume(
        "child", None, {"budget": {"calls": 4, "minutes": 10}, "note": "more"}, actor="admin"
    )
    assert described["caps"] == {"calls": 6}
    assert sorted((name, body["amount"], body["scope"]["session"], actor) for name, body, actor in fixture.grants) == [
        ("each-calls", 4.0, "child", "admin"), ("session-calls", 4.0, "head", "admin"),
    ]  # fmt: skip
    assert child.extra_seconds == head.extra_seconds == 600.0
    assert fixture.events[-1].details["budget"] == {"calls": 4, "minutes": 10}


@pytest.mark.parametrize(
    "body",
    [
        {"budget": {"tokens": 5}},
        {"budget": {"usd": -1}},
        {"budget": {"calls": "many"}},
        {"budget": 7},
        {"note": 7},
        {"reason": "x"},
    ],
    ids=["no such cap", "negative", "not a number", "not an object", "not a note", "unknown field"],
)
async def test_an_invalid_resume_changes_nothing(body: dict[str, Any]):
    fixture = AdminFixture(CAPS)
    session = fixture.stopped()
    with pytest.raises(CallerError):
        await fixture.admin.resume("run-1", None, body, actor="admin")
    assert session.stop is not None and fixture.grants == [] and fixture.events == []


def test_an_exempt_session_runs_and_is_guarded_no_more():
    fixture = AdminFixture()
    session = fixture.stopped()
    described = fixture.admin.exempt("run-1", None, actor="admin")
    assert (described["status"], described["exempt"], session.is_exempt) == ("running", True, True)
    assert fixture.kinds == ["session_exempted"]


async def test_a_killed_session_is_not_resumed():
    fixture = AdminFixture()
    session = fixture.session()
    described = fixture.admin.kill("run-1", None, {"note": "costs too much"}, actor="admin")
    assert described["stop"]["code"] == "session_killed"
    assert session.stop is not None and "costs too much" in session.stop.message
    with pytest.raises(BadRequest, match="cannot be resumed"):
        await fixture.admin.resume("run-1", None, {}, actor="admin")
    with pytest.raises(BadRequest, match="cannot be resumed"):
        fixture.admin.exempt("run-1", None, actor="admin")
    assert fixture.kinds == ["session_killed"]


def test_a_label_says_whether_a_stop_was_right():
    fixture = AdminFixture()
    fixture.stopped().was_stopped = True
    assert fixture.admin.label("run-1", None, {"label": "healthy"}, actor="admin")["label"] == "healthy"
    assert {name: fixture.events[0].details[name] for name in ("label", "stopped", "actor")} == {
        "label": "healthy", "stopped": True, "actor": "admin",
    }  # fmt: skip
    with pytest.raises(BadRequest, match="healthy, loop"):
        fixture.admin.label("run-1", None, {"label": "odd"}, actor="admin")


# --- approval links


async def test_a_link_resumes_its_stop_once():
    fixture = AdminFixture()
    fixture.stopped()
    token = fixture.admin.link_token("k1", "run-1", "stop1")
    assert fixture.admin.session_of_link(token)[1].id == "run-1"
    described = await fixture.admin.resume_by_link(token, "go ahead")
    assert described["status"] == "running" and fixture.events[0].details["actor"] == "link"
    with pytest.raises(NotFound) as refused:
        await fixture.admin.resume_by_link(token, "again")
    assert refused.value.code == "invalid_approval_link"
    fixture.stopped(stop_id="stop2")
    with pytest.raises(NotFound):
        await fixture.admin.resume_by_link(token, "another stop")


async def test_a_link_expires_after_a_day():
    fixture = AdminFixture()
    fixture.stopped()
    token = fixture.admin.link_token("k1", "run-1", "stop1")
    fixture.clock.seconds += DAY_SECONDS - 1
    fixture.admin.session_of_link(token)
    fixture.clock.seconds += 1
    with pytest.raises(NotFound):
        fixture.admin.session_of_link(token)


@pytest.mark.parametrize("forge", [lambda token: "x" + token, lambda token: token[:-2], lambda token: ""])
async def test_a_forged_link_is_refused_and_fetches_nothing(forge: Any):
    fixture = AdminFixture()
    fixture.stopped()
    token = forge(fixture.admin.link_token("k1", "run-1", "stop1"))
    await fixture.admin.ensure_loaded_by_link(token)
    assert fixture.fetched == []
    with pytest.raises(NotFound):
        await fixture.admin.resume_by_link(token, "")


async def test_sessions_that_another_gateway_served_are_fetched():
    fixture = AdminFixture()
    await fixture.admin.ensure_loaded("run-1", None)
    assert sorted(fixture.fetched) == [("k1", "default", "run-1"), ("k2", "default", "run-1")]
    fixture.fetched.clear()
    await fixture.admin.ensure_loaded("run-1", "k2")
    await fixture.admin.ensure_loaded("run-1", "k3")
    await fixture.admin.ensure_loaded_by_link(fixture.admin.link_token("k1", "run-2", "stop1"))
    assert fixture.fetched == [("k2", "default", "run-1"), ("k1", "default", "run-2")]


def test_spend_of_a_fork_is_added_to_what_it_inherited():
    fixture = AdminFixture()
    session = fixture.session()
    session.inherited = add_amounts(session.inherited, (0, 0, 2, 0, 0))
    session.spent = add_amounts(session.spent, (0, 0, 1, 0, 0))
    assert fixture.admin.get_own(CALLER, "run-1")["calls"] == 3
