"""routing.yaml: every problem at once, each with its place; the examples load."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load, parse
from gateway.values.catalog import Tier
from gateway.values.errors import ConfigError
from tests.snapshots import BASE_CONFIG, ENV

ROOT = Path(__file__).parent.parent.parent
GOOD = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1")


def problems_of(text: str, env: dict | None = None, **options: Any) -> list[str]:
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


# Secrets as providers write them (their documentation, 2026-11; values made up), and as people choose them.
SECRETS = {
    "OpenAI": "sk-proj-Ab3dEf6h1Jk2Mn9PqRsTuVwXyZ0123456789",
    "Anthropic": "sk-ant-api03-abcDEF_ghi-JKL",
    "a short OpenAI key": "sk-abc",
    "Stripe": "sk_live_51Habcdefghijk",
    "GitHub": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "Slack": "xoxb-123456789012-1234567890123-abcdefghij",
    "AWS id": "AKIAIOSFODNN7EXAMPLE",
    "AWS key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "Google": "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
    "Hugging Face": "hf_abcdefghijklmnopqrst",
    "Groq": "gsk_abcdefghijklmn",
    "a UUID": "550e8400-e29b-41d4-a716-446655440000",
    "hex": "deadbeefcafebabe0123456789abcdef",
    "base32": "JBSWY3DPEHPK3PXP",
    "base64": "dGhpcyBpcyBhIHNlY3JldCBrZXk=",
    "a JSON Web Token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    "digits": "4929123412341234",
    "longer than a message quotes": "sk-" + "Zq7" * 40,
    "a password": "Tr0ub4dor&3",
    "words": "correct horse battery staple",
    "a lower-case word": "hunterhunter",
    "words with underscores": "my_cat_is_called_tom",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{env: KEY_TWO}", "'SECRET'"),
        ("{env: KEY_TWO}", "{env: 'SECRET'}"),
        ("{env: KEY_TWO}", "{file: 'SECRET'}"),
        ("{env: KEY_TWO}", "{'SECRET': x}"),
        ("{env: KEY_TWO}", "{env: KEY_TWO, 'SECRET': }"),
        ("{env: KEY_TWO}", "{env: ['SECRET']}"),
        ("{env: KEY_TWO}", "{env: KEY_TWO, file: 'SECRET'}"),
        ("{env: PROVIDER_KEY}", "'SECRET'"),
        ("{env: PROVIDER_KEY}", "{env: 'SECRET'}"),
        ("{base_url: \"http://a/v1\", api_key: {env: PROVIDER_KEY}}", "'SECRET'"),
        ("access: keys", "access: 'SECRET'"),
        ("retries: {", "notify: {webhook: {url: 'http://h/', secret: {env: 'SECRET'}}}\nretries: {"),
        ("retries: {", "notify: {webhook: 'SECRET'}\nretries: {"),
        ("retries: {", "feeds: {electricity_maps: {api_key: {env: 'SECRET'}}}\nretries: {"),
        ("retries: {", "feeds: {electricity_maps: 'SECRET'}\nretries: {"),
    ],
    ids=["literal", "env", "file", "in braces", "beside env", "in a list", "env and file", "api_key", "api_key env", "provider",
         "access", "webhook secret", "webhook", "feed key", "feed"],
)  # fmt: skip
@pytest.mark.parametrize("need_secrets", [True, False], ids=["secrets needed", "not needed"])
def test_a_secret_in_the_wrong_place_is_never_shown(old, new, secret, need_secrets):
    assert old in GOOD
    text = GOOD.replace(old, new.replace("SECRET", secret), 1)
    try:
        shown = parse(text, "r.yaml", ENV, need_secrets=need_secrets)[1]
    except ConfigError as error:
        shown = list(error.problems)
    assert shown, "it is found"
    assert not any(secret[:8] in message for message in shown), shown


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("id: k2", "id: 'SECRET'"),
        ("id: k1", "id: 'SECRET'}, {id: 'SECRET'"),
        ("team: sales", "team: 'SECRET!'"),
        ("provider: near", "provider: 'SECRET'"),
        ("tier: small", "tier: 'SECRET'"),
        ("  small:\n", "  'SECRET':\n"),
        ("version: 1", "version: 1\n'SECRET': x"),
        ("version: 1", "version: 1\n'SECRET': x\n'SECRET': y"),
        ("zone: FRA", "zone: 'SECRET'"),
        ("active_params_b: 8}", "active_params_b: 8, metrics_url: 'SECRET'}"),
        ("sim-small, tier", "sim-small, price_list: 'SECRET', tier"),
    ],
)
@pytest.mark.parametrize("name", ["OpenAI", "AWS key", "hex", "a JSON Web Token", "longer than a message quotes"])
def test_what_looks_like_a_secret_is_shown_nowhere(old, new, name):
    assert old in GOOD
    text = GOOD.replace(old, new.replace("SECRET", SECRETS[name]))
    try:
        shown = parse(text, "r.yaml", ENV)[1]
    except ConfigError as error:
        shown = list(error.problems)
    assert not any(SECRETS[name][:8] in message for message in shown), shown


@pytest.mark.parametrize("name", ["sk-abc", "a b", "550e8400-e29b-41d4-a716-446655440000", "", "AKIAIOSFODNN7EXAMPLE"])
def test_an_env_that_no_variable_can_be_named_is_a_problem_even_where_secrets_are_not_needed(name):
    text = GOOD.replace("{env: KEY_TWO}", f"{{env: '{name}'}}")
    (problem,) = problems_of(text, need_secrets=False)
    assert problem == (
        "r.yaml:6:35: 'env' must be the name of an environment variable, like OPENAI_API_KEY, not the secret itself"
    )


def test_a_file_that_looks_like_a_secret_is_a_problem_even_where_secrets_are_not_needed():
    text = GOOD.replace("{env: KEY_TWO}", "{file: sk-ant-api03-abcdef}")
    (problem,) = problems_of(text, need_secrets=False)
    assert problem == "r.yaml:6:35: 'file' must be the path of a readable file, not the secret itself"


def test_a_name_that_may_be_a_secret_is_noted_by_its_place():
    _, notes = parse(GOOD.replace("{env: KEY_TWO}", "{env: my_key}"), "r.yaml", ENV, need_secrets=False)
    assert "r.yaml:6:35: environment variable is not set (its name is not shown, because it may be a secret)" in notes
    snapshot, notes = parse(GOOD.replace("{env: KEY_TWO}", "{env: my_key}"), "r.yaml", {**ENV, "my_key": "s" * 16})
    assert len(snapshot.callers) == 2 and not notes


@pytest.mark.parametrize("env", [ENV, {}], ids=["secrets set", "secrets not set"])
@pytest.mark.parametrize("need_secrets", [True, False], ids=["needed", "not needed"])
@pytest.mark.parametrize(
    ("old", "new", "line", "finding"),
    [
        ("id: k2", "id: k1", 6, "key id 'k1' is given twice; ids must be unique"),
        ("env: KEY_TWO", "env: KEY_ONE", 6, "secret is the same as that of key 'k1'; secrets must be unique"),
    ],
    ids=["ids", "secrets"],
)
@pytest.mark.parametrize(
    "also_wrong",
    ["", "tier: smal", "id: '!'", "- {team: x}", "- 7", "[small, frontire]"],
    ids=["nothing else", "a tier", "an id", "a key without id", "no mapping", "a candidate"],
)
def test_two_keys_with_one_id_or_secret_are_found_whatever_else_is_wrong(
    env, need_secrets, old, new, line, finding, also_wrong
):
    text = GOOD.replace(old, new, 1)
    if also_wrong.startswith("-"):
        text = text.replace("providers:", f"  {also_wrong}\nproviders:", 1)
    elif also_wrong.startswith("id"):
        text = text.replace("providers:", f"  - {{{also_wrong}, team: t, secret: {{env: KEY_X}}}}\nproviders:", 1)
    elif also_wrong:
        text = text.replace("tier: small" if "tier" in also_wrong else "[small, frontier]", also_wrong, 1)
    found = [problem for problem in problems_of(text, env, need_secrets=need_secrets) if problem.endswith(finding)]
    assert len(found) == 1 and found[0].startswith(f"r.yaml:{line}:"), found


def test_one_secret_behind_two_references_is_found(tmp_path):
    (tmp_path / "key").write_text("secret-one\n")
    same = "secret is the same as that of key 'k1'; secrets must be unique"
    for second in (f"{{file: {tmp_path / 'key'}}}", "secret-one"):
        assert any(problem.endswith(same) for problem in problems_of(GOOD.replace("{env: KEY_TWO}", second))), second
    assert any(problem.endswith(same) for problem in problems_of(GOOD, {**ENV, "KEY_TWO": " secret-one\n"}))


def test_a_problem_of_a_key_behind_an_invalid_one_has_its_own_place():
    text = GOOD.replace("keys:\n", "keys:\n  - {id: '!', team: t, secret: {env: KEY_X}}\n  - {team: t}\n", 1)
    problems = problems_of(text.replace("KEY_TWO", "KEY_MISSING"))
    assert "r.yaml:8:35: environment variable KEY_MISSING is not set; it must hold the secret" in problems


@pytest.mark.parametrize(
    ("length", "is_short"), [(1, True), (15, True), (16, False), (64, False)], ids=["1", "15", "16", "64"]
)
@pytest.mark.parametrize("from_file", [False, True], ids=["variable", "file"])
def test_a_secret_under_16_characters_is_found(tmp_path, length, is_short, from_file):
    secret, text = "x" * length, GOOD
    (tmp_path / "key").write_text(f"{secret}\n")
    if from_file:
        text = GOOD.replace("{env: KEY_TWO}", f"{{file: {tmp_path / 'key'}}}")
    env = {**ENV, "KEY_ONE": "a" * 16, "KEY_TWO": secret}
    finding = "r.yaml:6:35: secret has fewer than 16 characters and can be guessed; use a random one, like `openssl rand -hex 32`"
    assert (finding in parse(text, "r.yaml", env, weak_secrets="note")[1]) == is_short
    assert parse(text, "r.yaml", env)[1] == []
    if is_short:
        assert problems_of(text, env, weak_secrets="problem", need_secrets=False) == [finding]
    else:
        parse(text, "r.yaml", env, weak_secrets="problem")


def test_the_webhook_s_secret_may_not_be_short_and_a_provider_s_key_may():
    text = GOOD.replace("retries: {", "notify: {webhook: {url: 'http://h/', secret: {env: HOOK}}}\nretries: {")
    env = {**ENV, "KEY_ONE": "a" * 16, "KEY_TWO": "b" * 16, "HOOK": "short", "PROVIDER_KEY": "EMPTY"}
    (problem,) = problems_of(text, env, weak_secrets="problem")
    assert problem.startswith("r.yaml:24:") and "secret has fewer than 16 characters" in problem


def test_no_secret_is_in_the_text_of_a_snapshot():
    more = "notify: {webhook: {url: 'http://hooks/T0/B0/hooksecret', secret: {env: HOOK}}}\nfeeds: {electricity_maps: {api_key: {env: HOOK}}}"
    text = BASE_CONFIG.format(more=more, small="", near="http://user:basicpass@a/v1", far="http://b/v1")
    shown = repr(parse(text, "r.yaml", {**ENV, "HOOK": "webhook-secret-1"})[0])
    assert "sim-small" in shown
    assert not any(secret in shown for secret in (*ENV.values(), "webhook-secret-1", "hooksecret", "basicpass"))


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


def test_the_example_for_users_holds_what_calls_usually_take():
    snapshot, _ = load(ROOT / "config/routing.yaml", {}, need_secrets=False)
    limits = (*snapshot.budgets, *snapshot.default_caps.all_budgets)
    assert {budget.name for budget in limits if not budget.expected_factor} == {"session-calls"}


def test_service_tiers_are_allowed_by_route_and_key():
    text = GOOD.replace("secret: {env: KEY_ONE}", "secret: {env: KEY_ONE}, service_tiers: {'*': strip}", 1)
    text += "\n"
    snapshot, _ = parse(text, "r.yaml", ENV)
    (policy,) = snapshot.key_tier_policies.values()
    assert policy.action("priority") == "strip"


@pytest.mark.parametrize(
    "value, message",
    [
        ("{Priority: strip}", "must be a service tier in lower case, like priority, or '*' for all others"),
        ("{priority: deny}", "must be 'allow', 'strip' or 'refuse'"),
    ],
)
def test_a_service_tier_policy_has_known_words(value, message):
    text = GOOD.replace("secret: {env: KEY_ONE}", f"secret: {{env: KEY_ONE}}, service_tiers: {value}", 1)
    with pytest.raises(ConfigError) as caught:
        parse(text, "r.yaml", ENV)
    assert message in str(caught.value)
