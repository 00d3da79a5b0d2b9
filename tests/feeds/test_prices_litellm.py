"""Price sheets and limits from entries of litellm's list."""

import json
from typing import Any

import msgspec
import pytest

from gateway.feeds import prices_litellm
from gateway.feeds.prices_litellm import ListedModel
from gateway.values.catalog import Rates


def listed(**entry: Any) -> ListedModel:
    model = prices_litellm.listed_model({"m": msgspec.Raw(json.dumps(entry).encode())}, "m")
    assert model is not None
    return model


def rates(**entry: Any) -> Rates:
    price_sheet = listed(input_cost_per_token=1e-6, output_cost_per_token=2e-6, **entry).price_sheet
    assert price_sheet is not None
    return price_sheet.base


def test_a_model_is_found_by_its_exact_name_only():
    price_list = {"gpt-x": msgspec.Raw(b"{}")}
    assert prices_litellm.listed_model(price_list, "gpt-x") is not None
    assert prices_litellm.listed_model(price_list, "GPT-X") is None
    assert prices_litellm.listed_model(price_list, "gpt") is None


def test_prices_are_exact_nano_dollars_per_million_tokens():
    sheet = listed(input_cost_per_token=2.5e-07, output_cost_per_token=1.1e-06).price_sheet
    assert sheet is not None
    assert (sheet.base.input, sheet.base.output) == (250_000_000, 1_100_000_000)
    assert sheet.source == "litellm:m"


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"input_cost_per_token": 1e-6},
        {"output_cost_per_token": 1e-6},
        {"input_cost_per_token": 0, "output_cost_per_token": 1e-6},
        {"input_cost_per_token": True, "output_cost_per_token": 1e-6},
        {"input_cost_per_token": -1e-6, "output_cost_per_token": 1e-6},
        {"input_cost_per_token": "1e-6", "output_cost_per_token": 1e-6},
    ],
    ids=["empty", "no output price", "no input price", "free input", "boolean", "negative", "text"],
)
def test_without_both_prices_a_model_is_unpriced_and_not_free(entry):
    assert listed(**entry).price_sheet is None


def test_free_output_is_a_price():
    sheet = listed(input_cost_per_token=1e-6, output_cost_per_token=0).price_sheet
    assert sheet is not None and sheet.base.output == 0


def test_cache_and_reasoning_cost_the_same_as_input_and_output_unless_they_are_listed():
    plain = rates()
    assert (plain.cached_input, plain.cache_write, plain.cache_write_long) == (plain.input,) * 3
    assert plain.reasoning == plain.output
    own = rates(
        cache_read_input_token_cost=1e-7,
        cache_creation_input_token_cost=1.25e-6,
        output_cost_per_reasoning_token=3e-6,
    )
    assert (own.cached_input, own.cache_write, own.reasoning) == (100_000_000, 1_250_000_000, 3_000_000_000)
    assert own.cache_write_long == own.cache_write


def test_prices_above_a_context_length_are_tiers_in_ascending_order():
    sheet = listed(
        input_cost_per_token=1e-6, output_cost_per_token=2e-6,
        input_cost_per_token_above_200k_tokens=4e-6, output_cost_per_token_above_200k_tokens=8e-6,
        input_cost_per_token_above_128k_tokens=2e-6,
    ).price_sheet  # fmt: skip
    assert sheet is not None
    assert [(above, tier.input, tier.output) for above, tier in sheet.rate_tiers] == [
        (128_000, 2_000_000_000, 2_000_000_000),
        (200_000, 4_000_000_000, 8_000_000_000),
    ]


def test_limits_and_abilities_are_unknown_where_the_list_says_nothing():
    model = listed(max_input_tokens=272_000, max_output_tokens=0, supports_vision=True)
    assert (model.context_tokens, model.output_tokens) == (272_000, None)
    assert (model.supports_vision, model.supports_tools, model.supports_reasoning) == (True, None, None)
    assert listed(max_input_tokens="8192").context_tokens is None


def test_the_shipped_list_is_read_once():
    assert prices_litellm.load() is prices_litellm.load()
    assert len(prices_litellm.load()) > 1000
