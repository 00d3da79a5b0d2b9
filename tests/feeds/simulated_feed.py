"""The carbon intensity feed of Great Britain on loopback, for tests of a running gateway."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

SLOT_MINUTES = 30


class SimulatedFeed:
    """Answers with `grams` for the current half hour in region 13.

    answer: sent instead, if set
    may_answer: requests wait until it is set
    polls: number of requests
    """

    def __init__(self) -> None:
        self.grams: object = 42
        self.answer: web.Response | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.polls = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.polls += 1
        await self.may_answer.wait()
        if self.answer is not None:
            return web.Response(status=self.answer.status, body=self.answer.body)
        now = datetime.now(UTC)
        slot = now.replace(minute=now.minute // SLOT_MINUTES * SLOT_MINUTES, second=0, microsecond=0)
        row = {"from": slot.strftime("%Y-%m-%dT%H:%MZ"), "intensity": {"forecast": self.grams}}
        return web.json_response({"data": {"regionid": 13, "data": [row]}})


@asynccontextmanager
async def serving(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serves every path by one handler on a free port; yields the base URL."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running_feed() -> AsyncIterator[tuple[SimulatedFeed, str]]:
    feed = SimulatedFeed()
    async with serving(feed.handle) as base_url:
        try:
            yield feed, base_url
        finally:
            feed.may_answer.set()
