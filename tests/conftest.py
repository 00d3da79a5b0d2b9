"""What edge tests share: a simulated provider and a gateway on real sockets, in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.app import App
from gateway.config.settings import Settings
from gateway.simulator.provider import SimulatedModel, SimulatedProvider
from tests.gateways import Gateway, StartGateway
from tests.snapshots import snapshot


@pytest.fixture
def start_gateway(tmp_path: Path) -> StartGateway:
    """`async with start_gateway(more="...") as it:` starts one and stops it."""

    @asynccontextmanager
    async def start(
        *,
        more: str = "",
        small: str = "",
        slow: float = 0.0,
        rate: float = 0.0,
        data: Path | None = None,
        **settings: object,
    ) -> AsyncIterator[Gateway]:
        near = SimulatedProvider(SimulatedModel(model="sim-small", first_token_seconds=slow, tokens_per_second=rate))
        far = SimulatedProvider(SimulatedModel(model="sim-frontier", first_token_seconds=slow, tokens_per_second=rate))
        at = snapshot(more=more, small=small, near=await near.start(), far=await far.start())
        folder = data or tmp_path / "data"
        app = App(Settings(data=folder, port=0, drain_seconds=2.0, **settings), at)  # type: ignore[arg-type]
        try:
            await app.start()
            async with aiohttp.ClientSession() as client:
                try:
                    yield Gateway(app, near, far, client, folder)
                finally:
                    await app.stop()
        finally:
            await near.stop()
            await far.stop()

    return start
