"""The life of one request, top to bottom, and the Protocols it needs from the world outside.

Reserving may await, resolving never does: asyncio switches only at `await`, so the `finally` that settles a call cannot
be torn apart by cancellation, and every reservation is resolved exactly once.
"""

import math
from collections.abc import Callable, Sequence

from msgspec import structs

from ..accounting.output_estimate import OutputBook
from ..dialects import CONVERSATIONS, DIALECTS
from ..dialects.translation import Carrier
from ..routing import plan as planning
from ..routing.affinity import bonds_of
from ..routing.cascade import beyond
from ..routing.circuit_breaker import HealthBook
from ..routing.next_attempt import Next, next_attempt
from ..routing.request_features import facts_of
from ..routing.scorer import Scorer
from ..sessions import caps, ladder
from ..sessions.response_origins import Origin
from ..sessions.session_index import Session, SessionBook
from ..values.base import Value
from ..values.budget import NOTHING_SPENT, Reservation
from ..values.caller_response import Answer
from ..values.catalog import Route
from ..values.errors import CallerGone, NotFound, Overloaded, Unreachable, UpstreamError
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Attempt, Facts, Plan, Refusal
from ..values.request import Caller, Hints, Request
from ..values.session import LoopLimits
from ..values.snapshot import World
from . import headers as response_headers
from . import settle, stop_response
from .build_call import call_of
from .context import Arrived, Decided, Progress
from .defer import Deferrer
from .identify import Reception, taken_note
from .ports import Answering, Budgets, Chance, Clock, Counter, Learner, Ledger, Reply, SessionNews, Upstream
from .relay import Failed, Relay
from .reserve import Held, Holder
from .route import Navigator


class _Nobody:
    """Learns nothing."""

    def dialled(self, decided: Decided, progress: Progress) -> None:
        """Forgotten."""

    def served(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None:
        """Forgotten."""


class _Place(Value, frozen=True):
    """Where in its plan an attempt stands, how often its deployment was tried;
    `spared`: there is one that the caller gets if this attempt fails."""

    at: int
    of: int
    tries: int
    spared: bool = False


# Outcomes that speak against the deployment.
_FAILED = ("upstream_error", "cut")


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
        learner: Learner | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self.repelled = 0
        self._world = world
        self._budgets = budgets
        self._reception = Reception(sessions, news, clock, chance.request_id)
        self._health = health
        self.navigator = Navigator(health, outputs, chance.jitter, scorer)
        self.deferrer = Deferrer(world, clock, self.navigator, chance.jitter)
        self._learner = learner or _Nobody()
        self._relay = Relay(health)
        self._upstream = upstream
        self._counter = counter
        self._ledger = ledger
        self._clock = clock
        self._chance = chance
        self._holder = Holder(budgets, clock, outputs, chance.jitter, self._write_hold)

    async def serve(self, request: Request, caller: Caller, hints: Hints, reply: Reply) -> Answer:
        """Answer one request: whole, or streamed through `reply`. Raises errors of the tree, each already recorded."""
        return await self.ask(self.route_of(request, hints), request, caller, hints, reply)

    async def ask(self, route: Route, request: Request, caller: Caller, hints: Hints, reply: Reply) -> Answer:
        """The same for a route that the request need not name."""
        arrived = await self._reception.arrived(self._world(), route, request, caller, hints)
        session = arrived.session
        if session.stop is not None:
            return await self._repel(arrived, reply)
        decided = self._decide(arrived)
        if decided.standing.halts:
            refusal = await self._reception.waited(decided, hints.headers)
            if refusal is not None:
                return await self._stopped(decided, refusal, reply)
            decided = structs.replace(decided, note=taken_note(session))
        if planning.close_to_a_limit(decided.facts, decided.route):
            decided = await self._counted(decided)
        plan = self._plan(decided)
        if isinstance(plan, Plan) and decided.deferral is not None:
            decided, plan = await self._deferred(decided, plan)
            if decided.session.stop is not None:
                return await self._stopped(decided, self._refusal_of(arrived)[0], reply)
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

    def _decide(self, arrived: Arrived) -> Decided:
        world, request, caller, session = arrived.world, arrived.request, arrived.caller, arrived.session
        facts = self._facts(request, arrived.route, session, arrived.origins)
        verdict, role = self.navigator.judged(arrived, facts)
        limits = world.loops.of(arrived.route.name, verdict.task_type)
        standing = ladder.standing(session, arrived.standing, limits) if arrived.standing.score else arrived.standing
        deferral, deadline_ms = self.navigator.deferral(arrived, verdict.task_type), arrived.hints.deadline_ms
        if deferral is not None:
            deadline_ms = min(deferral.seconds * 1000, deadline_ms or math.inf)
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
            user=self._reception.user(world, caller, arrived.hints.user or request.user, arrived.at),
            tip=arrived.tip,
            aim=self.navigator.aimed(arrived, verdict, role),
            deadline_ms=deadline_ms,
            deferral=deferral,
            note=taken_note(session) if request.dialect in CONVERSATIONS else "",
        )
        if standing.due:
            self._reception.climbed(decided, limits)
        return decided

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

    def _plan(self, decided: Decided, *, rehearsal: bool = False) -> Plan | Refusal:
        """What is tried; a `rehearsal` is remembered by nobody."""
        beyond = caps.beyond(decided.world.caps_of(decided.caller.key), decided.session, now=decided.at)
        if beyond is not None:
            return beyond
        return self.navigator.planned(decided, now=self._clock.monotonic(), rehearsal=rehearsal)

    async def _deferred(self, decided: Decided, plan: Plan) -> tuple[Decided, Plan | Refusal]:
        """Wait for a greener hour, where one lies before the deadline. Who hangs up meanwhile has an entry, too."""
        found, grams = None, plan.attempts[0].deployment.intensity.grams_per_kwh
        try:
            found = await self.deferrer.waited(decided, plan, self._plan)
        finally:
            if found is None:
                decided = self.deferrer.anew(decided, decided, grams)
                self._ledger.record(settle.entry_of_end(decided, attempts=0, now=self._clock.monotonic()))
        return found

    async def _repel(self, arrived: Arrived, reply: Reply) -> Answer:
        """Asked once more after its stop: answered from memory, at next to no cost."""
        session = arrived.session
        session.stop_seen_at, session.hammered = arrived.at, session.hammered + 1
        self.repelled += 1
        refusal, limits = self._refusal_of(arrived)
        session.failed = True
        step = "hold" if refusal.code == "loop_held" else "stop"
        headers = {
            "x-penstock-request-id": arrived.request_id,
            "x-penstock-session": session.id,
            "x-penstock-loop": f"{step}; asked again {session.hammered}",
        }
        return await stop_response.last_words(
            arrived.request, refusal, limits, arrived.request_id, arrived.at, headers, reply
        )

    def _refusal_of(self, arrived: Arrived) -> tuple[Refusal, LoopLimits]:
        """Why its session is not served, and the limits that it was stopped by."""
        world, session, hints = arrived.world, arrived.session, arrived.hints
        limits = session.limits or world.loops.of(arrived.route.name, hints.task_type or "")
        return self._reception.refusal_of(world, arrived.caller, session, hints.headers, limits), limits

    async def _stopped(self, decided: Decided, refusal: Refusal, reply: Reply) -> Answer:
        """The request that a loop ends with."""
        decided.session.failed = True
        limits = decided.world.loops.of(decided.route.name, decided.verdict.task_type)
        headers = response_headers.of_case(decided)
        answer = await stop_response.last_words(
            decided.request, refusal, limits, decided.request_id, decided.at, headers, reply
        )
        now = self._clock.monotonic()
        self._ledger.record(settle.entry_of_refusal(decided, refusal, status=answer.status, attempts=0, now=now))
        return answer

    async def _run(self, decided: Decided, plan: Plan, hints: Hints, reply: Reply) -> Answer:
        """Attempts one after the other until one serves, none is left, or no budget holds the next."""
        attempts = list(plan.attempts)
        place, number, tries = 0, 0, [0] * len(attempts)
        between, not_spoken = False, ""
        spare: response_headers.Spare | None = None
        try:
            while True:
                number += 1
                try:
                    held = await self._holder.hold(decided, attempts, place, number)
                    if isinstance(held, Refusal):
                        between = False
                        if spare is not None:
                            return self._spared(decided, spare, attempts=number - 1)
                        return self._refuse(decided, held, attempts=number - 1)
                    place = held.place
                    tries[place] += 1
                    progress = _begun(number, held, not_spoken)
                    not_spoken = ""
                    progress.verified = spare is None and self.navigator.escalates(decided, attempts, place)
                    self._journal(decided, progress)
                except Overloaded:
                    if spare is None:
                        raise
                    between = False
                    return self._spared(decided, spare, attempts=number - 1)
                between = False
                result, following = await self._attempt(
                    decided,
                    progress,
                    _Place(place, len(attempts), tries[place], spare is not None),
                    hints,
                    reply,
                )
                if isinstance(result, Answer):
                    return result if spare is None else response_headers.escalated(result, spare)
                if progress.doubts:
                    spare = response_headers.Spare(
                        answer=result.answer, deployment=held.attempt.deployment.name, doubts=progress.doubts
                    )
                    attempts = beyond(attempts, held.attempt.deployment.tier)
                    tries = [0] * len(attempts)
                    between, place = True, 0
                    continue
                if following is None:
                    return result.answer if spare is None else self._spared(decided, spare, attempts=number)
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
                self._ledger.record(settle.entry_of_end(decided, attempts=number, now=self._clock.monotonic()))

    def _journal(self, decided: Decided, progress: Progress) -> None:
        """Write down, before dialling, what a crash would leave behind."""
        assert progress.reservation is not None, "nothing is dialled that is not held"
        try:
            self._write_hold(decided, progress.number, progress.attempt, progress.reservation)
        except Overloaded:
            self._budgets.settle(f"{decided.request_id}.{progress.number}", NOTHING_SPENT, now=self._clock.now())
            raise

    def _write_hold(self, decided: Decided, number: int, attempt: Attempt, reservation: Reservation) -> None:
        self._ledger.hold(settle.hold_of_attempt(decided, number, attempt, reservation))

    async def _attempt(
        self, decided: Decided, progress: Progress, place: "_Place", hints: Hints, reply: Reply
    ) -> tuple[Answer | Failed, Next | None]:
        """One call: dial, meter, settle. Exactly one ledger entry, however it ends. Gives what follows a failure."""
        deployment = progress.attempt.deployment
        answering: Answering | None = None
        result: Answer | Failed | None = None
        following: Next | None = None
        dialled: float | None = None
        try:
            call = call_of(decided, progress, hints)
            if self._opened(progress.attempt):
                # Its circuit opened since the plan was made: others failed meanwhile.
                raise Unreachable(f"'{deployment.name}' is left alone after failures.")
            progress.dialled = True
            dialled = self._clock.monotonic()
            self.navigator.loads.began(deployment.name)
            self._learner.dialled(decided, progress)
            progress.probe = self._health.dialled(deployment.name, now=self._clock.monotonic())
            answering = await self._upstream.dial(call)
            now = progress.first_byte = self._clock.monotonic()
            self.navigator.loads.told(deployment.name, answering.headers, now=now)
            result = await self._relay.answered(decided, progress, answering, reply, now=now)
            if (
                isinstance(result, Answer)
                and progress.said is not None
                and self.navigator.doubtful(decided, progress, now=self._clock.monotonic())
            ):
                # Paid for and shown, but not good enough: the caller gets it only if nobody above can answer.
                progress.code = "escalated"
                result = Failed(answer=result, retry_same=False, try_other=True, retry_after=None)
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
            if dialled is not None:
                waited = (progress.first_byte - dialled) * 1000 if progress.first_byte is not None else None
                failed = progress.outcome in _FAILED
                self.navigator.loads.ended(deployment.name, waited, failed=failed)
            if isinstance(result, Failed):
                following = (
                    Next(place=0, wait_seconds=0.0)
                    if progress.doubts
                    else self._followed(decided, progress.attempt, place, result)
                )
            elif result is None and progress.probe:
                self._health.released(deployment.name, now=self._clock.monotonic())
            entry = self._settle(
                decided, progress, final=not isinstance(result, Failed) or (following is None and not place.spared)
            )
        if isinstance(result, Failed):
            told = response_headers.told(result.answer, decided, progress, entry)
            return structs.replace(result, answer=told), following
        return response_headers.told(result, decided, progress, entry), None

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

    def _settle(self, decided: Decided, progress: Progress, *, final: bool) -> LedgerEntry:
        """Usage -> charge -> footprint -> reservation -> ledger, without one await."""
        entry = settle.entry_of_attempt(decided, progress, final=final, now=self._clock.monotonic())
        spent = settle.amounts_of(entry)
        # At the time that the ledger says, so that a restart books it in the same step of a rolling window.
        self._budgets.settle(entry.id, spent, now=(entry.at_ms + entry.duration_ms) / 1000)
        self._holder.learn(decided, entry, len(decided.request.body))
        if progress.outcome == "completed":
            decided.session.provider = entry.provider
        self._reception.progressed(decided, progress, entry)
        self._ledger.record(entry)
        self.navigator.served(decided, progress, entry)
        self._learner.served(decided, progress, entry)
        passage = decided.request.passage
        creates = decided.request.dialect == "responses" if passage is None else passage.creates
        if progress.outcome == "completed" and creates:
            self._reception.remember(decided, progress, entry.input_tokens + entry.output_tokens)
        return entry

    def _spared(self, decided: Decided, spare: response_headers.Spare, *, attempts: int) -> Answer:
        """Nobody above could answer: the caller gets what was doubted."""
        self._ledger.record(settle.entry_of_spare(decided, attempts=attempts, now=self._clock.monotonic()))
        return spare.answer

    def _refuse(self, decided: Decided, refusal: Refusal, *, attempts: int) -> Answer:
        decided.session.failed = True
        answer = DIALECTS[decided.request.dialect].refused(refusal)
        now = self._clock.monotonic()
        self._ledger.record(settle.entry_of_refusal(decided, refusal, status=answer.status, attempts=attempts, now=now))
        return Answer(
            status=answer.status, headers={**answer.headers, **response_headers.of_case(decided)}, body=answer.body
        )


def _begun(number: int, held: Held, not_spoken: str) -> Progress:
    reservation = held.reservation
    return Progress(
        number=number, attempt=held.attempt, not_spoken=not_spoken, reservation=reservation, watch=held.watch
    )
