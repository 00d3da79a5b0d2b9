"""Fingerprints of answers: the first text and call, independent of dialect and white space."""

import pytest

from gateway.dialects import answer_fingerprint
from gateway.dialects.answer_fingerprint import FINGERPRINT_CHARS_MAX_UNSTREAMED, call_fingerprint, tool_calls_of


@pytest.mark.parametrize(
    "document, expected",
    [
        ({"choices": [{"message": {"content": "Hi", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}]}}]},
         answer_fingerprint.AnswerFingerprint("Hi", "c1", 'f{"a":1}')),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
         answer_fingerprint.AnswerFingerprint("Hi", "t1", 'f{"a":1}')),
        ({"output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}, {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}]},
         answer_fingerprint.AnswerFingerprint("Hi", "c1", "f{}")),
        ({"choices": []}, answer_fingerprint.NO_FINGERPRINT), ({"choices": [7]}, answer_fingerprint.NO_FINGERPRINT), ({"output": "x", "content": 7}, answer_fingerprint.NO_FINGERPRINT),
        ({"choices": [{"message": {"content": [1], "tool_calls": [None]}}]}, answer_fingerprint.NO_FINGERPRINT),
    ],
)  # fmt: skip
def test_a_fingerprint_holds_the_first_text_and_call(document, expected):
    assert answer_fingerprint.fingerprint_of(document) == expected


def test_a_fingerprint_is_bounded():
    document = {
        "content": [{"type": "text", "text": "a" * 9999}, {"type": "tool_use", "name": "f", "input": "b" * 9999}]
    }
    fingerprint = answer_fingerprint.fingerprint_of(document)
    assert fingerprint.text == "a" * FINGERPRINT_CHARS_MAX_UNSTREAMED
    assert fingerprint.call == "f" + "b" * (FINGERPRINT_CHARS_MAX_UNSTREAMED - 1)


@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        ("f", '{"a": 1,\n "b": 2}', 'f{"a":1,"b":2}'),
        ("f", {"a": "Łódź"}, 'f{"a":"Łódź"}'),
        ("f", None, "f"),
        ("f", "", "f"),
        (None, "x", "Nonex"),
    ],
    ids=["white space is ignored", "an object", "no arguments", "empty arguments", "no name"],
)
def test_a_call_is_its_name_and_arguments(name, arguments, expected):
    assert call_fingerprint(name, arguments) == expected


def test_the_calls_of_a_response_include_those_that_the_provider_runs():
    output = [
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"},
        {"type": "web_search_call", "id": "w"},
        {"type": "message"},
        7,
    ]
    assert tool_calls_of({"output": output}) == (("c1", "f", "{}"), ("c2", "g", "x"), (None, "web_search_call", None))
    assert tool_calls_of({"output": "x"}) == tool_calls_of({}) == ()
