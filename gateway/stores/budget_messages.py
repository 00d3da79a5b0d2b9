"""Key names and messages of the budget store's scripts. Pure."""

from collections.abc import Callable, Sequence

import orjson

from ..accounting.budget_lines import SESSION_KEEP_SECONDS
from ..values.budget import BudgetExceeded, BudgetLine, HoldOption, Reservation

# Seconds that accounts outlive their window, for late settlements.
_RETENTION_SLACK_SECONDS = 2 * 86_400


def tenant_key(tenant: str, name: str) -> str:
    """A Redis key of the tenant; all of them share its hash tag."""
    return f"penstock:{{{tenant}}}:{name}"


def account_key(tenant: str, line: BudgetLine) -> str:
    """The Redis key of the line's account."""
    return f"penstock:{{{tenant}}}:account:{line.account}"


def total_name(line: BudgetLine, at: float) -> str:
    """Name of a replica's total: the account, and its bucket at `at` if rolling."""
    return f"{line.account}:{int(at) // line.bucket_seconds}" if line.bucket_seconds else line.account


def retention_seconds(line: BudgetLine, at: float) -> int:
    """Seconds to keep an account that changes at `at`; 0: forever."""
    if line.bucket_seconds:
        return line.bucket_seconds * line.bucket_count + _RETENTION_SLACK_SECONDS
    if line.is_session_account:
        return int(SESSION_KEEP_SECONDS) + _RETENTION_SLACK_SECONDS
    return 0 if line.resets_at is None else max(1, int(line.resets_at - at)) + _RETENTION_SLACK_SECONDS


def reserve_request(
    reservation_id: str,
    offers: Sequence[HoldOption],
    lines: Sequence[BudgetLine],
    *,
    replica: str,
    epoch: str,
    lease: float,
    at: float,
    needs_total: Callable[[BudgetLine], bool],
) -> str:
    """The JSON argument of reserve.lua: the lines, and offers that index them.

    `needs_total` selects lines whose answer should include this replica's own total.
    """
    line_indices = {line.account: index for index, line in enumerate(lines)}
    return orjson.dumps(
        {
            "id": reservation_id,
            "epoch": epoch,
            "replica": replica,
            "lease": round(lease),
            "lines": [_line_fields(line, at, needs_total=needs_total(line)) for line in lines],
            "offers": [_offer_fields(offer, line_indices) for offer in offers],
        }
    ).decode()


def parse_reservation(
    reservation_id: str,
    offers: Sequence[HoldOption],
    lines: Sequence[BudgetLine],
    answer: Sequence[bytes],
    expires_at: float,
) -> Reservation:
    """Parse the reservation from reserve.lua's answer.

    The answer is 'yes', offer index, output tokens or -1, index of the exceeded line or -1, change count, time in ms,
    then spent, held and granted of each line of the offer, then the replica's own totals.
    """
    choice, output, exceeded = int(answer[1]), int(answer[2]), int(answer[3])
    offer = offers[choice]
    figures = [int(part) for part in answer[6 : 6 + 3 * len(offer.lines)]]
    amounts = tuple([amount or 0 for amount in offer.amounts])
    if output >= 0 and offer.shrinkage is not None:
        amounts = offer.shrinkage.amounts_at(output)
    return Reservation(
        id=reservation_id,
        option_index=choice,
        lines=offer.lines,
        amounts=amounts,
        balances=tuple(zip(figures[::3], figures[1::3], figures[2::3], strict=True)),
        expires_at=expires_at,
        reserved_at=int(answer[5]) / 1000,
        output_tokens=output if output >= 0 else None,
        exceeded_budget=lines[exceeded].name if exceeded >= 0 else "",
    )


def parse_exceeded(offers: Sequence[HoldOption], answer: Sequence[bytes]) -> BudgetExceeded:
    """Parse the refusal from reserve.lua's answer.

    The answer is 'no', offer index, index of its line, spent, held and granted of the line, 1 if only holds are in the
    way, and the amount requested or -1.
    """
    spent, held, granted, is_held, requested = [int(part) for part in answer[3:8]]
    return BudgetExceeded(
        line=offers[int(answer[1])].lines[int(answer[2])],
        spent=spent,
        held=held,
        granted=granted,
        requested=None if requested < 0 else requested,
        is_held=bool(is_held),
    )


def parse_own_totals(offer: HoldOption, answer: Sequence[bytes]) -> list[tuple[BudgetLine, int]]:
    """The store's totals of this replica by line; 0 where not requested."""
    return [(line, int(part)) for line, part in zip(offer.lines, answer[6 + 3 * len(offer.lines) :], strict=True)]


def _line_fields(line: BudgetLine, at: float, *, needs_total: bool) -> dict[str, object]:
    return {
        "account": line.account,
        "needs_total": needs_total,
        "ceiling": line.ceiling,
        "starts_at": line.starts_at,
        "resets_at": -1 if line.resets_at is None else line.resets_at,
        "bucket_seconds": line.bucket_seconds,
        "bucket_count": line.bucket_count,
        "retention_seconds": retention_seconds(line, at),
        "is_shadow": line.budget.is_shadow,
    }


def _offer_fields(offer: HoldOption, line_indices: dict[str, int]) -> dict[str, object]:
    shrinkage = offer.shrinkage
    return {
        "lines": [line_indices[line.account] for line in offer.lines],
        "amounts": [-1 if amount is None else amount for amount in offer.amounts],
        "ceilings": offer.ceilings,
        "shrinkage": None
        if shrinkage is None
        else {
            "fixed_amounts": shrinkage.fixed_amounts,
            "amounts_per_token": shrinkage.amounts_per_token,
            "output_tokens_max": shrinkage.output_tokens_max,
            "output_tokens_min": shrinkage.output_tokens_min,
            "thresholds": shrinkage.thresholds,
            "ceilings": shrinkage.ceilings,
        },
    }
