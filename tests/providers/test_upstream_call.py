"""What all providers share: headers, counts."""

import pytest

from gateway.providers import upstream_call as calls


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


@pytest.mark.parametrize(
    "value", ["a\x01b", "a\tb", "caf\udce9", "x" * 5000], ids=["control", "tab", "not UTF-8", "long"]
)
def test_a_header_that_a_client_cannot_read_is_not_returned(value):
    assert calls.returned_headers({"x-request-id": value, "retry-after": "3"}, ()) == {"retry-after": "3"}
