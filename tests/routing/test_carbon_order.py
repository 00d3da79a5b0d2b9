"""Rules on energy and carbon: exclusions, order, and gains too small to matter."""

import json
from dataclasses import replace

import pytest

from gateway.carbon.footprint import with_footprint_model
from gateway.config.load import parse
from gateway.dialects import chat
from gateway.dialects.translation import Translator
from gateway.routing.circuit_breaker import BreakerState
from gateway.routing.deployment_load import DeploymentLoad
from gateway.routing.plan import PlanInputs, make_plan
from gateway.routing.request_features import request_features
from gateway.routing.tier_target import TierTargets
from gateway.values.energy_policy import EnergyPreferences
from gateway.values.plan import Classification, Plan, Refusal
from tests.snapshots import ENV

TEXT = """
version: 1
access: open
providers: {{p: {{base_url: "http://127.0.0.1:1/v1"}}}}
deployments:
  paris: {{provider: p, model: m, tier: small, price: {{input: 1, output: 2}}, energy: {{active_params_b: 8}}, zone: FRA, {paris}}}
  berlin: {{provider: p, model: m, tier: small, price: {{input: 1, output: 2}}, energy: {{active_params_b: 8}}, zone: DEU, {berlin}}}
  big: {{provider: p, model: b, tier: frontier, price: {{input: 5, output: 9}}, energy: {{active_params_b: 60, total_params_b: 400}}, zone: NOR}}
  dark: {{provider: p, model: unlisted, tier: small, price: {{input: 0.5, output: 1}}}}
routes:
  auto: {{candidates: [berlin, paris, big], auto: true}}
  named: {{candidates: [berlin, paris, big]}}
  shady: {{candidates: [dark, berlin]}}
task_types: {{summary: {{words: [x]}}}}
{more}
"""
REQUEST = chat.parse(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}).encode())


def make_snapshot(more: str = "", paris: str = "", berlin: str = ""):
    return parse(TEXT.format(more=more, paris=paris, berlin=berlin), "test.yaml", ENV)[0]


def plan(
    snapshot,
    route: str = "auto",
    *,
    chosen: str = "",
    waits: dict[str, float] | None = None,
    task: str = "other",
    deferrable=False,
):
    features = request_features(REQUEST)
    classification = Classification(complexity=0.1, task_type=task, confidence=0.0, reason="test")
    target = (
        TierTargets().choose(snapshot.routes[route], classification, "default", snapshot)
        if snapshot.routes[route].is_auto
        else None
    )
    inputs = PlanInputs(
        energy_policy=snapshot.energy_policy.for_task_type(task),
        breaker_state=lambda name: BreakerState(),
        translator=Translator(REQUEST),
        tier_target=target,
        last_deployment=chosen,
        deferrable=deferrable,
        load=lambda name: DeploymentLoad(first_byte_ms=(waits or {}).get(name, 0.0)),
    )  # fmt: skip
    return make_plan(snapshot.routes[route], REQUEST, features, inputs)


def first(planned: Plan | Refusal) -> str:
    assert isinstance(planned, Plan)
    return planned.attempts[0].deployment.name


@pytest.mark.parametrize(
    "rule, route, excluded",
    [
        ("max_wh_per_request: 1000", "shady", {"dark": "footprint: unknown, but capped"}),
        ("max_g_co2e_per_request: 0.004", "named", {"berlin": "carbon", "paris": None}),
        ("zones: [FRA, 'NO*']", "named", {"berlin": "zone: DEU not in FRA, NO*"}),
    ],
    ids=["a cap excludes an unknown footprint", "a carbon cap excludes the dirty grid", "other zones are excluded"],
)
def test_caps_and_zones_exclude_candidates(rule, route, excluded):
    planned = plan(make_snapshot(f"energy: {{{rule}}}"), route)
    assert isinstance(planned, Plan)
    for name, reason in excluded.items():
        assert (planned.excluded.get(name) or "").startswith(reason) if reason else name not in planned.excluded


def test_a_batch_deployment_serves_deferrable_requests_only():
    snapshot = make_snapshot(berlin="batch: true")
    assert first(plan(snapshot, "named")) == "paris"
    assert first(plan(snapshot, "named", deferrable=True)) == "berlin"


def test_zones_match_cloud_regions_too():
    snapshot = make_snapshot("energy: {zones: ['gcp/europe-*']}", paris="cloud_region: gcp/europe-west9")
    planned = plan(snapshot, "named")
    assert isinstance(planned, Plan)
    assert first(planned) == "paris"
    assert set(planned.excluded) == {"berlin", "big"}


@pytest.mark.parametrize("route", ["auto", "named"])
def test_the_cleanest_grid_is_first_among_equally_quick_deployments(route):
    snapshot = make_snapshot("energy: {lowest_carbon_within_ms: 20}")
    planned = plan(snapshot, route)
    assert isinstance(planned, Plan)
    assert first(planned) == "paris"
    grids = [snapshot.deployments[name].intensity.grams_per_kwh for name in ("paris", "berlin")]
    assert f"cleaner grid: {grids[0]:.3g} g/kWh vs {grids[1]:.3g} g/kWh" in planned.attempts[0].reason
    assert first(plan(snapshot, route, waits={"paris": 500.0, "berlin": 470.0})) == "berlin"
    assert first(plan(snapshot, route, waits={"paris": 485.0, "berlin": 470.0})) == "paris"
    assert first(plan(make_snapshot(), "named")) == "berlin"


def test_a_higher_tier_is_never_chosen_for_its_grid_alone():
    snapshot = make_snapshot(
        "energy: {lowest_carbon_within_ms: 20}", paris="grams_co2e_per_kwh: 300", berlin="grams_co2e_per_kwh: 310"
    )
    assert snapshot.deployments["big"].intensity.grams_per_kwh < 100
    assert first(plan(snapshot)) == "berlin"


DEAR_AND_SMALL = ("input: 1, output: 2}, energy: {active_params_b: 8}, zone: FRA", "input: 50, output: 90}, energy: {active_params_b: 1}, zone: FRA")  # fmt: skip


@pytest.mark.parametrize(
    "prefer, name, reason", [("energy", "paris", "less energy"), ("cost", "berlin", "")], ids=["energy", "cost"]
)
def test_least_energy_is_preferred_whatever_it_costs(prefer, name, reason):
    text = TEXT.format(more=f"energy: {{prefer: {prefer}}}", paris="", berlin="").replace(*DEAR_AND_SMALL)
    planned = plan(parse(text, "test.yaml", ENV)[0])
    assert isinstance(planned, Plan)
    assert first(planned) == name
    assert reason in planned.attempts[0].reason
    assert len(planned.attempts) == 3, "the others remain as fallbacks"


@pytest.mark.parametrize("grams, name", [(2000, "big"), (10, "berlin")], ids=["dirty", "clean"])
def test_least_carbon_may_be_a_larger_model_on_a_cleaner_grid(grams, name):
    snapshot = make_snapshot("energy: {prefer: carbon, zones: ['DEU', 'NOR']}", berlin=f"grams_co2e_per_kwh: {grams}")
    assert first(plan(snapshot)) == name


@pytest.mark.parametrize(
    "paris, berlin, chosen, expected",
    [
        (100, 110, "", "berlin"),
        (100, 110, "paris", "paris"),
        (100, 110, "berlin", "berlin"),
        (100, 110, "berlin", "berlin"),
        (110, 100, "paris", "berlin"),
        (130, 100, "paris", "berlin"),
        (70, 100, "berlin", "paris"),
    ],
    ids=[
        "a small gain does not move the first",
        "a slightly better last choice is kept",
        "a small gain does not replace the last choice",
        "the same when repeated",
        "a worse last choice is dropped",
        "a much worse last choice is dropped",
        "a large gain moves the first",
    ],
)
def test_grids_of_nearly_equal_intensity_do_not_alternate(paris, berlin, chosen, expected):
    snapshot = make_snapshot(
        "energy: {lowest_carbon_within_ms: 50}",
        paris=f"grams_co2e_per_kwh: {paris}",
        berlin=f"grams_co2e_per_kwh: {berlin}",
    )
    assert first(plan(snapshot, "named", chosen=chosen)) == expected


@pytest.mark.parametrize(
    "berlin, waits, rule",
    [
        ("grams_co2e_per_kwh: 50", {"berlin": 470.0}, "lowest_carbon_within_ms: 20"),
        ("grams_co2e_per_kwh: 50", {"berlin": 100.0, "paris": 70.0}, "lowest_carbon_within_ms: 20"),
        ("grams_co2e_per_kwh: 50", {}, "lowest_carbon_within_ms: 20"),
    ],
    ids=["other never called", "other quicker", "neither called"],
)
def test_a_dirtier_grid_is_never_preferred(berlin, waits, rule):
    snapshot = make_snapshot(f"energy: {{{rule}}}", paris="grams_co2e_per_kwh: 800", berlin=berlin)
    planned = plan(snapshot, "named", waits=waits)
    assert isinstance(planned, Plan)
    assert first(planned) == "berlin"
    assert planned.attempts[0].reason == "route order"


def test_a_slower_and_dirtier_first_is_replaced():
    planned = plan(
        make_snapshot("energy: {lowest_carbon_within_ms: 20}"), "named", waits={"berlin": 500.0, "paris": 200.0}
    )
    assert first(planned) == "paris"


@pytest.mark.parametrize("rule", ["prefer: energy", "prefer: carbon", "lowest_carbon_within_ms: 20"])
def test_an_unknown_footprint_is_never_replaced(rule):
    planned = plan(make_snapshot(f"energy: {{{rule}}}"), "shady")
    assert isinstance(planned, Plan)
    assert first(planned) == "dark"
    assert planned.attempts[0].reason == "route order"


@pytest.mark.parametrize("price", [0, 100_000])
def test_an_unknown_footprint_does_not_win_by_a_carbon_price(price):
    text = TEXT.format(more=f"energy: {{carbon_price_usd_per_tonne: {price}}}", paris="", berlin="")
    text = text.replace("candidates: [dark, berlin]}", "candidates: [dark, berlin], auto: true}").replace(
        "input: 0.5, output: 1}", "input: 1.1, output: 2.2}"
    )
    assert first(plan(parse(text, "test.yaml", ENV)[0], "shady")) == "berlin"


def marginal(snapshot, **grams: float):
    changed = {}
    for name, value in grams.items():
        deployment = snapshot.deployments[name]
        changed[name] = with_footprint_model(
            deployment, deployment.energy_profile, replace(deployment.intensity, marginal_grams_per_kwh=value)
        )
    return snapshot.with_deployments(changed)


def test_the_marginal_signal_applies_only_if_all_candidates_have_it():
    snapshot = make_snapshot("energy: {lowest_carbon_within_ms: 20, signal: marginal}")
    assert first(plan(marginal(snapshot, paris=900.0, berlin=300.0, big=100.0), "named")) == "berlin"
    assert first(plan(marginal(snapshot, paris=900.0), "named")) == "paris"


def test_an_energy_price_changes_the_order():
    # Ten times the energy at one dollar a watt-hour outweighs the token prices.
    text = TEXT.format(more="energy: {energy_price_usd_per_kwh: 1000}", paris="", berlin="").replace(
        "energy: {active_params_b: 8}, zone: DEU", "energy: {active_params_b: 80}, zone: DEU"
    )
    assert first(plan(parse(text, "test.yaml", ENV)[0])) == "paris"


def test_a_task_type_rule_inherits_the_other_defaults():
    snapshot = make_snapshot(
        "energy: {carbon_price_usd_per_tonne: 100, rules: [{task_type: summary, prefer: carbon, defer: {hours: 8}}]}"
    )
    default, summary = snapshot.energy_policy.for_task_type("other"), snapshot.energy_policy.for_task_type("summary")
    assert (default.prefer, summary.prefer) == ("cost", "carbon")
    assert default.carbon_nusd_per_kg == summary.carbon_nusd_per_kg == 100_000_000
    assert summary.deferral is not None and summary.deferral.wait_seconds_max == 8 * 3600
    assert default == EnergyPreferences(carbon_nusd_per_kg=100_000_000)
