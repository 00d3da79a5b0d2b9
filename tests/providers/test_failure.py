"""What a provider's error means, by its status, its names and its words."""

import json
from typing import Any

import pytest
from hypothesis import given

from gateway.providers import PROVIDERS
from gateway.providers.error_body import error_object
from gateway.providers.failure import failure_of_status, status_of_error
from tests.dialects.json_values import JSON_VALUES


@pytest.mark.parametrize(
    "status, code, retry_same, try_other, hides_message",
    [
        (200, "upstream_error", False, True, True),
        (302, "upstream_error", False, True, True),
        (400, "provider_rejected", False, False, False),
        (422, "provider_rejected", False, False, False),
        (404, "provider_model_not_found", False, True, False),
        (410, "provider_model_not_found", False, True, False),
        (401, "provider_account", False, True, True),
        (402, "provider_account", False, True, True),
        (403, "provider_account", False, True, True),
        (408, "upstream_error", True, True, True),
        (409, "upstream_error", True, True, True),
        (429, "provider_rate_limited", True, True, False),
        (500, "upstream_error", True, True, True),
        (529, "upstream_error", True, True, True),
        (599, "upstream_error", True, True, True),
    ],
)
def test_a_status_says_what_comes_next_and_whether_its_message_is_shown(
    status, code, retry_same, try_other, hides_message
):
    failure = failure_of_status(status, {"message": "words"}, is_billing=False)
    assert (failure.code, failure.retry_same, failure.try_other, failure.hides_message, failure.message) == (
        code,
        retry_same,
        try_other,
        hides_message,
        "words",
    )


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_billing_error_is_ours_whatever_its_status(status):
    failure = failure_of_status(status, {"message": "your credit is used up"}, is_billing=True)
    assert (failure.code, failure.retry_same, failure.hides_message) == ("provider_account", False, True)


# Error pages and recorded answers of the providers, read in November 2026.
OVERFLOWS: dict[str, tuple[int, dict[str, Any], int]] = {
    "OpenAI": (400, {"message": "This model's maximum context length is 128000 tokens. However, you requested 130000 tokens.", "code": "context_length_exceeded"}, 128_000),
    "OpenAI Responses": (400, {"message": "Your input exceeds the context window of this model.", "code": "context_length_exceeded"}, 0),
    "Anthropic": (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum", "type": "invalid_request_error"}, 200_000),
    "vLLM": (400, {"message": "This model's maximum context length is 8192 tokens. However, your request has 9001 input tokens.", "code": 400}, 8_192),
    "Gemini": (400, {"message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", "status": "INVALID_ARGUMENT"}, 1_048_576),
    "Bedrock": (400, {"message": "Input is too long for requested model."}, 0),
    "Groq": (400, {"message": "Please reduce the length of the messages or completion.", "code": "context_length_exceeded"}, 0),
    "Mistral": (400, {"message": "Prompt contains 33000 tokens, too large for model with 32768 maximum context length"}, 32_768),
    "llama.cpp": (400, {"message": "the request exceeds the available context size, try increasing it", "type": "exceed_context_size_error"}, 0),
    "a number that is none": (400, {"message": "maximum context length is ,,, tokens"}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERFLOWS)
def test_a_request_too_long_for_the_model_may_fit_elsewhere(name):
    status, error, limit = OVERFLOWS[name]
    failure = failure_of_status(status, error, is_billing=False)
    assert (failure.code, failure.try_other, failure.retry_same) == ("context_length_exceeded", True, False)
    assert failure.is_context_overflow and not failure.blames_deployment and failure.context_tokens == limit


UNKNOWN_MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "OpenAI": (404, {"message": "The model `gpt-9` does not exist or you do not have access to it.", "code": "model_not_found"}),
    "OpenAI, by its field": (400, {"message": "invalid model ID", "param": "model"}),
    "Anthropic": (404, {"type": "not_found_error", "message": "model: claude-0"}),
    "Groq": (400, {"message": "The model `llama2-70b` has been decommissioned.", "code": "model_decommissioned"}),
    "Mistral": (400, {"message": "Invalid model: mistral-0", "type": "invalid_model"}),
    "DeepSeek": (400, {"message": "Model Not Exist", "code": "invalid_request_error"}),
    "OpenRouter": (400, {"message": "x/y is not a valid model ID", "code": 400}),
    "Bedrock": (400, {"message": "The provided model identifier is invalid."}),
    "Azure": (404, {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}),
    "Ollama": (404, {"message": 'model "llama9" not found, try pulling it first'}),
    "a wrong base URL": (404, {"message": "Invalid URL (POST /v1/chat/completions/chat/completions)"}),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN_MODELS)
def test_a_model_that_the_provider_lacks_is_the_configuration_s_fault(name):
    status, error = UNKNOWN_MODELS[name]
    failure = failure_of_status(status, error, is_billing=False)
    assert (failure.code, failure.try_other, failure.blames_deployment) == ("provider_model_not_found", True, True)


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported parameter: 'temperature' is not supported with this model.",
        "This model does not support image input.",
        "tools are not available for this model",
    ],
)
def test_a_refused_parameter_is_not_an_unknown_model(message):
    assert failure_of_status(400, {"message": message}, is_billing=False).code == "provider_rejected"


ACCOUNTS: dict[str, tuple[int, dict[str, Any]]] = {
    "OpenAI": (401, {"message": "Incorrect API key provided: sk-***.", "code": "invalid_api_key"}),
    "Google, invalid": (400, {"message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}),
    "Google, expired": (400, {"message": "API key expired. Please renew the API key."}),
    "xAI": (400, {"message": "Incorrect API key provided: sk***ef. You can obtain an API key from the console."}),
    "Fireworks": (412, {"message": "Account is suspended, possibly due to reaching the monthly spending limit"}),
    "Anthropic, disabled": (400, {"message": "This organization has been disabled."}),
    "credit": (400, {"message": "Your credit balance is too low to access the API."}),
    "a code": (400, {"message": "no", "code": "invalid_api_key", "type": "invalid_request_error"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCOUNTS)
def test_a_refused_key_or_account_is_ours_whatever_its_status(name):
    status, error = ACCOUNTS[name]
    failure = failure_of_status(status, error, is_billing=False)
    assert (failure.code, failure.try_other, failure.hides_message) == ("provider_account", True, True)


@pytest.mark.parametrize(
    "message",
    [
        "Invalid value: 'invalid api key'. Supported values are: 'low', 'high'.",
        'Invalid value: "model x does not exist".',
        "Unknown tool `account is suspended`",
    ],
)
def test_what_a_message_quotes_of_the_request_decides_nothing(message):
    assert failure_of_status(400, {"message": message}, is_billing=False).code == "provider_rejected"


def test_a_403_about_the_content_is_the_request_s_own():
    failure = failure_of_status(403, {"message": "Your chosen model requires moderation and your input was flagged"}, is_billing=False)  # fmt: skip
    assert (failure.code, failure.try_other, failure.hides_message) == ("provider_rejected", False, False)


@pytest.mark.parametrize(
    "document, status",
    [
        ({"error": {"message": "m", "code": 429}}, 429),
        ({"error": {"message": "m", "code": "503"}}, 503),
        ({"error": {"message": "m", "code": 999}}, 502),
        ({"error": {"message": "m", "status": "RESOURCE_EXHAUSTED"}}, 429),
        ({"error": {"message": "m", "type": "rate_limit_error"}}, 429),
        ({"error": {"message": "m", "type": "overloaded_error"}}, 502),
        ({"error": {"message": "m", "type": "invalid_request_error", "code": "invalid_api_key"}}, 401),
        ({"error": {"message": "m", "code": "insufficient_quota"}}, 429),
        ({"error": {"message": "m", "type": "BadRequestError"}, "code": 400}, 400),
        ({"error": "m", "status_code": 500}, 500),
        ({"error": True}, 502),
        ({}, 502),
    ],
)
def test_an_error_under_status_200_has_the_status_that_its_number_or_name_says(document, status):
    assert status_of_error(document) == status


@pytest.mark.parametrize("dialect", PROVIDERS)
def test_a_quota_error_within_an_answer_is_our_account_s(dialect):
    code = {"anthropic": {"type": "billing_error"}}.get(dialect, {"code": "insufficient_quota"})
    document = {"error": {"message": "You exceeded your current quota.", **code}}
    failure = PROVIDERS[dialect].failure_of(status_of_error(document), json.dumps(document).encode())
    assert (failure.code, failure.hides_message) == ("provider_account", True)


# vLLM and Mistral (message at the top), FastAPI (detail), Google (a list), OpenRouter (metadata.raw), Cloudflare
# (errors), Bedrock (message), RFC 9457 (title, detail); error pages, November 2026.
WORDS: dict[str, tuple[Any, str]] = {
    "an object": ({"error": {"message": "no", "code": "x"}}, "no"),
    "a text": ({"error": "no"}, "no"),
    "a name and its words": ({"error": "overloaded", "message": "try later"}, "try later"),
    "a message at the top": ({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}, "no"),
    "a message in an object": ({"object": "error", "message": {"detail": [{"loc": ["body", "stream_options"], "msg": "not permitted"}]}}, "body.stream_options: not permitted"),
    "a detail": ({"detail": "no worker"}, "no worker"),
    "details of fields": ({"detail": [{"loc": ["body", "messages"], "msg": "field required"}, {"loc": ["body", "n"], "msg": "too big"}]}, "body.messages: field required; body.n: too big"),
    "a list": ([{"error": {"code": 400, "message": "Invalid JSON payload", "status": "INVALID_ARGUMENT"}}], "Invalid JSON payload"),
    "the words of another provider": ({"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "rate limited upstream"}}}, "Provider returned error: rate limited upstream"),
    "several errors": ({"success": False, "errors": [{"code": 7, "message": "bad"}, {"message": "worse"}]}, "bad; worse"),
    "a problem": ({"title": "Bad Request", "detail": "n is too big", "status": 400}, "n is too big"),
    "an error without words": ({"error": {"code": 500}}, ""),
    "an object of another kind": ({"id": "x"}, ""),
    "a list of numbers": ([1], ""),
    "an error list": ({"error": [1]}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_the_words_of_an_error_are_read_in_any_shape(name):
    document, words = WORDS[name]
    assert error_object(json.dumps(document).encode()).get("message", "") == words


@given(value=JSON_VALUES)
def test_any_error_body_is_read_without_failing(value):
    body = json.dumps({"error": value, "message": value, "detail": value}).encode()
    assert isinstance(error_object(body).get("message", ""), str)
    assert 400 <= status_of_error({"error": value}) <= 599
    for provider in PROVIDERS.values():
        assert provider.failure_of(400, body).code
