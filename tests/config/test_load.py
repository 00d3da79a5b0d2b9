"""routing.yaml: every problem at once, each with its place; the examples load."""

from pathlib import Path

import pytest

from gateway.config.load import load, parse
from gateway.values.catalog import Tier
from gateway.values.errors import ConfigError
from tests.snapshots import BASE_CONFIG, ENV

ROOT = Path(__file__).parent.parent.parent
GOOD = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1")


def problems_of(text: str, env: dict | None = None, **options: bool) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text, "r.yaml", ENV if env is None else env, **options)
    return list(raised.value.problems)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("tier: small", "tier: smal", "smal: 'tier' must be 'small', 'medium' or 'frontier', not 'smal'"),
        ("provider: near", "provider: nera", "nera: unknown provider 'nera'; did you mean 'near'?"),
        ("[small, frontier], auto: true", "[smal, frontier], auto: true", "smal: unknown deployment 'smal'; did you mean 'small'?"),
        ("auto: true", "auto: on", "on: 'auto' must be true or false, not 'on'"),
        ("auto: true", "auto: yes", "yes: 'auto' must be true or false, not 'yes'"),
        ("zone: FRA", "zone: NO", "NO: unknown grid zone 'NO' (expected ISO alpha-3, like USA or FRA); did you mean 'NOR'?"),
        ("input: 0.25", "input: -1", "-1: 'input' must be at least 0, not -1"),
        ("input: 0.25", "input: '0.25'", "'0.25': 'input' must be a number, like 0.15, not '0.25'"),
        ("input: 0.25", "input: 0.0000000001", "0.0000000001: 0.0000000001 USD is finer than a nano-dollar; use at most nine decimals"),
        ("input: 0.25", "input: .nan", ".nan: 'input' must be a number, like 0.15, not '.nan'"),
        ("version: 1", "version: 2", "2: 'version' must be 1, not 2"),
        ("version: 1", "version: 1\nversion: 1", "version: key 'version' is given twice (first on line 2); keep one of them"),
        ("retries:", "retires:", "retires: unknown key 'retires'; did you mean 'retries'?"),
        ("retries: {", "loops: {stop_at: 5}\nretries: {", "loops: unknown key 'loops'; renamed to 'loop_guard'"),
        ("retries: {", "energy: {greenest_within_ms: 5}\nretries: {", "greenest_within_ms: unknown key 'greenest_within_ms'; renamed to 'lowest_carbon_within_ms'"),
        ("retries: {", "budgets: {b: {limit: {usd: 1}, window: day, fail: open}}\nretries: {", "fail: unknown key 'fail'; renamed to 'on_store_failure'"),
        ("retries: {", "budgets: {b: {limit: {usd: 1}, window: day, provider: x}}\nretries: {", "provider: unknown key 'provider'"),
        ("retries: {", "budgets: {b: {limit: {usd: 1}, window: day, stages: {notify: [50, 101]}}}\nretries: {", "101: 'notify[1]' must be at most 100, not 101"),
        ("id: k2", "id: k1", "k1: key id 'k1' is given twice; ids must be unique"),
        ("env: KEY_TWO", "env: KEY_ONE", "{env: secret is the same as that of key 'k1'; secrets must be unique"),
        ("env: KEY_TWO", "env: KEY_3", "{env: environment variable KEY_3 is not set; it must hold the secret"),
        ("{env: KEY_TWO}", "plain-secret", "plain: 'secret' must be {env: NAME} or {file: path}, not the secret itself"),
        ("retries: {", "budgets: {b: {limit: {usd: 1, wh: 2}, window: day}}\nretries: {", "{usd: limit must have exactly one of usd, tokens, calls, wh and g_co2e"),
        ("retries: {", "budgets: {b: {scope: {team: reserch}, limit: {usd: 1}, window: day}}\nretries: {", "reserch: unknown team 'reserch'; did you mean 'research'?"),
        ("retries: {", "x: &a 1\ny: *a\nretries: {", ": anchors and aliases are not supported; write the value out"),
        ("retries: {", "loop_guard: {warn_at: 9, stop_at: 3}\nretries: {", "9: 'warn_at' (9) is above 'stop_at' (3); it must not be"),
        ("output: 2,", "", "{input: required key 'output' is missing; add it here"),
        ("zone: FRA", "cloud_region: gcp/europe-wes1", "gcp/europe-wes1: unknown cloud region 'gcp/europe-wes1' (expected provider/region, like gcp/europe-west1); did you mean 'gcp/europe-west1'?"),
        ("zone: FRA", "feeds: {uk: GB}", "GB: feed 'uk' is not configured; add it under 'feeds'"),
        ("zone: FRA", "feeds: {uk: '99'}", "'99': 'uk' must be GB or the number of a British region, 1 to 17, not '99'"),
        ("active_params_b: 8}", "active_params_b: 8, total_params_b: 7}", "7: 'total_params_b' is below 'active_params_b' (8); it must not be"),
        ("{active_params_b: 8}", "{total_params_b: 7, active_params_b: 7, concurrency: 8, metrics_url: 'http://e/metrics'}", "8: 'concurrency' excludes 'metrics_url' and 'infer_concurrency'; keep one of them"),
        ("active_params_b: 8}", "active_params_b: 8, power: {nvml: true, dcgm_url: 'http://d/metrics'}}", "{nvml: power must have exactly one of 'dcgm_url' and 'nvml: true'"),
        ("{active_params_b: 60, total_params_b: 400}", "{active_params_b: 8000000000}", "8000000000: 'active_params_b' must be at most 100000, not 8000000000"),
        ("retries: {", "energy: {rules: [{task_type: cod, prefer: carbon}]}\nretries: {", "cod: unknown task type 'cod'; did you mean 'code'?"),
        ("retries: {", "energy: {prefer: green}\nretries: {", "green: 'prefer' must be 'cost', 'energy' or 'carbon', not 'green'"),
        ("retries: {", "feeds: {electricity_maps: {}}\nretries: {", "{}: required key 'api_key' is missing; add it here"),
        ("sim-small, tier", "sim-small, price_list: gpt-5-minni, tier", "gpt-5-minni: unknown model 'gpt-5-minni' in the price list; did you mean 'gpt-5-mini'?"),
    ],
)  # fmt: skip
def test_each_problem_has_its_place(old, new, expected):
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    matching = [problem for problem in problems_of(text) if problem.partition(": ")[2] == expected.partition(": ")[2]]
    assert matching, problems_of(text)
    _, line, column = matching[0].partition(": ")[0].split(":")
    assert text.splitlines()[int(line) - 1][int(column) - 1 :].startswith(expected.partition(": ")[0])


def test_all_problems_are_reported_at_once():
    text = (
        GOOD.replace("tier: small", "tier: smal")
        .replace("[small, frontier]", "[small, frontire]")
        .replace("auto: true", "auto: on")
    )
    problems = problems_of(text.replace("version: 1", "version: one"))
    assert len(problems) == 4
    assert problems == sorted(problems, key=lambda problem: tuple(map(int, problem.split(":")[1:3])))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "7", "\x00", "a: b: c", "{" * 500, "a: " + "[" * 3000])
def test_any_text_gives_problems_with_a_place(text):
    assert all(problem.startswith("r.yaml:") for problem in problems_of(text))


def test_a_problem_never_shows_a_secret():
    text = GOOD.replace("env: KEY_TWO", "env: KEY_ONE").replace("tier: small", "tier: smal")
    text = text.replace("{env: PROVIDER_KEY}", "literal-secret", 1)
    assert not any("secret-one" in problem or "literal-secret" in problem for problem in problems_of(text))


def test_a_literal_secret_beside_a_key_without_team_is_reported():
    text = GOOD.replace("{env: KEY_TWO}", "literal").replace("id: k1, ", "")
    assert "id: k1, " in GOOD and len(problems_of(text)) == 2


def test_a_literal_secret_is_the_only_problem_of_its_key():
    text = GOOD.replace("{env: KEY_ONE}", "literal").replace("{env: KEY_TWO}", "literal-too")
    text = text.replace(
        "retries: {", "budgets: {b: {scope: {team: research}, limit: {usd: 1}, window: day}}\nretries: {"
    )
    problems = problems_of(text)
    assert [problem.partition(": ")[2] for problem in problems] == [
        "'secret' must be {env: NAME} or {file: path}, not the secret itself"
    ] * 2


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "r.yaml:1:1: file is empty; it must be a mapping (key: value)"),
        ("# nothing\n", "r.yaml:1:1: file is empty; it must be a mapping (key: value)"),
        ("version: 1\nkeys:\n\t- id: a\n", "r.yaml:3:1: invalid YAML: tab in indentation; use spaces"),
    ],
)
def test_an_empty_file_and_a_tab_are_named(text, problem):
    assert problems_of(text) == [problem]


def test_a_secret_may_come_from_a_file(tmp_path):
    (tmp_path / "key").write_text("from-file\n")
    snapshot, _ = parse(GOOD.replace("{env: KEY_ONE}", f"{{file: {tmp_path / 'key'}}}"), "r.yaml", ENV)
    assert len(snapshot.callers) == 2
    assert "is empty" in problems_of(GOOD.replace("{env: KEY_ONE}", "{file: /nowhere}"))[0]


def test_check_needs_no_secrets():
    snapshot, notes = parse(GOOD, "r.yaml", {}, need_secrets=False)
    assert len(snapshot.routes) == 3
    assert any("KEY_ONE is not set" in note for note in notes)


def test_prices_are_exact_integers():
    snapshot, _ = parse(GOOD.replace("0.25", "0.1"), "r.yaml", ENV)
    price_sheet = snapshot.deployments["small"].price_sheet
    assert price_sheet is not None and price_sheet.base.input == 100_000_000


def test_a_missing_price_or_energy_profile_is_noted():
    text = GOOD.replace("price: {input: 0.25, output: 2, cached_input: 0.025},", "").replace(
        "energy: {active_params_b: 8},", ""
    )
    _, notes = parse(text, "r.yaml", ENV)
    assert any("no known price" in note for note in notes)
    assert any("no energy profile" in note for note in notes)


def test_an_unquoted_no_is_text_and_not_false():
    text = GOOD.replace("words: [debug, function]", "words: [NO, on, off, yes]")
    assert parse(text, "r.yaml", ENV)[0].task_types[0].words == {"no", "on", "off", "yes"}


def test_a_listed_model_has_its_price_and_limits():
    text = (
        GOOD.replace("model: sim-small", "model: gpt-5-mini")
        .replace("price: {input: 0.25, output: 2, cached_input: 0.025},", "")
        .replace(", output_tokens: 4000}", "}")
    )
    small = parse(text, "r.yaml", ENV)[0].deployments["small"]
    assert small.price_sheet is not None and small.price_sheet.source == "litellm:gpt-5-mini"
    assert small.context_tokens_max == 272_000


@pytest.mark.parametrize("path", ["config/routing.yaml", "gateway/simulator/demo.yaml", "loadtest/routing.yaml"])
def test_the_examples_load(path):
    snapshot, _ = load(ROOT / path, {}, need_secrets=False)
    assert snapshot.routes["auto"].reference.tier is Tier.frontier
