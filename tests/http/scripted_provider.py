"""A provider that answers every request with given bytes, and a gateway in front of it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from gateway.app import App
from gateway.config.load import parse
from gateway.config.settings import Settings
from tests.http.running_gateway import RunningGateway

CONFIG = """
version: 1
access: open
providers:
  chat: {{base_url: "{url}/v1", api_key: {{env: KEY}}, speaks: [chat]}}
  anthropic: {{dialect: anthropic, base_url: "{url}", api_key: {{env: KEY}}}}
deployments:
  chat: {{provider: chat, model: {model}, tier: small, price: {{input: 1, output: 2}}, output_tokens: 4000}}
  anthropic: {{provider: anthropic, model: {model}, tier: small, price: {{input: 1, output: 2}}, output_tokens: 4000}}
routes:
  chat: {{candidates: [chat]}}
  messages: {{candidates: [anthropic]}}
"""


class ScriptedProvider:
    """Answers with `body`, and keeps the bodies that it received."""

    def __init__(self, body: bytes, *, status: int = 200) -> None:
        is_stream = body.startswith((b"data:", b"event:", b":"))
        self._content_type = "text/event-stream" if is_stream else "application/json"
        self._body, self._status = body, status
        self.requests: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(json.loads(await request.read()))
        return web.Response(status=self._status, body=self._body, content_type=self._content_type)


@asynccontextmanager
async def scripted_gateway(
    data: Path, body: bytes, *, status: int = 200, model: str = "m"
) -> AsyncIterator[tuple[RunningGateway, ScriptedProvider]]:
    """Starts a gateway whose routes `chat` and `messages` lead to such a provider in that dialect, and stops both."""
    provider = ScriptedProvider(body, status=status)
    application = web.Application()
    application.router.add_post("/{path:.*}", provider.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        snapshot = parse(CONFIG.format(url=url, model=model), "s.yaml", {"KEY": "key"})[0]
        app = App(Settings(data=data, port=0, drain_seconds=2.0), snapshot)
        await app.start()
        async with aiohttp.ClientSession() as client:
            gateway = RunningGateway(app, client, data, {})
            try:
                yield gateway, provider
            finally:
                if not gateway.stopped:
                    await app.stop()
    finally:
        await runner.cleanup()
