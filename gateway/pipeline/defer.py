"""Work that can wait: when its call is begun, and the wait until then. The request stays open meanwhile and holds nothing of
any budget; when the moment has come it is planned anew, in the world as it is by then.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import structs

from ..routing.deferred_start import opening, room_seconds
from ..sessions import caps
from ..values.plan import Plan, Refusal
from ..values.snapshot import World
from .context import Decided, Waited
from .ports import Clock
from .reserve import WAITING_MAX
from .route import Navigator

# How often a waiting request looks whether it is time, or whether there is other news.
_LOOK_SECONDS = 5.0
# Those who wait for the same slot are dialled within so many seconds of its beginning, not all at once.
_SPREAD_SECONDS = 60.0


class Replan(Protocol):
    """Plans a request anew; a rehearsal is remembered by nobody."""

    def __call__(self, decided: Decided, *, rehearsal: bool = False) -> Plan | Refusal: ...


class Deferrer:
    """Lets requests of one process wait. `release` ends every wait: the gateway is going down."""

    def __init__(
        self, world: Callable[[], World], clock: Clock, navigator: Navigator, jitter: Callable[[], float]
    ) -> None:
        self._world = world
        self._clock = clock
        self._navigator = navigator
        self._jitter = jitter
        self._released = False
        self.waiting = 0
        # By what became of requests that could have waited.
        self.counts = {"deferred": 0, "at_once": 0, "no_room": 0}

    def release(self) -> None:
        """Nobody waits any longer."""
        self._released = True

    async def waited(self, decided: Decided, plan: Plan, replan: Replan) -> tuple[Decided, Plan | Refusal]:
        """The same request and its plan when it is to be begun: at once, where no greener moment lies before its deadline.

        It comes back early when its session was stopped meanwhile, which the caller of this looks at.
        """
        assert decided.deferral is not None, "it is work that can wait"
        latest, spread = decided.at + self._patience(decided, plan), self._jitter() * _SPREAD_SECONDS
        opens = self._opens(plan, latest, decided.deferral.gain_min)
        if opens is None or self.waiting >= WAITING_MAX:
            self.counts["at_once" if opens is None else "no_room"] += 1
            return decided, plan
        self.counts["deferred"] += 1
        began, grams, called = decided, plan.attempts[0].deployment.intensity.grams_per_kwh, False
        start = opens + spread
        self.waiting += 1
        try:
            while not self._released and decided.session.stop is None:
                # By the clock that nobody sets: a wall clock that goes back must not move the deadline.
                left = began.started + (latest - began.at) - self._clock.monotonic()
                pause = min(start - self._clock.now(), left, _LOOK_SECONDS)
                if pause <= 0:
                    break
                await self._clock.sleep(pause)
                if called or self._world() is decided.world:
                    continue
                decided = self.anew(decided, began, grams)
                found = replan(decided, rehearsal=True)
                if isinstance(found, Plan):
                    latest = min(latest, began.at + self._patience(began, found))
                    # It waits already: any gain is worth waiting for.
                    opens = self._opens(found, latest, 0.0)
                    called = opens is None
                    start = (self._clock.now() if opens is None else opens) + spread
                elif found.retry_after_seconds is None:
                    return decided, found
        finally:
            self.waiting -= 1
        decided = self.anew(decided, began, grams)
        return decided, plan if decided.session.stop is not None else replan(decided)

    def _patience(self, decided: Decided, plan: Plan) -> float:
        """For how long it may wait, in seconds: until its deadline less what the call may take, and no longer than its session
        may run."""
        assert decided.deferral is not None and decided.deadline_ms is not None, "a deferral is a deadline"
        first, limit = plan.attempts[0], decided.deadline_ms / 1000
        room = room_seconds(self._navigator.expected_seconds(decided, first), first.deployment.timeouts.total, limit)
        left = caps.seconds_left(decided.world.caps_of(decided.caller.key), decided.session, now=decided.at)
        return min(limit, left) - room

    def _opens(self, plan: Plan, latest: float, gain_min: float) -> float | None:
        """When the greenest moment begins; None for now."""
        return opening(plan.attempts[0].deployment, now=self._clock.now(), latest=latest, gain_min=gain_min)

    def anew(self, decided: Decided, began: Decided, grams: float) -> Decided:
        """The request as it comes in now. `began` is what it was on arrival, `grams` the intensity it would have had then."""
        world, now, monotonic = self._world(), self._clock.now(), self._clock.monotonic()
        seconds, deadline = monotonic - began.started, began.deadline_ms
        return structs.replace(
            decided,
            world=world,
            route=world.current(decided.route),
            at=now,
            started=monotonic,
            deadline_ms=max(1.0, deadline - seconds * 1000) if deadline is not None else None,
            waited=Waited(seconds=seconds, grams_per_kwh=grams),
        )

    def gauges(self) -> Iterator[tuple[str, str, list[str], list[tuple[list[str], float]]]]:
        """What is read when metrics are scraped."""
        yield "penstock_deferred_waiting", "Requests that wait for a greener hour.", [], [([], float(self.waiting))]
        counts = [([how], float(count)) for how, count in self.counts.items()]
        yield "penstock_deferrable", "Requests that could wait, by what became of them.", ["outcome"], counts
