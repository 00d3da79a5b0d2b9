"""Who comes in: whose request this is, what is new in its conversation, whether its session may go on; and what the books
of sessions learn when a call has ended.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

from ..dialects import CONVERSATIONS, responses
from ..sessions import caps, ladder
from ..sessions.body_session_id import clean_name, named_in
from ..sessions.end_users import UserBook, user_of
from ..sessions.lineage import History
from ..sessions.response_origins import Origin, OriginBook
from ..sessions.session_index import Session, SessionBook
from ..sessions.turn_digests import call_of
from ..values.budget import added
from ..values.catalog import Route
from ..values.errors import NotFound
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Refusal
from ..values.request import Caller, Hints, Request
from ..values.session import LoopLimits, SessionEvent
from ..values.snapshot import World
from . import settle
from .context import Arrived, Decided, Progress
from .ports import Clock, SessionNews

# How often a held request looks whether it was approved.
_HELD_PAUSE_SECONDS = 0.25


class Reception:
    """Knows who is who. Holds the books of sessions, users and origins of this process."""

    def __init__(self, sessions: SessionBook, news: SessionNews, clock: Clock, fresh_id: Callable[[], str]) -> None:
        self._sessions = sessions
        self._users = UserBook()
        self._origins = OriginBook()
        self._news = news
        self._clock = clock
        self._fresh_id = fresh_id

    async def arrived(self, world: World, route: Route, request: Request, caller: Caller, hints: Hints) -> Arrived:
        """Whose request this is, and what is new in its conversation."""
        at, request_id = self._clock.now(), self._fresh_id()
        origins: Sequence[Origin] = ()
        if request.references:
            origins = self._found(request, caller, now=at)
            kept = origins[0].transcript if request.previous is not None and origins else None
            if kept is not None:
                request = responses.continued(request, kept)
        session, opens = await self._session(world, request, caller, hints, origins, request_id, at)
        session.seen_at = at
        kept_here = self._sessions.of(caller.key, session.id) is session
        if hints.caps is not None and hints.caps != session.own_told and kept_here:
            self._cap(session, caller, hints.caps, request_id, at)
            if self._news.shared:
                await self._news.told()
        standing = ladder.unseen()
        if request.dialect in CONVERSATIONS and not opens:
            # Nothing can repeat itself yet where a conversation opens; its next request is read from the beginning.
            talk = origins[0].talk if origins and request.previous is not None else None
            if request.conversation:
                talk = ladder.conversation_of(session, request.conversation)
            standing = ladder.observe(session, request, now=at, talk=talk)
        if session.stop is not None and ladder.lifted(session, standing, now=at):
            who = "user" if standing.spoken else "silence"
            standing = structs.replace(standing, score=0.0)
            self._tell("session_resumed", caller, session, request_id, at, True, {"who": who})
        return Arrived(
            request_id=request_id,
            at=at,
            world=world,
            route=route,
            request=request,
            caller=caller,
            hints=hints,
            session=session,
            origins=origins,
            standing=standing,
            tip=session.tip,
        )

    async def _session(
        self,
        world: World,
        request: Request,
        caller: Caller,
        hints: Hints,
        origins: Sequence[Origin],
        request_id: str,
        at: float,
    ) -> tuple[Session, bool]:
        """The session that a header or a field of the body names, else that of the answer which is continued, else the
        one whose history this is; and whether a conversation opens with this request."""
        name, source = hints.session, hints.session_source
        if name is None and request.naming:
            found = named_in(request.naming, world.session_fields)
            if found is not None:
                name, source = clean_name(found[0]), found[1]
        if name is None and origins:
            return origins[0].session, False
        if name is None and request.conversation:
            name, source = clean_name(request.conversation), "conversation"
        if name is None and request.dialect not in CONVERSATIONS:
            return Session(id=f"s-{request_id}", source="new", started_at=at), False
        if name is None:
            history = History(caller.key, request)
            if self._news.shared and not history.opens and not self._sessions.finds(history):
                await self._news.learn(caller, history)
            found_by = self._sessions.inferred(
                caller.key, history, fresh_id=f"s-{request_id}", now=at, repeated=hints.repeated
            )
            return found_by, history.opens
        parent, root = hints.parent, hints.root
        if hints.agent is not None:
            parent, name = name, f"{name}/{hints.agent}"
        if self._news.shared and self._sessions.of(caller.key, name) is None:
            for one in (name, parent, root):
                if one is not None and self._sessions.of(caller.key, one) is None:
                    await self._news.recall(caller, one)
        known = self._sessions.of(caller.key, name)
        if known is not None:
            return known, False
        session = self._sessions.named(caller.key, name, source, now=at, parent=parent, root=root)
        if session.above:
            ladder.spawned(session.above[0], request, now=at)
        self._news.joined(caller, session)
        return session, False

    def _found(self, request: Request, caller: Caller, *, now: float) -> list[Origin]:
        """Where the things lie that the request refers to, as far as we know. Raises NotFound for another caller's."""
        found = [self._origins.of(reference, now=now) for reference in request.references]
        for reference, origin in zip(request.references, found, strict=True):
            if origin is not None and origin.key != caller.key:
                raise NotFound(f"There is no '{reference[:100]}' here.", param="previous_response_id")
        return [origin for origin in found if origin is not None]

    def _cap(self, session: Session, caller: Caller, told: str, request_id: str, at: float) -> None:
        """Who started the run has said what it may take. Only ever less. Raises BadRequest."""
        asked = caps.asked(told)
        session.own_told = told
        if caps.tighten(session, asked) and session.own is not None:
            self._tell("session_caps", caller, session, request_id, at, True, {"caps": caps.told_caps(session.own)})

    def user(self, world: World, caller: Caller, told: str, at: float) -> str:
        """The end user whose budgets are met, by what the caller tells; "" where no budget asks."""
        user = user_of(told) if told else ""
        return self._users.known(caller.key, user, now=at) if world.counts_users else user

    def climbed(self, decided: Decided, limits: LoopLimits) -> None:
        """A step of the ladder is taken for the first time."""
        session, standing, caller = decided.session, decided.standing, decided.caller
        facts = ladder.evidence(session, standing.culprit, standing.score, decided.at)
        if standing.acts and standing.step == "tier":
            session.moved = limits.move
        if standing.halts:
            ladder.stop(session, standing, id=decided.request_id, at=decided.at)
            session.stop_seen_at, session.limits = decided.at, limits
            facts = {**facts, "resume": self._link(decided.world, caller.key, session)}
        self._tell(f"loop_{standing.step}", caller, session, decided.request_id, decided.at, standing.acts, facts)

    async def waited(self, decided: Decided, headers: Mapping[str, str]) -> Refusal | None:
        """None once a person has let a session go on that was held a moment ago; its refusal if nobody did."""
        session, limits = decided.session, decided.world.loops.of(decided.route.name, decided.verdict.task_type)
        until = decided.at + limits.hold_seconds
        while session.stop is not None and session.stop.code == "loop_held" and self._clock.now() < until:
            await self._clock.sleep(_HELD_PAUSE_SECONDS)
        if session.stop is None:
            return None
        return self.refusal_of(decided.world, decided.caller, session, headers, limits)

    def refusal_of(
        self, world: World, caller: Caller, session: Session, headers: Mapping[str, str], limits: LoopLimits
    ) -> Refusal:
        """What the agent of a stopped session is told."""
        assert session.stop is not None, "only what is stopped is refused"
        agent = headers.get("user-agent", "").lower()
        status = next((status for word, status in limits.statuses.items() if word in agent), None)
        link = self._link(world, caller.key, session) if world.loops.approval == "everywhere" else ""
        return ladder.refusal(session.stop, link, status)

    def progressed(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None:
        """What the session's books learn from the end of an attempt."""
        session, talk = decided.session, decided.standing.talk
        if progress.outcome != "completed" and entry.final:
            session.failed = True
            # Nobody has read what was to be read beside it.
            session.note = session.note or decided.note
            if decided.standing.due and decided.standing.acts:
                session.taken = session.taken - {decided.standing.step}
        if entry.usage_basis == "none":
            # A sub-agent that was let in and took nothing has not come yet.
            session.admitted = session.admitted and session.calls > 0
            return
        session.spent = added(session.spent, settle.amounts_of(entry))
        session.receipt = session.receipt.plus(entry)
        if session.above:
            ladder.answered(session.above[0], now=(entry.at_ms + entry.duration_ms) / 1000)
        if session.parent and session.calls == 1:
            session.admitted = True
            self._news.joined(decided.caller, session)
        talk.answered_at = (entry.at_ms + entry.duration_ms) / 1000
        if progress.calls:
            talk.pending = tuple([call_of(*call) for call in progress.calls])
        if decided.tip and progress.outcome == "completed":
            self._sessions.answered(decided.caller.key, session, decided.tip, progress.heard)
            if self._news.shared:
                self._news.answered(decided.caller, session, decided.tip, progress.heard)

    def remember(self, decided: Decided, progress: Progress, tokens: int) -> None:
        """Where an answer lies that a caller may refer to: with its provider, or with us if it was crossed."""
        request, provider = decided.request, progress.attempt.deployment.provider
        transcript, answer_id = None, progress.answer_id
        if progress.back is not None:
            answer_id, output = progress.back.kept()
            transcript = responses.transcript(request, output) if answer_id else None
        if answer_id and (transcript is not None or progress.back is None):
            origin = Origin(
                key=decided.caller.key,
                provider=provider,
                session=decided.session,
                talk=decided.standing.talk,
                tokens=tokens,
                at=decided.at,
                transcript=transcript,
            )
            self._origins.remember(answer_id, origin)

    def _link(self, world: World, key: str, session: Session) -> str:
        stopped = session.stop
        if stopped is None or stopped.code == "session_killed":
            return ""
        return self._news.link(key, session.id, stopped.id) if world.loops.approval != "none" else ""

    def _tell(
        self,
        kind: str,
        caller: Caller,
        session: Session,
        request_id: str,
        at: float,
        acted: bool,
        details: dict[str, Any],
    ) -> None:
        self._news.happened(
            SessionEvent(
                id=f"{request_id}.{kind}",
                kind=kind,
                at=at,
                org=caller.org,
                key=caller.key,
                session=session.id,
                acted=acted,
                details={
                    "root": session.root,
                    "parent": session.parent,
                    "started_at": session.started_at,
                    **details,
                },
            )
        )


def taken_note(session: Session) -> str:
    """What an operator wants the model to see, once."""
    note, session.note = session.note, ""
    return note
