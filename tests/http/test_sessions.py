"""Loop guard, caps and approval of sessions over real sockets with OpenAI's SDK.

Agents build each request from the gateway's previous responses.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.app import App
from gateway.config.load import parse
from gateway.config.settings import Settings
from gateway.simulator.provider import SimulatedModel, SimulatedProvider
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.ledger_entry import LedgerEntry
from tests.gateways import metric_sum

CONFIG = """
version: 1
keys: [{id: k1, team: red, secret: {env: KEY_ONE}}, {id: k2, team: blue, secret: {env: KEY_TWO}}]
providers:
  near: {base_url: "@near", api_key: {env: PROVIDER}}
  claude: {dialect: anthropic, base_url: "@claude", api_key: {env: PROVIDER}}
deployments:
  small: {provider: near, model: sim-small, tier: small, price: {input: 1, output: 2}, output_tokens: 4000}
  claude: {provider: claude, model: sim-claude, tier: frontier, price: {input: 1, output: 2}, output_tokens: 4000}
routes:
  small: {candidates: [small]}
  claude: {candidates: [claude]}
task_types:
  code: {tools: [bash]}
"""
ENV = {"KEY_ONE": "secret-one", "KEY_TWO": "secret-two", "PROVIDER": "provider-secret"}
KEY, OTHER = {"Authorization": "Bearer secret-one"}, {"Authorization": "Bearer secret-two"}
ADMIN, CURL = {"Authorization": "Bearer s3cret"}, {"Accept": "*/*", "User-Agent": "curl/8.5.0"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "User-Agent": "Mozilla/5.0"}
DIALECTS = ("chat", "responses", "messages")
# The request at which each ladder step is due: the first has no tool result, the second a new one, and every further
# one adds 1 to the score. SERVED is the number of requests served before the refused one.
WARNED, NUDGED, SERVED = 5, 6, 9
SYSTEM = "You are an agent – be brief."
PARAMETERS = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}
LOOPING_TURN = {"tool_calls": [{"name": "bash", "arguments": {"cmd": "ls"}}]}
NOTE = "[Gateway note: "


class Site:
    """A running gateway, its providers, and an HTTP client.

    sent: requests that the client has sent
    last_headers: headers of its last response
    """

    def __init__(self, app: App, near: SimulatedProvider, claude: SimulatedProvider, client: httpx.AsyncClient) -> None:
        self.app, self.near, self.claude, self.client = app, near, claude, client
        self.base = f"http://127.0.0.1:{app.port}"
        self.sent = 0
        self.last_headers: dict[str, str] = {}
        client.event_hooks = {"request": [self._count_request], "response": [self._keep_headers]}

    async def _count_request(self, request: httpx.Request) -> None:
        self.sent += 1

    async def _keep_headers(self, response: httpx.Response) -> None:
        self.last_headers = dict(response.headers)

    def agent(self, dialect: str = "chat", **more: Any) -> "Agent":
        """Returns an agent of a dialect."""
        return AGENTS[dialect](self, **more)

    async def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Sends a GET."""
        return await self.client.get(path if path.startswith("http") else self.base + path, headers=headers)

    async def post(self, path: str, document: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """Sends a POST with a JSON body."""
        return await self.client.post(self.base + path, json=document, headers=headers)

    async def act(self, session: str, action: str, **body: Any) -> httpx.Response:
        """Sends an operator action on a session."""
        return await self.post(f"/admin/sessions/{session}/{action}", body, ADMIN)

    async def session(self, name: str) -> dict[str, Any]:
        """Returns a session as operators see it."""
        return (await self.get(f"/admin/sessions/{name}", ADMIN)).json()

    async def metric(self, name: str) -> float:
        """Returns the sum of a metric over its labels."""
        return metric_sum((await self.get("/metrics")).text, name)

    async def calls(self, count: int, *, at_once: bool, **headers: str) -> list[int]:
        """Sends chat requests and returns their statuses.

        Underscores in header names stand for dashes.
        """
        all_headers = KEY | {name.replace("_", "-"): value for name, value in headers.items()}

        async def call() -> int:
            body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
            return (await self.post("/v1/chat/completions", body, all_headers)).status_code

        return (
            list(await asyncio.gather(*(call() for _ in range(count))))
            if at_once
            else [await call() for _ in range(count)]
        )


class Agent:
    """Sends its whole history each turn; its tool calls return the same result.

    `turn` returns the response's headers; `sim` sets the model's output.
    """

    path, model = "", "small"

    def __init__(self, site: Site, headers: dict[str, str] | None = None, max_retries: int = 2) -> None:
        self.site, self.headers = site, headers or {}
        self.history: list[dict[str, Any]] = [{"role": "user", "content": "Look around."}]
        self.text, self.turns = "", 0
        self.sdk = openai.AsyncOpenAI(
            base_url=f"{site.base}/v1", api_key="secret-one", http_client=site.client, max_retries=max_retries
        )

    @property
    def provider(self) -> SimulatedProvider:
        """The provider that serves the agent."""
        return self.site.near

    async def turn(self, sim: dict[str, Any] = LOOPING_TURN, *, stream: bool = False) -> dict[str, str]:
        """Sends the history and appends the response to it."""
        raise NotImplementedError

    async def until_stopped(self) -> "Refusal":
        """Repeats turns until the gateway refuses one."""
        for _ in range(30):
            try:
                await self.turn()
            except openai.APIStatusError as error:
                return Refusal(error.response)
        raise AssertionError("not refused within 30 turns")

    async def turns_of(self, count: int) -> list[str]:
        """Runs turns and returns the x-penstock-loop header of each."""
        return [(await self.turn()).get("x-penstock-loop", "") for _ in range(count)]

    def turn_in(self, body: dict[str, Any]) -> list[Any]:
        """Returns the turns of a request body that the provider received."""
        return body["messages"]


class Refusal:
    """A refusal as the client received it."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status, self.headers = answer.status_code, answer.headers
        error = answer.json()["error"]
        self.code, self.message, self.details = error["code"], error["message"], error.get("details", {})

    @property
    def link(self) -> str:
        """The approval link."""
        assert self.details["resume"] in self.message
        return self.details["resume"]

    @property
    def session(self) -> str:
        """The id of the stopped session."""
        return self.details["session"]


class ChatAgent(Agent):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.history.insert(0, {"role": "system", "content": SYSTEM})

    async def turn(self, sim: dict[str, Any] = LOOPING_TURN, *, stream: bool = False) -> dict[str, str]:
        tool = {"type": "function", "function": {"name": "bash", "parameters": PARAMETERS, "strict": True}}
        arguments: Any = {"model": self.model, "messages": self.history, "tools": [tool], "extra_body": {"sim": sim}}
        arguments["extra_headers"] = self.headers
        if stream:
            async with self.sdk.chat.completions.stream(**arguments) as events:
                async for _ in events:
                    pass
                completion = await events.get_final_completion()
            headers = self.site.last_headers
        else:
            raw = await self.sdk.chat.completions.with_raw_response.create(**arguments)
            completion, headers = raw.parse(), dict(raw.headers)
        (choice,) = completion.choices
        message = choice.message
        assert choice.finish_reason == ("tool_calls" if message.tool_calls else "stop")
        self.turns, self.text = self.turns + 1, message.content or ""
        self.history.append({"role": "assistant", "content": message.content})
        for call in message.tool_calls or ():
            self.history[-1].setdefault("tool_calls", []).append(call.model_dump(include={"id", "type", "function"}))
            self.history.append({"role": "tool", "tool_call_id": call.id, "content": "a.txt"})
        return headers


class ResponsesAgent(Agent):
    async def turn(self, sim: dict[str, Any] = LOOPING_TURN, *, stream: bool = False) -> dict[str, str]:
        tool = {"type": "function", "name": "bash", "parameters": PARAMETERS, "strict": False}
        arguments: Any = {"model": self.model, "input": self.history, "instructions": SYSTEM, "tools": [tool]}
        arguments |= {"extra_body": {"sim": sim}, "extra_headers": self.headers}
        if stream:
            async with self.sdk.responses.stream(**arguments) as events:
                async for _ in events:
                    pass
                response = await events.get_final_response()
            headers = self.site.last_headers
        else:
            raw = await self.sdk.responses.with_raw_response.create(**arguments)
            response, headers = raw.parse(), dict(raw.headers)
        assert response.status == "completed"
        self.turns, self.text = self.turns + 1, response.output_text
        calls = [item for item in response.output if item.type == "function_call"]
        self.history += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in response.output]
        self.history += [{"type": "function_call_output", "call_id": item.call_id, "output": "a.txt"} for item in calls]
        return headers

    def turn_in(self, body: dict[str, Any]) -> list[Any]:
        return body["input"]


class MessagesAgent(Agent):
    """Stands for Anthropic's SDK, which is not installed in this environment."""

    model = "claude"

    @property
    def provider(self) -> SimulatedProvider:
        return self.site.claude

    async def turn(self, sim: dict[str, Any] = LOOPING_TURN, *, stream: bool = False) -> dict[str, str]:
        tool = {"name": "bash", "input_schema": PARAMETERS}
        body = {"model": self.model, "max_tokens": 100, "system": SYSTEM, "messages": self.history, "tools": [tool]}
        headers = {"x-api-key": "secret-one", "anthropic-version": "2023-06-01", **self.headers}
        answer = await self.site.post("/v1/messages", body | {"sim": sim, "stream": stream}, headers)
        if answer.status_code != 200:
            assert answer.json()["type"] == "error"
            raise openai.APIStatusError("", response=answer, body=None)
        message = _message_of_stream(answer.text) if stream else answer.json()
        calls = [block for block in message["content"] if block["type"] == "tool_use"]
        assert message["stop_reason"] == ("tool_use" if calls else "end_turn")
        self.turns += 1
        self.text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
        self.history.append({"role": "assistant", "content": message["content"]})
        results = [{"type": "tool_result", "tool_use_id": block["id"], "content": "a.txt"} for block in calls]
        if results:
            self.history.append({"role": "user", "content": results})
        return dict(answer.headers)


AGENTS: dict[str, type[Agent]] = {"chat": ChatAgent, "responses": ResponsesAgent, "messages": MessagesAgent}


def _message_of_stream(text: str) -> dict[str, Any]:
    """Returns the message of a stream of Anthropic events; names and types agree."""
    message: dict[str, Any] = {}
    for event in text.strip().split("\n\n"):
        name, payload = (line.partition(": ")[2] for line in event.split("\n"))
        data = json.loads(payload)
        assert data["type"] == name
        if name == "message_start":
            message = data["message"]
        elif name == "content_block_start":
            assert data["index"] == len(message["content"])
            message["content"].append(data["content_block"])
        elif name == "content_block_delta" and data["delta"]["type"] == "text_delta":
            message["content"][data["index"]]["text"] += data["delta"]["text"]
        elif name == "message_delta":
            message |= data["delta"]
            message["usage"] |= data["usage"]
    assert name == "message_stop"
    return message


StartSite = Callable[..., Any]


@pytest.fixture
def start_site(tmp_path: Path) -> StartSite:
    """Starts gateways: `async with start_site("loop_guard: {...}") as site:`.

    All of a test use the same data folder.
    """

    @asynccontextmanager
    async def start(more: str = "", **settings: Any) -> AsyncIterator[Site]:
        async with AsyncExitStack() as stack:
            near, claude = (SimulatedProvider(SimulatedModel(model=f"sim-{name}")) for name in ("small", "claude"))
            text = CONFIG + more
            for name, provider in (("near", near), ("claude", claude)):
                text = text.replace(f"@{name}", await provider.start())
                stack.push_async_callback(provider.stop)
            chosen = {"data": tmp_path / "data", "port": 0, "drain_seconds": 2.0, "admin_token": "s3cret", **settings}
            app = App(Settings(**chosen), parse(text, "runs.yaml", ENV)[0])
            await app.start()
            stack.push_async_callback(app.stop)
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=20, trust_env=False))
            yield Site(app, near, claude, client)

    return start


def _ledger(tmp_path: Path) -> list[LedgerEntry]:
    """Returns every ledger entry of a stopped gateway."""
    store = SqliteLedger(tmp_path / "data" / "ledger.sqlite")
    try:
        return list(store.entries())
    finally:
        store.close()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_loop_is_warned_nudged_and_stopped(start_site: StartSite, tmp_path: Path, dialect: str) -> None:
    async with start_site() as site:
        agent = site.agent(dialect)
        loop_headers = await agent.turns_of(SERVED)
        assert [header.partition(";")[0] for header in loop_headers] == [""] * 4 + ["warn", "nudge"] + ["warn"] * 3
        assert "tool=bash" in loop_headers[WARNED - 1] and "count=4" in loop_headers[WARNED - 1]
        before = site.sent
        stopped = await agent.until_stopped()
        assert site.sent == before + 1, "the SDK does not retry"
        assert (stopped.status, stopped.code) == (402 if dialect == "messages" else 400, "loop_stopped")
        assert stopped.headers["x-should-retry"] == "false" and stopped.headers["x-penstock-stopped"] == "loop_stopped"
        details = stopped.details
        assert (details["tool"], details["calls"]) == ("bash", SERVED) and details["score"] >= 8
        assert details["count"] == SERVED and float(details["cost_usd"]) > 0 and details["turns"] >= 7
        served = len(agent.provider.request_bodies)
        refused_before = await site.metric("penstock_stopped_session_requests_total")
        for _ in range(5):
            assert (await agent.until_stopped()).code == "loop_stopped"
        assert await site.metric("penstock_stopped_session_requests_total") == refused_before + 5
        assert len(agent.provider.request_bodies) == served == SERVED, "no further request reaches the provider"
        assert (await site.session(stopped.session))["stop"]["requests_refused"] == 5
    outcomes = [entry.outcome for entry in _ledger(tmp_path)]
    assert outcomes == ["completed"] * SERVED + ["refused"], "repeated refusals write no entries"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_model_is_nudged_once_and_the_prompt_prefix_is_unchanged(start_site: StartSite, dialect: str) -> None:
    async with start_site() as site:
        agent = site.agent(dialect)
        await agent.turns_of(SERVED)
        bodies = [raw.decode() for raw in agent.provider.request_bodies]
        assert [body.count(NOTE) for body in bodies] == [int(turn == NUDGED) for turn in range(1, SERVED + 1)]
        nudged, plain = json.loads(bodies[NUDGED - 1]), json.loads(bodies[NUDGED])
        turns = agent.turn_in(nudged)
        assert turns[:-1] == agent.turn_in(plain)[: len(turns) - 1] and nudged["tools"] == plain["tools"]
        assert nudged.get("system") == plain.get("system") and nudged.get("instructions") == plain.get("instructions")
        result = turns[-1]["content"][0] if dialect == "messages" else turns[-1]
        text = result["output"] if dialect == "responses" else result["content"]
        assert text.startswith(f"a.txt\n\n{NOTE}`bash` has now had the same outcome 5 times")
        nudged_body, next_body = bodies[NUDGED - 1], bodies[NUDGED]
        start = nudged_body.index('"input":' if dialect == "responses" else '"messages":')
        prefix = nudged_body[start : nudged_body.index("\\n\\n" + NOTE)]
        assert prefix in next_body, "identical bytes up to the note"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_approval_link_resumes_a_session_once(start_site: StartSite, dialect: str) -> None:
    async with start_site() as site:
        agent = site.agent(dialect)
        stopped = await agent.until_stopped()
        answer = await site.client.post(stopped.link, headers=CURL)
        assert answer.status_code == 200 and answer.json()["status"] == "running"
        second = await site.client.post(stopped.link, headers=CURL)
        assert second.status_code == 404 and second.json()["error"]["code"] == "invalid_approval_link"
        await agent.turn()
        await agent.turn({"text": "All is done."})
        assert agent.text == "All is done."
        assert (await site.session(stopped.session))["calls"] == SERVED + 2


# Link previews, mail scanners and prefetching browsers, as their documentation names them (2026-11).
OPENERS = {
    "curl": CURL,
    "a browser": BROWSER,
    "a script without headers": {"Accept": "application/json", "User-Agent": ""},
    "Slack": {"User-Agent": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"},
    "Telegram": {"User-Agent": "TelegramBot (like TwitterBot)"},
    "Teams": {"User-Agent": "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5"},
    "a mail scanner that poses as a browser": {"User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64)"},
    "a prefetching browser": {**BROWSER, "Sec-Purpose": "prefetch;prerender", "Purpose": "prefetch"},
    "an HTTP library": {"User-Agent": "Go-http-client/1.1", "X-HTTP-Method-Override": "POST"},
}


async def test_no_opening_of_an_approval_link_resumes_the_session(start_site: StartSite) -> None:
    async with start_site() as site:
        agent = site.agent()
        stopped = await agent.until_stopped()
        for name, headers in OPENERS.items():
            for url in (stopped.link, f"{stopped.link}/", f"{stopped.link}?_method=POST&note=x"):
                page = await site.get(url, headers)
                assert page.status_code == 200 and '<form method="post">' in page.text, name
                assert page.headers["content-type"].startswith("text/html"), name
                assert page.headers["cache-control"] == "no-store", name
            head = await site.client.head(stopped.link, headers=headers)
            assert head.status_code == 200 and head.content == b"", name
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
            assert (await site.client.request(method, stopped.link, headers=CURL)).status_code == 405, method
        assert (await site.session(stopped.session))["status"] == "stopped"
        assert (await agent.until_stopped()).code == "loop_stopped", "viewing the page resumes nothing"


async def test_the_form_of_the_approval_page_resumes_a_session_once(start_site: StartSite) -> None:
    async with start_site() as site:
        agent = site.agent()
        link = (await agent.until_stopped()).link
        base, _, token = link.rpartition("/")
        payload, _, signature = token.partition(".")
        for forged in (
            f"{payload}.{signature[::-1]}",
            payload,
            f".{signature}",
            "",
            "x" * 5000,
            "%ff.%00",
            f"{token}A",
        ):
            assert (await site.get(f"{base}/{forged}", CURL)).status_code == 404, forged
            assert (await site.client.post(f"{base}/{forged}", headers=CURL)).status_code == 404, forged
        done = await site.client.post(link, data={"note": "Read b.txt <b>instead</b>."}, headers=BROWSER)
        assert done.status_code == 200 and "resumed" in done.text and "<form" not in done.text
        assert (await site.client.post(link, data={"note": ""}, headers=BROWSER)).status_code == 404
        assert (await site.get(link, BROWSER)).status_code == 404
        await agent.turn()
        assert "Read b.txt <b>instead</b>." in site.near.request_bodies[-1].decode()


async def test_an_approval_link_is_valid_for_one_stop(start_site: StartSite) -> None:
    async with start_site() as site:
        agent = site.agent()
        first = (await agent.until_stopped()).link
        await site.client.post(first, headers=CURL)
        second = (await agent.until_stopped()).link
        assert second != first and (await site.client.post(first, headers=CURL)).status_code == 404
        assert (await site.client.post(second, headers=CURL)).status_code == 200


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_operators_note_reaches_the_model_once(start_site: StartSite, dialect: str) -> None:
    async with start_site() as site:
        agent = site.agent(dialect)
        stopped = await agent.until_stopped()
        answer = await site.act(stopped.session, "resume", note="Ask Ada for the password.")
        assert answer.status_code == 200 and answer.json()["status"] == "running"
        await agent.turns_of(2)
        assert [body.count(b"Ask Ada for the password.") for body in agent.provider.request_bodies[-2:]] == [1, 0]
        assert (await site.act(stopped.session, "resume", note="x" * 1001)).status_code == 400
        assert (await site.act(stopped.session, "resume", notes="x")).status_code == 400


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_new_user_message_lifts_the_stop(start_site: StartSite, dialect: str) -> None:
    async with start_site() as site:
        agent = site.agent(dialect)
        await agent.until_stopped()
        agent.history.append({"role": "user", "content": "The file is b.txt, look there."})
        headers = await agent.turn({"text": "I found it."})
        assert agent.text == "I found it." and "x-penstock-loop" not in headers


async def test_operators_exempt_kill_and_label(start_site: StartSite) -> None:
    async with start_site() as site:
        agent = site.agent(headers={"x-penstock-session": "team/run-7"})
        stopped = await agent.until_stopped()
        name = stopped.session
        for headers in ({}, KEY, {"Authorization": "Bearer wrong"}):
            assert (await site.get("/admin/sessions", headers)).status_code == 401
            for action in ("resume", "exempt", "kill", "label"):
                assert (await site.post(f"/admin/sessions/{name}/{action}", {}, headers)).status_code == 401
        listed = (await site.get("/admin/sessions?stopped=true", ADMIN)).json()
        assert [session["id"] for session in listed["data"]] == [name] and "warn" in listed["data"][0]["ladder_steps"]
        assert (await site.act(name, "label", label="loop")).json()["label"] == "loop"
        assert (await site.act(name, "label", label="nonsense")).status_code == 400
        assert (await site.act(name, "exempt")).json()["exempt"]
        await agent.turns_of(2 * SERVED)
        assert (await site.act(name, "kill", note="enough")).json()["stop"]["code"] == "session_killed"
        killed = await agent.until_stopped()
        assert (killed.status, killed.code) == (400, "session_killed") and "enough" in killed.message
        assert "resume" not in killed.details
        agent.history.append({"role": "user", "content": "And now?"})
        assert (await agent.until_stopped()).code == "session_killed", "a user message does not lift a kill"
        assert (await site.act(name, "resume")).status_code == 400
        assert (await site.get(stopped.link, CURL)).status_code == 404
        assert (await site.get("/admin/sessions/unknown", ADMIN)).status_code == 404


async def test_session_actions_are_refused_without_an_admin_token(start_site: StartSite) -> None:
    async with start_site(admin_token=None) as site:
        stopped = await site.agent().until_stopped()
        assert (await site.get("/admin/sessions")).status_code == 200
        for action in ("resume", "exempt", "kill", "label"):
            refused = await site.post(f"/admin/sessions/{stopped.session}/{action}", {})
            assert refused.status_code == 401
            assert refused.json()["error"]["message"] == (
                "Changes disabled: this gateway was started without PENSTOCK_ADMIN_TOKEN."
            )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_stop_mode_answer_ends_the_session_with_a_gateway_answer(
    start_site: StartSite, tmp_path: Path, dialect: str, stream: bool
) -> None:
    async with start_site("loop_guard: {stop_mode: answer}") as site:
        agent = site.agent(dialect)
        for _ in range(SERVED + 2):
            headers = await agent.turn(stream=stream)
        assert agent.text.startswith("[Stopped by the gateway] This session repeats itself: 'bash'")
        assert headers["x-penstock-stopped"] == "loop_stopped" and "/approve/" in agent.text
        assert len(agent.provider.request_bodies) == SERVED
    entries = _ledger(tmp_path)
    assert [entry.outcome for entry in entries] == ["completed"] * SERVED + ["refused"]
    assert not entries[-1].charge_nusd


@pytest.mark.parametrize("loops", ["{mode: shadow}", "{holdout: 1.0}", "{stop_at: null, nudge_at: null}"])
async def test_a_loop_that_is_only_observed_is_never_stopped(start_site: StartSite, loops: str) -> None:
    async with start_site(f"loop_guard: {loops}") as site:
        agent = site.agent()
        loop_headers = await agent.turns_of(2 * SERVED)
        assert loop_headers[-1].startswith("warn" if "null" in loops else "stop") and (
            "shadow" in loop_headers[-1]
        ) == ("null" not in loops)
        assert not any(NOTE.encode() in body for body in site.near.request_bodies)
        metrics = (await site.get("/metrics")).text
        assert ('penstock_session_events_total{enforced="no",kind="loop_stop"} 1.0' in metrics) == ("null" not in loops)


async def test_the_status_of_a_stop_depends_on_the_user_agent(start_site: StartSite) -> None:
    async with start_site("loop_guard: {statuses: {OddAgent: 422, busy: 429}}") as site:
        for agent, status in (("oddagent/2.0", 422), ("Busy-Client", 429), ("other", 400)):
            before = site.sent
            stopped = await site.agent(headers={"User-Agent": agent}).until_stopped()
            assert (stopped.status, stopped.code) == (status, "loop_stopped")
            assert site.sent == before + SERVED + 1, "no status is retried"


async def _until_stopped(site: Site, name: str) -> None:
    """Waits until the session is stopped."""
    async with asyncio.timeout(5):
        while (await site.session(name))["status"] != "stopped":
            pass


HOLD_CONFIG = "loop_guard: {hold_at: 4, hold_seconds: 10}"


@pytest.mark.parametrize("method", ["admin API", "approval link"])
async def test_a_held_request_waits_and_is_served_when_approved(start_site: StartSite, method: str) -> None:
    async with start_site(HOLD_CONFIG) as site:
        agent = site.agent(headers={"x-penstock-session": "held"})
        await agent.turns_of(NUDGED - 1)
        waiting = asyncio.ensure_future(agent.turn())
        await _until_stopped(site, "held")
        other = site.agent(headers={"x-penstock-session": "held"})
        other.history = [*agent.history]
        refused = await other.until_stopped()
        assert (refused.code, refused.status) == ("loop_approval_required", 400) and not waiting.done()
        if method == "approval link":
            assert (await site.client.post(refused.link, headers=CURL)).status_code == 200
        else:
            await site.act("held", "resume")
        await asyncio.wait_for(waiting, 5)
        assert agent.turns == NUDGED
        await agent.turn({"text": "Done."})
        assert agent.text == "Done."


async def test_a_held_request_is_refused_after_hold_seconds(start_site: StartSite) -> None:
    async with start_site("loop_guard: {hold_at: 4, hold_seconds: 0.3}") as site:
        agent = site.agent()
        stopped = await agent.until_stopped()
        assert (stopped.code, stopped.status, agent.turns) == ("loop_approval_required", 400, NUDGED - 1)
        assert (await site.client.post(stopped.link, headers=CURL)).status_code == 200
        await agent.turn({"text": "Done."})


async def test_operator_decisions_on_sessions_survive_a_restart(start_site: StartSite) -> None:
    names = ("exempt", "killed", "labelled")
    async with start_site() as site:
        agents = {name: site.agent(headers={"x-penstock-session": name}) for name in names}
        links = {name: (await agent.until_stopped()).link for name, agent in agents.items()}
        assert (await site.act("exempt", "exempt")).status_code == 200
        assert (await site.act("killed", "kill", note="enough")).status_code == 200
        assert (await site.act("labelled", "label", label="healthy")).status_code == 200
        assert (await site.client.post(links["labelled"], headers=CURL)).status_code == 200
        capped = await site.post("/v1/sessions", {"id": "capped", "caps": {"calls": 3, "minutes": 5}}, KEY)
        assert capped.status_code == 200
        await _until_written(site, 14)
    async with start_site() as site:
        again = {name: _moved(agent, site) for name, agent in agents.items()}
        await again["exempt"].turns_of(2 * SERVED)
        killed = await again["killed"].until_stopped()
        assert killed.code == "session_killed" and "enough" in killed.message
        assert (await site.session("labelled"))["label"] == "healthy"
        await again["labelled"].turn()
        assert (await site.session("capped"))["caps"] == {"calls": 3, "minutes": 5}
        assert await site.calls(5, at_once=False, x_penstock_session="capped") == [200] * 3 + [400] * 2


async def test_a_stop_and_its_link_survive_a_restart(start_site: StartSite) -> None:
    async with start_site() as site:
        agent = site.agent(headers={"x-penstock-session": "stopped"})
        link = (await agent.until_stopped()).link
        await _until_written(site, 3)
    async with start_site() as site:
        again = _moved(agent, site)
        refused = await again.until_stopped()
        assert (refused.code, refused.details["tool"], again.turns) == ("loop_stopped", "bash", 0)
        assert (await site.client.post(f"{site.base}/approve/{link.rpartition('/')[2]}")).status_code == 200
        await again.turn()


@pytest.mark.parametrize("whose", ["the run's", "the operator's"])
async def test_the_usage_of_caps_survives_a_restart(start_site: StartSite, whose: str) -> None:
    more = "sessions: {caps_per_session: {calls: 3}}" if whose == "the operator's" else ""
    async with start_site(more) as site:
        if not more:
            await site.post("/v1/sessions", {"id": "s", "caps": {"calls": 3}}, KEY)
            await _until_written(site, 1)
        assert await site.calls(2, at_once=False, x_penstock_session="s") == [200, 200]
    async with start_site(more) as site:
        assert await site.calls(2, at_once=False, x_penstock_session="s") == [200, 400]


def _moved(agent: Agent, site: Site) -> Agent:
    """Returns the same agent on another gateway."""
    moved = site.agent(headers=agent.headers)
    moved.history = agent.history
    return moved


async def _until_written(site: Site, least: int) -> None:
    """Waits until the audit, written after the responses, has so many events."""
    async with asyncio.timeout(5):
        while len((await site.get("/admin/budgets/events", ADMIN)).json()["data"]) < least:
            pass


@pytest.mark.parametrize("at_once", [False, True], ids=["sequential", "concurrent"])
@pytest.mark.parametrize("method", ["opened", "header"])
async def test_a_session_cannot_exceed_its_caps(
    start_site: StartSite, tmp_path: Path, method: str, at_once: bool
) -> None:
    async with start_site() as site:
        headers = {"x_penstock_session": "mine"}
        if method == "opened":
            opened = (await site.post("/v1/sessions", {"id": "mine", "caps": {"usd": 2, "calls": 3}}, KEY)).json()
            assert (opened["id"], opened["caps"], opened["status"]) == ("mine", {"usd": 2, "calls": 3}, "running")
        else:
            headers["x_penstock_session_caps"] = "usd=2, calls=3"
        statuses = await site.calls(20, at_once=at_once, **headers)
        assert sorted(statuses) == [200] * 3 + [400] * 17
        opened = (await site.get("/v1/sessions/mine", KEY)).json()
        assert (opened["calls"], opened["caps"]) == (3, {"usd": 2, "calls": 3}) and opened["cost_usd"] > 0
        assert await site.calls(1, at_once=False, x_penstock_session="another") == [200]
    served = [entry for entry in _ledger(tmp_path) if entry.session == "mine" and entry.outcome == "completed"]
    assert len(served) == 3


async def test_a_money_cap_is_not_exceeded(start_site: StartSite, tmp_path: Path) -> None:
    async with start_site() as site:
        statuses = await site.calls(40, at_once=True, x_penstock_session="poor", x_penstock_session_caps="usd=0.0002")
        assert {200, 400} == set(statuses)
        assert (await site.get("/v1/sessions/poor", KEY)).json()["cost_usd"] <= 0.0002
    assert sum(entry.charge_nusd for entry in _ledger(tmp_path)) <= 200_000


async def test_callers_can_only_tighten_caps(start_site: StartSite) -> None:
    async with start_site() as site:
        for header, caps in (
            ("calls=5", {"calls": 5}), ("calls=9", {"calls": 5}), ("calls=3,usd=1", {"calls": 3, "usd": 1}),
            ("usd=2", {"calls": 3, "usd": 1}), ("", {"calls": 3, "usd": 1}),
        ):  # fmt: skip
            await site.calls(1, at_once=False, x_penstock_session="s", x_penstock_session_caps=header)
            assert (await site.session("s"))["caps"] == caps, header
        await site.post("/v1/sessions", {"id": "s", "caps": {"calls": 50}}, KEY)
        assert (await site.session("s"))["caps"] == {"calls": 3, "usd": 1}
        raised = (await site.act("s", "resume", budget={"calls": 2})).json()
        assert raised["caps"] == {"calls": 5, "usd": 1}, "an operator may raise them"
        assert await site.calls(1, at_once=False, x_penstock_session="s") == [200]


# Sent as Latin-1; the byte arrives as a lone surrogate.
NOT_UTF8 = pytest.param("ü=1")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "caps", ["calls=x", "nonsense=1", "calls=-1", "usd=nan", "usd=1e30", "calls", "depth=true", NOT_UTF8]
)
async def test_invalid_caps_are_refused_in_the_callers_dialect(start_site: StartSite, dialect: str, caps: str) -> None:
    async with start_site() as site:
        agent = site.agent(dialect, headers={"x-penstock-session": "s"})
        agent.headers["x-penstock-session-caps"] = caps.encode("latin-1")
        with pytest.raises(openai.APIStatusError) as caught:
            await agent.turn()
        assert caught.value.status_code == 400 and site.sent == 1
        error = caught.value.response.json()["error"]
        assert error["type"] == "invalid_request_error" and "cap" in error["message"]
        assert not agent.provider.request_bodies


@pytest.mark.parametrize(
    "body, status",
    [
        ({}, 200),
        ({"id": "a/b", "caps": {"minutes": 1, "depth": 1, "sub_agents": 2, "tokens": 9, "wh": 0.5}}, 200),
        ({"caps": []}, 400),
        ({"caps": {"usd": True}}, 400),
        ({"caps": {"usd": None}}, 400),
        ({"id": 7}, 400),
        ({"name": "x"}, 400),
        ([], 400),
    ],
)
async def test_the_body_of_a_session_is_validated(start_site: StartSite, body: Any, status: int) -> None:
    async with start_site() as site:
        answer = await site.post("/v1/sessions", body, KEY)
        assert answer.status_code == status, answer.text
        if status == 200:
            opened = answer.json()
            assert opened["caps"] == body.get("caps", {})
            assert (await site.get(f"/v1/sessions/{opened['id']}", KEY)).json()["id"] == opened["id"]
        assert (await site.post("/v1/sessions", body)).status_code == 401


async def test_sessions_of_another_key_are_not_visible(start_site: StartSite) -> None:
    async with start_site() as site:
        await site.post("/v1/sessions", {"id": "mine", "caps": {"calls": 1}}, KEY)
        assert (await site.get("/v1/sessions/mine", OTHER)).status_code == 404
        assert (await site.get("/v1/sessions/mine")).status_code == 401
        await site.post("/v1/sessions", {"id": "mine"}, OTHER)
        assert (await site.get("/v1/sessions/mine", OTHER)).json()["caps"] == {}, (
            "the same name under another key is another session"
        )
        assert (await site.get("/admin/sessions/mine", ADMIN)).status_code == 400
        assert (await site.get("/admin/sessions/mine?key=k1", ADMIN)).json()["caps"] == {"calls": 1}


async def test_a_killed_session_without_an_id_is_not_lifted_by_a_user_message(start_site: StartSite) -> None:
    async with start_site() as site:
        agent = site.agent()
        await agent.turns_of(3)
        (session,) = (await site.get("/admin/sessions", ADMIN)).json()["data"]
        await site.act(session["id"], "kill")
        assert (await agent.until_stopped()).code == "session_killed"
        agent.history.append({"role": "user", "content": "And now?"})
        assert (await agent.until_stopped()).code == "session_killed"


async def test_exempting_a_killed_session_does_not_revive_it(start_site: StartSite) -> None:
    async with start_site() as site:
        agent = site.agent(headers={"x-penstock-session": "s"})
        await agent.turn()
        await site.act("s", "kill")
        await site.act("s", "exempt")
        assert (await agent.until_stopped()).code == "session_killed"


async def test_agents_with_equal_openings_in_one_session_are_not_a_loop(start_site: StartSite) -> None:
    async with start_site() as site:
        first, second = (site.agent(headers={"x-penstock-session": "s"}) for _ in range(2))
        for number in range(12):
            await first.turn({"tool_calls": [{"name": "bash", "arguments": {"cmd": f"cat {number}"}}]})
            first.history[-1]["content"] = f"{'abcdefghijkl'[number] * 20} is its content"
        await second.turn({"text": "Begun."})
        assert "x-penstock-loop" not in await first.turn({"text": "Done."})


async def test_the_note_reaches_the_model_in_the_held_request(start_site: StartSite) -> None:
    async with start_site(HOLD_CONFIG) as site:
        agent = site.agent(headers={"x-penstock-session": "held"})
        await agent.turns_of(NUDGED - 1)
        waiting = asyncio.ensure_future(agent.turn())
        await _until_stopped(site, "held")
        await site.act("held", "resume", note="Ask Ada.")
        await waiting
        assert b"Ask Ada." in site.near.request_bodies[-1]


async def test_stop_mode_answer_of_a_task_type_applies_to_every_request(start_site: StartSite) -> None:
    async with start_site("loop_guard: {rules: [{task_type: code, stop_mode: answer}]}") as site:
        agent = site.agent()
        for _ in range(SERVED + 2):
            await agent.turn()
        assert agent.text.startswith("[Stopped by the gateway]")


async def test_concurrent_calls_of_one_sub_agent_count_as_one_sub_agent(start_site: StartSite) -> None:
    async with start_site("sessions: {caps: {sub_agents: 1}}") as site:
        tree = {"x_penstock_session": "child", "x_penstock_parent_session": "root"}
        assert await site.calls(4, at_once=True, **tree) == [200] * 4


@pytest.mark.parametrize("kind", ["too large", "not a form"])
async def test_an_invalid_approval_form_is_a_client_error(start_site: StartSite, kind: str) -> None:
    async with start_site() as site:
        link = (await site.agent().until_stopped()).link
        content, form = b"note=" + b"x" * 2_000_000, "application/x-www-form-urlencoded"
        if kind == "not a form":
            content, form = b"nothing", "multipart/form-data"
        answer = await site.client.post(link, content=content, headers={"content-type": form})
        assert 400 <= answer.status_code < 500


async def test_the_sessions_command_shows_resumes_and_labels(start_site: StartSite) -> None:
    async with start_site() as site:
        agent = site.agent(headers={"x-session-id": "run 7/b"})
        await agent.until_stopped()

        def penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "gateway.cli.main", "sessions", "--url", site.base, *arguments],
                capture_output=True, text=True, timeout=60, check=False,
                env={**os.environ, "PENSTOCK_ADMIN_TOKEN": "s3cret"},
            )  # fmt: skip

        listed = await asyncio.to_thread(penstock, "list", "--stopped")
        assert "run 7/b" in listed.stdout and "bash" in listed.stdout, listed.stderr
        shown = await asyncio.to_thread(penstock, "show", "run 7/b", "--json")
        assert json.loads(shown.stdout)["stop"]["evidence"]["tool"] == "bash"
        assert (await asyncio.to_thread(penstock, "label", "run 7/b", "loop")).returncode == 0
        assert (await asyncio.to_thread(penstock, "resume", "run 7/b", "--usd", "1")).returncode == 1
        resumed = await asyncio.to_thread(penstock, "resume", "run 7/b", "--note", "Use another directory.")
        assert "running" in resumed.stdout
        await agent.turn()
        missing = await asyncio.to_thread(penstock, "show", "unknown")
        assert missing.returncode == 1 and "No such session" in missing.stderr
        gone = await asyncio.to_thread(penstock, "--url", "http://127.0.0.1:9", "list")
        assert gone.returncode == 1 and "cannot reach a gateway" in gone.stderr
