"""Prices: exact, monotone, additive, and equal to litellm's own arithmetic."""

import os
import warnings

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting import pricing
from gateway.feeds import prices_litellm
from gateway.values.catalog import PriceSheet, Rates
from gateway.values.units import NUSD_PER_USD
from gateway.values.usage import Usage

PLAIN = PriceSheet(
    base=Rates(
        input=250_000_000,
        output=2_000_000_000,
        cached_input=25_000_000,
        cache_write=312_500_000,
        cache_write_long=500_000_000,
        reasoning=2_000_000_000,
    ),
    source="test",
)
CLIFF = PriceSheet(
    base=PLAIN.base,
    source="test",
    rate_tiers=(
        (
            1000,
            Rates(
                input=500_000_000,
                output=3_000_000_000,
                cached_input=50_000_000,
                cache_write=625_000_000,
                cache_write_long=1_000_000_000,
                reasoning=3_000_000_000,
            ),
        ),
    ),
)
COUNTS = st.integers(0, 2_000_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    input_tokens, output_tokens = draw(COUNTS), draw(COUNTS)
    cached = draw(st.integers(0, input_tokens))
    return Usage(
        input=input_tokens,
        output=output_tokens,
        cached_input=cached,
        cache_write=draw(st.integers(0, input_tokens - cached)),
        reasoning=draw(st.integers(0, output_tokens)),
    )


@given(usage=usages(), more=st.integers(0, 10_000))
def test_more_tokens_never_cost_less(usage, more):
    for price_sheet in (PLAIN, CLIFF):
        dearer = Usage(
            input=usage.input + more,
            output=usage.output + more,
            cached_input=usage.cached_input,
            cache_write=usage.cache_write,
            reasoning=usage.reasoning,
        )
        assert pricing.charge(price_sheet, dearer) >= pricing.charge(price_sheet, usage)


@given(first=usages(), second=usages())
def test_charges_add_up_except_for_rounding(first, second):
    both = Usage(
        input=first.input + second.input, output=first.output + second.output, cached_input=first.cached_input + second.cached_input,
        cache_write=first.cache_write + second.cache_write, reasoning=first.reasoning + second.reasoning,
    )  # fmt: skip
    assert abs(pricing.charge(PLAIN, both) - pricing.charge(PLAIN, first) - pricing.charge(PLAIN, second)) <= 1


@given(usage=usages(), slack=st.integers(0, 10_000))
def test_no_usage_within_its_bounds_costs_more_than_the_worst_case(usage, slack):
    for price_sheet in (PLAIN, CLIFF):
        assert pricing.charge(price_sheet, usage) <= pricing.worst_case(
            price_sheet, usage.input + slack, usage.output + slack
        )


def test_the_long_context_rate_applies_to_the_whole_request_strictly_above_its_threshold():
    at, above = Usage(input=1000, output=100), Usage(input=1001, output=100)
    assert pricing.charge(CLIFF, at) == 250_000 + 200_000
    assert pricing.charge(CLIFF, above) == 500_500 + 300_000


@pytest.fixture(scope="module")
def litellm():
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("litellm")


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-5", "gpt-5-mini", "claude-haiku-5-5", "gpt-6.1-sol"])
@pytest.mark.parametrize("tokens", [(100, 20, 0), (99_000, 500, 50_000), (150_000, 500, 0), (300_000, 10, 1_000)])
def test_the_charge_equals_litellms_cost_per_token(litellm, model, tokens):
    input_tokens, output_tokens, cached = tokens
    listed = prices_litellm.listed_model(prices_litellm.load(), model)
    assert listed is not None and listed.price_sheet is not None
    prompt, completion = litellm.cost_per_token(
        model=model, prompt_tokens=input_tokens, completion_tokens=output_tokens, cache_read_input_tokens=cached
    )
    ours = pricing.charge(listed.price_sheet, Usage(input=input_tokens, output=output_tokens, cached_input=cached))
    assert ours == pytest.approx((prompt + completion) * NUSD_PER_USD, rel=1e-9, abs=1)


def test_a_model_without_a_price_is_unpriced_and_never_free():
    entries = {"free": {"input_cost_per_token": 0, "output_cost_per_token": 0}, "none": {"mode": "chat"}}
    price_list = {name: msgspec.Raw(msgspec.json.encode(entry)) for name, entry in entries.items()}
    for name in price_list:
        listed = prices_litellm.listed_model(price_list, name)
        assert listed is not None and listed.price_sheet is None
    assert prices_litellm.listed_model(price_list, "nearly") is None
