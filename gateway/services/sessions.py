"""The roster of one process: who hears what happens to its sessions, and what is known of them after a restart.

Events go to the log, the counters, the audit beside the ledger, and the webhook. Built by app.py.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dialects.answer_fingerprint import AnswerFingerprint
from ..sessions import caps, ladder
from ..sessions.lineage import History, answer_beginning, answer_digests
from ..sessions.replica_records import FIELDS_BY_EVENT, LADDER_FIELDS, LINEAGE_FIELDS, adopt_record, to_record
from ..sessions.session_index import Session, SessionIndex
from ..stores.events_sqlite import AuditEvent, SqliteAuditEvents
from ..values.budget import BudgetLine
from ..values.errors import BadRequest, Overloaded
from ..values.request import Caller
from ..values.session import SESSION_EVENT_KINDS, SessionEvent, SessionStop
from ..values.snapshot import Snapshot, all_callers
from .budgets import Gauge
from .session_admin import GrantBudget, SessionAdmin
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..stores.sessions_redis import SharedSessions

log = logging.getLogger(__name__)

_PENDING_EVENTS_MAX = 1_000
# What callers report of their sessions.
_CALLER_REPORT_KINDS = ("session_outcome", "session_feedback")
# What has to be known after a restart.
_REPLAYED_KINDS = tuple(kind for kind in SESSION_EVENT_KINDS if kind not in ("loop_warn", *_CALLER_REPORT_KINDS))
# What no webhook is told.
_KINDS_WITHOUT_WEBHOOK = ("session_caps", "loop_warn", *_CALLER_REPORT_KINDS)
# What happened to a session longer ago than its accounts are kept is history.
_REPLAY_SECONDS = 24 * 3600.0
_SECRET_BYTES = 32
# Sessions above one that are asked for.
_ANCESTORS_MAX = 8
# How often other replicas' sessions are looked at, and how much of what was seen is seen again (clocks differ).
_POLL_SECONDS, _OVERLAP_SECONDS = 1.0, 5.0


class SessionService:
    """The sessions of one process, their events and their desk; `heard` hears of every event. `send` takes an event to the webhook; `base` is where
    links lead, known once the port is."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        folder: Path,
        secret: str | None,
        supervisor: Supervisor,
        now: Callable[[], float],
        fresh_id: Callable[[], str],
        heard: Callable[[SessionEvent], None],
    ) -> None:
        self._on_event = heard
        self._folder = folder
        self._approval_secret = secret
        self._supervisor = supervisor
        self._now = now
        self._world = snapshot
        self._new_id = fresh_id
        self._pending_events = 0
        self._send_to_webhook: Callable[[Mapping[str, Any]], None] = _ignore_event
        self._shared_sessions: SharedSessions | None = None
        self._changes_since = now()
        self.is_shared = False
        self.public_base_url = ""
        self.sessions = SessionIndex()
        self.event_counts = {(kind, acted): 0 for kind in SESSION_EVENT_KINDS for acted in ("yes", "no")}

    def start(
        self, send: Callable[[Mapping[str, Any]], None], shared: "SharedSessions | None", grant: GrantBudget
    ) -> None:
        """Bring the sessions to where they were; `shared` are those of all replicas, where there are several, `grant`
        allows more on an account of a budget."""
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
            self._world,
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
                log.error("an event of session '%s' cannot be read: %s", event.account, type(error).__name__)

    def publish_event(self, event: SessionEvent) -> None:
        """Hear of it; waits for nobody."""
        counted = (event.kind, "yes" if event.was_enforced else "no")
        self.event_counts[counted] = self.event_counts.get(counted, 0) + 1
        log.info(
            "%s: session %s of key %s%s",
            event.kind,
            event.session,
            event.key,
            "" if event.was_enforced else " (only observed)",
        )
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
                lambda error: log.error("an event was not kept: %s", type(error).__name__),
            )

    def publish_session(self, caller: Caller, session: Session) -> None:
        """A session that was not known, or that was counted as a sub-agent."""
        self._publish_change(caller.org, caller.key, session, LINEAGE_FIELDS)

    def publish_answer(self, caller: Caller, session: Session, tip: int, heard: AnswerFingerprint) -> None:
        """An answer was given: any replica may get the next request."""
        if self._shared_sessions is not None:
            self._shared_sessions.publish_answer(caller.org, tip, session.id, heard, answer_digests(caller.key, heard))

    async def fetch_session(self, caller: Caller, name: str) -> None:
        """Learn what other replicas know of a session by its name, and of those that started it."""
        await self._fetch_with_ancestors(caller, name, _ANCESTORS_MAX)

    async def _fetch_with_ancestors(self, caller: Caller, name: str, levels: int) -> None:
        if self._shared_sessions is None or levels == 0:
            return
        record = await self._shared_sessions.read_record(caller.org, caller.key, name)
        if record is None:
            return
        for above in {str(record.get("parent") or ""), str(record.get("root") or "")} - {name, ""}:
            if self.sessions.get(caller.key, above) is None:
                await self._fetch_with_ancestors(caller, above, levels - 1)
        adopt_record(self.sessions, caller.key, name, record)

    async def flush(self) -> None:
        """Wait until other replicas can know what was just said of a session. Raises Overloaded if they cannot."""
        if self._shared_sessions is not None and not await self._shared_sessions.flush():
            raise Overloaded("The shared store does not answer: other gateways would not know of this session.")

    async def fetch_history(self, caller: Caller, history: History) -> None:
        """Learn from other replicas whose history this is."""
        if self._shared_sessions is None:
            return
        key, now = caller.key, self._now()
        digests = [digest for digest, _ in history.earlier_requests()]
        waiting = await self._shared_sessions.sessions_at_history(caller.org, digests)
        for digest in [one for one in digests if one in waiting][:1]:
            for name, heard in waiting[digest].items():
                self.sessions.add_remote_request(
                    key, await self._fetch_or_create(caller, name, now), digest, heard, now=now
                )
        if not waiting:
            wanted = [
                one for _, answer in history.earlier_requests() for one in answer_digests(key, answer_beginning(answer))
            ]
            for digest, names in (await self._shared_sessions.sessions_with_answer(caller.org, wanted)).items():
                for name in names:
                    self.sessions.add_answer(await self._fetch_or_create(caller, name, now), digest)

    async def _fetch_or_create(self, caller: Caller, name: str, now: float) -> Session:
        """The session of that name, wherever it was served."""
        if self.sessions.get(caller.key, name) is None:
            await self.fetch_session(caller, name)
        return self.sessions.get_or_create(caller.key, name, "lineage", now=now)

    async def ensure_loaded(self, key: str, org: str, name: str) -> None:
        """Have a session at hand that an operator asks for, if anybody knows it."""
        if self.sessions.get(key, name) is None:
            await self.fetch_session(Caller(key=key, team="", org=org), name)

    def _publish_change(self, org: str, key: str, session: Session, fields: Sequence[str]) -> None:
        if self._shared_sessions is not None:
            now = session.replica_record_at = self._now()
            record = to_record(session, now=now)
            told = {field: record[field] for field in fields}
            self._shared_sessions.publish_record(
                org, key, session.id, told, now=now, session_sync=fields is not LINEAGE_FIELDS
            )

    async def _poll_changes(self) -> None:
        """What was done to sessions at other replicas."""
        assert self._shared_sessions is not None, "only shared sessions are looked after"
        now, since = self._now(), self._changes_since - _OVERLAP_SECONDS
        for org in {caller.org for caller in all_callers(self._world())}:
            for key, name, record in await self._shared_sessions.read_changes(org, since, self._is_known):
                adopt_record(self.sessions, key, name, record)
        if not self._shared_sessions.is_failing:
            self._changes_since = now

    def _is_known(self, key: str, name: str) -> bool:
        return self.sessions.get(key, name) is not None

    def approval_link(self, key: str, session: str, stop: str) -> str:
        """Where a person lets a stopped session go on."""
        return f"{self.public_base_url}/approve/{self.admin.link_token(key, session, stop)}"

    def gauges(self) -> Iterator[Gauge]:
        """What is read when metrics are scraped."""
        counted = [([*labels], float(count)) for labels, count in self.event_counts.items()]
        yield "penstock_session_events", "What happened to sessions, since the start.", ["kind", "acted"], counted
        yield "penstock_sessions", "Sessions remembered.", [], [([], float(self.sessions.session_count))]

    def cap_lines(self) -> list[BudgetLine]:
        """The lines of runs that have caps of their own."""
        now = self._now()
        return [
            line for key, session in self.sessions.most_recent() for line in caps.own_cap_lines(session, key, now=now)
        ]

    async def _store_event(self, event: SessionEvent) -> None:
        try:
            kept = AuditEvent(
                id=event.id, at_ms=int(event.at * 1000), kind=event.kind, budget="", account=f"{event.key}/{event.session}",
                details={name: value for name, value in _event_document(event).items() if name != "resume"},
            )  # fmt: skip
            await asyncio.to_thread(self._events.append, kept)
        finally:
            self._pending_events -= 1

    def _replay_event(self, event: AuditEvent) -> None:
        """What an event of before the restart means for its session."""
        told = event.details
        if not told.get("acted"):
            return
        session = self.sessions.get_or_create(
            told["key"],
            told["session"],
            "recalled",
            now=told.get("started_at", told["at"]),
            parent=told.get("parent") or None,
            root=told["root"],
        )
        kind = event.kind
        if told.get("caps"):
            session.own_caps, session.own_caps_version = caps.parse_caps(told["caps"]), session.own_caps_version + 1
        if kind in ("loop_stop", "loop_hold"):
            code = "loop_stopped" if kind == "loop_stop" else "loop_held"
            session.stop = SessionStop(
                id=event.id.partition(".")[0], stopped_at=told["at"], code=code, message=told.get("message", "This session repeats itself."),
                details={name: value for name, value in told.items() if name in _EVIDENCE_FIELDS},
            )  # fmt: skip
            session.refused_at = told["at"]
            session.steps_taken = session.steps_taken | {kind.removeprefix("loop_")}
        elif kind.startswith("loop_"):
            session.steps_taken = session.steps_taken | {kind.removeprefix("loop_")}
        elif kind == "session_resumed":
            session.extra_seconds += float(told.get("budget", {}).get("minutes", 0)) * 60
            ladder.resume_session(session, note=told.get("note", ""))
        elif kind == "session_exempted":
            session.is_exempt = True
            ladder.resume_session(session, note="")
        elif kind == "session_killed":
            ladder.kill_session(session, id=event.id.partition(".")[0], at=told["at"], why=told.get("note", ""))
        elif kind == "session_labelled":
            session.loop_label = told.get("label", "")


_EVIDENCE_FIELDS = ("session", "score", "tool", "count", "turns", "since_turn", "since_seconds", "cost_usd", "calls")


def _event_document(event: SessionEvent) -> dict[str, Any]:
    return {
        "id": event.id, "kind": event.kind, "at": event.at, "org": event.org, "key": event.key, "session": event.session,
        "acted": event.was_enforced, **event.details,
    }  # fmt: skip


def _load_or_create_secret(path: Path) -> bytes:
    """The secret that signs links, made once; replicas that share sessions are given one."""
    found = path.read_bytes() if path.exists() else b""
    if len(found) == _SECRET_BYTES:
        return found
    secret = secrets.token_bytes(_SECRET_BYTES)
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(secret)
    fresh.replace(path)
    return secret


def _ignore_event(event: Mapping[str, Any]) -> None:
    """Before the start nobody listens."""
