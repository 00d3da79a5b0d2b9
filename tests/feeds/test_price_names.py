"""Names of models, and the entries of the bundled list that they are priced by."""

import pytest

from gateway.feeds import price_names, prices_litellm

AZURE = "https://acme.openai.azure.com/openai/v1"
VERTEX = "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5/publishers/anthropic/models"
BEDROCK = "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1"
PLAIN = "https://llm.example.com/v1"


@pytest.mark.parametrize(
    "model, base_url, listed",
    [
        ("gpt-5", PLAIN, "gpt-5"),
        ("gpt-5", "https://api.openai.com/v1", "gpt-5"),
        ("openai/gpt-5", PLAIN, "gpt-5"),
        ("anthropic/claude-sonnet-4-5", PLAIN, "claude-sonnet-4-5"),
        ("ft:gpt-4o-2024-08-06:acme::abc", PLAIN, "ft:gpt-4o-2024-08-06"),
        ("gpt-5", AZURE, "azure/gpt-5"),
        ("azure/gpt-5", "", "azure/gpt-5"),
        ("azure/eu/gpt-5", "", "azure/eu/gpt-5"),
        ("eu/gpt-5", AZURE, "azure/eu/gpt-5"),
        ("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (
            "bedrock/converse/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        (
            "bedrock/invoke/anthropic.claude-sonnet-4-5-20250929-v1:0",
            "",
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        (
            "converse/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
            BEDROCK,
            "eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        (
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
            PLAIN,
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("sa.anthropic.claude-sonnet-4-5-20250929-v1:0", PLAIN, "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0:200k", BEDROCK, "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("us.anthropic.claude-sonnet-4-5-20250929", BEDROCK, "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("us.amazon.nova-pro-v1:0", BEDROCK, "us.amazon.nova-pro-v1:0"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            BEDROCK,
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0",
            "",
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("claude-sonnet-4-5@20250929", VERTEX, "vertex_ai/claude-sonnet-4-5@20250929"),
        ("claude-sonnet-4-5@20250929", PLAIN, "vertex_ai/claude-sonnet-4-5@20250929"),
        ("vertex_ai/claude-sonnet-4-5@latest", "", "vertex_ai/claude-sonnet-4-5"),
        ("google/gemini-2.5-pro", VERTEX, "gemini-2.5-pro"),
        ("publishers/google/models/gemini-2.5-pro", "", "gemini-2.5-pro"),
        (
            "projects/p/locations/us-east5/publishers/anthropic/models/claude-sonnet-4-5",
            VERTEX,
            "vertex_ai/claude-sonnet-4-5",
        ),
        ("models/gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta/openai", "gemini/gemini-2.5-pro"),
        ("google/gemini-2.5-pro", "https://openrouter.ai/api/v1", "gemini/gemini-2.5-pro"),
        ("openai/gpt-oss-120b", "https://api.groq.com/openai/v1", "groq/openai/gpt-oss-120b"),
        ("deepseek-v4-pro", "https://api.deepseek.com", "deepseek/deepseek-v4-pro"),
        ("sonar", "https://api.perplexity.ai", "perplexity/sonar"),
    ],
)
def test_a_name_finds_its_price(model, base_url, listed):
    price_list = prices_litellm.load()
    assert listed in price_list, "the case is of the list"
    assert price_names.listed_name(price_list.__contains__, model, base_url) == listed


@pytest.mark.parametrize(
    "model, base_url",
    [
        ("gpt-5-turbo-nonesuch", PLAIN),
        ("GPT-5", PLAIN),
        ("my-deployment", AZURE),
        ("llama-3.3-70b-versatile", PLAIN),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abcdef123456", BEDROCK),
        ("claude-sonnet", PLAIN),
        ("", PLAIN),
    ],
)
def test_a_name_that_no_rule_leads_to_an_entry_has_no_price(model, base_url):
    assert price_names.listed_name(prices_litellm.load().__contains__, model, base_url) is None


def test_the_providers_own_entry_comes_before_that_of_the_maker():
    price_list = {"gpt-5", "azure/gpt-5", "bedrock/eu-west-1/anthropic.claude-v2:1", "anthropic.claude-v2:1"}
    assert price_names.listed_name(price_list.__contains__, "gpt-5", AZURE) == "azure/gpt-5"
    assert (
        price_names.listed_name(price_list.__contains__, "anthropic.claude-v2:1", BEDROCK)
        == "bedrock/eu-west-1/anthropic.claude-v2:1"
    )
    assert (
        price_names.listed_name(price_list.__contains__, "bedrock/us-west-2/anthropic.claude-v2:1")
        == "anthropic.claude-v2:1"
    )


@pytest.mark.parametrize(
    "base_url, location, region",
    [
        ("https://api.openai.com/v1", "", ""),
        ("https://eu.api.openai.com/v1", "", "eu"),
        ("https://us.api.openai.com/v1", "", "us"),
        ("https://aiplatform.googleapis.com/v1/projects/p/locations/global/endpoints/openapi", "", ""),
        ("https://us-east5-aiplatform.googleapis.com/v1", "", "vertex"),
        ("https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu", "", "vertex"),
        ("", "europe-west4", "vertex"),
        ("", "global", ""),
        ("", "", ""),
    ],
)
def test_regional_endpoints_are_known_by_their_host_or_location(base_url, location, region):
    assert price_names.region_of(base_url, location) == region
