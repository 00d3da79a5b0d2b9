"""Embeddings: any form of input, no output."""

import json
from typing import Any

import pytest

from gateway.dialects import embeddings
from gateway.values.errors import BadRequest, BrokenResponse
from gateway.values.request import Message, Request


def parse(input_: Any = "hi", **fields: Any) -> Request:
    return embeddings.parse(json.dumps({"model": "m", "input": input_, **fields}).encode())


@pytest.mark.parametrize(
    "body, param",
    [
        ({"model": "m", "input": []}, "input"),
    ],
)
def test_an_invalid_field_is_named(body, param):
    with pytest.raises(BadRequest) as raised:
        embeddings.parse(json.dumps(body).encode())
    assert raised.value.param is not None and param.startswith(raised.value.param)


@pytest.mark.parametrize(
    "input_, text",
    [("hi", "hi"), (["a", "b"], "a"), ([1, 2], ""), ([[1], [2, 3]], ""), ([[1], "b"], "b")],
    ids=["a text", "texts", "tokens", "token lists", "mixed"],
)
def test_the_first_text_is_the_user_s_message_and_no_output_is_held(input_, text):
    request = parse(input_, user="u", dimensions=3)
    assert (request.messages, request.sizes) == ([Message("user", text)], [len(text)])
    assert (request.max_output_tokens, request.choice_count, request.stream, request.user) == (0, 1, False, "u")


@pytest.mark.parametrize("input_, words", [("", "empty string"), ([], "empty array")])
def test_an_empty_input_is_rejected(input_, words):
    with pytest.raises(BadRequest, match=words) as raised:
        parse(input_)
    assert raised.value.param == "input"


def test_vectors_hold_no_text():
    assert embeddings.answer_text_bytes({"data": [{"embedding": [0.5]}], "choices": [{"text": "x"}]}) == 0


def test_an_error_event_has_no_end_mark():
    event = embeddings.error_event(BrokenResponse("cut"))
    assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == "cut"
