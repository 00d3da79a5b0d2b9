"""Live grid and accelerator data: polls feeds, engines and meters, and publishes snapshots that contain it.

All of it runs outside the requests; open requests keep the snapshot they began with. A feed that is down, slow, stale or
wrong affects no request: its last good value is used until it is too old, then the annual tables, and figures name the
method.
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

# To add a feed: a file like intensity_uk.py, a line here, its name in config/schema.py. The first with a value is used.
FEEDS: Mapping[str, Callable[[FeedAccess], GridFeed]] = {
    "electricity_maps": ElectricityMaps,
    "uk": UkIntensity,
    "watttime": WattTime,
}
# Polling intervals of the feed schedule, of engines, and of meters. Meter windows of 5 to 15 s can be attributed well:
# they are longer than most requests and shorter than changes of load.
_POLL_SECONDS, _ENGINE_POLL_SECONDS, _METER_POLL_SECONDS = 1.0, 5.0, 10.0
_CONCURRENT_POLLS_MAX = 8


class GridService:
    """Live data on grids and accelerators.

    snapshot: returns the current snapshot
    publish: called with every new snapshot
    fetch: HTTP GET for feeds, engines and meters
    now: wall clock, seconds since the epoch
    monotonic: monotonic clock, seconds
    jitter: random number in [0, 1)
    """

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
        # Without live data.
        self._configured_deployments = dict(snapshot().deployments)
        self.accelerators = Accelerators(self._configured_deployments, fetch, now, monotonic)
        feeds = snapshot().grid_feeds
        self._feeds = {name: FEEDS[name](access) for name, access in feeds.access_by_feed.items()}
        targets = {
            PollTarget(name, zone)
            for deployment in self._configured_deployments.values()
            for name, zone in deployment.zone_by_feed.items()
            if name in self._feeds
        }
        self._poll_schedule = PollSchedule(frozenset(targets), feeds.refresh_seconds, jitter)
        self._poll_slots = asyncio.Semaphore(_CONCURRENT_POLLS_MAX)

    def start(self, supervisor: Supervisor, store: MeteredEnergyStore) -> None:
        """Start polling what is configured."""
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
                _METER_POLL_SECONDS, "meters", lambda: accelerators.read_meters(store, self.publish_changes)
            )

    def with_live_data(self, fresh: Snapshot) -> Snapshot:
        """A newly loaded snapshot with the live data of now."""
        self._configured_deployments = dict(fresh.deployments)
        return fresh.with_deployments(self._changed_deployments(fresh))

    async def poll_feeds(self) -> None:
        """Poll the feeds that are due, concurrently, and publish changes, expired readings included."""
        self.publish_changes()
        await asyncio.gather(*(self._poll_feed(target) for target in self._poll_schedule.due(self._monotonic())))

    async def _publish_inferred(self) -> None:
        self.publish_changes()

    async def _poll_feed(self, target: PollTarget) -> None:
        try:
            async with self._poll_slots:
                reading = await self._feeds[target.feed].fetch_reading(self._fetch, target.zone, self._now())
            if self._now() - reading.read_at > self._snapshot().grid_feeds.reading_age_seconds_max:
                raise FeedError("reading too old")
        except (FeedError, OSError, TimeoutError) as error:
            if self._poll_schedule.record_failure(target, str(error), now=self._monotonic()):
                log.warning("feed_failing feed=%s zone=%s error=%s", target.feed, target.zone, error)
            return
        if self._poll_schedule.record_reading(target, reading, now=self._monotonic()):
            log.warning("feed_recovered feed=%s zone=%s", target.feed, target.zone)
        self.publish_changes()

    def publish_changes(self) -> None:
        """Publish a new snapshot if live data has changed."""
        snapshot = self._snapshot()
        changed = self._changed_deployments(snapshot)
        if changed:
            self._publish(snapshot.with_deployments(changed))

    def _changed_deployments(self, snapshot: Snapshot) -> dict[str, Deployment]:
        """The deployments whose live data differs from this snapshot."""
        now, age_max = self._now(), snapshot.grid_feeds.reading_age_seconds_max
        changed: dict[str, Deployment] = {}
        for name, deployment in snapshot.deployments.items():
            zones = deployment.zone_by_feed
            if not (zones or deployment.sensors.is_polled):
                continue
            readings = [
                reading
                for feed in FEEDS
                if feed in zones and (reading := self._poll_schedule.last_reading(feed, zones[feed])) is not None
            ]
            grid = intensity.current_intensity(deployment.annual_intensity, readings, now=now, age_max=age_max)
            base = self._configured_deployments[name].energy_profile
            profile = self.accelerators.live_profile(name, base, deployment.energy_profile)
            if grid != deployment.intensity or profile is not deployment.energy_profile:
                changed[name] = footprint.with_footprint_model(deployment, profile, grid)
        return changed

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
