"""Unstreamed answers of every dialect: text, calls, end, confidence."""

import pytest

from gateway.dialects.parsed_answer import ParsedAnswer, parse_answer


def chat(message: object, finish: object = "stop", **more: object) -> dict[str, object]:
    return {"choices": [{"message": message, "finish_reason": finish, **more}]}


CALL = {"function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    "document, expected",
    [
        (chat({"content": "Hi"}), ParsedAnswer(text="Hi")),
        (chat({"content": "Hi"}, "length"), ParsedAnswer(text="Hi", truncated=True)),
        (chat({"content": "Hi"}, "content_filter"), ParsedAnswer(text="Hi", refused=True)),
        (chat({"content": None, "refusal": "No."}), ParsedAnswer(text="No.", refused=True)),
        (chat({"content": None, "tool_calls": [CALL]}), ParsedAnswer(calls=(("f", '{"a": 1}'),))),
        (chat({"content": "", "tool_calls": [{"type": "custom"}]}), ParsedAnswer(has_other_content=True)),
        (chat({"content": None, "audio": {"id": "a"}}), ParsedAnswer(has_other_content=True)),
        ({"content": [{"type": "text", "text": "a"}, {"type": "thinking"}, {"type": "text", "text": "b"}], "stop_reason": "end_turn"}, ParsedAnswer(text="a\nb")),
        ({"content": [{"type": "tool_use", "name": "f", "input": {"a": 1}}], "stop_reason": "max_tokens"}, ParsedAnswer(calls=(("f", '{"a":1}'),), truncated=True)),
        ({"content": [], "stop_reason": "refusal"}, ParsedAnswer(refused=True)),
        ({"content": [{"type": "server_tool_use"}]}, ParsedAnswer(has_other_content=True)),
        ({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}], "status": "incomplete"}, ParsedAnswer(text="Hi", truncated=True)),
        ({"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]}, ParsedAnswer(text="No.", refused=True)),
        ({"output": [{"type": "reasoning"}, {"type": "function_call", "name": "f", "arguments": "{}"}]}, ParsedAnswer(calls=(("f", "{}"),))),
        ({"output": [{"type": "web_search_call"}]}, ParsedAnswer(has_other_content=True)),
        ({"choices": []}, ParsedAnswer()),
        ({"choices": [7]}, ParsedAnswer()),
        (chat(7), ParsedAnswer()),
        ({"output": [7]}, ParsedAnswer()),
        ({"content": "x"}, ParsedAnswer()),
        ({}, ParsedAnswer()),
    ],
    ids=[
        "chat text", "chat at its limit", "chat filtered", "chat refusal", "chat call", "a call of another kind", "audio",
        "messages text", "messages call at its limit", "messages refusal", "a call that the provider runs",
        "responses incomplete", "responses refusal", "responses call", "a search", "no choices", "a choice of another type",
        "a message of another type", "an item of another type", "content that is no list", "nothing",
    ],
)  # fmt: skip
def test_an_answer_is_parsed_in_any_dialect(document, expected):
    assert parse_answer(document) == expected


@pytest.mark.parametrize(
    "candidates, margin",
    [
        ([[-0.1, -2.1], [-0.5, -1.5]], 1.5),
        ([[-3.0, -0.5, -1.0]], 0.5),
        ([[0.0, -99.0]], 20.0),
        ([["x", -1.0]], 19.0),
        ([[-0.1]], None),
        ([], None),
    ],
    ids=["the mean of all tokens", "in any order", "at most 20", "no number", "one candidate", "no tokens"],
)
def test_the_margin_is_the_gap_between_the_two_best_tokens(candidates, margin):
    tokens = [{"top_logprobs": [{"logprob": value} for value in row]} for row in candidates]
    parsed = parse_answer(chat({"content": "Hi"}, logprobs={"content": tokens}))
    assert parsed.logprob_margin_nats == (margin if margin is None else pytest.approx(margin))


def test_only_the_first_tokens_are_read():
    def token(gap: float) -> dict[str, object]:
        return {"top_logprobs": [{"logprob": 0.0}, {"logprob": -gap}]}

    tokens = [token(1.0)] * 256 + [token(9.0)] * 999
    assert parse_answer(chat({"content": "Hi"}, logprobs={"content": tokens})).logprob_margin_nats == 1.0
