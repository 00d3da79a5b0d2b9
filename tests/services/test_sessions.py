"""Sessions of one process: events, state after a restart, and exchange with other replicas on a real server."""

import contextlib
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.services.sessions import SessionService
from gateway.services.supervisor import Supervisor
from gateway.sessions.lineage import History, answer_fingerprint
from gateway.sessions.session_index import Session
from gateway.stores.events_sqlite import AuditEvent, SqliteAuditEvents
from gateway.stores.redis_scripts import SingleNode
from gateway.stores.sessions_redis import SharedSessions
from gateway.values.errors import NotFound, Overloaded
from gateway.values.request import Caller
from gateway.values.session import SessionEvent
from tests.services.clocks import NOW, ManualClock, until
from tests.sessions.agent_requests import chat_request, opening_messages
from tests.snapshots import snapshot
from tests.stores.servers import Server

CALLER = Caller(key="k1", team="research")


async def no_grant(name: str, body: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
    """No budget is raised."""
    return {}


class SessionFixture:
    """A session service of one data folder, and what its events reach.

    observed: events that others in this process observe
    sent: events for the webhook
    """

    def __init__(self, folder: Path, secret: str | None, clock: ManualClock) -> None:
        folder.mkdir(exist_ok=True)
        self.clock, self.folder = clock, folder
        self.supervisor = Supervisor(clock.sleep)
        self.observed: list[SessionEvent] = []
        self.sent: list[Mapping[str, Any]] = []
        self._ids = 0
        configured = snapshot()
        self.service = SessionService(
            lambda: configured, folder, secret, self.supervisor, clock.now, self._fresh_id, self.observed.append
        )

    def _fresh_id(self) -> str:
        self._ids += 1
        return f"{self.folder.name}-{self.clock.now():.0f}-{self._ids}"

    def open(self, name: str = "run-1", **body: Any) -> Session:
        """Opens a session of the caller."""
        self.service.admin.open_session(CALLER, {"id": name, **body})
        return self.session(name)

    def session(self, name: str = "run-1") -> Session:
        """A session of the caller that this process has."""
        session = self.service.sessions.get("k1", name)
        assert session is not None, name
        return session

    def publish(self, kind: str, name: str = "run-1", *, enforced: bool = True, **details: Any) -> None:
        """Publishes an event of a session, as the pipeline does."""
        session = self.service.sessions.get("k1", name)
        root = session.root if session is not None else name
        details = {"root": root, "parent": "", "started_at": NOW, **details}
        self.service.publish_event(
            SessionEvent(
                id=f"{self._fresh_id()}.{kind}", kind=kind, at=self.clock.now(), org="default", key="k1", session=name,
                was_enforced=enforced, details=details,
            )
        )  # fmt: skip

    async def stored(self, count: int) -> list[AuditEvent]:
        """The audit, once it has that many events."""
        events = SqliteAuditEvents(self.folder / "ledger.sqlite")
        await until(lambda: len(events.since(0)) >= count)
        return events.since(0)

    def counts(self) -> dict[tuple[str, ...], float]:
        """Events by kind and whether they were enforced, those that occurred."""
        families = {family.name: family.samples for family in self.service.metrics()}
        return {labels: value for labels, value in families["penstock_session_events_total"] if value}


@contextlib.asynccontextmanager
async def running_sessions(
    folder: Path,
    *,
    secret: str | None = None,
    clock: ManualClock | None = None,
    server: Server | None = None,
) -> AsyncIterator[SessionFixture]:
    fixture = SessionFixture(folder, secret, clock or ManualClock())
    scripts = SingleNode(server.url, fixture.supervisor.spawn, timeout=5.0) if server is not None else None
    shared = SharedSessions(scripts, fixture.supervisor.spawn, fixture.clock.monotonic) if scripts is not None else None
    try:
        fixture.service.start(fixture.sent.append, shared, no_grant)
        yield fixture
    finally:
        await fixture.supervisor.stop()
        if scripts is not None:
            await scripts.close()


# --- events


async def test_an_event_is_counted_logged_stored_and_forwarded(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    async with running_sessions(tmp_path / "a") as fixture:
        fixture.publish("loop_stop", score=9.0, resume="http://gateway/approve/x")
        assert fixture.counts() == {("loop_stop", "yes"): 1}
        assert "loop_stop session=run-1 key=k1 enforced=yes" in caplog.text
        assert [event.kind for event in fixture.observed] == ["loop_stop"]
        (sent,) = fixture.sent
        assert (sent["kind"], sent["session"], sent["enforced"], sent["score"]) == ("loop_stop", "run-1", True, 9.0)
        assert sent["resume"] == "http://gateway/approve/x"
        (stored,) = await fixture.stored(1)
        assert (stored.kind, stored.account, stored.at_ms) == ("loop_stop", "k1/run-1", round(NOW * 1000))
        assert stored.details["score"] == 9.0 and "resume" not in stored.details, "links are not kept"


@pytest.mark.parametrize("kind", ["session_caps", "loop_warn", "session_outcome", "session_feedback"])
async def test_events_of_no_concern_to_operators_are_not_sent_to_the_webhook(tmp_path: Path, kind: str):
    async with running_sessions(tmp_path / "a") as fixture:
        fixture.publish(kind)
        assert fixture.sent == [] and len(fixture.observed) == 1
        assert [event.kind for event in await fixture.stored(1)] == [kind]


async def test_an_event_that_cannot_be_stored_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with running_sessions(tmp_path / "a") as fixture:
        db = sqlite3.connect(tmp_path / "a" / "ledger.sqlite")
        db.execute("DROP TABLE events")
        db.close()
        fixture.publish("loop_stop")
        await until(lambda: "session_event_not_stored error=OperationalError" in caplog.text)
        assert fixture.counts() == {("loop_stop", "yes"): 1}


# --- restart


async def test_a_restarted_gateway_remembers_stops_caps_and_labels(tmp_path: Path):
    clock = ManualClock()
    async with running_sessions(tmp_path / "a", clock=clock) as fixture:
        fixture.open(caps={"calls": 5})
        fixture.publish("loop_nudge", score=4.0)
        fixture.publish("loop_stop", score=9.0, tool="bash", message="Session stopped.")
        clock.seconds += 1
        fixture.service.admin.label("run-1", None, {"label": "loop"}, actor="admin")
        fixture.open("capped", caps={"usd": 2})
        await fixture.stored(5)
    async with running_sessions(tmp_path / "a", clock=clock) as fixture:
        session = fixture.session()
        assert session.stop is not None
        assert (session.stop.code, session.stop.message) == ("loop_stopped", "Session stopped.")
        assert session.stop.details == {"session": "run-1", "score": 9.0, "tool": "bash"}
        assert session.stop.stopped_at == session.refused_at == NOW
        assert session.steps_taken == {"nudge", "stop"} and session.loop_label == "loop"
        assert sorted(line.account for line in fixture.service.cap_lines()) == [
            "run-calls|key=k1/session=run-1|session", "run-usd|key=k1/session=capped|session",
        ]  # fmt: skip


async def test_a_restarted_gateway_remembers_what_operators_did(tmp_path: Path):
    clock = ManualClock()
    async with running_sessions(tmp_path / "a", clock=clock) as fixture:
        admin = fixture.service.admin
        for name in ("resumed", "exempt", "killed", "held"):
            fixture.open(name, caps={"minutes": 10})
            fixture.publish("loop_hold", name, score=7.0)
        await fixture.stored(8)
        clock.seconds += 1
        await admin.resume("resumed", None, {"note": "Try again.", "budget": {"minutes": 5}}, actor="admin")
        admin.exempt("exempt", None, actor="admin")
        admin.kill("killed", None, {"note": "too expensive"}, actor="admin")
        await fixture.stored(11)
    async with running_sessions(tmp_path / "a", clock=clock) as fixture:
        resumed, exempt, killed, held = map(fixture.session, ("resumed", "exempt", "killed", "held"))
        assert (resumed.stop, resumed.resume_note, resumed.extra_seconds) == (None, "Try again.", 300.0)
        assert resumed.own_caps is not None and resumed.own_caps.duration_seconds_max == 900.0
        assert (exempt.stop, exempt.is_exempt) == (None, True)
        assert killed.stop is not None and killed.stop.code == "session_killed"
        assert "too expensive" in killed.stop.message
        assert held.stop is not None and held.stop.code == "loop_approval_required"


async def test_a_link_sent_before_a_restart_resumes_the_stop_after_it(tmp_path: Path):
    async with running_sessions(tmp_path / "a") as fixture:
        fixture.service.public_base_url = "http://gateway"
        fixture.publish("loop_hold")
        (stored,) = await fixture.stored(1)
        link = fixture.service.approval_link("k1", "run-1", stored.id.partition(".")[0])
        assert link.startswith("http://gateway/approve/")
    async with running_sessions(tmp_path / "a") as fixture:
        await fixture.service.admin.resume_by_link(link.rpartition("/")[2], "go ahead")
        assert fixture.session().stop is None


async def test_observed_events_and_those_older_than_a_day_are_not_replayed(tmp_path: Path):
    clock = ManualClock()
    async with running_sessions(tmp_path / "a", clock=clock) as fixture:
        fixture.publish("loop_stop", "old")
        clock.seconds += 24 * 3600 + 1
        fixture.publish("loop_stop", "observed", enforced=False)
        fixture.publish("loop_stop", "new")
        await fixture.stored(3)
    async with running_sessions(tmp_path / "a", clock=clock) as fixture:
        assert [session.id for _, session in fixture.service.sessions.most_recent()] == ["new"]


async def test_an_unreadable_event_does_not_prevent_a_start(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "a").mkdir()
    events = SqliteAuditEvents(tmp_path / "a" / "ledger.sqlite")
    broken: tuple[dict[str, Any], ...] = (
        {"enforced": True},
        {"enforced": True, "key": "k1", "session": "s", "root": "s", "at": NOW, "caps": {"bananas": 1}},
    )
    for number, details in enumerate(broken):
        events.append(
            AuditEvent(id=f"e{number}", at_ms=round(NOW * 1000), kind="session_killed", budget="", account=f"k1/s{number}", details=details)
        )  # fmt: skip
    async with running_sessions(tmp_path / "a") as fixture:
        fixture.publish("loop_stop")
        assert fixture.counts() == {("loop_stop", "yes"): 1}
    assert "session_event_unreadable session=k1/s0 error=KeyError" in caplog.text
    assert "session_event_unreadable session=k1/s1 error=BadRequest" in caplog.text


# --- approval secret


async def test_an_approval_secret_is_created_once_and_readable_by_its_owner_only(tmp_path: Path):
    path = tmp_path / "a" / "approval.key"
    async with running_sessions(tmp_path / "a"):
        first = path.read_bytes()
        assert len(first) == 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    async with running_sessions(tmp_path / "a"):
        assert path.read_bytes() == first
    path.write_bytes(b"torn")
    async with running_sessions(tmp_path / "a"):
        assert len(path.read_bytes()) == 32, "an incomplete secret is replaced"


async def test_gateways_with_one_configured_secret_accept_each_others_links(tmp_path: Path):
    tokens = {}
    for name, secret in (("one", "shared secret"), ("two", "shared secret"), ("three", "another secret")):
        async with running_sessions(tmp_path / name, secret=secret) as fixture:
            fixture.open()
            fixture.service.admin.kill("run-1", None, {}, actor="admin")
            assert not (tmp_path / name / "approval.key").exists()
            stop = fixture.session().stop
            assert stop is not None
            tokens[name] = fixture.service.admin.link_token("k1", "run-1", stop.id)
            if name == "two":
                token_of_one = fixture.service.admin.link_token("k1", "run-1", stop.id)
                assert fixture.service.admin.session_of_link(token_of_one)[0] == "k1"
            if name == "three":
                with pytest.raises(NotFound):
                    fixture.service.admin.session_of_link(tokens["one"])


# --- replicas


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "valkey")
    yield running
    running.kill()


@contextlib.asynccontextmanager
async def two_replicas(tmp_path: Path, server: Server) -> AsyncIterator[tuple[SessionFixture, SessionFixture]]:
    clock = ManualClock()
    async with (
        running_sessions(tmp_path / "one", server=server, clock=clock) as first,
        running_sessions(tmp_path / "two", server=server, clock=clock) as second,
    ):
        yield first, second


async def test_a_single_gateway_needs_no_store(tmp_path: Path):
    async with running_sessions(tmp_path / "a") as fixture:
        assert not fixture.service.is_shared
        await fixture.service.fetch_session(CALLER, "missing")
        await fixture.service.fetch_history(CALLER, History("k1", chat_request(opening_messages())))
        await fixture.service.flush()
        assert len(fixture.service.sessions) == 0


async def test_a_session_is_fetched_with_its_ancestors(tmp_path: Path, server: Server):
    async with two_replicas(tmp_path, server) as (first, second):
        assert first.service.is_shared
        first.open("head", caps={"calls": 9})
        for name, parent in (("child", "head"), ("grandchild", "child")):
            first.open(name, parent=parent)
        for name in ("head", "child", "grandchild"):
            first.service.publish_session(CALLER, first.session(name))
        await first.service.flush()
        await second.service.fetch_session(CALLER, "grandchild")
        fetched = second.session("grandchild")
        assert (fetched.parent, fetched.root, fetched.depth) == ("child", "head", 2)
        head = second.session("head")
        assert head.own_caps is not None and [budget.limit for budget in head.own_caps.tree_budgets] == [9]
        await second.service.fetch_session(CALLER, "missing")
        assert second.service.sessions.get("k1", "missing") is None


async def test_an_operator_reaches_a_session_of_another_gateway(tmp_path: Path, server: Server):
    async with two_replicas(tmp_path, server) as (first, second):
        first.open(caps={"calls": 9})
        await first.service.flush()
        await second.service.admin.ensure_loaded("run-1", None)
        await second.clock.advance(1)
        second.service.admin.kill("run-1", None, {}, actor="admin")
        await second.service.admin.flush()
        await first.clock.advance(1)

        def is_killed() -> bool:
            stop = first.session().stop
            return stop is not None and stop.code == "session_killed"

        await until(is_killed)


async def test_only_sessions_held_here_follow_other_replicas(tmp_path: Path, server: Server):
    async with two_replicas(tmp_path, server) as (first, second):
        for name in ("shared", "elsewhere"):
            first.open(name, caps={"calls": 9})
        await first.service.flush()
        await second.service.fetch_session(CALLER, "shared")
        await second.clock.advance(1)
        for name in ("elsewhere", "shared"):
            first.service.admin.label(name, None, {"label": "healthy"}, actor="admin")
        await first.service.flush()
        await second.clock.advance(1)
        await until(lambda: second.session("shared").loop_label == "healthy")
        assert second.service.sessions.get("k1", "elsewhere") is None


# Long enough to identify its session where the history was rewritten.
ANSWERED = {"role": "assistant", "content": "I will look at the failing test first, then at its fixture."}


async def test_the_next_request_of_a_run_without_an_id_finds_its_session_at_another_replica(
    tmp_path: Path, server: Server
):
    history = History("k1", chat_request([*opening_messages(), ANSWERED, {"role": "user", "content": "next"}]))
    digest, message = next(iter(history.earlier_requests()))
    async with two_replicas(tmp_path, server) as (first, second):
        session = first.open("run-1")
        first.service.publish_session(CALLER, session)
        first.service.publish_answer(CALLER, session, digest, answer_fingerprint(message))
        await first.service.flush()
        await second.service.fetch_history(CALLER, history)
        found = second.service.sessions.match_or_create("k1", history, fresh_id="other", now=NOW + 1)
        assert found.id == "run-1"


async def test_a_rewritten_history_finds_its_session_by_its_answers(tmp_path: Path, server: Server):
    rewritten = History(
        "k1", chat_request([*opening_messages("a summary"), ANSWERED, {"role": "user", "content": "next"}])
    )
    _, message = next(iter(rewritten.earlier_requests()))
    async with two_replicas(tmp_path, server) as (first, second):
        session = first.open("run-1")
        first.service.publish_answer(CALLER, session, 12345, answer_fingerprint(message))
        await first.service.flush()
        await second.service.fetch_history(CALLER, rewritten)
        found = second.service.sessions.match_or_create("k1", rewritten, fresh_id="other", now=NOW + 1)
        assert found.id == "run-1"


async def test_a_change_that_does_not_reach_the_store_is_an_error(tmp_path: Path, server: Server):
    async with running_sessions(tmp_path / "one", server=server) as fixture:
        await fixture.service.flush()
        server.kill()
        fixture.open(caps={"calls": 9})
        with pytest.raises(Overloaded, match="Shared store unavailable"):
            await fixture.service.flush()
        assert fixture.session().own_caps is not None, "applied at this gateway"
