"""Circuit breakers of deployments."""

from gateway.routing.circuit_breaker import CLOSED, FAILURES_TO_OPEN, OPEN_SECONDS, BreakerState, CircuitBreakers


def open_breakers() -> CircuitBreakers:
    breakers = CircuitBreakers()
    for count in range(FAILURES_TO_OPEN):
        assert breakers.is_healthy("a", now=0.0), count
        breakers.record_failure("a", now=0.0)
    return breakers


def test_the_breaker_opens_after_consecutive_failures_and_allows_one_probe():
    breakers = open_breakers()
    assert breakers.state("a", now=OPEN_SECONDS - 0.1).open_seconds > 0
    assert breakers.state("a", now=OPEN_SECONDS).open_seconds == 0, "half-open: one request may probe"
    breakers.start_probe("a", now=OPEN_SECONDS)
    assert breakers.state("a", now=OPEN_SECONDS).open_seconds > 0, "a second probe is not allowed"
    breakers.record_failure("a", now=OPEN_SECONDS + 1)
    assert breakers.state("a", now=OPEN_SECONDS * 2.5).open_seconds > 0, "each failed probe doubles the open time"
    breakers.record_success("a")
    assert breakers.is_healthy("a", now=0.0)


def test_a_canceled_probe_lets_the_next_request_probe():
    breakers = open_breakers()
    breakers.start_probe("a", now=OPEN_SECONDS)
    breakers.cancel_probe("a", now=OPEN_SECONDS + 1)
    assert breakers.state("a", now=OPEN_SECONDS + 1).open_seconds == 0


def test_any_success_closes_the_breaker():
    breakers = open_breakers()
    breakers.record_success("a")
    assert breakers.state("a", now=0.0) is CLOSED


def test_a_rate_limit_deprioritizes_for_retry_after_up_to_a_minute():
    breakers = CircuitBreakers()
    breakers.record_rate_limit("a", now=0.0, retry_after=7.0)
    assert breakers.state("a", now=6.9) == BreakerState(deprioritized=True), "tried after the others, not excluded"
    assert breakers.is_healthy("a", now=7.0)
    breakers.record_rate_limit("a", now=10.0, retry_after=9999.0)
    assert breakers.is_healthy("a", now=70.0)


def test_a_missing_dialect_is_remembered_until_it_expires():
    breakers = CircuitBreakers()
    breakers.record_missing_dialect("a", "responses", now=0.0)
    breakers.record_success("a")
    assert breakers.state("a", now=1.0).missing_dialects == {"responses"}
    assert breakers.state("a", now=3600.0) is CLOSED, "missing dialects expire"
    assert breakers.state("b", now=0.0) is CLOSED


def test_a_confirmed_dialect_is_never_missing():
    breakers = CircuitBreakers()
    breakers.record_dialect("a", "responses")
    breakers.record_missing_dialect("a", "responses", now=0.0)
    assert breakers.state("a", now=1.0) is CLOSED


def test_concurrent_failures_open_the_breaker_for_the_first_period_only():
    breakers = CircuitBreakers()
    for _ in range(FAILURES_TO_OPEN * 4):
        breakers.record_failure("a", now=0.0)
    assert breakers.state("a", now=OPEN_SECONDS).open_seconds == 0
