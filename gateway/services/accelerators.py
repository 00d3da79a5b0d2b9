"""The machines behind self-hosted deployments: how many sequences their engines serve together, joules off their meters. All of it
behind the requests; what is learnt changes the deployment's energy profile.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from ..carbon.concurrency import LatencyBook
from ..carbon.meter_attribution import Meter, Served
from ..feeds import serving_metrics
from ..feeds.grid_reading import Fetch
from ..feeds.nvml import Nvml
from ..pipeline.context import Decided, Progress
from ..values.catalog import Deployment, EnergyProfile
from ..values.ledger_entry import LedgerEntry

log = logging.getLogger(__name__)

# Weight of an engine's newest reading; when so many in a row have failed, what it said is forgotten.
_NEWEST, _SILENT_MAX = 0.2, 60
# What is known of a machine is taken over when it has changed by this share: every change makes a world.
_CHANGE = 0.1
# Beside a model that nobody knows requests are weighed by tokens: one of input is about a quarter of one of output, a cached one a
# tenth of that (DeepSeek and SGLang production figures, 2025).
_INPUT_WEIGHT, _CACHED_WEIGHT = 0.25, 0.025
# Shares that could not be kept wait for the next time, so many at most.
_UNKEPT_MAX = 20_000
_MILLI = 1000

Gauge = tuple[str, str, list[str], list[tuple[list[str], float]]]


class Measured(Protocol):
    """Where joules off meters are kept; blocks, and raises sqlite3.Error."""

    def append(
        self, deployment: str, at_ms: int, shares: Iterable[tuple[str, int]], *, total: int, idle: int
    ) -> None: ...


class _Metered:
    """One metered deployment: its book, and what was told of it so far (mJ; `shared` by task type and team)."""

    __slots__ = ("failing", "kept_idle", "kept_total", "meter", "shared", "unkept")

    def __init__(self, idle_watts: float) -> None:
        self.meter = Meter(idle_watts)
        self.failing = False
        self.shared: dict[tuple[str, str], int] = {}
        self.unkept: list[tuple[str, int]] = []
        self.kept_total = self.kept_idle = 0


class _Engine:
    """One engine that tells how many sequences it serves together."""

    __slots__ = ("running", "silent")

    def __init__(self) -> None:
        self.running: float | None = None
        self.silent = 0


class Machines:
    """The machines of one process's deployments. `now` is wall clock, `monotonic` a clock that nobody sets."""

    def __init__(
        self,
        deployments: Mapping[str, Deployment],
        fetch: Fetch,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._sensors = {name: one.sensors for name, one in deployments.items()}
        self._fetch = fetch
        self._now = now
        self._monotonic = monotonic
        self._engines = {name: _Engine() for name, one in self._sensors.items() if one.metrics_url}
        self._latencies = {name: LatencyBook() for name, one in self._sensors.items() if one.latency}
        self._meters = {name: _Metered(one.idle_watts) for name, one in self._sensors.items() if one.metered}
        self._nvml = Nvml()
        self.has_engines, self.has_meters = bool(self._engines), bool(self._meters)
        self.infers = bool(self._latencies)

    def dialled(self, decided: Decided, progress: Progress) -> None:
        """A call begins."""
        metered = self._meters.get(progress.attempt.deployment.name)
        if metered is not None:
            metered.meter.began(f"{decided.request_id}.{progress.number}", now=self._monotonic())

    def served(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None:
        """A call has ended."""
        deployment = progress.attempt.deployment
        latency = self._latencies.get(deployment.name)
        if latency is not None and entry.stream and entry.outcome == "completed" and entry.usage_basis == "exact":
            latency.heard(entry.output_tokens, entry.duration_ms - entry.first_byte_ms)
        metered = self._meters.get(deployment.name)
        if metered is not None:
            joules = _modelled(deployment, entry)
            served = Served(entry=entry.id, joules=joules, task_type=entry.task_type, team=entry.team)
            metered.meter.ended(served, now=self._monotonic())

    async def ask_engines(self, told: Callable[[], None]) -> None:
        """How many sequences the engines serve together; `told` after each answer."""
        await _each(self._ask_engine, self._engines, told)

    async def read_meters(self, measured: Measured, told: Callable[[], None]) -> None:
        """Read every meter, share out what can be, keep it."""
        await _each(lambda name: self._read_meter(name, measured), self._meters, told)

    async def _ask_engine(self, name: str) -> None:
        engine = self._engines[name]
        try:
            status, body = await self._fetch(self._sensors[name].metrics_url, {})
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

    async def _read_meter(self, name: str, measured: Measured) -> None:
        metered, sensors = self._meters[name], self._sensors[name]
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
        for share in metered.meter.read(counters, now=self._monotonic()):
            millijoules = round(share.joules * _MILLI)
            key = share.task_type, share.team
            metered.shared[key] = metered.shared.get(key, 0) + millijoules
            metered.unkept.append((share.entry, millijoules))
        await self._keep(name, metered, measured)

    async def _keep(self, name: str, metered: _Metered, measured: Measured) -> None:
        """Write what is new; what cannot be written waits for the next time."""
        meter, rows = metered.meter, metered.unkept
        total, idle = round(meter.total * _MILLI), round(meter.idle * _MILLI)
        taken, rested = total - metered.kept_total, idle - metered.kept_idle
        if not taken and not rows:
            return
        try:
            await asyncio.to_thread(measured.append, name, int(self._now() * _MILLI), rows, total=taken, idle=rested)
        except sqlite3.Error as error:
            log.error("metered energy could not be kept: %s", error)
            metered.unkept = rows[-_UNKEPT_MAX:]
            return
        metered.unkept, metered.kept_total, metered.kept_idle = [], total, idle

    def profile(self, name: str, base: EnergyProfile | None, current: EnergyProfile | None) -> EnergyProfile | None:
        """The profile of the configuration (`base`) with what engine and meter say; `current` itself where that has not changed
        much."""
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


async def _each(work: Callable[[str], Awaitable[None]], names: Iterable[str], told: Callable[[], None]) -> None:
    """All at once; `told` after each, so that a slow one holds up no other."""

    async def one(name: str) -> None:
        await work(name)
        told()

    await asyncio.gather(*(one(name) for name in names))


def _modelled(deployment: Deployment, entry: LedgerEntry) -> float:
    """What requests of a machine are weighed by: modelled accelerator joules without the meter's correction, or tokens."""
    if deployment.energy is None or deployment.profile is None:
        fresh = entry.input_tokens - entry.cached_input_tokens
        return entry.output_tokens + _INPUT_WEIGHT * fresh + _CACHED_WEIGHT * entry.cached_input_tokens
    return entry.energy_mj_mid / _MILLI / deployment.energy[1].facility / deployment.profile.scale


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
