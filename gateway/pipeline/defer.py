"""Defer: waits for an hour of lower carbon intensity, for requests that may wait.

The request stays open meanwhile and holds nothing of any budget. When its wait ends it is planned again, with the
snapshot of that moment.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import structs

from ..routing.deferred_start import lead_seconds, lowest_carbon_start
from ..sessions import caps
from ..values.metric import MetricFamily, counter, gauge
from ..values.plan import Plan, Refusal
from ..values.snapshot import Snapshot
from .context import DeferredWait, RequestContext
from .ports import Clock
from .reserve import WAITING_REQUESTS_MAX
from .route import Router

# How often a waiting request checks for its start and for a new snapshot.
_POLL_SECONDS = 5.0
# Requests that wait for the same slot start spread over this many seconds.
_SPREAD_SECONDS = 60.0


class Replan(Protocol):
    """Plans a request again; a dry run changes no routing state."""

    def __call__(self, context: RequestContext, *, dry_run: bool = False) -> Plan | Refusal: ...


class Deferrer:
    """Defers requests of this process; `release` ends every wait, for shutdown."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], clock: Clock, router: Router, jitter: Callable[[], float]
    ) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._router = router
        self._jitter = jitter
        self._released = False
        self.waiting_requests = 0
        # Deferrable requests by outcome.
        self.counts = {"deferred": 0, "immediate": 0, "queue_full": 0}

    def release(self) -> None:
        """End every wait, now and from now on."""
        self._released = True

    async def defer(self, context: RequestContext, plan: Plan, replan: Replan) -> tuple[RequestContext, Plan | Refusal]:
        """Wait, and return the request and its plan as of its start.

        Returns at once where no lower intensity is forecast before the deadline.
        Returns early where its session was stopped meanwhile; the caller checks for that.
        """
        assert context.deferral is not None, "the request may wait"
        latest, spread = context.started_at + self._wait_seconds_max(context, plan), self._jitter() * _SPREAD_SECONDS
        slot_start = self._lowest_carbon_start(plan, latest, context.deferral.gain_share_min)
        if slot_start is None or self.waiting_requests >= WAITING_REQUESTS_MAX:
            self.counts["immediate" if slot_start is None else "queue_full"] += 1
            return context, plan
        self.counts["deferred"] += 1
        arrival, grams_per_kwh, start_is_due = context, plan.attempts[0].deployment.intensity.grams_per_kwh, False
        start = slot_start + spread
        self.waiting_requests += 1
        try:
            while not self._released and context.session.stop is None:
                # By the monotonic clock: a wall clock that is set back must not move the deadline.
                seconds_left = arrival.started_monotonic + (latest - arrival.started_at) - self._clock.monotonic()
                pause = min(start - self._clock.now(), seconds_left, _POLL_SECONDS)
                if pause <= 0:
                    break
                await self._clock.sleep(pause)
                if start_is_due or self._snapshot() is context.snapshot:
                    continue
                context = self.refresh_context(context, arrival, grams_per_kwh)
                new_plan = replan(context, dry_run=True)
                if isinstance(new_plan, Plan):
                    latest = min(latest, arrival.started_at + self._wait_seconds_max(arrival, new_plan))
                    # Already waiting: any reduction is worth the rest of the wait.
                    slot_start = self._lowest_carbon_start(new_plan, latest, 0.0)
                    start_is_due = slot_start is None
                    start = (self._clock.now() if slot_start is None else slot_start) + spread
                elif new_plan.retry_after_seconds is None:
                    return context, new_plan
        finally:
            self.waiting_requests -= 1
        context = self.refresh_context(context, arrival, grams_per_kwh)
        return context, plan if context.session.stop is not None else replan(context)

    def _wait_seconds_max(self, context: RequestContext, plan: Plan) -> float:
        """Longest wait, in seconds.

        Up to the deadline or the end of its session, less the lead that the call needs.
        """
        assert context.deferral is not None and context.deadline_ms is not None, "a deferral sets a deadline"
        first, limit = plan.attempts[0], context.deadline_ms / 1000
        lead = lead_seconds(self._router.expected_seconds(context, first), first.deployment.timeouts.total, limit)
        session_seconds_left = caps.seconds_left(
            context.snapshot.caps_for_key(context.caller.key), context.session, now=context.started_at
        )
        return min(limit, session_seconds_left) - lead

    def _lowest_carbon_start(self, plan: Plan, latest: float, gain_min: float) -> float | None:
        """Start of the slot of lowest intensity, seconds since the epoch; None: now."""
        return lowest_carbon_start(plan.attempts[0].deployment, now=self._clock.now(), latest=latest, gain_min=gain_min)

    def refresh_context(self, context: RequestContext, arrival: RequestContext, grams_per_kwh: float) -> RequestContext:
        """The context as of now, with the current snapshot.

        arrival: the context at its arrival
        grams_per_kwh: carbon intensity at its arrival
        """
        snapshot, now, monotonic = self._snapshot(), self._clock.now(), self._clock.monotonic()
        seconds, deadline_ms = monotonic - arrival.started_monotonic, arrival.deadline_ms
        return structs.replace(
            context,
            snapshot=snapshot,
            route=snapshot.with_current_deployments(context.route),
            started_at=now,
            started_monotonic=monotonic,
            deadline_ms=max(1.0, deadline_ms - seconds * 1000) if deadline_ms is not None else None,
            deferred_wait=DeferredWait(seconds=seconds, undeferred_grams_per_kwh=grams_per_kwh),
        )

    def metrics(self) -> Iterator[MetricFamily]:
        """Metrics of deferred requests, read at a scrape."""
        yield gauge(
            "penstock_deferred_requests_waiting",
            "Requests waiting for a lower carbon intensity.",
            self.waiting_requests,
        )
        yield counter(
            "penstock_deferrable_requests_total",
            "Deferrable requests by outcome: deferred, immediate, queue_full.",
            [([outcome], count) for outcome, count in self.counts.items()],
            ("outcome",),
        )
