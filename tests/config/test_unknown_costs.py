"""Deployments without a price or a model size, and the budgets that refuse their calls."""

import pytest

from gateway.config.load import parse
from gateway.values.errors import ConfigError

CONFIG = """version: 1
access: keys
keys:
  - {{id: k, team: t, secret: {{env: KEY}}{key}}}
providers:
  up: {{base_url: "http://127.0.0.1:1/v1"}}
deployments:
  known: {{provider: up, model: known, tier: small, price: {{input: 1, output: 1}}, energy: {{active_params_b: 8}}}}
  unknown:
    {{provider: up, model: unpublished, tier: medium{more}}}
routes:
  a: {{candidates: [known]}}
  b: {{candidates: [{candidate}]{tiers}}}
{budgets}
"""
ENV = {"KEY": "a-secret-of-some-length"}
MONEY = "budgets: {{all: {{limit: {{usd: 5}}, window: day{more}}}}}"


def config(budgets: str = "", *, more: str = "", key: str = "", candidate: str = "unknown", tiers: str = "") -> str:
    return CONFIG.format(budgets=budgets, more=more, key=key, candidate=candidate, tiers=tiers)


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "r.yaml", ENV, is_strict=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        (config(MONEY.format(more="")), "'all' (USD)"),
        (config(MONEY.format(more=", scope: {tier: medium}")), "'all' (USD)"),
        (config(MONEY.format(more=", scope: {route: b}")), "'all' (USD)"),
        (config(MONEY.format(more=', scope: {model: "*"}')), "'all' (USD)"),
        (config("sessions: {caps: {usd: 5}}"), "'session-usd' (USD)"),
        (config(key=", caps: {usd: 1}"), "'session-usd' (USD)"),
        (config("budgets: {energy: {limit: {wh: 5}, window: day}}"), "'energy' (Wh)"),
        (config("budgets: {carbon: {limit: {g_co2e: 5}, window: day}}"), "'carbon' (gCO2e)"),
    ],
    ids=["everyone", "its tier", "its route", "each model", "session cap", "cap of a key", "energy", "carbon"],
)
def test_a_deployment_that_a_budget_refuses_is_a_problem_of_the_check(text: str, budget: str) -> None:
    message = problems(text)
    assert message.startswith("r.yaml:10:5: deployment 'unknown' has no ")
    assert f"budget {budget} refuses every" in message and "'known'" not in message


def test_the_gateway_starts_with_it_all_the_same() -> None:
    _, notes = parse(config(MONEY.format(more="")), "r.yaml", ENV)
    assert any("r.yaml:10:5: deployment 'unknown' has no known price" in note for note in notes)


@pytest.mark.parametrize(
    "text",
    [
        config(),
        config("budgets: {all: {limit: {tokens: 5}, window: day}}"),
        config(MONEY.format(more=", mode: shadow")),
        config(MONEY.format(more=", scope: {route: a}")),
        config(MONEY.format(more=", scope: {deployment: known}")),
        config(MONEY.format(more=""), candidate="known"),
    ],
    ids=["no budget", "tokens", "shadow", "another route", "another deployment", "a deployment without a route"],
)
def test_a_deployment_that_no_budget_refuses_is_a_note(text: str) -> None:
    _, notes = parse(text, "r.yaml", ENV, is_strict=True)
    assert any(
        "'unknown' has no known price; its calls are unpriced, and no budget in USD admits it" in n for n in notes
    )
    assert any("'unknown' has no energy profile" in note for note in notes)


def test_a_model_that_is_priced_by_the_piece_has_a_price() -> None:
    _, notes = parse(config(more=", price_list: whisper-1"), "r.yaml", ENV, is_strict=True)
    assert not any("has no known price" in note for note in notes)


def test_an_allowed_tier_without_a_price_is_noted() -> None:
    text = config(candidate="known", tiers=", service_tiers: {priority: allow, flex: allow, '*': strip}")
    _, notes = parse(text, "r.yaml", ENV, is_strict=True)
    (note,) = [note for note in notes if "service tier" in note]
    assert note.startswith("r.yaml:13:54: ") and "'priority' has no price at deployment 'known'" in note
