"""What follows a failure: the next attempt, a rest, or the end."""

import pytest

from gateway.routing.circuit_breaker import CLOSED, FAILURES_TO_OPEN, OPEN_SECONDS, BreakerState, CircuitBreakers
from gateway.routing.next_attempt import NextAttempt, next_attempt

GIVEN = {"place": 0, "places": 1, "tries_here": 1, "max_retries": 1, "retry_same": True, "try_other": True, "retry_after": None, "jitter": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"places": 2}, NextAttempt(index=1, wait_seconds=0.0)),
        ({}, NextAttempt(index=0, wait_seconds=0.1 * 0.75)),
        ({"tries_here": 2}, None),
        ({"retry_same": False}, None),
        ({"places": 2, "try_other": False, "retry_same": False}, None),
        ({"retry_after": 1.5}, NextAttempt(index=0, wait_seconds=1.5)),
        ({"retry_after": 3600.0}, None),
        ({"place": 1, "places": 2, "tries_here": 1}, NextAttempt(index=1, wait_seconds=0.075)),
    ],
    ids=[
        "another deployment before waiting", "the same one after a short wait", "not more often than allowed",
        "not when it cannot help", "a rejected request is not tried elsewhere", "as long as the provider asks",
        "but not an hour", "the last one may be tried again",
    ],
)  # fmt: skip
def test_the_next_attempt(change, expected):
    found = next_attempt(**{**GIVEN, **change})
    assert (found and (found.index, round(found.wait_seconds, 6))) == (
        expected and (expected.index, round(expected.wait_seconds, 6))
    )


def opened() -> CircuitBreakers:
    book = CircuitBreakers()
    for count in range(FAILURES_TO_OPEN):
        assert book.is_healthy("a", now=0.0), count
        book.record_failure("a", now=0.0)
    return book


def test_the_circuit_opens_after_failures_in_a_row_and_one_request_probes_it():
    book = opened()
    assert book.state("a", now=OPEN_SECONDS - 0.1).open_seconds > 0
    assert book.state("a", now=OPEN_SECONDS).open_seconds == 0, "half open: somebody may try"
    book.start_probe("a", now=OPEN_SECONDS)
    assert book.state("a", now=OPEN_SECONDS).open_seconds > 0, "and nobody else beside it"
    book.record_failure("a", now=OPEN_SECONDS + 1)
    assert book.state("a", now=OPEN_SECONDS * 2.5).open_seconds > 0, "each failed probe doubles the rest"
    book.record_success("a")
    assert book.is_healthy("a", now=0.0)


def test_a_probe_that_told_nothing_lets_the_next_one_try():
    book = opened()
    book.start_probe("a", now=OPEN_SECONDS)
    book.cancel_probe("a", now=OPEN_SECONDS + 1)
    assert book.state("a", now=OPEN_SECONDS + 1).open_seconds == 0


def test_a_call_that_began_before_the_circuit_opened_closes_it_when_it_succeeds():
    book = opened()
    book.record_success("a")
    assert book.state("a", now=0.0) is CLOSED


def test_a_provider_s_own_pause_is_respected_up_to_a_minute():
    book = CircuitBreakers()
    book.record_rate_limit("a", now=0.0, retry_after=7.0)
    assert book.state("a", now=6.9) == BreakerState(deprioritized=True), "tried after the others, not shut out"
    assert book.is_healthy("a", now=7.0)
    book.record_rate_limit("a", now=10.0, retry_after=9999.0)
    assert book.is_healthy("a", now=70.0)


def test_what_a_deployment_does_not_speak_is_remembered():
    book = CircuitBreakers()
    book.record_missing_dialect("a", "responses", now=0.0)
    book.record_success("a")
    assert book.state("a", now=1.0).missing_dialects == {"responses"}
    assert book.state("a", now=3600.0) is CLOSED, "servers are upgraded"
    assert book.state("b", now=0.0) is CLOSED


def test_what_a_deployment_has_spoken_once_it_never_lacks():
    book = CircuitBreakers()
    book.record_dialect("a", "responses")
    book.record_missing_dialect("a", "responses", now=0.0)
    assert book.state("a", now=1.0) is CLOSED


def test_failures_at_once_open_the_circuit_for_its_first_pause_only():
    book = CircuitBreakers()
    for _ in range(FAILURES_TO_OPEN * 4):
        book.record_failure("a", now=0.0)
    assert book.state("a", now=OPEN_SECONDS).open_seconds == 0
