"""The caller's key and hints, read from headers."""

from dataclasses import replace

import pytest
from multidict import CIMultiDict

from gateway.http.request_headers import authenticate, collect_headers, parse_hints
from gateway.values.errors import BadRequest, Unauthenticated
from gateway.values.request import HeaderHints
from tests.snapshots import snapshot

KEYS = snapshot()


def hints(**headers: str) -> HeaderHints:
    """Hints of these headers; underscores in names stand for dashes."""
    return parse_hints({name.replace("_", "-"): value for name, value in headers.items()}, KEYS)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer secret-two"}, {"authorization": "bearer  secret-two "}, {"x-api-key": "secret-two"},
        {"api-key": "secret-two"}, {"authorization": "Basic abc", "x-api-key": "secret-two"},
        {"x-api-key": "", "api-key": "secret-two"}, {"x-goog-api-key": "secret-two"},
        {"authorization": "Bearer sk-ant-oat01-login", "x-api-key": "secret-two"},
        {"authorization": "Bearer secret-two", "x-api-key": "sk-ant-api03-own"},
        {"authorization": "Bearer secret-two", "x-api-key": "secret-one"},
        {"x-api-key": "sk-ant-api03-own", "api-key": "secret-two"},
        {"authorization": "Basic dTpw,Bearer secret-two"}, {"x-api-key": "first,secret-two"},
    ],
    ids=[
        "bearer", "lower case and spaces", "Anthropic's header", "Azure's header", "another scheme", "empty header",
        "Google's header", "beside a login of Claude Code", "beside a key of the provider",
        "Authorization before another known key", "the second of two key headers", "in the second Authorization header",
        "in the second x-api-key header",
    ],
)  # fmt: skip
def test_a_key_is_accepted_where_clients_send_it(headers):
    caller = authenticate(headers, KEYS)
    assert (caller.key, caller.team) == ("k2", "sales")


@pytest.mark.parametrize(
    "headers, code",
    [
        ({}, "missing_api_key"),
        ({"authorization": "Bearer "}, "missing_api_key"),
        ({"authorization": "secret-one"}, "missing_api_key"),
        ({"authorization": "Bearer secret-three"}, "invalid_api_key"),
        ({"x-api-key": "secret-one "}, "invalid_api_key"),
        ({"x-api-key": "\udce9"}, "invalid_api_key"),
        ({"authorization": "Bearer wrong", "x-api-key": "wrong too"}, "invalid_api_key"),
        ({"x-api-key": ","}, "invalid_api_key"),
    ],
    ids=[
        "no header",
        "empty",
        "no scheme",
        "unknown",
        "trailing space",
        "not UTF-8",
        "two unknown keys",
        "only a comma",
    ],
)
def test_any_other_key_is_refused_without_being_repeated(headers, code):
    with pytest.raises(Unauthenticated) as raised:
        authenticate(headers, KEYS)
    assert raised.value.code == code
    assert "secret" not in str(raised.value) and "wrong" not in str(raised.value)


@pytest.mark.parametrize(
    "lines, collected",
    [
        ([("A", "1"), ("b", "2")], {"a": "1", "b": "2"}),
        ([("anthropic-beta", "one"), ("Anthropic-Beta", "two")], {"anthropic-beta": "one,two"}),
        ([("openai-beta", "a=v2"), ("openai-beta", "b=v1"), ("c", "1")], {"openai-beta": "a=v2,b=v1", "c": "1"}),
        ([("tracestate", "a=1"), ("tracestate", ""), ("tracestate", "b=2")], {"tracestate": "a=1,b=2"}),
        ([("x-session-id", "run"), ("x-session-id", "run")], {"x-session-id": "run"}),
        ([("traceparent", "00-1"), ("traceparent", "00-2")], {"traceparent": "00-1"}),
        ([("anthropic-version", "2023-06-01"), ("anthropic-version", "2026-10-21")], {"anthropic-version": "2023-06-01"}),
        ([("x-stainless-retry-count", "0"), ("X-Stainless-Retry-Count", "1")], {"x-stainless-retry-count": "0"}),
        ([("x-penstock-role", "scout"), ("x-penstock-role", "scout")], {"x-penstock-role": "scout"}),
        ([("x-empty", ""), ("x-empty", "")], {"x-empty": ""}),
    ],
    ids=[
        "no name twice", "a list in any case", "another list", "an empty line adds nothing", "equal values",
        "one value by definition", "a version", "a counter", "an own header, equal", "all empty",
    ],
)  # fmt: skip
def test_a_repeated_header_is_a_list(lines, collected):
    """RFC 9110, 5.3; anthropic-beta with commas as in Anthropic's API reference (beta headers, November 2026)."""
    assert collect_headers(CIMultiDict(lines)) == collected


def test_an_own_header_with_two_values_is_refused():
    with pytest.raises(BadRequest, match="'x-penstock-route' is given 2 times with different values; give it once"):
        collect_headers(CIMultiDict([("x-penstock-route", "a"), ("X-Penstock-Route", "b")]))


def test_without_any_hint_nothing_is_set():
    assert hints() == HeaderHints(headers={})


def test_a_retry_of_an_sdk_is_a_repeat():
    assert not hints(x_stainless_retry_count="0").is_repeat
    assert hints(x_stainless_retry_count="1").is_repeat


def test_the_first_session_header_with_a_value_is_used():
    found = hints(x_penstock_session="", x_session_id="run 7")
    assert (found.session, found.session_source) == ("run 7", "x-session-id")


@pytest.mark.parametrize(
    "names, headers, session, source",
    [
        (("traceparent",), {"traceparent": "00-0af7651916cd43dd-b7ad6b71-01"}, "0af7651916cd43dd", "traceparent"),
        (("traceparent",), {"traceparent": "odd"}, "odd", "traceparent"),
        (("x-*-session",), {"x-my-session": "", "x-your-session": "7"}, "7", "x-your-session"),
        (("a", "b"), {"b": "caf\u00e9"}, "850f7dc43910ff890f8879c0ed26fe69", "b"),
    ],
    ids=["the trace id without the span", "another format", "a pattern", "a digest where it is not ASCII"],
)
def test_a_session_is_read_from_the_configured_headers(names, headers, session, source):
    found = parse_hints(headers, replace(KEYS, session_headers=names))
    assert (found.session, found.session_source) == (session, source)


@pytest.mark.parametrize("text, milliseconds", [("1", 1.0), ("60000", 60_000.0), ("9999999999", 9_999_999_999.0)])
def test_a_deadline_is_in_milliseconds(text, milliseconds):
    assert hints(x_penstock_deadline_ms=text).deadline_ms == milliseconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1e3", "soon", "٣", "1" * 11])
def test_an_invalid_deadline_is_a_bad_request(text):
    with pytest.raises(BadRequest, match="x-penstock-deadline-ms"):
        hints(x_penstock_deadline_ms=text)


@pytest.mark.parametrize(
    "text, seconds",
    [("4h", 14_400), ("30m", 1_800), ("90s", 90), ("90", 90), (" 2H ", 7_200), ("no", 0), ("NO", 0), ("48h", 172_800)],
)
def test_a_delay_has_a_unit_or_is_in_seconds(text, seconds):
    assert hints(x_penstock_defer=text).defer_seconds == seconds


@pytest.mark.parametrize("text", ["", "h", "49h", "172801", "1d", "-1h", "1.5h", "yes", "٣h", "1" * 7])
def test_an_invalid_delay_is_a_bad_request(text):
    with pytest.raises(BadRequest, match="x-penstock-defer"):
        hints(x_penstock_defer=text)


@pytest.mark.parametrize(
    "name, attribute",
    [("x-penstock-task-type", "task_type"), ("x-penstock-role", "role"), ("x-penstock-session-caps", "caps_text"),
     ("x-penstock-route", "route")],
)  # fmt: skip
def test_other_hints_are_taken_as_they_are(name, attribute):
    assert getattr(parse_hints({name: "code"}, KEYS), attribute) == "code"
