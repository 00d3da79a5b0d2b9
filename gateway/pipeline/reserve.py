"""Holds: what is set aside before an attempt is dialled, how long a request waits for room, and what grows meanwhile.

Choosing and reserving are one step of the store: it gets every attempt that may serve, in order, and takes the first
that fits. What is decided here is what it is offered, and what the attempt becomes by what was taken.
"""

from collections.abc import Callable, Iterable, Sequence

from msgspec import structs

from ..accounting import budget_refusal
from ..accounting.budget_lines import LineBook
from ..accounting.output_estimate import OutputBook
from ..routing import hold_offers
from ..routing.hold_offers import Scene, Usual
from ..sessions import caps
from ..values.base import Value
from ..values.budget import Exceeded, Met, Offer, Reservation, joined
from ..values.catalog import Deployment
from ..values.errors import Overloaded
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Attempt, Refusal
from .context import Decided
from .ports import Budgets, Clock

# A lease outlives the longest call by this much: a caller may stall twice a minute before it is given up.
_LEASE_GRACE_SECONDS = 300.0
# How often a sub-agent's call looks whether another of its first calls was let in.
_JOINING_SECONDS = 0.005
# Between two looks whether there is room: short first, then so long.
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.02, 0.25
# Requests that may wait for room at once; each keeps its body in memory.
WAITING_MAX = 1_000
# A stream asks for more when it has used this much of what is held, while what is in flight still fits.
_GROWS_AT = 0.75
# A chunk or two of a stream.
_LITTLE_MORE_TOKENS = 64
# Where a session's own measure of its input is trusted, it may be so much off (a turn in another script, a picture).
_INPUT_MARGIN = 1.1


# Writes down that the hold of a call's n-th attempt is now the attempt's. Raises Overloaded.
JournalHold = Callable[[Decided, int, Attempt, Reservation], None]


class Held(Value, frozen=True, kw_only=True):
    """What was taken: the place in the plan, the attempt as its budgets left it, and who watches it grow."""

    place: int
    attempt: Attempt
    reservation: Reservation
    watch: "Watch | None"


class Watch:
    """Follows a stream whose hold is what such calls usually take: extends it in time, or says that it must end."""

    def __init__(
        self,
        budgets: Budgets,
        clock: Clock,
        attempt: Attempt,
        scene: Scene,
        reservation: Reservation,
        held: int,
        journal: Callable[[Attempt], None],
    ) -> None:
        self._budgets, self._clock = budgets, clock
        self._attempt, self._scene, self._reservation = attempt, scene, reservation
        self._held = held
        self._journal = journal
        self._seen = self._read = 0
        self._extensions = 0
        self.refused = False

    async def covers(self, output_tokens: int) -> bool:
        """Whether the stream may go on after so many output tokens; holds more where it is needed."""
        # What one read of the stream brings has been sent before it is counted: the hold has to cover the next one.
        self._read = max(self._read, output_tokens - self._seen)
        self._seen = output_tokens
        if output_tokens + self._read < self._held * _GROWS_AT or self._held >= self._attempt.output_tokens_max:
            return True
        # Much more, so that a long answer asks seldom; where there is no room for that, a little more.
        for wider in (max(self._held, output_tokens) * 2, self._held + _LITTLE_MORE_TOKENS):
            if not self.refused and await self._extended(min(wider, self._attempt.output_tokens_max)):
                return True
        self.refused = True
        return output_tokens + self._read < self._held

    async def _extended(self, wider: int) -> bool:
        more = hold_offers.growth(self._attempt, self._scene, self._reservation.lines, self._held, wider)
        self._extensions += 1
        if not await self._budgets.extend(self._reservation.id, self._extensions, more, now=self._clock.now()):
            return False
        self._held = wider
        try:
            self._journal(hold_offers.at_usual(self._attempt, self._scene, self._reservation.lines, wider))
        except Overloaded:
            # What a crash would leave behind cannot be written down: no more of it.
            return False
        return True


class Holder:
    """Takes the holds of one process. Keeps the lines of its callers, and how long answers usually are."""

    def __init__(
        self, budgets: Budgets, clock: Clock, outputs: OutputBook, jitter: Callable[[], float], journal: JournalHold
    ) -> None:
        self._budgets = budgets
        self._journal = journal
        self._clock = clock
        self._outputs = outputs
        self._jitter = jitter
        self._lines = LineBook()
        self.waiting = 0

    async def hold(self, decided: Decided, attempts: Sequence[Attempt], place: int, number: int) -> Held | Refusal:
        """Hold the attempt at `place`, else the next one after it that takes less; waits where a budget says so."""
        session = decided.session
        if session.parent:
            # Of the first calls of a sub-agent one is counted as its coming; the others wait to see whether it may come.
            while session.joining:
                await self._clock.sleep(_JOINING_SECONDS)
            if not session.admitted:
                return await self._let_in(decided, attempts, place, number)
        return await self._hold(decided, attempts, place, number)

    async def _let_in(self, decided: Decided, attempts: Sequence[Attempt], place: int, number: int) -> Held | Refusal:
        session = decided.session
        session.joining = True
        try:
            held = await self._hold(decided, attempts, place, number)
            session.admitted = isinstance(held, Held)
        finally:
            session.joining = False
        return held

    async def _hold(self, decided: Decided, attempts: Sequence[Attempt], place: int, number: int) -> Held | Refusal:
        places = hold_offers.affordable(attempts, place)
        offered = [attempts[at] for at in places]
        lease = max([attempt.deployment.timeouts.total for attempt in offered]) + _LEASE_GRACE_SECONDS
        began, pause, waiting = self._clock.now(), _PAUSE_SECONDS, True
        scene: Scene | None = None

        def offers_at(at: float) -> Iterable[Offer]:
            nonlocal scene
            scene = self._scene(decided, at, waiting=waiting)
            return hold_offers.offers(offered, scene)

        while True:
            now = self._clock.now()
            reserved = await self._budgets.reserve(
                f"{decided.request_id}.{number}", offers_at, tenant=decided.caller.org, now=now, lease=lease
            )
            if isinstance(reserved, Reservation):
                assert scene is not None, "what was reserved was offered"
                return self._held(decided, number, reserved, offered, places, scene)
            until = began + reserved.line.budget.stages.queue_seconds
            if waiting and self.waiting < WAITING_MAX and _may_fit_by(reserved, now=now, until=until):
                await self._wait(min(pause, max(until - now, 0.001)))
                pause = min(pause * 1.5, _PAUSE_SECONDS_MAX)
            elif waiting and decided.world.queues:
                # The time is over, or another budget is in the way: what lies between a queue's mark and its limit may be
                # used now.
                waiting = False
            else:
                return budget_refusal.refusal(reserved, now)

    def learn(self, decided: Decided, entry: LedgerEntry, body_bytes: int) -> None:
        """An answer that ended by itself: how long it was, and how its session's input is counted."""
        if entry.outcome != "completed" or entry.usage_basis != "exact" or entry.code not in ("", "escalated"):
            return
        self._outputs.learn(entry.task_type, entry.model, entry.output_tokens)
        session = decided.session
        if body_bytes and entry.input_tokens:
            session.input_per_byte = entry.input_tokens / body_bytes
            session.cached_share = entry.cached_input_tokens / entry.input_tokens

    def _scene(self, decided: Decided, now: float, *, waiting: bool) -> Scene:
        budgets, who = decided.world.budgets_of(decided.caller.key), _who(decided)
        capped = caps.lines_of(decided.world.caps_of(decided.caller.key), decided.session, decided.caller.key, now=now)

        def lines_at(deployment: Deployment) -> Met:
            return joined(self._lines.of(budgets, who, deployment, now=now), capped)

        def usual(deployment: Deployment) -> Usual:
            return self._usual(decided, deployment)

        return Scene(request=decided.request, facts=decided.facts, lines_at=lines_at, usual=usual, waiting=waiting)

    def _usual(self, decided: Decided, deployment: Deployment) -> Usual:
        """What such a call usually takes there: the session's own measure of its input where there is one."""
        session, request = decided.session, decided.request
        input_tokens = decided.facts.input_tokens
        if session.input_per_byte:
            input_tokens = round(len(request.body) * session.input_per_byte * _INPUT_MARGIN)
        return Usual(
            input=input_tokens,
            cached_input=int(input_tokens * session.cached_share / _INPUT_MARGIN),
            output=self._outputs.expected(decided.verdict.task_type, deployment.model) * request.choices,
        )

    def _held(
        self,
        decided: Decided,
        number: int,
        reserved: Reservation,
        offered: Sequence[Attempt],
        places: Sequence[int],
        scene: Scene,
    ) -> Held:
        attempt = offered[reserved.choice]
        if reserved.passed_over and reserved.choice:
            # Which attempt the budget had no room for is what the reason has to say.
            first = offered[0].deployment.name
            attempt = structs.replace(
                attempt, reason=f"{attempt.reason}, {reserved.passed_over} has no room for {first}"
            )
        output = hold_offers.output_held(attempt, scene, reserved.lines)
        if reserved.output_tokens is not None:
            if any(line.budget.stages.shrink is not None for line in reserved.lines):
                attempt = hold_offers.shrunk(attempt, scene, reserved.output_tokens, reserved.passed_over)
                output = hold_offers.output_held(attempt, scene, reserved.lines)
            else:
                output = reserved.output_tokens
                attempt = hold_offers.ends_at(attempt, scene, output, reserved.passed_over)
        watch = None
        if output is not None:
            if scene.request.stream:
                # With the attempt's worst case, up to which its hold may grow.
                watch = Watch(
                    self._budgets,
                    self._clock,
                    attempt,
                    scene,
                    reserved,
                    output,
                    lambda grown: self._journal(decided, number, grown, reserved),
                )
            attempt = hold_offers.at_usual(attempt, scene, reserved.lines, output)
        return Held(place=places[reserved.choice], attempt=attempt, reservation=reserved, watch=watch)

    async def _wait(self, seconds: float) -> None:
        self.waiting += 1
        try:
            await self._clock.sleep(seconds * (0.75 + 0.5 * self._jitter()))
        finally:
            self.waiting -= 1


def _who(decided: Decided) -> tuple[str, ...]:
    """The values of REQUEST_DIMENSIONS."""
    caller = decided.caller
    return (
        caller.org, caller.team, caller.key, decided.user, decided.session.root, decided.verdict.task_type,
        decided.route.name,
    )  # fmt: skip


def _may_fit_by(exceeded: Exceeded, *, now: float, until: float) -> bool:
    """Whether waiting can help: the line has a queue, time is left, and something may go before it is over."""
    line = exceeded.line
    room = line.ceiling + exceeded.extra
    if line.budget.stages.queue is None or now >= until or exceeded.wanted is None or exceeded.wanted > room:
        return False
    starts_again = line.resets_at is not None and line.resets_at <= until
    return starts_again or bool(line.bucket_seconds) or exceeded.spent + exceeded.wanted <= room
