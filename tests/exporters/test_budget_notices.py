"""Budget notices: what is sent, and how often."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import structs

from gateway.exporters.budget_notices import BudgetNotifier
from gateway.values.budget import BudgetLine, Measure, ThresholdCrossing
from tests import budget_lines
from tests.budget_lines import NOW

HOUR_SECONDS = 3600.0


class Sent(list[Mapping[str, Any]]):
    """The events that a notifier sent."""

    def __init__(self) -> None:
        super().__init__()
        self.notifier = BudgetNotifier(self.append)

    def crossed(self, line: BudgetLine, percent: int = 50, *, spent: int = 1, at: float = NOW) -> None:
        self.notifier.notify(ThresholdCrossing(line=line, percent=percent, spent=spent, crossed_at=at))


def test_a_notice_names_the_budget_and_its_figures(caplog):
    sent = Sent()
    with caplog.at_level(logging.WARNING):
        line = budget_lines.line("day", Measure.nusd, 2_000_000_000)
        sent.crossed(structs.replace(line, resets_at=NOW + 9), percent=80, spent=1_600_000_000)
    (event,) = sent
    assert event == {
        "id": f"day:80:{NOW:.0f}", "kind": "budget_threshold", "at": NOW, "budget": "day", "account": "day", "percent": 80,
        "unit": "USD", "spent": 1.6, "limit": 2.0, "resets_at": NOW + 9,
    }  # fmt: skip
    assert "budget_threshold_crossed budget=day percent=80" in caplog.text


@pytest.mark.parametrize(
    "measure, amount, unit, figure",
    [
        (Measure.nusd, 1_500_000_000, "USD", 1.5), (Measure.tokens, 7, "tokens", 7), (Measure.calls, 3, "calls", 3),
        (Measure.millijoules, 1_800_000, "Wh", 0.5), (Measure.micrograms, 2_000_000, "gCO2e", 2),
    ],
    ids=["money", "tokens", "calls", "energy", "carbon"],
)  # fmt: skip
def test_amounts_are_in_the_unit_of_the_measure(measure, amount, unit, figure):
    sent = Sent()
    sent.crossed(budget_lines.line("b", measure, 2 * amount), spent=amount)
    assert [(event["unit"], event["spent"], event["limit"]) for event in sent] == [(unit, figure, 2 * figure)]


def test_a_percentage_is_notified_once_in_a_window():
    sent, line = Sent(), budget_lines.line("day", Measure.calls, 10)
    for at in (NOW, NOW + 1, NOW + 10 * HOUR_SECONDS):
        sent.crossed(line, 50, at=at)
    sent.crossed(line, 80, at=NOW + 2)
    assert [event["percent"] for event in sent] == [50, 80]
    assert sent.notifier.counts == {("day", "50"): 1, ("day", "80"): 1}


def test_a_rolling_window_is_notified_again_after_an_hour():
    sent, line = Sent(), budget_lines.line("rolling", Measure.calls, 10, rolling=7200)
    for at in (NOW, NOW + HOUR_SECONDS - 1, NOW + HOUR_SECONDS, NOW + HOUR_SECONDS + 1):
        sent.crossed(line, at=at)
    assert [event["at"] for event in sent] == [NOW, NOW + HOUR_SECONDS]
    assert len({event["id"] for event in sent}) == 2


def test_each_account_has_its_own_notices():
    sent = Sent()
    for name in ("ada", "bob", "ada"):
        sent.crossed(budget_lines.line(name, Measure.calls, 10))
    assert [event["account"] for event in sent] == ["ada", "bob"]


def test_the_id_of_an_account_with_other_letters_is_ascii():
    sent = Sent()
    sent.crossed(budget_lines.line("tüv", Measure.calls, 10))
    assert sent[0]["id"] == f"t?v:50:{NOW:.0f}"
    assert sent[0]["account"] == "tüv"


def test_the_memory_of_sent_notices_is_bounded(caplog):
    caplog.set_level(logging.ERROR)
    sent, first, other = Sent(), *(budget_lines.line(name, Measure.calls, 10) for name in ("first", "other"))
    sent.crossed(first)
    for percent in range(10_000):
        sent.crossed(other, percent)
    sent.crossed(first)
    assert [event["account"] for event in sent].count("first") == 2, "the oldest is forgotten and sent again"
