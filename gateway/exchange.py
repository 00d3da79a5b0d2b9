"""The life of one request, top to bottom, and the Protocols it needs from the world outside.

Reserving may await, resolving never does: asyncio switches only at `await`, so the `finally` that settles a call cannot
be torn apart by cancellation, and every reservation is resolved exactly once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from msgspec import structs

from . import settlement, story
from .accounting.expectation import OutputBook
from .crossing import Carrier
from .errors import CallerGone, NotFound, Overloaded, Unreachable, UpstreamError
from .holding import Budgets, Clock, Held, Holder
from .providers import PROVIDERS
from .providers.call import UpstreamCall
from .relay import Answering, Failed, Relay, Reply, carried_of
from .routing import plan as planning
from .routing.bonds import bonds_of
from .routing.classifiers import CLASSIFIERS
from .routing.facts import facts_of
from .routing.health import HealthBook
from .routing.retry import Next, next_attempt
from .sessions import caps, ladder
from .sessions.identity import Session, SessionBook
from .sessions.ladder import Standing
from .sessions.lineage import History
from .sessions.names import clean_name, named_in
from .sessions.origins import Origin, OriginBook
from .sessions.steps import call_of
from .sessions.users import UserBook, user_of
from .settlement import Decided, Progress
from .values.answer import Answer
from .values.base import Value
from .values.budget import NOTHING_SPENT, Reservation, added, tighter
from .values.catalog import Route
from .values.entry import Hold, LedgerEntry
from .values.plan import Attempt, Facts, Plan, Refusal
from .values.request import Caller, Hints, Message, Request
from .values.session import LoopLimits, SessionEvent
from .values.world import World
from .wire import DIALECTS, last_words, responses, steering
from .wire import body as bodies
from .wire.heard import Beginning


class Chance(Protocol):
    """What is not determined: fresh request ids, jitter in [0, 1)."""

    def request_id(self) -> str: ...
    def jitter(self) -> float: ...


class Ledger(Protocol):
    """The memory. `hold` writes down what a crash would leave behind and raises Overloaded if it cannot; `record` takes
    the fact and never fails for the request."""

    def hold(self, hold: Hold) -> None: ...
    def record(self, entry: LedgerEntry) -> None: ...


class Counter(Protocol):
    """Counts tokens with a vocabulary, slowly; None if it cannot."""

    async def count(self, messages: Sequence[Message]) -> int | None: ...


class Upstream(Protocol):
    """The door to providers; raises Unreachable or UpstreamTimeout."""

    async def dial(self, call: UpstreamCall) -> Answering: ...


class SessionNews(Protocol):
    """Who hears what happens to sessions (and waits for nobody), knows the link by which a person lets one go on ("" for
    none), and, where `shared`, can be asked what other gateways know: `recall` of a name, `learn` of a history."""

    shared: bool

    def happened(self, event: SessionEvent) -> None: ...
    def link(self, key: str, session: str, stop: str) -> str: ...
    def joined(self, caller: Caller, session: Session) -> None: ...
    def answered(self, caller: Caller, session: Session, tip: int, heard: Beginning) -> None: ...
    async def recall(self, caller: Caller, name: str) -> None: ...
    async def told(self) -> None: ...
    async def learn(self, caller: Caller, history: History) -> None: ...


# Dialects in which agents converse.
_CONVERSATIONS = frozenset({"chat", "responses", "messages"})
# How often a held request looks whether it was approved.
_HELD_PAUSE_SECONDS = 0.25


class _Arrived(Value, frozen=True, kw_only=True):
    """A request and whose it is, before anything was decided about it. `standing` is not weighed against limits yet."""

    request_id: str
    at: float
    world: World
    route: Route
    request: Request
    caller: Caller
    hints: Hints
    session: Session
    origins: Sequence[Origin]
    standing: Standing
    tip: int


class _Place(Value, frozen=True):
    """Where in its plan an attempt stands, and how often its deployment was tried."""

    at: int
    of: int
    tries: int


class Exchange:
    """Serves requests. Holds the books of this process and the doors, nothing about any request."""

    def __init__(
        self,
        *,
        world: Callable[[], World],
        budgets: Budgets,
        sessions: SessionBook,
        health: HealthBook,
        upstream: Upstream,
        counter: Counter,
        ledger: Ledger,
        clock: Clock,
        chance: Chance,
        outputs: OutputBook,
        news: SessionNews,
    ) -> None:
        self._news = news
        self.repelled = 0
        self._world = world
        self._budgets = budgets
        self._sessions = sessions
        self._users = UserBook()
        self._origins = OriginBook()
        self._health = health
        self._relay = Relay(health)
        self._upstream = upstream
        self._counter = counter
        self._ledger = ledger
        self._clock = clock
        self._chance = chance
        self._holder = Holder(budgets, clock, outputs, chance.jitter, self._write_hold)

    async def serve(self, request: Request, caller: Caller, hints: Hints, reply: Reply) -> Answer:
        """Answer one request: whole, or streamed through `reply`. Raises errors of the tree, each already recorded."""
        arrived = await self._arrived(request, caller, hints)
        session = arrived.session
        if session.stop is not None:
            if not ladder.lifted(session, arrived.standing, now=arrived.at):
                return await self._repel(arrived, reply)
            who = "user" if arrived.standing.spoken else "silence"
            self._tell("session_resumed", caller, session, arrived.request_id, arrived.at, True, {"who": who})
        decided = self._decide(arrived)
        if session.stop is not None:
            refusal = await self._waited(decided, hints.headers)
            if refusal is not None:
                return await self._stopped(decided, refusal, reply)
            decided = structs.replace(decided, note=_taken_note(session))
        if planning.close_to_a_limit(decided.facts, decided.route):
            decided = await self._counted(decided)
        plan = self._plan(decided)
        if isinstance(plan, Refusal):
            return self._refuse(decided, plan, attempts=0)
        return await self._run(decided, plan, hints, reply)

    def route_of(self, request: Request, hints: Hints) -> Route:
        """The route that a request names; what passes through without a model takes the header's, or the first that
        leads to a provider of its dialect. Raises NotFound."""
        world, name = self._world(), request.model
        if request.passage is not None and not name:
            dialect, name = request.passage.dialect, hints.route or ""
            for route in world.routes.values() if not name else ():
                if any(one.dialect == dialect for one in route.candidates):
                    return route
        found = world.route(name)
        if found is None:
            raise NotFound(
                f"The model '{name}' does not exist here. GET /v1/models lists what does.",
                code="model_not_found",
                param="model",
            )
        return found

    def counted(self, request: Request, hints: Hints) -> int | None:
        """Our estimate of a request's input tokens; None where the route leads to Anthropic, which counts itself."""
        route = self.route_of(request, hints)
        return None if any(one.dialect == "anthropic" for one in route.candidates) else facts_of(request).input_tokens

    async def _arrived(self, request: Request, caller: Caller, hints: Hints) -> _Arrived:
        """Whose request this is, and what is new in its conversation."""
        world, at = self._world(), self._clock.now()
        route = self.route_of(request, hints)
        request_id = self._chance.request_id()
        origins: Sequence[Origin] = ()
        if request.references:
            origins = self._found(request, caller, now=at)
            kept = origins[0].transcript if request.previous is not None and origins else None
            if kept is not None:
                request = responses.continued(request, kept)
        session = await self._session(world, request, caller, hints, origins, request_id, at)
        if hints.caps is not None and hints.caps != session.own_told:
            self._cap(session, caller, hints.caps, request_id, at)
            if self._news.shared:
                await self._news.told()
        standing = ladder.unseen()
        if request.dialect in _CONVERSATIONS and not session.opens:
            # Nothing can repeat itself yet where a conversation opens; its next request is read from the beginning.
            talk = origins[0].talk if origins and request.previous is not None else None
            standing = ladder.observe(session, request, now=at, talk=talk)
        return _Arrived(
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

    def _decide(self, arrived: _Arrived) -> Decided:
        world, request, caller, session = arrived.world, arrived.request, arrived.caller, arrived.session
        facts = self._facts(request, arrived.route, session, arrived.origins)
        verdict = CLASSIFIERS["transparent"](facts, world.task_types, declared=arrived.hints.task_type)
        limits = world.loops.of(arrived.route.name, verdict.task_type)
        standing = ladder.standing(session, arrived.standing, limits) if arrived.standing.score else arrived.standing
        decided = Decided(
            request_id=arrived.request_id,
            at=arrived.at,
            started=self._clock.monotonic(),
            world=world,
            caller=caller,
            request=request,
            carrier=Carrier(request),
            session=session,
            route=arrived.route,
            facts=facts,
            verdict=verdict,
            standing=standing,
            user=self._user(world, caller, arrived.hints.user or request.user, arrived.at),
            tip=arrived.tip,
            note=_taken_note(session),
        )
        if standing.due:
            self._climb(decided, limits)
        return decided

    def _climb(self, decided: Decided, limits: LoopLimits) -> None:
        """A step of the ladder is taken for the first time."""
        session, standing, caller = decided.session, decided.standing, decided.caller
        facts = ladder.evidence(session, standing.culprit, standing.score, decided.at)
        if standing.acts and standing.step == "tier":
            session.moved = limits.move
        if standing.acts and standing.step in ("hold", "stop"):
            stopped = ladder.stop(session, standing, id=decided.request_id, at=decided.at)
            session.stop_seen_at, session.limits = decided.at, limits
            facts = {**facts, "resume": self._link(decided.world, caller.key, session)}
            assert stopped is session.stop
        self._tell(f"loop_{standing.step}", caller, session, decided.request_id, decided.at, standing.acts, facts)

    def _cap(self, session: Session, caller: Caller, told: str, request_id: str, at: float) -> None:
        """Who started the run has said what it may take. Only ever less. Raises BadRequest."""
        asked = caps.asked(told)
        own = asked if session.own is None else tighter(session.own, asked)
        session.own_told = told
        if own == session.own:
            return
        session.own, session.own_version = own, session.own_version + 1
        self._tell("session_caps", caller, session, request_id, at, True, {"caps": caps.told_caps(session.own)})

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

    def _link(self, world: World, key: str, session: Session) -> str:
        stopped = session.stop
        if stopped is None or stopped.code == "session_killed":
            return ""
        return self._news.link(key, session.id, stopped.id) if world.loops.approval != "none" else ""

    def _user(self, world: World, caller: Caller, told: str, at: float) -> str:
        user = user_of(told) if told else ""
        return self._users.known(caller.key, user, now=at) if world.counts_users else user

    def _found(self, request: Request, caller: Caller, *, now: float) -> list[Origin]:
        """Where the things lie that the request refers to, as far as we know. Raises NotFound for another caller's."""
        found = [self._origins.of(reference, now=now) for reference in request.references]
        for reference, origin in zip(request.references, found, strict=True):
            if origin is not None and origin.key != caller.key:
                raise NotFound(f"There is no '{reference[:100]}' here.", param="previous_response_id")
        return [origin for origin in found if origin is not None]

    def _facts(self, request: Request, route: Route, session: Session, origins: Sequence[Origin]) -> Facts:
        """What the request looks like, and what binds it. What lies with a provider counts as input, too."""
        if not request.state and not request.references and request.dialect != "embeddings":
            return facts_of(request)
        lies_with = {origin.provider for origin in origins}
        facts = facts_of(request, bonds_of(request, route, minted_by=session.provider, origins=lies_with))
        stores = request.references or "stored" in request.state
        if not stores or request.passage is not None:
            return facts
        known = len(origins) == len(request.references) and "stored" not in request.state
        stored = sum(origin.tokens for origin in origins) if known else route.roomiest_tokens
        more = facts.input_tokens_max + stored
        return structs.replace(facts, input_tokens=facts.input_tokens + stored * known, input_tokens_max=more)

    async def _counted(self, decided: Decided) -> Decided:
        """The same with an exact input count: here the number decides whether a candidate is struck."""
        count = await self._counter.count(decided.request.messages)
        if count is None:
            return decided
        facts = structs.replace(decided.facts, input_tokens=min(count, decided.facts.input_tokens_max))
        return structs.replace(decided, facts=facts)

    async def _session(
        self,
        world: World,
        request: Request,
        caller: Caller,
        hints: Hints,
        origins: Sequence[Origin],
        request_id: str,
        at: float,
    ) -> Session:
        """The session that a header or a field of the body names, else that of the answer which is continued, else the
        one whose history this is."""
        name, source = hints.session, hints.session_source
        if name is None and request.naming:
            found = named_in(request.naming, world.session_fields)
            if found is not None:
                name, source = clean_name(found[0]), found[1]
        if name is None and origins:
            return origins[0].session
        if name is None and request.dialect not in _CONVERSATIONS:
            return Session(id=f"s-{request_id}", source="new", started_at=at)
        if name is None:
            history = History(caller.key, request)
            if self._news.shared and not history.opens and not self._sessions.finds(history):
                await self._news.learn(caller, history)
            return self._sessions.inferred(
                caller.key, history, fresh_id=f"s-{request_id}", now=at, repeated=hints.repeated
            )
        parent, root = hints.parent, hints.root
        if hints.agent is not None:
            parent, name = name, f"{name}/{hints.agent}"
        if self._news.shared and self._sessions.of(caller.key, name) is None:
            for one in (name, parent, root):
                if one is not None and self._sessions.of(caller.key, one) is None:
                    await self._news.recall(caller, one)
        session = self._sessions.of(caller.key, name)
        if session is not None:
            return session
        session = self._sessions.named(caller.key, name, source, now=at, parent=parent, root=root)
        if session.above:
            ladder.spawned(session.above[0], request, now=at)
        self._news.joined(caller, session)
        return session

    def _plan(self, decided: Decided) -> Plan | Refusal:
        world, session = decided.world, decided.session
        beyond = caps.beyond(world.caps_of(decided.caller.key), session, now=decided.at)
        if beyond is not None:
            return beyond
        now = self._clock.monotonic()
        plan = planning.decide(
            decided.route,
            decided.request,
            decided.facts,
            decided.verdict,
            world.policy,
            lambda name: self._health.standing(name, now=now),
            decided.carrier,
        )
        if session.moved and isinstance(plan, Plan):
            return planning.moved(plan, session.moved)
        return plan

    async def _waited(self, decided: Decided, headers: Mapping[str, str]) -> Refusal | None:
        """None once a person has let a session go on that was held a moment ago; its refusal if nobody did."""
        session, limits = decided.session, decided.world.loops.of(decided.route.name, decided.verdict.task_type)
        until = decided.at + limits.hold_seconds
        while session.stop is not None and session.stop.code == "loop_held" and self._clock.now() < until:
            await self._clock.sleep(_HELD_PAUSE_SECONDS)
        if session.stop is None:
            return None
        return self._refusal_of(decided.world, decided.caller, session, headers, limits)

    def _refusal_of(
        self, world: World, caller: Caller, session: Session, headers: Mapping[str, str], limits: LoopLimits
    ) -> Refusal:
        assert session.stop is not None, "only what is stopped is refused"
        agent = headers.get("user-agent", "").lower()
        status = next((status for word, status in limits.statuses.items() if word in agent), None)
        link = self._link(world, caller.key, session) if world.loops.approval == "everywhere" else ""
        return ladder.refusal(session.stop, link, status)

    async def _repel(self, arrived: _Arrived, reply: Reply) -> Answer:
        """Asked once more after its stop: answered from memory, at next to no cost."""
        session, world = arrived.session, arrived.world
        session.stop_seen_at, session.hammered = arrived.at, session.hammered + 1
        self.repelled += 1
        limits = session.limits or world.loops.of(arrived.route.name, arrived.hints.task_type or "")
        session.failed = True
        refusal = self._refusal_of(world, arrived.caller, session, arrived.hints.headers, limits)
        step = "hold" if refusal.code == "loop_held" else "stop"
        headers = {
            "x-penstock-request-id": arrived.request_id,
            "x-penstock-session": session.id,
            "x-penstock-loop": f"{step}; asked again {session.hammered}",
        }
        return await self._last_words(arrived.request, refusal, limits, arrived.request_id, arrived.at, headers, reply)

    async def _stopped(self, decided: Decided, refusal: Refusal, reply: Reply) -> Answer:
        """The request that a loop ends with."""
        decided.session.failed = True
        limits = decided.world.loops.of(decided.route.name, decided.verdict.task_type)
        headers = story.of_case(decided)
        answer = await self._last_words(
            decided.request, refusal, limits, decided.request_id, decided.at, headers, reply
        )
        now = self._clock.monotonic()
        self._ledger.record(settlement.entry_of_refusal(decided, refusal, status=answer.status, attempts=0, now=now))
        return answer

    async def _last_words(
        self,
        request: Request,
        refusal: Refusal,
        limits: LoopLimits,
        request_id: str,
        at: float,
        headers: Mapping[str, str],
        reply: Reply,
    ) -> Answer:
        """A refusal, or a last answer in the model's place."""
        headers = {**headers, "x-penstock-stopped": refusal.code}
        if limits.stop_mode != "answer" or request.dialect not in _CONVERSATIONS:
            answer = DIALECTS[request.dialect].refused(refusal)
            return Answer(status=answer.status, headers={**answer.headers, **headers}, body=answer.body)
        kind, body = last_words.spoken(
            request.dialect,
            f"[Stopped by the gateway] {refusal.message}",
            id=request_id,
            model=request.model,
            created=int(at),
            stream=request.stream,
        )
        headers = {**kind, **headers}
        if not request.stream:
            return Answer(status=200, headers=headers, body=body)
        await reply.begin(200, headers)
        await reply.write(body)
        return Answer(status=200, headers=headers, streamed=True)

    async def _run(self, decided: Decided, plan: Plan, hints: Hints, reply: Reply) -> Answer:
        """Attempts one after the other until one serves, none is left, or no budget holds the next."""
        attempts = list(plan.attempts)
        place, number, tries = 0, 0, [0] * len(attempts)
        between, not_spoken = False, ""
        try:
            while True:
                number += 1
                held = await self._holder.hold(decided, attempts, place, number)
                if isinstance(held, Refusal):
                    between = False
                    return self._refuse(decided, held, attempts=number - 1)
                place = held.place
                tries[place] += 1
                progress = _begun(number, held, not_spoken)
                not_spoken = ""
                self._journal(decided, progress)
                between = False
                result, following = await self._attempt(
                    decided, progress, _Place(place, len(attempts), tries[place]), hints, reply
                )
                if isinstance(result, Answer):
                    return result
                if following is None:
                    return result.answer
                if result.speech is not None:
                    not_spoken = attempts[place].speech
                    attempts[place] = structs.replace(attempts[place], speech=result.speech)
                    tries[place] -= 1
                between, place = True, following.place
                if following.wait_seconds:
                    await self._clock.sleep(following.wait_seconds)
        finally:
            if between:
                # The caller hung up, or we had to give up, between two attempts: the request still ends in one entry.
                self._ledger.record(settlement.entry_of_end(decided, attempts=number, now=self._clock.monotonic()))

    def _journal(self, decided: Decided, progress: Progress) -> None:
        """Write down, before dialling, what a crash would leave behind."""
        assert progress.reservation is not None, "nothing is dialled that is not held"
        try:
            self._write_hold(decided, progress.number, progress.attempt, progress.reservation)
        except Overloaded:
            self._budgets.settle(f"{decided.request_id}.{progress.number}", NOTHING_SPENT, now=self._clock.now())
            raise

    def _write_hold(self, decided: Decided, number: int, attempt: Attempt, reservation: Reservation) -> None:
        self._ledger.hold(settlement.hold_of_attempt(decided, number, attempt, reservation))

    async def _attempt(
        self, decided: Decided, progress: Progress, place: "_Place", hints: Hints, reply: Reply
    ) -> tuple[Answer | Failed, Next | None]:
        """One call: dial, meter, settle. Exactly one ledger entry, however it ends. Gives what follows a failure."""
        deployment = progress.attempt.deployment
        answering: Answering | None = None
        result: Answer | Failed | None = None
        following: Next | None = None
        try:
            call = self._call(decided, progress, hints)
            if self._opened(progress.attempt):
                # Its circuit opened since the plan was made: others failed meanwhile.
                raise Unreachable(f"'{deployment.name}' is left alone after failures.")
            progress.dialled = True
            progress.probe = self._health.dialled(deployment.name, now=self._clock.monotonic())
            answering = await self._upstream.dial(call)
            now = progress.first_byte = self._clock.monotonic()
            result = await self._relay.answered(decided, progress, answering, reply, now=now)
        except UpstreamError as error:
            result = await self._relay.broken(decided, progress, error, reply, now=self._clock.monotonic())
        except CallerGone:
            raise
        except Exception:
            progress.outcome, progress.status, progress.code = "cut", 500, "internal_error"
            raise
        finally:
            if answering is not None:
                answering.close()
            if isinstance(result, Failed):
                following = self._followed(decided, progress.attempt, place, result)
            elif result is None and progress.probe:
                self._health.released(deployment.name, now=self._clock.monotonic())
            entry = self._settle(decided, progress, final=not isinstance(result, Failed) or following is None)
        if isinstance(result, Failed):
            told = story.told(result.answer, decided, progress, entry)
            return structs.replace(result, answer=told), following
        return story.told(result, decided, progress, entry), None

    def _call(self, decided: Decided, progress: Progress, hints: Hints) -> UpstreamCall:
        """The HTTP call: the caller's own bytes in the same dialect, else what they were carried to."""
        request, attempt = decided.request, progress.attempt
        deployment, provider = attempt.deployment, PROVIDERS[attempt.deployment.dialect]
        carried = carried_of(decided, progress)
        steered = self._steered(decided)
        if carried is not None:
            document = carried.document if steered is None else steered(carried.document, attempt.speech)
            if attempt.output_limit is not None:
                document = provider.limited(document, attempt.speech, deployment, attempt.output_limit)
            body: tuple[bytes | memoryview, ...] = (provider.finished(document, attempt.speech, deployment),)
            return provider.call(attempt.speech, body, deployment, hints.headers)
        body = DIALECTS[request.dialect].spliced(request, deployment.model, ask_usage=deployment.stream_usage)
        if attempt.output_limit is not None or steered is not None:
            # Only a request that is shortened or steered is written anew; every other one keeps the caller's own bytes.
            document = bodies.whole(b"".join(body))
            if steered is not None:
                document = steered(document, attempt.speech)
            if attempt.output_limit is not None:
                document = provider.limited(document, attempt.speech, deployment, attempt.output_limit)
            body = (orjson.dumps(document),)
        if request.passage is not None:
            return provider.passage(request.passage.method, request.passage.path, body, deployment, hints.headers)
        return provider.call(attempt.speech, body, deployment, hints.headers)

    def _steered(self, decided: Decided) -> Callable[[dict[str, Any], str], dict[str, Any]] | None:
        """What is changed in the request to steer its agent: a note in it, tools withheld. None for nothing."""
        standing, note = decided.standing, decided.note
        step = standing.step if standing.acts else ""
        if step == "nudge":
            note = f"{note}\n\n{ladder.nudge(standing.culprit)}" if note else ladder.nudge(standing.culprit)
        elif step == "answer":
            note = f"{note}\n\n{ladder.CONCLUDE}" if note else ladder.CONCLUDE
        if not note:
            return None

        def steered(document: dict[str, Any], speech: str) -> dict[str, Any]:
            document = steering.noted(document, speech, note)
            return steering.toolless(document, speech) if step == "answer" else document

        return steered

    def _followed(self, decided: Decided, attempt: Attempt, place: "_Place", failed: Failed) -> Next | None:
        if failed.speech is not None:
            return Next(place=place.at, wait_seconds=0.0)
        return next_attempt(
            place=place.at,
            places=place.of,
            tries_here=place.tries,
            max_retries=decided.world.policy.max_retries,
            retry_same=failed.retry_same and not self._opened(attempt),
            try_other=failed.try_other,
            retry_after=failed.retry_after,
            jitter=self._chance.jitter(),
        )

    def _opened(self, attempt: Attempt) -> bool:
        """Whether the deployment is now left alone."""
        return self._health.standing(attempt.deployment.name, now=self._clock.monotonic()).open_seconds > 0

    def _remember(self, decided: Decided, progress: Progress, tokens: int) -> None:
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

    def _settle(self, decided: Decided, progress: Progress, *, final: bool) -> LedgerEntry:
        """Usage -> charge -> footprint -> reservation -> ledger, without one await."""
        entry = settlement.entry_of_attempt(decided, progress, final=final, now=self._clock.monotonic())
        spent = settlement.amounts_of(entry)
        # At the time that the ledger says, so that a restart books it in the same step of a rolling window.
        self._budgets.settle(entry.id, spent, now=(entry.at_ms + entry.duration_ms) / 1000)
        self._holder.learn(decided, entry, len(decided.request.body))
        if progress.outcome == "completed":
            decided.session.provider = entry.provider
        self._progressed(decided, progress, entry)
        self._ledger.record(entry)
        passage = decided.request.passage
        creates = decided.request.dialect == "responses" if passage is None else passage.creates
        if progress.outcome == "completed" and creates:
            self._remember(decided, progress, entry.input_tokens + entry.output_tokens)
        return entry

    def _progressed(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None:
        """What the session's books learn from the end of an attempt."""
        session, talk = decided.session, decided.standing.talk
        session.failed = session.failed or (progress.outcome != "completed" and bool(entry.final))
        if entry.usage_basis == "none":
            # A sub-agent that was let in and took nothing has not come yet.
            session.admitted = session.admitted and session.calls > 0
            return
        session.spent = added(session.spent, settlement.amounts_of(entry))
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

    def _refuse(self, decided: Decided, refusal: Refusal, *, attempts: int) -> Answer:
        decided.session.failed = True
        answer = DIALECTS[decided.request.dialect].refused(refusal)
        now = self._clock.monotonic()
        self._ledger.record(
            settlement.entry_of_refusal(decided, refusal, status=answer.status, attempts=attempts, now=now)
        )
        return Answer(status=answer.status, headers={**answer.headers, **story.of_case(decided)}, body=answer.body)


def _taken_note(session: Session) -> str:
    """What an operator wants the model to see, once."""
    note, session.note = session.note, ""
    return note


def _begun(number: int, held: Held, not_spoken: str) -> Progress:
    reservation = held.reservation
    return Progress(
        number=number, attempt=held.attempt, not_spoken=not_spoken, reservation=reservation, watch=held.watch
    )
