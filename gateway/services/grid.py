"""What is known of grids and machines at this moment. All of it behind the requests: each finding publishes a world with what is
known now, and open calls keep theirs.

A feed that is down, slow, stale or lying changes no request's fate: its last good value serves until it is too old, then the
tables do, and figures say which.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

from ..carbon import footprint, intensity
from ..feeds.grid_reading import Feed, FeedError, Fetch
from ..feeds.intensity_electricity_maps import ElectricityMaps
from ..feeds.intensity_uk import UkIntensity
from ..feeds.intensity_watttime import WattTime
from ..feeds.poll_schedule import Inquiry, Schedule
from ..values.catalog import Deployment
from ..values.grid_feeds import Access
from ..values.snapshot import World
from .accelerators import Gauge, Machines, Measured
from .supervisor import Supervisor

log = logging.getLogger(__name__)

# To add a feed: a file like intensity_uk.py, a line here, its name in config/schema.py. The first that tells counts.
FEEDS: Mapping[str, Callable[[Access], Feed]] = {
    "electricity_maps": ElectricityMaps,
    "uk": UkIntensity,
    "watttime": WattTime,
}
# How often it is looked what is due; engines are asked so often, and meters read (windows of 5 to 15 s share out well: they are
# longer than most calls and shorter than a change of load).
_LOOK_SECONDS, _ENGINE_SECONDS, _METER_SECONDS = 1.0, 5.0, 10.0
# Questions under way at once.
_ASKING_MAX = 8


class Observatory:
    """What one process knows of the world outside it. `publish` hears of every new world; `now` is wall clock, `monotonic` a clock
    that nobody sets."""

    def __init__(
        self,
        world: Callable[[], World],
        publish: Callable[[World], None],
        fetch: Fetch,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._world = world
        self._publish = publish
        self._fetch = fetch
        self._now = now
        self._monotonic = monotonic
        # As the configuration has them, without what was found since.
        self._base = dict(world().deployments)
        self.machines = Machines(self._base, fetch, now, monotonic)
        feeds = world().feeds
        self._feeds = {name: FEEDS[name](access) for name, access in feeds.access.items()}
        inquiries = {
            Inquiry(name, zone)
            for one in self._base.values()
            for name, zone in one.feeds.items()
            if name in self._feeds
        }
        self._schedule = Schedule(frozenset(inquiries), feeds.refresh_seconds, jitter)
        self._asking = asyncio.Semaphore(_ASKING_MAX)

    def start(self, supervisor: Supervisor, measured: Measured) -> None:
        """Begin to look. What nobody asked for costs nothing."""
        machines = self.machines
        if self._feeds:
            supervisor.every(_LOOK_SECONDS, "grid-feeds", self.ask_feeds)
        if machines.has_engines:
            supervisor.every(_ENGINE_SECONDS, "engines", lambda: machines.ask_engines(self.tell))
        if machines.infers:
            supervisor.every(_ENGINE_SECONDS, "latencies", self._infer)
        if machines.has_meters:
            supervisor.every(_METER_SECONDS, "meters", lambda: machines.read_meters(measured, self.tell))

    def informed(self, fresh: World) -> World:
        """A world of the configuration with what is known now."""
        self._base = dict(fresh.deployments)
        return fresh.informed(self._changed(fresh))

    async def ask_feeds(self) -> None:
        """Ask what is due, all at once, and publish what has changed (also that something has become too old)."""
        self.tell()
        await asyncio.gather(*(self._ask(inquiry) for inquiry in self._schedule.due(self._monotonic())))

    async def _infer(self) -> None:
        self.tell()

    async def _ask(self, inquiry: Inquiry) -> None:
        try:
            async with self._asking:
                news = await self._feeds[inquiry.feed].news(self._fetch, inquiry.zone, self._now())
            if self._now() - news.at > self._world().feeds.age_seconds_max:
                raise FeedError("a value that is too old")
        except (FeedError, OSError, TimeoutError) as error:
            if self._schedule.failed(inquiry, str(error), now=self._monotonic()):
                log.warning("the feed %s says nothing of %s: %s", inquiry.feed, inquiry.zone, error)
            return
        if self._schedule.answered(inquiry, news, now=self._monotonic()):
            log.warning("the feed %s answers again for %s", inquiry.feed, inquiry.zone)
        self.tell()

    def tell(self) -> None:
        """Publish what has changed."""
        world = self._world()
        changed = self._changed(world)
        if changed:
            self._publish(world.informed(changed))

    def _changed(self, world: World) -> dict[str, Deployment]:
        """The deployments of which something else is known now than this world says."""
        now, age_max, found = self._now(), world.feeds.age_seconds_max, {}
        for name, one in world.deployments.items():
            if not (one.feeds or one.sensors.asked):
                continue
            news = [
                last
                for feed in FEEDS
                if feed in one.feeds and (last := self._schedule.last(feed, one.feeds[feed])) is not None
            ]
            grid = intensity.at_present(one.annual, news, now=now, age_max=age_max)
            profile = self.machines.profile(name, self._base[name].profile, one.profile)
            if grid != one.intensity or profile is not one.profile:
                found[name] = footprint.known(one, profile, grid)
        return found

    def gauges(self) -> Iterator[Gauge]:
        """What is read when metrics are scraped."""
        now, deployments = self._now(), self._world().deployments
        grids = [([name, one.intensity.zone, one.intensity.source], one.intensity) for name, one in deployments.items()]
        yield (
            "penstock_grid_intensity_grams_per_kwh",
            "Carbon intensity that figures are made with (location-based average).",
            ["deployment", "zone", "method"],
            [(labels, grid.grams_per_kwh) for labels, grid in grids],
        )
        yield (
            "penstock_grid_intensity_age_seconds",
            "Age of live intensities.",
            ["deployment", "zone", "method"],
            [(labels, now - grid.at) for labels, grid in grids if grid.at is not None],
        )
        feeds = [([*names], float(count)) for names, count in self._schedule.counts.items()]
        yield "penstock_feed_questions", "Questions to grid feeds, by outcome.", ["feed", "outcome"], feeds
        known = [
            ([name, one.profile.concurrency_source], one.profile.concurrency)
            for name, one in deployments.items()
            if one.profile is not None and one.profile.concurrency is not None
        ]
        yield "penstock_concurrency", "Sequences that a replica serves together.", ["deployment", "source"], known
        yield from self.machines.gauges()
