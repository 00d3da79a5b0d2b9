"""Identify: the session of a request, and whether it is stopped.

Also records in the session what an attempt used, once it has ended.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

from ..dialects import CONVERSATION_DIALECTS, responses
from ..dialects.stored_objects import ResponseEnd
from ..sessions import caps, ladder
from ..sessions.body_session_id import safe_session_id, session_in_body
from ..sessions.end_users import UserLimiter, parse_user
from ..sessions.lineage import History
from ..sessions.response_origins import ResponseOrigin, ResponseOrigins, adopted_origin
from ..sessions.session_index import Session, SessionIndex
from ..sessions.turn_digests import digest_call
from ..values.budget import add_amounts
from ..values.catalog import Route
from ..values.errors import NotFound
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Refusal
from ..values.request import Caller, HeaderHints, Request
from ..values.session import LoopThresholds, SessionEvent
from ..values.snapshot import Snapshot
from ..values.stored_object import StoredObject
from . import settle
from .context import (
    NO_REFERENCES,
    AttemptProgress,
    IdentifiedRequest,
    ReferencedObjects,
    RequestContext,
    is_lookup,
)
from .ports import Clock, ObjectDirectory, SessionSync

# Ids of one request that are looked up at other replicas and in the ledger.
_REMOTE_LOOKUPS_MAX = 32
# How often a held request checks for approval.
_APPROVAL_POLL_SECONDS = 0.25


class Identifier:
    """Finds the session of a request.

    Keeps the sessions, end users and response origins of this process.
    """

    def __init__(
        self,
        sessions: SessionIndex,
        session_sync: SessionSync,
        clock: Clock,
        new_request_id: Callable[[], str],
        objects: ObjectDirectory,
    ) -> None:
        self._sessions = sessions
        self._users = UserLimiter()
        self._origins = ResponseOrigins()
        self._session_sync = session_sync
        self._objects = objects
        self._clock = clock
        self._new_request_id = new_request_id

    async def find_references(self, request: Request, caller: Caller) -> ReferencedObjects:
        """What is known of the stored objects that a request refers to.

        In this process, else at the other replicas, else in the ledger. Raises NotFound for an object of another
        caller, and Overloaded where the other replicas cannot be asked for the object of the path.
        """
        names, now = dict.fromkeys((*request.referenced_ids, *reversed(request.item_ids))), self._clock.now()
        all_names = dict.fromkeys((*names, *request.attached_ids))
        found = {name: origin for name in all_names if (origin := self._origins.get(name, now=now)) is not None}
        passthrough = request.passthrough
        must_know = passthrough is not None and passthrough.names_object
        unknown = [
            name
            for name in all_names
            if name not in found and (must_know or not self._origins.is_unknown(name, now=now))
        ][:_REMOTE_LOOKUPS_MAX]
        if unknown:
            elsewhere = await self._objects.find(unknown, must_know=must_know)
            for name in unknown:
                if name not in elsewhere:
                    self._origins.mark_unknown(name, now=now)
            for name, stored in elsewhere.items():
                _check_owner(name, stored.org, stored.key, caller, request)
                found[name] = await self._adopt(name, stored, caller)
        for name, origin in found.items():
            _check_owner(name, origin.org, origin.key, caller, request)
        target = request.referenced_ids[0] if passthrough is not None and passthrough.names_object else ""
        return ReferencedObjects(
            origins=[found[name] for name in names if name in found],
            tokens=_tokens_of(request, found),
            file_origins=[found[name] for name in request.attached_ids if name in found],
            target=found.get(target),
        )

    async def _adopt(self, name: str, stored: StoredObject, caller: Caller) -> ResponseOrigin:
        """Remember an object that another replica or an earlier process recorded."""
        session = self._sessions.get(stored.key, stored.session)
        if session is None and self._session_sync.is_shared:
            await self._session_sync.fetch_session(caller, stored.session)
            session = self._sessions.get(stored.key, stored.session)
        if session is None and stored.session_source == "new":
            session = Session(id=stored.session, source="new", started_at=stored.created_at, root=stored.root)
        elif session is None:
            session = self._sessions.get_or_create(
                stored.key, stored.session, stored.session_source, now=stored.created_at, root=stored.root
            )
        origin = adopted_origin(stored, session, ladder.no_loop_state().conversation)
        self._origins.add(name, origin)
        return origin

    async def identify(
        self,
        snapshot: Snapshot,
        route: Route,
        request: Request,
        caller: Caller,
        hints: HeaderHints,
        references: ReferencedObjects = NO_REFERENCES,
    ) -> IdentifiedRequest:
        """The request with its session and loop state. Raises BadRequest."""
        at, request_id, origins = self._clock.now(), self._new_request_id(), references.origins
        transcript = origins[0].transcript if request.previous_response_id is not None and origins else None
        if transcript is not None:
            request = responses.prepend_transcript(request, transcript)
        if is_lookup(request, references):
            assert references.target is not None, "a lookup has a target"
            return IdentifiedRequest(
                request_id=request_id, received_at=at, snapshot=snapshot, route=route, request=request, caller=caller,
                hints=hints, session=references.target.session, references=references,
                loop_state=ladder.no_loop_state(), history_digest=0,
            )  # fmt: skip
        session, is_opening = await self._resolve_session(snapshot, request, caller, hints, references, request_id, at)
        session.last_request_at = at
        is_stored = self._sessions.get(caller.key, session.id) is session
        if hints.caps_text is not None and hints.caps_text != session.own_caps_text and is_stored:
            self._apply_run_caps(session, caller, hints.caps_text, request_id, at)
            if self._session_sync.is_shared:
                await self._session_sync.flush()
        loop_state = ladder.no_loop_state()
        if request.dialect in CONVERSATION_DIALECTS and not is_opening:
            # An opening request cannot repeat anything; the next request is read from the beginning.
            conversation = origins[0].conversation if origins and request.previous_response_id is not None else None
            if request.conversation_id:
                conversation = ladder.provider_conversation(session, request.conversation_id)
            loop_state = ladder.observe(session, request, now=at, conversation=conversation)
        if session.stop is not None and ladder.lift_if_over(session, loop_state, now=at):
            actor = "user" if loop_state.has_new_user_input else "silence"
            loop_state = structs.replace(loop_state, score=0.0)
            self._publish_event("session_resumed", caller, session, request_id, at, True, {"actor": actor})
        return IdentifiedRequest(
            request_id=request_id,
            received_at=at,
            snapshot=snapshot,
            route=route,
            request=request,
            caller=caller,
            hints=hints,
            session=session,
            references=references,
            loop_state=loop_state,
            history_digest=session.newest_digest,
        )

    async def _resolve_session(
        self,
        snapshot: Snapshot,
        request: Request,
        caller: Caller,
        hints: HeaderHints,
        references: ReferencedObjects,
        request_id: str,
        at: float,
    ) -> tuple[Session, bool]:
        """The session of a request, and whether the request opens a conversation.

        In order: named by a header or body field, of the response that is continued, matched by its history.
        """
        name, source = hints.session, hints.session_source
        if name is None and request.session_fields:
            body_session = session_in_body(request.session_fields, snapshot.session_fields)
            if body_session is not None:
                name, source = safe_session_id(body_session[0]), body_session[1]
        if name is None and references.origins and (request.passthrough is None or references.target is not None):
            return references.origins[0].session, False
        if name is None and request.conversation_id:
            name, source = safe_session_id(request.conversation_id), "conversation"
        if name is None and request.dialect not in CONVERSATION_DIALECTS:
            return Session(id=f"s-{request_id}", source="new", started_at=at), False
        if name is None:
            history = History(caller.key, request)
            if self._session_sync.is_shared and not history.is_opening and not self._sessions.is_certain(history):
                await self._session_sync.fetch_history(caller, history)
            session = self._sessions.match_or_create(
                caller.key, history, fresh_id=f"s-{request_id}", now=at, repeated=hints.is_repeat
            )
            return session, history.is_opening
        parent, root = hints.parent, hints.root
        if hints.sub_agent is not None:
            parent, name = name, f"{name}/{hints.sub_agent}"
        if self._session_sync.is_shared and self._sessions.get(caller.key, name) is None:
            for session_id in (name, parent, root):
                if session_id is not None and self._sessions.get(caller.key, session_id) is None:
                    await self._session_sync.fetch_session(caller, session_id)
        existing = self._sessions.get(caller.key, name)
        if existing is not None:
            return existing, False
        session = self._sessions.get_or_create(caller.key, name, source, now=at, parent=parent, root=root)
        if session.ancestors:
            ladder.record_spawn(session.ancestors[0], request, now=at)
        self._session_sync.publish_session(caller, session)
        return session, False

    def _apply_run_caps(self, session: Session, caller: Caller, caps_text: str, request_id: str, at: float) -> None:
        """Apply the caps of a request header; they can only tighten. Raises BadRequest."""
        requested = caps.parse_caps_header(caps_text)
        session.own_caps_text = caps_text
        if caps.tighten_caps(session, requested) and session.own_caps is not None:
            self._publish_event(
                "session_caps", caller, session, request_id, at, True, {"caps": caps.caps_to_json(session.own_caps)}
            )

    def end_user(self, snapshot: Snapshot, caller: Caller, user_text: str, at: float) -> str:
        """The end user named by the caller, "" for none.

        Limited in number where a budget is kept per end user.
        """
        user = parse_user(user_text) if user_text else ""
        return self._users.admit(caller.key, user, now=at) if snapshot.has_user_budget else user

    def apply_loop_step(self, context: RequestContext, limits: LoopThresholds) -> None:
        """Take a ladder step that is due: apply it to the session and publish its event."""
        session, loop_state, caller = context.session, context.loop_state, context.caller
        evidence = ladder.evidence(session, loop_state.repeating, loop_state.score, context.started_at)
        if loop_state.is_enforced and loop_state.step == "tier":
            session.tier_move = limits.move
        if loop_state.stops_session:
            ladder.stop_session(session, loop_state, id=context.request_id, at=context.started_at)
            session.refused_at, session.stop_limits = context.started_at, limits
            evidence = {**evidence, "resume": self._approval_link(context.snapshot, caller.key, session)}
        self._publish_event(
            f"loop_{loop_state.step}",
            caller,
            session,
            context.request_id,
            context.started_at,
            loop_state.is_enforced,
            evidence,
        )

    async def await_approval(self, context: RequestContext, headers: Mapping[str, str]) -> Refusal | None:
        """Hold the request for approval: None once approved, else the refusal."""
        session, limits = (
            context.session,
            context.snapshot.loop_policy.limits_for(context.route.name, context.classification.task_type),
        )
        until = context.started_at + limits.hold_seconds
        while session.stop is not None and session.stop.code == "loop_approval_required" and self._clock.now() < until:
            await self._clock.sleep(_APPROVAL_POLL_SECONDS)
        if session.stop is None:
            return None
        return self.stop_refusal(context.snapshot, context.caller, session, headers, limits)

    def stop_refusal(
        self, snapshot: Snapshot, caller: Caller, session: Session, headers: Mapping[str, str], limits: LoopThresholds
    ) -> Refusal:
        """The refusal for a stopped session; its status may depend on the user agent."""
        assert session.stop is not None, "the session is stopped"
        agent = headers.get("user-agent", "").lower()
        status = next((status for pattern, status in limits.statuses.items() if pattern in agent), None)
        link = (
            self._approval_link(snapshot, caller.key, session)
            if snapshot.loop_policy.approval_link == "everywhere"
            else ""
        )
        return ladder.stop_refusal(session.stop, link, status)

    def record_attempt(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """Record an ended attempt in its session: amounts, receipt, answer, failure."""
        session, conversation = context.session, context.loop_state.conversation
        if context.is_lookup:
            return
        if progress.outcome != "completed" and entry.final:
            session.newest_failed = True
            # No model has read the operator's note: the next request carries it.
            session.resume_note = session.resume_note or context.operator_note
            if context.loop_state.step_is_due and context.loop_state.is_enforced:
                session.steps_taken = session.steps_taken - {context.loop_state.step}
        if entry.usage_basis == "none":
            # A sub-agent that was admitted but used nothing does not count yet.
            session.is_counted_sub_agent = session.is_counted_sub_agent and session.call_count > 0
            return
        session.spent = add_amounts(session.spent, settle.amounts_of(entry))
        session.receipt = session.receipt.with_call(entry)
        if session.ancestors:
            ladder.record_sub_agent_answer(session.ancestors[0], now=(entry.at_ms + entry.duration_ms) / 1000)
        if session.parent and session.call_count == 1:
            session.is_counted_sub_agent = True
            self._session_sync.publish_session(context.caller, session)
        conversation.answered_at = (entry.at_ms + entry.duration_ms) / 1000
        if progress.tool_calls:
            conversation.pending_calls = tuple([digest_call(*call) for call in progress.tool_calls])
        if context.history_digest and progress.outcome == "completed":
            self._sessions.record_answer(
                context.caller.key, session, context.history_digest, progress.answer_fingerprint
            )
            if self._session_sync.is_shared:
                self._session_sync.publish_answer(
                    context.caller, session, context.history_digest, progress.answer_fingerprint
                )

    def record_start(self, context: RequestContext, progress: AttemptProgress, answer_id: str) -> None:
        """Record where a background response runs, before its end: it may be cancelled while it is streamed."""
        tokens = context.features.input_tokens + progress.attempt.output_tokens_max
        origin = structs.replace(self._origin(context, progress, tokens=tokens), is_open=True)
        self._add_origin(answer_id, origin)

    def record_origin(
        self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry, item_ids: Sequence[str]
    ) -> None:
        """Record where an answer and what it made are kept.

        At its provider, or in this process if it was translated.
        """
        request, translator = context.request, progress.response_translator
        tokens = entry.input_tokens + entry.output_tokens
        if translator is not None:
            answer_id, output = translator.stored_answer() if progress.outcome == "completed" else ("", [])
            transcript = responses.transcript(request, output) if answer_id else None
            if transcript is not None:
                self._origins.add(answer_id, self._origin(context, progress, tokens=tokens, transcript=transcript))
            return
        origin = self._origin(context, progress, tokens=tokens, output_tokens=entry.output_tokens)
        for number, name in enumerate((*progress.object_ids, *item_ids)):
            is_answer = number == 0 and _is_response(request, progress)
            unsettled = entry if is_answer and entry.usage_basis == "estimated" else None
            self._add_origin(name, structs.replace(origin, unsettled=unsettled), is_new=not is_answer)

    def _origin(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        *,
        tokens: int,
        output_tokens: int = 0,
        transcript: bytes | None = None,
    ) -> ResponseOrigin:
        """The origin of what an attempt stores."""
        deployment = progress.attempt.deployment
        return ResponseOrigin(
            key=context.caller.key,
            provider=deployment.provider,
            session=context.session,
            conversation=context.loop_state.conversation,
            conversation_tokens=tokens,
            answered_at=context.started_at,
            transcript=transcript,
            deployment=deployment.name,
            route=context.route.name,
            org=context.caller.org,
            output_tokens=output_tokens,
        )

    def _add_origin(self, name: str, origin: ResponseOrigin, *, is_new: bool = False) -> None:
        """Remember an origin and publish it to the other replicas; `is_new`: unless its id is known."""
        known = self._origins.get(name, now=self._clock.now())
        if known is not None and (is_new or known.key != origin.key):
            return
        self._origins.add(name, origin)
        self._objects.publish(name, origin.to_stored(), is_new=is_new)

    def is_known(self, name: str) -> bool:
        """Whether the origin of this object is known in this process."""
        return self._origins.get(name, now=self._clock.now()) is not None

    def unsettled_entry(self, end: ResponseEnd) -> LedgerEntry | None:
        """The ledger entry of the response that has ended, where that did not count its usage.

        While its call is open there is none yet: the end is remembered until then.
        """
        origin = self._origins.get(end.id, now=self._clock.now())
        if origin is not None and origin.is_open:
            self._origins.add_early_end(end)
        return origin.unsettled if origin is not None else None

    def early_end(self, answer_id: str) -> ResponseEnd | None:
        """The end of a response that was read before its own call ended, once."""
        return self._origins.take_early_end(answer_id)

    def record_correction(self, name: str, correction: LedgerEntry | None) -> bool:
        """Record that a response's usage was booked, here or (None) at another replica; False if it was before."""
        origin = self._origins.take_unsettled(name)
        if origin is None or origin.unsettled is None:
            return False
        if correction is not None:
            settled = structs.replace(
                origin,
                unsettled=None,
                conversation_tokens=max(
                    0, origin.conversation_tokens + correction.input_tokens + correction.output_tokens
                ),
                output_tokens=max(0, origin.output_tokens + correction.output_tokens),
            )
            self._add_origin(name, settled)
            if not origin.is_adopted:
                session = origin.session
                session.spent = add_amounts(session.spent, settle.amounts_of(correction))
                session.receipt = session.receipt.with_call(correction)
        return True

    def session_of(self, entry: LedgerEntry) -> Session:
        """The session of an entry, as far as it is known."""
        return self._sessions.get(entry.key, entry.session) or Session(
            id=entry.session, source=entry.session_source, started_at=entry.at_ms / 1000, root=entry.root
        )

    def _approval_link(self, snapshot: Snapshot, key: str, session: Session) -> str:
        stop = session.stop
        if stop is None or stop.code == "session_killed":
            return ""
        return (
            self._session_sync.approval_link(key, session.id, stop.id)
            if snapshot.loop_policy.approval_link != "none"
            else ""
        )

    def _publish_event(
        self,
        kind: str,
        caller: Caller,
        session: Session,
        request_id: str,
        at: float,
        enforced: bool,
        details: dict[str, Any],
    ) -> None:
        self._session_sync.publish_event(
            SessionEvent(
                id=f"{request_id}.{kind}",
                kind=kind,
                at=at,
                org=caller.org,
                key=caller.key,
                session=session.id,
                was_enforced=enforced,
                details={
                    "root": session.root,
                    "parent": session.parent,
                    "started_at": session.started_at,
                    **details,
                },
            )
        )


def pop_operator_note(session: Session) -> str:
    """Remove and return the note that an operator left for the model, "" for none."""
    note, session.resume_note = session.resume_note, ""
    return note


def _is_response(request: Request, progress: AttemptProgress) -> bool:
    """Whether an answer is a response of the Responses API, whatever the path that it was asked for by."""
    document = progress.answer_document
    return request.passthrough is None or (document is not None and document.get("object") == "response")


def _check_owner(name: str, org: str, key: str, caller: Caller, request: Request) -> None:
    """Raise NotFound for an object of another caller: those of one provider account could read each other's by id."""
    if (org, key) != (caller.org, caller.key):
        param = "previous_response_id" if name == request.previous_response_id else None
        raise NotFound(f"Object '{name[:100]}' not found.", param=param)


def _tokens_of(request: Request, found: Mapping[str, ResponseOrigin]) -> int | None:
    """Tokens of the objects that a request refers to, None where one of them is unknown.

    Items count once for all of an answer, as they are parts of its output.
    """
    if any(name not in found for name in (*request.referenced_ids, *request.item_ids)):
        return None
    answers = {(id(origin.session), origin.answered_at): origin for origin in map(found.__getitem__, request.item_ids)}
    conversations = sum(found[name].conversation_tokens for name in request.referenced_ids)
    return conversations + sum(origin.output_tokens for origin in answers.values())
