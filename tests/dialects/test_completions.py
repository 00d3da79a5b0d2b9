"""Legacy completions: one or several prompts, each with several choices."""

import json
from typing import Any

import pytest

from gateway.dialects import completions
from gateway.values.errors import BadRequest
from gateway.values.request import Message, Request


def parse(prompt: Any = "hi", **fields: Any) -> Request:
    return completions.parse(json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


@pytest.mark.parametrize(
    "body, param",
    [
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": "x", "n": 0}, "n"),
    ],
)
def test_an_invalid_field_is_named(body, param):
    with pytest.raises(BadRequest) as raised:
        completions.parse(json.dumps(body).encode())
    assert raised.value.param is not None and param.startswith(raised.value.param)


@pytest.mark.parametrize(
    "prompt, fields, choices",
    [
        ("hi", {}, 1),
        ("hi", {"n": 3}, 3),
        ("hi", {"n": 2, "best_of": 5}, 5),
        (["a", "b"], {"n": 2}, 4),
        ([1, 2, 3], {"n": 2}, 2),
        ([[1, 2], [3]], {}, 2),
    ],
    ids=["one", "n", "best_of is generated and billed", "several prompts", "one prompt of tokens", "prompts of tokens"],
)
def test_every_choice_of_every_prompt_is_held(prompt, fields, choices):
    assert parse(prompt, **fields).choice_count == choices


@pytest.mark.parametrize("prompt, text", [("hi", "hi"), (["a", "b"], "a"), ([[1], "b"], "b"), ([1, 2], "")])
def test_the_first_text_is_the_user_s_message(prompt, text):
    request = parse(prompt)
    assert (request.messages, request.sizes) == ([Message("user", text)], [len(text)])


@pytest.mark.parametrize("prompt, words", [("", "empty string"), ([], "empty array")])
def test_an_empty_prompt_is_rejected(prompt, words):
    with pytest.raises(BadRequest, match=words) as raised:
        parse(prompt)
    assert raised.value.param == "prompt"


def test_usage_is_requested_of_the_provider_and_withheld_from_the_caller():
    request = parse(stream=True)
    assert json.loads(b"".join(completions.upstream_body(request, "m", ask_usage=True)))["stream_options"] == {
        "include_usage": True
    }
    usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    meter = completions.stream_meter(request)
    assert meter.feed(usage) == b"" and meter.usage == {"prompt_tokens": 3, "completion_tokens": 1}
    assert completions.stream_meter(parse(stream=True, stream_options={"include_usage": True})).feed(usage) == usage


def test_the_texts_of_all_choices_are_counted():
    assert completions.answer_text_bytes({"choices": [{"text": "Łódź"}, {"text": None}, 7, {"text": "ab"}]}) == 9
    assert completions.answer_text_bytes({"choices": 7}) == completions.answer_text_bytes({}) == 0
