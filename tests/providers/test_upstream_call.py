"""What all providers share: headers, failures by status, counts."""

import pytest

from gateway.providers import upstream_call as calls
from gateway.providers.upstream_call import failure_of_status


@pytest.mark.parametrize(
    "status, code, retry_same, try_other, hides_message",
    [
        (200, "upstream_error", False, True, True),
        (302, "upstream_error", False, True, True),
        (400, "provider_rejected", False, False, False),
        (404, "provider_rejected", False, False, False),
        (422, "provider_rejected", False, False, False),
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
    failure = failure_of_status(status, "message", is_billing=False)
    assert (failure.code, failure.retry_same, failure.try_other, failure.hides_message) == (
        code,
        retry_same,
        try_other,
        hides_message,
    )


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_billing_error_is_ours_whatever_its_status(status):
    failure = failure_of_status(status, "your credit is used up", is_billing=True)
    assert (failure.code, failure.retry_same, failure.message) == ("provider_account", False, "")


@pytest.mark.parametrize(
    "body, error",
    [
        (b'{"error":{"message":"no"}}', {"message": "no"}),
        (b'{"error":"no"}', {"message": "no"}),
        (b'{"error":[1]}', {}),
        (b'{"message":"no"}', {}),
        (b"[1]", {}),
        (b"<html>", {}),
        (b"", {}),
    ],
    ids=["an object", "a text", "a list", "no error", "an array", "html", "nothing"],
)
def test_the_error_of_a_body_is_read_in_any_shape(body, error):
    assert calls.error_object(body) == error


@pytest.mark.parametrize("value, count", [(0, 0), (7, 7), (100_000_000, 100_000_000), (100_000_001, None), (-1, None), (True, None), (1.0, None), ("7", None), (None, None)])  # fmt: skip
def test_only_plausible_integers_are_counts(value, count):
    assert calls.token_count(value) == count
    assert calls.detail_count({"details": {"n": value}}, "details", "n") == (count or 0)


def test_a_missing_detail_is_zero():
    assert calls.detail_count({"details": 7}, "details", "n") == calls.detail_count(None, "details", "n") == 0


@pytest.mark.parametrize(
    "document, limited",
    [
        ({}, {"a": 5}),
        ({"b": 9}, {"b": 5}),
        ({"a": 9, "b": 9}, {"a": 5, "b": 5}),
        ({"a": None, "b": 9}, {"a": None, "b": 5}),
    ],
    ids=["the first name", "the name that is used", "both", "null is not used"],
)
def test_an_output_limit_is_set_under_every_name_that_is_used(document, limited):
    assert calls.with_output_limit(document, ("a", "b"), 5) == limited


def test_cookies_and_keys_are_not_forwarded():
    headers = {"user-agent": "sdk", "traceparent": "00", "cookie": "c", "authorization": "x", "x-penstock-session": "s"}
    assert calls.forwarded_headers(headers, calls.FORWARDED_HEADERS) == {"user-agent": "sdk", "traceparent": "00"}


def test_returned_headers_are_lower_case_and_known():
    headers = {"Retry-After": "3", "X-Request-ID": "r", "X-Own": "1", "Set-Cookie": "c", "Transfer-Encoding": "chunked"}
    assert calls.returned_headers(headers, ("x-own",)) == {"retry-after": "3", "x-request-id": "r", "x-own": "1"}
