"""The plan: which deployments, in which order, and why."""

import json

import pytest

from gateway.config.load import parse
from gateway.dialects import chat
from gateway.dialects.translation import Translator
from gateway.routing.circuit_breaker import BreakerState
from gateway.routing.plan import PlanInputs, make_plan
from gateway.routing.request_features import request_features
from gateway.routing.tier_target import TierTargets
from gateway.values.plan import Classification, Plan, Refusal
from tests.snapshots import BASE_CONFIG, ENV, snapshot


def request(**fields: object):
    return chat.parse(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], **fields}).encode())


def classification(complexity: float) -> Classification:
    return Classification(complexity=complexity, task_type="other", confidence=0.0, reason="test")


def plan_in(config, route: str, parsed, classified: Classification, breaker_state):
    auto = config.routes[route].is_auto
    target = TierTargets().choose(config.routes[route], classified, "default", config) if auto else None
    inputs = PlanInputs(
        energy_policy=config.energy_policy.for_task_type(classified.task_type),
        breaker_state=breaker_state,
        translator=Translator(parsed),
        tier_target=target,
    )
    return make_plan(config.routes[route], parsed, request_features(parsed), inputs)


def plan(
    complexity: float = 0.1,
    *,
    route: str = "auto",
    deprioritized: tuple[str, ...] = (),
    more: str = "",
    small: str = "",
    **fields: object,
):
    config = snapshot(more=more, small=small)
    return plan_in(config, route, request(**fields), classification(complexity), breakers(deprioritized))


def breakers(deprioritized: tuple[str, ...] = ()):
    return lambda name: BreakerState(deprioritized=name in deprioritized)


def names(planned: Plan | Refusal) -> list[str]:
    assert isinstance(planned, Plan)
    return [attempt.deployment.name for attempt in planned.attempts]


PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"complexity": 0.1}, ["small", "frontier"]),
        ({"complexity": 0.25}, ["small", "frontier"]),
        ({"complexity": 0.9}, ["frontier", "small"]),
        ({"complexity": 0.1, "deprioritized": ("small",)}, ["frontier", "small"]),
        ({"complexity": 0.9, "route": "small"}, ["small"]),
        ({"complexity": 0.1, "more": "tiers: {small: {max_complexity: 0.05}}"}, ["frontier", "small"]),
        ({"complexity": 0.1, "small": ", vision: false", "messages": PICTURE}, ["frontier"]),
        ({"complexity": 0.1, "small": ", tools: false", "tools": [{"function": {"name": "f"}}]}, ["frontier"]),
        ({"complexity": 0.1, "small": ", json_schema: false", "response_format": {"type": "json_object"}}, ["frontier"]),
        ({"complexity": 0.1, "small": ", context_tokens: 10", "messages": [{"role": "user", "content": "x" * 400}]}, ["frontier"]),
        ({"complexity": 0.9, "more": "energy: {max_wh_per_request: 0.05}"}, ["small"]),
    ],
    ids=[
        "simple goes to the small tier", "the ceiling itself is inclusive", "hard goes to the frontier",
        "a deprioritized deployment is tried last", "a route that is not auto has one order", "a configured ceiling applies",
        "images need vision", "tools need tool support", "structured output needs its support",
        "a planned that is too short is excluded", "the energy cap excludes the frontier",
    ],
)  # fmt: skip
def test_the_order_of_attempts(arguments, expected):
    assert names(plan(**arguments)) == expected


def test_excluded_candidates_have_a_reason():
    planned = plan(small=", vision: false", messages=PICTURE)
    assert isinstance(planned, Plan)
    assert planned.excluded == {"small": "no vision"}


def test_the_refusal_names_the_reason_of_each_candidate():
    planned = plan(route="small", small=", tools: false", tools=[{"function": {"name": "f"}}])
    assert isinstance(planned, Refusal)
    assert "small: no tools" in planned.message


def test_a_token_estimate_never_excludes_the_longest_context():
    long = [{"role": "user", "content": "x" * 4000}]
    assert names(plan(route="small", small=", context_tokens: 10", messages=long)) == ["small"]


@pytest.mark.parametrize(
    "fields, tokens",
    [({}, 4000), ({"max_tokens": 50}, 50), ({"max_tokens": 50, "n": 3}, 150), ({"max_tokens": 9999}, 4000)],
)
def test_the_hold_covers_all_choices_up_to_the_model_limit(fields, tokens):
    planned = plan(**fields)
    assert isinstance(planned, Plan)
    first = planned.attempts[0]
    assert first.output_tokens_max == tokens
    features = request_features(request(**fields))
    assert first.hold_nusd == -(-(features.input_tokens_max * 250_000_000 + tokens * 2_000_000_000) // 10**6)
    assert features.input_tokens_max >= features.input_tokens


GREEN = "  green: {provider: far, model: g, tier: small, price: {input: 0.2501, output: 2.0001}, energy: {active_params_b: 8}, grams_co2e_per_kwh: 0}\nroutes:\n  auto: {candidates: [small, green,"


@pytest.mark.parametrize("price, first", [(0, "small"), (100, "green")])
def test_a_carbon_price_changes_the_order_within_a_tier(price, first):
    more = f"energy: {{carbon_price_usd_per_tonne: {price}}}"
    text = BASE_CONFIG.format(more=more, small=", grams_co2e_per_kwh: 2000", near="http://a/v1", far="http://b/v1")
    config = parse(text.replace("routes:\n  auto: {candidates: [small,", GREEN), "test.yaml", ENV)[0]
    assert names(plan_in(config, "auto", request(), classification(0.1), breakers()))[0] == first


def test_an_assumed_output_limit_does_not_lower_the_requested_one():
    text = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1").replace(
        ", output_tokens: 4000", ""
    )
    config = parse(text, "test.yaml", ENV)[0]
    planned = plan_in(config, "small", request(max_tokens=100_000), classification(0.1), breakers())
    assert isinstance(planned, Plan)
    assert planned.attempts[0].output_tokens_max == 100_000
