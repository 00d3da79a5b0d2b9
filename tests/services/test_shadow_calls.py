"""Shadow calls: which requests are repeated, both answers graded blind, and every way that this can fail."""

import dataclasses
import json
from typing import Any

import pytest
from msgspec import structs

from gateway.dialects import PARSERS
from gateway.pipeline.context import RequestContext
from gateway.services.shadow_calls import ShadowFailure, ShadowGrades, repeatable_request, run_shadow_call
from gateway.simulator.playbook import UpstreamAnswer
from gateway.values.errors import UpstreamError
from gateway.values.quality import SHADOW_KEY
from gateway.values.request import Request
from tests.services.observed_calls import ObservedPlaybook, answer, observed_call, request_body
from tests.snapshots import snapshot

SHADOWED = "learning: {shadow: {share: 1, judge: frontier, usd_per_day: 1}, refit_minutes: null}"
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {}}}


def grades(first: float, second: float) -> UpstreamAnswer:
    """What a judge answers."""
    return answer(json.dumps({"first": first, "second": second}))


async def context_of(body: bytes | None = None) -> RequestContext:
    """The context of a chat request."""
    return (await observed_call(snapshot(more=SHADOWED), body)).context


def document_of(request: Request | None) -> dict[str, Any]:
    assert request is not None
    document: dict[str, Any] = json.loads(bytes(request.body))
    return document


# --- which requests are repeated


async def test_a_request_is_repeated_without_its_caller_stream_and_storage():
    body = request_body(
        stream=True, stream_options={"include_usage": True}, user="ada", metadata={"ticket": "7"}, store=True,
        safety_identifier="ada", prompt_cache_key="run", temperature=0.5, tools=[FUNCTION],
    )  # fmt: skip
    context = await context_of(request_body())
    request = repeatable_request(structs.replace(context, request=PARSERS["chat"](body)))
    assert document_of(request) == {
        "model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100, "temperature": 0.5,
        "store": False, "tools": [FUNCTION],
    }  # fmt: skip
    assert request is not None and not request.stream and not request.user


async def test_a_responses_request_is_never_stored():
    context = await context_of()
    request = PARSERS["responses"](json.dumps({"model": "auto", "input": "hi"}).encode())
    assert document_of(repeatable_request(structs.replace(context, request=request)))["store"] is False


@pytest.mark.parametrize(
    "dialect, fields",
    [
        ("chat", {"tools": [{"type": "mcp", "server_label": "mail"}]}),
        ("chat", {"tools": [{"type": "web_search"}]}),
        ("chat", {"tools": [FUNCTION, {"type": ["function"]}]}),
        ("chat", {"tools": ["bash"]}),
        ("chat", {"web_search_options": {"a": 1}}),
        ("messages", {"max_tokens": 9, "mcp_servers": [{"url": "http://mail"}]}),
        ("messages", {"max_tokens": 9, "container": "c1"}),
        ("responses", {"previous_response_id": "resp_1"}),
        ("responses", {"conversation": "conv_1"}),
        ("responses", {"background": True}),
        ("embeddings", {"input": "hi"}),
        ("chat", {"padding": "x" * 512 * 1024}),
    ],
    ids=[
        "MCP tool", "provider tool", "tool of unknown type", "tool without a type", "web search", "MCP server",
        "container", "stored response", "stored conversation", "background", "embeddings", "large",
    ],
)  # fmt: skip
async def test_a_request_with_side_effects_or_another_meaning_is_not_repeated(dialect: str, fields: dict[str, Any]):
    context = await context_of()
    messages = {"messages": [{"role": "user", "content": "hi"}]} if dialect != "responses" else {"input": "hi"}
    request = PARSERS[dialect](json.dumps({"model": "auto", **messages, **fields}).encode())
    assert repeatable_request(structs.replace(context, request=request)) is None


async def test_a_custom_tool_of_the_caller_is_repeated():
    tools = [{"type": "custom", "custom": {"name": "f"}}, {"name": "g", "input_schema": {}}]
    context = await context_of()
    for dialect, offered in (("chat", tools[:1]), ("messages", tools[1:])):
        body = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "tools": offered}
        request = PARSERS[dialect](json.dumps(body).encode())
        assert document_of(repeatable_request(structs.replace(context, request=request)))["tools"] == offered


# --- grades


class ShadowFixture:
    """A request that was served, and a provider's script for its shadow call."""

    def __init__(self, script: list[UpstreamAnswer | UpstreamError], more: str = SHADOWED) -> None:
        self.playbook = ObservedPlaybook(snapshot(more=more), [answer(), *script])

    async def run(self, body: bytes | None = None) -> ShadowGrades | ShadowFailure:
        """Serves the request, then repeats it on both tiers."""
        context = (await self.playbook.call(body)).context
        request = repeatable_request(context)
        assert request is not None
        small, frontier = (self.playbook.snapshot.deployments[name] for name in ("small", "frontier"))
        self.playbook.events.clear()
        return await run_shadow_call(self.playbook.pipeline, context, request, small, frontier)

    @property
    def dialed(self) -> list[str]:
        """The deployments that the shadow call dialed."""
        return [event.removeprefix("dial ") for event in self.playbook.events if event.startswith("dial ")]

    def judge_material(self, index: int) -> str:
        """What the judge read at its first or second call."""
        body = b"".join(self.playbook.upstream_calls[3 + index].body)
        content: str = json.loads(body)["messages"][-1]["content"]
        return content


async def test_grades_are_the_mean_over_both_orders():
    fixture = ShadowFixture([answer("large"), answer("small"), grades(4, 10), grades(8, 6)])
    graded = await fixture.run()
    assert isinstance(graded, ShadowGrades)
    assert (graded.small, graded.large) == ((4 + 6) / 20, (10 + 8) / 20)
    assert fixture.dialed == ["frontier", "small", "frontier", "frontier"], "the more expensive tier first"
    assert json.loads(graded.content) == {"task": "[user] hi", "small": "small", "large": "large"}


async def test_the_judge_reads_the_answers_in_both_orders_without_their_models():
    fixture = ShadowFixture([answer("LARGE"), answer("SMALL"), grades(5, 5), grades(5, 5)])
    await fixture.run()
    assert "<first>\nSMALL\n</first>\n<second>\nLARGE\n</second>" in fixture.judge_material(0)
    assert "<first>\nLARGE\n</first>\n<second>\nSMALL\n</second>" in fixture.judge_material(1)
    assert "sim-" not in fixture.judge_material(0)


async def test_the_judge_reads_instructions_newest_turns_and_tool_calls_within_limits():
    call = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": json.dumps({"cmd": "y" * 3000})}}
    fixture = ShadowFixture([answer("L" * 7000), answer("", tool_calls=[call]), grades(5, 5), grades(5, 5)])
    history = [
        {"role": "system", "content": "S" * 2000},
        {"role": "user", "content": "OLDEST" + "o" * 8000},
        {"role": "assistant", "content": "middle"},
        {"role": "user", "content": "newest"},
    ]
    await fixture.run(request_body(messages=history))
    material = fixture.judge_material(0)
    assert "[instructions] " + "S" * 1500 + "\n" in material and "S" * 1501 not in material
    assert "OLDEST" not in material and "[assistant] middle\n[user] newest" in material
    assert "L" * 6000 in material and "L" * 6001 not in material
    assert '[calls bash with {"cmd": "y' in material and "y" * 2000 not in material


async def test_shadow_calls_are_charged_to_the_shadow_caller_in_sessions_of_their_own():
    fixture = ShadowFixture([answer("large"), answer("small"), grades(5, 5), grades(5, 5)])
    await fixture.run()
    own, *shadows = fixture.playbook.ledger_entries
    assert {(entry.key, entry.team, entry.session_source) for entry in shadows} == {(SHADOW_KEY, SHADOW_KEY, "shadow")}
    assert [entry.session for entry in shadows] == [
        "shadow-r1-frontier", "shadow-r1-small", "judge-r1-0", "judge-r1-1",
    ]  # fmt: skip
    assert {entry.task_type for entry in shadows} == {own.task_type}
    assert own.key == "k1"


async def test_a_judge_on_an_auto_route_is_the_most_capable_candidate():
    fixture = ShadowFixture(
        [answer("large"), answer("small"), grades(5, 5), grades(5, 5)],
        more=SHADOWED.replace("judge: frontier", "judge: auto"),
    )
    await fixture.run()
    assert fixture.dialed[2:] == ["frontier", "frontier"]


# --- failures


@pytest.mark.parametrize(
    "script, reason, dialed",
    [
        ([answer(status=400)], "shadow_failed", ["frontier"]),
        ([UpstreamAnswer(body=[b"[]"])], "shadow_failed", ["frontier"]),
        ([answer("large"), answer(status=400)], "shadow_failed", ["frontier", "small"]),
        ([answer("l"), answer("s"), answer("no idea")], "judge_failed", ["frontier", "small", "frontier"]),
        ([answer("l"), answer("s"), grades(11, 5)], "judge_failed", ["frontier", "small", "frontier"]),
        ([answer("l"), answer("s"), answer('{"first": 5}')], "judge_failed", ["frontier", "small", "frontier"]),
        (
            [answer("l"), answer("s"), grades(5, 5), answer(status=400)],
            "judge_failed",
            ["frontier", "small", "frontier", "frontier"],
        ),
    ],
    ids=[
        "the frontier refuses", "the frontier answers nonsense", "the small tier refuses", "the judge gives no grades",
        "a grade beyond the scale", "one grade only", "the judge fails in the other order",
    ],
)  # fmt: skip
async def test_a_shadow_call_ends_at_its_first_failure(
    script: list[UpstreamAnswer | UpstreamError], reason: str, dialed: list[str]
):
    fixture = ShadowFixture([unread_copy(step) for step in script])
    assert await fixture.run() == ShadowFailure(reason=reason)
    assert fixture.dialed == dialed


def unread_copy(step: UpstreamAnswer | UpstreamError) -> UpstreamAnswer | UpstreamError:
    """A step of its own for each test: reading an answer uses it up."""
    return dataclasses.replace(step) if isinstance(step, UpstreamAnswer) else step


async def test_nothing_is_spent_on_the_small_tier_if_the_budget_refuses_the_frontier():
    fixture = ShadowFixture([], more=SHADOWED.replace("usd_per_day: 1", "usd_per_day: 0.000000001"))
    assert await fixture.run() == ShadowFailure(reason="shadow_failed")
    assert fixture.dialed == []


async def test_answers_are_not_graded_without_the_judges_route():
    fixture = ShadowFixture([answer("large"), answer("small")])
    context = (await fixture.playbook.call()).context
    routes = {name: route for name, route in context.snapshot.routes.items() if name != "frontier"}
    context = structs.replace(context, snapshot=dataclasses.replace(context.snapshot, routes=routes))
    request, deployments = repeatable_request(context), context.snapshot.deployments
    assert request is not None
    shadowed = await run_shadow_call(
        fixture.playbook.pipeline, context, request, deployments["small"], deployments["frontier"]
    )
    assert shadowed == ShadowFailure(reason="judge_failed")
