"""The decision: which deployments, in which order, and why."""

import json

import pytest

from gateway.config.load import parse
from gateway.dialects import chat
from gateway.dialects.translation import Translator
from gateway.routing.circuit_breaker import BreakerState
from gateway.routing.plan import PlanInputs
from gateway.routing.plan import make_plan as decide_in
from gateway.routing.request_features import request_features
from gateway.routing.tier_target import TierTargets
from gateway.values.plan import Classification, Plan, Refusal
from tests.snapshots import BASE_CONFIG, ENV, snapshot


def request(**fields: object):
    return chat.parse(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], **fields}).encode())


def verdict(complexity: float) -> Classification:
    return Classification(complexity=complexity, task_type="other", confidence=0.0, reason="test")


def decide(at, route: str, asked, found: Classification, standing):
    target = TierTargets().choose(at.routes[route], found, "default", at) if at.routes[route].is_auto else None
    situation = PlanInputs(
        energy_policy=at.energy_policy.for_task_type(found.task_type),
        breaker_state=standing,
        translator=Translator(asked),
        aim=target,
    )
    return decide_in(at.routes[route], asked, request_features(asked), situation)


def plan(
    complexity: float = 0.1,
    *,
    route: str = "auto",
    resting: tuple[str, ...] = (),
    more: str = "",
    small: str = "",
    **fields: object,
):
    at, asked = snapshot(more=more, small=small), request(**fields)
    return decide(at, route, asked, verdict(complexity), standing(resting))


def standing(resting: tuple[str, ...] = ()):
    return lambda name: BreakerState(deprioritized=name in resting)


def names(context: Plan | Refusal) -> list[str]:
    assert isinstance(context, Plan)
    return [attempt.deployment.name for attempt in context.attempts]


PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"complexity": 0.1}, ["small", "frontier"]),
        ({"complexity": 0.25}, ["small", "frontier"]),
        ({"complexity": 0.9}, ["frontier", "small"]),
        ({"complexity": 0.1, "resting": ("small",)}, ["frontier", "small"]),
        ({"complexity": 0.9, "route": "small"}, ["small"]),
        ({"complexity": 0.1, "more": "tiers: {small: {max_complexity: 0.05}}"}, ["frontier", "small"]),
        ({"complexity": 0.1, "small": ", vision: false", "messages": PICTURE}, ["frontier"]),
        ({"complexity": 0.1, "small": ", tools: false", "tools": [{"function": {"name": "f"}}]}, ["frontier"]),
        ({"complexity": 0.1, "small": ", json_schema: false", "response_format": {"type": "json_object"}}, ["frontier"]),
        ({"complexity": 0.1, "small": ", context_tokens: 10", "messages": [{"role": "user", "content": "x" * 400}]}, ["frontier"]),
        ({"complexity": 0.9, "more": "energy: {max_wh_per_request: 0.05}"}, ["small"]),
    ],
    ids=[
        "simple goes to the small tier", "the ceiling itself still suits", "hard goes to the frontier",
        "a resting deployment is tried last", "a plain route has no choice", "the operator's ceiling decides",
        "pictures need vision", "tools need tools", "structured output needs a model that can", "a context that is too short is struck", "the energy cap strikes the frontier",
    ],
)  # fmt: skip
def test_the_order_of_attempts(given, expected):
    assert names(plan(**given)) == expected


def test_what_is_struck_says_why():
    context = plan(small=", vision: false", messages=PICTURE)
    assert isinstance(context, Plan)
    assert context.excluded == {"small": "no vision"}


def test_when_nobody_can_the_refusal_says_why_for_each():
    context = plan(route="small", small=", tools: false", tools=[{"function": {"name": "f"}}])
    assert isinstance(context, Refusal)
    assert "small: no tools" in context.message


def test_an_estimate_never_strikes_the_roomiest_deployment():
    long = [{"role": "user", "content": "x" * 4000}]
    assert names(plan(route="small", small=", context_tokens: 10", messages=long)) == ["small"]


@pytest.mark.parametrize(
    "fields, tokens",
    [({}, 4000), ({"max_tokens": 50}, 50), ({"max_tokens": 50, "n": 3}, 150), ({"max_tokens": 9999}, 4000)],
)
def test_the_hold_covers_all_choices_up_to_the_model_s_own_limit(fields, tokens):
    context = plan(**fields)
    assert isinstance(context, Plan)
    first = context.attempts[0]
    assert first.output_tokens_max == tokens
    asked = request_features(request(**fields))
    assert first.hold_nusd == -(-(asked.input_tokens_max * 250_000_000 + tokens * 2_000_000_000) // 10**6)
    assert asked.input_tokens_max >= asked.input_tokens


GREEN = "  green: {provider: far, model: g, tier: small, price: {input: 0.2501, output: 2.0001}, energy: {active_params_b: 8}, grams_co2e_per_kwh: 0}\nroutes:\n  auto: {candidates: [small, green,"


@pytest.mark.parametrize("price, first", [(0, "small"), (100, "green")])
def test_a_carbon_price_turns_the_order_within_a_tier(price, first):
    more = f"energy: {{carbon_price_usd_per_tonne: {price}}}"
    text = BASE_CONFIG.format(more=more, small=", grams_co2e_per_kwh: 2000", near="http://a/v1", far="http://b/v1")
    at = parse(text.replace("routes:\n  auto: {candidates: [small,", GREEN), "test.yaml", ENV)[0]
    asked = request()
    context = decide(at, "auto", asked, verdict(0.1), standing())
    assert names(context)[0] == first


def test_an_assumed_output_limit_does_not_lower_what_the_caller_asks_for():
    text = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1").replace(
        ", output_tokens: 4000", ""
    )
    at, asked = parse(text, "test.yaml", ENV)[0], request(max_tokens=100_000)
    context = decide(at, "small", asked, verdict(0.1), standing())
    assert isinstance(context, Plan)
    assert context.attempts[0].output_tokens_max == 100_000
