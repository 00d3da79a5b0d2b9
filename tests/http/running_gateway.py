"""A gateway with simulated providers: OpenAI, chat completions only, Anthropic."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from gateway.app import App
from gateway.config.load import parse
from gateway.config.settings import Settings
from gateway.simulator.provider import SimulatedModel, SimulatedProvider
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.ledger_entry import LedgerEntry

CONFIG = """
version: 1
access: open
providers:
  openai: {{base_url: "{openai}", api_key: {{env: OPENAI}}}}
  chatonly: {{base_url: "{chatonly}", api_key: {{env: OPENAI}}}}
  anthropic: {{dialect: anthropic, base_url: "{anthropic}", api_key: {{env: ANTHROPIC}}}}
deployments:
  openai: {{provider: openai, model: sim-openai, tier: frontier, price: {{input: 1, output: 2}}, reasoning: true, output_tokens: 4000}}
  chatonly: {{provider: chatonly, model: sim-chatonly, tier: small, price: {{input: 1, output: 2}}, output_tokens: 4000}}
  anthropic: {{provider: anthropic, model: sim-anthropic, tier: frontier, reasoning: true, output_tokens: 4000,
              price: {{input: 1, output: 2, cached_input: 0.1, cache_write: 1.25, cache_write_long: 2}}}}
  painter: {{provider: openai, model: sim-openai, price_list: "1024-x-1024/50-steps/bedrock/amazon.nova-canvas-v1:0", tier: frontier}}
routes:
  openai: {{candidates: [openai]}}
  chat-only: {{candidates: [chatonly]}}
  anthropic: {{candidates: [anthropic]}}
  painter: {{candidates: [painter]}}
  all: {{candidates: [chatonly, openai, anthropic]}}
  auto: {{candidates: [chatonly, openai, anthropic], auto: true}}
  claude-*: {{candidates: [anthropic]}}
{more}
"""
ENV = {"OPENAI": "openai-key", "ANTHROPIC": "anthropic-key"}


class RunningGateway:
    """A running gateway with its providers.

    `request` and `post` return (status, headers, body).
    """

    def __init__(self, app: App, client: aiohttp.ClientSession, data: Path, providers: dict[str, SimulatedProvider]):
        self.app, self.client, self.data_folder, self.providers = app, client, data, providers
        self.stopped = False
        self.base_url = f"http://127.0.0.1:{app.port}"

    async def request(self, method: str, path: str, document: object = None, **headers: str):
        """Sends a request; underscores in header names stand for dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.request(method, self.base_url + path, json=document, headers=named) as answer:
            return answer.status, answer.headers, await answer.read()

    async def post(self, path: str, document: object, **headers: str):
        return await self.request("POST", path, document, **headers)

    async def ledger(self) -> list[LedgerEntry]:
        """Stops the gateway and returns every ledger entry."""
        self.stopped = True
        await self.app.stop()
        store = SqliteLedger(self.data_folder / "ledger.sqlite")
        try:
            return list(store.entries())
        finally:
            store.close()


@asynccontextmanager
async def running_gateway(data: Path, *, more: str = "", rate: float = 0.0) -> AsyncIterator[RunningGateway]:
    """Starts a gateway with its providers, and stops them."""
    models = {
        "openai": SimulatedModel(model="sim-openai", tokens_per_second=rate, strict=True, api_key=ENV["OPENAI"]),
        "chatonly": SimulatedModel(
            model="sim-chatonly",
            tokens_per_second=rate,
            strict=True,
            api_key=ENV["OPENAI"],
            dialects=frozenset({"chat", "embeddings"}),
        ),
        "anthropic": SimulatedModel(
            model="sim-anthropic",
            tokens_per_second=rate,
            strict=True,
            api_key=ENV["ANTHROPIC"],
            dialects=frozenset({"messages"}),
        ),
    }
    providers = {name: SimulatedProvider(model) for name, model in models.items()}
    async with AsyncExitStack() as stack:
        base_urls = {}
        for name, provider in providers.items():
            base_urls[name] = await provider.start()
            stack.push_async_callback(provider.stop)
        app = App(
            Settings(data=data, port=0, drain_seconds=2.0),
            parse(CONFIG.format(more=more, **base_urls), "s.yaml", ENV)[0],
        )
        await app.start()
        client = await stack.enter_async_context(aiohttp.ClientSession())
        gateway = RunningGateway(app, client, data, providers)
        try:
            yield gateway
        finally:
            if not gateway.stopped:
                await app.stop()
