"""Builds every object once and wires them together; the only file that imports every package."""

import asyncio
import errno
import logging
import os
import platform
import random
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from . import __version__
from .config.settings import Settings, proxies_of
from .exporters import grouped_export
from .exporters.prometheus import Metrics
from .feeds import package_data, scorer_weights
from .feeds.self_energy import OwnEnergyMeter
from .http import server
from .http.admin import AdminApi
from .http.cors import CorsPolicy, origins_of
from .http.feed_client import FeedClient
from .http.litellm_adapter import LitellmUpstream
from .http.token_counter import TokenCounter
from .http.upstream import HttpUpstream
from .pipeline.context import AttemptProgress, RequestContext
from .pipeline.pipeline import Pipeline
from .pipeline.ports import Clock, UpstreamResponse
from .providers.upstream_call import UpstreamCall
from .routing.circuit_breaker import CircuitBreakers
from .services.budgets import BudgetService
from .services.grid import GridService
from .services.provider_failures import ProviderFailureLog
from .services.quality import QualityService
from .services.sessions import SessionService
from .services.stored_objects import StoredObjects
from .services.supervisor import Supervisor
from .stores.journal import Journal
from .stores.ledger import QUEUE_MAX, JournaledLedger
from .stores.ledger_file import LostLedger, require_ledger
from .stores.ledger_sqlite import SqliteLedger
from .stores.metered_energy_sqlite import SqliteMeteredEnergy
from .stores.migrations import migrate_file
from .values.errors import Overloaded
from .values.ledger_entry import LedgerEntry
from .values.metric import MetricFamily, counter, gauge
from .values.quality import LearnedFloors
from .values.snapshot import Snapshot

log = logging.getLogger(__name__)

_HOUSEKEEPING_SECONDS = 30.0
_SELF_METER_SECONDS = 15.0
# A ledger file that was moved or deleted is noticed at most this late.
_LEDGER_CHECK_SECONDS = 0.5
# A price takes effect at most this late.
_PRICE_CHECK_SECONDS = 1.0
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class SystemClock:
    """The clocks of the operating system."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


class SystemRandomness:
    """Request ids and jitter.

    Request ids are 64 random bits after the time in seconds: they sort by time, and are unique across replicas because
    each process seeds its generator from the operating system.
    """

    def __init__(self) -> None:
        self._random = random.Random(secrets.randbits(256))
        self.jitter = self._random.random

    def request_id(self) -> str:
        """A new id of 24 hex characters."""
        return f"{int(time.time()):08x}{self._random.getrandbits(64):016x}"


class Upstreams:
    """Dials providers over HTTP or through litellm, behind the pipeline's Upstream Protocol."""

    def __init__(self, http: HttpUpstream, litellm: LitellmUpstream) -> None:
        self._http = http
        self._litellm = litellm

    async def dial(self, call: UpstreamCall) -> UpstreamResponse:
        """Dial the deployment of a call; raises UpstreamError."""
        return await (self._litellm if call.deployment.dialect == "litellm" else self._http).dial(call)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()
        await self._litellm.close()


class CallObservers:
    """Passes attempts on to what learns from them: quality labels, energy meters, latency metrics and the log."""

    def __init__(
        self,
        quality_service: QualityService,
        grid_service: GridService,
        metrics: Metrics,
        failure_log: ProviderFailureLog,
        monotonic: Callable[[], float],
    ) -> None:
        self._quality_service = quality_service
        self._failure_log = failure_log
        self._accelerators = grid_service.accelerators
        self._metrics = metrics
        self._monotonic = monotonic
        self.call_started = grid_service.accelerators.call_started

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """Notify each of the end of an attempt."""
        self._quality_service.call_ended(context, progress, entry)
        self._accelerators.call_ended(context, progress, entry)
        self._failure_log.call_ended(context, progress, entry)
        if progress.dialed:
            upstream = progress.upstream_seconds
            overhead = self._monotonic() - context.started_monotonic - upstream - progress.earlier_upstream_seconds
            self._metrics.observe_latency(
                entry.deployment, upstream * 1000, max(0.0, overhead) * 1000 if entry.final else None
            )


class App:
    """One gateway process: `start`, serve, `stop`.

    settings: environment and command-line settings
    snapshot: the snapshot to begin with
    reload: returns the snapshot of the same configuration at a later time, with the prices of that time
    refit: fits quality floors in a separate process
    clock: the system's unless a simulation sets its own
    begins_ledger: begin a new ledger where the data folder has had one that is lost
    """

    def __init__(
        self,
        settings: Settings,
        snapshot: Snapshot,
        reload: Callable[[float], Snapshot] | None = None,
        refit: Callable[[], Awaitable[None]] | None = None,
        clock: Clock | None = None,
        *,
        begins_ledger: bool = False,
    ) -> None:
        self._settings = settings
        self._begins_ledger = begins_ledger
        self._snapshot = snapshot
        self._clock = clock or SystemClock()
        self._randomness = SystemRandomness()
        self._reload = reload
        self._breakers = CircuitBreakers()
        self._scraped: list[MetricFamily] = []
        self._metrics = Metrics(lambda: self._scraped)
        self._draining = False
        self._runners: list[web.ServerRunner] = []
        self._supervisor = Supervisor(self._clock.sleep)
        url = settings.redis_url
        redis = (url.get_secret_value(), settings.redis_timeout_seconds) if url is not None else None
        self._proxies = proxies_of(settings, os.environ)
        self._budget_service = BudgetService(
            lambda: self._snapshot, settings.data, redis, self._supervisor, self._clock.now, self._proxies
        )
        self.quality_service = QualityService(
            lambda: self._snapshot,
            settings.data,
            self._supervisor,
            self._clock.now,
            self._randomness.jitter,
            self._publish_fitted,
            scorer_weights.load(),
            refit,
        )
        secret = settings.approval_secret.get_secret_value() if settings.approval_secret is not None else None
        self._session_service = SessionService(
            lambda: self._snapshot, settings.data, secret, self._supervisor, self._clock.now, self._randomness.request_id,
            self.quality_service.session_reported,
        )  # fmt: skip
        self._stored_objects = StoredObjects(settings.data, self._supervisor)
        self._fetcher = FeedClient(self._proxies)
        self._grid_service = GridService(
            lambda: self._snapshot,
            self._publish_snapshot,
            self._fetcher.get,
            self._clock.now,
            self._clock.monotonic,
            self._randomness.jitter,
        )
        self._own_energy_meter = OwnEnergyMeter(settings.own_energy_country) if settings.measure_own_energy else None
        self.port = settings.port
        self.admin_port = settings.admin_port

    async def start(self) -> None:
        """Recover the ledger and listen. Raises OSError if a port or the data folder is unavailable."""
        settings = self._settings
        journal, path = Journal(settings.data / "journal"), settings.data / "ledger.sqlite"
        # The lock comes first: a file that another gateway writes to is not migrated.
        journal.acquire_lock()
        if journal.has_files:
            self._require_ledger(path)
        migrate_file(path)
        self._ledger_store = SqliteLedger(path)
        self._ledger = JournaledLedger(journal, self._ledger_store, self._metrics.observe_entry)
        self._ledger.start()
        self._budget_service.start(self._ledger_store)
        self._session_service.start(
            self._budget_service.send_to_webhook, self._budget_service.shared_sessions, self._budget_service.admin.grant
        )
        self._stored_objects.start(self._budget_service.shared_sessions)
        self._budget_service.restore(self._session_service.cap_lines())
        litellm = LitellmUpstream(self._supervisor.spawn)
        self._upstreams = Upstreams(HttpUpstream(self._proxies), litellm)
        pipeline = self._pipeline = Pipeline(
            snapshot=lambda: self._snapshot,
            budgets=self._budget_service.budgets,
            sessions=self._session_service.sessions,
            session_sync=self._session_service,
            objects=self._stored_objects,
            circuit_breakers=self._breakers,
            upstream=self._upstreams,
            token_counter=TokenCounter(package_data.DATA_FOLDER),
            ledger=self._ledger,
            clock=self._clock,
            randomness=self._randomness,
            output_estimates=self._budget_service.output_estimates,
            observer=CallObservers(
                self.quality_service,
                self._grid_service,
                self._metrics,
                ProviderFailureLog(self._breakers, self._clock.monotonic),
                self._clock.monotonic,
            ),
            scorer=scorer_weights.load(),
        )
        self.quality_service.start(pipeline, self._budget_service.send_to_webhook)
        self._grid_service.start(self._supervisor, SqliteMeteredEnergy(settings.data / "ledger.sqlite"))
        self._server = server.Server(
            pipeline=pipeline,
            snapshot=lambda: self._snapshot,
            admin=self._build_admin_api(with_data=settings.admin_port is None),
            budget_admin=self._budget_service.admin,
            session_admin=self._session_service.admin,
            body_bytes_max=settings.body_bytes_max,
            requests_max=settings.concurrent_requests_max,
            count_error=self._metrics.count_error,
            cors=CorsPolicy(origins_of(settings.cors_origins)),
        )
        self.port = await self._listen(self._server.handle, settings.port, settings.drain_seconds, "PENSTOCK_PORT")
        self._session_service.public_base_url = (settings.public_url or f"http://{settings.host}:{self.port}").rstrip(
            "/"
        )
        if settings.admin_port is not None:
            handler = self._build_admin_api(with_data=True).handle
            self.admin_port = await self._listen(handler, settings.admin_port, 1.0, "PENSTOCK_ADMIN_PORT")
        if any(deployment.dialect == "litellm" for deployment in self._snapshot.deployments.values()):
            # The import takes four seconds, which would otherwise delay the first request.
            self._supervisor.spawn(
                "litellm-import", litellm.preload(), lambda error: log.error("litellm_import_failed error=%s", error)
            )
        self._supervisor.run_every(_LEDGER_CHECK_SECONDS, "ledger-files", self._check_ledger)
        self._supervisor.run_every(_HOUSEKEEPING_SECONDS, "housekeeping", self._housekeeping)
        if self._reload is not None:
            self._supervisor.run_every(_PRICE_CHECK_SECONDS, "prices", self._reload_prices)
        if self._own_energy_meter is not None:
            self._supervisor.run_every(_SELF_METER_SECONDS, "self-footprint", self._measure_own_energy)

    @property
    def open_connections(self) -> int:
        """Connections of clients on every port, idle ones included."""
        return sum(len(runner.server.connections) for runner in self._runners if runner.server is not None)

    async def stop(self) -> None:
        """Finish open requests, settle them, write the ledger and close."""
        self._draining = True
        self._pipeline.deferrer.release()
        for runner in self._runners:
            await runner.cleanup()
        await self._supervisor.stop()
        await self._upstreams.close()
        await self._fetcher.close()
        await self.quality_service.flush()
        await self._budget_service.stop()
        if self._own_energy_meter is not None:
            await asyncio.to_thread(self._own_energy_meter.stop)
        await asyncio.to_thread(self._ledger.close)

    def _require_ledger(self, path: Path) -> None:
        """Refuse to begin a ledger where there was one, unless that was asked for. Raises LostLedger."""
        try:
            require_ledger(path)
        except LostLedger as error:
            if not self._begins_ledger:
                raise
            log.warning("ledger_begun_anew path=%s cause='%s'", path, error.fault)

    async def _listen(self, handler: server.Handler, port: int, drain_seconds: float, variable: str) -> int:
        runner = server.server_runner(handler, drain_seconds=drain_seconds, count_error=self._metrics.count_error)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, self._settings.host, port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise OSError(error.errno, f"port {port} is in use; set {variable}") from error
        bound: int = runner.addresses[0][1]
        return bound

    def _build_admin_api(self, *, with_data: bool) -> AdminApi:
        token = self._settings.admin_token
        return AdminApi(
            not_ready_reasons=self._not_ready_reasons,
            refresh_metrics=self._refresh_metrics,
            render_metrics=self._metrics.render,
            export=lambda query: export_ledger(self._settings.data, query, now=self._clock.now()),
            budget_admin=self._budget_service.admin,
            session_admin=self._session_service.admin,
            audit_events=self._budget_service.audit_events,
            token=token.get_secret_value() if token is not None else None,
            is_loopback=self._settings.host in _LOOPBACK_HOSTS,
            serves_data=with_data,
        )

    def _not_ready_reasons(self) -> list[str]:
        reasons = ["draining: finishing open requests"] if self._draining else []
        if self._ledger.is_failing or self._ledger.backlog >= QUEUE_MAX:
            reasons.append(f"ledger: {self._ledger.failure or 'backlog too long'}")
        return reasons + self._budget_service.not_ready_reasons()

    async def _check_ledger(self) -> None:
        self._ledger.check_files()
        if self._ledger.has_shrunk:
            await asyncio.to_thread(self._ledger.check_content)

    async def _housekeeping(self) -> None:
        self._budget_service.expire_holds()

    async def _reload_prices(self) -> None:
        """Publish the next snapshot when a configured price takes effect; open requests keep theirs."""
        now, due = self._clock.now(), self._snapshot.next_price_change_at
        if self._reload is not None and due is not None and now >= due:
            fresh = await asyncio.to_thread(self._reload, now)
            learned = self._snapshot.learned_floors
            self._snapshot = replace(self._grid_service.with_live_data(fresh), learned_floors=learned)
            log.info("prices_changed config_hash=%s", self._snapshot.generation)

    def _publish_snapshot(self, snapshot: Snapshot) -> None:
        """Publish a snapshot with live grid and accelerator data; open requests keep theirs."""
        self._snapshot = snapshot

    def _publish_fitted(self, learned: LearnedFloors) -> None:
        """Publish newly fitted quality floors; open requests keep theirs."""
        self._snapshot = replace(self._snapshot, learned_floors=learned)

    async def _measure_own_energy(self) -> None:
        assert self._own_energy_meter is not None
        await asyncio.to_thread(self._own_energy_meter.read)

    def _refresh_metrics(self) -> None:
        """Read all metrics on the event loop, where nothing changes them meanwhile."""
        self._scraped = list(self._families())

    def _families(self) -> Iterator[MetricFamily]:
        python = platform.python_version()
        yield gauge(
            "penstock_build_info",
            "Version of Penstock and of Python.",
            [((__version__, python), 1)],
            ("version", "python"),
        )
        yield gauge(
            "penstock_config_info",
            "Hash of the configuration in use.",
            [([self._snapshot.generation], 1)],
            ("config_hash",),
        )
        if self._own_energy_meter is not None:
            yield from self._own_energy_metrics(self._own_energy_meter)
        yield gauge("penstock_open_requests", "Requests in flight.", self._server.open_requests)
        yield from self._budget_service.metrics()
        yield from self._session_service.metrics()
        yield from self.quality_service.metrics()
        yield from self._grid_service.metrics()
        yield from self._pipeline.deferrer.metrics()
        yield counter(
            "penstock_stopped_session_requests_total",
            "Requests of stopped sessions, refused from memory without a ledger entry.",
            self._pipeline.stopped_session_requests,
        )
        yield gauge(
            "penstock_ledger_failing", "1 while the journal or the ledger cannot be written.", self._ledger.is_failing
        )
        yield gauge("penstock_ledger_backlog", "Ledger entries not yet in SQLite.", self._ledger.backlog)
        now = self._clock.monotonic()
        yield gauge(
            "penstock_deployment_healthy",
            "0 while the circuit breaker is open or the deployment asked to wait (429).",
            [([name], self._breakers.is_healthy(name, now=now)) for name in self._snapshot.deployments],
            ("deployment",),
        )

    def _own_energy_metrics(self, meter: OwnEnergyMeter) -> Iterator[MetricFamily]:
        yield counter(
            "penstock_gateway_energy_joules_total", "Energy of the gateway process (CodeCarbon).", meter.energy_joules
        )
        yield counter(
            "penstock_gateway_carbon_grams_total", "gCO2e of the gateway process (CodeCarbon).", meter.carbon_grams
        )
        yield gauge(
            "penstock_gateway_energy_per_request_joules",
            "Energy of the gateway process per request served.",
            meter.energy_joules / max(1, self._metrics.request_count),
        )


def export_ledger(data: Path, query: Mapping[str, str], *, now: float) -> tuple[str, str]:
    """(text, content type) of an export; `query` has from, to, by, format. Raises ValueError.

    Uses its own connection: a gateway may be running on the same folder. Raises Overloaded where the ledger cannot be read.
    """
    unknown = set(query) - {"from", "to", "by", "format"}
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(sorted(unknown))}")
    format_ = query.get("format", "csv")
    export_query = grouped_export.parse_query(
        by=query.get("by", "task_type"), start=query.get("from"), end=query.get("to"), now=now
    )
    try:
        store = SqliteLedger(data / "ledger.sqlite", must_exist=True)
    except sqlite3.OperationalError as error:
        raise Overloaded(f"Ledger not readable: {error}.") from error
    try:
        rows = store.sum_by(export_query.groups, export_query.start_ms, export_query.end_ms)
    finally:
        store.close()
    return grouped_export.render(rows, export_query, format_), grouped_export.CONTENT_TYPES[format_]
