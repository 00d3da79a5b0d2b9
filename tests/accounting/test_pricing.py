"""Prices: exact, monotone, additive, and equal to litellm's own arithmetic."""

import os
import warnings
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.accounting import pricing
from gateway.feeds import prices_litellm
from gateway.values.catalog import ModalityRates, OffPeak, PriceSheet, Rates
from gateway.values.units import NUSD_PER_USD
from gateway.values.usage import SERVICE_TIERS, FurtherCall, FurtherCallTerms, PriceTerms, Usage

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
AUDIO = ModalityRates(
    input_audio=40_000_000_000,
    cached_audio=2_500_000_000,
    input_image=5_000_000_000,
    cached_image=500_000_000,
    output_audio=64_000_000_000,
    output_image=20_000_000_000,
)
RICH = PriceSheet(
    base=replace(PLAIN.base, modalities=AUDIO),
    source="test",
    rate_tiers=((1000, replace(CLIFF.rate_tiers[0][1], modalities=AUDIO)),),
    service_tiers={
        "priority": PriceSheet(base=replace(PLAIN.base, input=500_000_000, output=4_000_000_000), source="test"),
        "flex": PriceSheet(base=replace(PLAIN.base, input=125_000_000, output=1_000_000_000), source="test"),
    },
    off_peak=OffPeak(
        sheet=PriceSheet(base=replace(PLAIN.base, input=100_000_000), source="test"),
        minutes=((600, 1440), (7200, 10080)),
    ),
    geo_permille={"us": 1100},
    tool_nusd={"web_search": 10_000_000, "web_search_high": 50_000_000, "web_fetch": 0},
    call_nusd=5_000_000,
    further_models={"adviser": CLIFF},
)
SHEETS = {"plain": PLAIN, "step": CLIFF, "every axis": RICH}
COUNTS = st.integers(0, 2_000_000)


@st.composite
def plain_usages(draw: st.DrawFn) -> Usage:
    input_tokens, output_tokens = draw(COUNTS), draw(COUNTS)
    cached = draw(st.integers(0, input_tokens))
    write = draw(st.integers(0, input_tokens - cached))
    audio = draw(st.integers(0, input_tokens))
    image = draw(st.integers(0, input_tokens - audio))
    cached_audio = draw(st.integers(0, min(audio, cached)))
    output_audio = draw(st.integers(0, output_tokens))
    return Usage(
        input=input_tokens,
        output=output_tokens,
        cached_input=cached,
        cache_write=write,
        cache_write_long=draw(st.integers(0, write)),
        reasoning=draw(st.integers(0, output_tokens)),
        input_audio=audio,
        input_image=image,
        cached_audio=cached_audio,
        cached_image=draw(st.integers(0, min(image, cached - cached_audio))),
        output_audio=output_audio,
        output_image=draw(st.integers(0, output_tokens - output_audio)),
        service_tier=draw(st.sampled_from(SERVICE_TIERS)),
        inference_geo=draw(st.sampled_from(["", "us", "global"])),
        server_tools=tuple(
            (unit, draw(st.integers(0, 20))) for unit in ("web_search", "web_fetch") if draw(st.booleans())
        ),
    )


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usage of a call, sometimes with calls of the same model and of another one within it."""
    usage = draw(plain_usages())
    calls = []
    for model in draw(st.lists(st.sampled_from(["", "adviser", "unknown"]), max_size=3)):
        inner = draw(plain_usages())
        calls.append(FurtherCall(model=model, kind="message", usage=inner))
        if not model:
            usage = structs.replace(usage, input=usage.input + inner.input, output=usage.output + inner.output)
    return structs.replace(usage, further_calls=tuple(calls))


def terms_of(usage: Usage) -> PriceTerms:
    """The narrowest terms under which the usage can occur."""
    return PriceTerms(
        service_tiers=("", usage.service_tier),
        inference_geo=usage.inference_geo,
        server_tools=usage.server_tools,
        has_audio_input=True,
        has_audio_output=True,
        has_image_output=True,
        further_calls=tuple(FurtherCallTerms(model=call.model, kind=call.kind) for call in usage.further_calls),
    )


@pytest.mark.parametrize("price_sheet", SHEETS.values(), ids=SHEETS)
@given(usage=plain_usages(), more=st.integers(0, 10_000))
def test_more_tokens_never_cost_less(price_sheet, usage, more):
    dearer = structs.replace(usage, input=usage.input + more, output=usage.output + more)
    assert pricing.charge(price_sheet, dearer) >= pricing.charge(price_sheet, usage)


@given(first=plain_usages(), second=plain_usages())
def test_charges_add_up_except_for_rounding(first, second):
    counts = ("input", "output", "cached_input", "cache_write", "cache_write_long", "reasoning")
    both = Usage(**{name: getattr(first, name) + getattr(second, name) for name in counts})
    assert abs(pricing.charge(PLAIN, both) - pricing.charge(PLAIN, first) - pricing.charge(PLAIN, second)) <= 1


@given(first=plain_usages(), second=plain_usages())
def test_a_further_call_costs_what_it_costs_alone(first, second):
    second = structs.replace(
        second, service_tier=first.service_tier, inference_geo=first.inference_geo, server_tools=()
    )
    both = structs.replace(first, further_calls=(FurtherCall(model="adviser", kind="advisor_message", usage=second),))
    alone = pricing.charge(RICH, first) + pricing.charge(CLIFF, second)
    assert abs(pricing.charge(RICH, both) - alone) <= 1


@pytest.mark.parametrize("price_sheet", SHEETS.values(), ids=SHEETS)
@given(usage=usages(), slack=st.integers(0, 10_000), at=st.none() | st.floats(0, 4e9))
def test_no_usage_within_its_bounds_costs_more_than_the_worst_case(price_sheet, usage, slack, at):
    inner = [call.usage for call in usage.further_calls]
    input_max = max([usage.input, *(call.input for call in inner)]) + slack
    output_max = max([usage.output, *(call.output for call in inner)]) + slack
    most = pricing.worst_case(price_sheet, input_max, output_max, long_cache=True, terms=terms_of(usage))
    assert pricing.charge(price_sheet, usage, at=at) <= most


@given(usage=usages())
def test_holds_at_the_terms_of_a_request_are_never_below_those_of_a_plain_one(usage):
    terms = terms_of(usage)
    assert pricing.worst_case(RICH, usage.input, usage.output, terms=terms) >= pricing.worst_case(
        RICH, usage.input, usage.output
    )
    assert pricing.usual_case(RICH, usage.input, usage.cached_input, usage.output, terms=terms) >= pricing.usual_case(
        RICH, usage.input, usage.cached_input, usage.output
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


UNIT_PRICES = {"image": 20, "image:low:1024x1024": 10, "image:high:1024x1024": 40, "image::512x512": 15, "second": 7}


@pytest.mark.parametrize(
    "unit, price, most",
    [
        ("second", 7, 7),
        ("page", None, None),
        ("image", 20, 40),
        ("image:high:1024x1024", 40, 40),
        ("image:low:512x512", 15, 15),
        ("image:low:", 20, 20),
        ("image::1024x1024", 20, 40),
        ("image:max:2048x2048", 20, 20),
    ],
)
def test_a_piece_costs_what_its_quality_and_size_do_and_is_held_at_the_dearest_left_open(unit, price, most):
    assert pricing.unit_nusd(UNIT_PRICES, unit) == price
    assert pricing.unit_nusd_max(UNIT_PRICES, unit) == most


def test_a_tool_of_which_all_calls_are_one_fee_is_charged_once():
    sheet = replace(PLAIN, tool_nusd={"code_execution": 30}, tools_once=frozenset({"code_execution"}))
    assert pricing.charge(sheet, Usage(input=0, output=0, server_tools=(("code_execution", 5),))) == 30


def test_what_has_no_price_is_named():
    usage = Usage(
        input=1,
        output=1,
        service_tier="ultrafast",
        server_tools=(("web_search", 1), ("image_generation", 2), ("computer_use", 0)),
        further_calls=(FurtherCall(model="nonesuch", kind="advisor_message", usage=Usage(input=9, output=9)),),
    )
    assert pricing.unpriced_parts(RICH, usage) == ("ultrafast", "image_generation", "nonesuch")
    assert pricing.unpriced_terms(RICH, PriceTerms(service_tiers=("flex", "batch", "own"))) == ("own",)
    assert pricing.unpriced_parts(PLAIN, Usage(input=1, output=1, service_tier="flex")) == ()


def test_an_answer_that_names_no_tier_costs_the_dearest_that_was_asked_for_where_answers_name_none():
    usage, asked = Usage(input=1_000_000, output=0), PriceTerms(service_tiers=("priority", ""))
    named, unnamed = replace(RICH, call_nusd=0), replace(RICH, call_nusd=0, names_tiers=False)
    assert pricing.charge(named, usage, terms=asked) == 500_000_000
    assert pricing.charge(unnamed, usage, terms=asked) == 500_000_000
    assert pricing.charge(replace(unnamed, rate_tiers=()), usage, terms=asked) == 500_000_000
    assert pricing.charge(replace(named, rate_tiers=()), usage, terms=asked) == 250_000_000
    assert (
        pricing.charge(replace(unnamed, rate_tiers=()), usage, terms=PriceTerms(service_tiers=("flex", "")))
        == 250_000_000
    )


@pytest.mark.parametrize("price_sheet", SHEETS.values(), ids=SHEETS)
@given(usage=plain_usages(), long_cache=st.booleans())
def test_the_short_way_of_requests_that_ask_for_nothing_gives_the_same_amounts(price_sheet, usage, long_cache):
    standard = PriceTerms()
    counts = usage.input, usage.output
    assert pricing.worst_case(price_sheet, *counts, long_cache=long_cache) == pricing.worst_case(
        price_sheet, *counts, long_cache=long_cache, terms=standard
    )
    usual = usage.input, usage.cached_input, usage.output
    assert pricing.usual_case(price_sheet, *usual, long_cache=long_cache) == pricing.usual_case(
        price_sheet, *usual, long_cache=long_cache, terms=standard
    )
    assert pricing.charge(price_sheet, usage) == pricing.charge(price_sheet, usage, terms=standard)
