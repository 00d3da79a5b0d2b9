"""What edge tests share: a simulated provider and a gateway on real sockets, in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.app import App
from gateway.config.settings import Settings
from gateway.pipeline.ports import Clock
from gateway.simulator.provider import SimulatedModel, SimulatedProvider
from tests.gateways import Gateway, StartGateway
from tests.snapshots import BASE_CONFIG, snapshot


@pytest.fixture
def start_gateway(tmp_path: Path) -> StartGateway:
    """`async with start_gateway(more="...") as it:` starts one and stops it.

    config, more, small: as in `snapshot`
    slow, rate: seconds to the first token and tokens a second of both providers, 0 for at once
    data: the data folder; all of a test share one unless it is given
    clock: the system's by default
    settings: further settings of the process
    """

    @asynccontextmanager
    async def start(
        *,
        config: str = BASE_CONFIG,
        more: str = "",
        small: str = "",
        clock: Clock | None = None,
        slow: float = 0.0,
        rate: float = 0.0,
        data: Path | None = None,
        **settings: Any,
    ) -> AsyncIterator[Gateway]:
        near = SimulatedProvider(SimulatedModel(model="sim-small", first_token_seconds=slow, tokens_per_second=rate))
        far = SimulatedProvider(SimulatedModel(model="sim-frontier", first_token_seconds=slow, tokens_per_second=rate))
        base_urls = {"near": await near.start(), "far": await far.start()}
        folder = data or tmp_path / "data"
        try:
            app = App(
                Settings(data=folder, port=0, drain_seconds=2.0, **settings),
                snapshot(config=config, more=more, small=small, **base_urls),
                clock=clock,
            )
            await app.start()
            # 200 connections: more than the default, so that tests can have many requests in flight.
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as client:
                gateway = Gateway(app, near, far, client, folder)
                try:
                    yield gateway
                finally:
                    await gateway.stop()
        finally:
            await near.stop()
            await far.stop()

    return start
