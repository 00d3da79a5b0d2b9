"""The life of one request, top to bottom, and the Protocols it needs from the world outside.

Reserving may await, resolving never does: asyncio switches only at `await`, so the `finally` that settles a call cannot
be torn apart by cancellation, and every reservation is resolved exactly once.
"""

import math
from collections.abc import Callable, Sequence

from msgspec import structs

from ..accounting.output_estimate import OutputEstimates
from ..dialects import CONVERSATION_DIALECTS, DIALECTS
from ..dialects.translation import Translator
from ..routing import plan as planning
from ..routing.affinity import affinities_of
from ..routing.cascade import higher_tier_attempts
from ..routing.circuit_breaker import CircuitBreakers
from ..routing.next_attempt import NextAttempt, next_attempt
from ..routing.request_features import request_features
from ..routing.scorer import Scorer
from ..sessions import caps, ladder
from ..sessions.response_origins import ResponseOrigin
from ..sessions.session_index import Session, SessionIndex
from ..values.base import Value
from ..values.budget import ZERO_AMOUNTS, Reservation
from ..values.caller_response import CallerResponse
from ..values.catalog import Route
from ..values.errors import CallerDisconnected, NotFound, Overloaded, Unreachable, UpstreamError
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Attempt, Plan, Refusal, RequestFeatures
from ..values.request import Caller, HeaderHints, Request
from ..values.session import LoopThresholds
from ..values.snapshot import Snapshot
from . import headers as response_headers
from . import settle, stop_response
from .build_call import build_call
from .context import AttemptProgress, IdentifiedRequest, RequestContext
from .defer import Deferrer
from .identify import Identifier, take_operator_note
from .ports import (
    BudgetStore,
    CallObserver,
    Clock,
    InputTokenCounter,
    LedgerWriter,
    Randomness,
    ResponseWriter,
    SessionSync,
    Upstream,
    UpstreamResponse,
)
from .relay import FailedAttempt, Relay
from .reserve import ReservedAttempt, Reserver
from .route import Router


class _NoCallObserver:
    """Learns nothing."""

    def call_started(self, context: RequestContext, progress: AttemptProgress) -> None:
        """Forgotten."""

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """Forgotten."""


class _AttemptPosition(Value, frozen=True):
    """Where in its plan an attempt stands, how often its deployment was tried;
    `spared`: there is one that the caller gets if this attempt fails."""

    index: int
    count: int
    calls_made: int
    has_fallback: bool = False


# Outcomes that speak against the deployment.
_FAILURE_OUTCOMES = ("upstream_error", "cut")


class Pipeline:
    """Serves requests. Holds the books of this process and the doors, nothing about any request."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        budgets: BudgetStore,
        sessions: SessionIndex,
        circuit_breakers: CircuitBreakers,
        upstream: Upstream,
        counter: InputTokenCounter,
        ledger: LedgerWriter,
        clock: Clock,
        randomness: Randomness,
        outputs: OutputEstimates,
        session_sync: SessionSync,
        observer: CallObserver | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self.refused_after_stop = 0
        self._snapshot = snapshot
        self._budgets = budgets
        self._identifier = Identifier(sessions, session_sync, clock, randomness.request_id)
        self._circuit_breakers = circuit_breakers
        self.router = Router(circuit_breakers, outputs, randomness.jitter, scorer)
        self.deferrer = Deferrer(snapshot, clock, self.router, randomness.jitter)
        self._call_observer = observer or _NoCallObserver()
        self._relay = Relay(circuit_breakers)
        self._upstream = upstream
        self._token_counter = counter
        self._ledger = ledger
        self._clock = clock
        self._randomness = randomness
        self._reserver = Reserver(budgets, clock, outputs, randomness.jitter, self._write_hold)

    async def serve(
        self, request: Request, caller: Caller, hints: HeaderHints, reply: ResponseWriter
    ) -> CallerResponse:
        """Answer one request: whole, or streamed through `reply`. Raises errors of the tree, each already recorded."""
        return await self.serve_route(self.route_of(request, hints), request, caller, hints, reply)

    async def serve_route(
        self, route: Route, request: Request, caller: Caller, hints: HeaderHints, reply: ResponseWriter
    ) -> CallerResponse:
        """The same for a route that the request need not name."""
        identified = await self._identifier.identify(self._snapshot(), route, request, caller, hints)
        session = identified.session
        if session.stop is not None:
            return await self._answer_stopped_session(identified, reply)
        context = self._build_context(identified)
        if context.loop_state.stops_session:
            refusal = await self._identifier.await_approval(context, hints.headers)
            if refusal is not None:
                return await self._stop_session(context, refusal, reply)
            context = structs.replace(context, operator_note=take_operator_note(session))
        if planning.near_context_limit(context.features, context.route):
            context = await self._with_exact_count(context)
        plan = self._plan(context)
        if isinstance(plan, Plan) and context.deferral is not None:
            context, plan = await self._defer(context, plan)
            if context.session.stop is not None:
                return await self._stop_session(context, self._stop_refusal(identified)[0], reply)
        if isinstance(plan, Refusal):
            return self._refuse(context, plan, attempts=0)
        return await self._run_attempts(context, plan, hints, reply)

    def route_of(self, request: Request, hints: HeaderHints) -> Route:
        """The route that a request names; what passes through without a model takes the header's, or the first that
        leads to a provider of its dialect. Raises NotFound."""
        snapshot, name = self._snapshot(), request.model
        if request.passthrough is not None and not name:
            dialect, name = request.passthrough.dialect, hints.route or ""
            for route in snapshot.routes.values() if not name else ():
                if any(one.dialect == dialect for one in route.candidates):
                    return route
        found = snapshot.find_route(name)
        if found is None:
            raise NotFound(
                f"The model '{name}' does not exist here. GET /v1/models lists what does.",
                code="model_not_found",
                param="model",
            )
        return found

    def estimated_input_tokens(self, request: Request, hints: HeaderHints) -> int | None:
        """Our estimate of a request's input tokens; None where the route leads to Anthropic, which counts itself."""
        route = self.route_of(request, hints)
        return (
            None
            if any(one.dialect == "anthropic" for one in route.candidates)
            else request_features(request).input_tokens
        )

    def _build_context(self, identified: IdentifiedRequest) -> RequestContext:
        snapshot, request, caller, session = (
            identified.snapshot,
            identified.request,
            identified.caller,
            identified.session,
        )
        features = self._request_features(request, identified.route, session, identified.origins)
        classification, role = self.router.classify(identified, features)
        limits = snapshot.loop_policy.limits_for(identified.route.name, classification.task_type)
        loop_state = (
            ladder.take_due_step(session, identified.loop_state, limits)
            if identified.loop_state.score
            else identified.loop_state
        )
        deferral, deadline_ms = self.router.deferral(identified, classification.task_type), identified.hints.deadline_ms
        if deferral is not None:
            deadline_ms = min(deferral.wait_seconds_max * 1000, deadline_ms or math.inf)
        context = RequestContext(
            request_id=identified.request_id,
            started_at=identified.received_at,
            started_monotonic=self._clock.monotonic(),
            snapshot=snapshot,
            caller=caller,
            request=request,
            translator=Translator(request),
            session=session,
            route=identified.route,
            features=features,
            classification=classification,
            loop_state=loop_state,
            user=self._identifier.end_user(
                snapshot, caller, identified.hints.user or request.user, identified.received_at
            ),
            history_digest=identified.history_digest,
            target=self.router.tier_target(identified, classification, role),
            deadline_ms=deadline_ms,
            deferral=deferral,
            operator_note=take_operator_note(session) if request.dialect in CONVERSATION_DIALECTS else "",
        )
        if loop_state.step_is_due:
            self._identifier.take_loop_step(context, limits)
        return context

    def _request_features(
        self, request: Request, route: Route, session: Session, origins: Sequence[ResponseOrigin]
    ) -> RequestFeatures:
        """What the request looks like, and what binds it. What lies with a provider counts as input, too."""
        if not request.provider_state and not request.referenced_ids and request.dialect != "embeddings":
            return request_features(request)
        lies_with = {origin.provider for origin in origins}
        features = request_features(
            request, affinities_of(request, route, minted_by=session.last_provider, origins=lies_with)
        )
        stores = request.referenced_ids or "stored" in request.provider_state
        if not stores or request.passthrough is not None:
            return features
        known = len(origins) == len(request.referenced_ids) and "stored" not in request.provider_state
        stored = sum(origin.conversation_tokens for origin in origins) if known else route.context_tokens_max
        more = features.input_tokens_max + stored
        return structs.replace(features, input_tokens=features.input_tokens + stored * known, input_tokens_max=more)

    async def _with_exact_count(self, context: RequestContext) -> RequestContext:
        """The same with an exact input count: here the number decides whether a candidate is struck."""
        count = await self._token_counter.count(context.request.messages)
        if count is None:
            return context
        features = structs.replace(context.features, input_tokens=min(count, context.features.input_tokens_max))
        return structs.replace(context, features=features)

    def _plan(self, context: RequestContext, *, rehearsal: bool = False) -> Plan | Refusal:
        """What is tried; a `rehearsal` is remembered by nobody."""
        beyond = caps.exceeded_cap(
            context.snapshot.caps_for_key(context.caller.key), context.session, now=context.started_at
        )
        if beyond is not None:
            return beyond
        return self.router.plan(context, now=self._clock.monotonic(), rehearsal=rehearsal)

    async def _defer(self, context: RequestContext, plan: Plan) -> tuple[RequestContext, Plan | Refusal]:
        """Wait for a greener hour, where one lies before the deadline. Who hangs up meanwhile has an entry, too."""
        found, grams = None, plan.attempts[0].deployment.intensity.grams_per_kwh
        try:
            found = await self.deferrer.defer(context, plan, self._plan)
        finally:
            if found is None:
                context = self.deferrer.refresh_context(context, context, grams)
                self._ledger.append_entry(
                    settle.entry_of_cancellation(context, attempts=0, now=self._clock.monotonic())
                )
        return found

    async def _answer_stopped_session(self, identified: IdentifiedRequest, reply: ResponseWriter) -> CallerResponse:
        """Asked once more after its stop: answered from memory, at next to no cost."""
        session = identified.session
        session.refused_at, session.refusals_since_stop = identified.received_at, session.refusals_since_stop + 1
        self.refused_after_stop += 1
        refusal, limits = self._stop_refusal(identified)
        session.newest_failed = True
        step = "hold" if refusal.code == "loop_held" else "stop"
        headers = {
            "x-penstock-request-id": identified.request_id,
            "x-penstock-session": session.id,
            "x-penstock-loop": f"{step}; asked again {session.refusals_since_stop}",
        }
        return await stop_response.stopped_answer(
            identified.request, refusal, limits, identified.request_id, identified.received_at, headers, reply
        )

    def _stop_refusal(self, identified: IdentifiedRequest) -> tuple[Refusal, LoopThresholds]:
        """Why its session is not served, and the limits that it was stopped by."""
        snapshot, session, hints = identified.snapshot, identified.session, identified.hints
        limits = session.stop_limits or snapshot.loop_policy.limits_for(identified.route.name, hints.task_type or "")
        return self._identifier.stop_refusal(snapshot, identified.caller, session, hints.headers, limits), limits

    async def _stop_session(self, context: RequestContext, refusal: Refusal, reply: ResponseWriter) -> CallerResponse:
        """The request that a loop ends with."""
        context.session.newest_failed = True
        limits = context.snapshot.loop_policy.limits_for(context.route.name, context.classification.task_type)
        headers = response_headers.context_headers(context)
        answer = await stop_response.stopped_answer(
            context.request, refusal, limits, context.request_id, context.started_at, headers, reply
        )
        now = self._clock.monotonic()
        self._ledger.append_entry(settle.entry_of_refusal(context, refusal, status=answer.status, attempts=0, now=now))
        return answer

    async def _run_attempts(
        self, context: RequestContext, plan: Plan, hints: HeaderHints, reply: ResponseWriter
    ) -> CallerResponse:
        """Attempts one after the other until one serves, none is left, or no budget holds the next."""
        attempts = list(plan.attempts)
        place, number, tries = 0, 0, [0] * len(attempts)
        between, not_spoken = False, ""
        fallback: response_headers.FallbackAnswer | None = None
        try:
            while True:
                number += 1
                try:
                    held = await self._reserver.reserve(context, attempts, place, number)
                    if isinstance(held, Refusal):
                        between = False
                        if fallback is not None:
                            return self._answer_with_fallback(context, fallback, attempts=number - 1)
                        return self._refuse(context, held, attempts=number - 1)
                    place = held.plan_index
                    tries[place] += 1
                    progress = _new_progress(number, held, not_spoken)
                    not_spoken = ""
                    progress.needs_verification = fallback is None and self.router.can_escalate(
                        context, attempts, place
                    )
                    self._write_hold_or_release(context, progress)
                except Overloaded:
                    if fallback is None:
                        raise
                    between = False
                    return self._answer_with_fallback(context, fallback, attempts=number - 1)
                between = False
                result, following = await self._run_attempt(
                    context,
                    progress,
                    _AttemptPosition(place, len(attempts), tries[place], fallback is not None),
                    hints,
                    reply,
                )
                if isinstance(result, CallerResponse):
                    return result if fallback is None else response_headers.with_escalation_header(result, fallback)
                if progress.failed_checks:
                    fallback = response_headers.FallbackAnswer(
                        answer=result.answer,
                        deployment=held.attempt.deployment.name,
                        failed_checks=progress.failed_checks,
                    )
                    attempts = higher_tier_attempts(attempts, held.attempt.deployment.tier)
                    tries = [0] * len(attempts)
                    between, place = True, 0
                    continue
                if following is None:
                    return (
                        result.answer
                        if fallback is None
                        else self._answer_with_fallback(context, fallback, attempts=number)
                    )
                if result.retry_dialect is not None:
                    not_spoken = attempts[place].upstream_dialect
                    attempts[place] = structs.replace(attempts[place], upstream_dialect=result.retry_dialect)
                    tries[place] -= 1
                between, place = True, following.index
                if following.wait_seconds:
                    await self._clock.sleep(following.wait_seconds)
        finally:
            if between:
                # The caller hung up, or we had to give up, between two attempts: the request still ends in one entry.
                self._ledger.append_entry(
                    settle.entry_of_cancellation(context, attempts=number, now=self._clock.monotonic())
                )

    def _write_hold_or_release(self, context: RequestContext, progress: AttemptProgress) -> None:
        """Write down, before dialling, what a crash would leave behind."""
        assert progress.reservation is not None, "nothing is dialled that is not held"
        try:
            self._write_hold(context, progress.number, progress.attempt, progress.reservation)
        except Overloaded:
            self._budgets.settle(f"{context.request_id}.{progress.number}", ZERO_AMOUNTS, now=self._clock.now())
            raise

    def _write_hold(self, context: RequestContext, number: int, attempt: Attempt, reservation: Reservation) -> None:
        self._ledger.append_hold(settle.hold_of_attempt(context, number, attempt, reservation))

    async def _run_attempt(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        place: "_AttemptPosition",
        hints: HeaderHints,
        reply: ResponseWriter,
    ) -> tuple[CallerResponse | FailedAttempt, NextAttempt | None]:
        """One call: dial, meter, settle. Exactly one ledger entry, however it ends. Gives what follows a failure."""
        deployment = progress.attempt.deployment
        answering: UpstreamResponse | None = None
        result: CallerResponse | FailedAttempt | None = None
        following: NextAttempt | None = None
        dialled: float | None = None
        try:
            call = build_call(context, progress, hints)
            if self._circuit_open(progress.attempt):
                # Its circuit opened since the plan was made: others failed meanwhile.
                raise Unreachable(f"'{deployment.name}' is left alone after failures.")
            progress.dialled = True
            dialled = self._clock.monotonic()
            self.router.loads.call_started(deployment.name)
            self._call_observer.call_started(context, progress)
            progress.is_probe = self._circuit_breakers.start_probe(deployment.name, now=self._clock.monotonic())
            answering = await self._upstream.dial(call)
            now = progress.first_byte_monotonic = self._clock.monotonic()
            self.router.loads.record_rate_limit_headers(deployment.name, answering.headers, now=now)
            result = await self._relay.relay_response(context, progress, answering, reply, now=now)
            if (
                isinstance(result, CallerResponse)
                and progress.parsed_answer is not None
                and self.router.fails_verification(context, progress, now=self._clock.monotonic())
            ):
                # Paid for and shown, but not good enough: the caller gets it only if nobody above can answer.
                progress.code = "escalated"
                result = FailedAttempt(answer=result, retry_same=False, try_other=True, retry_after_seconds=None)
        except UpstreamError as error:
            result = await self._relay.handle_upstream_error(
                context, progress, error, reply, now=self._clock.monotonic()
            )
        except CallerDisconnected:
            raise
        except Exception:
            progress.outcome, progress.status, progress.code = "cut", 500, "internal_error"
            raise
        finally:
            if answering is not None:
                answering.close()
            if dialled is not None:
                waited = (
                    (progress.first_byte_monotonic - dialled) * 1000
                    if progress.first_byte_monotonic is not None
                    else None
                )
                failed = progress.outcome in _FAILURE_OUTCOMES
                self.router.loads.call_ended(deployment.name, waited, failed=failed)
            if isinstance(result, FailedAttempt):
                following = (
                    NextAttempt(index=0, wait_seconds=0.0)
                    if progress.failed_checks
                    else self._next_after(context, progress.attempt, place, result)
                )
            elif result is None and progress.is_probe:
                self._circuit_breakers.cancel_probe(deployment.name, now=self._clock.monotonic())
            entry = self._settle(
                context,
                progress,
                final=not isinstance(result, FailedAttempt) or (following is None and not place.has_fallback),
            )
        if isinstance(result, FailedAttempt):
            told = response_headers.with_attempt_headers(result.answer, context, progress, entry)
            return structs.replace(result, answer=told), following
        return response_headers.with_attempt_headers(result, context, progress, entry), None

    def _next_after(
        self, context: RequestContext, attempt: Attempt, place: "_AttemptPosition", failed: FailedAttempt
    ) -> NextAttempt | None:
        if failed.retry_dialect is not None:
            return NextAttempt(index=place.index, wait_seconds=0.0)
        return next_attempt(
            place=place.index,
            places=place.count,
            tries_here=place.calls_made,
            max_retries=context.snapshot.routing_policy.max_retries,
            retry_same=failed.retry_same and not self._circuit_open(attempt),
            try_other=failed.try_other,
            retry_after=failed.retry_after_seconds,
            jitter=self._randomness.jitter(),
        )

    def _circuit_open(self, attempt: Attempt) -> bool:
        """Whether the deployment is now left alone."""
        return self._circuit_breakers.state(attempt.deployment.name, now=self._clock.monotonic()).open_seconds > 0

    def _settle(self, context: RequestContext, progress: AttemptProgress, *, final: bool) -> LedgerEntry:
        """Usage -> charge -> footprint -> reservation -> ledger, without one await."""
        entry = settle.entry_of_attempt(context, progress, final=final, now=self._clock.monotonic())
        spent = settle.amounts_of(entry)
        # At the time that the ledger says, so that a restart books it in the same step of a rolling window.
        self._budgets.settle(entry.id, spent, now=(entry.at_ms + entry.duration_ms) / 1000)
        self._reserver.record_usage(context, entry, len(context.request.body))
        if progress.outcome == "completed":
            context.session.last_provider = entry.provider
        self._identifier.record_attempt(context, progress, entry)
        self._ledger.append_entry(entry)
        self.router.call_ended(context, progress, entry)
        self._call_observer.call_ended(context, progress, entry)
        passthrough = context.request.passthrough
        creates = context.request.dialect == "responses" if passthrough is None else passthrough.creates_object
        if progress.outcome == "completed" and creates:
            self._identifier.record_origin(context, progress, entry.input_tokens + entry.output_tokens)
        return entry

    def _answer_with_fallback(
        self, context: RequestContext, fallback: response_headers.FallbackAnswer, *, attempts: int
    ) -> CallerResponse:
        """Nobody above could answer: the caller gets what was doubted."""
        self._ledger.append_entry(settle.entry_of_fallback(context, attempts=attempts, now=self._clock.monotonic()))
        return fallback.answer

    def _refuse(self, context: RequestContext, refusal: Refusal, *, attempts: int) -> CallerResponse:
        context.session.newest_failed = True
        answer = DIALECTS[context.request.dialect].refusal_answer(refusal)
        now = self._clock.monotonic()
        self._ledger.append_entry(
            settle.entry_of_refusal(context, refusal, status=answer.status, attempts=attempts, now=now)
        )
        return CallerResponse(
            status=answer.status,
            headers={**answer.headers, **response_headers.context_headers(context)},
            body=answer.body,
        )


def _new_progress(number: int, held: ReservedAttempt, not_spoken: str) -> AttemptProgress:
    reservation = held.reservation
    return AttemptProgress(
        number=number,
        attempt=held.attempt,
        missing_dialect=not_spoken,
        reservation=reservation,
        stream_hold=held.stream_hold,
    )
