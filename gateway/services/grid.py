"""What is known of grids and machines at this moment. All of it behind the requests: each finding publishes a world with what is
known now, and open calls keep theirs.

A feed that is down, slow, stale or lying changes no request's fate: its last good value serves until it is too old, then the
tables do, and figures say which.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

from ..carbon import footprint, intensity
from ..feeds.grid_reading import FeedError, Fetch, GridFeed
from ..feeds.intensity_electricity_maps import ElectricityMaps
from ..feeds.intensity_uk import UkIntensity
from ..feeds.intensity_watttime import WattTime
from ..feeds.poll_schedule import PollSchedule, PollTarget
from ..values.catalog import Deployment
from ..values.grid_feeds import FeedAccess
from ..values.metric import MetricFamily, counter, gauge
from ..values.snapshot import Snapshot
from .accelerators import Accelerators, MeteredEnergyStore
from .supervisor import Supervisor

log = logging.getLogger(__name__)

# To add a feed: a file like intensity_uk.py, a line here, its name in config/schema.py. The first that tells counts.
FEEDS: Mapping[str, Callable[[FeedAccess], GridFeed]] = {
    "electricity_maps": ElectricityMaps,
    "uk": UkIntensity,
    "watttime": WattTime,
}
# How often it is looked what is due; engines are asked so often, and meters read (windows of 5 to 15 s share out well: they are
# longer than most calls and shorter than a change of load).
_POLL_SECONDS, _ENGINE_POLL_SECONDS, _METER_POLL_SECONDS = 1.0, 5.0, 10.0
# Questions under way at once.
_CONCURRENT_POLLS_MAX = 8


class GridService:
    """What one process knows of the world outside it. `publish` hears of every new world; `now` is wall clock, `monotonic` a clock
    that nobody sets."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        publish: Callable[[Snapshot], None],
        fetch: Fetch,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._snapshot = snapshot
        self._publish = publish
        self._fetch = fetch
        self._now = now
        self._monotonic = monotonic
        # As the configuration has them, without what was found since.
        self._configured_deployments = dict(snapshot().deployments)
        self.accelerators = Accelerators(self._configured_deployments, fetch, now, monotonic)
        feeds = snapshot().grid_feeds
        self._feeds = {name: FEEDS[name](access) for name, access in feeds.access_by_feed.items()}
        inquiries = {
            PollTarget(name, zone)
            for one in self._configured_deployments.values()
            for name, zone in one.zone_by_feed.items()
            if name in self._feeds
        }
        self._poll_schedule = PollSchedule(frozenset(inquiries), feeds.refresh_seconds, jitter)
        self._poll_slots = asyncio.Semaphore(_CONCURRENT_POLLS_MAX)

    def start(self, supervisor: Supervisor, measured: MeteredEnergyStore) -> None:
        """Begin to look. What nobody asked for costs nothing."""
        accelerators = self.accelerators
        if self._feeds:
            supervisor.run_every(_POLL_SECONDS, "grid-feeds", self.poll_feeds)
        if accelerators.has_engines:
            supervisor.run_every(
                _ENGINE_POLL_SECONDS, "engines", lambda: accelerators.poll_engines(self.publish_changes)
            )
        if accelerators.infers_concurrency:
            supervisor.run_every(_ENGINE_POLL_SECONDS, "latencies", self._publish_inferred)
        if accelerators.has_meters:
            supervisor.run_every(
                _METER_POLL_SECONDS, "meters", lambda: accelerators.read_meters(measured, self.publish_changes)
            )

    def with_live_data(self, fresh: Snapshot) -> Snapshot:
        """A world of the configuration with what is known now."""
        self._configured_deployments = dict(fresh.deployments)
        return fresh.with_deployments(self._changed_deployments(fresh))

    async def poll_feeds(self) -> None:
        """Ask what is due, all at once, and publish what has changed (also that something has become too old)."""
        self.publish_changes()
        await asyncio.gather(*(self._poll_feed(inquiry) for inquiry in self._poll_schedule.due(self._monotonic())))

    async def _publish_inferred(self) -> None:
        self.publish_changes()

    async def _poll_feed(self, inquiry: PollTarget) -> None:
        try:
            async with self._poll_slots:
                reading = await self._feeds[inquiry.feed].fetch_reading(self._fetch, inquiry.zone, self._now())
            if self._now() - reading.read_at > self._snapshot().grid_feeds.reading_age_seconds_max:
                raise FeedError("a value that is too old")
        except (FeedError, OSError, TimeoutError) as error:
            if self._poll_schedule.record_failure(inquiry, str(error), now=self._monotonic()):
                log.warning("the feed %s says nothing of %s: %s", inquiry.feed, inquiry.zone, error)
            return
        if self._poll_schedule.record_reading(inquiry, reading, now=self._monotonic()):
            log.warning("the feed %s answers again for %s", inquiry.feed, inquiry.zone)
        self.publish_changes()

    def publish_changes(self) -> None:
        """Publish what has changed."""
        snapshot = self._snapshot()
        changed = self._changed_deployments(snapshot)
        if changed:
            self._publish(snapshot.with_deployments(changed))

    def _changed_deployments(self, snapshot: Snapshot) -> dict[str, Deployment]:
        """The deployments of which something else is known now than this world says."""
        now, age_max, found = self._now(), snapshot.grid_feeds.reading_age_seconds_max, {}
        for name, one in snapshot.deployments.items():
            if not (one.zone_by_feed or one.sensors.is_polled):
                continue
            reading = [
                last
                for feed in FEEDS
                if feed in one.zone_by_feed
                and (last := self._poll_schedule.last_reading(feed, one.zone_by_feed[feed])) is not None
            ]
            grid = intensity.current_intensity(one.annual_intensity, reading, now=now, age_max=age_max)
            profile = self.accelerators.live_profile(
                name, self._configured_deployments[name].energy_profile, one.energy_profile
            )
            if grid != one.intensity or profile is not one.energy_profile:
                found[name] = footprint.with_footprint_model(one, profile, grid)
        return found

    def metrics(self) -> Iterator[MetricFamily]:
        """Metrics of grids, feeds and accelerators, read at a scrape."""
        now, deployments = self._now(), self._snapshot().deployments
        grids = [([name, one.intensity.zone, one.intensity.source], one.intensity) for name, one in deployments.items()]
        labels = ("deployment", "zone", "method")
        yield gauge(
            "penstock_grid_intensity_grams_per_kwh",
            "Carbon intensity in use (location-based average).",
            [(names, grid.grams_per_kwh) for names, grid in grids],
            labels,
        )
        yield gauge(
            "penstock_grid_intensity_age_seconds",
            "Age of the live carbon intensity in use.",
            [(names, now - grid.read_at) for names, grid in grids if grid.read_at is not None],
            labels,
        )
        yield counter(
            "penstock_feed_requests_total",
            "Requests to grid feeds by outcome.",
            self._poll_schedule.outcome_counts.items(),
            ("feed", "outcome"),
        )
        profiles = [(name, one.energy_profile) for name, one in deployments.items() if one.energy_profile is not None]
        yield gauge(
            "penstock_deployment_concurrency",
            "Sequences that a replica of the deployment serves together.",
            [
                ([name, profile.concurrency_source], profile.concurrency)
                for name, profile in profiles
                if profile.concurrency is not None
            ],
            ("deployment", "source"),
        )
        yield from self.accelerators.metrics()
