"""What follows a failure: the next attempt, a rest, or the end."""

import pytest

from gateway.routing.health import FAILURES, REST_SECONDS, HealthBook
from gateway.routing.retry import Next, next_attempt

GIVEN = {"place": 0, "places": 1, "tries_here": 1, "max_retries": 1, "retry_same": True, "try_other": True, "retry_after": None, "jitter": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"places": 2}, Next(place=1, wait_seconds=0.0)),
        ({}, Next(place=0, wait_seconds=0.1 * 0.75)),
        ({"tries_here": 2}, None),
        ({"retry_same": False}, None),
        ({"places": 2, "try_other": False, "retry_same": False}, None),
        ({"retry_after": 1.5}, Next(place=0, wait_seconds=1.5)),
        ({"retry_after": 3600.0}, None),
        ({"place": 1, "places": 2, "tries_here": 1}, Next(place=1, wait_seconds=0.075)),
    ],
    ids=[
        "another deployment before waiting", "the same one after a short wait", "not more often than allowed",
        "not when it cannot help", "a rejected request is not tried elsewhere", "as long as the provider asks",
        "but not an hour", "the last one may be tried again",
    ],
)  # fmt: skip
def test_the_next_attempt(change, expected):
    found = next_attempt(**{**GIVEN, **change})
    assert (found and (found.place, round(found.wait_seconds, 6))) == (
        expected and (expected.place, round(expected.wait_seconds, 6))
    )


def test_a_deployment_rests_after_failures_in_a_row_and_is_probed_again():
    book = HealthBook()
    for count in range(FAILURES):
        assert book.healthy("a", now=0.0), count
        book.failed("a", now=0.0)
    assert not book.healthy("a", now=REST_SECONDS - 0.1)
    assert book.healthy("a", now=REST_SECONDS)
    book.failed("a", now=REST_SECONDS)
    assert not book.healthy("a", now=REST_SECONDS * 2.5), "each failed probe doubles the rest"
    book.succeeded("a")
    assert book.healthy("a", now=0.0)


def test_a_provider_s_own_pause_is_respected_up_to_a_minute():
    book = HealthBook()
    book.failed("a", now=0.0, retry_after=7.0)
    assert not book.healthy("a", now=6.9)
    assert book.healthy("a", now=7.0)
    book.failed("a", now=10.0, retry_after=9999.0)
    assert book.healthy("a", now=70.0)
