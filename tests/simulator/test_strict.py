"""Requests that a strict provider rejects, with the real APIs' messages."""

import pytest

from tests.simulator.shapes import CHAT_TOOL, MESSAGES_TOOL, RESPONSES_TOOL, user

HI = [user("hi")]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
USING = {"role": "assistant", "content": [USE]}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}
FUNCTION_CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.mark.parametrize(
    "body, message",
    [
        ({"messages": HI}, None),
        ({"messages": HI, "thinking": THINKING}, "Unknown parameter: 'thinking'."),
        ({"messages": HI, "max_tokens": 0}, "Invalid 'max_tokens': integer below minimum value"),
        ({"messages": []}, "Invalid 'messages': empty array."),
        ({}, "Missing required parameter: 'messages'."),
        ({"messages": [{"role": "bot", "content": "x"}]}, "Invalid value: 'bot'. Supported values are: 'system',"),
        ({"messages": [user([{"type": "input_text", "text": "x"}])]}, "Invalid value: 'input_text'."),
        ({"messages": [user([{"type": "text", "text": "x", "cache_control": {}}])]}, "Unknown parameter: 'messages[0].content[0].cache_control'"),
        ({"messages": [*HI, CALLING, *HI]}, "An assistant message with 'tool_calls' must be followed"),
        ({"messages": [*HI, CALLING]}, "An assistant message with 'tool_calls' must be followed"),
        ({"messages": [*HI, CALLING, {"role": "tool", "tool_call_id": "c2", "content": "x"}]}, "Invalid parameter: 'tool_call_id' of 'c2'"),
        ({"messages": [*HI, {"role": "tool", "tool_call_id": "c1", "content": "x"}]}, "Invalid parameter: messages with role 'tool'"),
        ({"messages": [*HI, CALLING, {"role": "tool", "tool_call_id": "c1", "content": "x"}]}, None),
        ({"messages": HI, "tools": [RESPONSES_TOOL]}, "Unknown parameter: 'tools[0].name'."),
        ({"messages": HI, "tools": [CHAT_TOOL], "tool_choice": {"type": "any"}}, "Invalid value: 'any'."),
        ({"messages": HI, "tool_choice": "required"}, "Invalid value for 'tool_choice'"),
        ({"messages": HI, "stream_options": {}}, "The 'stream_options' parameter is only allowed when"),
    ],
)  # fmt: skip
async def test_chat(sim, body, message):
    await expect_error(sim, "/chat/completions", body, message)


@pytest.mark.parametrize(
    "body, message",
    [
        ({"input": "hi"}, None),
        ({"input": "hi", "messages": HI}, "Unknown parameter: 'messages'."),
        ({}, "One of 'input' or 'previous_response_id'"),
        ({"input": "hi", "max_output_tokens": 1}, "Invalid 'max_output_tokens': integer below minimum value"),
        ({"input": "hi", "previous_response_id": "resp_x"}, "Previous response with id 'resp_x' not found."),
        ({"input": [user([{"type": "text", "text": "x"}])]}, "Invalid value: 'text'. Supported values are: 'input_text',"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]}, "Invalid value: 'input_text'."),
        ({"input": [{"type": "tool_result"}]}, "Invalid value: 'tool_result'."),
        ({"input": [OUTPUT]}, "No tool call found for function call output with call_id c1."),
        ({"input": [*HI, FUNCTION_CALL]}, "No tool output found for function call c1."),
        ({"input": [*HI, FUNCTION_CALL, *HI, OUTPUT]}, None),
        ({"input": [*HI, {**FUNCTION_CALL, "id": "call_1"}, OUTPUT]}, "Invalid 'input[1].id': 'call_1'. Expected an ID that begins with 'fc'."),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAx"}, *HI]}, "The encrypted content gAAA...AAAx could not be verified."),
        ({"input": [*HI, {"type": "reasoning", "id": "rs_1", "summary": []}]}, "Item 'rs_1' of type 'reasoning' was provided without"),
        ({"input": "hi", "tools": [CHAT_TOOL]}, "Missing required parameter: 'tools[0].name'."),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "Item with id 'msg_x' not found."),
    ],
)  # fmt: skip
async def test_responses(sim, body, message):
    await expect_error(sim, "/responses", body, message)


@pytest.mark.parametrize(
    "body, message",
    [
        ({"messages": HI}, None),
        ({"messages": HI, "max_tokens": None}, "max_tokens: Field required"),
        ({"messages": HI, "n": 2}, "n: Extra inputs are not permitted"),
        ({"messages": HI, "context_management": {}}, "context_management: Extra inputs are not permitted"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [user("")]}, "messages.0: all messages must have non-empty content"),
        ({"messages": [user([{"type": "text", "text": ""}])]}, "messages: text content blocks must be non-empty"),
        ({"messages": [user([{"type": "image_url"}])]}, "messages.0.content.0: Input tag 'image_url' found"),
        ({"messages": [*HI, USING, *HI]}, "messages.1: `tool_use` ids were found without `tool_result` blocks"),
        ({"messages": [*HI, USING, user([{"type": "text", "text": "x"}, RESULT])]}, "messages.1: `tool_use` ids were found without"),
        ({"messages": [user([RESULT])]}, "messages.0.content.0: unexpected `tool_use_id` found"),
        ({"messages": [*HI, USING, user([RESULT, {"type": "text", "text": "x"}])]}, None),
        ({"messages": [*HI, {"role": "assistant", "content": [{**USE, "id": "a.b"}]}, user([{**RESULT, "tool_use_id": "a.b"}])]}, "messages.1.content.0.tool_use.id: String should match pattern"),
        ({"messages": HI, "thinking": THINKING, "max_tokens": 1024}, "`max_tokens` must be greater than `thinking.budget_tokens`."),
        ({"messages": HI, "thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking.enabled.budget_tokens: Input should be"),
        ({"messages": [*HI, USING, user([RESULT])], "thinking": THINKING}, "messages.1.content.0.type: Expected `thinking`"),
        ({"messages": [*HI, USING, user([RESULT])], "thinking": {"type": "adaptive"}}, None),
        ({"messages": HI, "tools": [CHAT_TOOL]}, "tools.0: Input tag 'function' found"),
        ({"messages": HI, "tools": [MESSAGES_TOOL], "tool_choice": "auto"}, "tool_choice: Input should be a valid dictionary"),
        ({"messages": HI, "system": [{"type": "text", "text": "x", "cache_control": {}}] * 5}, "A maximum of 4 blocks with cache_control"),
    ],
)  # fmt: skip
async def test_messages(sim, body, message):
    fields = {"max_tokens": 4000, **body}
    await expect_error(sim, "/messages", {name: value for name, value in fields.items() if value is not None}, message)


async def expect_error(sim, path, body, message):
    async with sim(strict=True) as at:
        status, _, document = await at.post(path, **body)
    assert (status == 200) is (message is None), document
    assert message is None or document["error"]["message"].startswith(message)


async def test_signatures_and_sealed_reasoning_belong_to_an_account(sim):
    async with sim(strict=True, account="a") as first, sim(strict=True, account="b") as second:
        message = await first.messages(*HI, thinking=THINKING)
        turn = {"role": "assistant", "content": message["content"]}
        assert (await first.messages(*HI, turn, *HI, thinking=THINKING))["type"] == "message"
        assert (await second.messages(*HI, turn, *HI, thinking=THINKING))["type"] == "error"
        options = {"reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"], "store": False}
        _, _, response = await first.post("/responses", input="hi", **options)
        history = [*HI, *response["output"], *HI]
        assert (await first.post("/responses", input=history, **options))[0] == 200
        status, _, document = await second.post("/responses", input=history, **options)
    assert (status, document["error"]["code"]) == (400, "invalid_encrypted_content")
