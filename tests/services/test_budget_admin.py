"""What agents and operators are told about budgets, and what operators may grant, over real sockets."""

import asyncio
import json

import pytest
from aiohttp import web

from tests.gateways import StartGateway

MORE = """
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


async def test_a_key_reads_how_its_budgets_stand(start_gateway: StartGateway):
    async with start_gateway(more=MORE) as it:
        async with it.post(max_tokens=50, user="ada") as answer:
            assert answer.status == 200
            assert '"mine";unit=USD;limit=0.001;remaining=' in answer.headers["x-penstock-budget"]
        async with it.get("/v1/budgets/me", headers=KEY) as answer:
            told = await _json(answer)
        assert [one["budget"] for one in told["data"]] == ["mine"]
        (mine,) = told["data"]
        assert (
            mine["limit"] == 0.001 and 0 < mine["used"] < 0.001 and mine["held"] == 0 and mine["ask"] == "ask #finops"
        )
        assert {one["budget"] for one in told["dependent"]} == {"each-user", "tree"}
        async with it.get("/v1/budgets/me?user=ada", headers=KEY) as answer:
            told = {one["budget"]: one for one in (await _json(answer))["data"]}
        assert told["each-user"]["used"] == 1 and told["each-user"]["window_seconds"] == 3600
        async with it.get("/v1/budgets/me") as answer:
            assert answer.status == 401
        async with it.get("/v1/budgets/me?nonsense=1", headers=KEY) as answer:
            assert answer.status == 400
        async with it.client.post(f"{it.base_url}/v1/budgets/me", headers=KEY) as answer:
            assert answer.status == 405


async def test_users_have_budgets_of_their_own_whoever_names_them(start_gateway: StartGateway):
    async with start_gateway(more=MORE) as it:
        for headers, more, status in (
            ({}, {"user": "ada"}, 200),
            ({"x-penstock-user": "ada"}, {}, 200),
            ({}, {"safety_identifier": "ada"}, 400),
            ({}, {"user": "bob"}, 200),
            ({}, {}, 200),
        ):
            async with it.post(headers, max_tokens=10, **more) as answer:
                assert answer.status == status, (headers, more)


async def test_sub_agents_spend_their_roots_budget(start_gateway: StartGateway):
    async with start_gateway(more=MORE) as it:
        for session, parent, status in (
            ("root", "", 200), ("child", "root", 200), ("grandchild", "child", 200), ("child", "", 400), ("other", "", 200),
        ):  # fmt: skip
            headers = {"x-penstock-session": session, **({"x-penstock-parent-session": parent} if parent else {})}
            async with it.post(headers, max_tokens=10, user=f"u-{session}") as answer:
                assert answer.status == status, session
                if status == 400:
                    assert (await _json(answer))["error"]["details"]["budget"] == "tree"


async def test_a_refusal_names_the_budget_and_how_to_ask_for_more(start_gateway: StartGateway):
    async with start_gateway(more=MORE) as it, it.post(max_tokens=4000) as answer:
        error = (await _json(answer))["error"]
        assert answer.status == 400 and error["code"] == "budget_exceeded"
        details = error["details"]
        assert details["budget"] == "mine" and details["ask"] == "ask #finops" and details["resets_at"].endswith("Z")
        assert details["used"] == 0 and details["remaining"] == 0.001 and details["wanted"] > 0.001


async def test_an_operator_grants_more_and_it_is_written_down(start_gateway: StartGateway, tmp_path):
    async with start_gateway(more=MORE, data=tmp_path / "data", admin_token="s3cret") as it:
        grants = f"{it.base_url}/admin/budgets/mine/grants"
        asked = {"amount": 0.05, "scope": {"key": "k1"}, "note": "demo day", "id": "grant-1"}
        async with it.client.post(grants, json=asked, headers=ADMIN) as answer:
            told = await _json(answer)
            assert answer.status == 200 and told["granted_now"] and told["limit"] == 0.051
        async with it.client.post(grants, json=asked, headers=ADMIN) as answer:
            assert not (await _json(answer))["granted_now"], "the same grant is made once"
        async with it.post(max_tokens=4000, user="a") as answer:
            assert answer.status == 200
        async with it.get("/admin/budgets/events", headers=ADMIN) as answer:
            events = (await _json(answer))["data"]
        assert [one["kind"] for one in events if one["kind"] != "budget_threshold"] == ["budget_top_up"]
        assert events[0]["note"] == "demo day" and events[0]["scope"] == {"key": "k1"}
    async with start_gateway(more=MORE, data=tmp_path / "data") as it:
        async with it.get("/v1/budgets/me", headers=KEY) as answer:
            (mine,) = (await _json(answer))["data"]
        assert mine["granted"] == 0.05 and mine["used"] > 0, "a restart forgets neither"


@pytest.mark.parametrize(
    "path, asked, status",
    [
        ("nobody", {"amount": 1}, 404),
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
async def test_what_a_grant_may_say(start_gateway: StartGateway, path, asked, status):
    async with (
        start_gateway(more=MORE, admin_token="s3cret") as it,
        it.client.post(f"{it.base_url}/admin/budgets/{path}/grants", json=asked, headers=ADMIN) as answer,
    ):
        assert answer.status == status, await answer.text()


async def test_grants_want_the_admin_token_where_there_is_one(start_gateway: StartGateway):
    async with start_gateway(more=MORE, admin_token="s3cret") as it:
        url, asked = f"{it.base_url}/admin/budgets/theirs/grants", {"amount": 1}
        for headers, status in (({}, 401), (KEY, 401), ({"Authorization": "Bearer s3cret"}, 200)):
            async with it.client.post(url, json=asked, headers=headers) as answer:
                assert answer.status == status
            async with it.get("/admin/budgets", headers=headers) as answer:
                assert answer.status == status


async def test_nobody_grants_more_where_no_token_is_set(start_gateway: StartGateway):
    async with start_gateway(more=MORE) as it:
        async with it.client.post(f"{it.base_url}/admin/budgets/theirs/grants", json={"amount": 1}) as answer:
            assert answer.status == 401
        async with it.get("/admin/budgets") as answer:
            assert answer.status == 200


async def test_a_threshold_is_told_by_webhook_metric_and_event(start_gateway: StartGateway):
    identified: asyncio.Queue = asyncio.Queue()

    async def receive(request: web.BaseRequest) -> web.Response:
        identified.put_nowait((request.headers, json.loads(await request.read())))
        return web.Response()

    runner = web.ServerRunner(web.Server(receive))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        more = MORE + f"notify: {{webhook: {{url: 'http://127.0.0.1:{port}/hook', secret: {{env: KEY_TWO}}}}}}\n"
        async with start_gateway(more=more) as it:
            async with it.post(max_tokens=50) as answer:
                assert answer.status == 200
            headers, event = await asyncio.wait_for(identified.get(), 5)
            assert (event["kind"], event["budget"], event["percent"]) == ("budget_threshold", "mine", 1)
            assert headers["x-penstock-signature"].startswith("t=")
            async with it.get("/metrics") as answer:
                text = await answer.text()
            assert 'penstock_budget_notices{budget="mine",percent="1"} 1.0' in text
            kinds: list[str] = []
            async with asyncio.timeout(5):
                # Written behind the request.
                while not kinds:
                    async with it.get("/admin/budgets/events") as answer:
                        kinds = [one["kind"] for one in (await _json(answer))["data"]]
            assert kinds == ["budget_threshold"]
    finally:
        await runner.cleanup()
