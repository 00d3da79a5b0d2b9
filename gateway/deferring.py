"""Work that can wait: when its call is begun, and the wait until then. The request stays open meanwhile and holds nothing of
any budget; when the moment has come it is planned anew, in the world as it is by then.
"""

from collections.abc import Callable, Iterator

from msgspec import structs

from .holding import WAITING_MAX, Clock
from .navigator import Navigator
from .routing.deferral import latest_start, opening
from .settlement import Decided, Waited
from .values.plan import Plan, Refusal
from .values.world import World

# How often a waiting request looks whether it is time, or whether there is other news.
_LOOK_SECONDS = 5.0

Replan = Callable[[Decided], Plan | Refusal]


class Deferrer:
    """Lets requests of one process wait. `release` ends every wait: the gateway is going down."""

    def __init__(self, world: Callable[[], World], clock: Clock, navigator: Navigator) -> None:
        self._world = world
        self._clock = clock
        self._navigator = navigator
        self._released = False
        self.waiting = 0
        # By what became of requests that could have waited.
        self.counts = {"deferred": 0, "at_once": 0, "no_room": 0}

    def release(self) -> None:
        """Nobody waits any longer."""
        self._released = True

    async def waited(self, decided: Decided, plan: Plan, replan: Replan) -> tuple[Decided, Plan | Refusal]:
        """The same request and its plan when it is to be begun: at once, where no greener moment lies before its deadline."""
        assert decided.deferral is not None, "it is work that can wait"
        arrived, grams = decided.at, plan.attempts[0].deployment.intensity.grams_per_kwh
        latest = latest_start(self._deadline(decided), self._navigator.expected_seconds(decided, plan.attempts[0]))
        start = self._start(decided, plan, latest, decided.deferral.gain_min)
        if start is None:
            self.counts["at_once"] += 1
            return decided, plan
        if self.waiting >= WAITING_MAX:
            self.counts["no_room"] += 1
            return decided, plan
        self.waiting += 1
        self.counts["deferred"] += 1
        try:
            while start is not None and not self._released and (now := self._clock.now()) < start:
                await self._clock.sleep(min(start - now, _LOOK_SECONDS))
                if self._world() is not decided.world:
                    decided = self._anew(decided, arrived, grams)
                    found = replan(decided)
                    if isinstance(found, Refusal):
                        return decided, found
                    plan = found
                    # It waits already: any gain is worth waiting for. The deadline was worked out without any forecast.
                    start = self._start(decided, plan, latest, 0.0)
        finally:
            self.waiting -= 1
        decided = self._anew(decided, arrived, grams)
        return decided, replan(decided)

    def _deadline(self, decided: Decided) -> float:
        assert decided.deferral is not None
        deadline = decided.at + decided.deferral.seconds
        if decided.deadline_ms is not None:
            deadline = min(deadline, decided.at + decided.deadline_ms / 1000)
        return deadline

    def _start(self, decided: Decided, plan: Plan, latest: float, gain_min: float) -> float | None:
        """When it is to be begun; None for now."""
        first = plan.attempts[0].deployment
        equals = [one.deployment for one in plan.attempts if one.deployment.tier == first.tier]
        found = opening(equals, now=self._clock.now(), latest=latest, gain_min=gain_min)
        return found.start if found is not None else None

    def _anew(self, decided: Decided, arrived: float, grams: float) -> Decided:
        """The request as it comes in now."""
        world, now = self._world(), self._clock.now()
        waited = Waited(seconds=now - arrived, grams_per_kwh=grams)
        deadline = decided.deadline_ms
        return structs.replace(
            decided,
            world=world,
            route=world.routes.get(decided.route.name, decided.route),
            at=now,
            started=self._clock.monotonic(),
            deadline_ms=max(1.0, deadline - (now - decided.at) * 1000) if deadline is not None else None,
            waited=waited,
        )

    def gauges(self) -> Iterator[tuple[str, str, list[str], list[tuple[list[str], float]]]]:
        """What is read when metrics are scraped."""
        yield "penstock_deferred_waiting", "Requests that wait for a greener hour.", [], [([], float(self.waiting))]
        counts = [([how], float(count)) for how, count in self.counts.items()]
        yield "penstock_deferrable", "Requests that could wait, by what became of them.", ["outcome"], counts
