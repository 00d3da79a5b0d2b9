"""Budget shares reserved for outages of the budget store."""

from gateway.stores.local_allowance import ALLOWANCE_PERCENT, LEASE_SECONDS, AllowanceRequest, LocalAllowances
from gateway.values.budget import Measure
from tests.budget_lines import NOW, amounts, line, offer

LOCAL = line("local", Measure.nusd, 1000, store_failure_mode="local")
OPEN = line("open", Measure.nusd, 1000, store_failure_mode="open")
SHADOW = line("shadow", Measure.nusd, 10, shadow=True, store_failure_mode="local")


def planned(
    allowances: LocalAllowances, now: float = NOW, tenant: str = "acme"
) -> list[tuple[tuple[str, str] | None, AllowanceRequest | None]]:
    return list(allowances.plan_renewals(tenant, "one", now=now, server=now))


def with_allowance(now: float = NOW, *, is_reserved: bool = True) -> tuple[LocalAllowances, AllowanceRequest]:
    """Allowances with one that the store reserved, or refused."""
    allowances = LocalAllowances()
    allowances.mark_used("acme", [LOCAL])
    ((released, fresh),) = planned(allowances, now)
    assert released is None and fresh is not None
    allowances.record_renewal(fresh, is_reserved=is_reserved, now=now)
    return allowances, fresh


def reserve(allowances: LocalAllowances, name: str, amount: int, now: float = NOW, tenant: str = "acme") -> bool:
    return allowances.reserve(name, tenant, offer((LOCAL,), (amount,)), now=now, lease=60.0)


def test_an_account_in_use_reserves_a_share_of_its_limit():
    _, fresh = with_allowance()
    assert fresh.offer == offer((LOCAL,), (1000 * ALLOWANCE_PERCENT // 100,))
    assert (fresh.tenant, fresh.line, fresh.lease) == ("acme", LOCAL, LEASE_SECONDS)
    assert fresh.offers_at(NOW) == [fresh.offer]


def test_only_budgets_with_local_failure_mode_have_allowances():
    allowances = LocalAllowances()
    allowances.mark_used("acme", [OPEN])
    assert planned(allowances) == []


def test_an_allowance_belongs_to_one_tenant():
    allowances, _ = with_allowance()
    assert planned(allowances, NOW + 70, tenant="other") == []
    assert not reserve(allowances, "r", 10, tenant="other")


def test_calls_hold_no_more_than_the_allowance():
    allowances, _ = with_allowance()
    assert [reserve(allowances, f"r{number}", 20) for number in range(3)] == [True, True, False]
    allowances.settle("r0", amounts(nusd=5), now=NOW)
    assert not reserve(allowances, "r3", 26), "25 of 50 are spent or held"
    assert reserve(allowances, "r4", 25)


def test_a_refused_allowance_holds_nothing():
    allowances, _ = with_allowance(is_reserved=False)
    assert not reserve(allowances, "r", 1)


def test_nothing_is_held_against_an_allowance_near_the_end_of_its_lease():
    allowances, _ = with_allowance()
    assert reserve(allowances, "r0", 1, NOW + LEASE_SECONDS - 10)
    assert not reserve(allowances, "r1", 1, NOW + LEASE_SECONDS - 9)


def test_shadow_budgets_and_open_ones_need_no_allowance():
    allowances, _ = with_allowance()
    assert allowances.reserve("r", "acme", offer((SHADOW, OPEN), (90, 90)), now=NOW, lease=60.0)


def test_an_account_without_an_allowance_holds_nothing():
    assert not reserve(LocalAllowances(), "r", 1)


def test_an_allowance_is_renewed_before_its_lease_ends():
    allowances, first = with_allowance()
    assert planned(allowances, NOW + 59) == []
    ((released, second),) = planned(allowances, NOW + 60)
    assert released == ("acme", first.id) and second is not None and second.id != first.id


def test_an_allowance_with_open_calls_is_not_renewed():
    allowances, _ = with_allowance()
    assert reserve(allowances, "r", 20)
    assert planned(allowances, NOW + 60) == []
    allowances.settle("r", amounts(nusd=20), now=NOW + 61)
    assert len(planned(allowances, NOW + 61)) == 1


def test_a_renewed_allowance_starts_unspent():
    allowances, _ = with_allowance()
    assert reserve(allowances, "r", 50)
    allowances.settle("r", amounts(nusd=50), now=NOW)
    ((_, second),) = planned(allowances, NOW + 60)
    assert second is not None
    allowances.record_renewal(second, is_reserved=True, now=NOW + 60)
    assert reserve(allowances, "again", 50, NOW + 61)


def test_an_idle_account_releases_its_allowance():
    allowances, first = with_allowance()
    assert planned(allowances, NOW + 601) == [(("acme", first.id), None)]
    assert planned(allowances, NOW + 700) == [], "forgotten until it is used again"


def test_an_account_in_use_keeps_its_allowance():
    allowances, first = with_allowance()
    planned(allowances, NOW + 50)
    allowances.mark_used("acme", [LOCAL])
    ((released, second),) = planned(allowances, NOW + 640)
    assert released == ("acme", first.id) and second is not None


def test_an_account_whose_window_ended_by_the_stores_clock_releases_its_allowance():
    ending = line("local", Measure.nusd, 1000, keep=NOW + 30, store_failure_mode="local")
    allowances = LocalAllowances()
    allowances.mark_used("acme", [ending])
    ((_, fresh),) = allowances.plan_renewals("acme", "one", now=NOW, server=NOW)
    assert fresh is not None
    allowances.record_renewal(fresh, is_reserved=True, now=NOW)
    assert list(allowances.plan_renewals("acme", "one", now=NOW, server=NOW + 30)) == [(("acme", fresh.id), None)]


def test_every_allowance_is_released_at_shutdown():
    allowances, first = with_allowance()
    assert list(allowances.release_all()) == [("acme", first.id)]
    assert list(allowances.release_all()) == []
    assert not reserve(allowances, "r", 1)


def test_the_number_of_allowances_is_bounded():
    allowances = LocalAllowances()
    allowances.mark_used(
        "acme", [line(f"b{number}", Measure.nusd, 1000, store_failure_mode="local") for number in range(1_001)]
    )
    assert len(planned(allowances)) == 1_000
