"""How a replica and the shared store's scripts speak: the names of keys, the question of a reservation, its answer.
Pure."""

from collections.abc import Callable, Sequence

import orjson

from ..accounting.budget_lines import SESSION_KEEP_SECONDS
from ..values.budget import BudgetLine, HoldOption, Reservation

# Accounts outlive their window by so much, for settlements that come late; those of a session a little less.
_RETENTION_SLACK_SECONDS = 2 * 86_400


def tenant_key(tenant: str, name: str) -> str:
    """A key of a tenant: all of them share its hash tag."""
    return f"penstock:{{{tenant}}}:{name}"


def account_key(tenant: str, line: BudgetLine) -> str:
    """Where the line's account lies."""
    return f"penstock:{{{tenant}}}:account:{line.account}"


def total_name(line: BudgetLine, at: float) -> str:
    """What a replica's total is kept for: the account, of a rolling one the step of `at`."""
    return f"{line.account}:{int(at) // line.bucket_seconds}" if line.bucket_seconds else line.account


def retention_seconds(line: BudgetLine, at: float) -> int:
    """Seconds for which an account is kept after it was touched at `at`; 0 for ever."""
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
    unknown: Callable[[BudgetLine], bool],
) -> str:
    """What reserve.lua is asked, as JSON: each line once, and the offers by their lines' places. `unknown` lines are those
    of which the replica wants to hear its own total."""
    places = {line.account: place for place, line in enumerate(lines)}
    return orjson.dumps(
        {
            "id": reservation_id,
            "epoch": epoch,
            "replica": replica,
            "lease": round(lease),
            "lines": [_line_fields(line, at, base=unknown(line)) for line in lines],
            "offers": [_offer_fields(offer, places) for offer in offers],
        }
    ).decode()


def parse_reservation(
    reservation_id: str,
    offers: Sequence[HoldOption],
    lines: Sequence[BudgetLine],
    answer: Sequence[bytes],
    expires_at: float,
) -> Reservation:
    """The reservation that reserve.lua took: 'yes', offer, output or -1, line in the way or -1, count of changes, time in
    ms, then spent, held and granted of each line of the offer, then the replica's own totals."""
    choice, output, passed = int(answer[1]), int(answer[2]), int(answer[3])
    offer = offers[choice]
    figures = [int(part) for part in answer[6 : 6 + 3 * len(offer.lines)]]
    amounts = tuple([amount or 0 for amount in offer.amounts])
    if output >= 0 and offer.shrinkage is not None:
        smaller = offer.shrinkage
        amounts = tuple(
            [base + each * output for base, each in zip(smaller.fixed_amounts, smaller.amounts_per_token, strict=True)]
        )
    return Reservation(
        id=reservation_id,
        option_index=choice,
        lines=offer.lines,
        amounts=amounts,
        balances=tuple(zip(figures[::3], figures[1::3], figures[2::3], strict=True)),
        expires_at=expires_at,
        reserved_at=int(answer[5]) / 1000,
        output_tokens=output if output >= 0 else None,
        exceeded_budget=lines[passed].name if passed >= 0 else "",
    )


def parse_own_totals(offer: HoldOption, answer: Sequence[bytes]) -> list[tuple[BudgetLine, int]]:
    """What the store has of the replica's totals on the lines of an offer that was taken; 0 where it was not asked."""
    return [(line, int(part)) for line, part in zip(offer.lines, answer[6 + 3 * len(offer.lines) :], strict=True)]


def _line_fields(line: BudgetLine, at: float, *, base: bool) -> dict[str, object]:
    return {
        "account": line.account,
        "base": base,
        "ceiling": line.ceiling,
        "starts": line.starts_at,
        "resets": -1 if line.resets_at is None else line.resets_at,
        "step": line.bucket_seconds,
        "steps": line.bucket_count,
        "keep": retention_seconds(line, at),
        "shadow": line.budget.is_shadow,
    }


def _offer_fields(offer: HoldOption, places: dict[str, int]) -> dict[str, object]:
    smaller = offer.shrinkage
    return {
        "lines": [places[line.account] for line in offer.lines],
        "wanted": [-1 if amount is None else amount for amount in offer.amounts],
        "ceilings": offer.ceilings,
        "smaller": None
        if smaller is None
        else {
            "fixed": smaller.fixed_amounts,
            "per_token": smaller.amounts_per_token,
            "most": smaller.output_tokens_max,
            "least": smaller.output_tokens_min,
            "thresholds": smaller.thresholds,
            "ceilings": smaller.ceilings,
        },
    }
