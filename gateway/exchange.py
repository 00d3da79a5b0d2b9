"""The life of one request, top to bottom, and the Protocols it needs from the world outside.

Reserving may await, resolving never does: asyncio switches only at `await`, so the `finally` that settles a call cannot
be torn apart by cancellation, and every reservation is resolved exactly once.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

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
from .sessions import caps, loops
from .sessions.identity import Session, SessionBook
from .sessions.origins import Origin, OriginBook
from .sessions.users import UserBook, user_of
from .settlement import Decided, Progress
from .values.answer import Answer
from .values.base import Value
from .values.budget import NOTHING_SPENT, Reservation
from .values.catalog import Route
from .values.entry import Hold, LedgerEntry
from .values.plan import Attempt, Facts, Plan, Refusal
from .values.request import Caller, Hints, Message, Request
from .values.world import World
from .wire import DIALECTS, responses
from .wire import body as bodies


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
    ) -> None:
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
        decided = self._decide(request, caller, hints)
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

    def _decide(self, request: Request, caller: Caller, hints: Hints) -> Decided:
        world, at = self._world(), self._clock.now()
        route = self.route_of(request, hints)
        request_id = self._chance.request_id()
        origins: Sequence[Origin] = ()
        if request.references:
            origins = self._found(request, caller, now=at)
            kept = origins[0].transcript if request.previous is not None and origins else None
            if kept is not None:
                request = responses.continued(request, kept)
        session = self._session(request, caller, hints, origins, request_id, at)
        loops.observe(session, request.messages)
        facts = self._facts(request, route, session, origins)
        verdict = CLASSIFIERS["transparent"](facts, world.task_types, declared=hints.task_type)
        return Decided(
            request_id=request_id,
            at=at,
            started=self._clock.monotonic(),
            world=world,
            caller=caller,
            request=request,
            carrier=Carrier(request),
            session=session,
            route=route,
            facts=facts,
            verdict=verdict,
            loop_step=loops.step_of(session, world.loops),
            user=self._user(world, caller, hints.user or request.user, at),
        )

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

    def _session(
        self,
        request: Request,
        caller: Caller,
        hints: Hints,
        origins: Sequence[Origin],
        request_id: str,
        at: float,
    ) -> Session:
        if hints.session is not None:
            return self._sessions.named(
                caller.key, hints.session, hints.session_source, now=at, parent=hints.parent, root=hints.root
            )
        if origins:
            # The answer that this one continues was given within a session.
            return origins[0].session
        return self._sessions.inferred(caller.key, request, fresh_id=f"s-{request_id}", now=at)

    def _plan(self, decided: Decided) -> Plan | Refusal:
        world, session = decided.world, decided.session
        if decided.loop_step == "stop" and world.loops.enforce:
            return loops.refusal(session, world.loops)
        late = caps.overtime(world.caps, session, now=decided.at)
        if late is not None:
            return late
        now = self._clock.monotonic()
        return planning.decide(
            decided.route,
            decided.request,
            decided.facts,
            decided.verdict,
            world.policy,
            lambda name: self._health.standing(name, now=now),
            decided.carrier,
        )

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
        if carried is not None:
            document = carried.document
            if attempt.output_limit is not None:
                document = provider.limited(document, attempt.speech, deployment, attempt.output_limit)
            body: tuple[bytes | memoryview, ...] = (provider.finished(document, attempt.speech, deployment),)
            return provider.call(attempt.speech, body, deployment, hints.headers)
        body = DIALECTS[request.dialect].spliced(request, deployment.model, ask_usage=deployment.stream_usage)
        if attempt.output_limit is not None:
            # Only a request that a budget shortens is written anew; every other one keeps the caller's own bytes.
            document = bodies.whole(b"".join(body))
            body = (orjson.dumps(provider.limited(document, attempt.speech, deployment, attempt.output_limit)),)
        if request.passage is not None:
            return provider.passage(request.passage.method, request.passage.path, body, deployment, hints.headers)
        return provider.call(attempt.speech, body, deployment, hints.headers)

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
        decided.session.calls += int(entry.usage_basis != "none")
        decided.session.charge_nusd += entry.charge_nusd
        self._ledger.record(entry)
        passage = decided.request.passage
        creates = decided.request.dialect == "responses" if passage is None else passage.creates
        if progress.outcome == "completed" and creates:
            self._remember(decided, progress, entry.input_tokens + entry.output_tokens)
        return entry

    def _refuse(self, decided: Decided, refusal: Refusal, *, attempts: int) -> Answer:
        answer = DIALECTS[decided.request.dialect].refused(refusal)
        now = self._clock.monotonic()
        self._ledger.record(
            settlement.entry_of_refusal(decided, refusal, status=answer.status, attempts=attempts, now=now)
        )
        return Answer(status=answer.status, headers={**answer.headers, **story.of_case(decided)}, body=answer.body)


def _begun(number: int, held: Held, not_spoken: str) -> Progress:
    reservation = held.reservation
    return Progress(
        number=number, attempt=held.attempt, not_spoken=not_spoken, reservation=reservation, watch=held.watch
    )
