"""A gateway on real sockets in front of two simulated providers, in this process, and a client that knows its key."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp

from gateway.app import App
from gateway.simulator.provider import SimulatedProvider

AUTH_HEADERS = {"Authorization": "Bearer secret-one"}


class Gateway:
    """A running gateway with its two providers, and a client that knows its key."""

    def __init__(
        self, app: App, near: SimulatedProvider, far: SimulatedProvider, client: aiohttp.ClientSession, data: Path
    ):
        self.app, self.small_provider, self.frontier_provider, self.client, self.data_folder = (
            app,
            near,
            far,
            client,
            data,
        )
        self.base_url = f"http://127.0.0.1:{app.port}"

    def post(self, headers: dict | None = None, **body: object):
        """A chat request; fields as keywords."""
        document = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.client.post(
            f"{self.base_url}/v1/chat/completions", json=document, headers={**AUTH_HEADERS, **(headers or {})}
        )

    def get(self, path: str, **more: object):
        """Any other path."""
        return self.client.get(f"{self.base_url}{path}", **more)


# `async with start_gateway(more="...") as it:` starts one and stops it.
StartGateway = Callable[..., AbstractAsyncContextManager[Gateway]]
