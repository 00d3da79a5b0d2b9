"""Budgets of a routing file: their values, and the problems of invalid ones."""

from zoneinfo import ZoneInfo

import pytest

from gateway.config.load import parse
from gateway.values.budget import Measure, Window
from gateway.values.catalog import Tier
from gateway.values.errors import ConfigError
from tests.snapshots import BASE_CONFIG, ENV, snapshot


def parse_budget(text: str):
    (budget,) = snapshot(more=f"budgets: {{b: {text}}}").budgets
    return budget


@pytest.mark.parametrize(
    "limit, measure, amount",
    [
        ("usd: 1.5", Measure.nusd, 1_500_000_000), ("tokens: 7", Measure.tokens, 7), ("calls: 3", Measure.calls, 3),
        ("wh: 0.5", Measure.millijoules, 1_800_000), ("g_co2e: 2", Measure.micrograms, 2_000_000),
    ],
)  # fmt: skip
def test_a_limit_becomes_an_integer_in_its_unit(limit, measure, amount):
    budget = parse_budget(f"{{limit: {{{limit}}}, window: day}}")
    assert (budget.measure, budget.limit) == (measure, amount)


def test_a_window_has_a_time_zone_or_a_length():
    assert parse_budget("{limit: {calls: 1}, window: day, timezone: Europe/Berlin}").window == Window(
        kind="day", zone=ZoneInfo("Europe/Berlin")
    )
    assert parse_budget("{limit: {calls: 1}, window: rolling-90m}").window == Window(kind="rolling", seconds=5400)
    session = parse_budget("{limit: {calls: 1}, window: session}")
    assert session.scope == {"session": "*", "key": "*"}, (
        "callers choose session names, so sessions are separate for each key"
    )
    assert parse_budget("{scope: {user: '*'}, limit: {calls: 1}, window: day}").scope == {"user": "*", "org": "*"}


def test_stage_percentages_become_amounts():
    text = (
        "{limit: {usd: 10}, window: day, stages: {notify: [80, 50], downgrade: {at: 70, to: medium},"
        " shrink: {at: 90}, queue: {at: 95, seconds: 2.5}, refuse: 98}}"
    )
    budget, usd = parse_budget(text), 1_000_000_000
    stages = budget.thresholds
    assert budget.refuse_above == 9_800_000_000
    assert stages.notify_at == ((50, 5 * usd), (80, 8 * usd))
    assert (stages.downgrade_above, stages.downgrade_tier_max) == (7 * usd, Tier.medium)
    assert (stages.shrink_above, stages.output_tokens_min) == (9 * usd, 256)
    assert (stages.queue_above, stages.queue_seconds) == (9_500_000_000, 2.5)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("{scope: {model: gpt-9}, limit: {usd: 1}, window: day}", "unknown model 'gpt-9'"),
        ("{scope: {tier: smal}, limit: {usd: 1}, window: day}", "did you mean 'small'?"),
        ("{limit: {usd: 1}, window: day, timezone: Europe/Berln}", "did you mean 'Europe/Berlin'?"),
        ("{limit: {usd: 1}, window: rolling-9999d}", "366 days"),
        ("{limit: {usd: 1}, window: rolling}", "must be hour, day, week, month, total, session, or rolling-N"),
        ("{limit: {usd: 99000000}, window: day}", "more than can be counted exactly"),
        ("{limit: {usd: 1}, window: day, stages: {refuse: 101}}", "at most 100"),
        ("{limit: {usd: 1}, window: day, stages: {queue: {at: 90}}}", "'seconds' is missing"),
        ("{limit: {wh: 0.0000001}, window: day}", "less than can be counted"),
        ("{limit: {usd: 1}, window: rolling-1h, timezone: Europe/Berlin}", "applies to calendar windows"),
        ("{limit: {calls: 1}, window: day, stages: {shrink: {}}}", "leave 'shrink' out"),
        ("{limit: {usd: 1}, window: day, on_store_failure: opn}", "must be 'closed', 'open' or 'local'"),
    ],
)
def test_an_invalid_budget_is_a_problem(text, problem):
    with pytest.raises(ConfigError) as error:
        parse_budget(text)
    assert problem in str(error.value)


def test_the_names_of_session_caps_are_reserved():
    with pytest.raises(ConfigError, match="choose another name"):
        snapshot(more="budgets: {session-usd: {limit: {usd: 1}, window: day}}")


@pytest.mark.parametrize(
    "hold, factor",
    [
        pytest.param("", 1.5, id="caps hold the usual case"),
        pytest.param(", safety_factor: 3", 3.0, id="times the safety factor"),
        pytest.param(", hold: worst_case", 0.0, id="or the worst case"),
    ],
)
def test_session_caps_have_a_kind_of_hold_of_their_own(hold, factor):
    text = f"sessions: {{caps: {{calls: 9, usd: 5, sub_agents: 2}}, caps_per_session: {{tokens: 9}}{hold}}}"
    loaded = snapshot(more=text)
    caps = loaded.default_caps
    factors = {budget.name: budget.expected_factor for budget in caps.all_budgets}
    assert factors == {"session-usd": factor, "each-tokens": factor, "session-calls": 0.0, "session-sub-agents": 0.0}
    assert caps.own_expected_factor == factor


def test_the_caps_of_a_key_are_held_like_those_of_the_file():
    text = BASE_CONFIG.replace("team: sales,", "team: sales, caps: {{usd: 1}},").format(
        more="sessions: {hold: worst_case, caps: {usd: 5}}", small="", near="http://127.0.0.1:1/v1",
        far="http://127.0.0.1:2/v1",
    )  # fmt: skip
    (budget,) = parse(text, "keys.yaml", ENV)[0].caps_for_key("k2").tree_budgets
    assert (budget.limit, budget.expected_factor) == (1_000_000_000, 0.0)


def test_a_limit_in_calls_is_exact_whatever_is_held():
    assert parse_budget("{limit: {calls: 5}, window: day, hold: expected}").expected_factor == 0.0
    assert parse_budget("{limit: {usd: 5}, window: day, hold: expected}").expected_factor == 1.5
    assert parse_budget("{limit: {usd: 5}, window: day}").expected_factor == 0.0


def _load_with_two_organizations(budgets: str, team: str = "sales"):
    text = BASE_CONFIG.format(more=budgets, small="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:2/v1")
    text = text.replace("{id: k2, team: sales,", f"{{id: k2, team: {team}, org: other,")
    return parse(text, "two.yaml", ENV)[0]


def test_a_budget_must_not_span_organizations():
    with pytest.raises(ConfigError, match="spans organizations"):
        _load_with_two_organizations("budgets: {b: {scope: {provider: near}, limit: {usd: 1}, window: day}}")
    _load_with_two_organizations("budgets: {b: {scope: {provider: near, org: '*'}, limit: {usd: 1}, window: day}}")
    with pytest.raises(ConfigError, match="a team must have one organization"):
        _load_with_two_organizations("", team="research")


def test_a_price_change_takes_effect_at_midnight_utc():
    text = BASE_CONFIG.format(more="", small="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:2/v1").replace(
        "energy: {active_params_b: 8}",
        "price_changes: [{effective: 2026-12-01, input: 1, output: 4}, {effective: 2027-01-01, input: 2, output: 8}],"
        " energy: {active_params_b: 8}",
    )
    text = text.replace("2026-12-01", '"2026-12-01"').replace("2027-01-01", '"2027-01-01"')
    day = 1_796_083_200.0  # 2026-12-01T00:00:00Z
    before, after = (parse(text, "p.yaml", ENV, now=now)[0] for now in (day - 1, day))
    sheets = [snapshot.deployments["small"].price_sheet for snapshot in (before, after)]
    assert [sheet and sheet.base.input for sheet in sheets] == [250_000_000, 1_000_000_000]
    assert before.next_price_change_at == day and after.next_price_change_at == day + 31 * 86_400
    assert before.generation != after.generation
    with pytest.raises(ConfigError, match="ascending order"):
        parse(text.replace('"2027-01-01"', '"2026-11-01"'), "p.yaml", ENV)
    with pytest.raises(ConfigError, match="must be a day like 2027-01-31"):
        parse(text.replace('"2027-01-01"', '"2027-13-01"'), "p.yaml", ENV)
