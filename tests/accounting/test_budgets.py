"""Budget accounts: never over the limit, all lines or none, holds resolved once.

Behavior shared with the Redis store is tested in tests/stores.
"""

import pytest
from msgspec import structs

from gateway.accounting.budget_refusal import refusal
from gateway.accounting.budgets import BudgetAccounts
from gateway.values.budget import BudgetExceeded, BudgetLine, Grant, HoldOption, Measure, Reservation, Shrinkage
from gateway.values.errors import Overloaded
from tests.budget_lines import NOW, amounts, budget, line, offer

MONEY = line("money", Measure.nusd, 1000)


def reserve(accounts, reservation_id, *offers, now=NOW, lease=60.0):
    return accounts.reserve(reservation_id, offers, now=now, lease=lease)


def test_an_unpriced_call_exceeds_a_money_budget():
    result = reserve(BudgetAccounts(), "a", offer((MONEY,), (None,)))
    assert isinstance(result, BudgetExceeded)
    assert "is unknown" in refusal(result, NOW).message


def test_usage_above_its_hold_is_booked_in_full():
    accounts = BudgetAccounts()
    reserve(accounts, "a", offer((MONEY,), (10,)))
    accounts.settle("a", amounts(nusd=5000), now=NOW)
    assert accounts.balance(MONEY, now=NOW) == (5000, 0, 0)


def test_an_expired_hold_is_charged_and_a_late_settlement_corrects_it():
    accounts = BudgetAccounts()
    reserve(accounts, "a", offer((MONEY,), (100,)), lease=5)
    assert [reservation.id for reservation in accounts.expire(NOW + 5)] == ["a"]
    assert accounts.balance(MONEY, now=NOW) == (100, 0, 0)
    assert accounts.settle("a", amounts(nusd=7), now=NOW + 9) is not None
    assert accounts.balance(MONEY, now=NOW) == (7, 0, 0)
    assert accounts.settle("a", amounts(nusd=7), now=NOW + 9) is None


def test_accounts_past_keep_until_are_dropped():
    short = line("short", Measure.calls, 5, keep=NOW + 10)
    accounts = BudgetAccounts()
    reserve(accounts, "a", offer((short,), (1,)))
    accounts.settle("a", amounts(calls=1), now=NOW)
    accounts.expire(NOW + 11)
    assert accounts.balance(short, now=NOW) == (0, 0, 0)


def test_at_the_account_limit_sessions_are_evicted_and_budgets_are_not():
    accounts = BudgetAccounts(accounts_max=3)
    for number in range(5):
        session_line = line(f"s{number}", Measure.calls, 5, session=True)
        reserve(accounts, f"r{number}", offer((session_line,), (1,)))
        accounts.settle(f"r{number}", amounts(calls=1), now=NOW)
    for number in range(3):
        reserve(accounts, f"u{number}", offer((line(f"u{number}", Measure.calls, 5),), (1,)))
    with pytest.raises(Overloaded):
        reserve(accounts, "u9", offer((line("u9", Measure.calls, 5),), (1,)))


def test_shadow_budgets_count_and_refuse_nothing():
    shadow = line("shadow", Measure.nusd, 5, shadow=True)
    accounts = BudgetAccounts()
    assert isinstance(reserve(accounts, "a", offer((shadow,), (100,))), Reservation)
    assert isinstance(reserve(accounts, "b", offer((shadow,), (None,))), Reservation)
    accounts.settle("a", amounts(nusd=50), now=NOW)
    assert accounts.balance(shadow, now=NOW) == (50, 0, 0)


def test_the_first_offer_that_fits_is_held_and_the_exceeded_budget_is_named():
    result = reserve(BudgetAccounts(), "a", offer((MONEY,), (5000,)), offer((MONEY,), (900,)), offer((MONEY,), (1,)))
    assert isinstance(result, Reservation)
    assert (result.option_index, result.exceeded_budget, result.amounts) == (1, "money", (900,))


def test_an_offer_shrinks_to_what_is_left_and_not_below_its_minimum():
    shrinkage = Shrinkage(
        fixed_amounts=(100,),
        amounts_per_token=(2,),
        output_tokens_max=1000,
        output_tokens_min=50,
        thresholds=(1000,),
        ceilings=(1000,),
    )
    accounts = BudgetAccounts()
    result = reserve(accounts, "a", offer((MONEY,), (2100,), shrinkage=shrinkage))
    assert isinstance(result, Reservation)
    assert (result.output_tokens, result.amounts) == (450, (1000,))
    assert isinstance(reserve(accounts, "b", offer((MONEY,), (2100,), shrinkage=shrinkage)), BudgetExceeded)


def test_past_the_threshold_an_offer_still_gets_its_minimum_up_to_the_limit():
    shrinkage = Shrinkage(
        fixed_amounts=(100,),
        amounts_per_token=(2,),
        output_tokens_max=1000,
        output_tokens_min=50,
        thresholds=(500,),
        ceilings=(1000,),
    )
    accounts = BudgetAccounts()
    first = reserve(accounts, "a", offer((MONEY,), (2100,), ceilings=(500,), shrinkage=shrinkage))
    second = reserve(accounts, "b", offer((MONEY,), (2100,), ceilings=(500,), shrinkage=shrinkage))
    assert isinstance(first, Reservation) and isinstance(second, Reservation)
    assert (first.output_tokens, second.output_tokens) == (200, 50)


def test_a_grant_ends_at_its_time():
    accounts = BudgetAccounts()
    accounts.grant(MONEY, Grant(id="g", account=MONEY.account, amount=500, until=NOW + 60))
    assert isinstance(reserve(accounts, "a", offer((MONEY,), (1400,))), Reservation)
    accounts.void("a", now=NOW)
    assert isinstance(reserve(accounts, "b", offer((MONEY,), (1400,)), now=NOW + 61), BudgetExceeded)
    accounts.grant(MONEY, Grant(id="h", account=MONEY.account, amount=400))
    assert isinstance(reserve(accounts, "c", offer((MONEY,), (1400,)), now=NOW + 61), Reservation)


def test_a_rolling_account_drops_amounts_older_than_its_window_and_not_before():
    rolling = line("rolling", Measure.calls, 2, rolling=60)
    accounts = BudgetAccounts()
    for name, at in (("a", NOW), ("b", NOW + 30)):
        reserve(accounts, name, offer((rolling,), (1,)), now=at)
        accounts.settle(name, amounts(calls=1), now=at)
    assert isinstance(reserve(accounts, "c", offer((rolling,), (1,)), now=NOW + 59), BudgetExceeded)
    assert isinstance(reserve(accounts, "d", offer((rolling,), (1,)), now=NOW + 62), Reservation)
    assert accounts.balance(rolling, now=NOW + 62) == (1, 1, 0)


def test_a_threshold_crossing_is_reported_once():
    notifying = line("marked", Measure.nusd, 1000, notify=(50, 100))
    accounts, percents = BudgetAccounts(), []
    for number in range(11):
        reserve(accounts, f"r{number}", offer((notifying,), (90,)))
        percents += [crossing.percent for crossing in accounts.settle(f"r{number}", amounts(nusd=91), now=NOW) or ()]
    assert percents == [50, 100]


def test_a_refusal_names_the_budget_its_figures_its_reset_and_its_contact():
    daily = BudgetLine(
        account="x",
        budget=budget("daily", Measure.nusd, 10**9, contact="ask #finops"),
        ceiling=10**9,
        resets_at=NOW + 3600,
    )
    accounts = BudgetAccounts()
    accounts.restore(daily, 9 * 10**8, at=NOW)
    result = reserve(accounts, "b", offer((daily,), (2 * 10**8,)))
    assert isinstance(result, BudgetExceeded)
    refused = refusal(result, NOW)
    assert refused.code == "budget_exceeded"
    assert refused.details["budget"] == "daily" and refused.details["used"] == 0.9 and refused.details["limit"] == 1.0
    assert refused.details["resets_in_seconds"] == 3600 and refused.details["contact"] == "ask #finops"
    assert "ask #finops" in refused.message


TOKENS = line("tokens", Measure.tokens, 500)


def usual(amount: int, *, least: int) -> HoldOption:
    """An offer on MONEY that shrinks to `least`."""
    shrinkage = Shrinkage(
        fixed_amounts=(least - 16,),
        amounts_per_token=(1,),
        output_tokens_max=amount - least + 16,
        output_tokens_min=16,
        thresholds=(MONEY.ceiling,),
        ceilings=(MONEY.ceiling,),
    )
    return offer((MONEY,), (amount,), shrinkage=shrinkage)


@pytest.mark.parametrize(
    "spent, held, offers, named, requested, is_held",
    [
        pytest.param(0, 900, [offer((MONEY,), (200,))], "money", 200, True, id="nothing spent, most of it held"),
        pytest.param(
            800, 100, [offer((MONEY,), (200,))], "money", 200, True, id="fits exactly once holds are released"
        ),
        pytest.param(801, 100, [offer((MONEY,), (200,))], "money", 200, False, id="spent alone leaves too little"),
        pytest.param(0, 900, [offer((MONEY,), (1001,))], "money", 1001, False, id="larger than the whole limit"),
        pytest.param(0, 900, [offer((MONEY,), (None,))], "money", None, False, id="of unknown price"),
        pytest.param(
            900,
            50,
            [offer((MONEY,), (200,)), offer((MONEY,), (None,))],
            "money",
            200,
            False,
            id="a price is known of another attempt",
        ),
        pytest.param(
            0, 900, [offer((MONEY, TOKENS), (200, 501))], "tokens", 501, False, id="another line is too small for it"
        ),
        pytest.param(
            900,
            50,
            [offer((MONEY,), (200,)), offer((MONEY,), (60,))],
            "money",
            60,
            True,
            id="a cheaper attempt is held",
        ),
        pytest.param(
            0, 900, [offer((MONEY,), (200,)), offer((MONEY,), (2000,))], "money", 200, True, id="the last is too dear"
        ),
        pytest.param(
            850, 140, [usual(300, least=30)], "money", 30, True, id="its smallest hold fits what is not yet spent"
        ),
        pytest.param(980, 10, [usual(300, least=30)], "money", 300, False, id="not even its smallest hold fits"),
    ],
)
def test_a_refusal_tells_held_amounts_from_spent_ones(spent, held, offers, named, requested, is_held):
    accounts = BudgetAccounts()
    accounts.restore(MONEY, spent, at=NOW)
    reserve(accounts, "other", offer((MONEY,), (held,)))
    result = reserve(accounts, "r", *offers)
    assert isinstance(result, BudgetExceeded)
    assert (result.line.name, result.requested, result.is_held) == (named, requested, is_held)
    accounts.void("other", now=NOW)
    assert isinstance(reserve(accounts, "r", *offers), Reservation) is is_held, "held: fits once the others have ended"


def test_a_grant_counts_before_an_amount_is_called_spent():
    accounts = BudgetAccounts()
    accounts.restore(MONEY, 1000, at=NOW)
    accounts.grant(MONEY, Grant(id="g", account=MONEY.account, amount=100))
    reserve(accounts, "other", offer((MONEY,), (60,)))
    result = reserve(accounts, "r", offer((MONEY,), (50,)))
    assert isinstance(result, BudgetExceeded) and result.is_held and result.granted == 100


def test_the_lines_of_a_reservation_are_known_until_it_is_resolved():
    accounts = BudgetAccounts()
    reserve(accounts, "a", offer((MONEY, TOKENS), (1, 1)))
    assert accounts.open_lines("a") == (MONEY, TOKENS)
    accounts.void("a", now=NOW)
    assert accounts.open_lines("a") == ()


def test_a_correction_changes_what_was_charged_and_notices_only_increases():
    accounts = BudgetAccounts()
    noticed = line("noticed", Measure.nusd, 1000, notify=(50,))
    reserve(accounts, "a", offer((noticed,), (400,)))
    accounts.settle("a", amounts(nusd=400), now=NOW)
    assert accounts.correct(noticed, -300, at=NOW, now=NOW + 9) == ()
    assert accounts.balance(noticed, now=NOW) == (100, 0, 0)
    (crossing,) = accounts.correct(noticed, 450, at=NOW, now=NOW + 9)
    assert (crossing.percent, crossing.spent) == (50, 550)


def test_a_correction_belongs_to_the_window_of_the_charge():
    accounts, rolling = BudgetAccounts(), line("rolling", Measure.nusd, 1000, rolling=60)
    ended = structs.replace(line("ended", Measure.nusd, 1000), resets_at=NOW + 5)
    for name, charged in (("a", ended), ("b", rolling)):
        reserve(accounts, name, offer((charged,), (100,)))
        accounts.settle(name, amounts(nusd=100), now=NOW)
        accounts.correct(charged, -30, at=NOW, now=NOW)
        assert accounts.balance(charged, now=NOW)[0] == 70
    assert accounts.correct(ended, -70, at=NOW, now=NOW + 5) == ()
    assert accounts.balance(ended, now=NOW)[0] == 70
    accounts.correct(rolling, -10, at=NOW, now=NOW + 30)
    assert accounts.balance(rolling, now=NOW + 30)[0] == 60
    accounts.correct(rolling, -10, at=NOW, now=NOW + 90)
    assert accounts.balance(rolling, now=NOW + 90)[0] == 0, "what has left the window is not given back"


def test_an_account_that_was_forgotten_is_not_corrected():
    accounts = BudgetAccounts()
    assert accounts.correct(MONEY, -30, at=NOW, now=NOW) == ()
    assert accounts.balance(MONEY, now=NOW) == (0, 0, 0)
