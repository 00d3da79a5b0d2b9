"""The simulated Gemini, called by litellm and directly."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from gateway.simulator.gemini import SimulatedGemini

KEY = {"x-goog-api-key": "K"}
# In a separate process: litellm takes seconds to import, and warns.
DRIVER = """
import asyncio, json, litellm
from gateway.simulator.gemini import SimulatedGemini

PICTURE = "data:image/png;base64,iVBORw0KGgo="
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}} for name in "fg"]
CALLS = '[[sim {"tool_calls": [{"name": "f", "arguments": {"q": 1}}, {"name": "g"}]}]] go'

async def main():
    answers, servers = {}, [SimulatedGemini(), SimulatedGemini("gemini-3-pro-preview")]
    bases = {server._model: await server.start() for server in servers}

    async def ask(content, history=(), model="gemini-2.5-flash", **more):
        messages = [{"role": "system", "content": "S"}, {"role": "user", "content": content}, *history]
        return await litellm.acompletion(
            model=f"gemini/{model}", api_base=bases[model], api_key="K", messages=messages,
            num_retries=0, max_retries=0, _skip_mcp_handler=True, **more)

    async def stream(content, **more):
        answer = await ask(content, stream=True, stream_options={"include_usage": True}, **more)
        return [chunk.model_dump() async for chunk in answer]

    async def failure(content, **more):
        try:
            answer = await ask(content, **more)
            return [chunk.model_dump() async for chunk in answer]
        except Exception as error:
            return [type(error).__name__, error.status_code, str(error)]

    answers["plain"] = (await ask([{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PICTURE}}])).model_dump()
    answers["ordered"] = (await ask('[[sim {"reply": {"content": "as ordered"}}]]', reasoning_effort="low")).model_dump()
    answers["stream"] = await stream("hello", reasoning_effort="low")
    answers["calls"] = await stream(CALLS, tools=TOOLS)
    answers["refused"] = await failure('[[sim {"fault": "status:503"}]]')
    answers["limited"] = await failure('[[sim {"fault": "retry_after:7"}]]')
    answers["cut"] = [await failure('[[sim {"fault": "cut"}]]', stream=stream) for stream in (False, True)]
    answers["midway"] = await failure('[[sim {"fault": "error_event"}]] ' + "x" * 200, stream=True)
    for model in bases:
        first = (await ask(CALLS, model=model, tools=TOOLS)).choices[0].message
        turn = {"role": "assistant", "content": first.content, "tool_calls": [
            {"id": call.id, "type": "function", "function": call.function.model_dump()} for call in first.tool_calls]}
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "said " + call["function"]["name"]} for call in turn["tool_calls"]]
        answers["answer " + model] = (await ask(CALLS, [turn, *results], model=model, tools=TOOLS)).model_dump()
    answers["paths"] = servers[0].request_paths[2:3]
    for server in servers:
        await server.stop()
    await litellm.close_litellm_async_clients()
    print(json.dumps(answers))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def answers() -> dict:
    environment = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        "LITELLM_MODE": "PRODUCTION",
    }
    done = subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def text(chunks: list[dict]) -> str:
    return "".join(choice["delta"]["content"] or "" for chunk in chunks for choice in chunk["choices"])


def test_a_plain_answer_lists_what_it_received(answers: dict):
    assert answers["plain"]["choices"][0]["message"]["content"].startswith("I see 1 image.\n")
    assert answers["plain"]["usage"]["prompt_tokens_details"]["image_tokens"] == 258


def test_thoughts_are_shown_and_counted_beside_the_answer(answers: dict):
    message, usage = answers["ordered"]["choices"][0]["message"], answers["ordered"]["usage"]
    assert message["content"] == "as ordered"
    # A reply given as a message is passed on unchanged, without thoughts.
    assert usage["completion_tokens"] == 3
    thoughts = "".join(chunk["choices"][0]["delta"].get("reasoning_content") or "" for chunk in answers["stream"])
    usage = answers["stream"][-1]["usage"]
    assert thoughts
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len(thoughts) // 4 + 1
    assert (
        usage["completion_tokens"]
        == usage["completion_tokens_details"]["reasoning_tokens"] + len(text(answers["stream"])) // 4 + 1
    )


def test_a_stream_comes_in_pieces_and_ends_with_the_usage(answers: dict):
    assert answers["paths"] == ["/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"]
    assert len(answers["stream"]) > 5
    assert text(answers["stream"]).startswith("the agent reads")
    assert [choice["finish_reason"] for chunk in answers["stream"][-2:] for choice in chunk["choices"]] == [
        "stop",
        None,
    ]


def test_calls_are_parallel(answers: dict):
    calls = [call for chunk in answers["calls"] for call in chunk["choices"][0]["delta"]["tool_calls"] or []]
    assert [(call["index"], call["function"]["name"], call["function"]["arguments"]) for call in calls] == [
        (0, "f", '{"q": 1}'),
        (1, "g", "{}"),
    ]


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3-pro-preview"])
def test_tool_results_are_accepted_with_the_signature_of_the_call(answers: dict, model: str):
    content = answers[f"answer {model}"]["choices"][0]["message"]["content"]
    assert content.startswith("The tool said: said f\nThe tool said: said g\n")


def test_errors_have_googles_wording(answers: dict):
    assert answers["refused"][:2] == ["ServiceUnavailableError", 503]
    assert '"status":"UNAVAILABLE"' in answers["refused"][2]
    assert answers["limited"][:2] == ["RateLimitError", 429]
    assert '"retryDelay":"7s"' in answers["limited"][2]
    # litellm infers the status from the message: 500 here, though the event has 503.
    assert answers["midway"][0] == "MidStreamFallbackError"
    assert "UNAVAILABLE - The model is overloaded." in answers["midway"][2]
    assert [failure[0] for failure in answers["cut"]] == ["APIConnectionError", "MidStreamFallbackError"]


@asynccontextmanager
async def served(model: str = "gemini-3-pro-preview") -> AsyncIterator:
    server = SimulatedGemini(model, key="K")
    base = await server.start()
    async with aiohttp.ClientSession() as client:

        async def post(body: dict, method: str = f"{model}:generateContent", headers: dict | None = None):
            async with client.post(
                f"{base}/models/{method}", json=body, headers=KEY if headers is None else headers
            ) as it:
                return it.status, json.loads(await it.read())

        try:
            yield post
        finally:
            await server.stop()


USER = {"role": "user", "parts": [{"text": '[[sim {"tool_calls": [{"name": "f"}]}]]'}]}
TOOLS = [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}]


def result(*names: str) -> dict:
    return {"role": "user", "parts": [{"functionResponse": {"name": name, "response": {"a": 1}}} for name in names]}


async def test_a_call_must_be_returned_as_signed():
    async with served() as post:
        _, first = await post({"contents": [USER], "tools": TOOLS})
        call = first["candidates"][0]["content"]
        assert call["parts"][0]["functionCall"]["id"]
        assert await post({"contents": [USER], "tools": TOOLS}) != first, "two calls have two ids"
        status, answer = await post({"contents": [USER, call, result("f")], "tools": TOOLS})
        assert (status, answer["candidates"][0]["finishReason"]) == (200, "STOP")
        assert answer["candidates"][0]["content"]["parts"][0]["text"].startswith('The tool said: {"a":1}')
        for signature, message in ((None, "missing a thought_signature"), ("bm8=", "Corrupted")):
            part = {**call["parts"][0], "thoughtSignature": signature}
            status, refusal = await post({"contents": [USER, {"role": "model", "parts": [part]}, result("f")]})
            assert (status, refusal["error"]["status"]) == (400, "INVALID_ARGUMENT")
            assert message in refusal["error"]["message"]
        part = {**call["parts"][0], "thoughtSignature": "skip_thought_signature_validator"}
        status, _ = await post({"contents": [USER, {"role": "model", "parts": [part]}, result("f")]})
        assert status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"contents": [USER], "brand_new": 1}, 'Unknown name "brandNew"'),
        ({}, "contents is not specified"),
        ({"contents": [{"role": "user", "parts": []}]}, "parts must not be empty"),
        ({"contents": [USER, result("f")]}, "number of function response parts"),
        ({"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f"}}]}]}, "function call turn"),
        ({"contents": ["no"]}, "Invalid JSON payload"),
    ],
)
async def test_requests_that_the_real_api_rejects_are_rejected(body: dict, message: str):
    async with served() as post:
        status, refusal = await post(body)
        assert status == 400
        assert message in refusal["error"]["message"]


async def test_missing_and_wrong_keys_are_rejected():
    async with served() as post:
        assert (await post({"contents": [USER]}, headers={}))[0] == 403
        assert (await post({"contents": [USER]}, headers={"x-goog-api-key": "other"}))[0] == 400
        assert (await post({"contents": [USER]}, "other:generateContent"))[0] == 404
        assert (await post({"contents": [USER]}, "gemini-3-pro-preview:embedContent"))[0] == 404


async def test_without_sse_a_stream_is_a_list_and_names_may_be_snake_case():
    async with served("gemini-2.5-flash") as post:
        body = {
            "system_instruction": {"parts": [{"text": "S"}]},
            "contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": "AAAA"}}, {"text": "hi"}]}],
            "generation_config": {"max_output_tokens": 4},
        }
        status, chunks = await post(body, "gemini-2.5-flash:streamGenerateContent")
        assert status == 200
        assert chunks[0]["candidates"][0]["content"]["parts"] == [{"text": "I see 1 image.\nt"}]
        assert chunks[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
        assert chunks[-1]["usageMetadata"]["totalTokenCount"] > chunks[0]["usageMetadata"]["totalTokenCount"]
        schema = {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]}
        _, answer = await post(
            {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"responseSchema": schema}}
        )
        assert json.loads(answer["candidates"][0]["content"]["parts"][0]["text"]) == {"a": "text"}
