"""routing.yaml: every mistake at once, each at its place; the examples load."""

from pathlib import Path

import pytest

from gateway.config.load import load, parse
from gateway.config.settings import read_settings
from gateway.values.catalog import Tier
from gateway.values.errors import ConfigError
from tests.snapshots import BASE_CONFIG, ENV

ROOT = Path(__file__).parent.parent.parent
GOOD = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1")


def complaints(text: str, env: dict | None = None, **options: bool) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(text, "r.yaml", ENV if env is None else env, **options)
    return list(refused.value.problems)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("tier: small", "tier: smal", "smal: 'tier' must be 'small', 'medium' or 'frontier', not 'smal'"),
        ("provider: near", "provider: nera", "nera: unknown provider 'nera'; did you mean 'near'?"),
        ("[small, frontier], auto: true", "[smal, frontier], auto: true", "smal: unknown deployment 'smal'; did you mean 'small'?"),
        ("auto: true", "auto: on", "on: 'auto' must be true or false, not 'on'"),
        ("auto: true", "auto: yes", "yes: 'auto' must be true or false, not 'yes'"),
        ("zone: FRA", "zone: NO", "NO: unknown grid zone 'NO'; did you mean 'NOR'?; use ISO alpha-3 like USA or FRA"),
        ("input: 0.25", "input: -1", "-1: 'input' is wrong: input should be greater than or equal to 0"),
        ("input: 0.25", "input: '0.25'", "'0.25': 'input' must be a number, like 0.15, not '0.25'"),
        ("input: 0.25", "input: 0.0000000001", "0.0000000001: 1E-10 USD is finer than a nano-dollar; use at most nine decimals"),
        ("input: 0.25", "input: .nan", ".nan: 'input' must be a number, like 0.15, not '.nan'"),
        ("version: 1", "version: 2", "2: 'version' must be 1, not 2"),
        ("version: 1", "version: 1\nversion: 1", "version: key 'version' is given twice (first on line 2); keep one of them"),
        ("retries:", "retires:", "retires: unknown key 'retires'; did you mean 'retries'?"),
        ("id: k2", "id: k1", "k1: key id 'k1' is given twice; ids are unique"),
        ("env: KEY_TWO", "env: KEY_ONE", "{env: the same secret as key 'k1'; secrets differ"),
        ("env: KEY_TWO", "env: KEY_3", "{env: environment variable KEY_3 is not set; the secret it should hold is needed to start"),
        ("{env: KEY_TWO}", "plain-secret", "plain: 'secret' must be a mapping (key: value), not 'plain-secret'"),
        ("retries: {", "budgets: {b: {limit: {usd: 1, wh: 2}, window: day}}\nretries: {", "{usd: give exactly one of usd, tokens, calls, wh or g_co2e"),
        ("retries: {", "budgets: {b: {scope: {team: reserch}, limit: {usd: 1}, window: day}}\nretries: {", "reserch: unknown team 'reserch'; did you mean 'research'?"),
        ("retries: {", "x: &a 1\ny: *a\nretries: {", ": anchors and aliases are not supported; write the value out"),
        ("retries: {", "loops: {warn_at: 9, stop_at: 3}\nretries: {", "9: 'warn_at' is above 'stop_at' (3); it must not be"),
        ("output: 2,", "", "{input: 'output' is missing; add it here"),
        ("zone: FRA", "cloud_region: gcp/europe-wes1", "gcp/europe-wes1: unknown cloud region 'gcp/europe-wes1'; did you mean 'gcp/europe-west1'?; write it like gcp/europe-west1"),
        ("zone: FRA", "feeds: {uk: GB}", "GB: there is no feed 'uk'; add it under 'feeds'"),
        ("zone: FRA", "feeds: {uk: '99'}", "'99': '99' is neither GB nor the number of a region, 1 to 17"),
        ("active_params_b: 8}", "active_params_b: 8, total_params_b: 7}", "7: 'total_params_b' is below 'active_params_b'"),
        ("{active_params_b: 8}", "{total_params_b: 7, active_params_b: 7, concurrency: 8, metrics_url: 'http://e/metrics'}", "8: 'concurrency' is declared; leave 'metrics_url' and 'infer_concurrency' out"),
        ("active_params_b: 8}", "active_params_b: 8, power: {nvml: true, dcgm_url: 'http://d/metrics'}}", "{nvml: give exactly one of 'dcgm_url' or 'nvml: true'"),
        ("{active_params_b: 60, total_params_b: 400}", "{active_params_b: 8000000000}", "8000000000: 'active_params_b' is wrong: input should be less than or equal to 100000"),
        ("retries: {", "energy: {rules: [{task_type: cod, prefer: carbon}]}\nretries: {", "cod: there is no task type 'cod'"),
        ("retries: {", "energy: {prefer: green}\nretries: {", "green: 'prefer' must be 'cost', 'energy' or 'carbon', not 'green'"),
        ("retries: {", "feeds: {electricity_maps: {}}\nretries: {", "{}: 'api_key' is missing; add it here"),
        ("sim-small, tier", "sim-small, price_list: gpt-5-minni, tier", "gpt-5-minni: the price list has no 'gpt-5-minni'; did you mean 'gpt-5-mini'?"),
    ],
)  # fmt: skip
def test_each_mistake_is_found_at_its_place(old, new, expected):
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    found = [one for one in complaints(text) if one.partition(": ")[2] == expected.partition(": ")[2]]
    assert found, complaints(text)
    _, line, column = found[0].partition(": ")[0].split(":")
    assert text.splitlines()[int(line) - 1][int(column) - 1 :].startswith(expected.partition(": ")[0])


def test_all_mistakes_are_reported_at_once():
    text = (
        GOOD.replace("tier: small", "tier: smal")
        .replace("[small, frontier]", "[small, frontire]")
        .replace("auto: true", "auto: on")
    )
    found = complaints(text.replace("version: 1", "version: one"))
    assert len(found) == 4
    assert found == sorted(found, key=lambda one: tuple(map(int, one.split(":")[1:3])))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "7", "\x00", "a: b: c", "{" * 500, "a: " + "[" * 3000])
def test_any_text_is_answered_with_a_place(text):
    assert all(one.startswith("r.yaml:") for one in complaints(text))


def test_a_secret_never_appears_in_a_complaint():
    text = GOOD.replace("env: KEY_TWO", "env: KEY_ONE").replace("tier: small", "tier: smal")
    assert not any("secret-one" in one for one in complaints(text))


def test_secrets_come_from_files_too(tmp_path):
    (tmp_path / "key").write_text("from-file\n")
    snapshot, _ = parse(GOOD.replace("{env: KEY_ONE}", f"{{file: {tmp_path / 'key'}}}"), "r.yaml", ENV)
    assert len(snapshot.callers) == 2
    assert "is empty" in complaints(GOOD.replace("{env: KEY_ONE}", "{file: /nowhere}"))[0]


def test_checking_needs_no_secrets():
    snapshot, notes = parse(GOOD, "r.yaml", {}, need_secrets=False)
    assert len(snapshot.routes) == 3
    assert any("KEY_ONE is not set" in note for note in notes)


def test_prices_are_exact_integers():
    snapshot, _ = parse(GOOD.replace("0.25", "0.1"), "r.yaml", ENV)
    price_sheet = snapshot.deployments["small"].price_sheet
    assert price_sheet is not None and price_sheet.base.input == 100_000_000


def test_what_works_but_surprises_is_noted():
    text = GOOD.replace("price: {input: 0.25, output: 2, cached_input: 0.025},", "").replace(
        "energy: {active_params_b: 8},", ""
    )
    _, notes = parse(text, "r.yaml", ENV)
    assert any("no known price" in note for note in notes)
    assert any("no energy profile" in note for note in notes)


def test_an_unquoted_no_is_norway_s_text_and_not_false():
    text = GOOD.replace("words: [debug, function]", "words: [NO, on, off, yes]")
    assert parse(text, "r.yaml", ENV)[0].task_types[0].words == {"no", "on", "off", "yes"}


def test_listed_models_bring_their_price_and_limits():
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


def test_settings_refuse_unknown_and_wrong_variables(monkeypatch):
    monkeypatch.setenv("PENSTOCK_PROT", "1")
    monkeypatch.setenv("PENSTOCK_PORT", "high")
    monkeypatch.setenv("PENSTOCK_KEY_MINE", "fine")
    with pytest.raises(ConfigError) as refused:
        read_settings()
    text = "\n".join(refused.value.problems)
    assert "unknown variable PENSTOCK_PROT" in text
    assert "PENSTOCK_PORT" in text
    assert "PENSTOCK_KEY_MINE" not in text


def test_no_env_file_is_read_unless_it_is_named(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("PENSTOCK_PORT=1234\n")
    monkeypatch.chdir(tmp_path)
    assert read_settings().port == 8080
    monkeypatch.setenv("PENSTOCK_ENV_FILE", str(tmp_path / ".env"))
    assert read_settings().port == 1234
