"""Agents that run in circles, and runs with caps, as their clients and operators meet them: real sockets, a real SDK.

Every answer that an agent builds its next request from is one that the gateway gave.
"""

import asyncio
import json
import os
import re
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

WORLD = """
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
# The request at which each step is due: the first brings no result, the second one that is new, and every further one
# adds 1 to the score. SERVED is how many are served before the one that is refused.
WARNED, NUDGED, SERVED = 5, 6, 9
SYSTEM = "You are an agent – be brief."
PARAMETERS = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}
LOOPING = {"tool_calls": [{"name": "bash", "arguments": {"cmd": "ls"}}]}
NOTE = "[Gateway note: "


class Site:
    """A running gateway, its providers, and an HTTP client that keeps count of what it sends."""

    def __init__(self, app: App, near: SimulatedProvider, claude: SimulatedProvider, client: httpx.AsyncClient) -> None:
        self.app, self.near, self.claude, self.client = app, near, claude, client
        self.base = f"http://127.0.0.1:{app.port}"
        self.sent = 0

    async def count(self, request: httpx.Request) -> None:
        """One request leaves."""
        self.sent += 1

    def agent(self, dialect: str = "chat", **more: Any) -> "Agent":
        """An agent that looks at the same thing again and again."""
        return AGENTS[dialect](self, **more)

    async def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Anything but a call."""
        return await self.client.get(path if path.startswith("http") else self.base + path, headers=headers)

    async def post(self, path: str, document: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """Anything but a call."""
        return await self.client.post(self.base + path, json=document, headers=headers)

    async def act(self, session: str, action: str, **asked: Any) -> httpx.Response:
        """What an operator does about a session."""
        return await self.post(f"/admin/sessions/{session}/{action}", asked, ADMIN)

    async def session(self, name: str) -> dict[str, Any]:
        """What operators see of a session."""
        return (await self.get(f"/admin/sessions/{name}", ADMIN)).json()

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = (await self.get("/metrics")).text
        return sum(float(found) for found in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))

    async def calls(self, count: int, *, at_once: bool, **headers: str) -> list[int]:
        """The statuses of so many chat calls; underscores in header names stand for dashes."""
        named = KEY | {name.replace("_", "-"): value for name, value in headers.items()}

        async def call() -> int:
            body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
            return (await self.post("/v1/chat/completions", body, named)).status_code

        return (
            list(await asyncio.gather(*(call() for _ in range(count))))
            if at_once
            else [await call() for _ in range(count)]
        )


class Agent:
    """Asks with its whole history each time, and does what it is told: every call brings the same result.

    `turn` gives the answer's headers; with `sim` the model is told what to say.
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
        """Who serves it."""
        return self.site.near

    async def turn(self, sim: dict[str, Any] = LOOPING, *, stream: bool = False) -> dict[str, str]:
        """Ask, and take the answer into the history."""
        raise NotImplementedError

    async def until_stopped(self) -> "Refused":
        """Loop until the gateway refuses."""
        for _ in range(30):
            try:
                await self.turn()
            except openai.APIStatusError as error:
                return Refused(error.response)
        raise AssertionError("nobody stopped it")

    async def turns_of(self, count: int) -> list[str]:
        """What the x-penstock-loop header said in each of so many turns."""
        return [(await self.turn()).get("x-penstock-loop", "") for _ in range(count)]

    def turn_in(self, body: dict[str, Any]) -> list[Any]:
        """The turns of a request that the provider got."""
        return body["messages"]


class Refused:
    """A refusal as it came."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status, self.headers = answer.status_code, answer.headers
        error = answer.json()["error"]
        self.code, self.message, self.details = error["code"], error["message"], error.get("details", {})

    @property
    def link(self) -> str:
        """Where a person lets the session go on."""
        assert self.details["resume"] in self.message
        return self.details["resume"]

    @property
    def session(self) -> str:
        """Which one was stopped."""
        return self.details["session"]


class ChatAgent(Agent):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.history.insert(0, {"role": "system", "content": SYSTEM})

    async def turn(self, sim: dict[str, Any] = LOOPING, *, stream: bool = False) -> dict[str, str]:
        tool = {"type": "function", "function": {"name": "bash", "parameters": PARAMETERS, "strict": True}}
        asked = {"model": self.model, "messages": self.history, "tools": [tool], "extra_body": {"sim": sim}}
        asked["extra_headers"] = self.headers
        if stream:
            async with self.sdk.chat.completions.stream(**asked) as events:
                async for _ in events:
                    pass
                completion = await events.get_final_completion()
            headers = dict(events._response.headers)
        else:
            raw = await self.sdk.chat.completions.with_raw_response.create(**asked)
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
    async def turn(self, sim: dict[str, Any] = LOOPING, *, stream: bool = False) -> dict[str, str]:
        tool = {"type": "function", "name": "bash", "parameters": PARAMETERS, "strict": False}
        asked = {"model": self.model, "input": self.history, "instructions": SYSTEM, "tools": [tool]}
        asked |= {"extra_body": {"sim": sim}, "extra_headers": self.headers}
        if stream:
            async with self.sdk.responses.stream(**asked) as events:
                async for _ in events:
                    pass
                response = await events.get_final_response()
            headers = dict(events._raw_stream.response.headers)
        else:
            raw = await self.sdk.responses.with_raw_response.create(**asked)
            response, headers = raw.parse(), dict(raw.headers)
        assert response.status == "completed"
        self.turns, self.text = self.turns + 1, response.output_text
        calls = [one for one in response.output if one.type == "function_call"]
        self.history += [one.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for one in response.output]
        self.history += [{"type": "function_call_output", "call_id": one.call_id, "output": "a.txt"} for one in calls]
        return headers

    def turn_in(self, body: dict[str, Any]) -> list[Any]:
        return body["input"]


class MessagesAgent(Agent):
    """Anthropic's SDK is not in this environment: what it would send, as it is sent, and read as it reads it."""

    model = "claude"

    @property
    def provider(self) -> SimulatedProvider:
        return self.site.claude

    async def turn(self, sim: dict[str, Any] = LOOPING, *, stream: bool = False) -> dict[str, str]:
        tool = {"name": "bash", "input_schema": PARAMETERS}
        body = {"model": self.model, "max_tokens": 100, "system": SYSTEM, "messages": self.history, "tools": [tool]}
        headers = {"x-api-key": "secret-one", "anthropic-version": "2023-06-01", **self.headers}
        answer = await self.site.post("/v1/messages", body | {"sim": sim, "stream": stream}, headers)
        if answer.status_code != 200:
            assert answer.json()["type"] == "error"
            raise openai.APIStatusError("", response=answer, body=None)
        message = _accumulated(answer.text) if stream else answer.json()
        calls = [one for one in message["content"] if one["type"] == "tool_use"]
        assert message["stop_reason"] == ("tool_use" if calls else "end_turn")
        self.turns += 1
        self.text = "".join(one["text"] for one in message["content"] if one["type"] == "text")
        self.history.append({"role": "assistant", "content": message["content"]})
        results = [{"type": "tool_result", "tool_use_id": one["id"], "content": "a.txt"} for one in calls]
        if results:
            self.history.append({"role": "user", "content": results})
        return dict(answer.headers)


AGENTS: dict[str, type[Agent]] = {"chat": ChatAgent, "responses": ResponsesAgent, "messages": MessagesAgent}


def _accumulated(text: str) -> dict[str, Any]:
    """The message that a stream of Anthropic's events makes; names and types must agree."""
    message: dict[str, Any] = {}
    for event in text.strip().split("\n\n"):
        name, data = (line.partition(": ")[2] for line in event.split("\n"))
        told = json.loads(data)
        assert told["type"] == name
        if name == "message_start":
            message = told["message"]
        elif name == "content_block_start":
            assert told["index"] == len(message["content"])
            message["content"].append(told["content_block"])
        elif name == "content_block_delta" and told["delta"]["type"] == "text_delta":
            message["content"][told["index"]]["text"] += told["delta"]["text"]
        elif name == "message_delta":
            message |= told["delta"]
            message["usage"] |= told["usage"]
    assert name == "message_stop"
    return message


Opened = Callable[..., Any]


@pytest.fixture
def site(tmp_path: Path) -> Opened:
    """`async with site("loops: {...}") as it:` starts a gateway; the same folder each time."""

    @asynccontextmanager
    async def start(more: str = "", **settings: Any) -> AsyncIterator[Site]:
        async with AsyncExitStack() as stack:
            near, claude = (SimulatedProvider(SimulatedModel(model=f"sim-{name}")) for name in ("small", "claude"))
            text = WORLD + more
            for name, provider in (("near", near), ("claude", claude)):
                text = text.replace(f"@{name}", await provider.start())
                stack.push_async_callback(provider.stop)
            chosen = {"data": tmp_path / "data", "port": 0, "drain_seconds": 2.0, "admin_token": "s3cret", **settings}
            app = App(Settings(**chosen), parse(text, "runs.yaml", ENV)[0])
            await app.start()
            stack.push_async_callback(app.stop)
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=20, trust_env=False))
            it = Site(app, near, claude, client)
            client.event_hooks["request"] = [it.count]
            yield it

    return start


def _ledger(tmp_path: Path) -> list[LedgerEntry]:
    """Every entry; the gateway has stopped."""
    store = SqliteLedger(tmp_path / "data" / "ledger.sqlite")
    try:
        return list(store.entries())
    finally:
        store.close()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_loop_is_warned_of_and_stopped_and_its_agent_told_once(
    site: Opened, tmp_path: Path, dialect: str
) -> None:
    async with site() as it:
        agent = it.agent(dialect)
        told = await agent.turns_of(SERVED)
        assert [one.partition(";")[0] for one in told] == [""] * 4 + ["warn", "nudge"] + ["warn"] * 3
        assert "tool=bash" in told[WARNED - 1] and "count=4" in told[WARNED - 1]
        before = it.sent
        stopped = await agent.until_stopped()
        assert it.sent == before + 1, "the SDK does not try again"
        assert (stopped.status, stopped.code) == (402 if dialect == "messages" else 400, "loop_stopped")
        assert stopped.headers["x-should-retry"] == "false" and stopped.headers["x-penstock-stopped"] == "loop_stopped"
        details = stopped.details
        assert (details["tool"], details["calls"]) == ("bash", SERVED) and details["score"] >= 8
        assert details["count"] == SERVED and float(details["cost_usd"]) > 0 and details["turns"] >= 7
        served, hold = len(agent.provider.request_bodies), await it.metric("penstock_requests_repelled")
        for _ in range(5):
            assert (await agent.until_stopped()).code == "loop_stopped"
        assert await it.metric("penstock_requests_repelled") == hold + 5
        assert len(agent.provider.request_bodies) == served == SERVED, "nothing of it reaches the provider"
        assert (await it.session(stopped.session))["stop"]["hammered"] == 5
    outcomes = [entry.outcome for entry in _ledger(tmp_path)]
    assert outcomes == ["completed"] * SERVED + ["refused"], "what is repelled is not written down"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_model_is_nudged_once_and_its_cache_stays_warm(site: Opened, dialect: str) -> None:
    async with site() as it:
        agent = it.agent(dialect)
        await agent.turns_of(SERVED)
        bodies = [raw.decode() for raw in agent.provider.request_bodies]
        assert [body.count(NOTE) for body in bodies] == [int(turn == NUDGED) for turn in range(1, SERVED + 1)]
        nudged, plain = json.loads(bodies[NUDGED - 1]), json.loads(bodies[NUDGED])
        turns = agent.turn_in(nudged)
        assert turns[:-1] == agent.turn_in(plain)[: len(turns) - 1] and nudged["tools"] == plain["tools"]
        assert nudged.get("system") == plain.get("system") and nudged.get("instructions") == plain.get("instructions")
        result = turns[-1]["content"][0] if dialect == "messages" else turns[-1]
        text = result["output"] if dialect == "responses" else result["content"]
        assert text.startswith(f"a.txt\n\n{NOTE}`bash` has now come out the same 5 times")
        whole, following = bodies[NUDGED - 1], bodies[NUDGED]
        opening = whole.index('"input":' if dialect == "responses" else '"messages":')
        upto = whole[opening : whole.index("\\n\\n" + NOTE)]
        assert upto in following, "byte for byte the same, up to the note"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_person_lets_it_go_on_by_the_link_and_it_finishes(site: Opened, dialect: str) -> None:
    async with site() as it:
        agent = it.agent(dialect)
        stopped = await agent.until_stopped()
        answer = await it.get(stopped.link, CURL)
        assert answer.status_code == 200 and answer.json()["status"] == "running"
        again = await it.get(stopped.link, CURL)
        assert again.status_code == 404 and again.json()["error"]["code"] == "link_not_valid"
        await agent.turn()
        await agent.turn({"text": "All is done."})
        assert agent.text == "All is done."
        assert (await it.session(stopped.session))["calls"] == SERVED + 2


async def test_links_are_only_followed_by_who_means_it(site: Opened) -> None:
    async with site() as it:
        agent = it.agent()
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
            assert (await it.get(f"{base}/{forged}", CURL)).status_code == 404, forged
        for headers in (
            BROWSER,
            {"User-Agent": "Slackbot-LinkExpanding 1.0"},
            {"User-Agent": "TelegramBot (like TwitterBot)"},
        ):
            page = await it.get(link, headers)
            assert page.status_code == 200 and '<form method="post">' in page.text, headers
            assert page.headers["cache-control"] == "no-store"
        assert (await it.client.head(link, headers=CURL)).status_code == 200
        assert (await it.client.put(link, headers=CURL)).status_code == 405
        assert (await agent.until_stopped()).code == "loop_stopped", "a look lets nothing go on"
        done = await it.client.post(link, data={"note": "Read b.txt <b>instead</b>."}, headers=BROWSER)
        assert done.status_code == 200 and "may go on" in done.text
        assert (await it.client.post(link, data={"note": ""}, headers=BROWSER)).status_code == 404
        assert (await it.get(link, BROWSER)).status_code == 404
        await agent.turn()
        assert "Read b.txt <b>instead</b>." in it.near.request_bodies[-1].decode()


async def test_a_link_is_for_one_stop(site: Opened) -> None:
    async with site() as it:
        agent = it.agent()
        first = (await agent.until_stopped()).link
        await it.get(first, CURL)
        second = (await agent.until_stopped()).link
        assert second != first and (await it.get(first, CURL)).status_code == 404
        assert (await it.get(second, CURL)).status_code == 200


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_operators_note_reaches_the_model_once(site: Opened, dialect: str) -> None:
    async with site() as it:
        agent = it.agent(dialect)
        stopped = await agent.until_stopped()
        answer = await it.act(stopped.session, "resume", note="Ask Ada for the password.")
        assert answer.status_code == 200 and answer.json()["status"] == "running"
        await agent.turns_of(2)
        assert [body.count(b"Ask Ada for the password.") for body in agent.provider.request_bodies[-2:]] == [1, 0]
        assert (await it.act(stopped.session, "resume", note="x" * 1001)).status_code == 400
        assert (await it.act(stopped.session, "resume", notes="x")).status_code == 400


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_the_user_says_lifts_the_stop(site: Opened, dialect: str) -> None:
    async with site() as it:
        agent = it.agent(dialect)
        await agent.until_stopped()
        agent.history.append({"role": "user", "content": "The file is b.txt, look there."})
        headers = await agent.turn({"text": "I found it."})
        assert agent.text == "I found it." and "x-penstock-loop" not in headers


async def test_operators_exempt_kill_and_label(site: Opened) -> None:
    async with site() as it:
        agent = it.agent(headers={"x-penstock-session": "team/run-7"})
        stopped = await agent.until_stopped()
        name = stopped.session
        for headers in ({}, KEY, {"Authorization": "Bearer wrong"}):
            assert (await it.get("/admin/sessions", headers)).status_code == 401
            for action in ("resume", "exempt", "kill", "label"):
                assert (await it.post(f"/admin/sessions/{name}/{action}", {}, headers)).status_code == 401
        listed = (await it.get("/admin/sessions?stopped=true", ADMIN)).json()
        assert [one["id"] for one in listed["data"]] == [name] and "warn" in listed["data"][0]["steps"]
        assert (await it.act(name, "label", label="loop")).json()["label"] == "loop"
        assert (await it.act(name, "label", label="nonsense")).status_code == 400
        assert (await it.act(name, "exempt")).json()["exempt"]
        await agent.turns_of(2 * SERVED)
        assert (await it.act(name, "kill", note="enough")).json()["stop"]["code"] == "session_killed"
        killed = await agent.until_stopped()
        assert (killed.status, killed.code) == (400, "session_killed") and "enough" in killed.message
        assert "resume" not in killed.details
        agent.history.append({"role": "user", "content": "And now?"})
        assert (await agent.until_stopped()).code == "session_killed", "no word of the user's lifts that"
        assert (await it.act(name, "resume")).status_code == 400
        assert (await it.get(stopped.link, CURL)).status_code == 404
        assert (await it.get("/admin/sessions/nobody", ADMIN)).status_code == 404


async def test_nobody_acts_on_sessions_where_no_token_is_set(site: Opened) -> None:
    async with site(admin_token=None) as it:
        stopped = await it.agent().until_stopped()
        assert (await it.get("/admin/sessions")).status_code == 200
        for action in ("resume", "exempt", "kill", "label"):
            assert (await it.post(f"/admin/sessions/{stopped.session}/{action}", {})).status_code == 401


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_run_may_end_with_a_last_answer_in_the_models_place(
    site: Opened, tmp_path: Path, dialect: str, stream: bool
) -> None:
    async with site("loops: {stop_mode: answer}") as it:
        agent = it.agent(dialect)
        for _ in range(SERVED + 2):
            headers = await agent.turn(stream=stream)
        assert agent.text.startswith("[Stopped by the gateway] This session repeats itself: 'bash'")
        assert headers["x-penstock-stopped"] == "loop_stopped" and "/approve/" in agent.text
        assert len(agent.provider.request_bodies) == SERVED
    entries = _ledger(tmp_path)
    assert [entry.outcome for entry in entries] == ["completed"] * SERVED + ["refused"]
    assert not entries[-1].charge_nusd


@pytest.mark.parametrize("loops", ["{mode: shadow}", "{holdout: 1.0}", "{stop_at: null, nudge_at: null}"])
async def test_what_is_only_observed_is_never_stopped(site: Opened, loops: str) -> None:
    async with site(f"loops: {loops}") as it:
        agent = it.agent()
        told = await agent.turns_of(2 * SERVED)
        assert told[-1].startswith("warn" if "null" in loops else "stop") and ("shadow" in told[-1]) == (
            "null" not in loops
        )
        assert not any(NOTE.encode() in body for body in it.near.request_bodies)
        counted = (await it.get("/metrics")).text
        assert ('penstock_session_events{acted="no",kind="loop_stop"} 1.0' in counted) == ("null" not in loops)


async def test_the_status_of_a_stop_by_who_asks(site: Opened) -> None:
    async with site("loops: {statuses: {OddAgent: 422, busy: 429}}") as it:
        for agent, status in (("oddagent/2.0", 422), ("Busy-Client", 429), ("other", 400)):
            before = it.sent
            stopped = await it.agent(headers={"User-Agent": agent}).until_stopped()
            assert (stopped.status, stopped.code) == (status, "loop_stopped")
            assert it.sent == before + SERVED + 1, "no status is tried again"


async def _stopped(it: Site, name: str) -> None:
    """Wait until it is."""
    async with asyncio.timeout(5):
        while (await it.session(name))["status"] != "stopped":
            pass


HELD = "loops: {hold_at: 4, hold_seconds: 10}"


@pytest.mark.parametrize("how", ["the desk", "the link"])
async def test_a_held_request_waits_and_goes_on_when_it_is_approved(site: Opened, how: str) -> None:
    async with site(HELD) as it:
        agent = it.agent(headers={"x-penstock-session": "held"})
        await agent.turns_of(NUDGED - 1)
        waiting = asyncio.ensure_future(agent.turn())
        await _stopped(it, "held")
        other = it.agent(headers={"x-penstock-session": "held"})
        other.history = [*agent.history]
        refused = await other.until_stopped()
        assert (refused.code, refused.status) == ("loop_held", 400) and not waiting.done()
        if how == "the link":
            assert (await it.get(refused.link, CURL)).status_code == 200
        else:
            await it.act("held", "resume")
        await asyncio.wait_for(waiting, 5)
        assert agent.turns == NUDGED
        await agent.turn({"text": "Done."})
        assert agent.text == "Done."


async def test_nobody_waits_longer_than_a_hold(site: Opened) -> None:
    async with site("loops: {hold_at: 4, hold_seconds: 0.3}") as it:
        agent = it.agent()
        stopped = await agent.until_stopped()
        assert (stopped.code, stopped.status, agent.turns) == ("loop_held", 400, NUDGED - 1)
        assert (await it.get(stopped.link, CURL)).status_code == 200
        await agent.turn({"text": "Done."})


async def test_what_was_decided_about_sessions_survives_a_restart(site: Opened) -> None:
    names = ("exempt", "killed", "labelled")
    async with site() as it:
        agents = {name: it.agent(headers={"x-penstock-session": name}) for name in names}
        links = {name: (await agent.until_stopped()).link for name, agent in agents.items()}
        assert (await it.act("exempt", "exempt")).status_code == 200
        assert (await it.act("killed", "kill", note="enough")).status_code == 200
        assert (await it.act("labelled", "label", label="healthy")).status_code == 200
        assert (await it.get(links["labelled"], CURL)).status_code == 200
        capped = await it.post("/v1/sessions", {"id": "capped", "caps": {"calls": 3, "minutes": 5}}, KEY)
        assert capped.status_code == 200
        await _written(it, 14)
    async with site() as it:
        again = {name: _moved(agent, it) for name, agent in agents.items()}
        await again["exempt"].turns_of(2 * SERVED)
        killed = await again["killed"].until_stopped()
        assert killed.code == "session_killed" and "enough" in killed.message
        assert (await it.session("labelled"))["label"] == "healthy"
        await again["labelled"].turn()
        assert (await it.session("capped"))["caps"] == {"calls": 3, "minutes": 5}
        assert await it.calls(5, at_once=False, x_penstock_session="capped") == [200] * 3 + [400] * 2


async def test_a_stop_survives_a_restart_and_so_does_its_link(site: Opened) -> None:
    async with site() as it:
        agent = it.agent(headers={"x-penstock-session": "stopped"})
        link = (await agent.until_stopped()).link
        await _written(it, 3)
    async with site() as it:
        again = _moved(agent, it)
        refused = await again.until_stopped()
        assert (refused.code, refused.details["tool"], again.turns) == ("loop_stopped", "bash", 0)
        assert (await it.get(f"{it.base}/approve/{link.rpartition('/')[2]}", CURL)).status_code == 200
        await again.turn()


@pytest.mark.parametrize("whose", ["the run's", "the operator's"])
async def test_what_a_run_took_of_its_caps_survives_a_restart(site: Opened, whose: str) -> None:
    more = "sessions: {each: {calls: 3}}" if whose == "the operator's" else ""
    async with site(more) as it:
        if not more:
            await it.post("/v1/sessions", {"id": "s", "caps": {"calls": 3}}, KEY)
            await _written(it, 1)
        assert await it.calls(2, at_once=False, x_penstock_session="s") == [200, 200]
    async with site(more) as it:
        assert await it.calls(2, at_once=False, x_penstock_session="s") == [200, 400]


def _moved(agent: Agent, it: Site) -> Agent:
    """The same agent, at another gateway."""
    again = it.agent(headers=agent.headers)
    again.history = agent.history
    return again


async def _written(it: Site, least: int) -> None:
    """The audit is written behind the requests."""
    async with asyncio.timeout(5):
        while len((await it.get("/admin/budgets/events", ADMIN)).json()["data"]) < least:
            pass


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
@pytest.mark.parametrize("how", ["opened", "header"])
async def test_a_run_takes_no_more_than_its_own_caps(site: Opened, tmp_path: Path, how: str, at_once: bool) -> None:
    async with site() as it:
        headers = {"x_penstock_session": "mine"}
        if how == "opened":
            told = (await it.post("/v1/sessions", {"id": "mine", "caps": {"usd": 2, "calls": 3}}, KEY)).json()
            assert (told["id"], told["caps"], told["status"]) == ("mine", {"usd": 2, "calls": 3}, "running")
        else:
            headers["x_penstock_session_caps"] = "usd=2, calls=3"
        statuses = await it.calls(20, at_once=at_once, **headers)
        assert sorted(statuses) == [200] * 3 + [400] * 17
        told = (await it.get("/v1/sessions/mine", KEY)).json()
        assert (told["calls"], told["caps"]) == (3, {"usd": 2, "calls": 3}) and told["cost_usd"] > 0
        assert await it.calls(1, at_once=False, x_penstock_session="another") == [200]
    served = [entry for entry in _ledger(tmp_path) if entry.session == "mine" and entry.outcome == "completed"]
    assert len(served) == 3


async def test_a_cap_in_money_holds(site: Opened, tmp_path: Path) -> None:
    async with site() as it:
        statuses = await it.calls(40, at_once=True, x_penstock_session="poor", x_penstock_session_caps="usd=0.0002")
        assert {200, 400} == set(statuses)
        assert (await it.get("/v1/sessions/poor", KEY)).json()["cost_usd"] <= 0.0002
    assert sum(entry.charge_nusd for entry in _ledger(tmp_path)) <= 200_000


async def test_caps_are_only_ever_tightened(site: Opened) -> None:
    async with site() as it:
        for told, caps in (
            ("calls=5", {"calls": 5}), ("calls=9", {"calls": 5}), ("calls=3,usd=1", {"calls": 3, "usd": 1}),
            ("usd=2", {"calls": 3, "usd": 1}), ("", {"calls": 3, "usd": 1}),
        ):  # fmt: skip
            await it.calls(1, at_once=False, x_penstock_session="s", x_penstock_session_caps=told)
            assert (await it.session("s"))["caps"] == caps, told
        await it.post("/v1/sessions", {"id": "s", "caps": {"calls": 50}}, KEY)
        assert (await it.session("s"))["caps"] == {"calls": 3, "usd": 1}
        raised = (await it.act("s", "resume", budget={"calls": 2})).json()
        assert raised["caps"] == {"calls": 5, "usd": 1}, "an operator may raise them"
        assert await it.calls(1, at_once=False, x_penstock_session="s") == [200]


# Headers are bytes; these come in as a lone surrogate.
NOT_UTF8 = pytest.param("ü=1")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "caps", ["calls=x", "nonsense=1", "calls=-1", "usd=nan", "usd=1e30", "calls", "depth=true", NOT_UTF8]
)
async def test_caps_that_make_no_sense_are_refused_in_the_callers_dialect(
    site: Opened, dialect: str, caps: str
) -> None:
    async with site() as it:
        agent = it.agent(dialect, headers={"x-penstock-session": "s"})
        agent.headers["x-penstock-session-caps"] = caps.encode("latin-1")  # type: ignore[assignment]
        with pytest.raises(openai.APIStatusError) as caught:
            await agent.turn()
        assert caught.value.status_code == 400 and it.sent == 1
        error = caught.value.response.json()["error"]
        assert error["type"] == "invalid_request_error" and "cap" in error["message"]
        assert not agent.provider.request_bodies


@pytest.mark.parametrize(
    "asked, status",
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
async def test_what_may_be_said_of_a_run(site: Opened, asked: Any, status: int) -> None:
    async with site() as it:
        answer = await it.post("/v1/sessions", asked, KEY)
        assert answer.status_code == status, answer.text
        if status == 200:
            told = answer.json()
            assert told["caps"] == asked.get("caps", {})
            assert (await it.get(f"/v1/sessions/{told['id']}", KEY)).json()["id"] == told["id"]
        assert (await it.post("/v1/sessions", asked)).status_code == 401


async def test_nobody_sees_the_sessions_of_another_key(site: Opened) -> None:
    async with site() as it:
        await it.post("/v1/sessions", {"id": "mine", "caps": {"calls": 1}}, KEY)
        assert (await it.get("/v1/sessions/mine", OTHER)).status_code == 404
        assert (await it.get("/v1/sessions/mine")).status_code == 401
        await it.post("/v1/sessions", {"id": "mine"}, OTHER)
        assert (await it.get("/v1/sessions/mine", OTHER)).json()["caps"] == {}, "a session of the same name is another"
        assert (await it.get("/admin/sessions/mine", ADMIN)).status_code == 400
        assert (await it.get("/admin/sessions/mine?key=k1", ADMIN)).json()["caps"] == {"calls": 1}


async def test_a_killed_run_without_a_name_stays_killed_whatever_the_user_says(site: Opened) -> None:
    async with site() as it:
        agent = it.agent()
        await agent.turns_of(3)
        (one,) = (await it.get("/admin/sessions", ADMIN)).json()["data"]
        await it.act(one["id"], "kill")
        assert (await agent.until_stopped()).code == "session_killed"
        agent.history.append({"role": "user", "content": "And now?"})
        assert (await agent.until_stopped()).code == "session_killed"


async def test_exempting_a_killed_session_does_not_revive_it(site: Opened) -> None:
    async with site() as it:
        agent = it.agent(headers={"x-penstock-session": "s"})
        await agent.turn()
        await it.act("s", "kill")
        await it.act("s", "exempt")
        assert (await agent.until_stopped()).code == "session_killed"


async def test_healthy_agents_that_begin_alike_in_one_session_are_no_loop(site: Opened) -> None:
    async with site() as it:
        first, second = (it.agent(headers={"x-penstock-session": "s"}) for _ in range(2))
        for number in range(12):
            await first.turn({"tool_calls": [{"name": "bash", "arguments": {"cmd": f"cat {number}"}}]})
            first.history[-1]["content"] = f"{'abcdefghijkl'[number] * 20} is what stands in it"
        await second.turn({"text": "Begun."})
        assert "x-penstock-loop" not in await first.turn({"text": "Done."})


async def test_the_note_reaches_the_model_in_the_request_that_was_held(site: Opened) -> None:
    async with site(HELD) as it:
        agent = it.agent(headers={"x-penstock-session": "held"})
        await agent.turns_of(NUDGED - 1)
        waiting = asyncio.ensure_future(agent.turn())
        await _stopped(it, "held")
        await it.act("held", "resume", note="Ask Ada.")
        await waiting
        assert b"Ask Ada." in it.near.request_bodies[-1]


async def test_a_last_answer_for_a_task_type_is_given_each_time(site: Opened) -> None:
    async with site("loops: {rules: [{task_type: code, stop_mode: answer}]}") as it:
        agent = it.agent()
        for _ in range(SERVED + 2):
            await agent.turn()
        assert agent.text.startswith("[Stopped by the gateway]")


async def test_a_sub_agent_with_calls_at_once_is_one_sub_agent(site: Opened) -> None:
    async with site("sessions: {caps: {sub_agents: 1}}") as it:
        tree = {"x_penstock_session": "child", "x_penstock_parent_session": "root"}
        assert await it.calls(4, at_once=True, **tree) == [200] * 4


@pytest.mark.parametrize("kind", ["too large", "no form"])
async def test_a_form_that_cannot_be_read_is_the_callers_mistake(site: Opened, kind: str) -> None:
    async with site() as it:
        link = (await it.agent().until_stopped()).link
        content, form = b"note=" + b"x" * 2_000_000, "application/x-www-form-urlencoded"
        if kind == "no form":
            content, form = b"nothing", "multipart/form-data"
        answer = await it.client.post(link, content=content, headers={"content-type": form})
        assert 400 <= answer.status_code < 500


async def test_the_command_shows_resumes_and_labels(site: Opened) -> None:
    async with site() as it:
        agent = it.agent(headers={"x-session-id": "run 7/b"})
        await agent.until_stopped()

        def penstock(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "gateway.cli.main", "sessions", "--url", it.base, *words],
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
        missing = await asyncio.to_thread(penstock, "show", "nobody")
        assert missing.returncode == 1 and "no session" in missing.stderr
        gone = await asyncio.to_thread(penstock, "--url", "http://127.0.0.1:9", "list")
        assert gone.returncode == 1 and "no gateway" in gone.stderr
