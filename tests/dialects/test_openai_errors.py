"""Errors and refusals in OpenAI's shape."""

import json

import pytest

from gateway.dialects import chat, openai_errors
from gateway.values.errors import BadRequest, BrokenResponse, Overloaded, Unauthenticated, UpstreamError
from gateway.values.plan import Refusal


def test_a_refusal_is_400_without_retry_unless_waiting_helps():
    refused = chat.refusal_response(Refusal(code="budget_exceeded", message="used up", details={"used": 1}))
    assert (refused.status, refused.headers["x-should-retry"]) == (400, "false")
    assert json.loads(refused.body)["error"]["details"] == {"used": 1}
    delayed = chat.refusal_response(Refusal(code="x", message="soon", retry_after_seconds=3))
    assert (delayed.status, delayed.headers["retry-after"]) == (429, "3")


def test_errors_have_openai_s_shape():
    answer = chat.error_response(Unauthenticated("no"))
    assert json.loads(answer.body)["error"] == {
        "message": "no", "type": "invalid_request_error", "param": None, "code": "invalid_api_key",
    }  # fmt: skip
    assert "x-should-retry" not in chat.error_response(Overloaded("busy")).headers


@pytest.mark.parametrize(
    "error, kind",
    [
        (BadRequest("no", param="n"), "invalid_request_error"),
        (UpstreamError("no"), "api_error"),
        (Overloaded("no"), "api_error"),
    ],
)
def test_the_type_says_whose_mistake_it_is(error, kind):
    assert json.loads(openai_errors.error_body(error))["error"] == {
        "message": "no", "type": kind, "param": error.param, "code": error.code,
    }  # fmt: skip


def test_a_status_of_the_refusal_replaces_the_usual_one():
    assert openai_errors.refusal_response(Refusal(code="x", message="m", status=403)).status == 403
    delayed = openai_errors.refusal_response(Refusal(code="x", message="m", status=503, retry_after_seconds=2))
    assert (delayed.status, delayed.headers["retry-after"]) == (503, "2")
    assert "x-should-retry" not in delayed.headers


def test_a_refusal_without_details_has_only_the_fields_that_sdks_read():
    refused = openai_errors.refusal_response(Refusal(code="x", message="m", param="p"))
    assert json.loads(refused.body)["error"] == {"message": "m", "type": "penstock_refusal", "param": "p", "code": "x"}


def test_retries_are_declined_for_what_was_already_retried_and_timed_where_waiting_helps():
    assert openai_errors.error_response(BrokenResponse("no")).headers["x-should-retry"] == "false"
    error = UpstreamError("no")
    error.retry_after_seconds = 9
    headers = openai_errors.error_response(error).headers
    assert headers["retry-after"] == "9" and "x-should-retry" not in headers
