"""What edge tests share: a simulated provider and a gateway on real sockets, in this process."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.app import App
from gateway.config.settings import Settings
from gateway.simulator.provider import Personality, SimulatedProvider
from tests.snapshots import world

KEY = {"Authorization": "Bearer secret-one"}


class House:
    """A running gateway with its two providers, and a client that knows its key."""

    def __init__(
        self, app: App, near: SimulatedProvider, far: SimulatedProvider, client: aiohttp.ClientSession, data: Path
    ):
        self.app, self.near, self.far, self.client, self.data = app, near, far, client, data
        self.base = f"http://127.0.0.1:{app.port}"

    def post(self, headers: dict | None = None, **body: object):
        """A chat request; fields as keywords."""
        document = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.client.post(f"{self.base}/v1/chat/completions", json=document, headers={**KEY, **(headers or {})})

    def get(self, path: str, **more: object):
        """Any other path."""
        return self.client.get(f"{self.base}{path}", **more)


@pytest.fixture
def house(tmp_path: Path) -> Callable:
    """`async with house(more="...") as it:` starts one."""

    @asynccontextmanager
    async def start(
        *,
        more: str = "",
        small: str = "",
        slow: float = 0.0,
        rate: float = 0.0,
        data: Path | None = None,
        **settings: object,
    ) -> AsyncIterator[House]:
        near = SimulatedProvider(Personality(model="sim-small", first_token=slow, tokens_per_second=rate))
        far = SimulatedProvider(Personality(model="sim-frontier", first_token=slow, tokens_per_second=rate))
        at = world(more=more, small=small, near=await near.start(), far=await far.start())
        folder = data or tmp_path / "data"
        app = App(Settings(data=folder, port=0, drain_seconds=2.0, **settings), at)  # type: ignore[arg-type]
        try:
            await app.start()
            async with aiohttp.ClientSession() as client:
                try:
                    yield House(app, near, far, client, folder)
                finally:
                    await app.stop()
        finally:
            await near.stop()
            await far.stop()

    return start
