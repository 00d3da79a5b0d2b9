"""A gateway on real sockets in front of two simulated providers, in this process, and a client that knows its key."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp

from gateway.app import App, SystemClock
from gateway.config.settings import Settings
from gateway.pipeline.ports import Clock
from gateway.simulator.provider import SimulatedModel, SimulatedProvider
from tests.snapshots import BASE_CONFIG, snapshot

AUTH_HEADERS = {"Authorization": "Bearer secret-one"}
_DEADLINE_SECONDS = 20.0
_POLL_SECONDS = 0.01
# More than aiohttp's default, so that tests can have many requests in flight.
_CONNECTIONS_MAX = 200


class Gateway:
    """A running gateway with its two providers, and a client that knows its key."""

    def __init__(
        self,
        app: App,
        small_provider: SimulatedProvider,
        frontier_provider: SimulatedProvider,
        client: aiohttp.ClientSession,
        data_folder: Path,
    ) -> None:
        self.app, self.client, self.data_folder = app, client, data_folder
        self.small_provider, self.frontier_provider = small_provider, frontier_provider
        self.base_url = f"http://127.0.0.1:{app.port}"
        self.provider_urls: dict[str, str] = {}
        self._is_stopped = False

    def post(self, headers: dict[str, str] | None = None, **body: object):
        """A chat request; fields as keywords."""
        document = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.client.post(
            f"{self.base_url}/v1/chat/completions", json=document, headers={**AUTH_HEADERS, **(headers or {})}
        )

    def get(self, path: str, **more: Any):
        """Any other path."""
        return self.client.get(f"{self.base_url}{path}", **more)

    async def stop(self) -> None:
        """Finishes open requests, writes the ledger and closes; called again, it does nothing."""
        if not self._is_stopped:
            self._is_stopped = True
            await self.app.stop()

    async def metrics(self) -> str:
        """The exposition text that Prometheus scrapes."""
        async with self.get("/metrics") as answer:
            return await answer.text()

    async def open_holds(self) -> float:
        """Holds that are not settled."""
        return metric_sum(await self.metrics(), "penstock_open_holds")

    def ledger_rows(self) -> list[sqlite3.Row]:
        """The entries that are written, oldest first."""
        with closing(sqlite3.connect(self.data_folder / "ledger.sqlite")) as db:
            db.row_factory = sqlite3.Row
            return db.execute("SELECT * FROM entries ORDER BY at_ms, id").fetchall()


# `async with start_gateway(more="...") as it:` starts one and stops it.
StartGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


class ImpatientClock(SystemClock):
    """The system's clocks, with sleeps a twentieth as long: background tasks run soon."""

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


@asynccontextmanager
async def serving_gateway(
    data: Path,
    *,
    config: str = BASE_CONFIG,
    more: str = "",
    small: str = "",
    slow: float = 0.0,
    rate: float = 0.0,
    clock: Clock | None = None,
    beside: Gateway | None = None,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """Starts a gateway with its providers on a data folder, and stops them.

    config, more, small: as of `snapshot`
    slow, rate: seconds to the first token and tokens a second of both providers, 0 for at once
    clock: the system's by default
    beside: a gateway whose providers it uses
    settings: further settings of the process
    """
    if beside is not None:
        near, far, base_urls = beside.small_provider, beside.frontier_provider, beside.provider_urls
    else:
        near, far = (
            SimulatedProvider(SimulatedModel(model=model, first_token_seconds=slow, tokens_per_second=rate))
            for model in ("sim-small", "sim-frontier")
        )
        base_urls = {"near": await near.start(), "far": await far.start()}
    try:
        app = App(
            Settings(data=data, port=0, drain_seconds=2.0, **settings),
            snapshot(config=config, more=more, small=small, **base_urls),
            clock=clock,
        )
        await app.start()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX)) as client:
            gateway = Gateway(app, near, far, client, data)
            gateway.provider_urls = base_urls
            try:
                yield gateway
            finally:
                await gateway.stop()
    finally:
        if beside is None:
            await near.stop()
            await far.stop()


def metric_sum(text: str, name: str) -> float:
    """The sum of a metric over its labels in an exposition text."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


async def until(condition: Callable[[], Any], seconds: float = _DEADLINE_SECONDS) -> None:
    """Waits for work behind the response, until a condition (or coroutine function) is true."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if await result if asyncio.iscoroutine(result) else result:
                return
            await asyncio.sleep(_POLL_SECONDS)
