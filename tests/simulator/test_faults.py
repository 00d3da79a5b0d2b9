"""Faults of the simulated provider, in each dialect's own shape."""

import json

import aiohttp
import openai
import pytest

from tests.simulator.shapes import events, user

PATHS = {"/chat/completions": "chat", "/responses": "responses", "/messages": "messages"}


def body(path: str, fault: str, **more):
    """A request with a fault."""
    content = {"input": "hi"} if path == "/responses" else {"messages": [user("hi")], "max_tokens": 500}
    return {**content, "sim": {"fault": fault}, **more}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "fault, status, after, code, kind",
    [
        ("status:503", 503, None, "simulated", "api_error"),
        ("status:529", 529, None, "simulated", "overloaded_error"),
        ("retry_after:7", 429, "7", "rate_limit_exceeded", "rate_limit_error"),
        ("insufficient_quota", 429, None, "insufficient_quota", "rate_limit_error"),
    ],
)
async def test_a_refusal_has_the_dialects_shape(sim, path, fault, status, after, code, kind):
    async with sim(strict=True) as at:
        actual, headers, document = await at.post(path, **body(path, fault))
    assert (actual, headers.get("Retry-After")) == (status, after)
    if path == "/messages":
        assert (document["type"], document["error"]["type"]) == ("error", kind)
        assert document["request_id"] == headers["request-id"]
        limit = document["error"].get("details", {}).get("error_code")
        assert limit == ("enforced_spend_limit_reached" if fault == "insufficient_quota" else None)
    else:
        assert document["error"]["code"] == code and headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", ["cut", "flood"])
async def test_an_answer_is_interrupted_in_the_middle(sim, path, fault, stream):
    async with sim() as at:
        request = {"model": "m", **body(path, fault, stream=stream)}
        async with at.http.post(f"{at.base}{path}", json=request) as answer:
            assert await answer.content.readany()
            if fault == "cut":
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()


async def test_an_error_in_a_stream_is_an_event_of_its_dialect(sim):
    async with sim() as at:
        _, _, text = await at.post("/messages", **body("/messages", "error_event", stream=True))
        last = events(text)[-1]
        assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
        stream = await at.openai.responses.create(
            model="m", input="hi", stream=True, extra_body={"sim": {"fault": "error_event"}}
        )
        with pytest.raises(openai.APIError, match="overloaded"):
            [event async for event in stream]


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_may_be_invalid_json_or_lack_usage(sim, path):
    async with sim() as at:
        assert "<html>" in (await at.post(path, **body(path, "not_json")))[2]
        async with at.http.post(f"{at.base}{path}", json={"model": "m", **body(path, "garbage")}) as answer:
            with pytest.raises(ValueError):
                json.loads(await answer.read())
        assert "usage" not in (await at.post(path, **body(path, "no_usage")))[2]
        _, _, text = await at.post(path, **body(path, "no_usage", stream=True))
        assert "_tokens" not in text.replace("max_output_tokens", "")
        finish = (await at.post(path, **body(path, "long_finish:length")))[2]
    assert (
        "max_" in json.dumps(finish)
        if path != "/chat/completions"
        else finish["choices"][0]["finish_reason"] == "length"
    )


async def test_a_fault_may_be_requested_in_the_prompt(sim):
    async with sim() as at:
        status, _, _ = await at.post(
            "/messages", messages=[user('do it [[sim {"fault": "status:418"}]]')], max_tokens=9
        )
    assert status == 418


async def test_a_fault_may_be_limited_to_once_or_to_one_model(sim):
    async with sim() as at:
        once, elsewhere = body("/messages", "status:503"), body("/messages", "status:503")
        once["sim"]["times"], elsewhere["sim"]["at"] = 1, "another"
        assert [(await at.post("/messages", **once))[0] for _ in range(3)] == [503, 200, 200]
        assert (await at.post("/messages", **elsewhere))[0] == 200
