"""Which tiers, regions and tools reach a deployment, and that no usage within them costs more than was held."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.accounting import pricing
from gateway.config.load import parse
from gateway.dialects import PARSERS
from gateway.dialects.translation import Translator
from gateway.routing import asked_terms
from gateway.routing.circuit_breaker import BreakerState
from gateway.routing.plan import PlanInputs, make_plan
from gateway.routing.request_features import request_features
from gateway.values.catalog import Deployment, PriceSheet, Rates, Route, Tier
from gateway.values.plan import Attempt, Plan, Refusal
from gateway.values.request import Request
from gateway.values.service_tiers import TierPolicy
from gateway.values.usage import FurtherCall, Usage
from tests.snapshots import snapshot

_HEADS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": "hi"},
    "messages": {"messages": [{"role": "user", "content": "hi"}]},
}


def rates(usd_per_mtok: int) -> Rates:
    price = usd_per_mtok * 1_000_000_000
    return Rates(
        input=price,
        output=5 * price,
        cached_input=price // 10,
        cache_write=price + price // 4,
        reasoning=5 * price,
        cache_write_long=2 * price,
    )


SHEET = PriceSheet(
    base=rates(2),
    source="test",
    rate_tiers=((2_000, rates(3)),),
    service_tiers={
        "priority": PriceSheet(base=rates(4), source="test"),
        "flex": PriceSheet(base=rates(1), source="test"),
        "fast": PriceSheet(base=rates(12), source="test"),
    },
    geo_permille={"us": 1100},
    tool_nusd={"web_search": 10_000_000, "web_search_high": 50_000_000, "code_execution": 4_000_000},
    further_models={"advisor": PriceSheet(base=rates(9), source="test")},
)


def request(dialect: str = "chat", **fields: Any) -> Request:
    body = {"model": "small", **_HEADS[dialect], "max_tokens": 100, **fields}
    if dialect == "responses":
        body["max_output_tokens"] = body.pop("max_tokens")
    return PARSERS[dialect](json.dumps(body).encode())


def deployment(dialect: str = "chat", sheet: PriceSheet | None = SHEET) -> Deployment:
    return replace(snapshot().deployments["small"], price_sheet=sheet, unit_prices={}, dialects=(dialect,))


def planned(parsed: Request, at: Deployment, *policies: TierPolicy) -> Plan | Refusal:
    route = Route(name="small", candidates=(at,), is_auto=False, reference=at, context_tokens_max=at.context_tokens_max)
    inputs = PlanInputs(breaker_state=lambda _: BreakerState(), translator=Translator(parsed), tier_policies=policies)
    return make_plan(route, parsed, request_features(parsed), inputs)


def attempt(parsed: Request, at: Deployment | None = None, *policies: TierPolicy) -> Attempt:
    plan = planned(parsed, at or deployment(parsed.dialect), *policies)
    assert isinstance(plan, Plan)
    return plan.attempts[0]


def test_the_deployment_of_these_tests_is_small() -> None:
    assert deployment().tier is Tier.small


@pytest.mark.parametrize(
    ("fields", "sheet", "policies", "tiers", "stripped"),
    [
        ({"service_tier": "priority"}, SHEET, (), ("priority", ""), ()),
        ({"service_tier": "flex"}, SHEET, (), ("flex", ""), ()),
        # A cheaper tier without rates of its own costs no more than was held.
        ({"service_tier": "flex"}, replace(SHEET, service_tiers={}), (), ("flex", ""), ()),
        ({"service_tier": "priority"}, replace(SHEET, service_tiers={}), (), ("",), ("service_tier",)),
        ({"service_tier": "ultrafast"}, SHEET, (), ("",), ("service_tier",)),
        ({"service_tier": "performance"}, SHEET, (), ("",), ("service_tier", "speed")),
        ({"speed": "fast"}, SHEET, (), ("fast", ""), ()),
        ({"speed": "fast"}, replace(SHEET, service_tiers={}), (), ("",), ("speed",)),
        ({"service_tier": "priority"}, None, (), ("priority", ""), ()),
        ({"service_tier": "priority"}, SHEET, (TierPolicy(actions={"priority": "strip"}),), ("",), ("service_tier",)),
        ({"service_tier": "priority"}, SHEET, (TierPolicy(actions={"*": "strip"}),), ("",), ("service_tier",)),
        (
            {"service_tier": "priority"},
            SHEET,
            (TierPolicy(actions={"*": "strip", "priority": "allow"}), TierPolicy()),
            ("priority", ""),
            (),
        ),
        (
            {"service_tier": "priority"},
            SHEET,
            (TierPolicy(actions={"priority": "allow"}), TierPolicy(actions={"priority": "strip"})),
            ("",),
            ("service_tier",),
        ),
    ],
    ids=[
        "a tier with a price is allowed",
        "a cheaper tier is allowed",
        "a cheaper tier without a price is allowed",
        "a dearer tier without a price is stripped",
        "a tier that the sheet lacks is stripped",
        "an unknown tier is stripped from wherever it was asked for",
        "a fast mode with a price is allowed",
        "a fast mode without a price is stripped",
        "an unpriced deployment receives any tier",
        "a tier is stripped by name",
        "every tier is stripped",
        "a name precedes the star",
        "the stricter of route and key applies",
    ],
)
def test_what_reaches_a_deployment(
    fields: dict[str, Any],
    sheet: PriceSheet | None,
    policies: tuple[TierPolicy, ...],
    tiers: tuple[str, ...],
    stripped: tuple[str, ...],
) -> None:
    made = attempt(request(**fields), deployment(sheet=sheet), *policies)
    assert (made.price_terms.service_tiers, made.stripped_fields) == (tiers, stripped)


@pytest.mark.parametrize(
    ("fields", "policy", "code", "param"),
    [
        (
            {"service_tier": "fast"},
            TierPolicy(actions={"priority": "refuse"}),
            "service_tier_not_allowed",
            "service_tier",
        ),
        ({"speed": "fast"}, TierPolicy(actions={"*": "refuse"}), "service_tier_not_allowed", "speed"),
        ({"inference_geo": "us"}, TierPolicy(inference_geo="refuse"), "inference_geo_not_allowed", "inference_geo"),
    ],
    ids=["a tier by its other name", "a speed", "a region"],
)
def test_what_is_refused_names_the_field(fields: dict[str, Any], policy: TierPolicy, code: str, param: str) -> None:
    refused = planned(request(**fields), deployment(), TierPolicy(), policy)
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.param) == (code, param)


@pytest.mark.parametrize("fields", [{"service_tier": "auto"}, {"service_tier": "default"}, {"speed": "standard"}, {}])
def test_the_standard_tier_is_never_refused(fields: dict[str, Any]) -> None:
    assert isinstance(planned(request(**fields), deployment(), TierPolicy(actions={"*": "refuse"})), Plan)


def test_a_region_is_stripped_where_the_policy_says_so() -> None:
    made = attempt(request("messages", inference_geo="us"), None, TierPolicy(inference_geo="strip"))
    assert (made.price_terms.inference_geo, made.stripped_fields) == ("", ("inference_geo",))


def test_a_translated_request_asks_for_no_tier() -> None:
    made = attempt(request("messages", speed="fast"), deployment("chat"))
    assert made.price_terms.service_tiers == ("",)
    assert made.hold_nusd == attempt(request("messages", speed="slow"), deployment("chat")).hold_nusd


@pytest.mark.parametrize(
    ("dialect", "fields", "cause"),
    [
        ("responses", {"tools": [{"type": "file_search"}]}, "no price of file_search at 'small'"),
        ("responses", {"tools": [{"type": "image_generation"}]}, "no price of gpt-image-1 at 'small'"),
        ("messages", {"tools": [{"type": "advisor_20260301", "model": "other"}]}, "no price of other at 'small'"),
        ("chat", {"models": ["other"]}, "no price of other at 'small'"),
        ("messages", {"inference_geo": "mars"}, "no price of mars at 'small'"),
    ],
    ids=["a tool", "an image tool", "an advisor's model", "a fallback", "a region"],
)
def test_what_has_no_price_is_unpriced(dialect: str, fields: dict[str, Any], cause: str) -> None:
    made = attempt(request(dialect, **fields))
    assert (made.hold_nusd, made.unpriced) == (None, cause)


def test_an_allowed_tier_without_a_price_is_unpriced() -> None:
    made = attempt(request(service_tier="ultrafast"), None, TierPolicy(actions={"ultrafast": "allow"}))
    assert (made.hold_nusd, made.unpriced) == (None, "no price of ultrafast at 'small'")


def test_a_model_without_a_price_is_unpriced() -> None:
    assert attempt(request(), deployment(sheet=None)).unpriced == "no price of model 'sim-small' at 'small'"


def test_five_searches_are_held() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]
    with_search, without = attempt(request("messages", tools=tools)), attempt(request("messages", tools=[]))
    assert with_search.hold_nusd is not None and without.hold_nusd is not None
    assert with_search.hold_nusd >= without.hold_nusd + 5 * 10_000_000
    assert with_search.added_tokens == (42_500, 0)


def test_a_summary_of_the_conversation_is_held_as_a_second_call() -> None:
    edits = {"edits": [{"type": "compact_20260112"}]}
    parsed = request("messages", context_management=edits)
    made, features = attempt(parsed), request_features(parsed)
    assert made.hold_nusd is not None
    alone = pricing.worst_case(SHEET, features.input_tokens_max, 100)
    assert made.hold_nusd >= alone + pricing.worst_case(SHEET, features.input_tokens_max, 100)
    assert made.added_tokens == (features.input_tokens_max + 100, 100)


def test_a_usual_call_runs_each_tool_once_and_no_further_model() -> None:
    tools = [{"type": "web_search_20250305", "max_uses": 5}, {"type": "advisor_20260301", "model": "advisor"}]
    usual = asked_terms.usual_terms(request("messages", tools=tools, speed="fast").price_terms)
    assert (usual.server_tools, usual.further_calls) == ((("web_search", 1),), ())
    assert usual.service_tiers == ("fast", "")


_REQUESTS = [
    request(service_tier="priority"),
    request(service_tier="flex"),
    request("messages", speed="fast", inference_geo="us"),
    request("messages", tools=[{"type": "web_search_20250305", "max_uses": 3}, {"type": "code_execution_20260120"}]),
    request("responses", tools=[{"type": "web_search", "search_context_size": "high"}], max_tool_calls=2),
    request("messages", context_management={"edits": [{"type": "compact_20260112"}]}, speed="fast"),
    request("messages", tools=[{"type": "advisor_20260301", "model": "advisor", "max_uses": 2, "max_tokens": 1_024}]),
    request("messages", fallbacks=[{"model": "advisor"}]),
    request(web_search_options={}, service_tier="priority"),
]


@st.composite
def possible_usages(draw: st.DrawFn) -> tuple[Request, Usage]:
    """A request, and a usage that its terms allow: a served tier, at most its tools, further calls and tokens."""
    parsed = draw(st.sampled_from(_REQUESTS))
    terms, features = parsed.price_terms, request_features(parsed)
    input_max, output_max = features.input_tokens_max + terms.tool_tokens_max, parsed.max_output_tokens or 0
    own_input, own_output = draw(st.integers(0, input_max)), draw(st.integers(0, output_max))
    further = []
    for call in terms.further_calls:
        for _ in range(draw(st.integers(0, call.calls_max))):
            usage = Usage(
                input=draw(st.integers(0, input_max + output_max)),
                output=draw(st.integers(0, call.output_tokens_max or output_max)),
            )
            further.append(FurtherCall(model=call.model, kind=call.kind, usage=usage))
    same = [call.usage for call in further if not call.model]
    cached = draw(st.integers(0, own_input))
    return parsed, Usage(
        input=own_input + sum(usage.input for usage in same),
        output=own_output + sum(usage.output for usage in same),
        cached_input=cached,
        cache_write=draw(st.integers(0, own_input - cached)),
        service_tier=draw(st.sampled_from(terms.service_tiers)),
        inference_geo=draw(st.sampled_from(["", terms.inference_geo])),
        server_tools=tuple((unit, draw(st.integers(0, most))) for unit, most in terms.server_tools),
        further_calls=tuple(further),
    )


@given(possible_usages())
@settings(deadline=None)
def test_no_usage_within_the_terms_costs_more_than_was_held(case: tuple[Request, Usage]) -> None:
    parsed, usage = case
    made = attempt(parsed)
    assert made.hold_nusd is not None
    assert pricing.charge(SHEET, usage, terms=made.price_terms) <= made.hold_nusd
    added_input, added_output = made.added_tokens
    assert usage.input <= request_features(parsed).input_tokens_max + added_input
    assert usage.output <= made.output_tokens_max + added_output


def test_requests_of_the_property_ask_for_something() -> None:
    assert all(asked_terms.AS_USUAL.terms != parsed.price_terms for parsed in _REQUESTS)


_LISTED = """
version: 1
access: open
providers:
  anthropic: {dialect: anthropic, base_url: "http://127.0.0.1:1"}
  openai: {base_url: "http://127.0.0.1:1/v1"}
deployments:
  sonnet: {provider: anthropic, model: claude-sonnet-4-5, tier: small}
  opus: {provider: anthropic, model: claude-opus-4-8, tier: small}
  gpt: {provider: openai, model: gpt-5, tier: small}
routes:
  all: {candidates: [sonnet, opus, gpt]}
"""


@pytest.mark.parametrize(
    ("name", "dialect", "fields", "least", "most"),
    [
        # Five searches at 10 USD per thousand, beside 0.0018 USD of tokens (claude-sonnet-4-5, bundled list).
        (
            "sonnet",
            "messages",
            {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]},
            50_000_000 + 1_800_000,
            500_000_000,
        ),
        # Claude Opus 4.8 in fast mode: 10 and 50 USD per million tokens (platform.claude.com, fast mode, 2026-11).
        ("opus", "messages", {"speed": "fast", "max_tokens": 100_000}, 5_000_000_000, 5_010_000_000),
        (
            "opus",
            "messages",
            {"speed": "fast", "inference_geo": "us", "max_tokens": 100_000},
            5_500_000_000,
            5_510_000_000,
        ),
        # GPT-5 at the priority tier: 2.50 and 20 USD per million tokens (openai.com, fast mode, 2026-11).
        ("gpt", "responses", {"service_tier": "fast", "max_tokens": 100_000}, 2_000_000_000, 2_001_000_000),
        ("gpt", "chat", {"service_tier": "priority", "max_tokens": 100_000}, 2_000_000_000, 2_001_000_000),
        # At half the price, but the standard tier may serve it.
        ("gpt", "chat", {"service_tier": "flex", "max_tokens": 100_000}, 1_000_000_000, 1_001_000_000),
    ],
    ids=["five searches", "fast mode", "fast mode in a region", "OpenAI's fast tier", "priority", "flex"],
)
def test_holds_at_listed_prices(name: str, dialect: str, fields: dict[str, Any], least: int, most: int) -> None:
    at = parse(_LISTED, "t", {})[0].deployments[name]
    made = attempt(request(dialect, **fields), at)
    assert made.hold_nusd is not None and made.stripped_fields == ()
    assert least <= made.hold_nusd <= most
