"""Sessions of one process: event fan-out, state after a restart, and synchronization with other replicas.

Events go to the log, the counters, the audit beside the ledger, and the webhook.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dialects.answer_fingerprint import AnswerFingerprint
from ..sessions import caps, ladder
from ..sessions.lineage import History, answer_digests, answer_fingerprint
from ..sessions.replica_records import FIELDS_BY_EVENT, LADDER_FIELDS, LINEAGE_FIELDS, adopt_record, to_record
from ..sessions.session_index import Session, SessionIndex
from ..stores.events_sqlite import AuditEvent, SqliteAuditEvents
from ..values.budget import BudgetLine
from ..values.errors import BadRequest, Overloaded
from ..values.metric import MetricFamily, counter, gauge
from ..values.request import Caller
from ..values.session import SESSION_EVENT_KINDS, SessionEvent, SessionStop
from ..values.snapshot import Snapshot, all_callers
from .session_admin import GrantBudget, SessionAdmin
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..stores.sessions_redis import SharedSessions

log = logging.getLogger(__name__)

_PENDING_EVENTS_MAX = 1_000
# Events that callers report about their own sessions.
_CALLER_REPORT_KINDS = ("session_outcome", "session_feedback")
# Events that restore sessions after a restart.
_REPLAYED_KINDS = tuple(kind for kind in SESSION_EVENT_KINDS if kind not in ("loop_warn", *_CALLER_REPORT_KINDS))
# Events that are not sent to the webhook.
_KINDS_WITHOUT_WEBHOOK = ("session_caps", "loop_warn", *_CALLER_REPORT_KINDS)
# Older events are not replayed: a session's accounts are not kept longer than this.
_REPLAY_SECONDS = 24 * 3600.0
_SECRET_BYTES = 32
# Levels of parent sessions that are fetched from the shared store.
_ANCESTORS_MAX = 8
# Interval of polling other replicas' changes, and how far polls overlap, since clocks differ.
_POLL_SECONDS, _OVERLAP_SECONDS = 1.0, 5.0


class SessionService:
    """Sessions with their events and their admin API.

    snapshot: returns the current snapshot
    folder: data folder that holds the ledger
    secret: signs approval links, None to create one in the data folder
    fresh_id: returns a new unique id
    on_event: called with every session event
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        folder: Path,
        secret: str | None,
        supervisor: Supervisor,
        now: Callable[[], float],
        fresh_id: Callable[[], str],
        on_event: Callable[[SessionEvent], None],
    ) -> None:
        self._on_event = on_event
        self._folder = folder
        self._approval_secret = secret
        self._supervisor = supervisor
        self._now = now
        self._snapshot = snapshot
        self._new_id = fresh_id
        self._pending_events = 0
        self._send_to_webhook: Callable[[Mapping[str, Any]], None] = _ignore_event
        self._shared_sessions: SharedSessions | None = None
        self._changes_since = now()
        self.is_shared = False
        self.public_base_url = ""
        self.sessions = SessionIndex()
        self.event_counts = {(kind, enforced): 0 for kind in SESSION_EVENT_KINDS for enforced in ("yes", "no")}

    def start(
        self, send: Callable[[Mapping[str, Any]], None], shared: "SharedSessions | None", grant: GrantBudget
    ) -> None:
        """Restore the sessions from the audit and start polling.

        send: queues an event for the webhook
        shared: the sessions of all replicas, None for a single replica
        grant: raises the limit of an account of a budget
        """
        self._send_to_webhook = send
        self._shared_sessions, self.is_shared = shared, shared is not None
        if shared is not None:
            self._supervisor.run_every(_POLL_SECONDS, "sessions", self._poll_changes)
        self._events = SqliteAuditEvents(self._folder / "ledger.sqlite")
        key = (
            self._approval_secret.encode()
            if self._approval_secret is not None
            else _load_or_create_secret(self._folder / "approval.key")
        )
        self.admin = SessionAdmin(
            self._snapshot,
            self.sessions,
            self.publish_event,
            self._new_id,
            self._now,
            key,
            self.ensure_loaded,
            grant,
            self.flush,
        )
        for event in self._events.iter_kinds(_REPLAYED_KINDS, int((self._now() - _REPLAY_SECONDS) * 1000)):
            try:
                self._replay_event(event)
            except (BadRequest, KeyError, TypeError, ValueError) as error:
                log.error("session_event_unreadable session=%s error=%s", event.account, type(error).__name__)

    def publish_event(self, event: SessionEvent) -> None:
        """Log, count, store and forward an event; never blocks."""
        enforced = "yes" if event.was_enforced else "no"
        self.event_counts[event.kind, enforced] = self.event_counts.get((event.kind, enforced), 0) + 1
        log.info("%s session=%s key=%s enforced=%s", event.kind, event.session, event.key, enforced)
        session = self.sessions.get(event.key, event.session)
        if session is not None and event.was_enforced and event.kind not in _CALLER_REPORT_KINDS:
            self._publish_change(event.org, event.key, session, FIELDS_BY_EVENT.get(event.kind, LADDER_FIELDS))
        self._on_event(event)
        if event.kind not in _KINDS_WITHOUT_WEBHOOK:
            self._send_to_webhook(_event_document(event))
        if self._pending_events < _PENDING_EVENTS_MAX or event.kind.startswith("session_"):
            self._pending_events += 1
            self._supervisor.spawn(
                "session-event",
                self._store_event(event),
                lambda error: log.error("session_event_not_stored error=%s", type(error).__name__),
            )

    def publish_session(self, caller: Caller, session: Session) -> None:
        """Publish a session that is new, or newly counted as a sub-agent, to other replicas."""
        self._publish_change(caller.org, caller.key, session, LINEAGE_FIELDS)

    def publish_answer(self, caller: Caller, session: Session, digest: int, answer: AnswerFingerprint) -> None:
        """Publish the answer to the request whose history has this digest: any replica may get the next request."""
        if self._shared_sessions is not None:
            answer_keys = answer_digests(caller.key, answer)
            self._shared_sessions.publish_answer(caller.org, digest, session.id, answer, answer_keys)

    async def fetch_session(self, caller: Caller, name: str) -> None:
        """Fetch a session and its ancestors from the shared store, by its name."""
        await self._fetch_with_ancestors(caller, name, _ANCESTORS_MAX)

    async def _fetch_with_ancestors(self, caller: Caller, name: str, levels: int) -> None:
        if self._shared_sessions is None or levels == 0:
            return
        record = await self._shared_sessions.read_record(caller.org, caller.key, name)
        if record is None:
            return
        for ancestor in {str(record.get("parent") or ""), str(record.get("root") or "")} - {name, ""}:
            if self.sessions.get(caller.key, ancestor) is None:
                await self._fetch_with_ancestors(caller, ancestor, levels - 1)
        adopt_record(self.sessions, caller.key, name, record)

    async def flush(self) -> None:
        """Wait until published changes have reached the shared store. Raises Overloaded if they cannot."""
        if self._shared_sessions is not None and not await self._shared_sessions.flush():
            raise Overloaded("Shared store unavailable: other gateways cannot be informed of this session.")

    async def fetch_history(self, caller: Caller, history: History) -> None:
        """Fetch the sessions that this history may belong to from the shared store."""
        if self._shared_sessions is None:
            return
        key, now = caller.key, self._now()
        digests = [digest for digest, _ in history.earlier_requests()]
        candidates = await self._shared_sessions.sessions_at_history(caller.org, digests)
        newest = next((digest for digest in digests if digest in candidates), None)
        if newest is not None:
            for name, answer in candidates[newest].items():
                session = await self._fetch_or_create(caller, name, now)
                self.sessions.add_remote_request(session, newest, answer, now=now)
        if not candidates:
            answers = [
                answer_key
                for _, message in history.earlier_requests()
                for answer_key in answer_digests(key, answer_fingerprint(message))
            ]
            for answer_key, names in (await self._shared_sessions.sessions_with_answer(caller.org, answers)).items():
                for name in names:
                    self.sessions.add_answer(await self._fetch_or_create(caller, name, now), answer_key)

    async def _fetch_or_create(self, caller: Caller, name: str, now: float) -> Session:
        """The session of that name: local, fetched from the shared store, or new."""
        if self.sessions.get(caller.key, name) is None:
            await self.fetch_session(caller, name)
        return self.sessions.get_or_create(caller.key, name, "lineage", now=now)

    async def ensure_loaded(self, key: str, org: str, name: str) -> None:
        """Fetch a session that an operator asks for, unless it is local."""
        if self.sessions.get(key, name) is None:
            await self.fetch_session(Caller(key=key, team="", org=org), name)

    def _publish_change(self, org: str, key: str, session: Session, fields: Sequence[str]) -> None:
        if self._shared_sessions is not None:
            now = session.replica_record_at = self._now()
            record = to_record(session, now=now)
            changed = {field: record[field] for field in fields}
            self._shared_sessions.publish_record(
                org, key, session.id, changed, now=now, lists_change=fields is not LINEAGE_FIELDS
            )

    async def _poll_changes(self) -> None:
        """Adopt changes that other replicas made to sessions held here."""
        assert self._shared_sessions is not None, "only shared sessions are polled"
        now, since = self._now(), self._changes_since - _OVERLAP_SECONDS
        for org in {caller.org for caller in all_callers(self._snapshot())}:
            for key, name, record in await self._shared_sessions.read_changes(org, since, self._is_known):
                adopt_record(self.sessions, key, name, record)
        if not self._shared_sessions.is_failing:
            self._changes_since = now

    def _is_known(self, key: str, name: str) -> bool:
        return self.sessions.get(key, name) is not None

    def approval_link(self, key: str, session: str, stop: str) -> str:
        """URL of the page where a person resumes a stopped session."""
        return f"{self.public_base_url}/approve/{self.admin.link_token(key, session, stop)}"

    def metrics(self) -> Iterator[MetricFamily]:
        """Metrics of sessions, read at a scrape."""
        yield counter(
            "penstock_session_events_total",
            "Session events: loop guard steps and operator actions; enforced is no in shadow mode and the holdout.",
            self.event_counts.items(),
            ("kind", "enforced"),
        )
        yield gauge("penstock_sessions", "Sessions in memory.", self.sessions.session_count)

    def cap_lines(self) -> list[BudgetLine]:
        """Budget lines of the sessions that have caps of their own."""
        now = self._now()
        return [
            line for key, session in self.sessions.most_recent() for line in caps.own_cap_lines(session, key, now=now)
        ]

    async def _store_event(self, event: SessionEvent) -> None:
        try:
            audit_event = AuditEvent(
                id=event.id, at_ms=int(event.at * 1000), kind=event.kind, budget="", account=f"{event.key}/{event.session}",
                details={name: value for name, value in _event_document(event).items() if name != "resume"},
            )  # fmt: skip
            await asyncio.to_thread(self._events.append, audit_event)
        finally:
            self._pending_events -= 1

    def _replay_event(self, event: AuditEvent) -> None:
        """Apply an event from before the restart to its session."""
        details = event.details
        if not details.get("enforced"):
            return
        session = self.sessions.get_or_create(
            details["key"],
            details["session"],
            "recalled",
            now=details.get("started_at", details["at"]),
            parent=details.get("parent") or None,
            root=details["root"],
        )
        kind = event.kind
        if details.get("caps"):
            session.own_caps, session.own_caps_version = caps.parse_caps(details["caps"]), session.own_caps_version + 1
        if kind in ("loop_stop", "loop_hold"):
            session.stop = SessionStop(
                id=event.id.partition(".")[0],
                stopped_at=details["at"],
                code="loop_stopped" if kind == "loop_stop" else "loop_approval_required",
                message=details.get("message", "This session repeats itself."),
                details={name: value for name, value in details.items() if name in _EVIDENCE_FIELDS},
            )
            session.refused_at = details["at"]
            session.steps_taken = session.steps_taken | {kind.removeprefix("loop_")}
        elif kind.startswith("loop_"):
            session.steps_taken = session.steps_taken | {kind.removeprefix("loop_")}
        elif kind == "session_resumed":
            session.extra_seconds += float(details.get("budget", {}).get("minutes", 0)) * 60
            ladder.resume_session(session, note=details.get("note", ""))
        elif kind == "session_exempted":
            session.is_exempt = True
            ladder.resume_session(session, note="")
        elif kind == "session_killed":
            stop_id, note = event.id.partition(".")[0], details.get("note", "")
            ladder.kill_session(session, id=stop_id, at=details["at"], note=note)
        elif kind == "session_labelled":
            session.loop_label = details.get("label", "")


_EVIDENCE_FIELDS = ("session", "score", "tool", "count", "turns", "since_turn", "since_seconds", "cost_usd", "calls")


def _event_document(event: SessionEvent) -> dict[str, Any]:
    return {
        "id": event.id, "kind": event.kind, "at": event.at, "org": event.org, "key": event.key, "session": event.session,
        "enforced": event.was_enforced, **event.details,
    }  # fmt: skip


def _load_or_create_secret(path: Path) -> bytes:
    """The secret that signs approval links, created once; replicas that share sessions have one configured."""
    stored = path.read_bytes() if path.exists() else b""
    if len(stored) == _SECRET_BYTES:
        return stored
    secret = secrets.token_bytes(_SECRET_BYTES)
    unfinished = path.with_suffix(".new")
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(secret)
    unfinished.replace(path)
    return secret


def _ignore_event(event: Mapping[str, Any]) -> None:
    """Stands for the webhook until `start`."""
