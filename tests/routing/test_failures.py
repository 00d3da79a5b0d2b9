"""What follows a failure: the next attempt, a rest, or the end."""

import pytest

from gateway.routing.circuit_breaker import FAILURES, REST_SECONDS, UP, HealthBook, Standing
from gateway.routing.next_attempt import Next, next_attempt

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


def opened() -> HealthBook:
    book = HealthBook()
    for count in range(FAILURES):
        assert book.healthy("a", now=0.0), count
        book.failed("a", now=0.0)
    return book


def test_the_circuit_opens_after_failures_in_a_row_and_one_request_probes_it():
    book = opened()
    assert book.standing("a", now=REST_SECONDS - 0.1).open_seconds > 0
    assert book.standing("a", now=REST_SECONDS).open_seconds == 0, "half open: somebody may try"
    book.dialled("a", now=REST_SECONDS)
    assert book.standing("a", now=REST_SECONDS).open_seconds > 0, "and nobody else beside it"
    book.failed("a", now=REST_SECONDS + 1)
    assert book.standing("a", now=REST_SECONDS * 2.5).open_seconds > 0, "each failed probe doubles the rest"
    book.succeeded("a")
    assert book.healthy("a", now=0.0)


def test_a_probe_that_told_nothing_lets_the_next_one_try():
    book = opened()
    book.dialled("a", now=REST_SECONDS)
    book.released("a", now=REST_SECONDS + 1)
    assert book.standing("a", now=REST_SECONDS + 1).open_seconds == 0


def test_a_call_that_began_before_the_circuit_opened_closes_it_when_it_succeeds():
    book = opened()
    book.succeeded("a")
    assert book.standing("a", now=0.0) is UP


def test_a_provider_s_own_pause_is_respected_up_to_a_minute():
    book = HealthBook()
    book.limited("a", now=0.0, retry_after=7.0)
    assert book.standing("a", now=6.9) == Standing(resting=True), "tried after the others, not shut out"
    assert book.healthy("a", now=7.0)
    book.limited("a", now=10.0, retry_after=9999.0)
    assert book.healthy("a", now=70.0)


def test_what_a_deployment_does_not_speak_is_remembered():
    book = HealthBook()
    book.lacks("a", "responses", now=0.0)
    book.succeeded("a")
    assert book.standing("a", now=1.0).missing == {"responses"}
    assert book.standing("a", now=3600.0) is UP, "servers are upgraded"
    assert book.standing("b", now=0.0) is UP


def test_what_a_deployment_has_spoken_once_it_never_lacks():
    book = HealthBook()
    book.spoke("a", "responses")
    book.lacks("a", "responses", now=0.0)
    assert book.standing("a", now=1.0) is UP


def test_failures_at_once_open_the_circuit_for_its_first_pause_only():
    book = HealthBook()
    for _ in range(FAILURES * 4):
        book.failed("a", now=0.0)
    assert book.standing("a", now=REST_SECONDS).open_seconds == 0
