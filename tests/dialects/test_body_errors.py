"""Messages for invalid bodies, in the wording of the dialect's provider."""

import msgspec
import pytest

from gateway.dialects import PARSERS
from gateway.dialects.body_errors import ANTHROPIC_ERRORS, OPENAI_ERRORS, validation_error, wrong_type_error
from gateway.values.errors import BadRequest


@pytest.mark.parametrize(
    "dialect, body, message",
    [
        ("chat", b"[]", "Invalid type for 'body': expected an object, but got an array instead."),
        ("chat", b"{", "We could not parse the JSON body of your request: Input data was truncated."),
        ("chat", b'{"model":"m"}', "Missing required parameter: 'messages'."),
        ("chat", b'{"messages":[]}', "Missing required parameter: 'model'."),
        ("chat", b'{"model":"m","messages":[{}]}', "Missing required parameter: 'messages[0].role'."),
        ("chat", b'{"model":7,"messages":[]}', "Invalid type for 'model': expected a string, but got an integer instead."),
        ("chat", b'{"model":"m","messages":null}', "Invalid type for 'messages': expected an array, but got null instead."),
        ("chat", b'{"model":"m","messages":[]}', "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."),
        ("chat", b'{"model":"m","messages":[{"role":"user","content":{}}]}', "Invalid type for 'messages[0].content': expected one of a string or array, but got an object instead."),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"n":1000}', "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 1000 instead."),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"n":0}', "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead."),
        ("chat", b'{"model":"a","model":"b","messages":[]}', "Invalid 'model': the key must appear exactly once, in lower case and without escapes."),
        ("completions", b'{"model":"","prompt":"x"}', "Invalid 'model': empty string. Expected a string with minimum length 1, but got an empty string instead."),
        ("embeddings", b'{"model":"' + b"m" * 257 + b'","input":"x"}', "Invalid 'model': string too long. Expected a string with maximum length 256, but got a string with length 257 instead."),
        ("messages", b"{", "The request body is not valid JSON: Input data was truncated"),
        ("messages", b'{"model":"m"}', "messages: Field required"),
        ("messages", b'{"model":"m","messages":[{"role":"user"}]}', "messages.0.content: Field required"),
        ("messages", b'{"model":"m","messages":[{"role":"user","content":7}]}', "messages.0.content: Input should be a valid string or list, got an integer"),
        ("messages", b'{"model":"m","messages":[]}', "messages: at least one message is required"),
        ("messages", b'{"model":"m","max_tokens":-1,"messages":[{"role":"user","content":"x"}]}', "max_tokens: Input should be greater than or equal to 1, got -1"),
    ],
)  # fmt: skip
def test_errors_have_the_wording_of_the_dialect_s_provider(dialect, body, message):
    with pytest.raises(BadRequest) as raised:
        PARSERS[dialect](body)
    assert raised.value.message == message


@pytest.mark.parametrize(
    "value, openai, anthropic",
    [
        (True, "got a boolean", "got a boolean"),
        (7, "got an integer", "got an integer"),
        (0.5, "got a decimal", "got a number"),
        ([], "got an array", "got a list"),
        ({}, "got an object", "got a dictionary"),
        (None, "got null", "got null"),
    ],
)
def test_a_wrong_type_is_named_in_the_provider_s_words(value, openai, anthropic):
    error = wrong_type_error("a[0].b", "str", value, OPENAI_ERRORS)
    assert error.message == f"Invalid type for 'a[0].b': expected a string, but {openai} instead."
    assert error.param == "a[0].b"
    error = wrong_type_error("a[0].b", "str", value, ANTHROPIC_ERRORS)
    assert error.message == f"a.0.b: Input should be a valid string, {anthropic}"


def test_a_mistake_of_another_kind_keeps_the_decoder_s_sentence():
    error = validation_error(msgspec.ValidationError("Invalid enum value 'x' - at `$.kind`"), "model", OPENAI_ERRORS)
    assert (error.message, error.param) == ("kind: Invalid enum value 'x'.", "kind")
    error = validation_error(msgspec.ValidationError("Too long"), "model", ANTHROPIC_ERRORS)
    assert (error.message, error.param) == ("body: Too long.", None)


def test_a_missing_field_of_the_top_level_names_the_required_parameter():
    error = validation_error(
        msgspec.ValidationError("Object missing required field `messages`"), "messages", OPENAI_ERRORS
    )
    assert (error.message, error.param) == ("Missing required parameter: 'messages'.", "messages")
