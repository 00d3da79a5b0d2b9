"""Engines and power meters of self-hosted deployments: observed concurrency and metered energy.

All of it runs outside the requests; what is observed changes the deployment's energy profile.
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

# Weight of an engine's newest reading, and consecutive failures after which its readings are dropped.
_SMOOTHING_WEIGHT, _FAILURES_MAX = 0.2, 60
# Smaller relative changes are not published: every change makes a new snapshot.
_CHANGE_SHARE_MIN = 0.1
# Without an energy model, requests are weighted by tokens: an input token is about a quarter of an output token, a cached
# one a tenth of that (DeepSeek and SGLang production figures, 2025).
_INPUT_WEIGHT, _CACHED_WEIGHT = 0.25, 0.025
# Shares that are kept for the next attempt when the store cannot be written.
_UNSAVED_SHARES_MAX = 20_000
_MILLI_PER_UNIT = 1000


class MeteredEnergyStore(Protocol):
    """Stores metered energy in millijoules; blocks, and raises sqlite3.Error."""

    def append_window(
        self, deployment: str, at_ms: int, shares: Iterable[tuple[str, int]], *, total: int, idle: int
    ) -> None: ...


class _MeteredDeployment:
    """One metered deployment.

    meter: attributes readings to requests
    failing: whether the last reading failed
    attributed_mj: energy attributed since the start, mJ by (task type, team)
    unsaved_shares: (ledger entry id, mJ) not yet stored
    saved_total_mj, saved_idle_mj: energy stored so far, mJ
    """

    __slots__ = ("attributed_mj", "failing", "meter", "saved_idle_mj", "saved_total_mj", "unsaved_shares")

    def __init__(self, idle_watts: float) -> None:
        self.meter = EnergyMeter(idle_watts)
        self.failing = False
        self.attributed_mj: dict[tuple[str, str], int] = {}
        self.unsaved_shares: list[tuple[str, int]] = []
        self.saved_total_mj = self.saved_idle_mj = 0


class _Engine:
    """One engine that reports how many requests are running.

    concurrency: smoothed number of running requests, None while unknown
    failures: consecutive failed readings
    """

    __slots__ = ("concurrency", "failures")

    def __init__(self) -> None:
        self.concurrency: float | None = None
        self.failures = 0


class Accelerators:
    """Engines and meters of the deployments of one process.

    fetch: HTTP GET for engine and meter endpoints
    now: wall clock, seconds since the epoch
    monotonic: monotonic clock, seconds
    """

    def __init__(
        self,
        deployments: Mapping[str, Deployment],
        fetch: Fetch,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._sensors = {name: deployment.sensors for name, deployment in deployments.items()}
        self._fetch = fetch
        self._now = now
        self._monotonic = monotonic
        self._engines = {name: _Engine() for name, sensors in self._sensors.items() if sensors.metrics_url}
        self._latencies = {name: ConcurrencyEstimator() for name, sensors in self._sensors.items() if sensors.latency}
        self._meters = {
            name: _MeteredDeployment(sensors.idle_watts) for name, sensors in self._sensors.items() if sensors.has_meter
        }
        self._nvml = Nvml()
        self.has_engines, self.has_meters = bool(self._engines), bool(self._meters)
        self.infers_concurrency = bool(self._latencies)

    def call_started(self, context: RequestContext, progress: AttemptProgress) -> None:
        """Record the start of an attempt at a metered deployment."""
        metered = self._meters.get(progress.attempt.deployment.name)
        if metered is not None:
            metered.meter.start_request(f"{context.request_id}.{progress.number}", now=self._monotonic())

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """Record the end of an attempt: its latency, and its part in the metered energy."""
        deployment = progress.attempt.deployment
        latency = self._latencies.get(deployment.name)
        if latency is not None and entry.stream and entry.outcome == "completed" and entry.usage_basis == "exact":
            latency.record_stream(entry.output_tokens, entry.duration_ms - entry.first_byte_ms)
        metered = self._meters.get(deployment.name)
        if metered is not None:
            weight = _attribution_weight(deployment, entry)
            ended = EndedRequest(entry_id=entry.id, joules=weight, task_type=entry.task_type, team=entry.team)
            metered.meter.end_request(ended, now=self._monotonic())

    async def poll_engines(self, on_reading: Callable[[], None]) -> None:
        """Read the concurrency of every engine; `on_reading` is called after each."""
        await _run_all(self._poll_engine, self._engines, on_reading)

    async def read_meters(self, store: MeteredEnergyStore, on_reading: Callable[[], None]) -> None:
        """Read every meter, attribute its energy to requests and store it; `on_reading` is called after each."""
        await _run_all(lambda name: self._read_meter(name, store), self._meters, on_reading)

    async def _poll_engine(self, name: str) -> None:
        engine = self._engines[name]
        try:
            status, body = await self._fetch(self._sensors[name].metrics_url, {})
            running = serving_metrics.running_requests(body.decode(errors="replace")) if status == 200 else None
        except (OSError, TimeoutError):
            running = None
        if running is None:
            engine.failures += 1
            if engine.failures == _FAILURES_MAX:
                log.warning("concurrency_metric_missing deployment=%s using=default_estimate", name)
                engine.concurrency = None
            return
        engine.failures = 0
        # An idle engine says nothing about its concurrency under load.
        if running > 0:
            engine.concurrency = (
                running
                if engine.concurrency is None
                else engine.concurrency + _SMOOTHING_WEIGHT * (running - engine.concurrency)
            )

    async def _read_meter(self, name: str, store: MeteredEnergyStore) -> None:
        metered, sensors = self._meters[name], self._sensors[name]
        try:
            if sensors.nvml:
                counters = await asyncio.to_thread(self._nvml.joules, sensors.gpus)
            else:
                _, body = await self._fetch(sensors.dcgm_url, {})
                counters = serving_metrics.gpu_joules(body.decode(errors="replace"), sensors.gpus)
            if not counters:
                raise OSError("no GPU with an energy counter")
        except (OSError, TimeoutError) as error:
            if not metered.failing:
                log.warning("meter_unreadable deployment=%s error=%s", name, error)
            metered.failing = True
            return
        metered.failing = False
        for share in metered.meter.record_reading(counters, now=self._monotonic()):
            millijoules = round(share.joules * _MILLI_PER_UNIT)
            key = share.task_type, share.team
            metered.attributed_mj[key] = metered.attributed_mj.get(key, 0) + millijoules
            metered.unsaved_shares.append((share.entry_id, millijoules))
        await self._save_metered(name, metered, store)

    async def _save_metered(self, name: str, metered: _MeteredDeployment, store: MeteredEnergyStore) -> None:
        """Store what is new; what cannot be written is kept for the next reading."""
        meter, rows = metered.meter, metered.unsaved_shares
        total, idle = round(meter.total_joules * _MILLI_PER_UNIT), round(meter.idle_joules * _MILLI_PER_UNIT)
        new_total, new_idle = total - metered.saved_total_mj, idle - metered.saved_idle_mj
        if not new_total and not rows:
            return
        at_ms = int(self._now() * _MILLI_PER_UNIT)
        try:
            await asyncio.to_thread(store.append_window, name, at_ms, rows, total=new_total, idle=new_idle)
        except sqlite3.Error as error:
            log.error("metered_energy_not_stored deployment=%s error=%s", name, error)
            metered.unsaved_shares = rows[-_UNSAVED_SHARES_MAX:]
            return
        metered.unsaved_shares, metered.saved_total_mj, metered.saved_idle_mj = [], total, idle

    def live_profile(
        self, name: str, base: EnergyProfile | None, current: EnergyProfile | None
    ) -> EnergyProfile | None:
        """The energy profile with observed concurrency and meter ratio; `current` itself if it has hardly changed.

        base: the profile of the configuration
        current: the profile of the current snapshot
        """
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
        live = replace(
            base,
            concurrency=concurrency,
            concurrency_source=source,
            meter_scale=base.meter_scale if ratio is None else ratio,
            is_metered=ratio is not None,
        )
        return current if _nearly_equal(current, live) else live

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
            "Ratio of recently metered to modeled energy.",
            [([name], ratio) for name, ratio in ratios if ratio is not None],
            ("deployment",),
        )
        yield gauge(
            "penstock_meter_failing",
            "1 while the energy meter cannot be read.",
            [([name], metered.failing) for name, metered in self._meters.items()],
            ("deployment",),
        )


async def _run_all(work: Callable[[str], Awaitable[None]], names: Iterable[str], on_done: Callable[[], None]) -> None:
    """Run `work` for all names concurrently; `on_done` after each, so that a slow one delays no other."""

    async def run(name: str) -> None:
        await work(name)
        on_done()

    await asyncio.gather(*(run(name) for name in names))


def _attribution_weight(deployment: Deployment, entry: LedgerEntry) -> float:
    """Weight of a request in a metered window: modelled accelerator joules before meter scaling, else tokens."""
    if deployment.energy_models is None or deployment.energy_profile is None:
        fresh = entry.input_tokens - entry.cached_input_tokens
        return entry.output_tokens + _INPUT_WEIGHT * fresh + _CACHED_WEIGHT * entry.cached_input_tokens
    return (
        entry.energy_mj_mid
        / _MILLI_PER_UNIT
        / deployment.energy_models[1].facility_factor
        / deployment.energy_profile.meter_scale
    )


def _nearly_equal(old: EnergyProfile, new: EnergyProfile) -> bool:
    """Whether the difference is too small for a new snapshot."""
    if (old.concurrency is None) != (new.concurrency is None) or old.concurrency_source != new.concurrency_source:
        return False
    if old.is_metered != new.is_metered or abs(old.meter_scale - new.meter_scale) > _CHANGE_SHARE_MIN * new.meter_scale:
        return False
    return (
        old.concurrency is None
        or new.concurrency is None
        or abs(old.concurrency - new.concurrency) <= _CHANGE_SHARE_MIN * new.concurrency
    )
