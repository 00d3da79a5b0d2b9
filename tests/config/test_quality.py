"""Quality targets, learning and roles of a routing file: their values, and the problems of contradictions."""

import re
from pathlib import Path

import pytest

from gateway.config.load import parse
from gateway.values.errors import ConfigError
from gateway.values.quality import SHADOW_KEY
from tests.snapshots import BASE_CONFIG, ENV

DOCS = Path(__file__).parents[2] / "docs/routing.md"


def load_with(more: str):
    text = BASE_CONFIG.format(more=more, small="", near="http://a/v1", far="http://b/v1")
    text = text.replace("task_types:\n", "task_types:\n  nightly: {}\n")
    return parse(text.replace("routes:\n", "routes:\n  gpt-5: {candidates: [frontier]}\n"), "r.yaml", ENV)


def test_the_examples_in_the_docs_load():
    complete, additions = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert "auto" in parse(complete, "complete.yaml", {}, need_secrets=False)[0].routes
    snapshot, _ = load_with(additions)
    assert snapshot.quality_policy.for_task_type("nightly").frontier_share == 0.2
    assert snapshot.quality_policy.for_task_type("summary").keep == 0.9
    assert snapshot.quality_policy.for_task_type("code").keep == 0.97
    assert [role.name for role in snapshot.roles] == ["planner", "tester", "helper"]
    assert snapshot.cascade.is_enabled
    (budget,) = snapshot.shadow_budgets
    assert (budget.name, budget.limit, snapshot.budgets_for_key("k1"), snapshot.budgets_for_key(SHADOW_KEY)) == (
        SHADOW_KEY, 5_000_000_000, snapshot.budgets, (budget,),
    )  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        "quality: {keep: 0.95, fallback: share, fallback_share: 0.3, rules: [{task_type: code, fallback: frontier}]}",
        "quality: {fallback: share, rules: [{task_type: code, keep: 0.9}]}",
        "quality: {keep: 0.95, rules: [{task_type: code, frontier_share: 0.1}]}",
        "quality: {frontier_share: 0.5, rules: [{task_type: other, keep: 0.9}]}",
        "roles: [{name: r, task_type: other}]",
    ],
)
def test_a_rule_may_differ_from_the_default(more):
    load_with(more)


@pytest.mark.parametrize(
    "more, problem",
    [
        ("quality: {keep: 0.9, frontier_share: 0.5}", "exclude each other"),
        ("quality: {keep: 0.9, fallback_share: 0.5}", "needs 'fallback: share'"),
        ("quality: {keep: 0.9}\nclassifier: transparent", "learned classifier"),
        ("quality: {keep: 1}", "keep"),
        ("quality: {rules: [{task_type: nothing, keep: 0.9}]}", "unknown task type 'nothing'"),
        ("quality: {rules: [{task_type: code, keep: 0.9}, {task_type: code, keep: 0.8}]}", "has a rule above"),
        ("learning: {shadow: {share: 0.1}}", "'judge' is missing"),
        ("learning: {shadow: {share: 0.1, judge: absent}}", "unknown route 'absent'"),
        ("budgets: {penstock-shadow: {limit: {usd: 1}, window: day}}", "learning.shadow.usd_per_day"),
        ("roles: [{name: a}, {name: a}]", "given twice"),
        ("roles: [{name: a, words: [code review]}]", "is not a single word"),
        ("roles: [{name: a, tier_min: frontier, tier_max: small}]", "'tier_min' is above 'tier_max'"),
        ("roles: [{name: a, task_type: nothing}]", "unknown task type 'nothing'"),
    ],
)  # fmt: skip
def test_a_contradiction_is_a_problem_with_its_place(more, problem):
    with pytest.raises(ConfigError) as raised:
        load_with(more)
    assert problem in "\n".join(raised.value.problems)
    assert all(re.match(r"r\.yaml:\d+:\d+: ", message) for message in raised.value.problems)


def test_a_role_that_only_a_header_selects_is_noted():
    assert any("x-penstock-role only" in note for note in load_with("roles: [{name: planner}]")[1])
