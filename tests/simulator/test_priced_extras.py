"""What simulated answers cost beyond their tokens, in the shapes of the real APIs."""

from typing import Any

import pytest

from gateway.simulator.priced_extras import PricedExtras, extras_of
from gateway.simulator.usage import SimulatedUsage
from tests.simulator.shapes import events, user

USAGE = SimulatedUsage(input_tokens=100, output_tokens=20)
SEARCH = {"type": "web_search", "max_content_tokens": 300}
COMPACTS = {"context_management": {"edits": [{"type": "compact_20260112"}]}}


@pytest.mark.parametrize(
    "body, directive, extras, input_tokens",
    [
        pytest.param(
            {}, {"searches": 3, "compacts": True, "tier": "flex"}, PricedExtras(), 100, id="nothing asked for"
        ),
        pytest.param({"service_tier": "fast"}, {}, PricedExtras(service_tier="priority"), 100, id="a tier"),
        pytest.param({"service_tier": "auto"}, {}, PricedExtras(service_tier="default"), 100, id="any tier"),
        pytest.param(
            {"service_tier": "priority"},
            {"tier": "default"},
            PricedExtras(service_tier="default"),
            100,
            id="a full tier",
        ),
        pytest.param({"tools": [SEARCH]}, {"searches": 2}, PricedExtras(searches=2), 700, id="searches"),
        pytest.param(
            {"tools": [SEARCH | {"max_uses": 1}]},
            {"searches": 5},
            PricedExtras(searches=1),
            400,
            id="searches at their limit",
        ),
        pytest.param(
            {"tools": [SEARCH], "max_tool_calls": 2},
            {"searches": 5},
            PricedExtras(searches=2),
            700,
            id="calls at their limit",
        ),
        pytest.param(
            COMPACTS | {"max_tokens": 50}, {"compacts": True}, PricedExtras(compaction=(100, 50)), 51, id="a summary"
        ),
        pytest.param(
            {"max_tokens": 50}, {"compacts": True}, PricedExtras(), 100, id="a summary that was not asked for"
        ),
    ],
)
def test_extras_are_what_was_asked_for_and_ordered(body, directive, extras, input_tokens):
    found, usage = extras_of(body, directive, USAGE)
    assert (found, usage.input_tokens, usage.output_tokens) == (extras, input_tokens, 20)


async def test_chat_names_the_tier_that_served(sim):
    async with sim(strict=True) as at:
        messages: list[Any] = [user("hi")]
        whole = await at.openai.chat.completions.create(model="m", messages=messages, service_tier="priority")
        assert whole.service_tier == "priority"
        stream = await at.openai.chat.completions.create(model="m", messages=messages, service_tier="flex", stream=True)
        assert {chunk.service_tier async for chunk in stream} == {"flex"}


async def test_responses_have_an_item_for_each_search(sim):
    async with sim() as at:
        options: dict[str, Any] = {
            "model": "m", "input": 'news [[sim {"searches": 2}]]', "tools": [SEARCH], "service_tier": "priority",
        }  # fmt: skip
        whole = await at.openai.responses.create(**options)
        assert [item.type for item in whole.output] == ["web_search_call", "web_search_call", "message"]
        assert whole.service_tier == "priority" and whole.usage.input_tokens > 600
        async with at.openai.responses.stream(**options) as stream:
            kinds = [event.type async for event in stream]
        assert kinds.count("response.web_search_call.completed") == 2


async def test_messages_report_searches_and_the_calls_of_an_answer(sim):
    async with sim() as at:
        prompt = user('news [[sim {"searches": 1, "compacts": true, "output_tokens": 9}]]')
        options: dict[str, Any] = {"max_tokens": 40, "tools": [SEARCH | {"type": "web_search_20250305"}], **COMPACTS}
        whole = (await at.messages(prompt, **options))["usage"]
        sent = events(await at.messages(prompt, stream=True, **options))
    (streamed,) = [event["usage"] for event in sent if event["type"] == "message_delta"]
    for usage in (whole, streamed):
        assert usage["server_tool_use"]["web_search_requests"] == 1
        summary, message = usage["iterations"]
        assert (summary["type"], summary["output_tokens"], message["type"]) == ("compaction", 40, "message")
        assert (message["input_tokens"], message["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
        assert summary["input_tokens"] > 300 > usage["input_tokens"]
