"""The life cycle of one request, top to bottom.

    http/server    authenticates the caller, parses the body, calls `Pipeline.serve`
    identify       the session of the request, and whether it is stopped                     identify.py
    route          features, classification, tier target, plan of attempts                   route.py
    defer          wait for an hour of lower carbon intensity, where the request may wait    defer.py
    reserve        hold the next attempt on all of its budgets, or refuse the request        reserve.py
    build_call     the HTTP call, in the dialect of the deployment                           build_call.py
    upstream       dial the provider                                                         ../http/upstream.py
    relay          the answer to the caller, whole or chunk by chunk                         relay.py
    settle         usage -> charge -> footprint -> ledger entry, without one `await`         settle.py

`serve_route` runs the steps; the methods of each step follow in that order, then answers that do not come from the last
attempt, then lookups for `http/server`. Contexts are immutable; `AttemptProgress` and `Session` are the mutable state.

Reserving may await, settling never does: asyncio switches tasks only at `await`, so the `finally` that settles an
attempt cannot be interrupted by cancellation, and every reservation is resolved exactly once.
"""

import math
from collections.abc import Awaitable, Callable, Sequence

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
from . import background, settle, stop_response
from . import headers as response_headers
from .build_call import build_call
from .context import NO_REFERENCES, AttemptProgress, IdentifiedRequest, ReferencedObjects, RequestContext
from .defer import Deferrer
from .failed_attempt import FailedAttempt
from .identify import Identifier, pop_operator_note
from .ports import (
    BudgetStore,
    CallObserver,
    Clock,
    InputTokenCounter,
    LedgerWriter,
    NoObjectDirectory,
    ObjectDirectory,
    Randomness,
    ResponseWriter,
    SessionSync,
    Upstream,
    UpstreamResponse,
)
from .relay import Relay
from .reserve import ReservedAttempt, Reserver
from .route import Router

# Outcomes that the load statistics of a deployment count as failures.
_FAILURE_OUTCOMES = ("upstream_error", "cut")


class Pipeline:
    """Serves requests; keeps no state of any single request."""

    def __init__(  # noqa: PLR0913 - wired once, in app.py
        self,
        *,
        snapshot: Callable[[], Snapshot],
        budgets: BudgetStore,
        sessions: SessionIndex,
        circuit_breakers: CircuitBreakers,
        upstream: Upstream,
        token_counter: InputTokenCounter,
        ledger: LedgerWriter,
        clock: Clock,
        randomness: Randomness,
        output_estimates: OutputEstimates,
        session_sync: SessionSync,
        objects: ObjectDirectory | None = None,
        observer: CallObserver | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self.stopped_session_requests = 0
        self._snapshot = snapshot
        self._budgets = budgets
        self._ledger = ledger
        self._clock = clock
        self._randomness = randomness
        self._circuit_breakers = circuit_breakers
        self._token_counter = token_counter
        self._call_observer = observer or _NoCallObserver()
        self._objects = objects or NoObjectDirectory()
        self._identifier = Identifier(sessions, session_sync, clock, randomness.request_id, self._objects)
        self.router = Router(circuit_breakers, output_estimates, randomness.jitter, scorer)
        self.deferrer = Deferrer(snapshot, clock, self.router, randomness.jitter)
        self._reserver = Reserver(budgets, clock, output_estimates, randomness.jitter, self._write_hold)
        self._upstream = upstream
        self._relay = Relay(circuit_breakers, clock, self._record_start)

    async def serve(
        self, request: Request, caller: Caller, hints: HeaderHints, writer: ResponseWriter
    ) -> CallerResponse:
        """Serve one request: a whole response, or one streamed through `writer`.

        Raises PenstockError; a dialed attempt has its ledger entry by then.
        """
        references = NO_REFERENCES
        if request.referenced_ids or request.item_ids or request.attached_ids:
            references = await self._identifier.find_references(request, caller)
        route = self.route_of(request, hints, references.origins)
        return await self.serve_route(route, request, caller, hints, writer, references)

    async def serve_route(
        self,
        route: Route,
        request: Request,
        caller: Caller,
        hints: HeaderHints,
        writer: ResponseWriter,
        references: ReferencedObjects = NO_REFERENCES,
    ) -> CallerResponse:
        """Serve one request on a route, which may be absent from the configuration."""
        # identify
        identified = await self._identifier.identify(self._snapshot(), route, request, caller, hints, references)
        if identified.session.stop is not None and not identified.is_lookup:
            return await self._answer_stopped_session(identified, writer)

        # route
        context = self._build_context(identified)
        if context.loop_state.stops_session:
            refusal = await self._identifier.await_approval(context, hints.headers)
            if refusal is not None:
                return await self._answer_at_stop(context, refusal, writer)
            context = structs.replace(context, operator_note=pop_operator_note(context.session))
        if planning.near_context_limit(context.features, context.route):
            context = await self._with_exact_count(context)
        plan = self._plan(context)

        # defer
        if isinstance(plan, Plan) and context.deferral is not None:
            context, plan = await self._defer(context, plan)
            if context.session.stop is not None:
                return await self._answer_at_stop(context, self._stop_refusal(identified)[0], writer)
        if isinstance(plan, Refusal):
            return self._refuse(context, plan, attempts=0)

        # reserve -> build_call -> upstream -> relay -> settle, once per attempt
        return await self._run_attempts(context, plan, hints, writer)

    # --- route

    def _build_context(self, identified: IdentifiedRequest) -> RequestContext:
        """Decide all that precedes the plan.

        Features, classification, tier target, loop step, deadline and deferral.
        """
        snapshot, request, caller, session = (
            identified.snapshot,
            identified.request,
            identified.caller,
            identified.session,
        )
        features = self._request_features(request, identified.route, session, identified.references)
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
            operator_note=pop_operator_note(session) if request.dialect in CONVERSATION_DIALECTS else "",
            object_origin=identified.references.target,
            is_lookup=identified.is_lookup,
        )
        if loop_state.step_is_due:
            self._identifier.apply_loop_step(context, limits)
        return context

    def _request_features(
        self, request: Request, route: Route, session: Session, references: ReferencedObjects
    ) -> RequestFeatures:
        """Features and affinities of a request; stored state counts as input, too."""
        has_no_state = not request.provider_state and not request.referenced_ids and not references.file_origins
        if has_no_state and request.dialect != "embeddings":
            return request_features(request)
        affinities = affinities_of(
            request,
            route,
            last_provider=session.last_provider,
            origins={origin.provider for origin in references.origins},
            file_origins={origin.provider for origin in references.file_origins},
        )
        features = request_features(request, affinities)
        has_stored_input = request.referenced_ids or "stored" in request.provider_state
        if not has_stored_input or request.passthrough is not None:
            return features
        stored_tokens = None if request.has_stored_prompt else references.tokens
        return structs.replace(
            features,
            input_tokens=features.input_tokens + (stored_tokens or 0),
            input_tokens_max=features.input_tokens_max
            + (route.context_tokens_max if stored_tokens is None else stored_tokens),
        )

    async def _with_exact_count(self, context: RequestContext) -> RequestContext:
        """The context with an exact input count, where that decides who fits."""
        count = await self._token_counter.count(context.request.messages)
        if count is None:
            return context
        features = structs.replace(context.features, input_tokens=min(count, context.features.input_tokens_max))
        return structs.replace(context, features=features)

    def _plan(self, context: RequestContext, *, dry_run: bool = False) -> Plan | Refusal:
        """The plan of attempts, or a refusal; a `dry_run` changes no routing state."""
        session_caps = context.snapshot.caps_for_key(context.caller.key)
        refusal = (
            None if context.is_lookup else caps.exceeded_cap(session_caps, context.session, now=context.started_at)
        )
        if refusal is not None:
            return refusal
        return self.router.plan(context, now=self._clock.monotonic(), dry_run=dry_run)

    # --- defer

    async def _defer(self, context: RequestContext, plan: Plan) -> tuple[RequestContext, Plan | Refusal]:
        """Wait for an hour of lower carbon intensity before the deadline.

        A request that is cancelled meanwhile has a ledger entry, too.
        """
        deferred, grams_per_kwh = None, plan.attempts[0].deployment.intensity.grams_per_kwh
        try:
            deferred = await self.deferrer.defer(context, plan, self._plan)
        finally:
            if deferred is None:
                context = self.deferrer.refresh_context(context, context, grams_per_kwh)
                self._ledger.append_entry(
                    settle.entry_of_cancellation(context, attempts=0, now=self._clock.monotonic())
                )
        return deferred

    # --- reserve

    async def _run_attempts(
        self, context: RequestContext, plan: Plan, hints: HeaderHints, writer: ResponseWriter
    ) -> CallerResponse:
        """Run attempts until one serves, none is left, or no budget holds the next."""
        attempts = list(plan.attempts)
        index, number, calls_made = 0, 0, [0] * len(attempts)
        between_attempts, missing_dialect, upstream_seconds = False, "", 0.0
        usage_request_refused = False
        unverified: response_headers.UnverifiedAnswer | None = None
        try:
            while True:
                number += 1
                try:
                    reserved = await self._reserver.reserve(context, attempts, index, number)
                    if isinstance(reserved, Refusal):
                        between_attempts = False
                        if unverified is not None:
                            return self._answer_unverified(context, unverified, attempts=number - 1)
                        return self._refuse(context, reserved, attempts=number - 1)
                    index = reserved.plan_index
                    calls_made[index] += 1
                    progress = _new_progress(number, reserved, missing_dialect, upstream_seconds)
                    missing_dialect = ""
                    progress.usage_request_refused, usage_request_refused = usage_request_refused, False
                    progress.asks_usage = self._asks_usage(progress)
                    progress.needs_verification = unverified is None and self.router.can_escalate(
                        context, attempts, index
                    )
                    self._write_hold_or_release(context, progress)
                except Overloaded:
                    if unverified is None:
                        raise
                    between_attempts = False
                    return self._answer_unverified(context, unverified, attempts=number - 1)
                between_attempts = False
                result, following = await self._run_attempt(
                    context,
                    progress,
                    _AttemptPosition(index, attempts, calls_made[index], unverified is not None),
                    hints,
                    writer,
                )
                upstream_seconds += progress.upstream_seconds
                if isinstance(result, CallerResponse):
                    return result if unverified is None else response_headers.with_escalation_header(result, unverified)
                if progress.failed_checks:
                    unverified = response_headers.UnverifiedAnswer(
                        answer=result.answer,
                        deployment=reserved.attempt.deployment.name,
                        failed_checks=progress.failed_checks,
                    )
                    attempts = higher_tier_attempts(attempts, reserved.attempt.deployment.tier)
                    calls_made = [0] * len(attempts)
                    between_attempts, index = True, 0
                    continue
                if following is None:
                    return (
                        result.answer
                        if unverified is None
                        else self._answer_unverified(context, unverified, attempts=number)
                    )
                if result.retry_dialect is not None:
                    missing_dialect = attempts[index].upstream_dialect
                    attempts[index] = structs.replace(attempts[index], upstream_dialect=result.retry_dialect)
                    calls_made[index] -= 1
                if result.retry_without_usage:
                    calls_made[index] -= 1
                    usage_request_refused = True
                between_attempts, index = True, following.index
                if following.wait_seconds:
                    await self._clock.sleep(following.wait_seconds)
                    upstream_seconds += following.wait_seconds
        finally:
            if between_attempts:
                # Ended between two attempts, by cancellation or overload: the request still gets its final entry.
                self._ledger.append_entry(
                    settle.entry_of_cancellation(context, attempts=number, now=self._clock.monotonic())
                )

    def _write_hold_or_release(self, context: RequestContext, progress: AttemptProgress) -> None:
        """Write the hold to the ledger before dialing, for recovery after a crash.

        If the write fails, releases the reservation and raises Overloaded.
        """
        assert progress.reservation is not None, "an attempt is dialed only with a reservation"
        try:
            self._write_hold(context, progress.number, progress.attempt, progress.reservation)
        except Overloaded:
            self._budgets.settle(f"{context.request_id}.{progress.number}", ZERO_AMOUNTS, now=self._clock.now())
            raise

    def _write_hold(self, context: RequestContext, number: int, attempt: Attempt, reservation: Reservation) -> None:
        self._ledger.append_hold(settle.hold_of_attempt(context, number, attempt, reservation))

    # --- build_call -> upstream -> relay -> settle

    async def _run_attempt(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        position: "_AttemptPosition",
        hints: HeaderHints,
        writer: ResponseWriter,
    ) -> tuple[CallerResponse | FailedAttempt, NextAttempt | None]:
        """Run one attempt: exactly one ledger entry, however it ends.

        Returns the response, or the failure and what follows it.
        """
        deployment = progress.attempt.deployment
        response: UpstreamResponse | None = None
        result: CallerResponse | FailedAttempt | None = None
        following: NextAttempt | None = None
        dialed_at: float | None = None
        try:
            # build_call
            call = build_call(context, progress, hints)
            progress.dropped_fields = call.dropped_fields
            if self._circuit_open(progress.attempt):
                # Opened by other requests since the plan was made.
                raise Unreachable(f"Circuit breaker open for '{deployment.name}' after repeated failures.")

            # upstream
            progress.dialed = True
            dialed_at = self._clock.monotonic()
            self.router.loads.call_started(deployment.name)
            self._call_observer.call_started(context, progress)
            progress.is_probe = self._circuit_breakers.start_probe(deployment.name, now=self._clock.monotonic())
            response = await self._upstream.dial(call)
            now = progress.first_byte_monotonic = self._clock.monotonic()
            progress.upstream_status = response.status
            self.router.loads.record_rate_limit_headers(deployment.name, response.headers, now=now)

            # relay
            result = await self._relay.relay_response(context, progress, response, writer, now=now)
            if (
                isinstance(result, CallerResponse)
                and progress.parsed_answer is not None
                and self.router.fails_verification(context, progress, now=self._clock.monotonic())
            ):
                # Paid for, but failed verification: returned to the caller only if no higher tier answers.
                progress.code = "escalated"
                result = FailedAttempt(answer=result, retry_same=False, retry_other=True, retry_after_seconds=None)
        except UpstreamError as error:
            result = await self._relay.handle_upstream_error(
                context, progress, error, writer, now=self._clock.monotonic()
            )
        except CallerDisconnected:
            raise
        except Exception:
            progress.outcome, progress.status, progress.code = "cut", 500, "internal_error"
            raise
        finally:
            # settle: no `await` from here on
            if response is not None:
                response.close()
            if dialed_at is not None:
                progress.upstream_seconds = self._clock.monotonic() - dialed_at
                first_byte_ms = (
                    (progress.first_byte_monotonic - dialed_at) * 1000
                    if progress.first_byte_monotonic is not None and not context.is_lookup
                    else None
                )
                failed = progress.outcome in _FAILURE_OUTCOMES
                self.router.loads.call_ended(deployment.name, first_byte_ms, failed=failed)
            if isinstance(result, FailedAttempt):
                following = (
                    NextAttempt(index=0, wait_seconds=0.0)
                    if progress.failed_checks
                    else self._next_after(context, progress.attempt, position, result)
                )
            elif result is None and progress.is_probe:
                self._circuit_breakers.cancel_probe(deployment.name, now=self._clock.monotonic())
            entry = self._settle(
                context,
                progress,
                final=not isinstance(result, FailedAttempt)
                or (following is None and not position.has_unverified_answer),
            )
            may_book = context.is_lookup or (context.request.is_background and progress.object_ids)
            booking = self._start_booking(context, progress) if may_book else None
        if booking is not None:
            await booking
        if progress.object_ids and (context.request.is_background or context.request.passthrough is not None):
            # The caller may ask any replica for it at once.
            await self._objects.flush()
        if isinstance(result, FailedAttempt):
            answer = response_headers.with_attempt_headers(result.answer, context, progress, entry)
            return structs.replace(result, answer=answer), following
        return response_headers.with_attempt_headers(result, context, progress, entry), None

    def _next_after(
        self, context: RequestContext, attempt: Attempt, position: "_AttemptPosition", failed: FailedAttempt
    ) -> NextAttempt | None:
        """What follows a failed attempt: a retry, another deployment, or None."""
        if failed.retry_dialect is not None or failed.retry_without_usage:
            return NextAttempt(index=position.index, wait_seconds=0.0)
        return next_attempt(
            index=position.index,
            next_index=_next_index(position, failed.context_tokens_above),
            calls_made=position.calls_made,
            max_retries=context.snapshot.routing_policy.max_retries,
            retry_same=failed.retry_same and not self._circuit_open(attempt),
            retry_other=failed.retry_other,
            retry_after=failed.retry_after_seconds,
            jitter=self._randomness.jitter(),
        )

    def _asks_usage(self, progress: AttemptProgress) -> bool:
        """Whether a stream of this attempt is asked to report its usage."""
        deployment = progress.attempt.deployment
        return (
            deployment.stream_usage
            and not progress.usage_request_refused
            and not self._circuit_breakers.refuses_usage_request(deployment.name, now=self._clock.monotonic())
        )

    def _circuit_open(self, attempt: Attempt) -> bool:
        return self._circuit_breakers.state(attempt.deployment.name, now=self._clock.monotonic()).open_seconds > 0

    # --- settle

    def _settle(self, context: RequestContext, progress: AttemptProgress, *, final: bool) -> LedgerEntry:
        """Usage -> charge -> footprint -> reservation -> ledger, without `await`.

        Then updates session, routing and observer with the entry.
        """
        request = context.request
        item_ids: Sequence[str] = ()
        if request.is_stored or request.passthrough is not None:
            item_ids = self._read_stored_ids(context, progress)
        entry = settle.entry_of_attempt(context, progress, final=final, now=self._clock.monotonic())
        spent = settle.amounts_of(entry)
        # At the time in the ledger, so that a restart books it in the same step of a rolling window.
        self._budgets.settle(entry.id, spent, now=(entry.at_ms + entry.duration_ms) / 1000)
        self._reserver.record_usage(context, entry, len(context.request.body))
        if progress.outcome == "completed":
            context.session.last_provider = entry.provider
        self._identifier.record_attempt(context, progress, entry)
        self._ledger.append_entry(entry)
        self.router.call_ended(context, progress, entry)
        self._call_observer.call_ended(context, progress, entry)
        if progress.object_ids or (request.is_stored and progress.response_translator is not None):
            self._identifier.record_origin(context, progress, entry, item_ids)
        return entry

    def _read_stored_ids(self, context: RequestContext, progress: AttemptProgress) -> Sequence[str]:
        """Read the ids of what the provider stores of an answer into `progress`; returns those of its items."""
        progress.object_ids, item_ids = background.stored_ids(context, progress)
        if context.object_origin is not None:
            # An object that was read before.
            progress.object_ids = tuple([name for name in progress.object_ids if not self._identifier.is_known(name)])
        return item_ids

    def _record_start(self, context: RequestContext, progress: AttemptProgress, answer_id: str) -> None:
        """Record which background response a stream belongs to: after a crash its hold has the id."""
        assert progress.reservation is not None, "an attempt is dialed only with a reservation"
        self._identifier.record_start(context, progress, answer_id)
        hold = settle.hold_of_attempt(context, progress.number, progress.attempt, progress.reservation)
        try:
            self._ledger.append_hold(structs.replace(hold, object_ids=answer_id))
        except Overloaded:
            # The hold itself is written: only after a crash the response could not be found by its id.
            return

    def _start_booking(self, context: RequestContext, progress: AttemptProgress) -> Awaitable[None] | None:
        """Book the usage of a background response whose end an answer reports, once among all replicas."""
        if context.is_lookup:
            end = background.reported_end(context, progress)
        else:
            end = self._identifier.early_end(progress.object_ids[0])
        entry = self._identifier.unsettled_entry(end) if end is not None else None
        if end is None or entry is None:
            return None
        correction = background.correction(context.snapshot, entry, end)
        if correction is None:
            return None
        return self._objects.book_once(
            end.id,
            correction.id,
            lambda: self._book(context, end.id, entry, correction),
            lambda: self._identifier.record_correction(end.id, None),
        )

    def _book(self, context: RequestContext, answer_id: str, entry: LedgerEntry, correction: LedgerEntry) -> None:
        """Book a correction on the budgets and in the ledger, unless it was booked before; no `await`."""
        if not self._identifier.record_correction(answer_id, correction):
            return
        session = self._identifier.session_of(entry)
        changes = background.budget_changes(context.snapshot, session, correction)
        self._budgets.correct(
            changes, tenant=entry.org, at=(entry.at_ms + entry.duration_ms) / 1000, now=self._clock.now()
        )
        self._ledger.append_entry(correction)

    # --- answers that do not come from the last attempt

    async def _answer_stopped_session(self, identified: IdentifiedRequest, writer: ResponseWriter) -> CallerResponse:
        """Answer a further request of a stopped session.

        From memory: without a plan and without a ledger entry.
        """
        session = identified.session
        session.refused_at, session.refusals_since_stop = identified.received_at, session.refusals_since_stop + 1
        self.stopped_session_requests += 1
        refusal, limits = self._stop_refusal(identified)
        session.newest_failed = True
        step = "hold" if refusal.code == "loop_approval_required" else "stop"
        headers = {
            "x-penstock-request-id": identified.request_id,
            "x-penstock-session": session.id,
            "x-penstock-loop": f"{step}; repeats={session.refusals_since_stop}",
        }
        return await stop_response.stop_response(
            identified.request, refusal, limits, identified.request_id, identified.received_at, headers, writer
        )

    async def _answer_at_stop(
        self, context: RequestContext, refusal: Refusal, writer: ResponseWriter
    ) -> CallerResponse:
        """Answer the request at which its session is stopped, with a ledger entry."""
        context.session.newest_failed = True
        limits = context.snapshot.loop_policy.limits_for(context.route.name, context.classification.task_type)
        headers = response_headers.context_headers(context)
        answer = await stop_response.stop_response(
            context.request, refusal, limits, context.request_id, context.started_at, headers, writer
        )
        now = self._clock.monotonic()
        self._ledger.append_entry(settle.entry_of_refusal(context, refusal, status=answer.status, attempts=0, now=now))
        return answer

    def _stop_refusal(self, identified: IdentifiedRequest) -> tuple[Refusal, LoopThresholds]:
        """The refusal of a stopped session, and the loop thresholds it was stopped by."""
        snapshot, session, hints = identified.snapshot, identified.session, identified.hints
        limits = session.stop_limits or snapshot.loop_policy.limits_for(identified.route.name, hints.task_type or "")
        return self._identifier.stop_refusal(snapshot, identified.caller, session, hints.headers, limits), limits

    def _refuse(self, context: RequestContext, refusal: Refusal, *, attempts: int) -> CallerResponse:
        """Answer a refused request (budget, cap, no deployment), with a ledger entry."""
        context.session.newest_failed = True
        answer = DIALECTS[context.request.dialect].refusal_response(refusal)
        now = self._clock.monotonic()
        self._ledger.append_entry(
            settle.entry_of_refusal(context, refusal, status=answer.status, attempts=attempts, now=now)
        )
        return CallerResponse(
            status=answer.status,
            headers={**answer.headers, **response_headers.context_headers(context)},
            body=answer.body,
        )

    def _answer_unverified(
        self, context: RequestContext, unverified: response_headers.UnverifiedAnswer, *, attempts: int
    ) -> CallerResponse:
        """Return the answer that failed verification, because no higher tier answered."""
        self._ledger.append_entry(
            settle.entry_of_unverified_answer(context, attempts=attempts, now=self._clock.monotonic())
        )
        return unverified.answer

    # --- lookups for http/server

    def route_of(self, request: Request, hints: HeaderHints, origins: Sequence[ResponseOrigin] = ()) -> Route:
        """The route that a request names. Raises NotFound.

        A pass-through request without a model uses the deployment that made the object it is about, else the route of
        its header, else the first one with a provider of its dialect.
        """
        snapshot, name = self._snapshot(), request.model
        if request.passthrough is not None and not name:
            if origins:
                return _route_of_origin(snapshot, origins[0])
            dialect, name = request.passthrough.dialect, hints.route or ""
            for route in () if name else snapshot.routes.values():
                if any(deployment.dialect == dialect for deployment in route.candidates):
                    return route
        named_route = snapshot.find_route(name)
        if named_route is None:
            raise NotFound(
                f"The model '{name}' does not exist. GET /v1/models lists the available models.",
                code="model_not_found",
                param="model",
            )
        return named_route

    def estimated_input_tokens(self, request: Request, hints: HeaderHints) -> int | None:
        """Estimated input tokens of a request; None if a candidate is Anthropic's, whose own count is asked."""
        route = self.route_of(request, hints)
        return (
            None
            if any(deployment.dialect == "anthropic" for deployment in route.candidates)
            else request_features(request).input_tokens
        )


def _route_of_origin(snapshot: Snapshot, origin: ResponseOrigin) -> Route:
    """The route of an object: the deployment that made it, else another one of its provider. Raises NotFound."""
    if origin.transcript is not None:
        raise NotFound("This response was translated: it can be continued by its id, but no provider stores it.")
    deployment = snapshot.deployments.get(origin.deployment)
    if deployment is None or deployment.provider != origin.provider:
        of_provider = (other for other in snapshot.deployments.values() if other.provider == origin.provider)
        deployment = next(of_provider, None)
    if deployment is None:
        raise NotFound(f"Provider '{origin.provider}', which stores this object, is no longer configured.")
    route = snapshot.find_route(origin.route)
    return Route(
        name=origin.route,
        candidates=(deployment,),
        is_auto=False,
        reference=route.reference if route is not None else deployment,
        context_tokens_max=deployment.context_tokens_max,
    )


class _NoCallObserver:
    """Ignores every call."""

    def call_started(self, context: RequestContext, progress: AttemptProgress) -> None:
        """Ignored."""

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """Ignored."""


class _AttemptPosition(Value, frozen=True):
    """Where an attempt is in its plan.

    index: its index among the attempts of the current tier choice
    attempts: those attempts
    calls_made: calls to this attempt's deployment, this one included
    has_unverified_answer: an answer that failed verification is kept in case this attempt fails
    """

    index: int
    attempts: Sequence[Attempt]
    calls_made: int
    has_unverified_answer: bool = False


def _next_index(position: _AttemptPosition, context_tokens_above: int) -> int | None:
    """The next attempt of the plan, with a longer context than this; None if there is none."""
    later = range(position.index + 1, len(position.attempts))
    return next((i for i in later if position.attempts[i].deployment.context_tokens_max > context_tokens_above), None)


def _new_progress(
    number: int, reserved: ReservedAttempt, missing_dialect: str, earlier_upstream_seconds: float
) -> AttemptProgress:
    return AttemptProgress(
        number=number,
        attempt=reserved.attempt,
        missing_dialect=missing_dialect,
        earlier_upstream_seconds=earlier_upstream_seconds,
        reservation=reserved.reservation,
        stream_hold=reserved.stream_hold,
    )
