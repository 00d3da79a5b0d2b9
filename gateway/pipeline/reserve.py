"""Holds: what is set aside before an attempt is dialled, how long a request waits for room, and what grows meanwhile.

Choosing and reserving are one step of the store: it gets every attempt that may serve, in order, and takes the first
that fits. What is decided here is what it is offered, and what the attempt becomes by what was taken.
"""

from collections.abc import Callable, Iterable, Sequence

from msgspec import structs

from ..accounting import budget_refusal
from ..accounting.budget_lines import BudgetLineCache
from ..accounting.output_estimate import OutputEstimates
from ..routing import hold_offers
from ..routing.hold_offers import HoldInputs, UsualTokens
from ..sessions import caps
from ..values.base import Value
from ..values.budget import ApplicableLines, BudgetExceeded, HoldOption, Reservation, join_lines
from ..values.catalog import Deployment
from ..values.errors import Overloaded
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Attempt, Refusal
from .context import RequestContext
from .ports import BudgetStore, Clock

# A lease outlives the longest call by this much: a caller may stall twice a minute before it is given up.
_LEASE_GRACE_SECONDS = 300.0
# How often a sub-agent's call looks whether another of its first calls was let in.
_ADMISSION_POLL_SECONDS = 0.005
# Between two looks whether there is room: short first, then so long.
_POLL_SECONDS_MIN, _POLL_SECONDS_MAX = 0.02, 0.25
# Requests that may wait for room at once; each keeps its body in memory.
WAITING_REQUESTS_MAX = 1_000
# A stream asks for more when it has used this much of what is held, while what is in flight still fits.
_EXTEND_AT_SHARE = 0.75
# A chunk or two of a stream.
_SMALL_EXTENSION_TOKENS = 64
# Where a session's own measure of its input is trusted, it may be so much off (a turn in another script, a picture).
_INPUT_MARGIN_FACTOR = 1.1


# Writes down that the hold of a call's n-th attempt is now the attempt's. Raises Overloaded.
WriteHold = Callable[[RequestContext, int, Attempt, Reservation], None]


class ReservedAttempt(Value, frozen=True, kw_only=True):
    """What was taken: the place in the plan, the attempt as its budgets left it, and who watches it grow."""

    plan_index: int
    attempt: Attempt
    reservation: Reservation
    stream_hold: "ExtendableHold | None"


class ExtendableHold:
    """Follows a stream whose hold is what such calls usually take: extends it in time, or says that it must end."""

    def __init__(
        self,
        budgets: BudgetStore,
        clock: Clock,
        attempt: Attempt,
        scene: HoldInputs,
        reservation: Reservation,
        held: int,
        journal: Callable[[Attempt], None],
    ) -> None:
        self._budgets, self._clock = budgets, clock
        self._attempt, self._offer_inputs, self._reservation = attempt, scene, reservation
        self._held_tokens = held
        self._write_hold = journal
        self._output_tokens = self._read_tokens_max = 0
        self._extensions = 0
        self.extension_refused = False

    async def covers(self, output_tokens: int) -> bool:
        """Whether the stream may go on after so many output tokens; holds more where it is needed."""
        # What one read of the stream brings has been sent before it is counted: the hold has to cover the next one.
        self._read_tokens_max = max(self._read_tokens_max, output_tokens - self._output_tokens)
        self._output_tokens = output_tokens
        if (
            output_tokens + self._read_tokens_max < self._held_tokens * _EXTEND_AT_SHARE
            or self._held_tokens >= self._attempt.output_tokens_max
        ):
            return True
        # Much more, so that a long answer asks seldom; where there is no room for that, a little more.
        for wider in (max(self._held_tokens, output_tokens) * 2, self._held_tokens + _SMALL_EXTENSION_TOKENS):
            if not self.extension_refused and await self._extend(min(wider, self._attempt.output_tokens_max)):
                return True
        self.extension_refused = True
        return output_tokens + self._read_tokens_max < self._held_tokens

    async def _extend(self, wider: int) -> bool:
        more = hold_offers.hold_growth(
            self._attempt, self._offer_inputs, self._reservation.lines, self._held_tokens, wider
        )
        self._extensions += 1
        if not await self._budgets.extend(self._reservation.id, self._extensions, more, now=self._clock.now()):
            return False
        self._held_tokens = wider
        try:
            self._write_hold(
                hold_offers.with_usual_hold(self._attempt, self._offer_inputs, self._reservation.lines, wider)
            )
        except Overloaded:
            # What a crash would leave behind cannot be written down: no more of it.
            return False
        return True


class Reserver:
    """Takes the holds of one process. Keeps the lines of its callers, and how long answers usually are."""

    def __init__(
        self,
        budgets: BudgetStore,
        clock: Clock,
        outputs: OutputEstimates,
        jitter: Callable[[], float],
        journal: WriteHold,
    ) -> None:
        self._budgets = budgets
        self._write_hold = journal
        self._clock = clock
        self._output_estimates = outputs
        self._jitter = jitter
        self._budget_lines = BudgetLineCache()
        self.waiting_requests = 0

    async def reserve(
        self, context: RequestContext, attempts: Sequence[Attempt], place: int, number: int
    ) -> ReservedAttempt | Refusal:
        """Hold the attempt at `place`, else the next one after it that takes less; waits where a budget says so."""
        session = context.session
        if session.parent:
            # Of the first calls of a sub-agent one is counted as its coming; the others wait to see whether it may come.
            while session.is_joining_tree:
                await self._clock.sleep(_ADMISSION_POLL_SECONDS)
            if not session.is_counted_sub_agent:
                return await self._admit_sub_agent(context, attempts, place, number)
        return await self._reserve(context, attempts, place, number)

    async def _admit_sub_agent(
        self, context: RequestContext, attempts: Sequence[Attempt], place: int, number: int
    ) -> ReservedAttempt | Refusal:
        session = context.session
        session.is_joining_tree = True
        try:
            held = await self._reserve(context, attempts, place, number)
            session.is_counted_sub_agent = isinstance(held, ReservedAttempt)
        finally:
            session.is_joining_tree = False
        return held

    async def _reserve(
        self, context: RequestContext, attempts: Sequence[Attempt], place: int, number: int
    ) -> ReservedAttempt | Refusal:
        places = hold_offers.cheaper_places(attempts, place)
        offered = [attempts[at] for at in places]
        lease = max([attempt.deployment.timeouts.total for attempt in offered]) + _LEASE_GRACE_SECONDS
        began, pause, waiting = self._clock.now(), _POLL_SECONDS_MIN, True
        scene: HoldInputs | None = None

        def offers_at(at: float) -> Iterable[HoldOption]:
            nonlocal scene
            scene = self._offer_inputs(context, at, waiting=waiting)
            return hold_offers.offers(offered, scene)

        while True:
            now = self._clock.now()
            reserved = await self._budgets.reserve(
                f"{context.request_id}.{number}", offers_at, tenant=context.caller.org, now=now, lease=lease
            )
            if isinstance(reserved, Reservation):
                assert scene is not None, "what was reserved was offered"
                return self._reserved_attempt(context, number, reserved, offered, places, scene)
            until = began + reserved.line.budget.thresholds.queue_seconds
            if waiting and self.waiting_requests < WAITING_REQUESTS_MAX and _may_fit_by(reserved, now=now, until=until):
                await self._wait(min(pause, max(until - now, 0.001)))
                pause = min(pause * 1.5, _POLL_SECONDS_MAX)
            elif waiting and context.snapshot.has_queueing_budget:
                # The time is over, or another budget is in the way: what lies between a queue's mark and its limit may be
                # used now.
                waiting = False
            else:
                return budget_refusal.refusal(reserved, now)

    def record_usage(self, context: RequestContext, entry: LedgerEntry, body_bytes: int) -> None:
        """An answer that ended by itself: how long it was, and how its session's input is counted."""
        if entry.outcome != "completed" or entry.usage_basis != "exact" or entry.code not in ("", "escalated"):
            return
        self._output_estimates.observe(entry.task_type, entry.model, entry.output_tokens)
        session = context.session
        if body_bytes and entry.input_tokens:
            session.input_per_byte = entry.input_tokens / body_bytes
            session.cached_share = entry.cached_input_tokens / entry.input_tokens

    def _offer_inputs(self, context: RequestContext, now: float, *, waiting: bool) -> HoldInputs:
        budgets, who = context.snapshot.budgets_for_key(context.caller.key), _request_dimensions(context)
        capped = caps.cap_lines(
            context.snapshot.caps_for_key(context.caller.key), context.session, context.caller.key, now=now
        )

        def lines_at(deployment: Deployment) -> ApplicableLines:
            return join_lines(self._budget_lines.lines(budgets, who, deployment, now=now), capped)

        def usual(deployment: Deployment) -> UsualTokens:
            return self._usual_usage(context, deployment)

        return HoldInputs(
            request=context.request,
            facts=context.features,
            budget_lines_at=lines_at,
            usual_tokens=usual,
            may_queue=waiting,
        )

    def _usual_usage(self, context: RequestContext, deployment: Deployment) -> UsualTokens:
        """What such a call usually takes there: the session's own measure of its input where there is one."""
        session, request = context.session, context.request
        input_tokens = context.features.input_tokens
        if session.input_per_byte:
            input_tokens = round(len(request.body) * session.input_per_byte * _INPUT_MARGIN_FACTOR)
        return UsualTokens(
            input=input_tokens,
            cached_input=int(input_tokens * session.cached_share / _INPUT_MARGIN_FACTOR),
            output=self._output_estimates.expected_tokens(context.classification.task_type, deployment.model)
            * request.choice_count,
        )

    def _reserved_attempt(
        self,
        context: RequestContext,
        number: int,
        reserved: Reservation,
        offered: Sequence[Attempt],
        places: Sequence[int],
        scene: HoldInputs,
    ) -> ReservedAttempt:
        attempt = offered[reserved.option_index]
        if reserved.exceeded_budget and reserved.option_index:
            # Which attempt the budget had no room for is what the reason has to say.
            first = offered[0].deployment.name
            attempt = structs.replace(
                attempt, reason=f"{attempt.reason}, {reserved.exceeded_budget} has no room for {first}"
            )
        output = hold_offers.held_output_tokens(attempt, scene, reserved.lines)
        if reserved.output_tokens is not None:
            if any(line.budget.thresholds.shrink_above is not None for line in reserved.lines):
                attempt = hold_offers.with_output_limit(
                    attempt, scene, reserved.output_tokens, reserved.exceeded_budget
                )
                output = hold_offers.held_output_tokens(attempt, scene, reserved.lines)
            else:
                output = reserved.output_tokens
                attempt = hold_offers.with_output_cutoff(attempt, scene, output, reserved.exceeded_budget)
        watch = None
        if output is not None:
            if scene.request.stream:
                # With the attempt's worst case, up to which its hold may grow.
                watch = ExtendableHold(
                    self._budgets,
                    self._clock,
                    attempt,
                    scene,
                    reserved,
                    output,
                    lambda grown: self._write_hold(context, number, grown, reserved),
                )
            attempt = hold_offers.with_usual_hold(attempt, scene, reserved.lines, output)
        return ReservedAttempt(
            plan_index=places[reserved.option_index], attempt=attempt, reservation=reserved, stream_hold=watch
        )

    async def _wait(self, seconds: float) -> None:
        self.waiting_requests += 1
        try:
            await self._clock.sleep(seconds * (0.75 + 0.5 * self._jitter()))
        finally:
            self.waiting_requests -= 1


def _request_dimensions(context: RequestContext) -> tuple[str, ...]:
    """The values of REQUEST_DIMENSIONS."""
    caller = context.caller
    return (
        caller.org, caller.team, caller.key, context.user, context.session.root, context.classification.task_type,
        context.route.name,
    )  # fmt: skip


def _may_fit_by(exceeded: BudgetExceeded, *, now: float, until: float) -> bool:
    """Whether waiting can help: the line has a queue, time is left, and something may go before it is over."""
    line = exceeded.line
    room = line.ceiling + exceeded.granted
    if (
        line.budget.thresholds.queue_above is None
        or now >= until
        or exceeded.requested is None
        or exceeded.requested > room
    ):
        return False
    starts_again = line.resets_at is not None and line.resets_at <= until
    return starts_again or bool(line.bucket_seconds) or exceeded.spent + exceeded.requested <= room
