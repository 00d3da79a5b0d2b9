"""Rules on energy and carbon: what is struck, what comes first, and what is not moved for noise."""

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
  dark: {{provider: p, model: nobody-knows, tier: small, price: {{input: 0.5, output: 1}}}}
routes:
  auto: {{candidates: [berlin, paris, big], auto: true}}
  named: {{candidates: [berlin, paris, big]}}
  shady: {{candidates: [dark, berlin]}}
task_types: {{summary: {{words: [x]}}}}
{more}
"""
REQUEST = chat.parse(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}).encode())


def world(more: str = "", paris: str = "", berlin: str = ""):
    return parse(TEXT.format(more=more, paris=paris, berlin=berlin), "test.yaml", ENV)[0]


def plan(
    at,
    route: str = "auto",
    *,
    chosen: str = "",
    waits: dict[str, float] | None = None,
    task: str = "other",
    deferrable=False,
):
    features = request_features(REQUEST)
    classification = Classification(complexity=0.1, task_type=task, confidence=0.0, reason="test")
    target = TierTargets().choose(at.routes[route], classification, "default", at) if at.routes[route].is_auto else None
    situation = PlanInputs(
        energy_policy=at.energy_policy.for_task_type(task),
        breaker_state=lambda name: BreakerState(),
        translator=Translator(REQUEST),
        aim=target,
        last_deployment=chosen,
        deferrable=deferrable,
        load=lambda name: DeploymentLoad(first_byte_ms=(waits or {}).get(name, 0.0)),
    )  # fmt: skip
    return make_plan(at.routes[route], REQUEST, features, situation)


def first(context: Plan | Refusal) -> str:
    assert isinstance(context, Plan)
    return context.attempts[0].deployment.name


@pytest.mark.parametrize(
    "rule, route, struck",
    [
        ("max_wh_per_request: 1000", "shady", {"dark": "footprint: not known, and there is a cap on it"}),
        ("max_g_co2e_per_request: 0.004", "named", {"berlin": "carbon", "paris": None}),
        ("zones: [FRA, 'NO*']", "named", {"berlin": "zone: DEU is not among FRA, NO*"}),
    ],
    ids=["a cap strikes what is not known", "a carbon cap strikes the dirty grid", "other zones are struck"],
)
def test_what_is_struck(rule, route, struck):
    context = plan(world(f"energy: {{{rule}}}"), route)
    assert isinstance(context, Plan)
    for name, why in struck.items():
        assert (context.excluded.get(name) or "").startswith(why) if why else name not in context.excluded


def test_a_batch_deployment_serves_work_that_can_wait_and_no_other():
    at = world(berlin="batch: true")
    assert first(plan(at, "named")) == "paris"
    assert first(plan(at, "named", deferrable=True)) == "berlin"


def test_a_cloud_region_is_a_place_too():
    at = world("energy: {zones: ['gcp/europe-*']}", paris="cloud_region: gcp/europe-west9")
    context = plan(at, "named")
    assert isinstance(context, Plan)
    assert first(context) == "paris"
    assert set(context.excluded) == {"berlin", "big"}


@pytest.mark.parametrize("route", ["auto", "named"])
def test_the_cleanest_grid_among_those_as_quick(route):
    at = world("energy: {greenest_within_ms: 20}")
    context = plan(at, route)
    assert isinstance(context, Plan)
    assert first(context) == "paris"
    grids = [at.deployments[name].intensity.grams_per_kwh for name in ("paris", "berlin")]
    assert f"on a cleaner grid: {grids[0]:.3g} g/kWh against {grids[1]:.3g} g/kWh" in context.attempts[0].reason
    assert first(plan(at, route, waits={"paris": 500.0, "berlin": 470.0})) == "berlin"
    assert first(plan(at, route, waits={"paris": 485.0, "berlin": 470.0})) == "paris"
    assert first(plan(world(), "named")) == "berlin"


def test_the_frontier_is_never_taken_for_its_grid_alone():
    at = world("energy: {greenest_within_ms: 20}", paris="grams_co2e_per_kwh: 300", berlin="grams_co2e_per_kwh: 310")
    assert at.deployments["big"].intensity.grams_per_kwh < 100
    assert first(plan(at)) == "berlin"


DEAR_AND_SMALL = ("input: 1, output: 2}, energy: {active_params_b: 8}, zone: FRA", "input: 50, output: 90}, energy: {active_params_b: 1}, zone: FRA")  # fmt: skip


@pytest.mark.parametrize(
    "prefer, name, why", [("energy", "paris", "takes less energy"), ("cost", "berlin", "")], ids=["energy", "cost"]
)
def test_least_energy_among_what_will_do_whatever_it_costs(prefer, name, why):
    text = TEXT.format(more=f"energy: {{prefer: {prefer}}}", paris="", berlin="").replace(*DEAR_AND_SMALL)
    context = plan(parse(text, "test.yaml", ENV)[0])
    assert isinstance(context, Plan)
    assert first(context) == name
    assert why in context.attempts[0].reason
    assert len(context.attempts) == 3, "the others are still there if it fails"


@pytest.mark.parametrize("grams, name", [(2000, "big"), (10, "berlin")], ids=["dirty", "clean"])
def test_least_carbon_may_be_the_larger_model_on_the_cleaner_grid(grams, name):
    at = world("energy: {prefer: carbon, zones: ['DEU', 'NOR']}", berlin=f"grams_co2e_per_kwh: {grams}")
    assert first(plan(at)) == name


@pytest.mark.parametrize(
    "paris, berlin, chosen, stays",
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
        "noise moves nothing",
        "nor does it move back",
        "nor away",
        "nor again",
        "what is worse is not stayed with",
        "nor what is much worse",
        "a gain moves",
    ],
)
def test_grids_of_nearly_the_same_intensity_do_not_take_turns(paris, berlin, chosen, stays):
    at = world(
        "energy: {greenest_within_ms: 50}", paris=f"grams_co2e_per_kwh: {paris}", berlin=f"grams_co2e_per_kwh: {berlin}"
    )
    assert first(plan(at, "named", chosen=chosen)) == stays


@pytest.mark.parametrize(
    "berlin, waits, rule",
    [
        ("grams_co2e_per_kwh: 50", {"berlin": 470.0}, "greenest_within_ms: 20"),
        ("grams_co2e_per_kwh: 50", {"berlin": 100.0, "paris": 70.0}, "greenest_within_ms: 20"),
        ("grams_co2e_per_kwh: 50", {}, "greenest_within_ms: 20"),
    ],
    ids=["beside one that was never called", "beside a quicker one", "beside nobody known"],
)
def test_the_dirtier_is_never_called_cleaner(berlin, waits, rule):
    at = world(f"energy: {{{rule}}}", paris="grams_co2e_per_kwh: 800", berlin=berlin)
    context = plan(at, "named", waits=waits)
    assert isinstance(context, Plan)
    assert first(context) == "berlin"
    assert context.attempts[0].reason == "named"


def test_a_first_that_is_both_slower_and_dirtier_gives_way():
    context = plan(world("energy: {greenest_within_ms: 20}"), "named", waits={"berlin": 500.0, "paris": 200.0})
    assert first(context) == "paris"


@pytest.mark.parametrize("rule", ["prefer: energy", "prefer: carbon", "greenest_within_ms: 20"])
def test_nothing_is_better_than_what_nobody_knows(rule):
    context = plan(world(f"energy: {{{rule}}}"), "shady")
    assert isinstance(context, Plan)
    assert first(context) == "dark"
    assert context.attempts[0].reason == "named"


@pytest.mark.parametrize("price", [0, 100_000])
def test_what_nobody_knows_does_not_win_by_a_carbon_price(price):
    text = TEXT.format(more=f"energy: {{carbon_price_usd_per_tonne: {price}}}", paris="", berlin="")
    text = text.replace("candidates: [dark, berlin]}", "candidates: [dark, berlin], auto: true}").replace(
        "input: 0.5, output: 1}", "input: 1.1, output: 2.2}"
    )
    assert first(plan(parse(text, "test.yaml", ENV)[0], "shady")) == "berlin"


def marginal(at, **grams: float):
    changed = {}
    for name, value in grams.items():
        one = at.deployments[name]
        changed[name] = with_footprint_model(
            one, one.energy_profile, replace(one.intensity, marginal_grams_per_kwh=value)
        )
    return at.with_deployments(changed)


def test_the_marginal_signal_decides_where_all_have_it_and_is_never_weighed_against_an_average():
    at = world("energy: {greenest_within_ms: 20, signal: marginal}")
    assert first(plan(marginal(at, paris=900.0, berlin=300.0, big=100.0), "named")) == "berlin"
    assert first(plan(marginal(at, paris=900.0), "named")) == "paris"


def test_a_price_on_energy_turns_the_order():
    # Ten times the energy at one dollar a watt-hour outweighs everything.
    text = TEXT.format(more="energy: {energy_price_usd_per_kwh: 1000}", paris="", berlin="").replace(
        "energy: {active_params_b: 8}, zone: DEU", "energy: {active_params_b: 80}, zone: DEU"
    )
    assert first(plan(parse(text, "test.yaml", ENV)[0])) == "paris"


def test_a_task_type_has_its_own_rules_and_the_rest_of_the_file_s():
    at = world(
        "energy: {carbon_price_usd_per_tonne: 100, rules: [{task_type: summary, prefer: carbon, defer: {hours: 8}}]}"
    )
    default, summary = at.energy_policy.for_task_type("other"), at.energy_policy.for_task_type("summary")
    assert (default.prefer, summary.prefer) == ("cost", "carbon")
    assert default.carbon_nusd_per_kg == summary.carbon_nusd_per_kg == 100_000_000
    assert summary.deferral is not None and summary.deferral.wait_seconds_max == 8 * 3600
    assert default == EnergyPreferences(carbon_nusd_per_kg=100_000_000)
