"""The roster of one process: who hears what happens to its sessions, and what is known of them after a restart.

Events go to the log, the counters, the audit beside the ledger, and the webhook. Built by app.py.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .edge.supervisor import Supervisor
from .session_desk import SessionDesk
from .sessions import caps, ladder
from .sessions.identity import SessionBook
from .stores.events import Event, SqliteEvents
from .treasury import Gauge
from .values.session import EVENT_KINDS, SessionEvent, Stop
from .values.world import World

log = logging.getLogger(__name__)

_WAITING_MAX = 1_000
# What happened to a session longer ago than its accounts are kept is history.
_KEPT_SECONDS = 24 * 3600.0
_SECRET_BYTES = 32


class Roster:
    """The sessions of one process, their events and their desk. `send` takes an event to the webhook; `base` is where
    links lead, known once the port is."""

    def __init__(
        self,
        world: Callable[[], World],
        folder: Path,
        secret: str | None,
        supervisor: Supervisor,
        now: Callable[[], float],
        fresh_id: Callable[[], str],
    ) -> None:
        self._folder = folder
        self._secret = secret
        self._supervisor = supervisor
        self._now = now
        self._world = world
        self._fresh_id = fresh_id
        self._waiting = 0
        self._send: Callable[[Mapping[str, Any]], None] = _nobody
        self.base = ""
        self.sessions = SessionBook()
        self.counts: dict[tuple[str, str], int] = {}

    def start(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        """Bring the sessions to where they were."""
        self._send = send
        self._events = SqliteEvents(self._folder / "ledger.sqlite")
        key = self._secret.encode() if self._secret is not None else _own_secret(self._folder / "approval.key")
        self.desk = SessionDesk(self._world, self.sessions, self.happened, self._fresh_id, self._now, key)
        for event in self._events.of_kinds(EVENT_KINDS, int((self._now() - _KEPT_SECONDS) * 1000)):
            self._recall(event)

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
        if event.kind not in ("session_caps", "loop_warn"):
            self._send(_told(event))
        if self._waiting < _WAITING_MAX:
            self._waiting += 1
            self._supervisor.start(
                "session-event",
                self._kept(event),
                lambda error: log.error("an event was not kept: %s", type(error).__name__),
            )

    def link(self, key: str, session: str, stop: str) -> str:
        """Where a person lets a stopped session go on."""
        return f"{self.base}/approve/{self.desk.link_token(key, session, stop)}"

    def gauges(self) -> Iterator[Gauge]:
        """What is read when metrics are scraped."""
        counted = [([*labels], float(count)) for labels, count in self.counts.items()]
        yield "penstock_session_events", "What happened to sessions, since the start.", ["kind", "acted"], counted
        yield "penstock_sessions", "Sessions remembered.", [], [([], float(self.sessions.count))]

    async def _kept(self, event: SessionEvent) -> None:
        try:
            kept = Event(
                id=event.id, at_ms=int(event.at * 1000), kind=event.kind, budget="", account=f"{event.key}/{event.session}",
                details=_told(event),
            )  # fmt: skip
            await asyncio.to_thread(self._events.append, kept)
        finally:
            self._waiting -= 1

    def _recall(self, event: Event) -> None:
        """What an event of before the restart means for its session."""
        told = event.details
        if not told.get("acted"):
            return
        parent = told["root"] if told["root"] != told["session"] else None
        session = self.sessions.named(told["key"], told["session"], "recalled", now=event.at_ms / 1000, parent=parent)
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
            ladder.resume(session, note=told.get("note", ""))
        elif kind == "session_exempted":
            session.exempt, session.stop = True, None
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
    try:
        return path.read_bytes()
    except FileNotFoundError:
        secret = secrets.token_bytes(_SECRET_BYTES)
        path.touch(mode=0o600)
        path.write_bytes(secret)
        return secret


def _nobody(event: Mapping[str, Any]) -> None:
    """Before the start nobody listens."""
