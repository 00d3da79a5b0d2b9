"""Reserve: holds an attempt on all of its budgets, or refuses the request.

Choosing and reserving are one step of the budget store: it receives the hold options of all attempts in order and takes
the first that fits. This file makes the options, waits while only holds of other calls are in the way or a budget has a
queue, and extends the holds of streams.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from msgspec import structs

from ..accounting import budget_refusal, token_estimate
from ..accounting.budget_lines import BudgetLineCache
from ..accounting.output_estimate import OutputEstimates
from ..routing import hold_offers
from ..routing.hold_offers import HoldInputs, UsualTokens
from ..sessions import caps
from ..values.base import Value
from ..values.budget import NO_LINES, ApplicableLines, BudgetExceeded, BudgetLine, HoldOption, Reservation, join_lines
from ..values.catalog import Deployment
from ..values.errors import Overloaded
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Attempt, Refusal
from .context import RequestContext
from .ports import BudgetStore, Clock

# A lease outlasts the longest call by this much: a caller may stall twice for a minute before it is dropped.
_LEASE_GRACE_SECONDS = 300.0
# How often a sub-agent's call checks whether another of its first calls was admitted.
_ADMISSION_POLL_SECONDS = 0.005
# Longest wait while only holds of other calls are in the way: short calls end within it, and no client times out.
HELD_WAIT_SECONDS = 1.0
# After that wait the caller is asked to retry in so many seconds, chosen at random so that callers do not return at once.
_RETRY_AFTER_SECONDS = (1, 2)
# A waiting request also asks unwoken, as windows end and other replicas settle: soon at first, then at longer intervals.
_POLL_SECONDS_MIN, _POLL_SECONDS_MAX = 0.05, 0.4
# Requests that may wait at the same time; each keeps its body in memory.
WAITING_REQUESTS_MAX = 1_000
# A stream extends its hold at this share of it, while what is in flight still fits.
_EXTEND_AT_SHARE = 0.75
# One or two chunks of a stream.
_SMALL_EXTENSION_TOKENS = 64
# Margin on a session's measured tokens per byte, which another script or an image may change.
_INPUT_MARGIN_FACTOR = 1.1


# (context, attempt number, attempt, reservation): writes the hold to the ledger. Raises Overloaded.
WriteHold = Callable[[RequestContext, int, Attempt, Reservation], None]


class ReservedAttempt(Value, frozen=True, kw_only=True):
    """An attempt with its reservation.

    plan_index: index of the attempt in the plan
    attempt: with the output limit and hold that its budgets allow
    stream_hold: the hold of a stream that may have to grow, None otherwise
    """

    plan_index: int
    attempt: Attempt
    reservation: Reservation
    stream_hold: "ExtendableHold | None"


class ExtendableHold:
    """The expected hold of a stream, extended ahead of its output."""

    def __init__(
        self,
        budgets: BudgetStore,
        clock: Clock,
        attempt: Attempt,
        inputs: HoldInputs,
        reservation: Reservation,
        held_tokens: int,
        write_hold: Callable[[Attempt], None],
    ) -> None:
        self._budgets, self._clock = budgets, clock
        self._attempt, self._hold_inputs, self._reservation = attempt, inputs, reservation
        self._held_tokens = held_tokens
        self._write_hold = write_hold
        self._read_bytes_max = self._read_tokens = self._checked_tokens = 0
        self._extensions = 0
        # After a refused extension: the output at which it is tried again. Then every read is checked.
        self._retry_at_tokens: int | None = None
        self.check_at_bytes = 0.0

    def suffices(self, text_totals: tuple[int, int], bytes_received: int, read_bytes: int) -> bool:
        """Whether the hold need not grow yet, by an estimate of text bytes and events; sets `check_at_bytes`."""
        output_tokens = token_estimate.output_tokens(*text_totals)
        # Output is sent before it is counted, so the hold has to cover the next read as well.
        if self._retry_at_tokens is None:
            self._read_bytes_max = max(self._read_bytes_max, read_bytes)
            self._read_tokens = output_tokens * self._read_bytes_max // bytes_received + 1
            # A token is at least four bytes of a stream.
            self.check_at_bytes = bytes_received + 4 * (self._held_tokens - output_tokens - self._read_tokens)
        else:
            self._read_tokens = max(self._read_tokens, output_tokens - self._checked_tokens)
            self._checked_tokens = output_tokens
        return self._tokens_left(output_tokens) > 0

    async def covers(self, output_tokens: int) -> bool:
        """Whether the stream may continue after `output_tokens`; may extend the hold."""
        if self._tokens_left(output_tokens) > 0:
            return True
        if self._retry_at_tokens is None or output_tokens >= self._retry_at_tokens:
            # Double it, so that a long answer extends seldom; where that does not fit, a little.
            for tokens in (max(self._held_tokens, output_tokens) * 2, self._held_tokens + _SMALL_EXTENSION_TOKENS):
                if await self._extend(min(tokens, self._attempt.output_tokens_max)):
                    self._retry_at_tokens = None
                    return True
            if self._retry_at_tokens is None:
                # From here on reads are measured, not estimated.
                self._read_tokens, self._checked_tokens, self.check_at_bytes = 0, output_tokens, 0.0
            # What other calls hold may be released meanwhile.
            self._retry_at_tokens = output_tokens + _SMALL_EXTENSION_TOKENS
        return output_tokens + self._read_tokens < self._held_tokens

    def _tokens_left(self, output_tokens: int) -> float:
        """Output tokens until the hold has to grow, or until that is tried again."""
        if self._held_tokens >= self._attempt.output_tokens_max:
            return math.inf
        if self._retry_at_tokens is None:
            return self._held_tokens * _EXTEND_AT_SHARE - output_tokens - self._read_tokens
        return min(self._retry_at_tokens - output_tokens, self._held_tokens - output_tokens - self._read_tokens)

    async def _extend(self, tokens: int) -> bool:
        more = hold_offers.hold_growth(
            self._attempt, self._hold_inputs, self._reservation.lines, self._held_tokens, tokens
        )
        self._extensions += 1
        if not await self._budgets.extend(self._reservation.id, self._extensions, more, now=self._clock.now()):
            return False
        self._held_tokens = tokens
        try:
            self._write_hold(
                hold_offers.with_usual_hold(self._attempt, self._hold_inputs, self._reservation.lines, tokens)
            )
        except Overloaded:
            # Without a record for crash recovery the hold must not grow.
            return False
        return True


class Reserver:
    """Reserves attempts. Keeps the budget lines and output estimates of this process."""

    def __init__(
        self,
        budgets: BudgetStore,
        clock: Clock,
        outputs: OutputEstimates,
        jitter: Callable[[], float],
        write_hold: WriteHold,
    ) -> None:
        self._budgets = budgets
        self._write_hold = write_hold
        self._clock = clock
        self._output_estimates = outputs
        self._jitter = jitter
        self._budget_lines = BudgetLineCache()
        self.waiting_requests = 0

    async def reserve(
        self, context: RequestContext, attempts: Sequence[Attempt], index: int, number: int
    ) -> ReservedAttempt | Refusal:
        """Hold the attempt at `index`, else the next cheaper one after it.

        Waits where a budget has a queue, and up to HELD_WAIT_SECONDS while only holds are in the way.
        """
        session = context.session
        if session.parent:
            # One of a sub-agent's first calls admits it to the tree; the others wait for the result.
            while session.is_joining_tree:
                await self._clock.sleep(_ADMISSION_POLL_SECONDS)
            if not session.is_counted_sub_agent:
                return await self._admit_sub_agent(context, attempts, index, number)
        return await self._reserve(context, attempts, index, number)

    async def _admit_sub_agent(
        self, context: RequestContext, attempts: Sequence[Attempt], index: int, number: int
    ) -> ReservedAttempt | Refusal:
        session = context.session
        session.is_joining_tree = True
        try:
            held = await self._reserve(context, attempts, index, number)
            session.is_counted_sub_agent = isinstance(held, ReservedAttempt)
        finally:
            session.is_joining_tree = False
        return held

    async def _reserve(
        self, context: RequestContext, attempts: Sequence[Attempt], index: int, number: int
    ) -> ReservedAttempt | Refusal:
        indices = hold_offers.cheaper_indices(attempts, index)
        offered = [attempts[index] for index in indices]
        lease = max([attempt.deployment.timeouts.total for attempt in offered]) + _LEASE_GRACE_SECONDS
        started, pause, may_wait = self._clock.monotonic(), _POLL_SECONDS_MIN, True
        inputs: HoldInputs | None = None

        def offers_at(now: float) -> Iterable[HoldOption]:
            nonlocal inputs
            inputs = self._hold_inputs(context, now, may_wait=may_wait)
            return hold_offers.hold_options(offered, inputs)

        while True:
            now = self._clock.now()
            reserved = await self._budgets.reserve(
                f"{context.request_id}.{number}", offers_at, tenant=context.caller.org, now=now, lease=lease
            )
            if isinstance(reserved, Reservation):
                assert inputs is not None, "a reservation is one of the options"
                return self._reserved_attempt(context, number, reserved, offered, indices, inputs)
            waited = self._clock.monotonic() - started
            seconds_left = _wait_seconds(reserved, now=now, waited=waited, may_queue=may_wait)
            if seconds_left > 0 and self.waiting_requests < WAITING_REQUESTS_MAX:
                await self._wait(context, reserved.line, started, min(pause, seconds_left), seconds_left)
                pause = min(pause * 1.5, _POLL_SECONDS_MAX)
            elif may_wait and _depends_on_waiting(offered, inputs):
                # Waiting is over, or does not help: now the span between the queue threshold and the limit is available,
                # and usual holds are reduced to what is left.
                may_wait = False
            else:
                retry_after = _RETRY_AFTER_SECONDS[self._jitter() >= 0.5]
                return budget_refusal.refusal(reserved, now, retry_after_seconds=retry_after, attempt=offered[-1])

    def record_usage(self, context: RequestContext, entry: LedgerEntry, body_bytes: int) -> None:
        """Record a completed call: output length, and tokens per byte of its session."""
        if entry.outcome != "completed" or entry.usage_basis != "exact" or entry.code not in ("", "escalated"):
            return
        self._output_estimates.observe(entry.task_type, entry.model, entry.output_tokens)
        session = context.session
        if body_bytes and entry.input_tokens:
            session.input_per_byte = entry.input_tokens / body_bytes
            session.cached_share = entry.cached_input_tokens / entry.input_tokens

    def _hold_inputs(self, context: RequestContext, now: float, *, may_wait: bool) -> HoldInputs:
        budgets, dimensions = context.snapshot.budgets_for_key(context.caller.key), _request_dimensions(context)
        session_lines = caps.cap_lines(
            context.snapshot.caps_for_key(context.caller.key), context.session, context.caller.key, now=now
        )

        def lines_at(deployment: Deployment) -> ApplicableLines:
            if context.is_lookup:
                return NO_LINES
            return join_lines(self._budget_lines.lines(budgets, dimensions, deployment, now=now), session_lines)

        known_usual: dict[str, UsualTokens] = {}

        def usual_at(deployment: Deployment) -> UsualTokens:
            usual = known_usual.get(deployment.name)
            if usual is None:
                usual = known_usual[deployment.name] = self._usual_usage(context, deployment)
            return usual

        return HoldInputs(
            request=context.request,
            features=context.features,
            budget_lines_at=lines_at,
            usual_tokens=usual_at,
            may_wait=may_wait,
        )

    def _usual_usage(self, context: RequestContext, deployment: Deployment) -> UsualTokens:
        """Usual tokens of such a call.

        Input by the session's measured tokens per byte, where known.
        """
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
        indices: Sequence[int],
        inputs: HoldInputs,
    ) -> ReservedAttempt:
        """The attempt of a reservation, with its reason, output limit and stream hold."""
        attempt = offered[reserved.option_index]
        if reserved.exceeded_budget and reserved.option_index:
            first = offered[0].deployment.name
            attempt = structs.replace(
                attempt, reason=f"{attempt.reason}, {reserved.exceeded_budget} has no capacity for {first}"
            )
        output = hold_offers.held_output_tokens(attempt, inputs, reserved.lines)
        if reserved.output_tokens is not None:
            if any(line.budget.thresholds.shrink_above is not None for line in reserved.lines):
                attempt = hold_offers.with_output_limit(
                    attempt, inputs, reserved.output_tokens, reserved.exceeded_budget
                )
                output = hold_offers.held_output_tokens(attempt, inputs, reserved.lines)
            else:
                output = reserved.output_tokens
                attempt = hold_offers.with_output_cutoff(attempt, inputs, output, reserved.exceeded_budget)
        stream_hold = None
        if output is not None:
            if inputs.request.stream and not inputs.request.is_background:
                # With the attempt's worst case, up to which the hold may grow.
                stream_hold = ExtendableHold(
                    self._budgets,
                    self._clock,
                    attempt,
                    inputs,
                    reserved,
                    output,
                    lambda extended: self._write_hold(context, number, extended, reserved),
                )
            attempt = hold_offers.with_usual_hold(attempt, inputs, reserved.lines, output)
        return ReservedAttempt(
            plan_index=indices[reserved.option_index], attempt=attempt, reservation=reserved, stream_hold=stream_hold
        )

    async def _wait(
        self, context: RequestContext, line: BudgetLine, since: float, seconds: float, seconds_max: float
    ) -> None:
        self.waiting_requests += 1
        try:
            await self._budgets.wait_for_release(
                line,
                tenant=context.caller.org,
                since=since,
                # At least a millisecond, so that a wait that has nearly ended does end.
                seconds=max(0.001, seconds * (0.75 + 0.5 * self._jitter())),
                seconds_max=max(0.001, seconds_max),
            )
        finally:
            self.waiting_requests -= 1


def _request_dimensions(context: RequestContext) -> tuple[str, ...]:
    """The values of REQUEST_DIMENSIONS."""
    caller = context.caller
    return (
        caller.org, caller.team, caller.key, context.user, context.session.root, context.classification.task_type,
        context.route.name,
    )  # fmt: skip


def _depends_on_waiting(offered: Iterable[Attempt], inputs: HoldInputs | None) -> bool:
    """Whether the offers change once a request may no longer wait."""
    return inputs is not None and not all(
        inputs.budget_lines_at(attempt.deployment).is_worst_case_only for attempt in offered
    )


def _wait_seconds(exceeded: BudgetExceeded, *, now: float, waited: float, may_queue: bool) -> float:
    """For how long a request that waited for `waited` seconds still waits.

    By its budget's queue where that may still make it wait, else while only holds of other calls are in the way.
    """
    thresholds = exceeded.line.budget.thresholds
    if may_queue and thresholds.queue_above is not None:
        seconds = thresholds.queue_seconds - waited
        return seconds if _may_fit_by(exceeded, now + seconds) else 0.0
    return HELD_WAIT_SECONDS - waited if exceeded.is_held else 0.0


def _may_fit_by(exceeded: BudgetExceeded, until: float) -> bool:
    """Whether capacity may come until then, seconds since the epoch."""
    line = exceeded.line
    limit = line.ceiling + exceeded.granted
    if exceeded.requested is None or exceeded.requested > limit:
        return False
    resets_in_time = line.resets_at is not None and line.resets_at <= until
    return resets_in_time or bool(line.bucket_seconds) or exceeded.spent + exceeded.requested <= limit
