"""One replica's growing totals."""

from gateway.stores.replica_totals import ReplicaTotals
from gateway.values.budget import BudgetLine, Measure
from tests.budget_lines import NOW, line

MONEY = line("money", Measure.nusd, 1000)
ROLLING = line("rolling", Measure.calls, 9, rolling=60)


def amounts(totals: ReplicaTotals, tenant: str = "acme") -> dict[str, list[int]]:
    """By account, the totals of a tenant."""
    found: dict[str, list[int]] = {}
    for reported, amount, _ in totals.of_tenant(tenant):
        found.setdefault(reported.account, []).append(amount)
    return found


def test_spend_is_reported_as_a_growing_total():
    totals = ReplicaTotals()
    assert totals.add("acme", MONEY, 40, NOW) == (MONEY, 40, NOW)
    assert totals.add("acme", MONEY, 2, NOW + 5) == (MONEY, 42, NOW + 5)
    assert amounts(totals) == {"money": [42]}


def test_tenants_have_totals_of_their_own():
    totals = ReplicaTotals()
    totals.add("acme", MONEY, 40, NOW)
    totals.add("other", MONEY, 2, NOW)
    assert (amounts(totals, "acme"), amounts(totals, "other"), amounts(totals, "none")) == (
        {"money": [40]},
        {"money": [2]},
        {},
    )


def test_a_rolling_account_has_one_total_per_bucket():
    totals = ReplicaTotals()
    for at in (NOW, NOW, NOW + ROLLING.bucket_seconds):
        totals.add("acme", ROLLING, 1, at)
    assert amounts(totals) == {"rolling": [2, 1]}


def test_a_total_is_raised_once_to_what_the_store_has():
    totals = ReplicaTotals()
    totals.add("acme", MONEY, 40, NOW)
    assert totals.needs_sync("acme", MONEY)
    totals.raise_to_store("acme", MONEY, 100, NOW)
    assert amounts(totals) == {"money": [100]} and not totals.needs_sync("acme", MONEY)
    totals.raise_to_store("acme", MONEY, 500, NOW)
    assert amounts(totals) == {"money": [100]}, "later figures are this process's own"
    assert totals.needs_sync("other", MONEY)


def test_a_lower_figure_of_the_store_lowers_no_total():
    totals = ReplicaTotals()
    totals.add("acme", MONEY, 40, NOW)
    totals.raise_to_store("acme", MONEY, 10, NOW)
    assert amounts(totals) == {"money": [40]} and not totals.needs_sync("acme", MONEY)


def test_rolling_accounts_are_not_raised_to_the_store():
    totals = ReplicaTotals()
    assert not totals.needs_sync("acme", ROLLING)
    totals.raise_to_store("acme", ROLLING, 7, NOW)
    assert amounts(totals) == {}


def test_reports_of_dropped_totals_are_skipped():
    totals = ReplicaTotals()
    totals.add("acme", MONEY, 40, NOW)
    assert list(totals.get_many([("acme", "money"), ("acme", "gone"), ("other", "money")])) == [(MONEY, 40, NOW)]


def ending(name: str, at: float) -> BudgetLine:
    return line(name, Measure.nusd, 1000, keep=at)


def test_expired_totals_are_dropped_once_there_are_many():
    totals = ReplicaTotals(prune_above=3)
    for name in ("a", "b"):
        totals.add("acme", ending(name, NOW + 10), 1, NOW)
        totals.raise_to_store("acme", ending(name, NOW + 10), 1, NOW)
    totals.add("acme", MONEY, 1, NOW)
    totals.prune(now=NOW + 11)
    assert len(amounts(totals)) == 3, "few totals are kept, expired or not"
    totals.add("acme", ROLLING, 1, NOW)
    totals.prune(now=NOW + 10)
    assert set(amounts(totals)) == {"money", "rolling"}
    assert totals.needs_sync("acme", ending("a", NOW + 10)), "a dropped total is read from the store again"
    totals.prune(now=NOW + 3600)
    assert set(amounts(totals)) == {"money", "rolling"}, "pruned again only after as many more"


def test_a_bucket_is_kept_until_it_has_left_the_window():
    for age, kept in ((60, {"rolling": [1]}), (63, {})):
        totals = ReplicaTotals(prune_above=0)
        totals.add("acme", ROLLING, 1, NOW)
        totals.prune(now=NOW + age)
        assert amounts(totals) == kept, age


def test_what_is_taken_back_is_a_total_of_its_own_that_grows():
    totals = ReplicaTotals()
    totals.add("acme", MONEY, 40, NOW)
    assert totals.add("acme", MONEY, -10, NOW) == (MONEY, -10, NOW)
    assert totals.add("acme", MONEY, -5, NOW) == (MONEY, -15, NOW)
    assert amounts(totals) == {"money": [40, -15]}
