"""Background responses over real sockets: polled, streamed and cancelled where they run, from any replica."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app import export_ledger
from tests.gateways import AUTH_HEADERS, Gateway, StartGateway, metric_sum, until
from tests.stores.servers import Server

OTHER_KEY = {"Authorization": "Bearer secret-two"}
# The deployment `frontier` is on none of the routes before its own, and its provider is not the first one.
BUDGET = "budgets: {team: {scope: {team: research}, limit: {usd: 1}, window: day}}"


async def start(gateway: Gateway, model: str = "frontier", **more: Any) -> dict[str, Any]:
    """Starts a background response."""
    body = {"model": model, "input": "write a novel", "background": True, "max_output_tokens": 2000, **more}
    async with gateway.client.post(f"{gateway.base_url}/v1/responses", json=body, headers=AUTH_HEADERS) as answer:
        assert answer.status == 200, await answer.text()
        document: dict[str, Any] = await answer.json()
        return document


async def ask(
    gateway: Gateway, path: str, method: str = "GET", headers: dict[str, str] = AUTH_HEADERS
) -> tuple[int, bytes]:
    async with gateway.client.request(method, f"{gateway.base_url}/v1/responses/{path}", headers=headers) as answer:
        return answer.status, await answer.read()


async def poll(gateway: Gateway, name: str) -> dict[str, Any]:
    status, content = await ask(gateway, name)
    assert status == 200, content
    document: dict[str, Any] = json.loads(content)
    return document


async def poll_to_end(gateway: Gateway, name: str) -> dict[str, Any]:
    for _ in range(5):
        document = await poll(gateway, name)
        if document["status"] not in ("queued", "in_progress"):
            return document
    raise AssertionError("the response does not end")


def price_nusd(usage: dict[str, Any]) -> int:
    """The price of `frontier`: 1.25 and 10 dollars per million tokens."""
    return int(usage["input_tokens"] * 1250 + usage["output_tokens"] * 10_000)


async def spent_usd(gateway: Gateway) -> float:
    async with gateway.get("/v1/budgets/me", headers=AUTH_HEADERS) as answer:
        return float((await answer.json())["data"][0]["used"])


def has_spent(gateway: Gateway, charge_nusd: int) -> Callable[[], Awaitable[bool]]:
    async def is_spent() -> bool:
        return round(await spent_usd(gateway) * 1e9) == charge_nusd

    return is_spent


def corrections(*gateways: Gateway) -> list[Any]:
    return [row for gateway in gateways for row in gateway.ledger_rows() if row["outcome"] == "corrected"]


def charges(*gateways: Gateway) -> int:
    return sum(row["charge_nusd"] for gateway in gateways for row in gateway.ledger_rows())


async def test_a_poll_reaches_the_deployment_that_runs_the_response_and_books_its_usage_once(
    start_gateway: StartGateway, tmp_path: Path
):
    async with start_gateway(more=BUDGET) as gateway:
        started = await start(gateway)
        assert started["status"] == "queued"
        held = await spent_usd(gateway)
        assert (await poll(gateway, started["id"]))["status"] == "in_progress"
        assert await spent_usd(gateway) == held
        usage = (await poll_to_end(gateway, started["id"]))["usage"]
        for _ in range(3):
            await poll(gateway, started["id"])
        charge = price_nusd(usage)
        assert await spent_usd(gateway) == pytest.approx(charge / 1e9) != held
        assert not gateway.small_provider.resource_requests
        metrics = await gateway.metrics()
        charged, corrected = (
            metric_sum(metrics, name) for name in ("penstock_charge_usd_total", "penstock_corrected_charge_usd_total")
        )
        await gateway.stop()
        (correction,) = corrections(gateway)
        first = gateway.ledger_rows()[0]
        assert (first["code"], first["usage_basis"], first["charge_nusd"]) == (
            "usage_pending", "estimated", first["hold_nusd"],
        )  # fmt: skip
        assert (correction["usage_basis"], correction["deployment"], correction["final"]) == ("exact", "frontier", 0)
        assert charges(gateway) == charge == round((charged - corrected) * 1e9)
        (row,) = json.loads(export_ledger(gateway.data_folder, {"format": "json", "by": ""}, now=2e9)[0])["rows"]
        assert (row["charge_nusd"], row["output_tokens"]) == (charge, usage["output_tokens"])
        assert (row["requests"], row["estimated_entries"]) == (6, 0)


async def test_other_requests_about_a_response_reach_its_deployment(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        name = (await start(gateway))["id"]
        for method, path in (("GET", f"{name}/input_items"), ("POST", f"{name}/cancel"), ("DELETE", name)):
            status, content = await ask(gateway, path, method)
            assert status == 200, content
            assert gateway.frontier_provider.resource_requests[-1] == f"{method} /v1/responses/{path}"
        assert not gateway.small_provider.resource_requests


async def test_a_cancelled_response_without_usage_stays_charged_as_held(start_gateway: StartGateway):
    async with start_gateway(more=BUDGET) as gateway:
        name = (await start(gateway))["id"]
        held = await spent_usd(gateway)
        status, content = await ask(gateway, f"{name}/cancel", "POST")
        assert (status, json.loads(content)["status"]) == (200, "cancelled")
        assert await spent_usd(gateway) == held
        await gateway.stop()
        assert not corrections(gateway)


async def test_a_stream_that_is_resumed_books_the_usage(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        body = {"model": "frontier", "input": '[[sim {"fault": "cut"}]]', "background": True, "stream": True}
        async with gateway.client.post(f"{gateway.base_url}/v1/responses", json=body, headers=AUTH_HEADERS) as answer:
            lines = (await answer.read()).splitlines()
        events = [json.loads(line[5:]) for line in lines if line.startswith(b"data:")]
        last = [event for event in events if "sequence_number" in event and event["type"] != "error"][-1]
        assert last["type"] == "response.output_text.delta"
        assert events[-1]["type"] == "error", "the stream has failed, not the response"
        name = events[0]["response"]["id"]
        status, content = await ask(gateway, f"{name}?stream=true&starting_after={last['sequence_number']}")
        rest = [json.loads(line[5:]) for line in content.splitlines() if line.startswith(b"data:")]
        assert (status, rest[0]["sequence_number"], rest[-1]["type"]) == (
            200, last["sequence_number"] + 1, "response.completed",
        )  # fmt: skip
        await gateway.stop()
        assert len(corrections(gateway)) == 1
        assert charges(gateway) == price_nusd(rest[-1]["response"]["usage"])


async def test_a_stream_after_the_last_event_is_empty_and_no_failure(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        body = {"model": "frontier", "input": "x", "background": True, "stream": True}
        async with gateway.client.post(f"{gateway.base_url}/v1/responses", json=body, headers=AUTH_HEADERS) as answer:
            content = await answer.read()
        end = json.loads(content.strip().splitlines()[-1][5:])
        path = f"{end['response']['id']}?stream=true&starting_after={end['sequence_number']}"
        assert await ask(gateway, path) == (200, b"")
        await gateway.stop()
        assert [row["outcome"] for row in gateway.ledger_rows()] == ["completed", "completed"]
        assert charges(gateway) == price_nusd(end["response"]["usage"])


async def test_another_keys_response_is_not_found(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        name = (await start(gateway))["id"]
        paths = (("GET", name), ("POST", f"{name}/cancel"), ("DELETE", name), ("GET", f"{name}/input_items"))
        for method, path in paths:
            status, content = await ask(gateway, path, method, OTHER_KEY)
            assert (status, json.loads(content)["error"]["code"]) == (404, "not_found")
        assert not gateway.frontier_provider.resource_requests + gateway.small_provider.resource_requests


async def test_an_unknown_response_gets_the_providers_404(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        status, content = await ask(gateway, "resp_unknown")
        assert (status, b"resp_unknown" in content) == (404, True)


async def test_no_limit_refuses_a_poll_or_a_cancellation(start_gateway: StartGateway):
    more = "budgets: {calls: {limit: {calls: 1}, window: day}}\nsessions: {caps: {calls: 1}}"
    async with start_gateway(more=more) as gateway:
        name = (await start(gateway))["id"]
        async with gateway.post() as answer:
            assert answer.status == 400, "the budget is used up"
        assert (await ask(gateway, name))[0] == 200
        assert (await ask(gateway, f"{name}/cancel", "POST"))[0] == 200


async def test_after_a_restart_polls_reach_the_deployment_and_book_once(start_gateway: StartGateway):
    async with start_gateway(more=BUDGET) as first:
        names = [(await start(first))["id"] for _ in range(2)]
        await poll_to_end(first, names[0])
        await first.stop()
        async with start_gateway(more=BUDGET, beside=first) as second:
            status, _ = await ask(second, names[1], headers=OTHER_KEY)
            assert status == 404
            usages = [(await poll_to_end(second, name))["usage"] for name in (*names, *names)]
            charge = sum(map(price_nusd, usages[:2]))
            assert await spent_usd(second) == pytest.approx(charge / 1e9)
            await second.stop()
            assert (len(corrections(second)), charges(second)) == (2, charge)
            async with start_gateway(more=BUDGET, beside=first) as third:
                assert await spent_usd(third) == pytest.approx(charge / 1e9), "the ledger restores what is left"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_item_of_an_earlier_answer_is_referred_to_at_its_provider(start_gateway: StartGateway, stream: bool):
    config_more = "budgets: {tokens: {limit: {tokens: 20000}, window: day}}"
    async with start_gateway(more=config_more) as gateway:
        body = {"model": "frontier", "input": "hello", "max_output_tokens": 100, "stream": stream}
        async with gateway.client.post(f"{gateway.base_url}/v1/responses", json=body, headers=AUTH_HEADERS) as answer:
            content = await answer.read()
        document = json.loads(content.strip().splitlines()[-1][5:])["response"] if stream else json.loads(content)
        item = document["output"][0]["id"]
        for reference in ({"type": "item_reference", "id": item}, {"id": item}):
            body = {"model": "auto", "input": [reference, {"role": "user", "content": "and"}], "max_output_tokens": 100}
            async with gateway.client.post(
                f"{gateway.base_url}/v1/responses", json=body, headers=AUTH_HEADERS
            ) as answer:
                assert answer.status == 200, await answer.text()
                assert answer.headers["x-penstock-deployment"] == "frontier"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "store")
    yield server
    server.kill()


def shared(store: Server) -> dict[str, Any]:
    """Settings of a replica; on a busy machine the store may need more than the default 50 ms."""
    return {"redis_url": store.url, "redis_timeout_seconds": 5.0}


async def test_any_replica_polls_and_only_one_books(start_gateway: StartGateway, tmp_path: Path, store: Server):
    async with (
        start_gateway(more=BUDGET, data=tmp_path / "one", **shared(store)) as first,
        start_gateway(more=BUDGET, data=tmp_path / "two", beside=first, **shared(store)) as second,
    ):
        name = (await start(first))["id"]
        assert (await ask(second, name, headers=OTHER_KEY))[0] == 404
        usage = (await poll_to_end(second, name))["usage"]
        await asyncio.gather(*[poll(gateway, name) for gateway in (first, second) * 5])
        charge = price_nusd(usage)

        await until(has_spent(first, charge))
        await first.stop()
        await second.stop()
        assert (len(corrections(first, second)), charges(first, second)) == (1, charge)
        assert not first.small_provider.resource_requests
        async with start_gateway(more=BUDGET, data=tmp_path / "one", beside=first, **shared(store)) as again:
            await poll(again, name)
            await until(has_spent(again, charge))
            await again.stop()
            assert charges(again, second) == charge


async def test_two_replicas_that_see_the_end_at_once_book_once(
    start_gateway: StartGateway, tmp_path: Path, store: Server
):
    async with (
        start_gateway(data=tmp_path / "one", **shared(store)) as first,
        start_gateway(data=tmp_path / "two", beside=first, **shared(store)) as second,
    ):
        name = (await start(first, sim={"polls": 0}))["id"]
        await asyncio.gather(*[poll(gateway, name) for gateway in (first, second) * 10])
        await first.stop()
        await second.stop()
        assert len(corrections(first, second)) == 1


async def test_a_response_that_is_still_streamed_is_cancelled_at_another_replica(
    start_gateway: StartGateway, tmp_path: Path, store: Server
):
    async with (
        start_gateway(data=tmp_path / "one", rate=20.0, **shared(store)) as first,
        start_gateway(data=tmp_path / "two", beside=first, **shared(store)) as second,
    ):
        body = {"model": "frontier", "input": "x", "background": True, "stream": True}
        async with first.client.post(f"{first.base_url}/v1/responses", json=body, headers=AUTH_HEADERS) as answer:
            opening = await answer.content.readline() + await answer.content.readline()
            name = json.loads(opening.splitlines()[1][5:])["response"]["id"]
            status, _ = await ask(second, f"{name}/cancel", "POST", OTHER_KEY)
            assert status == 404
            await ask(second, f"{name}/cancel", "POST")
            assert first.frontier_provider.resource_requests == [f"POST /v1/responses/{name}/cancel"]


async def test_while_the_store_is_down_an_object_of_another_replica_is_not_looked_for_elsewhere(
    start_gateway: StartGateway, tmp_path: Path, store: Server
):
    async with (
        start_gateway(data=tmp_path / "one", **shared(store)) as first,
        start_gateway(data=tmp_path / "two", beside=first, **shared(store)) as second,
    ):
        name = (await start(first))["id"]
        store.kill()
        status, content = await ask(second, name)
        assert (status, json.loads(content)["error"]["code"]) == (503, "overloaded")
        assert (await ask(first, name))[0] == 200
        assert not first.small_provider.resource_requests
