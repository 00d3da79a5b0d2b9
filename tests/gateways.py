"""A gateway on real sockets in front of two simulated providers, in this process, and a client that knows its key."""

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import aiohttp

from gateway.app import App
from gateway.simulator.provider import SimulatedProvider

AUTH_HEADERS = {"Authorization": "Bearer secret-one"}
_DEADLINE_SECONDS = 20.0
_POLL_SECONDS = 0.01


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
