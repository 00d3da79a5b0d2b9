"""The simulated provider, called by real OpenAI clients and plain HTTP."""

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are no dependency
import openai
import pytest

from tests.simulator.shapes import (
    CHAT_TOOL,
    MESSAGES_TOOL,
    PICTURE,
    RESPONSES_TOOL,
    SCHEMA,
    TWO,
    assembled,
    events,
    user,
)

VERSION = {"anthropic-version": "2023-06-01"}


async def test_chat_runs_a_tool_loop_in_the_real_client(sim):
    async with sim(strict=True) as at:
        create = at.openai.chat.completions.create
        messages: list[Any] = [user([{"type": "text", "text": f"the tool, please {TWO}"}])]
        first = await create(model="m", messages=messages, tools=[CHAT_TOOL])
        calls = first.choices[0].message.tool_calls
        assert first.choices[0].finish_reason == "tool_calls"
        assert [call.function.arguments for call in calls] == ['{"city": "a"}', "{}"]
        assert len({call.id for call in calls}) == 2 and all(call.id.startswith("call_") for call in calls)
        messages.append(first.choices[0].message.model_dump(exclude_none=True))
        messages += [{"role": "tool", "tool_call_id": call.id, "content": f"sunny {n}"} for n, call in enumerate(calls)]
        stream = await create(
            model="m", messages=messages, tools=[CHAT_TOOL], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("The tool said: sunny 0\nThe tool said: sunny 1")
    usage = chunks[-1].usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_responses_run_a_tool_loop_in_the_real_client(sim):
    async with sim(strict=True) as at:
        options: dict[str, Any] = {
            "model": "m",
            "tools": [RESPONSES_TOOL],
            "reasoning": {"effort": "high", "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
        }
        async with at.openai.responses.stream(input="use the tool", **options) as stream:
            numbers = [event.sequence_number async for event in stream]
            first = await stream.get_final_response()
        assert numbers == list(range(len(numbers)))
        reasoning, call = first.output
        assert (reasoning.type, call.name, json.loads(call.arguments)) == (
            "reasoning",
            "weather",
            {"city": "text", "days": 2},
        )
        assert call.id.startswith("fc_") and call.call_id.startswith("call_")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        continued = await at.openai.responses.create(input=[result], previous_response_id=first.id, **options)
        history = [user("use the tool"), reasoning.model_dump(exclude_none=True), call.model_dump(exclude_none=True)]
        history[2].pop("parsed_arguments")
        repeated = await at.openai.responses.create(input=[*history, result], store=False, **options)
        assert continued.output_text == repeated.output_text
        assert continued.output_text.startswith("The tool said: sunny")
        assert continued.usage.input_tokens > first.usage.input_tokens
        assert 0 < continued.usage.output_tokens_details.reasoning_tokens < continued.usage.output_tokens
        items = [item async for item in await at.openai.responses.input_items.list(continued.id)]
        assert [item.type for item in items] == ["message", "reasoning", "function_call", "function_call_output"]
        with pytest.raises(openai.NotFoundError):
            await at.openai.responses.retrieve(repeated.id)


async def test_messages_stream_thinking_and_tools_that_are_accepted_back(sim):
    async with sim(strict=True) as at:
        options = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "tools": [MESSAGES_TOOL]}
        text = await at.messages(user("use the tool"), stream=True, **options)
        stream_events = events(text)
        kinds = [event["type"] for event in stream_events]
        assert kinds[:3] == ["message_start", "ping", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert stream_events[0]["message"]["usage"]["input_tokens"] > 0
        assert stream_events[-2]["delta"]["stop_reason"] == "tool_use"
        blocks = assembled(stream_events)
        assert [block["type"] for block in blocks] == ["thinking", "tool_use"]
        assert blocks[1]["input"] == {"city": "text", "days": 2} and blocks[1]["id"].startswith("toolu_")
        results = [
            {"type": "tool_result", "tool_use_id": blocks[1]["id"], "content": [{"type": "text", "text": "sunny"}]}
        ]
        turn = {"role": "assistant", "content": blocks}
        whole = await at.messages(user("use the tool"), turn, user(results), **options)
        assert [block["type"] for block in whole["content"]] == ["thinking", "text"]
        assert whole["content"][1]["text"].startswith("The tool said: sunny")
        blocks[0]["thinking"] += "!"
        error = await at.messages(user("use the tool"), turn, user(results), **options)
        assert error["error"]["message"] == "messages.1.content.0: Invalid `signature` in `thinking` block"


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {"type": "array", "items": {"enum": ["b", "a"]}, "minItems": 2},
        {"anyOf": [{"type": "null"}, {"type": "string"}]},
        {"$defs": {"n": {"type": "number", "exclusiveMinimum": 3}}, "type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]},
        {"type": "object", "properties": {"d": {"type": "string", "format": "date", "minLength": 10}}, "required": ["d"]},
    ],
    ids=["object", "list of choices", "any of", "reference", "format"],
)  # fmt: skip
async def test_answers_are_valid_by_the_schema_in_every_dialect(sim, schema):
    async with sim() as at:
        output_format = {"type": "json_schema", "name": "s", "schema": schema}
        _, _, chat = await at.post(
            "/chat/completions",
            messages=[user("go")],
            response_format={"type": "json_schema", "json_schema": output_format},
        )
        _, _, response = await at.post("/responses", input="go", text={"format": output_format})
        message = await at.messages(user("go"), output_config={"format": output_format})
    for text in (
        chat["choices"][0]["message"]["content"],
        response["output"][0]["content"][0]["text"],
        message["content"][0]["text"],
    ):
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    "choice, called",
    [("none", None), ("auto", None), ("required", "weather"), ({"type": "function", "function": {"name": "b"}}, "b")],
    ids=["none", "auto", "required", "named"],
)
async def test_the_tool_choice_is_honored(sim, choice, called):
    other = {"type": "function", "function": {"name": "b", "parameters": {"type": "object"}}}
    async with sim() as at:
        _, _, chat = await at.post(
            "/chat/completions", messages=[user("hi")], tools=[CHAT_TOOL, other], tool_choice=choice
        )
    calls = chat["choices"][0]["message"].get("tool_calls") or [{"function": {"name": None}}]
    assert [call["function"]["name"] for call in calls] == [called]


async def test_images_are_counted_in_every_dialect(sim):
    async with sim(strict=True) as at:
        url = {"type": "image_url", "image_url": {"url": PICTURE}}
        source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
        text = {"type": "text", "text": "look"}
        _, _, chat = await at.post("/chat/completions", messages=[user([text, url, url])])
        parts = [{"type": "input_text", "text": "look"}, *[{"type": "input_image", "image_url": PICTURE}] * 2]
        _, _, response = await at.post("/responses", input=[user(parts)])
        message = await at.messages(user([text, *[{"type": "image", "source": source}] * 2]))
    assert chat["choices"][0]["message"]["content"].startswith("I see 2 images.")
    assert response["output"][0]["content"][0]["text"].startswith("I see 2 images.")
    assert message["content"][0]["text"].startswith("I see 2 images.")


async def test_steps_apply_one_per_turn(sim):
    steps = '[[sim {"steps": [{"tool_calls": [{"name": "weather"}]}, {"text": "and once more", "tool_calls": [{"name": "weather"}]}, {"text": "done"}]}]]'
    async with sim(strict=True) as at:
        turns: list[Any] = [user(steps)]
        for _ in range(3):
            message = await at.messages(*turns, tools=[MESSAGES_TOOL])
            results = [
                {"type": "tool_result", "tool_use_id": block["id"], "content": "ok"}
                for block in message["content"]
                if block["type"] == "tool_use"
            ]
            turns += [
                {"role": "assistant", "content": message["content"]},
                user([*results, {"type": "text", "text": "a reminder"}]),
            ]
    assert [message["stop_reason"], message["content"][0]["text"], len(turns)] == ["end_turn", "done", 7]


async def test_anthropic_counts_the_cache_beside_the_input_and_openai_within_it(sim):
    async with sim(strict=True) as at:
        long = {"type": "text", "text": "x" * 8000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        first = (await at.messages(user("a"), system=[long]))["usage"]
        again = (await at.messages(user("b"), system=[long]))["usage"]
        _, _, counted = await at.post("/messages/count_tokens", messages=[user("b")], system=[long])
        system = {"role": "system", "content": "x" * 8000}
        chats = [(await at.post("/chat/completions", messages=[system, user("a")]))[2]["usage"] for _ in range(2)]
    assert first["cache_creation_input_tokens"] == again["cache_read_input_tokens"] > 2000 > again["input_tokens"]
    assert first["cache_creation"]["ephemeral_1h_input_tokens"] == first["cache_creation_input_tokens"]
    assert counted["input_tokens"] == again["input_tokens"] + again["cache_read_input_tokens"]
    assert 1024 <= chats[1]["prompt_tokens_details"]["cached_tokens"] < chats[1]["prompt_tokens"]


async def test_a_limit_cuts_the_answer_and_sets_the_finish_reason(sim):
    async with sim() as at:
        _, _, chat = await at.post("/chat/completions", messages=[user("hi")], max_tokens=5)
        _, _, response = await at.post("/responses", input="hi", max_output_tokens=5)
        message = await at.messages(user("hi"), max_tokens=5)
        _, _, long = await at.post("/completions", prompt="hi", max_tokens=5)
    assert chat["choices"][0]["finish_reason"] == long["choices"][0]["finish_reason"] == "length"
    assert chat["usage"]["completion_tokens"] == 5
    assert chat["usage"]["total_tokens"] == chat["usage"]["prompt_tokens"] + 5
    assert (response["status"], response["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert message["stop_reason"] == "max_tokens"


async def test_the_other_endpoints_work_with_the_real_client(sim):
    async with sim(strict=True) as at:
        client = at.openai
        floats = await client.embeddings.create(model="m", input=["a", "b"], encoding_format="float", dimensions=4)
        packed = await client.embeddings.create(model="m", input="a", dimensions=4)
        tokens = await client.embeddings.create(model="m", input=[[1, 2, 3], [4]], dimensions=4)
        assert floats.data[0].embedding == pytest.approx(packed.data[0].embedding, rel=1e-6)
        assert sum(x * x for x in floats.data[1].embedding) == pytest.approx(1)
        assert tokens.usage.prompt_tokens == 4
        stream = await client.completions.create(
            model="m", prompt="hi", stream=True, stream_options={"include_usage": True}
        )
        assert [chunk async for chunk in stream][-1].usage.total_tokens > 0
        assert [model.id async for model in client.models.list()] == ["m"]
        assert (await client.moderations.create(input=["a", "b"])).results[1].flagged is False
        assert (await client.images.generate(prompt="a cat", n=2)).usage.output_tokens > 0
        stored = await client.files.create(file=("a.txt", b"abc"), purpose="user_data")
        assert (await client.files.retrieve(stored.id)).bytes == 3
        assert (await client.files.content(stored.id)).content == b"abc"
        transcript = await client.audio.transcriptions.create(model="m", file=("a.wav", b"12345"))
        assert transcript.text == "I hear 5 bytes of a.wav."


async def test_dialects_that_are_off_return_404(sim):
    async with sim(dialects=frozenset({"chat", "embeddings"})) as at:
        assert (await at.post("/chat/completions", messages=[user("hi")]))[0] == 200
        for path in ("/responses", "/models", "/nothing"):
            status, _, document = await at.post(path)
            assert (status, document["error"]["type"]) == (404, "not_found_error"), "an Anthropic client by its header"
        status, _, document = await at.post("/responses", {"anthropic-version": ""})
        async with at.http.post(f"{at.base}/responses", json={}) as answer:
            document = await answer.json()
    assert document["error"]["message"] == "Invalid URL (POST /v1/responses)"


@pytest.mark.parametrize(
    "path, headers, status",
    [
        ("/chat/completions", {}, 401),
        ("/chat/completions", {"Authorization": "Bearer wrong"}, 401),
        ("/chat/completions", {"Authorization": "Bearer right"}, 200),
        ("/messages", VERSION, 401),
        ("/messages", {**VERSION, "Authorization": "Bearer right"}, 200),
        ("/messages", {**VERSION, "x-api-key": "right"}, 200),
        ("/messages", {"x-api-key": "right"}, 400),
    ],
)
async def test_keys_and_versions_are_required(sim, path, headers, status):
    body = {"model": "m", "max_tokens": 9, "messages": [user("hi")]}
    async with sim(api_key="right") as at, at.http.post(f"{at.base}{path}", json=body, headers=headers) as answer:
        document = await answer.json()
    assert answer.status == status
    assert status == 200 or document["error"]["message"]


async def test_background_responses_are_polled_streamed_and_cancelled_by_the_real_client(sim):
    async with sim(strict=True) as at:
        responses = at.openai.responses
        first = await responses.create(model="m", input='[[sim {"polls": 2}]]', background=True)
        statuses = [(await responses.retrieve(first.id)).status for _ in range(3)]
        assert (first.status, statuses) == ("queued", ["in_progress", "in_progress", "completed"])
        assert (await responses.retrieve(first.id)).usage.output_tokens > 0
        assert (await responses.cancel(first.id)).status == "completed", "too late"
        second = await responses.create(model="m", input="x", background=True)
        for _ in range(2):
            cancelled = await responses.cancel(second.id)
            assert (cancelled.status, cancelled.usage) == ("cancelled", None)
        stream = await responses.create(model="m", input="x", background=True, stream=True)
        events = [event async for event in stream]
        assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
        name, end = events[0].response.id, events[-1]
        rest = [event async for event in await responses.retrieve(name, stream=True, starting_after=4)]
        assert [event.sequence_number for event in rest] == list(range(5, end.sequence_number + 1))
        assert rest[-1].response.usage == end.response.usage
        whole = await responses.create(model="m", input="x")
        for call in (responses.cancel(whole.id), responses.retrieve(whole.id, stream=True)):
            with pytest.raises(openai.BadRequestError):
                await call
