"""A gateway with one provider of each kind, in its own process. Prints the port.

python -m tests.dialects.translation.gateway_process FOLDER

A process of its own, because litellm emits warnings and cannot be unloaded.
"""

import asyncio
import sys
from pathlib import Path

from gateway.app import App
from gateway.config.load import parse
from gateway.config.settings import Settings
from gateway.simulator.gemini import SimulatedGemini
from gateway.simulator.provider import SimulatedModel, SimulatedProvider

CHAT_ONLY_DIALECTS = frozenset({"chat", "embeddings"})
CONFIG = """
version: 1
access: open
providers:
  openai: {{base_url: "{openai}", api_key: {{env: OPENAI}}}}
  chatonly: {{base_url: "{chatonly}", api_key: {{env: OPENAI}}}}
  anthropic: {{dialect: anthropic, base_url: "{anthropic}", api_key: {{env: ANTHROPIC}}}}
  gemini: {{dialect: litellm, base_url: "{gemini}", api_key: {{env: GEMINI}}}}
deployments:
  openai: {{provider: openai, model: sim-openai, tier: frontier, price: {{input: 1, output: 2}}, reasoning: true}}
  chatonly: {{provider: chatonly, model: sim-chatonly, tier: small, price: {{input: 1, output: 2}}}}
  anthropic: {{provider: anthropic, model: sim-anthropic, tier: frontier, price: {{input: 1, output: 2}}, reasoning: true, output_tokens: 8000}}
  gemini: {{provider: gemini, model: gemini/gemini-2.5-flash, tier: small, price: {{input: 1, output: 2}}, reasoning: true,
           timeouts: {{connect: 5, first_byte: 2, idle: 1, total: 20}}}}
routes:
  openai: {{candidates: [openai]}}
  chat-only: {{candidates: [chatonly]}}
  anthropic: {{candidates: [anthropic]}}
  gemini: {{candidates: [gemini]}}
  auto: {{candidates: [chatonly, openai, anthropic], auto: true}}
retries: {{same_deployment: 0}}
"""
ENV = {"OPENAI": "openai-key", "ANTHROPIC": "anthropic-key", "GEMINI": "gemini-key"}


async def main(folder: Path) -> None:
    """Serve until killed."""
    providers = {
        "openai": SimulatedProvider(SimulatedModel(model="sim-openai", strict=True, api_key=ENV["OPENAI"])),
        "chatonly": SimulatedProvider(
            SimulatedModel(model="sim-chatonly", strict=True, api_key=ENV["OPENAI"], dialects=CHAT_ONLY_DIALECTS)
        ),
        "anthropic": SimulatedProvider(
            SimulatedModel(
                model="sim-anthropic", strict=True, api_key=ENV["ANTHROPIC"], dialects=frozenset({"messages"})
            )
        ),
    }
    bases = {name: await provider.start() for name, provider in providers.items()}
    bases["gemini"] = await SimulatedGemini("gemini-2.5-flash", key=ENV["GEMINI"]).start()
    snapshot, _ = parse(CONFIG.format(**bases), "matrix.yaml", ENV)
    app = App(Settings(data=folder, port=0, drain_seconds=0.1), snapshot)
    await app.start()
    print(app.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
