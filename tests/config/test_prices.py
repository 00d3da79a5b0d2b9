"""Price sheets of a routing file: its own keys, the bundled list, and what a provider may call besides."""

import pytest

from gateway.accounting import pricing
from gateway.config.load import parse
from gateway.values.catalog import Deployment, ModalityRates
from gateway.values.errors import ConfigError
from gateway.values.usage import PriceTerms

FILE = """
version: 1
access: open
providers:
  far: {{base_url: "{url}", dialect: {dialect}}}
deployments:
  a: {{provider: far, tier: small, {deployment}}}
{more}
routes:
  default: {{candidates: [a]}}
"""


def deployment(
    text: str, *, url: str = "https://llm.example.com/v1", dialect: str = "openai", more: str = ""
) -> Deployment:
    content = FILE.format(deployment=text, url=url, dialect=dialect, more=more)
    return parse(content, "p.yaml", {})[0].deployments["a"]


def price_sheet(text: str, **options: str):
    found = deployment(text, **options).price_sheet
    assert found is not None
    return found


def test_tiers_steps_and_hours_have_prices_of_their_own():
    found = price_sheet(
        "model: own, price: {input: 1, output: 4, tiers: {priority: {input: 2, output: 8,"
        " steps: [{above_input_tokens: 1000, input: 3, output: 9}]}},"
        " off_peak: {hours_utc: ['22:00-06:00'], weekdays: [sat], input: 0.5, output: 2}}"
    )
    priority = found.service_tiers["priority"]
    assert (priority.base.output, priority.rates_for(1001).input) == (8_000_000_000, 3_000_000_000)
    assert found.off_peak is not None and found.off_peak.minutes == ((7200, 7560), (8520, 8640))
    assert found.off_peak.sheet.base.input == 500_000_000


def test_audio_and_images_cost_as_text_where_the_file_has_no_price():
    found = price_sheet("model: own, price: {input: 1, output: 4, audio: {input: 40}, image: {output: 30}}")
    assert found.base.modalities == ModalityRates(
        input_audio=40_000_000_000, cached_audio=40_000_000_000, output_audio=4_000_000_000,
        input_image=1_000_000_000, cached_image=1_000_000_000, output_image=30_000_000_000,
    )  # fmt: skip
    cached = price_sheet("model: own, price: {input: 1, cached_input: 0.1, output: 4, audio: {input: 40}}")
    assert cached.base.modalities is not None and cached.base.modalities.cached_audio == 100_000_000


def test_tools_regions_and_fees_are_of_the_list_where_the_file_has_only_prices_of_tokens():
    found = price_sheet(
        "model: claude-opus-5-5, price: {input: 1, output: 4, tools: {web_search: 0.02, own_tool: 0.5}}"
    )
    assert (found.tool_nusd["web_search"], found.tool_nusd["own_tool"]) == (20_000_000, 500_000_000)
    assert (found.tool_nusd["web_fetch"], found.geo_permille) == (0, {"us": 1100})
    own = price_sheet("model: own, price: {input: 1, output: 4, regions: {us: 1.25}, request: 0.005}")
    assert (own.geo_permille, own.call_nusd, dict(own.tool_nusd)) == ({"us": 1250}, 5_000_000, {})


def test_a_regional_endpoint_costs_what_the_list_says():
    sheets = [
        price_sheet("model: gpt-5.4", url=f"https://{host}/v1") for host in ("api.openai.com", "eu.api.openai.com")
    ]
    assert sheets[1].base.input * 10 == sheets[0].base.input * 11


def test_the_providers_host_finds_the_entry():
    assert price_sheet("model: gpt-5", url="https://acme.openai.azure.com/openai/v1").source == "litellm:azure/gpt-5"


def test_prices_by_the_piece_replace_those_of_the_list():
    assert deployment("model: whisper-1").unit_prices == {"second": 100_000}
    assert deployment("model: whisper-1, unit_prices: {second: 0.0002}").unit_prices == {"second": 200_000}
    azure = deployment("model: dall-e-3", url="https://acme.openai.azure.com/openai/v1").unit_prices
    assert (azure["image"], azure["image:hd:1024x1792"]) == (44_000_032, 132_000_016)
    assert deployment("model: own, unit_prices: {image: 0.04}").unit_prices == {"image": 40_000_000}


def test_a_provider_that_calls_further_models_has_their_prices():
    found = price_sheet(
        "model: claude-sonnet-4-6",
        url="https://api.anthropic.com",
        dialect="anthropic",
        more="  b: {provider: far, tier: frontier, model: claude-opus-4-8, price: {input: 7, output: 9}}",
    )
    assert found.further_models["claude-opus-4-8"].base.input == 7_000_000_000
    assert found.further_models["claude-haiku-4-5"].base.input == 1_000_000_000
    assert "claude-next" not in found.further_models
    assert price_sheet("model: gpt-5").further_models["gpt-image-1"].base.output == 40_000_000_000


@pytest.mark.parametrize(
    "text, problem",
    [
        ("price: {input: 1, output: 2, tiers: {quick: {input: 1, output: 2}}}", "'quick' must be"),
        ("price: {input: 1, output: 2, off_peak: {hours_utc: ['24:00-25:00'], input: 1, output: 2}}", "16:30-00:30"),
        ("price: {input: 1, output: 2, off_peak: {hours_utc: [], input: 1, output: 2}}", "hours_utc"),
        ("price: {input: 1, output: 2, tools: {web_search: -1}}", "web_search"),
        ("price: {input: 1, output: 2, tools: {web_search: 0.0000000001}}", "nano-dollar"),
        ("price: {input: 1, output: 2, regions: {us: 0}}", "us"),
        ("unit_prices: {picture: 1}", "picture"),
        (
            "price: {input: 1, output: 2, tiers: {flex: {input: 1, output: 2, steps: [{above_input_tokens: 2, input: 1,"
            " output: 1}, {above_input_tokens: 1, input: 1, output: 1}]}}}",
            "ascending order",
        ),
    ],
)
def test_what_a_price_cannot_be_is_a_problem(text, problem):
    with pytest.raises(ConfigError, match=problem):
        deployment(f"model: own, {text}")


def test_what_the_file_prices_is_held_at_the_dearest_tier():
    found = price_sheet("model: own, price: {input: 1, output: 0, tiers: {priority: {input: 3, output: 0}}}")
    terms = PriceTerms(service_tiers=("priority", ""))
    assert pricing.worst_case(found, 1_000_000, 0, terms=terms) == 3_000_000_000
