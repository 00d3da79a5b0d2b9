"""Builds every object once and wires it; the only file that knows everybody."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from . import __version__
from .accounting.budgets import Amounts, BudgetBook, Exceeded, Line, Reservation, lines_for
from .config.settings import Settings
from .edge import server
from .edge.admin import Admin
from .edge.litellm_adapter import LitellmDoor
from .edge.supervisor import Supervisor
from .edge.token_counter import TokenCounter
from .edge.upstream import HttpUpstream
from .exchange import Budgets, Exchange
from .exporters import table
from .exporters.prometheus import Metrics
from .feeds.self_energy import SelfMeter
from .providers.call import UpstreamCall
from .relay import Answering
from .routing.health import HealthBook
from .sessions.identity import SessionBook
from .stores.journal import Journal
from .stores.ledger import QUEUE_MAX, Ledger
from .stores.ledger_sqlite import SqliteLedger
from .stores.restore import restore
from .values.catalog import Budget
from .values.world import World

if TYPE_CHECKING:
    from .stores.budgets_redis import RedisBudgets

log = logging.getLogger(__name__)

_HOUSEKEEPING_SECONDS = 30.0
_SELF_SECONDS = 15.0
# How long a settled call may wait before the shared store hears of it, and how often metrics ask it.
_FLUSH_SECONDS = 0.02
_STANDINGS_SECONDS = 5.0
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


class LocalBudgets:
    """The budget book of this process behind the exchange's Protocol."""

    def __init__(self, book: BudgetBook) -> None:
        self.book = book
        self.settle = book.settle

    async def reserve(
        self, reservation_id: str, lines: tuple[Line, ...], offers: Sequence[Amounts], *, now: float, lease: float
    ) -> Reservation | Exceeded:
        """Awaits nothing: in process the book answers at once."""
        return self.book.reserve(reservation_id, lines, offers, now=now, lease=lease)


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


class App:
    """One gateway process: `start`, serve, `stop`."""

    def __init__(self, settings: Settings, world: World) -> None:
        self._settings = settings
        self._world = world
        self._clock = SystemClock()
        self._book = BudgetBook()
        self._shared: RedisBudgets | None = None
        self._standings: dict[str, tuple[int, int]] = {}
        self._sessions = SessionBook()
        self._health = HealthBook()
        self._metrics = Metrics(self._gauges)
        self._draining = False
        self._runners: list[web.ServerRunner] = []
        self._supervisor = Supervisor()
        self._self_meter = SelfMeter(settings.self_country) if settings.measure_self else None
        self.port = settings.port
        self.admin_port = settings.admin_port

    async def start(self) -> None:
        """Recover the ledger, open the doors. Raises OSError if a port or the data folder cannot be had."""
        settings = self._settings
        self._store = SqliteLedger(settings.data / "ledger.sqlite")
        self._ledger = Ledger(Journal(settings.data / "journal"), self._store, self._metrics.publish)
        self._ledger.start()
        budgets = self._budgets()
        litellm = LitellmDoor(self._supervisor)
        self._upstream = Doors(HttpUpstream(), litellm)
        exchange = Exchange(
            world=lambda: self._world,
            budgets=budgets,
            sessions=self._sessions,
            health=self._health,
            upstream=self._upstream,
            counter=TokenCounter(),
            ledger=self._ledger,
            clock=self._clock,
            chance=SystemChance(),
        )
        self._front = server.Front(
            exchange=exchange,
            world=lambda: self._world,
            admin=self._admin(with_data=settings.admin_port is None),
            body_bytes_max=settings.body_bytes_max,
            calls_max=settings.calls_max,
            count_error=self._metrics.count_error,
        )
        self.port = await self._listen(self._front.handle, settings.port, settings.drain_seconds)
        if settings.admin_port is not None:
            self.admin_port = await self._listen(self._admin(with_data=True).handle, settings.admin_port, 1.0)
        if any(deployment.dialect == "litellm" for deployment in self._world.deployments.values()):
            # Four seconds that the first call need not wait for.
            self._supervisor.start("litellm-import", litellm.warm(), lambda error: log.error("%s", error))
        self._supervisor.every(_HOUSEKEEPING_SECONDS, "housekeeping", self._housekeeping)
        if self._shared is not None:
            self._supervisor.every(_FLUSH_SECONDS, "budget-resolutions", self._shared.flush)
            self._supervisor.every(_STANDINGS_SECONDS, "budget-standings", self._look_at_budgets)
        if self._self_meter is not None:
            self._supervisor.every(_SELF_SECONDS, "self-footprint", self._measure_self)

    async def stop(self) -> None:
        """Let streams end, settle, write the ledger, close."""
        self._draining = True
        for runner in self._runners:
            await runner.cleanup()
        await self._supervisor.stop()
        await self._upstream.close()
        if self._shared is not None:
            await self._shared.close()
        if self._self_meter is not None:
            await asyncio.to_thread(self._self_meter.stop)
        await asyncio.to_thread(self._ledger.close)

    def _budgets(self) -> Budgets:
        """The shared store where one is configured, else this process's own book, brought up to the ledger."""
        if self._settings.redis_url is None:
            restore(self._book, self._world, self._store, now=self._clock.now())
            return LocalBudgets(self._book)
        # Lazy door: redis-py takes a third of the start-up time, and most gateways stand alone.
        from .stores.budgets_redis import RedisBudgets  # noqa: PLC0415

        self._shared = RedisBudgets(self._settings.redis_url.get_secret_value())
        return self._shared

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
            render=self._metrics.render,
            export=lambda asked: export(self._settings.data, asked, now=self._clock.now()),
            token=token.get_secret_value() if token is not None else None,
            local=self._settings.host in _LOCAL,
            with_data=with_data,
        )

    def _not_ready(self) -> list[str]:
        reasons = ["draining: finishing what is open"] if self._draining else []
        if self._ledger.failing or self._ledger.backlog >= QUEUE_MAX:
            reasons.append("ledger: cannot be written, or too far behind")
        if self._shared is not None and self._shared.failing:
            reasons.append("budgets: the shared store does not answer")
        return reasons

    async def _housekeeping(self) -> None:
        self._ledger.probe()
        late = self._book.expire(self._clock.now())
        if late:
            log.error("%d holds expired and were charged in full", len(late))

    async def _look_at_budgets(self) -> None:
        """Ask the shared store how the named budgets stand, for the metrics."""
        assert self._shared is not None
        for _, line in self._named_lines():
            self._standings[line.account] = await self._shared.standing(line)

    def _named_lines(self) -> list[tuple[Budget, Line]]:
        """Budgets whose accounts the configuration bounds, with their current line."""
        now = self._clock.now()
        return [
            (budget, line)
            for budget in self._world.budgets
            if "*" not in budget.scope.values()
            for line in lines_for((budget,), budget.scope, now=now)
        ]

    def _standing(self, line: Line) -> tuple[int, int]:
        return self._book.standing(line) if self._shared is None else self._standings.get(line.account, (0, 0))

    async def _measure_self(self) -> None:
        assert self._self_meter is not None
        await asyncio.to_thread(self._self_meter.read)

    def _gauges(self) -> Iterator[tuple[str, str, list[str], list[tuple[list[str], float]]]]:
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
        yield "penstock_calls_open", "Calls in flight.", [], [([], float(front.calls if front else 0))]
        holds = self._shared.open_holds if self._shared is not None else self._book.open_holds
        yield "penstock_holds_open", "Reservations not yet resolved.", [], [([], float(holds))]
        yield (
            "penstock_ledger_failing",
            "1 while the journal or the store cannot be written.",
            [],
            [([], float(self._ledger.failing))],
        )
        yield "penstock_ledger_backlog", "Facts not yet in the store.", [], [([], float(self._ledger.backlog))]
        named = self._named_lines()
        for place, name in enumerate(("spent", "held")):
            yield (
                f"penstock_budget_{name}_ratio",
                f"Share of the limit that is {name}.",
                ["budget"],
                [([budget.name], self._standing(line)[place] / line.limit) for budget, line in named if line.limit],
            )
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
    question = table.question(by=asked.get("by", "task_type"), start=asked.get("from"), end=asked.get("to"), now=now)
    store = SqliteLedger(data / "ledger.sqlite")
    try:
        rows = store.grouped(question.by, question.start_ms, question.end_ms)
    finally:
        store.close()
    return table.render(rows, question, format_), table.CONTENT_TYPES[format_]
