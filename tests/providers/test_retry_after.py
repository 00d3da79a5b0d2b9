"""The pause that a provider asks for: seconds, durations, dates, exhausted windows."""

from datetime import UTC, datetime

import pytest

from gateway.providers.retry_after import PAUSE_SECONDS_MAX, retry_after_seconds

NOW = datetime(2026, 11, 29, 23, 59, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("30", 30.0), (" 1.5 ", 1.5), ("0", 0.0), ("2, 30", 30.0), ("17ms", 0.017), ("6m0s", 360.0), ("1h2m3.5s", 3723.5),
        ("Sun, 29 Nov 2026 23:59:30 GMT", 30.0), ("Sunday, 29-Nov-26 23:59:30 GMT", 30.0), ("Sun Nov 29 23:59:30 2026", 30.0),
        ("Tue Dec  1 00:00:00 2026", 86_400.0), ("sun, 29 nov 2026 23:59:30 gmt", 30.0), ("Sun, 29 Nov 2026 23:59:60 GMT", 59.0),
        ("Sun, 29 Nov 2026 23:59:30 +0000", 30.0), ("2026-11-30T00:00:00Z", 60.0),
        ("Sun, 29 Nov 2099 23:59:00 GMT", PAUSE_SECONDS_MAX), ("9999999", PAUSE_SECONDS_MAX),
        ("Sun, 29 Nov 2026 23:58:00 GMT", 0.0), ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0), ("1795996800", 60.0),
        ("", None), ("soon", None), ("-1", None), ("nan", None), ("inf", None), ("1e3", None), ("٣", None), ("1" * 20, None),
        ("Sun, 31 Feb 2026 23:59:30 GMT", None), ("Sun, 29 Foo 2026 23:59:30 GMT", None), ("2026-11-30T00:00:00", None),
        ("Sun, 29 Nov 2026 25:59:30 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value, seconds):
    """Dates in the three forms of RFC 9110, 5.6.7; durations as OpenAI writes them in rate limit headers."""
    assert retry_after_seconds(503, {"Retry-After": value}, now=NOW) == (
        None if seconds is None else pytest.approx(seconds)
    )


def test_a_date_is_read_by_the_providers_own_clock():
    headers = {"Date": "Sun, 29 Nov 2026 22:00:00 GMT", "retry-after": "Sun, 29 Nov 2026 22:00:05 GMT"}
    assert retry_after_seconds(429, headers, now=NOW) == 5.0


def test_milliseconds_count_before_seconds():
    assert retry_after_seconds(429, {"retry-after-ms": "250", "Retry-After": "1"}, now=NOW) == 0.25
    assert retry_after_seconds(429, {"retry-after-ms": "soon", "Retry-After": "1"}, now=NOW) == 1.0


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8.64s",
          "x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "6m0s"}, 8.64),
        ({"anthropic-ratelimit-input-tokens-remaining": "0",
          "anthropic-ratelimit-input-tokens-reset": "2026-11-30T00:00:00Z"}, 60.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795996800000"}, 60.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12"}, 12.0),
        ({"x-ratelimit-reset-tokens": "12"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "?"}, None),
        ({}, None),
    ],
    ids=["OpenAI", "Anthropic", "OpenRouter", "Azure", "nothing is exhausted", "unreadable", "no headers"],
)  # fmt: skip
def test_without_retry_after_a_rate_limit_lasts_until_its_exhausted_windows_begin_anew(headers, seconds):
    """Names and values as in the providers' rate limit documents (November 2026)."""
    assert retry_after_seconds(429, headers, now=NOW) == (None if seconds is None else pytest.approx(seconds))
    assert retry_after_seconds(500, headers, now=NOW) is None
