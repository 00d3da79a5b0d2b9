"""Which budgets apply to a request, on which accounts, and for how long that is cached."""

from datetime import UTC, datetime

from gateway.accounting.budget_lines import SESSION_KEEP_SECONDS, BudgetLineCache, applies, line_of, lines_for, scope_of
from gateway.values.budget import Budget, Measure, Window
from tests.budget_lines import NOW
from tests.snapshots import snapshot

SCOPE = {
    "org": "default", "team": "a", "key": "k1", "user": "", "session": "s1", "task_type": "x", "route": "auto",
}  # fmt: skip


REQUEST_VALUES = tuple(SCOPE.values())


def make_budget(name: str, scope: dict[str, str], kind: str = "day") -> Budget:
    return Budget(name=name, scope=scope, measure=Measure.nusd, limit=1, window=Window(kind=kind))


def test_budgets_apply_by_scope_and_a_star_gives_each_value_its_own_account():
    budgets = (make_budget("all", {}), make_budget("team", {"team": "a"}), make_budget("each", {"key": "*"}))
    accounts = {line.name: line.account for line in lines_for(budgets, SCOPE, now=NOW)}
    assert set(accounts) == {"all", "team", "each"}
    others = lines_for(budgets, {**SCOPE, "key": "k2", "team": "b"}, now=NOW)
    assert [line.name for line in others] == ["all", "each"]
    assert others[1].account != accounts["each"]


def test_no_scope_value_can_imitate_another_account():
    budget = make_budget("each", {"user": "*", "session": "*"})
    first = line_of(budget, {"user": "a/user=b", "session": "s"}, now=NOW)
    second = line_of(budget, {"user": "b", "session": "s"}, now=NOW)
    third = line_of(budget, {"user": "a|total", "session": "s"}, now=NOW)
    assert len({first.account, second.account, third.account}) == 3
    assert first.account.count("/") == 1 and third.account.count("|") == 2


def test_lines_depend_on_the_deployment_where_a_budget_does():
    budgets = (
        make_budget("tier", {"tier": "frontier"}),
        make_budget("model", {"model": "*"}),
        make_budget("provider", {"provider": "near"}),
    )
    deployments, cache = snapshot().deployments, BudgetLineCache()
    small = [line.name for line in cache.lines(budgets, REQUEST_VALUES, deployments["small"], now=NOW).lines]
    frontier = [line.name for line in cache.lines(budgets, REQUEST_VALUES, deployments["frontier"], now=NOW).lines]
    assert (small, frontier) == (["model", "provider"], ["tier", "model"])


def test_lines_are_cached_until_the_first_of_their_windows_ends():
    budgets = (make_budget("h", {"key": "*"}, "hour"), make_budget("d", {"key": "*"}))
    cache, small = BudgetLineCache(), snapshot().deployments["small"]
    first = cache.lines(budgets, REQUEST_VALUES, small, now=NOW)
    assert cache.lines(budgets, REQUEST_VALUES, small, now=NOW + 60) is first
    later = cache.lines(budgets, REQUEST_VALUES, small, now=NOW + 3600)
    assert later.lines[0].account != first.lines[0].account and later.lines[1].account == first.lines[1].account


def test_only_the_callers_budget_of_thousands_applies():
    mine = make_budget("mine", {"key": "k1"})
    budgets = (*[make_budget(f"b{n}", {"key": f"other{n}"}) for n in range(5000)], mine)
    cache, small = BudgetLineCache(), snapshot().deployments["small"]
    assert [line.name for line in cache.lines(budgets, REQUEST_VALUES, small, now=NOW).lines] == ["mine"]


def test_total_and_session_windows_never_reset():
    for kind in ("total", "session"):
        assert line_of(make_budget("x", {"session": "*"}, kind), SCOPE, now=NOW).resets_at is None
    assert datetime.fromtimestamp(line_of(make_budget("x", {}), SCOPE, now=NOW).resets_at or 0, UTC).hour == 0


def test_a_deployment_adds_its_name_model_tier_and_provider():
    assert scope_of(snapshot().deployments["small"]) == {
        "deployment": "small",
        "model": "sim-small",
        "tier": "small",
        "provider": "near",
    }


def test_a_budget_applies_only_where_all_of_its_dimensions_are_known_and_match():
    both = make_budget("both", {"team": "a", "key": "*"})
    assert applies(both, SCOPE) and applies(make_budget("all", {}), {})
    assert not applies(both, {**SCOPE, "team": "b"})
    assert not applies(both, {"team": "a"})


def test_a_session_s_account_is_kept_for_a_day_at_least():
    assert (
        line_of(make_budget("x", {"session": "*"}, "session"), SCOPE, now=NOW).keep_until == NOW + SESSION_KEEP_SECONDS
    )
    day = line_of(make_budget("x", {}), SCOPE, now=NOW)
    assert day.keep_until == day.resets_at and not day.is_session_account


def test_a_new_configuration_replaces_the_cached_lines():
    cache, small = BudgetLineCache(), snapshot().deployments["small"]
    names = [
        [line.name for line in cache.lines((make_budget(name, {}),), REQUEST_VALUES, small, now=NOW).lines]
        for name in ("before", "after")
    ]
    assert names == [["before"], ["after"]]
