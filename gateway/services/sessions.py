"""The roster of one process: who hears what happens to its sessions, and what is known of them after a restart.

Events go to the log, the counters, the audit beside the ledger, and the webhook. Built by app.py.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dialects.answer_fingerprint import Beginning
from ..sessions import caps, ladder
from ..sessions.lineage import History, answer_keys, said_by
from ..sessions.replica_records import BELONGS, CHANGES, CLIMBED, adopted, record_of
from ..sessions.session_index import Session, SessionBook
from ..stores.events_sqlite import Event, SqliteEvents
from ..values.budget import Line
from ..values.errors import BadRequest, Overloaded
from ..values.request import Caller
from ..values.session import EVENT_KINDS, SessionEvent, Stop
from ..values.snapshot import World, callers_of
from .budgets import Gauge
from .session_admin import GrantMore, SessionDesk
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..stores.sessions_redis import SharedSessions

log = logging.getLogger(__name__)

_WAITING_MAX = 1_000
# What callers report of their sessions.
_REPORTS = ("session_outcome", "session_feedback")
# What has to be known after a restart.
_RECALLED = tuple(kind for kind in EVENT_KINDS if kind not in ("loop_warn", *_REPORTS))
# What no webhook is told.
_QUIET = ("session_caps", "loop_warn", *_REPORTS)
# What happened to a session longer ago than its accounts are kept is history.
_KEPT_SECONDS = 24 * 3600.0
_SECRET_BYTES = 32
# Sessions above one that are asked for.
_LEVELS_MAX = 8
# How often other replicas' sessions are looked at, and how much of what was seen is seen again (clocks differ).
_LOOK_SECONDS, _OVERLAP_SECONDS = 1.0, 5.0


class Roster:
    """The sessions of one process, their events and their desk; `heard` hears of every event. `send` takes an event to the webhook; `base` is where
    links lead, known once the port is."""

    def __init__(
        self,
        world: Callable[[], World],
        folder: Path,
        secret: str | None,
        supervisor: Supervisor,
        now: Callable[[], float],
        fresh_id: Callable[[], str],
        heard: Callable[[SessionEvent], None],
    ) -> None:
        self._heard = heard
        self._folder = folder
        self._secret = secret
        self._supervisor = supervisor
        self._now = now
        self._world = world
        self._fresh_id = fresh_id
        self._waiting = 0
        self._send: Callable[[Mapping[str, Any]], None] = _nobody
        self._shared: SharedSessions | None = None
        self._asked_since = now()
        self.shared = False
        self.base = ""
        self.sessions = SessionBook()
        self.counts = {(kind, acted): 0 for kind in EVENT_KINDS for acted in ("yes", "no")}

    def start(
        self, send: Callable[[Mapping[str, Any]], None], shared: "SharedSessions | None", grant: GrantMore
    ) -> None:
        """Bring the sessions to where they were; `shared` are those of all replicas, where there are several, `grant`
        allows more on an account of a budget."""
        self._send = send
        self._shared, self.shared = shared, shared is not None
        if shared is not None:
            self._supervisor.every(_LOOK_SECONDS, "sessions", self._look)
        self._events = SqliteEvents(self._folder / "ledger.sqlite")
        key = self._secret.encode() if self._secret is not None else _own_secret(self._folder / "approval.key")
        self.desk = SessionDesk(
            self._world, self.sessions, self.happened, self._fresh_id, self._now, key, self.reach, grant, self.told
        )
        for event in self._events.of_kinds(_RECALLED, int((self._now() - _KEPT_SECONDS) * 1000)):
            try:
                self._recall(event)
            except (BadRequest, KeyError, TypeError, ValueError) as error:
                log.error("an event of session '%s' cannot be read: %s", event.account, type(error).__name__)

    def happened(self, event: SessionEvent) -> None:
        """Hear of it; waits for nobody."""
        counted = (event.kind, "yes" if event.acted else "no")
        self.counts[counted] = self.counts.get(counted, 0) + 1
        log.info(
            "%s: session %s of key %s%s",
            event.kind,
            event.session,
            event.key,
            "" if event.acted else " (only observed)",
        )
        session = self.sessions.of(event.key, event.session)
        if session is not None and event.acted and event.kind not in _REPORTS:
            self._changed(event.org, event.key, session, CHANGES.get(event.kind, CLIMBED))
        self._heard(event)
        if event.kind not in _QUIET:
            self._send(_told(event))
        if self._waiting < _WAITING_MAX or event.kind.startswith("session_"):
            self._waiting += 1
            self._supervisor.start(
                "session-event",
                self._kept(event),
                lambda error: log.error("an event was not kept: %s", type(error).__name__),
            )

    def joined(self, caller: Caller, session: Session) -> None:
        """A session that was not known, or that was counted as a sub-agent."""
        self._changed(caller.org, caller.key, session, BELONGS)

    def answered(self, caller: Caller, session: Session, tip: int, heard: Beginning) -> None:
        """An answer was given: any replica may get the next request."""
        if self._shared is not None:
            self._shared.answered(caller.org, tip, session.id, heard, answer_keys(caller.key, heard))

    async def recall(self, caller: Caller, name: str) -> None:
        """Learn what other replicas know of a session by its name, and of those that started it."""
        await self._recalled(caller, name, _LEVELS_MAX)

    async def _recalled(self, caller: Caller, name: str, levels: int) -> None:
        if self._shared is None or levels == 0:
            return
        record = await self._shared.session(caller.org, caller.key, name)
        if record is None:
            return
        for above in {str(record.get("parent") or ""), str(record.get("root") or "")} - {name, ""}:
            if self.sessions.of(caller.key, above) is None:
                await self._recalled(caller, above, levels - 1)
        adopted(self.sessions, caller.key, name, record)

    async def told(self) -> None:
        """Wait until other replicas can know what was just said of a session. Raises Overloaded if they cannot."""
        if self._shared is not None and not await self._shared.flush():
            raise Overloaded("The shared store does not answer: other gateways would not know of this session.")

    async def learn(self, caller: Caller, history: History) -> None:
        """Learn from other replicas whose history this is."""
        if self._shared is None:
            return
        key, now = caller.key, self._now()
        digests = [digest for digest, _ in history.earlier()]
        waiting = await self._shared.waiting_at(caller.org, digests)
        for digest in [one for one in digests if one in waiting][:1]:
            for name, heard in waiting[digest].items():
                self.sessions.waits(key, await self._reached(caller, name, now), digest, heard, now=now)
        if not waiting:
            wanted = [one for _, answer in history.earlier() for one in answer_keys(key, said_by(answer))]
            for digest, names in (await self._shared.answered_with(caller.org, wanted)).items():
                for name in names:
                    self.sessions.given(await self._reached(caller, name, now), digest)

    async def _reached(self, caller: Caller, name: str, now: float) -> Session:
        """The session of that name, wherever it was served."""
        if self.sessions.of(caller.key, name) is None:
            await self.recall(caller, name)
        return self.sessions.named(caller.key, name, "lineage", now=now)

    async def reach(self, key: str, org: str, name: str) -> None:
        """Have a session at hand that an operator asks for, if anybody knows it."""
        if self.sessions.of(key, name) is None:
            await self.recall(Caller(key=key, team="", org=org), name)

    def _changed(self, org: str, key: str, session: Session, fields: Sequence[str]) -> None:
        if self._shared is not None:
            now = session.changed_at = self._now()
            record = record_of(session, now=now)
            told = {field: record[field] for field in fields}
            self._shared.changed(org, key, session.id, told, now=now, news=fields is not BELONGS)

    async def _look(self) -> None:
        """What was done to sessions at other replicas."""
        assert self._shared is not None, "only shared sessions are looked after"
        now, since = self._now(), self._asked_since - _OVERLAP_SECONDS
        for org in {caller.org for caller in callers_of(self._world())}:
            for key, name, record in await self._shared.changes(org, since, self._is_known):
                adopted(self.sessions, key, name, record)
        if not self._shared.failing:
            self._asked_since = now

    def _is_known(self, key: str, name: str) -> bool:
        return self.sessions.of(key, name) is not None

    def link(self, key: str, session: str, stop: str) -> str:
        """Where a person lets a stopped session go on."""
        return f"{self.base}/approve/{self.desk.link_token(key, session, stop)}"

    def gauges(self) -> Iterator[Gauge]:
        """What is read when metrics are scraped."""
        counted = [([*labels], float(count)) for labels, count in self.counts.items()]
        yield "penstock_session_events", "What happened to sessions, since the start.", ["kind", "acted"], counted
        yield "penstock_sessions", "Sessions remembered.", [], [([], float(self.sessions.count))]

    def capped(self) -> list[Line]:
        """The lines of runs that have caps of their own."""
        now = self._now()
        return [line for key, session in self.sessions.newest() for line in caps.own_lines(session, key, now=now)]

    async def _kept(self, event: SessionEvent) -> None:
        try:
            kept = Event(
                id=event.id, at_ms=int(event.at * 1000), kind=event.kind, budget="", account=f"{event.key}/{event.session}",
                details={name: value for name, value in _told(event).items() if name != "resume"},
            )  # fmt: skip
            await asyncio.to_thread(self._events.append, kept)
        finally:
            self._waiting -= 1

    def _recall(self, event: Event) -> None:
        """What an event of before the restart means for its session."""
        told = event.details
        if not told.get("acted"):
            return
        session = self.sessions.named(
            told["key"],
            told["session"],
            "recalled",
            now=told.get("started_at", told["at"]),
            parent=told.get("parent") or None,
            root=told["root"],
        )
        kind = event.kind
        if told.get("caps"):
            session.own, session.own_version = caps.asked_of(told["caps"]), session.own_version + 1
        if kind in ("loop_stop", "loop_hold"):
            code = "loop_stopped" if kind == "loop_stop" else "loop_held"
            session.stop = Stop(
                id=event.id.partition(".")[0], at=told["at"], code=code, message=told.get("message", "This session repeats itself."),
                details={name: value for name, value in told.items() if name in _EVIDENCE},
            )  # fmt: skip
            session.stop_seen_at = told["at"]
            session.taken = session.taken | {kind.removeprefix("loop_")}
        elif kind.startswith("loop_"):
            session.taken = session.taken | {kind.removeprefix("loop_")}
        elif kind == "session_resumed":
            session.more_seconds += float(told.get("budget", {}).get("minutes", 0)) * 60
            ladder.resume(session, note=told.get("note", ""))
        elif kind == "session_exempted":
            session.exempt = True
            ladder.resume(session, note="")
        elif kind == "session_killed":
            ladder.kill(session, id=event.id.partition(".")[0], at=told["at"], why=told.get("note", ""))
        elif kind == "session_labelled":
            session.label = told.get("label", "")


_EVIDENCE = ("session", "score", "tool", "count", "turns", "since_turn", "since_seconds", "cost_usd", "calls")


def _told(event: SessionEvent) -> dict[str, Any]:
    return {
        "id": event.id, "kind": event.kind, "at": event.at, "org": event.org, "key": event.key, "session": event.session,
        "acted": event.acted, **event.details,
    }  # fmt: skip


def _own_secret(path: Path) -> bytes:
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


def _nobody(event: Mapping[str, Any]) -> None:
    """Before the start nobody listens."""
