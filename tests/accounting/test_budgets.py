"""The book: never over the limit, all lines or none, each hold resolved once. What stores share is in tests/stores."""

import pytest

from gateway.accounting.budget_refusal import refusal
from gateway.accounting.budgets import BudgetAccounts
from gateway.values.budget import BudgetExceeded, BudgetLine, Grant, Measure, Reservation, Shrinkage
from gateway.values.errors import Overloaded
from tests.budget_lines import NOW, amounts, budget, line, offer

MONEY = line("money", Measure.nusd, 1000)


def reserve(book, name, *offers, now=NOW, lease=60.0):
    return book.reserve(name, offers, now=now, lease=lease)


def test_an_unpriced_call_meets_no_money_budget():
    result = reserve(BudgetAccounts(), "a", offer((MONEY,), (None,)))
    assert isinstance(result, BudgetExceeded)
    assert "not known" in refusal(result, NOW).message


def test_usage_above_its_hold_is_booked_in_full():
    book = BudgetAccounts()
    reserve(book, "a", offer((MONEY,), (10,)))
    book.settle("a", amounts(nusd=5000), now=NOW)
    assert book.balance(MONEY, now=NOW) == (5000, 0, 0)


def test_what_expired_was_charged_and_a_late_settlement_puts_it_right():
    book = BudgetAccounts()
    reserve(book, "a", offer((MONEY,), (100,)), lease=5)
    assert [one.id for one in book.expire(NOW + 5)] == ["a"]
    assert book.balance(MONEY, now=NOW) == (100, 0, 0)
    assert book.settle("a", amounts(nusd=7), now=NOW + 9) is not None
    assert book.balance(MONEY, now=NOW) == (7, 0, 0)
    assert book.settle("a", amounts(nusd=7), now=NOW + 9) is None


def test_accounts_whose_time_is_over_are_forgotten():
    short = line("short", Measure.calls, 5, keep=NOW + 10)
    book = BudgetAccounts()
    reserve(book, "a", offer((short,), (1,)))
    book.settle("a", amounts(calls=1), now=NOW)
    book.expire(NOW + 11)
    assert book.balance(short, now=NOW) == (0, 0, 0)


def test_past_the_most_accounts_sessions_give_way_and_budgets_do_not():
    book = BudgetAccounts(accounts_max=3)
    for number in range(5):
        one = line(f"s{number}", Measure.calls, 5, session=True)
        reserve(book, f"r{number}", offer((one,), (1,)))
        book.settle(f"r{number}", amounts(calls=1), now=NOW)
    for number in range(3):
        reserve(book, f"u{number}", offer((line(f"u{number}", Measure.calls, 5),), (1,)))
    with pytest.raises(Overloaded):
        reserve(book, "u9", offer((line("u9", Measure.calls, 5),), (1,)))


def test_shadow_budgets_count_and_refuse_nothing():
    shadow = line("shadow", Measure.nusd, 5, shadow=True)
    book = BudgetAccounts()
    assert isinstance(reserve(book, "a", offer((shadow,), (100,))), Reservation)
    assert isinstance(reserve(book, "b", offer((shadow,), (None,))), Reservation)
    book.settle("a", amounts(nusd=50), now=NOW)
    assert book.balance(shadow, now=NOW) == (50, 0, 0)


def test_the_first_offer_that_fits_is_taken_and_the_budget_in_the_way_is_named():
    result = reserve(BudgetAccounts(), "a", offer((MONEY,), (5000,)), offer((MONEY,), (900,)), offer((MONEY,), (1,)))
    assert isinstance(result, Reservation)
    assert (result.option_index, result.exceeded_budget, result.amounts) == (1, "money", (900,))


def test_an_offer_shrinks_to_what_is_left_and_not_below_its_least():
    smaller = Shrinkage(
        fixed_amounts=(100,),
        amounts_per_token=(2,),
        output_tokens_max=1000,
        output_tokens_min=50,
        thresholds=(1000,),
        ceilings=(1000,),
    )
    book = BudgetAccounts()
    result = reserve(book, "a", offer((MONEY,), (2100,), smaller=smaller))
    assert isinstance(result, Reservation)
    assert (result.output_tokens, result.amounts) == (450, (1000,))
    assert isinstance(reserve(book, "b", offer((MONEY,), (2100,), smaller=smaller)), BudgetExceeded)


def test_past_the_threshold_an_offer_still_gets_its_least_up_to_the_limit():
    smaller = Shrinkage(
        fixed_amounts=(100,),
        amounts_per_token=(2,),
        output_tokens_max=1000,
        output_tokens_min=50,
        thresholds=(500,),
        ceilings=(1000,),
    )
    book = BudgetAccounts()
    first = reserve(book, "a", offer((MONEY,), (2100,), ceilings=(500,), smaller=smaller))
    second = reserve(book, "b", offer((MONEY,), (2100,), ceilings=(500,), smaller=smaller))
    assert isinstance(first, Reservation) and isinstance(second, Reservation)
    assert (first.output_tokens, second.output_tokens) == (200, 50)


def test_a_grant_lasts_as_long_as_it_says():
    book = BudgetAccounts()
    book.grant(MONEY, Grant(id="g", account=MONEY.account, amount=500, until=NOW + 60))
    assert isinstance(reserve(book, "a", offer((MONEY,), (1400,))), Reservation)
    book.void("a", now=NOW)
    assert isinstance(reserve(book, "b", offer((MONEY,), (1400,)), now=NOW + 61), BudgetExceeded)
    book.grant(MONEY, Grant(id="h", account=MONEY.account, amount=400))
    assert isinstance(reserve(book, "c", offer((MONEY,), (1400,)), now=NOW + 61), Reservation)


def test_a_rolling_account_lets_go_of_what_is_older_than_its_window_and_not_before():
    rolling = line("rolling", Measure.calls, 2, rolling=60)
    book = BudgetAccounts()
    for name, at in (("a", NOW), ("b", NOW + 30)):
        reserve(book, name, offer((rolling,), (1,)), now=at)
        book.settle(name, amounts(calls=1), now=at)
    assert isinstance(reserve(book, "c", offer((rolling,), (1,)), now=NOW + 59), BudgetExceeded)
    assert isinstance(reserve(book, "d", offer((rolling,), (1,)), now=NOW + 62), Reservation)
    assert book.balance(rolling, now=NOW + 62) == (1, 1, 0)


def test_notices_are_given_once_when_the_mark_is_crossed():
    marked = line("marked", Measure.nusd, 1000, notify=(50, 100))
    book, told = BudgetAccounts(), []
    for number in range(11):
        reserve(book, f"r{number}", offer((marked,), (90,)))
        told += [one.percent for one in book.settle(f"r{number}", amounts(nusd=91), now=NOW) or ()]
    assert told == [50, 100]


def test_a_refusal_says_what_an_agent_and_its_owner_need():
    daily = BudgetLine(
        account="x",
        budget=budget("daily", Measure.nusd, 10**9, contact="ask #finops"),
        ceiling=10**9,
        resets_at=NOW + 3600,
    )
    book = BudgetAccounts()
    reserve(book, "a", offer((daily,), (9 * 10**8,)))
    result = reserve(book, "b", offer((daily,), (2 * 10**8,)))
    assert isinstance(result, BudgetExceeded)
    told = refusal(result, NOW)
    assert told.code == "budget_exceeded"
    assert told.details["budget"] == "daily" and told.details["held"] == 0.9 and told.details["limit"] == 1.0
    assert told.details["resets_in_seconds"] == 3600 and told.details["ask"] == "ask #finops"
    assert "ask #finops" in told.message
