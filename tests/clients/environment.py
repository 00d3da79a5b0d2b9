"""Starts the servers of the clients as processes: simulated providers, and one gateway per profile."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import ClientSession

from .clients import CLIENTS, EMBEDDER

ROOT = Path(__file__).resolve().parent.parent.parent
# A caller with budget, one without, and the gateway's key at the providers.
FUNDED_KEY, UNFUNDED_KEY, PROVIDER_KEY = "sk-clients-rich", "sk-clients-poor", "sk-clients-provider"
_START_SECONDS, _AUDIT_WAIT_SECONDS = 60, 0.5
_MODEL_NAMES = sorted({client.model for client in CLIENTS})
_ANTHROPIC_MODEL_NAMES = {client.model for client in CLIENTS if client.anthropic}

_ROUTING_YAML = """\
version: 1
access: keys
keys:
  - {{id: rich, team: clients, secret: {{env: PENSTOCK_KEY_RICH}}}}
  - {{id: poor, team: clients, secret: {{env: PENSTOCK_KEY_POOR}}}}
providers:
  openai: {{base_url: "{openai}", api_key: {{env: PROVIDER_KEY}}}}
  anthropic: {{dialect: anthropic, base_url: "{anthropic}", api_key: {{env: PROVIDER_KEY}}}}
  # Its dialects are not configured: the gateway finds out.
  chat-only: {{base_url: "{chat_only}", api_key: {{env: PROVIDER_KEY}}}}
  embedder: {{base_url: "{embedder}", api_key: {{env: PROVIDER_KEY}}}}
deployments:
  openai:
    {{provider: openai, model: up-openai, tier: small, price: {{input: 0.25, output: 2, cached_input: 0.025}},
     energy: {{active_params_b: 8}}, zone: FRA, context_tokens: 400000, output_tokens: 128000}}
  chat-only:
    {{provider: chat-only, model: up-chat, tier: medium, price: {{input: 0.5, output: 4}},
     energy: {{active_params_b: 20}}, zone: DEU, context_tokens: 400000, output_tokens: 128000}}
  anthropic:
    {{provider: anthropic, model: up-anthropic, tier: frontier, price: {{input: 1.25, output: 10}},
     energy: {{active_params_b: 60}}, zone: USA, context_tokens: 400000, output_tokens: 128000}}
  embedder:
    {{provider: embedder, model: up-embedder, tier: small, price: {{input: 0.02, output: 0}},
     energy: {{active_params_b: 1}}, zone: FRA, context_tokens: 8192, output_tokens: 1}}
routes:
{routes}
task_types:
  code: {{tools: [bash], words: [debug, function]}}
budgets:
  poor-key-per-day: {{scope: {{key: poor}}, limit: {{usd: 0.0000001}}, window: day}}
"""


class ClientEnvironment:
    """The processes of one run of the suite.

    `proxy_url` returns the URL that gateways use for a provider, from its name and own URL.
    """

    def __init__(self, folder: Path, proxy_url: Callable[[str, str], str] = lambda _, url: url) -> None:
        self._folder = folder
        self._proxy_url = proxy_url
        self._gateway_urls: list[str] = []
        self._processes: list[asyncio.subprocess.Process] = []
        self._provider_urls: dict[str, str] = {}

    async def direct_providers(self) -> dict[str, str]:
        """Start providers with every dialect and open access; base URL (without /v1) by model."""
        return {
            model: url.removesuffix("/v1")
            for model, url in (await self._start_provider("direct", _MODEL_NAMES)).items()
        }

    async def start_gateway(self, profile: str) -> dict[str, str]:
        """Start a gateway with the routes of a profile; base URL by model."""
        routing = self._folder / f"{profile}.yaml"
        routing.write_text(_ROUTING_YAML.format(routes=_routes(profile), **(await self._start_providers())))
        env = {
            "PATH": os.environ["PATH"],
            "PENSTOCK_PORT": "0",
            "PENSTOCK_DATA": str(self._folder / f"data-{profile}"),
            "PENSTOCK_KEY_RICH": FUNDED_KEY,
            "PENSTOCK_KEY_POOR": UNFUNDED_KEY,
            "PROVIDER_KEY": PROVIDER_KEY,
        }
        penstock = str(Path(sys.executable).parent / "penstock")
        lines = await self._start_process(f"gateway-{profile}", [penstock, "serve", str(routing)], env, 1)
        url = next(word for word in lines[0].split() if word.startswith("http"))
        self._gateway_urls.append(url.removesuffix("/v1"))
        return dict.fromkeys(_MODEL_NAMES, url.removesuffix("/v1"))

    async def loop_events(self) -> list[dict[str, object]]:
        """Loop guard and session events of all gateways, from their audit."""
        # Events are written after the response.
        await asyncio.sleep(_AUDIT_WAIT_SECONDS)
        events: list[dict[str, object]] = []
        async with ClientSession() as session:
            for url in self._gateway_urls:
                async with session.get(f"{url}/admin/budgets/events") as answer:
                    answer.raise_for_status()
                    events += (await answer.json())["data"]
        return [event for event in events if str(event["kind"]).startswith(("loop_", "session_"))]

    async def stop(self) -> None:
        """Stop all processes."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()

    async def _start_providers(self) -> dict[str, str]:
        """Start the providers behind the gateways, shared by all profiles; base URLs by name."""
        if not self._provider_urls:
            options = ("--key", PROVIDER_KEY, "--strict")
            openai = await self._start_provider("openai", ["up-openai"], "--dialects", "chat,responses", *options)
            anthropic = await self._start_provider("anthropic", ["up-anthropic"], "--dialects", "messages", *options)
            chat = await self._start_provider("chat-only", ["up-chat"], "--dialects", "chat", *options)
            embedder = await self._start_provider("embedder", ["up-embedder"], *options)
            self._provider_urls = {
                "openai": self._proxy_url("openai", openai["up-openai"]),
                "anthropic": self._proxy_url("anthropic", anthropic["up-anthropic"]),
                "chat_only": self._proxy_url("chat_only", chat["up-chat"]),
                "embedder": embedder["up-embedder"],
            }
        return self._provider_urls

    async def _start_provider(self, name: str, models: Sequence[str], *options: str) -> dict[str, str]:
        arguments = [argument for model in models for argument in ("--model", f"{model}:0:0")]
        command = [sys.executable, "-m", "gateway.simulator.provider", *arguments, *options]
        lines = await self._start_process(f"provider-{name}", command, {"PATH": os.environ["PATH"]}, len(models))
        return dict(line.split() for line in lines)

    async def _start_process(self, name: str, command: Sequence[str], env: dict[str, str], lines: int) -> list[str]:
        """Start a process and return its first lines of output. Raises RuntimeError if it does not start."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *command, env=env, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=file
            )
        self._processes.append(process)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                output = [(await process.stdout.readline()).decode() for _ in range(lines)]
        except TimeoutError:
            output = [""]
        if not all(output):
            raise RuntimeError(f"{name} did not start:\n{log.read_text()[-3000:]}")
        return output


def _routes(profile: str) -> str:
    return "".join(f"  {name}: {_route(profile, name)}\n" for name in _MODEL_NAMES)


def _route(profile: str, name: str) -> str:
    if name == EMBEDDER:
        return "{candidates: [embedder]}"
    if profile == "auto":
        return "{candidates: [openai, chat-only, anthropic], auto: true}"
    if profile == "chat-only":
        return "{candidates: [chat-only]}"
    own, other = ("anthropic", "openai") if name in _ANTHROPIC_MODEL_NAMES else ("openai", "anthropic")
    return f"{{candidates: [{own if profile == 'same' else other}]}}"
