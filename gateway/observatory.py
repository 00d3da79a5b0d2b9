"""What is known of grids and machines at this moment: live intensities, how many sequences engines serve together, joules off
meters. All of it behind the requests: each finding publishes a world with what is known now, and open calls keep theirs.

A feed that is down, slow, stale or lying changes no request's fate: its last good value serves until it is too old, then the
tables do, and figures say which.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from .carbon import footprint, intensity
from .carbon.concurrency import LatencyBook
from .carbon.metering import Meter, Served, Share
from .edge.supervisor import Supervisor
from .feeds import serving_metrics
from .feeds.grid_news import Feed, FeedError, Fetch
from .feeds.intensity_electricity_maps import ElectricityMaps
from .feeds.intensity_uk import UkIntensity
from .feeds.intensity_watttime import WattTime
from .feeds.nvml import Nvml
from .feeds.schedule import Inquiry, Schedule
from .settlement import Decided, Progress
from .values.catalog import Deployment, EnergyProfile
from .values.entry import LedgerEntry
from .values.feeds import Access
from .values.world import World

log = logging.getLogger(__name__)

# To add a feed: a file like intensity_uk.py, a line here, its name in config/schema.py. The first that tells counts.
FEEDS: Mapping[str, Callable[[Access], Feed]] = {
    "electricity_maps": ElectricityMaps,
    "uk": UkIntensity,
    "watttime": WattTime,
}
# How often it is looked what is due; engines are asked so often, and meters read (windows of 5 to 15 s: carbon.md of the design).
_LOOK_SECONDS, _ENGINE_SECONDS, _METER_SECONDS = 1.0, 5.0, 10.0
# Questions under way at once.
_ASKING_MAX = 8
# Weight of an engine's newest reading; when so many in a row have failed, what it said is forgotten.
_NEWEST, _SILENT_MAX = 0.2, 60
# What is known of a machine is published when it has changed by this share: every change makes a world.
_CHANGE = 0.1
_MILLI = 1000

Gauge = tuple[str, str, list[str], list[tuple[list[str], float]]]


class Measured(Protocol):
    """Where joules off meters are kept; blocks, and raises sqlite3.Error."""

    def append(
        self, deployment: str, at_ms: int, shares: Iterable[tuple[str, int]], *, total: int, idle: int
    ) -> None: ...


class _Metered:
    """One metered deployment: its book, and what was told of it so far."""

    __slots__ = ("failing", "meter", "shared", "told_idle", "told_total")

    def __init__(self, idle_watts: float) -> None:
        self.meter = Meter(idle_watts)
        self.failing = False
        # mJ by (task type, team).
        self.shared: dict[tuple[str, str], int] = {}
        self.told_total = self.told_idle = 0


class _Engine:
    """One engine that tells how many sequences it serves together."""

    __slots__ = ("running", "silent")

    def __init__(self) -> None:
        self.running: float | None = None
        self.silent = 0


class Observatory:
    """What one process knows of the world outside it. `publish` hears of every new world."""

    def __init__(
        self,
        world: Callable[[], World],
        publish: Callable[[World], None],
        fetch: Fetch,
        now: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._world = world
        self._publish = publish
        self._fetch = fetch
        self._now = now
        self._base = dict(world().deployments)
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
        self._engines = {name: _Engine() for name, one in self._base.items() if one.sensors.metrics_url}
        self._latencies = {name: LatencyBook() for name, one in self._base.items() if one.sensors.latency}
        self._meters = {
            name: _Metered(one.sensors.idle_watts) for name, one in self._base.items() if one.sensors.metered
        }
        self._nvml = Nvml()

    def start(self, supervisor: Supervisor, measured: Measured) -> None:
        """Begin to look. What nobody asked for costs nothing."""
        self._measured = measured
        if self._feeds:
            supervisor.every(_LOOK_SECONDS, "grid-feeds", self.ask_feeds)
        if self._engines:
            supervisor.every(_ENGINE_SECONDS, "engines", self.ask_engines)
        if self._latencies:
            supervisor.every(_ENGINE_SECONDS, "latencies", self._infer)
        if self._meters:
            supervisor.every(_METER_SECONDS, "meters", self.read_meters)

    def informed(self, fresh: World) -> World:
        """A world of the configuration with what is known now."""
        self._base = dict(fresh.deployments)
        return fresh.informed(self._changed(fresh))

    def dialled(self, decided: Decided, progress: Progress) -> None:
        """A call begins."""
        metered = self._meters.get(progress.attempt.deployment.name)
        if metered is not None:
            metered.meter.began(f"{decided.request_id}.{progress.number}", now=self._now())

    def served(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None:
        """A call has ended."""
        deployment = progress.attempt.deployment
        latency = self._latencies.get(deployment.name)
        if latency is not None and entry.stream and entry.outcome == "completed" and entry.usage_basis == "exact":
            latency.heard(entry.output_tokens, entry.duration_ms - entry.first_byte_ms)
        metered = self._meters.get(deployment.name)
        if metered is None or not progress.dialled:
            return
        joules = 0.0
        if deployment.energy is not None and deployment.profile is not None:
            facility = entry.energy_mj_mid / _MILLI
            joules = facility / deployment.energy[1].facility / deployment.profile.scale
        end = self._now()
        metered.meter.ended(
            Served(
                entry=entry.id,
                start=end - entry.duration_ms / _MILLI,
                end=end,
                joules=joules,
                task_type=entry.task_type,
                team=entry.team,
            )
        )

    async def ask_feeds(self) -> None:
        """Ask what is due, all at once, and publish what has changed (also that something has become too old)."""
        now = self._now()
        await asyncio.gather(*(self._ask(inquiry) for inquiry in self._schedule.due(now)))
        self._tell()

    async def ask_engines(self) -> None:
        """How many sequences the engines serve together."""
        await asyncio.gather(*(self._ask_engine(name, engine) for name, engine in self._engines.items()))
        self._tell()

    async def read_meters(self) -> None:
        """Read every meter, share out what can be, keep it."""
        await asyncio.gather(*(self._read_meter(name, metered) for name, metered in self._meters.items()))
        self._tell()

    async def _infer(self) -> None:
        self._tell()

    async def _ask(self, inquiry: Inquiry) -> None:
        try:
            async with self._asking:
                news = await self._feeds[inquiry.feed].news(self._fetch, inquiry.zone, self._now())
            if self._now() - news.at > self._world().feeds.age_seconds_max:
                raise FeedError("a value that is too old")
        except (FeedError, OSError, TimeoutError) as error:
            if self._schedule.failed(inquiry, str(error), now=self._now()):
                log.warning("the feed %s says nothing of %s: %s", inquiry.feed, inquiry.zone, error)
            return
        if self._schedule.answered(inquiry, news, now=self._now()):
            log.warning("the feed %s answers again for %s", inquiry.feed, inquiry.zone)

    async def _ask_engine(self, name: str, engine: _Engine) -> None:
        try:
            status, body = await self._fetch(self._base[name].sensors.metrics_url, {})
            found = serving_metrics.running(body.decode(errors="replace")) if status == 200 else None
        except (OSError, TimeoutError):
            found = None
        if found is None:
            engine.silent += 1
            if engine.silent == _SILENT_MAX:
                log.warning("the engine of %s does not tell how many it serves; the prior counts", name)
                engine.running = None
            return
        engine.silent = 0
        # Nobody served: nothing is learnt of how many are when somebody is.
        if found > 0:
            engine.running = found if engine.running is None else engine.running + _NEWEST * (found - engine.running)

    async def _read_meter(self, name: str, metered: _Metered) -> None:
        sensors = self._base[name].sensors
        try:
            if sensors.nvml:
                counters = await asyncio.to_thread(self._nvml.joules, sensors.gpus)
            else:
                _, body = await self._fetch(sensors.dcgm_url, {})
                counters = serving_metrics.joules(body.decode(errors="replace"), sensors.gpus)
            if not counters:
                raise OSError("no GPU that counts its energy")
        except (OSError, TimeoutError) as error:
            if not metered.failing:
                log.warning("the meter of %s cannot be read: %s", name, error)
            metered.failing = True
            return
        metered.failing = False
        shares = metered.meter.read(counters, now=self._now())
        await self._keep(name, metered, shares)

    async def _keep(self, name: str, metered: _Metered, shares: list[Share]) -> None:
        meter = metered.meter
        rows = [(share, round(share.joules * _MILLI)) for share in shares]
        for share, millijoules in rows:
            key = share.task_type, share.team
            metered.shared[key] = metered.shared.get(key, 0) + millijoules
        total, idle = round(meter.total * _MILLI), round(meter.idle * _MILLI)
        taken, rested = total - metered.told_total, idle - metered.told_idle
        metered.told_total, metered.told_idle = total, idle
        if not taken and not rows:
            return
        told = [(share.entry, millijoules) for share, millijoules in rows]
        try:
            await asyncio.to_thread(
                self._measured.append, name, int(self._now() * _MILLI), told, total=taken, idle=rested
            )
        except sqlite3.Error as error:
            log.error("metered energy could not be kept: %s", error)

    def _tell(self) -> None:
        """Publish what has changed."""
        world = self._world()
        changed = self._changed(world)
        if changed:
            self._publish(world.informed(changed))

    def _changed(self, world: World) -> dict[str, Deployment]:
        """The deployments of which something else is known now than this world says."""
        now, feeds, found = self._now(), world.feeds, {}
        for name, one in world.deployments.items():
            if not (one.feeds or one.sensors.metrics_url or one.sensors.latency or one.sensors.metered):
                continue
            news = [
                last
                for feed in FEEDS
                if feed in one.feeds and (last := self._schedule.last(feed, one.feeds[feed])) is not None
            ]
            grid = intensity.at_present(one.annual, news, now=now, age_max=feeds.age_seconds_max)
            profile = self._profile(name, one)
            if grid != one.intensity or profile is not one.profile:
                found[name] = footprint.known(one, profile, grid)
        return found

    def _profile(self, name: str, one: Deployment) -> EnergyProfile | None:
        """The deployment's profile with what engine and meter say; the same object where that has not changed much."""
        base, current = self._base[name].profile, one.profile
        if base is None or current is None:
            return current
        concurrency, source = base.concurrency, base.concurrency_source
        engine, latency = self._engines.get(name), self._latencies.get(name)
        if engine is not None and engine.running is not None:
            concurrency, source = engine.running, "observed"
        elif latency is not None and (inferred := latency.concurrency(base)) is not None:
            concurrency, source = inferred, "latency"
        metered = self._meters.get(name)
        ratio = metered.meter.ratio if metered is not None else None
        wanted = replace(
            base,
            concurrency=concurrency,
            concurrency_source=source,
            scale=base.scale if ratio is None else ratio,
            metered=ratio is not None,
        )
        return current if _alike(current, wanted) else wanted

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
        yield from self._metered_gauges()

    def _metered_gauges(self) -> Iterator[Gauge]:
        rows: list[tuple[list[str], float]] = []
        ratios, failing = [], []
        for name, metered in self._meters.items():
            meter = metered.meter
            rows += [([name, "served", *key], joules / _MILLI) for key, joules in metered.shared.items()]
            rows += [([name, "idle", "", ""], meter.idle), ([name, "unattributed", "", ""], meter.unattributed)]
            failing.append(([name], float(metered.failing)))
            if meter.ratio is not None:
                ratios.append(([name], meter.ratio))
        yield (
            "penstock_metered_energy_joules",
            "Accelerator joules off a deployment's meter since the start: served, idle, unattributed.",
            ["deployment", "phase", "task_type", "team"],
            rows,
        )
        yield (
            "penstock_metered_over_modelled",
            "Metered energy of late over what the model says.",
            ["deployment"],
            ratios,
        )
        yield "penstock_meter_failing", "1 while the meter cannot be read.", ["deployment"], failing


def _alike(one: EnergyProfile, other: EnergyProfile) -> bool:
    """Whether the difference is too small to make a new world for."""
    if (one.concurrency is None) != (other.concurrency is None) or one.concurrency_source != other.concurrency_source:
        return False
    if one.metered != other.metered or abs(one.scale - other.scale) > _CHANGE * other.scale:
        return False
    return (
        one.concurrency is None
        or other.concurrency is None
        or abs(one.concurrency - other.concurrency) <= _CHANGE * other.concurrency
    )
