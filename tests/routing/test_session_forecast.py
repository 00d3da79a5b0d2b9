"""Forecasts of a session: calls left, tier changes, warm caches."""

import pytest

from gateway.routing.session_forecast import CachedPrefix, SessionForecaster


def test_forecasts_are_learned_from_served_calls():
    forecaster = SessionForecaster()
    before = forecaster.forecast("code", 0, {}, now=0.0)
    for _ in range(50):
        for number in range(1, 21):
            forecaster.record_call(
                "code",
                number,
                needs_higher_tier=number > 10,
                previous_needed_higher_tier=None if number == 1 else number > 11,
                grown_tokens=100,
            )
    after = forecaster.forecast("code", 0, {}, now=0.0)
    assert 17 <= after.calls_left <= 20 > before.calls_left
    assert forecaster.forecast("code", 19, {}, now=0.0).calls_left < 3
    assert after.escalation_probability == pytest.approx((50 + 2) / (500 + 20), abs=0.02)
    assert after.growth_tokens_per_call == pytest.approx(100, rel=0.1)


def test_a_cache_without_hits_is_not_expected_to_be_warm():
    forecaster = SessionForecaster()
    warm = {"small": CachedPrefix(tokens=10_000, expires_at=100.0)}
    assert forecaster.forecast("code", 1, warm, now=1.0).warm_tokens["small"] == 8000
    for _ in range(30):
        forecaster.record_cache_read("small", 10_000, 0)
    assert forecaster.forecast("code", 1, warm, now=1.0).warm_tokens["small"] < 100
    assert forecaster.forecast("code", 1, warm, now=101.0).warm_tokens == {}
