"""Builds every object once and wires it; the only file that knows everybody."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from . import __version__
from .config.settings import Settings
from .exporters import grouped_export
from .exporters.prometheus import Metrics
from .feeds import package_data, scorer_weights
from .feeds.self_energy import SelfMeter
from .http import server
from .http.admin import Admin
from .http.feed_client import Fetcher
from .http.litellm_adapter import LitellmDoor
from .http.token_counter import TokenCounter
from .http.upstream import HttpUpstream
from .pipeline.context import Decided, Progress
from .pipeline.pipeline import Exchange
from .pipeline.ports import Answering, Clock
from .providers.upstream_call import UpstreamCall
from .routing.circuit_breaker import HealthBook
from .services.budgets import Gauge, Treasury
from .services.grid import Observatory
from .services.quality import School
from .services.sessions import Roster
from .services.supervisor import Supervisor
from .stores.journal import Journal
from .stores.ledger import QUEUE_MAX, Ledger
from .stores.ledger_sqlite import SqliteLedger
from .stores.metered_energy_sqlite import SqliteMeasured
from .values.ledger_entry import LedgerEntry
from .values.quality import Learnt
from .values.snapshot import World

log = logging.getLogger(__name__)

_HOUSEKEEPING_SECONDS = 30.0
_SELF_SECONDS = 15.0
# How late a price may take effect.
_PRICES_SECONDS = 1.0
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


class SystemChance:
    """The machine's randomness. Request ids are 64 random bits after the time in seconds: they sort, and are unique
    across replicas because each process seeds its generator from the operating system."""

    def __init__(self) -> None:
        self._random = random.Random(secrets.randbits(256))
        self.jitter = self._random.random

    def request_id(self) -> str:
        """A fresh id of 24 hex characters."""
        return f"{int(time.time()):08x}{self._random.getrandbits(64):016x}"


class Doors:
    """The doors to all providers behind the exchange's Protocol."""

    def __init__(self, http: HttpUpstream, litellm: LitellmDoor) -> None:
        self._http = http
        self._litellm = litellm

    async def dial(self, call: UpstreamCall) -> Answering:
        """Each deployment through its own door."""
        return await (self._litellm if call.deployment.dialect == "litellm" else self._http).dial(call)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()
        await self._litellm.close()


class Learners:
    """Who learns from calls: what was good about answers, what machines take."""

    def __init__(self, school: School, observatory: Observatory) -> None:
        self._school = school
        self._machines = observatory.machines
        self.dialled = observatory.machines.dialled

    def served(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None:
        """Both, one after the other."""
        self._school.served(decided, progress, entry)
        self._machines.served(decided, progress, entry)


class App:
    """One gateway process: `start`, serve, `stop`. `reload` gives the world of the same configuration at a later time,
    when its prices have changed; `refit` fits what is learnt anew. `clock` is the machine's, unless a day is to pass in
    minutes."""

    def __init__(
        self,
        settings: Settings,
        world: World,
        reload: Callable[[float], World] | None = None,
        refit: Callable[[], Awaitable[None]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._world = world
        self._clock = clock or SystemClock()
        self._chance = SystemChance()
        self._reload = reload
        self._health = HealthBook()
        self._gauges_read: list[Gauge] = []
        self._metrics = Metrics(lambda: self._gauges_read)
        self._draining = False
        self._runners: list[web.ServerRunner] = []
        self._supervisor = Supervisor(self._clock.sleep)
        url = settings.redis_url
        redis = (url.get_secret_value(), settings.redis_timeout_seconds) if url is not None else None
        self._treasury = Treasury(lambda: self._world, settings.data, redis, self._supervisor, self._clock.now)
        self.school = School(
            lambda: self._world,
            settings.data,
            self._supervisor,
            self._clock.now,
            self._chance.jitter,
            self._learnt,
            scorer_weights.load(),
            refit,
        )
        secret = settings.approval_secret.get_secret_value() if settings.approval_secret is not None else None
        self._roster = Roster(
            lambda: self._world, settings.data, secret, self._supervisor, self._clock.now, self._chance.request_id,
            self.school.reported,
        )  # fmt: skip
        self._fetcher = Fetcher()
        self._observatory = Observatory(
            lambda: self._world,
            self._observed,
            self._fetcher.get,
            self._clock.now,
            self._clock.monotonic,
            self._chance.jitter,
        )
        self._self_meter = SelfMeter(settings.self_country) if settings.measure_self else None
        self.port = settings.port
        self.admin_port = settings.admin_port

    async def start(self) -> None:
        """Recover the ledger, open the doors. Raises OSError if a port or the data folder cannot be had."""
        settings = self._settings
        self._store = SqliteLedger(settings.data / "ledger.sqlite")
        self._ledger = Ledger(Journal(settings.data / "journal"), self._store, self._metrics.publish)
        self._ledger.start()
        self._treasury.start(self._store)
        self._roster.start(self._treasury.announce, self._treasury.sessions, self._treasury.desk.grant)
        self._treasury.restore(self._roster.capped())
        litellm = LitellmDoor(self._supervisor.start)
        self._upstream = Doors(HttpUpstream(), litellm)
        exchange = self._exchange = Exchange(
            world=lambda: self._world,
            budgets=self._treasury.budgets,
            sessions=self._roster.sessions,
            news=self._roster,
            health=self._health,
            upstream=self._upstream,
            counter=TokenCounter(package_data.tokenizer_folder()),
            ledger=self._ledger,
            clock=self._clock,
            chance=self._chance,
            outputs=self._treasury.outputs,
            learner=Learners(self.school, self._observatory),
            scorer=scorer_weights.load(),
        )
        self.school.start(exchange, self._treasury.announce)
        self._observatory.start(self._supervisor, SqliteMeasured(settings.data / "ledger.sqlite"))
        self._front = server.Front(
            exchange=exchange,
            world=lambda: self._world,
            admin=self._admin(with_data=settings.admin_port is None),
            desk=self._treasury.desk,
            session_desk=self._roster.desk,
            body_bytes_max=settings.body_bytes_max,
            calls_max=settings.calls_max,
            count_error=self._metrics.count_error,
        )
        self.port = await self._listen(self._front.handle, settings.port, settings.drain_seconds)
        self._roster.base = (settings.public_url or f"http://{settings.host}:{self.port}").rstrip("/")
        if settings.admin_port is not None:
            self.admin_port = await self._listen(self._admin(with_data=True).handle, settings.admin_port, 1.0)
        if any(deployment.dialect == "litellm" for deployment in self._world.deployments.values()):
            # Four seconds that the first call need not wait for.
            self._supervisor.start("litellm-import", litellm.warm(), lambda error: log.error("%s", error))
        self._supervisor.every(_HOUSEKEEPING_SECONDS, "housekeeping", self._housekeeping)
        if self._reload is not None:
            self._supervisor.every(_PRICES_SECONDS, "prices", self._change_prices)
        if self._self_meter is not None:
            self._supervisor.every(_SELF_SECONDS, "self-footprint", self._measure_self)

    async def stop(self) -> None:
        """Let streams end, settle, write the ledger, close."""
        self._draining = True
        self._exchange.deferrer.release()
        for runner in self._runners:
            await runner.cleanup()
        await self._supervisor.stop()
        await self._upstream.close()
        await self._fetcher.close()
        await self.school.write()
        await self._treasury.stop()
        if self._self_meter is not None:
            await asyncio.to_thread(self._self_meter.stop)
        await asyncio.to_thread(self._ledger.close)

    async def _listen(self, handler: server.Handler, port: int, drain_seconds: float) -> int:
        runner = server.runner(handler, drain_seconds=drain_seconds)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, self._settings.host, port, backlog=1024)
        await site.start()
        bound: int = runner.addresses[0][1]
        return bound

    def _admin(self, *, with_data: bool) -> Admin:
        token = self._settings.admin_token
        return Admin(
            ready=self._not_ready,
            snapshot=self._read_gauges,
            render=self._metrics.render,
            export=lambda asked: export(self._settings.data, asked, now=self._clock.now()),
            desk=self._treasury.desk,
            session_desk=self._roster.desk,
            events=self._treasury.events,
            token=token.get_secret_value() if token is not None else None,
            local=self._settings.host in _LOCAL,
            with_data=with_data,
        )

    def _not_ready(self) -> list[str]:
        reasons = ["draining: finishing what is open"] if self._draining else []
        if self._ledger.failing or self._ledger.backlog >= QUEUE_MAX:
            reasons.append("ledger: cannot be written, or too far behind")
        return reasons + self._treasury.wrong()

    async def _housekeeping(self) -> None:
        self._ledger.probe()
        self._treasury.housekeeping()

    async def _change_prices(self) -> None:
        """Publish the next world when a price of the configuration takes effect; open calls keep theirs."""
        now, due = self._clock.now(), self._world.changes_at
        if self._reload is not None and due is not None and now >= due:
            fresh, learnt = await asyncio.to_thread(self._reload, now), self._world.learnt
            self._world = replace(self._observatory.informed(fresh), learnt=learnt)
            log.info("prices have changed; the configuration is now %s", self._world.generation)

    def _observed(self, world: World) -> None:
        """Publish what is known of grids and machines; open calls keep what they began with."""
        self._world = world

    def _learnt(self, learnt: Learnt) -> None:
        """Publish what own traffic has taught; open calls keep what they began with."""
        self._world = replace(self._world, learnt=learnt)

    async def _measure_self(self) -> None:
        assert self._self_meter is not None
        await asyncio.to_thread(self._self_meter.read)

    def _read_gauges(self) -> None:
        """On the event loop, for books are not to be read while they change."""
        self._gauges_read = list(self._gauges())

    def _gauges(self) -> Iterator[Gauge]:
        """What is read when metrics are scraped."""
        front = getattr(self, "_front", None)
        yield (
            "penstock_info",
            "Version and configuration.",
            ["version", "config"],
            [([__version__, self._world.generation], 1.0)],
        )
        if self._self_meter is not None:
            yield (
                "penstock_self_energy_joules",
                "The gateway's own energy since its start (CodeCarbon).",
                [],
                [([], self._self_meter.joules)],
            )
            yield (
                "penstock_self_carbon_grams",
                "The gateway's own gCO2e since its start (CodeCarbon).",
                [],
                [([], self._self_meter.grams)],
            )
            yield (
                "penstock_self_energy_per_request_joules",
                "The gateway's own energy since its start over the requests that it has served.",
                [],
                [([], self._self_meter.joules / max(1, self._metrics.requests))],
            )
        yield "penstock_calls_open", "Calls in flight.", [], [([], float(front.calls if front else 0))]
        yield from self._treasury.gauges()
        yield from self._roster.gauges()
        yield from self.school.gauges()
        yield from self._observatory.gauges()
        if hasattr(self, "_exchange"):
            yield from self._exchange.deferrer.gauges()
        yield (
            "penstock_requests_repelled",
            "Requests of stopped sessions that were answered from memory, since the start.",
            [],
            [([], float(self._exchange.repelled if hasattr(self, "_exchange") else 0))],
        )
        yield (
            "penstock_ledger_failing",
            "1 while the journal or the store cannot be written.",
            [],
            [([], float(self._ledger.failing))],
        )
        yield "penstock_ledger_backlog", "Facts not yet in the store.", [], [([], float(self._ledger.backlog))]
        healthy = [
            ([name], float(self._health.healthy(name, now=self._clock.monotonic()))) for name in self._world.deployments
        ]
        yield "penstock_deployment_healthy", "1 unless the deployment rests after failures.", ["deployment"], healthy


def export(data: Path, asked: Mapping[str, str], *, now: float) -> tuple[str, str]:
    """(text, content type) of an export: parameters from, to, by, format. Raises ValueError.

    Reads over a connection of its own, beside a gateway that may be running on the same folder.
    """
    unknown = set(asked) - {"from", "to", "by", "format"}
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(sorted(unknown))}")
    format_ = asked.get("format", "csv")
    question = grouped_export.question(
        by=asked.get("by", "task_type"), start=asked.get("from"), end=asked.get("to"), now=now
    )
    store = SqliteLedger(data / "ledger.sqlite")
    try:
        rows = store.grouped(question.by, question.start_ms, question.end_ms)
    finally:
        store.close()
    return grouped_export.render(rows, question, format_), grouped_export.CONTENT_TYPES[format_]
