"""Key names and messages of the budget store's scripts."""

import json

import pytest
from msgspec import structs

from gateway.stores.budget_messages import (
    account_key,
    parse_exceeded,
    parse_own_totals,
    parse_reservation,
    reserve_request,
    retention_seconds,
    tenant_key,
    total_name,
)
from gateway.values.budget import BudgetLine, HoldOption, Measure, Shrinkage
from tests.budget_lines import NOW, line, offer

DAY = 86_400
MONEY = line("money", Measure.nusd, 1000)
ROLLING = line("rolling", Measure.calls, 9, rolling=60)
LINES = (MONEY, ROLLING)


def test_every_key_of_a_tenant_has_its_hash_tag():
    assert tenant_key("acme", "epoch") == "penstock:{acme}:epoch"
    assert account_key("acme", MONEY) == "penstock:{acme}:account:money"


def test_a_rolling_total_is_named_after_its_bucket():
    assert total_name(MONEY, NOW) == "money"
    assert total_name(ROLLING, 120.9) == "rolling:120"
    assert total_name(line("hourly", Measure.calls, 9, rolling=3600), 120.9) == "hourly:2"


@pytest.mark.parametrize(
    "kept, seconds",
    [
        (MONEY, 0),
        (ROLLING, ROLLING.bucket_seconds * ROLLING.bucket_count + 2 * DAY),
        (line("s", Measure.nusd, 1, session=True), 3 * DAY),
        (structs.replace(MONEY, resets_at=NOW + 100), 2 * DAY + 100),
        (structs.replace(MONEY, resets_at=NOW - 100), 2 * DAY + 1),
    ],
    ids=["forever", "rolling", "session", "calendar", "ended"],
)
def test_accounts_outlive_their_window_for_late_settlements(kept: BudgetLine, seconds: int):
    assert retention_seconds(kept, NOW) == seconds


def request_of(*offers: HoldOption, lines: tuple[BudgetLine, ...] = LINES) -> dict[str, object]:
    text = reserve_request(
        "r1", offers, lines, replica="one", epoch="e", lease=59.6, at=NOW, needs_total=lambda each: each is MONEY
    )
    document: dict[str, object] = json.loads(text)
    return document


def test_a_reserve_request_names_lines_once_and_offers_index_them():
    document = request_of(offer(LINES, (90, None)), offer((ROLLING,), (1,), ceilings=(5,)))
    assert {name: document[name] for name in ("id", "epoch", "replica", "lease")} == {
        "id": "r1", "epoch": "e", "replica": "one", "lease": 60,
    }  # fmt: skip
    assert document["lines"] == [
        {
            "account": "money", "needs_total": True, "ceiling": 1000, "starts_at": 0.0, "resets_at": -1,
            "bucket_seconds": 0, "bucket_count": 0, "retention_seconds": 0, "is_shadow": False,
        },
        {
            "account": "rolling", "needs_total": False, "ceiling": 9, "starts_at": 0.0, "resets_at": -1,
            "bucket_seconds": 1, "bucket_count": 61, "retention_seconds": 61 + 2 * DAY, "is_shadow": False,
        },
    ]  # fmt: skip
    assert document["offers"] == [
        {"lines": [0, 1], "amounts": [90, -1], "ceilings": [1000, 9], "shrinkage": None},
        {"lines": [1], "amounts": [1], "ceilings": [5], "shrinkage": None},
    ]


SHRINKABLE = offer(
    LINES,
    (900, 1),
    shrinkage=Shrinkage(
        fixed_amounts=(100, 1), amounts_per_token=(4, 0), output_tokens_max=200, output_tokens_min=20,
        thresholds=(800, 9), ceilings=(1000, 9),
    ),
)  # fmt: skip


def test_a_reserve_request_carries_how_an_offer_shrinks():
    offers = request_of(SHRINKABLE)["offers"]
    assert isinstance(offers, list)
    assert offers[0]["shrinkage"] == {
        "fixed_amounts": [100, 1], "amounts_per_token": [4, 0], "output_tokens_max": 200, "output_tokens_min": 20,
        "thresholds": [800, 9], "ceilings": [1000, 9],
    }  # fmt: skip


def yes(choice: int, output: int, exceeded: int, *figures: int) -> list[bytes]:
    """An answer of reserve.lua at NOW."""
    parts = ("yes", choice, output, exceeded, 7, round(NOW * 1000), *figures)
    return [str(part).encode() for part in parts]


def test_the_chosen_offer_is_parsed_with_its_balances():
    offers = [offer((MONEY,), (900,)), offer(LINES, (90, None))]
    reserved = parse_reservation("r1", offers, LINES, yes(1, -1, 0, 10, 90, 5, 2, 3, 0), NOW + 60)
    assert (reserved.option_index, reserved.lines, reserved.amounts) == (1, LINES, (90, 0))
    assert reserved.balances == ((10, 90, 5), (2, 3, 0))
    assert (reserved.id, reserved.expires_at, reserved.reserved_at) == ("r1", NOW + 60, NOW)
    assert (reserved.output_tokens, reserved.exceeded_budget) == (None, "money")


def test_a_shrunk_hold_is_computed_from_its_output_tokens():
    reserved = parse_reservation("r1", [SHRINKABLE], LINES, yes(0, 150, -1, 0, 700, 0, 0, 1, 0), NOW + 60)
    assert (reserved.amounts, reserved.output_tokens, reserved.exceeded_budget) == ((700, 1), 150, "")


def test_a_refusal_is_parsed_with_its_line_and_figures():
    offers = [offer((MONEY,), (900,)), offer(LINES, (None, 3))]
    held = parse_exceeded(offers, [b"no", b"1", b"1", b"5", b"4", b"1", b"1", b"3"])
    assert (held.line, held.spent, held.held, held.granted, held.requested) == (ROLLING, 5, 4, 1, 3)
    assert held.is_held
    spent = parse_exceeded(offers, [b"no", b"1", b"0", b"5", b"4", b"1", b"0", b"-1"])
    assert (spent.line, spent.requested, spent.is_held) == (MONEY, None, False)


def test_the_replicas_own_totals_follow_the_balances():
    answer = yes(0, -1, -1, 0, 90, 0, 0, 1, 0, 55, 0)
    assert parse_own_totals(offer(LINES, (90, 1)), answer) == [(MONEY, 55), (ROLLING, 0)]
