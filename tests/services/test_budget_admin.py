"""The budget API for callers and operators: by itself, and over real sockets."""

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.services.budget_admin import BudgetAdmin, tenant_of
from gateway.values.budget import BudgetLine, Grant
from gateway.values.errors import CallerError, Overloaded
from gateway.values.request import Caller
from tests.gateways import StartGateway
from tests.services.clocks import NOW
from tests.snapshots import snapshot

BUDGETS = """
budgets:
  mine: {scope: {key: "*"}, limit: {usd: 0.001}, window: day, contact: "ask #finops", stages: {notify: [1]}}
  theirs: {scope: {team: sales}, limit: {calls: 5}, window: month}
  each-user: {scope: {user: "*"}, limit: {calls: 2}, window: rolling-1h}
  tree: {scope: {session: "*"}, limit: {calls: 3}, window: session}
"""
KEY = {"Authorization": "Bearer secret-one"}
ADMIN = {"Authorization": "Bearer s3cret"}

CALLER = Caller(key="k1", team="research")


class Accounts:
    """Balances in memory: (spent, held, granted) by account.

    calls: (tenant, account, amount, until, fresh) of every grant
    is_down: whether the shared store does not answer
    """

    def __init__(self) -> None:
        self.balances: dict[str, tuple[int, int, int]] = {}
        self.calls: list[tuple[str, str, int, float | None, bool]] = []
        self.is_down = False

    async def balance(self, tenant: str, line: BudgetLine, *, now: float) -> tuple[int, int, int]:
        if self.is_down:
            raise Overloaded("Budget store unavailable.")
        return self.balances.get(line.account, (0, 0, 0))

    async def grant(self, tenant: str, line: BudgetLine, grant: Grant, *, fresh: bool) -> bool:
        self.calls.append((tenant, line.account, grant.amount, grant.until, fresh))
        if self.is_down:
            raise Overloaded("Budget store unavailable; retry with the same id.")
        if fresh:
            spent, held, granted = self.balances.get(line.account, (0, 0, 0))
            self.balances[line.account] = (spent, held, granted + grant.amount)
        return fresh


class Audit:
    """An audit in memory."""

    def __init__(self) -> None:
        self.recorded: dict[str, tuple[int, str, str, Mapping[str, Any]]] = {}

    def record_grant(self, *, id: str, at_ms: int, kind: str, line: BudgetLine, details: Mapping[str, Any]) -> bool:
        if id in self.recorded:
            return False
        self.recorded[id] = at_ms, kind, line.account, details
        return True


class AdminFixture:
    """A budget API with accounts and audit in memory, at NOW."""

    def __init__(self, more: str = BUDGETS) -> None:
        self.accounts, self.audit = Accounts(), Audit()
        configured = snapshot(more=more)
        self.admin = BudgetAdmin(lambda: configured, self.accounts, self.audit, lambda: NOW)


async def _json(answer: aiohttp.ClientResponse) -> Any:
    return json.loads(await answer.read())


# --- by itself


DAY_ACCOUNT = "mine|key=k1|day2026-09-21"


async def test_balances_are_in_the_units_that_people_read():
    fixture = AdminFixture()
    fixture.accounts.balances[DAY_ACCOUNT] = (200_000, 100_000, 500_000)
    document = await fixture.admin.budgets_of(CALLER, {})
    assert document["data"] == [
        {
            "budget": "mine", "scope": {"key": "k1"}, "unit": "USD", "window": "day", "limit": 0.0015, "granted": 0.0005,
            "used": 0.0002, "held": 0.0001, "remaining": 0.0012, "resets_at": "2026-09-22T00:00:00Z",
            "contact": "ask #finops",
        }
    ]  # fmt: skip
    assert (document["key"], document["team"]) == ("k1", "research")


async def test_an_overspent_budget_has_nothing_remaining():
    fixture = AdminFixture()
    fixture.accounts.balances[DAY_ACCOUNT] = (5_000_000, 0, 0)
    (mine,) = (await fixture.admin.budgets_of(CALLER, {}))["data"]
    assert mine["used"] == 0.005 and mine["remaining"] == 0


async def test_budgets_of_other_values_than_the_queried_ones_are_left_out():
    fixture = AdminFixture('budgets: {easy: {scope: {task_type: code, team: "*"}, limit: {calls: 5}, window: day}}')
    for query, names in (({"task_type": "code"}, ["easy"]), ({"task_type": "summary"}, [])):
        document = await fixture.admin.budgets_of(CALLER, query)
        assert [budget["budget"] for budget in document["data"]] == names
        assert document["dependent"] == []
    assert (await fixture.admin.budgets_of(CALLER, {}))["dependent"] == [
        {"budget": "easy", "depends_on": ["task_type"]}
    ]


async def test_a_query_cannot_name_another_key():
    fixture = AdminFixture()
    document = await fixture.admin.budgets_of(CALLER, {"key": "k2", "team": "sales", "org": "other"})
    assert [budget["scope"] for budget in document["data"]] == [{"key": "k1"}]


async def test_operators_list_the_budgets_without_a_wildcard():
    listed = await AdminFixture().admin.list_budgets()
    assert [budget["budget"] for budget in listed["data"]] == ["theirs"]


async def test_balances_need_the_store():
    fixture = AdminFixture()
    fixture.accounts.is_down = True
    with pytest.raises(Overloaded):
        await fixture.admin.list_budgets()


async def test_a_grant_is_recorded_before_it_takes_effect():
    fixture = AdminFixture()
    fixture.accounts.is_down = True
    body = {"amount": 0.1, "scope": {"key": "k1"}, "note": "demo", "id": "g1"}
    with pytest.raises(Overloaded):
        await fixture.admin.grant("mine", body, actor="admin")
    assert fixture.audit.recorded["g1"] == (
        round(NOW * 1000), "budget_top_up", DAY_ACCOUNT,
        {
            "amount": 100_000_000, "unit": "USD", "until": None, "actor": "admin", "note": "demo", "scope": {"key": "k1"},
            "tenant": "default",
        },
    )  # fmt: skip
    fixture.accounts.is_down = False
    await fixture.admin.grant("mine", body, actor="admin")
    assert [fresh for *_, fresh in fixture.accounts.calls] == [True, False], "sent again, known to the audit"


async def test_a_grant_for_some_minutes_is_a_grace_period():
    fixture = AdminFixture()
    granted = await fixture.admin.grant("theirs", {"amount": 2, "minutes": 5}, actor="admin")
    assert fixture.accounts.calls == [("default", "theirs|team=sales|month2026-09-01", 2, NOW + 300, True)]
    assert [kind for _, kind, _, _ in fixture.audit.recorded.values()] == ["budget_grace"]
    assert granted["created"] and granted["limit"] == 7 and list(fixture.audit.recorded) == [granted["grant"]]


async def test_grants_without_an_id_have_one_each():
    fixture = AdminFixture()
    grants = [await fixture.admin.grant("theirs", {"amount": 1}, actor="admin") for _ in range(2)]
    assert grants[0]["grant"] != grants[1]["grant"] and grants[1]["limit"] == 7


async def test_a_tenth_is_granted_exactly():
    fixture = AdminFixture("budgets: {all: {limit: {usd: 1}, window: day}}")
    await fixture.admin.grant("all", {"amount": 0.1}, actor="admin")
    assert fixture.accounts.calls[0][2] == 100_000_000


async def test_a_cap_of_one_session_can_be_raised():
    fixture = AdminFixture("sessions: {caps: {calls: 5}}")
    body = {"amount": 3, "scope": {"key": "k1", "session": "run-1"}}
    granted = await fixture.admin.grant("session-calls", body, actor="admin")
    assert granted["limit"] == 8 and fixture.accounts.calls[0][1] == "session-calls|key=k1/session=run-1|session"


GRANT_CASES = [
    ("missing", {"amount": 1}, 404),
    ("mine", {"amount": 1}, 400),
    ("mine", {"amount": 1, "scope": {"key": "k1", "extra": "x"}}, 200),
    ("mine", {"amount": 1, "scope": {"key": 7}}, 400),
    ("mine", {"amount": 1, "scope": "k1"}, 400),
    ("mine", {"scope": {"key": "k1"}}, 400),
    ("mine", {"amount": 0, "scope": {"key": "k1"}}, 400),
    ("mine", {"amount": True, "scope": {"key": "k1"}}, 400),
    ("mine", {"amount": "1", "scope": {"key": "k1"}}, 400),
    ("mine", {"amount": 1e30, "scope": {"key": "k1"}}, 400),
    ("mine", {"amount": 1e-12, "scope": {"key": "k1"}}, 400),
    ("mine", {"amount": float("inf"), "scope": {"key": "k1"}}, 400),
    ("mine", {"amount": 1, "scope": {"key": "k1"}, "minutes": -1}, 400),
    ("mine", {"amount": 1, "scope": {"key": "k1"}, "minutes": 7 * 24 * 60 + 1}, 400),
    ("mine", {"amount": 1, "scope": {"key": "k1"}, "minutes": True}, 400),
    ("mine", {"amount": 1, "scope": {"key": "k1"}, "note": 7}, 400),
    ("mine", {"amount": 1, "scope": {"key": "k1"}, "note": "x" * 501}, 400),
    ("mine", {"amount": 1, "scope": {"key": "k1"}, "id": "x" * 101}, 400),
    ("theirs", {"amount": 1, "minutes": 5}, 200),
    ("theirs", {"amount": 1, "scope": {"team": "research"}}, 400),
]


@pytest.mark.parametrize("budget, grant, status", GRANT_CASES)
async def test_grants_are_validated(budget: str, grant: dict[str, Any], status: int):
    fixture = AdminFixture()
    if status == 200:
        assert (await fixture.admin.grant(budget, grant, actor="admin"))["created"]
        return
    with pytest.raises(CallerError) as refused:
        await fixture.admin.grant(budget, grant, actor="admin")
    assert refused.value.status == status and refused.value.param
    assert fixture.accounts.calls == [] and fixture.audit.recorded == {}


@pytest.mark.parametrize(
    "scope, tenant",
    [
        ({"org": "named"}, "named"),
        ({"key": "k2"}, "acme"),
        ({"team": "sales"}, "acme"),
        ({"org": "*", "key": "k1"}, "default"),
        ({"user": "ada"}, "default"),
    ],
    ids=["named organization", "key", "team", "any organization", "nothing that names one"],
)
def test_the_tenant_of_an_account_is_the_organization_of_its_scope(scope: dict[str, str], tenant: str):
    configured = snapshot()
    callers = {
        secret: Caller(key=caller.key, team=caller.team, org="acme" if caller.key == "k2" else "default")
        for secret, caller in configured.callers.items()
    }
    assert tenant_of(dataclasses.replace(configured, callers=callers), scope) == tenant


# --- over real sockets


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
        cases: tuple[tuple[dict[str, str], dict[str, str], int], ...] = (
            ({}, {"user": "ada"}, 200),
            ({"x-penstock-user": "ada"}, {}, 200),
            ({}, {"safety_identifier": "ada"}, 400),
            ({}, {"user": "bob"}, 200),
            ({}, {}, 200),
        )
        for headers, fields, status in cases:
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


async def test_a_grant_raises_the_limit_and_is_audited(start_gateway: StartGateway, tmp_path: Path):
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


@pytest.mark.parametrize("budget, grant, status", [("missing", {"amount": 1}, 404), ("mine", [], 400)])
async def test_an_invalid_grant_is_answered_with_its_status(
    start_gateway: StartGateway, budget: str, grant: object, status: int
):
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
    received: asyncio.Queue[tuple[Mapping[str, str], dict[str, Any]]] = asyncio.Queue()

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
            headers, event = await asyncio.wait_for(received.get(), 60)
            assert (event["kind"], event["budget"], event["percent"]) == ("budget_threshold", "mine", 1)
            assert headers["x-penstock-signature"].startswith("t=")
            async with gateway.get("/metrics") as answer:
                text = await answer.text()
            assert 'penstock_budget_notices_total{budget="mine",percent="1"} 1.0' in text
            kinds: list[str] = []
            async with asyncio.timeout(60):
                # The event is stored after the response.
                while not kinds:
                    async with gateway.get("/admin/budgets/events") as answer:
                        kinds = [event["kind"] for event in (await _json(answer))["data"]]
            assert kinds == ["budget_threshold"]
    finally:
        await runner.cleanup()
