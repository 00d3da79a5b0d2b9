"""Refusals of budgets: figures, reset time, remedy."""

from typing import Any

import msgspec
import pytest

from gateway.accounting.budget_refusal import refusal
from gateway.values.budget import BudgetExceeded, BudgetLine, Measure
from tests.budget_lines import NOW, line


def exceeded(budget_line: BudgetLine, **amounts: Any) -> BudgetExceeded:
    return BudgetExceeded(**{"line": budget_line, "spent": 0, "held": 0, "requested": 1, "granted": 0, **amounts})


def test_figures_are_in_the_unit_of_the_budget():
    amounts = {"spent": 700_000_000, "held": 200_000_000, "requested": 150_000_000}
    refused = refusal(exceeded(line("day", Measure.nusd, 1_000_000_000), **amounts), NOW)
    assert "0.7 USD spent and 0.2 held of 1; this call may use up to 0.15." in refused.message
    assert refused.details["remaining"] == pytest.approx(0.1)
    assert (refused.details["unit"], refused.details["used"], refused.details["requested"]) == ("USD", 0.7, 0.15)


def test_a_grant_raises_the_limit():
    refused = refusal(exceeded(line("day", Measure.calls, 5), spent=7, granted=2), NOW)
    assert (refused.details["limit"], refused.details["remaining"]) == (7, 0.0)


@pytest.mark.parametrize(
    "measure, code, message",
    [
        (
            Measure.nusd,
            "unpriced",
            "Unpriced: no price sheet covers it. Budget 'day' (USD) holds no call whose worst case is unknown, however much "
            "of it is left. Use another model, or ask the operator to set a price.",
        ),
        (
            Measure.millijoules,
            "energy_unknown",
            "Energy unknown: no energy profile covers it. Budget 'day' (Wh) holds no call whose worst case is unknown, "
            "however much of it is left. Use another model, or ask the operator to set an energy profile.",
        ),
    ],
)
def test_an_unknown_worst_case_is_not_called_exceeded(measure, code, message):
    refused = refusal(exceeded(line("day", measure, 5), requested=None), NOW)
    assert refused.message == message
    assert refused.code == code and "requested" not in refused.details


def test_a_budget_that_never_resets_is_a_cap():
    refused = refusal(exceeded(line("ever", Measure.calls, 5)), NOW)
    assert refused.code == "cap_exceeded" and "It never resets." in refused.message
    assert "resets_at" not in refused.details


def test_a_rolling_budget_returns_as_calls_become_older():
    refused = refusal(exceeded(line("rolling", Measure.calls, 5, rolling=3600)), NOW)
    assert refused.code == "budget_exceeded"
    assert "Capacity returns as calls become older than 60 min." in refused.message


@pytest.mark.parametrize(
    "seconds, words", [(5, "1 min"), (600, "10 min"), (7140, "119 min"), (7200, "2 h"), (86_400, "24 h")]
)
def test_the_reset_is_stated_in_minutes_or_hours(seconds, words):
    resetting = msgspec.structs.replace(line("day", Measure.calls, 5), resets_at=NOW + seconds)
    refused = refusal(exceeded(resetting), NOW)
    assert f"It resets in {words}." in refused.message
    assert refused.details["resets_in_seconds"] == seconds and str(refused.details["resets_at"]).endswith("Z")


def test_held_amounts_are_called_held_and_the_caller_is_asked_to_retry():
    amounts = {"spent": 0, "held": 3_840_000_000, "requested": 1_280_000_000, "is_held": True}
    refused = refusal(exceeded(line("session-usd", Measure.nusd, 5_000_000_000), **amounts), NOW, retry_after_seconds=2)
    assert refused.message == (
        "Budget 'session-usd' is held by calls in flight: 0 USD spent and 3.84 held of 5; this call needs a hold of 1.28. "
        "What those calls do not use is free again when they end: retry in 2 s."
    )
    assert (refused.code, refused.retry_after_seconds, refused.status) == ("budget_held", 2, None)
    figures = {name: refused.details[name] for name in ("used", "held", "limit", "requested")}
    assert figures == {"used": 0.0, "held": 3.84, "limit": 5.0, "requested": 1.28}


@pytest.mark.parametrize("measure", list(Measure))
def test_every_measure_has_words_for_held_amounts(measure):
    refused = refusal(exceeded(line("b", measure, 5_000), held=4_990, requested=100, is_held=True), NOW)
    assert refused.code == "budget_held" and "held of" in refused.message and "exceeded" not in refused.message
