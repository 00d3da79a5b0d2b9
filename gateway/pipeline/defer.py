"""Work that can wait: when its call is begun, and the wait until then. The request stays open meanwhile and holds nothing of
any budget; when the moment has come it is planned anew, in the world as it is by then.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import structs

from ..routing.deferred_start import greenest_start, lead_seconds
from ..sessions import caps
from ..values.metric import MetricFamily, counter, gauge
from ..values.plan import Plan, Refusal
from ..values.snapshot import Snapshot
from .context import DeferredWait, RequestContext
from .ports import Clock
from .reserve import WAITING_REQUESTS_MAX
from .route import Router

# How often a waiting request looks whether it is time, or whether there is other news.
_POLL_SECONDS = 5.0
# Those who wait for the same slot are dialled within so many seconds of its beginning, not all at once.
_SPREAD_SECONDS = 60.0


class Replan(Protocol):
    """Plans a request anew; a rehearsal is remembered by nobody."""

    def __call__(self, context: RequestContext, *, rehearsal: bool = False) -> Plan | Refusal: ...


class Deferrer:
    """Lets requests of one process wait. `release` ends every wait: the gateway is going down."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], clock: Clock, router: Router, jitter: Callable[[], float]
    ) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._router = router
        self._jitter = jitter
        self._released = False
        self.waiting_requests = 0
        # By what became of requests that could have waited.
        self.counts = {"deferred": 0, "immediate": 0, "queue_full": 0}

    def release(self) -> None:
        """Nobody waits any longer."""
        self._released = True

    async def defer(self, context: RequestContext, plan: Plan, replan: Replan) -> tuple[RequestContext, Plan | Refusal]:
        """The same request and its plan when it is to be begun: at once, where no greener moment lies before its deadline.

        It comes back early when its session was stopped meanwhile, which the caller of this looks at.
        """
        assert context.deferral is not None, "it is work that can wait"
        latest, spread = context.started_at + self._wait_seconds_max(context, plan), self._jitter() * _SPREAD_SECONDS
        opens = self._greenest_start(plan, latest, context.deferral.gain_share_min)
        if opens is None or self.waiting_requests >= WAITING_REQUESTS_MAX:
            self.counts["immediate" if opens is None else "queue_full"] += 1
            return context, plan
        self.counts["deferred"] += 1
        began, grams, called = context, plan.attempts[0].deployment.intensity.grams_per_kwh, False
        start = opens + spread
        self.waiting_requests += 1
        try:
            while not self._released and context.session.stop is None:
                # By the clock that nobody sets: a wall clock that goes back must not move the deadline.
                left = began.started_monotonic + (latest - began.started_at) - self._clock.monotonic()
                pause = min(start - self._clock.now(), left, _POLL_SECONDS)
                if pause <= 0:
                    break
                await self._clock.sleep(pause)
                if called or self._snapshot() is context.snapshot:
                    continue
                context = self.refresh_context(context, began, grams)
                found = replan(context, rehearsal=True)
                if isinstance(found, Plan):
                    latest = min(latest, began.started_at + self._wait_seconds_max(began, found))
                    # It waits already: any gain is worth waiting for.
                    opens = self._greenest_start(found, latest, 0.0)
                    called = opens is None
                    start = (self._clock.now() if opens is None else opens) + spread
                elif found.retry_after_seconds is None:
                    return context, found
        finally:
            self.waiting_requests -= 1
        context = self.refresh_context(context, began, grams)
        return context, plan if context.session.stop is not None else replan(context)

    def _wait_seconds_max(self, context: RequestContext, plan: Plan) -> float:
        """For how long it may wait, in seconds: until its deadline less what the call may take, and no longer than its session
        may run."""
        assert context.deferral is not None and context.deadline_ms is not None, "a deferral is a deadline"
        first, limit = plan.attempts[0], context.deadline_ms / 1000
        room = lead_seconds(self._router.expected_seconds(context, first), first.deployment.timeouts.total, limit)
        left = caps.seconds_left(
            context.snapshot.caps_for_key(context.caller.key), context.session, now=context.started_at
        )
        return min(limit, left) - room

    def _greenest_start(self, plan: Plan, latest: float, gain_min: float) -> float | None:
        """When the greenest moment begins; None for now."""
        return greenest_start(plan.attempts[0].deployment, now=self._clock.now(), latest=latest, gain_min=gain_min)

    def refresh_context(self, context: RequestContext, began: RequestContext, grams: float) -> RequestContext:
        """The request as it comes in now. `began` is what it was on arrival, `grams` the intensity it would have had then."""
        snapshot, now, monotonic = self._snapshot(), self._clock.now(), self._clock.monotonic()
        seconds, deadline = monotonic - began.started_monotonic, began.deadline_ms
        return structs.replace(
            context,
            snapshot=snapshot,
            route=snapshot.with_current_deployments(context.route),
            started_at=now,
            started_monotonic=monotonic,
            deadline_ms=max(1.0, deadline - seconds * 1000) if deadline is not None else None,
            deferred_wait=DeferredWait(seconds=seconds, undeferred_grams_per_kwh=grams),
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
