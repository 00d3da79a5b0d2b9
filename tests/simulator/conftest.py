"""A simulated provider on a real socket, with two clients for it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest

from gateway.simulator.provider import SimulatedModel, SimulatedProvider

VERSION = {"anthropic-version": "2023-06-01"}


@dataclass
class Sim:
    """A running provider and its clients."""

    provider: SimulatedProvider
    openai: openai.AsyncOpenAI
    http: aiohttp.ClientSession
    base: str

    async def post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, Any, Any]:
        """(status, headers, document or text) of a request."""
        body = {"model": "m", **body}
        async with self.http.post(f"{self.base}{path}", json=body, headers={**VERSION, **(headers or {})}) as answer:
            raw = await answer.read()
            is_json = answer.content_type == "application/json"
            return answer.status, answer.headers, json.loads(raw) if is_json else raw.decode(errors="replace")

    async def messages(self, *messages: dict[str, Any], max_tokens: int | None = 4000, **more: Any) -> Any:
        """The document or text that /v1/messages returns."""
        limit: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
        _, _, document = await self.post("/messages", messages=list(messages), **limit, **more)
        return document


@pytest.fixture
def sim() -> Callable[..., Any]:
    """`async with sim(strict=True) as it:` starts one."""

    @asynccontextmanager
    async def start(**personality: Any) -> AsyncIterator[Sim]:
        provider = SimulatedProvider(SimulatedModel(model="m", **personality))
        base = await provider.start()
        try:
            async with (
                openai.AsyncOpenAI(base_url=base, api_key="right", max_retries=0) as client,
                aiohttp.ClientSession() as http,
            ):
                yield Sim(provider, client, http, base)
        finally:
            await provider.stop()

    return start
