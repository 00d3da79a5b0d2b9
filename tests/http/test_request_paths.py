"""Paths of requests: endpoints, what may be passed through, and what a 404 says."""

import pytest

from gateway.http import request_paths


@pytest.mark.parametrize(
    "path, passes",
    [
        ("/v1/images/generations", True), ("/v1/files/file-1/content", True), ("/anthropic/v1/messages/batches", True),
        ("/v1/threads/t1/messages", True), ("/v1/responses/r1/cancel", True), ("/v1/rerank", True),
        ("/v1/responses/resp_1/input_items", True), ("/v1/messages/messages", False), ("/v1/responses/responses", False),
        ("/v1/responses/chat/completions", False), ("/v1/messages/messages/count_tokens", False),
        ("/anthropic/v1/messages/messages", False), ("/v1/responses/models", False),
        ("/v1/v1/images/generations", False), ("/v1/openai/v1/responses", False), ("/v1/anthropic/messages", False),
        ("/v1/engines/m/completions", False), ("/v1/openai/deployments/m/chat/completions", False),
        ("/v1/x/embeddings", False), ("/v1/openai/responses", False), ("/v1/beta/messages", False), ("/v1//files", False), ("/v1/./files", False), ("/v1/%66iles", False),
        ("/V1/files", False), ("/v1/Chat/x", False), ("/v1/chat/completions/c1", False), ("/v1/budgets", False),
        ("/v1/budget/me", False), ("/v1/session/s1/outcome", False), ("/v1/metrics", False), ("/v1/message", False),
        ("/v1/embedding", False), ("/v1/response/r1", False), ("/v2/files", False), ("/files", False),
    ],
)  # fmt: skip
def test_only_a_providers_own_endpoints_pass_through(path, passes):
    assert request_paths.is_passed_through(path) is passes


@pytest.mark.parametrize(
    "path, end",
    [
        ("/v1/v1/messages", "The base URL has one /v1 too many; the endpoint is /v1/messages."),
        ("/v1/v1/chat/completions", "The base URL has one /v1 too many; the endpoint is /v1/chat/completions."),
        ("/v1//v1/responses", "The base URL has one /v1 too many; the endpoint is /v1/responses."),
        ("//v1/V1/responses", "The base URL has one /v1 too many; the endpoint is /v1/responses."),
        ("/anthropic/v1/v1/messages", "The base URL has one /v1 too many; the endpoint is /v1/messages."),
        ("/v1/anthropic/v1/messages", "The base URL has one /v1 too many; the endpoint is /v1/messages."),
        ("/v1/%76%31/embeddings", "The base URL has one /v1 too many; the endpoint is /v1/embeddings."),
        ("/v1/v1/v1/models", "The base URL has one /v1 too many; the endpoint is /v1/models."),
        ("/chat/completions", "Endpoints begin with /v1; check that the base URL is http://HOST:PORT/v1."),
        ("/api/v1/chat/completions", "Endpoints begin with /v1; check that the base URL is http://HOST:PORT/v1."),
        ("/V1/chat/completions", "Endpoints begin with /v1; check that the base URL is http://HOST:PORT/v1."),
        ("//v1/chat/completions", "Endpoints begin with /v1; check that the base URL is http://HOST:PORT/v1."),
        ("/v1//chat/completions", "Endpoints begin with /v1; check that the base URL is http://HOST:PORT/v1."),
        ("/v1%2Fchat/completions", "Endpoints begin with /v1; check that the base URL is http://HOST:PORT/v1."),
        ("/v1/chat/completions/chat/completions", "The base URL must end before the endpoint, with /v1; the endpoint is /v1/chat/completions."),
        ("/v1/messages/messages", "The base URL must end before the endpoint, with /v1; the endpoint is /v1/messages."),
        ("/anthropic/v1/messages/messages", "The base URL must end before the endpoint, with /v1; the endpoint is /v1/messages."),
        ("/v1/responses/responses", "The base URL must end before the endpoint, with /v1; the endpoint is /v1/responses."),
        ("/v1/responses/chat/completions", "The base URL must end before the endpoint, with /v1; the endpoint is /v1/chat/completions."),
        ("/v1/embeddings/models", "The base URL must end before the endpoint, with /v1; the endpoint is /v1/models."),
        ("/v1/message", "Did you mean /v1/messages?"), ("/v1/chat/completion", "Did you mean /v1/chat/completions?"),
        ("/v1/budgets", "Did you mean /v1/budgets/me?"), ("/v1/metrics", "Did you mean /metrics?"),
        ("/v1/organization/users", "No such endpoint: POST /v1/organization/users."),
    ],
)  # fmt: skip
def test_a_404_says_how_to_correct_the_url(path, end):
    message = request_paths.no_such_endpoint("POST", path)
    assert message.startswith("No such endpoint: POST /") and message.endswith(end)


def test_a_404_repeats_little_of_a_long_path():
    assert len(request_paths.no_such_endpoint("GET", "/v1/v1/" + "x/" * 5000)) < 400


@pytest.mark.parametrize(
    "path, dialect",
    [
        ("/v1/v1/messages", "messages"), ("/messages", "messages"), ("/v1/anthropic/messages", "messages"),
        ("/v1/v1/responses", "responses"), ("/chat/completions", "chat"), ("/v1/messages/messages", "messages"),
        ("/v1/messages/chat/completions", "chat"), ("/v1/responses/responses", "responses"), ("/v1/threads/t1/messages", None), ("/", None),
    ],
)  # fmt: skip
def test_the_error_has_the_shape_of_the_endpoint_that_was_meant(path, dialect):
    assert request_paths.dialect_of_error(path) == dialect
