"""The budget API for callers and operators, over real sockets."""

import asyncio
import json

import pytest
from aiohttp import web

from tests.gateways import StartGateway

BUDGETS = """
budgets:
  mine: {scope: {key: "*"}, limit: {usd: 0.001}, window: day, contact: "ask #finops", stages: {notify: [1]}}
  theirs: {scope: {team: sales}, limit: {calls: 5}, window: month}
  each-user: {scope: {user: "*"}, limit: {calls: 2}, window: rolling-1h}
  tree: {scope: {session: "*"}, limit: {calls: 3}, window: session}
"""
KEY = {"Authorization": "Bearer secret-one"}
ADMIN = {"Authorization": "Bearer s3cret"}


async def _json(answer):
    return json.loads(await answer.read())


async def test_a_key_reads_its_budgets(start_gateway: StartGateway):
    async with start_gateway(more=BUDGETS) as gateway:
        async with gateway.post(max_tokens=50, user="ada") as answer:
            assert answer.status == 200
            assert '"mine";unit=USD;limit=0.001;remaining=' in answer.headers["x-penstock-budget"]
        async with gateway.get("/v1/budgets/me", headers=KEY) as answer:
            listed = await _json(answer)
        assert [budget["budget"] for budget in listed["data"]] == ["mine"]
        (mine,) = listed["data"]
        assert (
            mine["limit"] == 0.001
            and 0 < mine["used"] < 0.001
            and mine["held"] == 0
            and mine["contact"] == "ask #finops"
        )
        assert {budget["budget"] for budget in listed["dependent"]} == {"each-user", "tree"}
        async with gateway.get("/v1/budgets/me?user=ada", headers=KEY) as answer:
            budgets = {budget["budget"]: budget for budget in (await _json(answer))["data"]}
        assert budgets["each-user"]["used"] == 1 and budgets["each-user"]["window_seconds"] == 3600
        async with gateway.get("/v1/budgets/me") as answer:
            assert answer.status == 401
        async with gateway.get("/v1/budgets/me?nonsense=1", headers=KEY) as answer:
            assert answer.status == 400
        async with gateway.client.post(f"{gateway.base_url}/v1/budgets/me", headers=KEY) as answer:
            assert answer.status == 405


async def test_each_end_user_has_a_budget_whichever_field_names_it(start_gateway: StartGateway):
    async with start_gateway(more=BUDGETS) as gateway:
        for headers, fields, status in (
            ({}, {"user": "ada"}, 200),
            ({"x-penstock-user": "ada"}, {}, 200),
            ({}, {"safety_identifier": "ada"}, 400),
            ({}, {"user": "bob"}, 200),
            ({}, {}, 200),
        ):
            async with gateway.post(headers, max_tokens=10, **fields) as answer:
                assert answer.status == status, (headers, fields)


async def test_sub_agents_spend_the_budget_of_their_root(start_gateway: StartGateway):
    async with start_gateway(more=BUDGETS) as gateway:
        for session, parent, status in (
            ("root", "", 200), ("child", "root", 200), ("grandchild", "child", 200), ("child", "", 400), ("other", "", 200),
        ):  # fmt: skip
            headers = {"x-penstock-session": session, **({"x-penstock-parent-session": parent} if parent else {})}
            async with gateway.post(headers, max_tokens=10, user=f"u-{session}") as answer:
                assert answer.status == status, session
                if status == 400:
                    assert (await _json(answer))["error"]["details"]["budget"] == "tree"


async def test_a_refusal_names_the_budget_and_its_contact(start_gateway: StartGateway):
    async with start_gateway(more=BUDGETS) as gateway, gateway.post(max_tokens=4000) as answer:
        error = (await _json(answer))["error"]
        assert answer.status == 400 and error["code"] == "budget_exceeded"
        details = error["details"]
        assert (
            details["budget"] == "mine" and details["contact"] == "ask #finops" and details["resets_at"].endswith("Z")
        )
        assert details["used"] == 0 and details["remaining"] == 0.001 and details["requested"] > 0.001


async def test_a_grant_raises_the_limit_and_is_audited(start_gateway: StartGateway, tmp_path):
    async with start_gateway(more=BUDGETS, data=tmp_path / "data", admin_token="s3cret") as gateway:
        grants = f"{gateway.base_url}/admin/budgets/mine/grants"
        grant = {"amount": 0.05, "scope": {"key": "k1"}, "note": "demo day", "id": "grant-1"}
        async with gateway.client.post(grants, json=grant, headers=ADMIN) as answer:
            granted = await _json(answer)
            assert answer.status == 200 and granted["created"] and granted["limit"] == 0.051
        async with gateway.client.post(grants, json=grant, headers=ADMIN) as answer:
            assert not (await _json(answer))["created"], "a grant with the same id is applied once"
        async with gateway.post(max_tokens=4000, user="a") as answer:
            assert answer.status == 200
        async with gateway.get("/admin/budgets/events", headers=ADMIN) as answer:
            events = (await _json(answer))["data"]
        assert [event["kind"] for event in events if event["kind"] != "budget_threshold"] == ["budget_top_up"]
        assert events[0]["note"] == "demo day" and events[0]["scope"] == {"key": "k1"}
    async with start_gateway(more=BUDGETS, data=tmp_path / "data") as gateway:
        async with gateway.get("/v1/budgets/me", headers=KEY) as answer:
            (mine,) = (await _json(answer))["data"]
        assert mine["granted"] == 0.05 and mine["used"] > 0, "a restart keeps both"


@pytest.mark.parametrize(
    "budget, grant, status",
    [
        ("missing", {"amount": 1}, 404),
        ("mine", {"amount": 1}, 400),
        ("mine", {"amount": 1, "scope": {"key": "k1", "extra": "x"}}, 200),
        ("mine", {"amount": 0, "scope": {"key": "k1"}}, 400),
        ("mine", {"amount": "1", "scope": {"key": "k1"}}, 400),
        ("mine", {"amount": 1e30, "scope": {"key": "k1"}}, 400),
        ("mine", {"amount": 1, "scope": {"key": "k1"}, "minutes": -1}, 400),
        ("mine", {"amount": 1, "scope": {"key": "k1"}, "note": 7}, 400),
        ("mine", [], 400),
        ("theirs", {"amount": 1, "minutes": 5}, 200),
    ],
)
async def test_grants_are_validated(start_gateway: StartGateway, budget, grant, status):
    async with (
        start_gateway(more=BUDGETS, admin_token="s3cret") as gateway,
        gateway.client.post(f"{gateway.base_url}/admin/budgets/{budget}/grants", json=grant, headers=ADMIN) as answer,
    ):
        assert answer.status == status, await answer.text()


async def test_grants_require_the_admin_token(start_gateway: StartGateway):
    async with start_gateway(more=BUDGETS, admin_token="s3cret") as gateway:
        url, grant = f"{gateway.base_url}/admin/budgets/theirs/grants", {"amount": 1}
        for headers, status in (({}, 401), (KEY, 401), ({"Authorization": "Bearer s3cret"}, 200)):
            async with gateway.client.post(url, json=grant, headers=headers) as answer:
                assert answer.status == status
            async with gateway.get("/admin/budgets", headers=headers) as answer:
                assert answer.status == status


async def test_grants_are_refused_without_an_admin_token(start_gateway: StartGateway):
    async with start_gateway(more=BUDGETS) as gateway:
        async with gateway.client.post(f"{gateway.base_url}/admin/budgets/theirs/grants", json={"amount": 1}) as answer:
            assert answer.status == 401
        async with gateway.get("/admin/budgets") as answer:
            assert answer.status == 200


async def test_a_threshold_is_reported_by_webhook_metric_and_event(start_gateway: StartGateway):
    received: asyncio.Queue = asyncio.Queue()

    async def receive(request: web.BaseRequest) -> web.Response:
        received.put_nowait((request.headers, json.loads(await request.read())))
        return web.Response()

    runner = web.ServerRunner(web.Server(receive))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        config = BUDGETS + f"notify: {{webhook: {{url: 'http://127.0.0.1:{port}/hook', secret: {{env: KEY_TWO}}}}}}\n"
        async with start_gateway(more=config) as gateway:
            async with gateway.post(max_tokens=50) as answer:
                assert answer.status == 200
            headers, event = await asyncio.wait_for(received.get(), 5)
            assert (event["kind"], event["budget"], event["percent"]) == ("budget_threshold", "mine", 1)
            assert headers["x-penstock-signature"].startswith("t=")
            async with gateway.get("/metrics") as answer:
                text = await answer.text()
            assert 'penstock_budget_notices_total{budget="mine",percent="1"} 1.0' in text
            kinds: list[str] = []
            async with asyncio.timeout(5):
                # The event is stored after the response.
                while not kinds:
                    async with gateway.get("/admin/budgets/events") as answer:
                        kinds = [event["kind"] for event in (await _json(answer))["data"]]
            assert kinds == ["budget_threshold"]
    finally:
        await runner.cleanup()
