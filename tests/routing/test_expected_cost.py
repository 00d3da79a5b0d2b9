"""Expected cost: staying on a warm cache against switching."""

import pytest

from gateway.routing.expected_cost import CostInputs, SessionForecast, call_cost_nusd, expected_cost_nusd
from gateway.values.catalog import PriceSheet, Rates

USD = 1_000_000_000


def sheet(input_usd: float, cached_usd: float, output_usd: float, steps=()) -> PriceSheet:
    def rates(factor: float) -> Rates:
        price = int(input_usd * factor * USD)
        return Rates(
            input=price, output=int(output_usd * factor * USD), cached_input=int(cached_usd * factor * USD), cache_write=price,
            reasoning=int(output_usd * factor * USD), cache_write_long=price,
        )  # fmt: skip

    return PriceSheet(base=rates(1), source="test", rate_tiers=tuple((above, rates(factor)) for above, factor in steps))


SMALL, FRONTIER = sheet(1, 0.1, 5), sheet(3, 0.3, 15)


def totals(tokens: int, warm: int, forecast: SessionForecast, small_warm: int = 0) -> tuple[float, float]:
    """(small tier, frontier with `warm` tokens in its cache): expected costs, nUSD."""
    up = CostInputs(sheet=FRONTIER, output_tokens=300, warm_tokens=warm)
    down = CostInputs(sheet=SMALL, output_tokens=300, warm_tokens=small_warm)
    return expected_cost_nusd(down, [up], tokens, forecast), expected_cost_nusd(up, [], tokens, forecast)


@pytest.mark.parametrize(
    "tokens, warm, forecast, stays",
    [
        (100_000, 100_000, SessionForecast(calls_left=0), True),
        (100_000, 100_000, SessionForecast(calls_left=30), False),
        (100_000, 0, SessionForecast(calls_left=0), False),
        (500, 500, SessionForecast(calls_left=0), False),
        (100_000, 100_000, SessionForecast(calls_left=5, escalation_probability=0.9, deescalation_probability=0.0), True),
    ],
    ids=[
        "one call left, long warm history: stay", "many calls left: the cheaper tier",
        "no warm cache: the cheaper tier", "history too short to be cached: the cheaper tier",
        "escalation expected at once: stay",
    ],
)  # fmt: skip
def test_stay_or_switch(tokens, warm, forecast, stays):
    small, frontier = totals(tokens, warm, forecast)
    assert (frontier < small) is stays


def test_long_context_rates_apply():
    stepped = CostInputs(sheet=sheet(1, 0.1, 5, steps=((200_000, 2.0),)), output_tokens=300)
    assert call_cost_nusd(stepped, 200_001) > 1.9 * call_cost_nusd(stepped, 200_000)


def test_failed_calls_are_paid_again():
    reliable, failing = (
        CostInputs(sheet=SMALL, output_tokens=10),
        CostInputs(sheet=SMALL, output_tokens=10, failure_rate=0.5),
    )
    assert call_cost_nusd(failing, 1000) == pytest.approx(1.5 * call_cost_nusd(reliable, 1000))
