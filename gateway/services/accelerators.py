"""The machines behind self-hosted deployments: how many sequences their engines serve together, joules off their meters. All of it
behind the requests; what is learnt changes the deployment's energy profile.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from ..carbon.concurrency import ConcurrencyEstimator
from ..carbon.meter_attribution import EndedRequest, EnergyMeter
from ..feeds import serving_metrics
from ..feeds.grid_reading import Fetch
from ..feeds.nvml import Nvml
from ..pipeline.context import AttemptProgress, RequestContext
from ..values.catalog import Deployment, EnergyProfile
from ..values.ledger_entry import LedgerEntry
from ..values.metric import MetricFamily, counter, gauge

log = logging.getLogger(__name__)

# Weight of an engine's newest reading; when so many in a row have failed, what it said is forgotten.
_SMOOTHING_WEIGHT, _FAILURES_MAX = 0.2, 60
# What is known of a machine is taken over when it has changed by this share: every change makes a world.
_CHANGE_SHARE_MIN = 0.1
# Beside a model that nobody knows requests are weighed by tokens: one of input is about a quarter of one of output, a cached one a
# tenth of that (DeepSeek and SGLang production figures, 2025).
_INPUT_WEIGHT, _CACHED_WEIGHT = 0.25, 0.025
# Shares that could not be kept wait for the next time, so many at most.
_UNSAVED_SHARES_MAX = 20_000
_MILLI_PER_UNIT = 1000


class MeteredEnergyStore(Protocol):
    """Where joules off meters are kept; blocks, and raises sqlite3.Error."""

    def append_window(
        self, deployment: str, at_ms: int, shares: Iterable[tuple[str, int]], *, total: int, idle: int
    ) -> None: ...


class _MeteredDeployment:
    """One metered deployment: its book, and what was told of it so far (mJ; `shared` by task type and team)."""

    __slots__ = ("attributed_mj", "failing", "meter", "saved_idle_mj", "saved_total_mj", "unsaved_shares")

    def __init__(self, idle_watts: float) -> None:
        self.meter = EnergyMeter(idle_watts)
        self.failing = False
        self.attributed_mj: dict[tuple[str, str], int] = {}
        self.unsaved_shares: list[tuple[str, int]] = []
        self.saved_total_mj = self.saved_idle_mj = 0


class _Engine:
    """One engine that tells how many sequences it serves together."""

    __slots__ = ("concurrency", "failures")

    def __init__(self) -> None:
        self.concurrency: float | None = None
        self.failures = 0


class Accelerators:
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
        self._latencies = {name: ConcurrencyEstimator() for name, one in self._sensors.items() if one.latency}
        self._meters = {
            name: _MeteredDeployment(one.idle_watts) for name, one in self._sensors.items() if one.has_meter
        }
        self._nvml = Nvml()
        self.has_engines, self.has_meters = bool(self._engines), bool(self._meters)
        self.infers_concurrency = bool(self._latencies)

    def call_started(self, context: RequestContext, progress: AttemptProgress) -> None:
        """A call begins."""
        metered = self._meters.get(progress.attempt.deployment.name)
        if metered is not None:
            metered.meter.start_request(f"{context.request_id}.{progress.number}", now=self._monotonic())

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """A call has ended."""
        deployment = progress.attempt.deployment
        latency = self._latencies.get(deployment.name)
        if latency is not None and entry.stream and entry.outcome == "completed" and entry.usage_basis == "exact":
            latency.record_stream(entry.output_tokens, entry.duration_ms - entry.first_byte_ms)
        metered = self._meters.get(deployment.name)
        if metered is not None:
            joules = _attribution_weight(deployment, entry)
            served = EndedRequest(entry_id=entry.id, joules=joules, task_type=entry.task_type, team=entry.team)
            metered.meter.end_request(served, now=self._monotonic())

    async def poll_engines(self, told: Callable[[], None]) -> None:
        """How many sequences the engines serve together; `told` after each answer."""
        await _run_all(self._poll_engine, self._engines, told)

    async def read_meters(self, measured: MeteredEnergyStore, told: Callable[[], None]) -> None:
        """Read every meter, share out what can be, keep it."""
        await _run_all(lambda name: self._read_meter(name, measured), self._meters, told)

    async def _poll_engine(self, name: str) -> None:
        engine = self._engines[name]
        try:
            status, body = await self._fetch(self._sensors[name].metrics_url, {})
            found = serving_metrics.running_requests(body.decode(errors="replace")) if status == 200 else None
        except (OSError, TimeoutError):
            found = None
        if found is None:
            engine.failures += 1
            if engine.failures == _FAILURES_MAX:
                log.warning("the engine of %s does not tell how many it serves; the prior counts", name)
                engine.concurrency = None
            return
        engine.failures = 0
        # Nobody served: nothing is learnt of how many are when somebody is.
        if found > 0:
            engine.concurrency = (
                found
                if engine.concurrency is None
                else engine.concurrency + _SMOOTHING_WEIGHT * (found - engine.concurrency)
            )

    async def _read_meter(self, name: str, measured: MeteredEnergyStore) -> None:
        metered, sensors = self._meters[name], self._sensors[name]
        try:
            if sensors.nvml:
                counters = await asyncio.to_thread(self._nvml.joules, sensors.gpus)
            else:
                _, body = await self._fetch(sensors.dcgm_url, {})
                counters = serving_metrics.gpu_joules(body.decode(errors="replace"), sensors.gpus)
            if not counters:
                raise OSError("no GPU that counts its energy")
        except (OSError, TimeoutError) as error:
            if not metered.failing:
                log.warning("the meter of %s cannot be read: %s", name, error)
            metered.failing = True
            return
        metered.failing = False
        for share in metered.meter.record_reading(counters, now=self._monotonic()):
            millijoules = round(share.joules * _MILLI_PER_UNIT)
            key = share.task_type, share.team
            metered.attributed_mj[key] = metered.attributed_mj.get(key, 0) + millijoules
            metered.unsaved_shares.append((share.entry_id, millijoules))
        await self._save_metered(name, metered, measured)

    async def _save_metered(self, name: str, metered: _MeteredDeployment, measured: MeteredEnergyStore) -> None:
        """Write what is new; what cannot be written waits for the next time."""
        meter, rows = metered.meter, metered.unsaved_shares
        total, idle = round(meter.total_joules * _MILLI_PER_UNIT), round(meter.idle_joules * _MILLI_PER_UNIT)
        taken, rested = total - metered.saved_total_mj, idle - metered.saved_idle_mj
        if not taken and not rows:
            return
        try:
            await asyncio.to_thread(
                measured.append_window, name, int(self._now() * _MILLI_PER_UNIT), rows, total=taken, idle=rested
            )
        except sqlite3.Error as error:
            log.error("metered energy could not be kept: %s", error)
            metered.unsaved_shares = rows[-_UNSAVED_SHARES_MAX:]
            return
        metered.unsaved_shares, metered.saved_total_mj, metered.saved_idle_mj = [], total, idle

    def live_profile(
        self, name: str, base: EnergyProfile | None, current: EnergyProfile | None
    ) -> EnergyProfile | None:
        """The profile of the configuration (`base`) with what engine and meter say; `current` itself where that has not changed
        much."""
        if base is None or current is None:
            return current
        concurrency, source = base.concurrency, base.concurrency_source
        engine, latency = self._engines.get(name), self._latencies.get(name)
        if engine is not None and engine.concurrency is not None:
            concurrency, source = engine.concurrency, "observed"
        elif latency is not None and (inferred := latency.estimate(base)) is not None:
            concurrency, source = inferred, "latency"
        metered = self._meters.get(name)
        ratio = metered.meter.metered_ratio if metered is not None else None
        wanted = replace(
            base,
            concurrency=concurrency,
            concurrency_source=source,
            meter_scale=base.meter_scale if ratio is None else ratio,
            is_metered=ratio is not None,
        )
        return current if _nearly_equal(current, wanted) else wanted

    def metrics(self) -> Iterator[MetricFamily]:
        """Metrics of metered deployments, read at a scrape."""
        joules: list[tuple[tuple[str, ...], float]] = []
        for name, metered in self._meters.items():
            meter = metered.meter
            joules += [((name, "served", *key), mj / _MILLI_PER_UNIT) for key, mj in metered.attributed_mj.items()]
            joules.append(((name, "idle", "", ""), meter.idle_joules))
            joules.append(((name, "unattributed", "", ""), meter.unattributed_joules))
        yield counter(
            "penstock_metered_energy_joules_total",
            "Metered accelerator energy in joules by phase: served, idle, unattributed.",
            joules,
            ("deployment", "phase", "task_type", "team"),
        )
        ratios = [(name, one.meter.metered_ratio) for name, one in self._meters.items()]
        yield gauge(
            "penstock_metered_to_modelled_energy_ratio",
            "Ratio of recently metered to modelled energy.",
            [([name], ratio) for name, ratio in ratios if ratio is not None],
            ("deployment",),
        )
        yield gauge(
            "penstock_meter_failing",
            "1 while the energy meter cannot be read.",
            [([name], metered.failing) for name, metered in self._meters.items()],
            ("deployment",),
        )


async def _run_all(work: Callable[[str], Awaitable[None]], names: Iterable[str], told: Callable[[], None]) -> None:
    """All at once; `told` after each, so that a slow one holds up no other."""

    async def one(name: str) -> None:
        await work(name)
        told()

    await asyncio.gather(*(one(name) for name in names))


def _attribution_weight(deployment: Deployment, entry: LedgerEntry) -> float:
    """What requests of a machine are weighed by: modelled accelerator joules without the meter's correction, or tokens."""
    if deployment.energy_models is None or deployment.energy_profile is None:
        fresh = entry.input_tokens - entry.cached_input_tokens
        return entry.output_tokens + _INPUT_WEIGHT * fresh + _CACHED_WEIGHT * entry.cached_input_tokens
    return (
        entry.energy_mj_mid
        / _MILLI_PER_UNIT
        / deployment.energy_models[1].facility_factor
        / deployment.energy_profile.meter_scale
    )


def _nearly_equal(one: EnergyProfile, other: EnergyProfile) -> bool:
    """Whether the difference is too small to make a new world for."""
    if (one.concurrency is None) != (other.concurrency is None) or one.concurrency_source != other.concurrency_source:
        return False
    if (
        one.is_metered != other.is_metered
        or abs(one.meter_scale - other.meter_scale) > _CHANGE_SHARE_MIN * other.meter_scale
    ):
        return False
    return (
        one.concurrency is None
        or other.concurrency is None
        or abs(one.concurrency - other.concurrency) <= _CHANGE_SHARE_MIN * other.concurrency
    )
