"""Price sheets from entries of litellm's list: steps, tiers, audio, images, tools, regions and hours."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.accounting import pricing
from gateway.feeds import price_entry, prices_litellm
from gateway.values.catalog import ModalityRates, PriceSheet
from gateway.values.units import NUSD_PER_USD
from gateway.values.usage import FurtherCall, PriceTerms, Usage

PLAIN: dict[str, Any] = {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6}


def sheet(**entry: Any) -> PriceSheet:
    found = price_entry.price_sheet({**PLAIN, **entry}, "test")
    assert found is not None
    return found


def listed(model: str) -> PriceSheet:
    found = prices_litellm.listed_model(prices_litellm.load(), model)
    assert found is not None and found.price_sheet is not None
    return found.price_sheet


def usd(model: str, usage: Usage, **options: Any) -> float:
    return pricing.charge(listed(model), usage, **options) / NUSD_PER_USD


def test_a_tier_that_the_list_prices_has_a_sheet_of_its_own():
    found = sheet(input_cost_per_token_flex=5e-7, output_cost_per_token_flex=2e-6, cache_read_input_token_cost=1e-7)
    assert set(found.service_tiers) == {"flex"}
    flex = found.service_tiers["flex"].base
    assert (flex.input, flex.output, flex.cached_input) == (500_000_000, 2_000_000_000, 100_000_000)


def test_fast_is_what_the_multiplier_says_else_priority():
    assert sheet(provider_specific_entry={"fast": 2.0}).service_tiers["fast"].base.input == 2_000_000_000
    tiers = sheet(input_cost_per_token_priority=3e-6).service_tiers
    assert tiers["fast"] is tiers["priority"]
    assert "fast" not in sheet().service_tiers


def test_a_step_of_the_standard_tier_raises_other_tiers_in_proportion():
    found = sheet(input_cost_per_token_above_200k_tokens=2e-6, input_cost_per_token_flex=5e-7)
    (above, rates), *others = found.service_tiers["flex"].rate_tiers
    assert (above, rates.input, others) == (200_000, 1_000_000_000, [])


def test_a_tiers_own_step_counts_for_that_tier_alone():
    found = sheet(
        input_cost_per_token_priority=2e-6,
        input_cost_per_token_above_272k_tokens_priority=5e-6,
        output_cost_per_token_above_272k_tokens_priority=9e-6,
    )
    assert found.rate_tiers == ()
    ((above, rates),) = found.service_tiers["priority"].rate_tiers
    assert (above, rates.input, rates.output) == (272_000, 5_000_000_000, 9_000_000_000)


def test_xai_charges_a_step_from_its_number_of_tokens_on():
    steps = {"input_cost_per_token_above_200k_tokens": 2e-6}
    assert sheet(**steps, litellm_provider="xai").rates_for(200_000).input == 2_000_000_000
    assert sheet(**steps, litellm_provider="gemini").rates_for(200_000).input == 1_000_000_000


def test_ranges_of_input_are_steps_and_take_output_from_the_entry_where_they_have_none():
    found = sheet(
        tiered_pricing=[
            {"range": [32_000, 128_000], "input_cost_per_token": 2e-6, "output_cost_per_token": 6e-6},
            {"range": [0, 32_000], "input_cost_per_token": 1e-6, "cache_read_input_token_cost": 5e-7},
        ]
    )
    assert (found.base.cached_input, found.base.output) == (500_000_000, 4_000_000_000)
    assert [(above, rates.input, rates.cached_input) for above, rates in found.rate_tiers] == [
        (32_000, 2_000_000_000, 2_000_000_000)
    ]


def test_an_hour_in_the_cache_costs_the_same_multiple_above_a_step_unless_it_is_listed():
    entry = {
        "cache_creation_input_token_cost": 1.25e-6,
        "cache_creation_input_token_cost_above_1hr": 2e-6,
        "cache_creation_input_token_cost_above_200k_tokens": 2.5e-6,
        "input_cost_per_token_above_200k_tokens": 2e-6,
    }
    assert sheet(**entry).rates_for(200_001).cache_write_long == 4_000_000_000
    entry["cache_creation_input_token_cost_above_1hr_above_200k_tokens"] = 3e-6
    assert sheet(**entry).rates_for(200_001).cache_write_long == 3_000_000_000


def test_reasoning_costs_what_output_costs_above_a_step():
    found = sheet(output_cost_per_reasoning_token=8e-6, output_cost_per_token_above_200k_tokens=6e-6)
    assert found.rates_for(200_001).reasoning == 12_000_000_000


def test_audio_and_images_have_prices_of_their_own_only_where_they_differ_from_text():
    assert sheet(input_cost_per_audio_token=1e-6).base.modalities is None
    found = sheet(
        input_cost_per_audio_token=4e-5, output_cost_per_audio_token=8e-5, cache_read_input_token_cost=5e-7
    ).base.modalities
    assert found == ModalityRates(
        input_audio=40_000_000_000, cached_audio=500_000_000, input_image=1_000_000_000, cached_image=500_000_000,
        output_audio=80_000_000_000, output_image=4_000_000_000,
    )  # fmt: skip


def test_cached_audio_costs_what_audio_costs_where_no_price_of_cached_input_is_listed():
    found = sheet(input_cost_per_audio_token=4e-5).base.modalities
    assert found is not None and found.cached_audio == found.input_audio


def test_all_output_of_an_image_model_is_an_image():
    entry = {"input_cost_per_token": 5e-6, "output_cost_per_image_token": 4e-5, "mode": "image_generation"}
    found = price_entry.price_sheet(entry, "test")
    assert found is not None and found.base.output == 40_000_000_000


def test_a_model_of_embeddings_needs_no_price_of_output():
    found = price_entry.price_sheet({"input_cost_per_token": 1e-7, "mode": "embedding"}, "test")
    assert found is not None and found.base.output == 0


def test_cached_input_of_fireworks_is_half_price_where_none_is_listed():
    assert sheet(litellm_provider="fireworks_ai").base.cached_input == 500_000_000
    assert sheet(litellm_provider="fireworks_ai", cache_read_input_token_cost=2e-7).base.cached_input == 200_000_000
    assert sheet(litellm_provider="together_ai").base.cached_input == 1_000_000_000


def test_a_search_costs_by_the_size_of_its_context():
    found = sheet(
        search_context_cost_per_query={
            "search_context_size_low": 0.01, "search_context_size_medium": 0.025, "search_context_size_high": 0.05,
        }
    )  # fmt: skip
    usage = Usage(input=0, output=0, server_tools=(("web_search", 2),))
    charges = [
        pricing.charge(found, usage, terms=PriceTerms(search_context_size=size))
        for size in ("", "low", "medium", "high")
    ]
    assert charges == [50_000_000, 20_000_000, 50_000_000, 100_000_000]


def test_gemini_2_charges_a_grounded_prompt_and_gemini_3_each_query():
    searched = Usage(input=0, output=0, server_tools=(("web_search", 3),))
    per_prompt = sheet(litellm_provider="gemini", search_context_cost_per_query={"search_context_size_medium": 0.035})
    per_query = sheet(
        litellm_provider="gemini",
        search_context_cost_per_query={"search_context_size_medium": 0.014},
        web_search_billing_unit="per_query",
    )
    assert (pricing.charge(per_prompt, searched), pricing.charge(per_query, searched)) == (35_000_000, 42_000_000)


def test_a_request_to_sonar_costs_its_fee_without_a_reported_search():
    assert usd("perplexity/sonar", Usage(input=0, output=0)) == 0.005
    assert usd("perplexity/sonar", Usage(input=0, output=0), terms=PriceTerms(search_context_size="high")) == 0.012


def test_a_region_that_an_answer_names_multiplies_tokens_and_not_tools():
    found = sheet(provider_specific_entry={"us": 1.1}, litellm_provider="anthropic")
    usage = Usage(input=1_000_000, output=0, inference_geo="us", server_tools=(("web_search", 1),))
    assert pricing.charge(found, usage) == 1_100_000_000 + 10_000_000


OFF_PEAK = {
    "input_cost_per_token": 5e-7,
    "windows": [
        {"hours_utc": ["00:00-01:00", "22:00-00:00"], "weekdays": [1, "tue"]},
        {"hours_utc": "00:00-00:00", "weekdays": [6]},
    ],
}


@pytest.mark.parametrize(
    "at, nusd",
    [
        (datetime(2026, 11, 30, 0, 59, tzinfo=UTC), 500),
        (datetime(2026, 11, 30, 1, 0, tzinfo=UTC), 1_000),
        (datetime(2026, 12, 1, 22, 0, tzinfo=UTC), 500),
        (datetime(2026, 12, 2, 22, 0, tzinfo=UTC), 1_000),
        (datetime(2026, 12, 5, 23, 59, tzinfo=UTC), 500),
        (datetime(2026, 12, 6, 0, 0, tzinfo=UTC), 1_000),
    ],
    ids=["Monday in the window", "Monday at its end", "Tuesday in the window", "Wednesday", "Saturday", "Sunday"],
)
def test_cheaper_hours_are_those_of_the_utc_week(at, nusd):
    assert pricing.charge(sheet(off_peak_pricing=OFF_PEAK), Usage(input=1, output=0), at=at.timestamp()) == nusd


def test_weekdays_are_those_of_the_named_calendar():
    entry = {"off_peak_pricing": {**OFF_PEAK, "weekday_timezone": "Asia/Shanghai"}}
    # Friday 17:00 UTC is Saturday in Shanghai.
    friday = datetime(2026, 12, 4, 17, tzinfo=UTC).timestamp()
    assert pricing.charge(sheet(**entry), Usage(input=1, output=0), at=friday) == 500


def test_a_regional_endpoint_multiplies_every_price_of_tokens():
    entry = {**PLAIN, "regional_processing_uplift_multiplier_eu": 1.1, "regional_endpoint_uplift_multiplier": 1}
    assert price_entry.region_permille(entry) == {"eu": 1100}
    found = price_entry.scaled(sheet(input_cost_per_token_priority=2e-6, input_cost_per_audio_token=3e-6), 1100)
    assert found.base.input == 1_100_000_000
    assert found.base.modalities is not None and found.base.modalities.input_audio == 3_300_000_000
    assert found.service_tiers["priority"].base.input == 2_200_000_000


# What recorded answers cost at the bundled prices.
@pytest.mark.parametrize(
    "model, usage, charge",
    [
        # OpenAI, an answer in speech: 17 x 2.5 + 110 x 10 + 482 x 64 USD per million.
        ("gpt-audio", Usage(input=17, output=592, output_audio=482), 0.0319905),
        # OpenAI, text to speech (recorded by Envoy AI Gateway): 12 of 18 tokens are audio.
        ("gpt-4o-mini-audio-preview-2024-12-17", Usage(input=22, output=18, output_audio=12), 0.0002469),
        # Anthropic, five searches at 10 USD per thousand.
        ("claude-sonnet-4-5", Usage(input=100, output=100, server_tools=(("web_search", 5),)), 0.0518),
        # Anthropic (recorded by Pydantic AI), one search; what it fetched is tokens.
        ("claude-sonnet-4-5", Usage(input=7744, output=353, server_tools=(("web_search", 1), ("web_fetch", 0))), 0.038527),
        # Anthropic (recorded by Pydantic AI), a compaction of its own length before the answer.
        (
            "claude-sonnet-4-6",
            Usage(
                input=55416, output=133,
                further_calls=(FurtherCall(model="", kind="compaction", usage=Usage(input=55196, output=125)),),
            ),
            0.168243,
        ),
        # OpenAI, an image from text and an image.
        ("gpt-image-1", Usage(input=100, output=1000, input_image=50, output_image=1000), 0.04075),
        # DeepSeek, without a fee for its cache.
        ("deepseek/deepseek-v4-pro", Usage(input=1_000_000, output=0, cached_input=1_000_000), 0.044),
        # Alibaba, exactly at the end of a range and one token above (ranges of the bundled list).
        ("dashscope/qwen-flash", Usage(input=256_000, output=0), 0.0128),
        ("dashscope/qwen-flash", Usage(input=256_001, output=0), 0.06400025),
        # OpenAI, priority above 272,000 tokens has a price of its own.
        ("gpt-6.1-sol", Usage(input=1000, output=0, service_tier="priority"), 0.004),
    ],
    ids=[
        "speech", "a little speech", "five searches", "one search", "compaction", "image", "cache read", "end of a range",
        "above a range", "priority",
    ],
)  # fmt: skip
def test_recorded_usage_costs_what_the_provider_bills(model, usage, charge):
    assert usd(model, usage) == pytest.approx(charge, abs=1e-9)


def test_a_call_within_a_call_has_its_own_length_of_input():
    """Compaction of a long conversation is above a step, the answer to the compacted one is below it."""
    compaction = Usage(input=250_000, output=1_000)
    usage = Usage(
        input=251_000, output=1_100, further_calls=(FurtherCall(model="", kind="compaction", usage=compaction),)
    )
    model = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    assert usd(model, usage) == pytest.approx(usd(model, compaction) + usd(model, Usage(input=1_000, output=100)))
    assert usd(model, compaction) > 250_000 * 3e-6 + 1_000 * 15e-6
