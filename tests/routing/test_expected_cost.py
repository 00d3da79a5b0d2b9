"""Staying or changing: what a switch throws away, and what staying pays."""

import pytest

from gateway.routing.expected_cost import CostInputs, SessionForecast, call_cost_nusd, expected_cost_nusd
from gateway.routing.session_forecast import CachedPrefix, SessionForecaster
from gateway.values.catalog import PriceSheet, Rates

USD = 1_000_000_000


def sheet(given: float, cached: float, written: float, steps=()) -> PriceSheet:
    def rates(factor: float) -> Rates:
        price = int(given * factor * USD)
        return Rates(
            input=price, output=int(written * factor * USD), cached_input=int(cached * factor * USD), cache_write=price,
            reasoning=int(written * factor * USD), cache_write_long=price,
        )  # fmt: skip

    return PriceSheet(base=rates(1), source="test", rate_tiers=tuple((above, rates(factor)) for above, factor in steps))


SMALL, FRONTIER = sheet(1, 0.1, 5), sheet(3, 0.3, 15)


def totals(tokens: int, warm: int, outlook: SessionForecast, small_warm: int = 0) -> tuple[float, float]:
    """(going down to the small one, staying on the frontier where so many tokens are warm), nUSD."""
    up = CostInputs(sheet=FRONTIER, output_tokens=300, warm_tokens=warm)
    down = CostInputs(sheet=SMALL, output_tokens=300, warm_tokens=small_warm)
    return expected_cost_nusd(down, [up], tokens, outlook), expected_cost_nusd(up, [], tokens, outlook)


@pytest.mark.parametrize(
    "tokens, warm, outlook, stays",
    [
        (100_000, 100_000, SessionForecast(calls_left=0), True),
        (100_000, 100_000, SessionForecast(calls_left=30), False),
        (100_000, 0, SessionForecast(calls_left=0), False),
        (500, 500, SessionForecast(calls_left=0), False),
        (100_000, 100_000, SessionForecast(calls_left=5, escalation_probability=0.9, deescalation_probability=0.0), True),
    ],
    ids=[
        "for one call a long warm history is worth staying for", "for many calls the cheaper tokens win",
        "where nothing is warm nothing is lost", "a short history is never cached",
        "what will have to come back at once stays",
    ],
)  # fmt: skip
def test_stay_or_switch(tokens, warm, outlook, stays):
    goes_down, stays_up = totals(tokens, warm, outlook)
    assert (stays_up < goes_down) is stays


def test_long_context_prices_count():
    cliff = CostInputs(sheet=sheet(1, 0.1, 5, steps=((200_000, 2.0),)), output_tokens=300)
    assert call_cost_nusd(cliff, 200_001) > 1.9 * call_cost_nusd(cliff, 200_000)


def test_failing_calls_are_paid_again():
    once, often = CostInputs(sheet=SMALL, output_tokens=10), CostInputs(sheet=SMALL, output_tokens=10, failure_rate=0.5)
    assert call_cost_nusd(often, 1000) == pytest.approx(1.5 * call_cost_nusd(once, 1000))


def test_prospects_are_learnt():
    book = SessionForecaster()
    before = book.forecast("code", 0, {}, now=0.0)
    for _ in range(50):
        for number in range(1, 21):
            book.record_call(
                "code", number, high=number > 10, before=None if number == 1 else number > 11, grown_tokens=100
            )
    after = book.forecast("code", 0, {}, now=0.0)
    assert 17 <= after.calls_left <= 20 > before.calls_left
    assert book.forecast("code", 19, {}, now=0.0).calls_left < 3
    assert after.escalation_probability == pytest.approx((50 + 2) / (500 + 20), abs=0.02)
    assert after.growth_tokens_per_call == pytest.approx(100, rel=0.1)


def test_a_cache_that_gives_nothing_back_is_not_counted_on():
    book = SessionForecaster()
    warm = {"small": CachedPrefix(tokens=10_000, expires_at=100.0)}
    assert book.forecast("code", 1, warm, now=1.0).warm_tokens["small"] == 8000
    for _ in range(30):
        book.record_cache_read("small", 10_000, 0)
    assert book.forecast("code", 1, warm, now=1.0).warm_tokens["small"] < 100
    assert book.forecast("code", 1, warm, now=101.0).warm_tokens == {}
