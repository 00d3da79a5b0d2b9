"""The refusal of a request that does not fit a budget: figures, reset time or time to retry, remedy."""

from datetime import UTC, datetime

from ..values.budget import MEASURE_UNITS, BudgetExceeded, BudgetLine, Measure
from ..values.plan import Refusal
from ..values.units import message_number

_DEFAULT_CONTACT = "ask the operator to raise it"
# Measure of a budget -> (what is unknown of the call, why, what the operator can set).
_UNKNOWN_WORST_CASES = {
    Measure.nusd: ("Price", "no price sheet covers it", "a price"),
    Measure.tokens: ("Token count", "the provider reports no usage for it", "another kind of limit"),
    Measure.millijoules: ("Energy", "no energy profile covers it", "an energy profile"),
    Measure.micrograms: ("Carbon", "no energy profile covers it", "an energy profile"),
}


def refusal(exceeded: BudgetExceeded, now: float, *, retry_after_seconds: int = 1) -> Refusal:
    """The refusal for a budget that a call does not fit.

    now: seconds since the epoch
    retry_after_seconds: when to try again while only holds of other calls are in the way
    """
    line = exceeded.line
    unit, scale = MEASURE_UNITS[line.measure]
    used, held = exceeded.spent / scale, exceeded.held / scale
    limit = (line.ceiling + exceeded.granted) / scale
    contact = line.budget.contact
    details: dict[str, object] = {
        "budget": line.name, "account": line.account, "unit": unit, "window": line.budget.window.kind,
        "used": used, "held": held, "limit": limit, "remaining": max(0.0, limit - used - held),
        "contact": contact or _DEFAULT_CONTACT,
    }  # fmt: skip
    if exceeded.requested is not None:
        details["requested"] = exceeded.requested / scale
    if line.resets_at is not None:
        details["resets_at"] = datetime.fromtimestamp(line.resets_at, UTC).isoformat().replace("+00:00", "Z")
        details["resets_in_seconds"] = round(line.resets_at - now)
    if exceeded.is_held and exceeded.requested is not None:
        message = (
            f"Budget '{line.name}' is held by calls in flight: {message_number(used)} {unit} spent and"
            f" {message_number(held)} held of {message_number(limit)}; this call needs a hold of"
            f" {message_number(exceeded.requested / scale)}. What those calls do not use is free again when they end:"
            f" retry in {retry_after_seconds} s."
        )
        return Refusal(code="budget_held", message=message, details=details, retry_after_seconds=retry_after_seconds)
    if exceeded.requested is None:
        message = _unknown_worst_case(line, unit)
    else:
        message = (
            f"Budget '{line.name}' exceeded: {message_number(used)} {unit} spent and {message_number(held)} held of"
            f" {message_number(limit)}; this call may use up to {message_number(exceeded.requested / scale)}."
            f" {_reset_sentence(line, now)} Lower max_tokens, use a smaller model, or {contact or _DEFAULT_CONTACT}."
        )
    return Refusal(code="cap_exceeded" if _never_resets(line) else "budget_exceeded", message=message, details=details)


def _unknown_worst_case(line: BudgetLine, unit: str) -> str:
    """The message where the worst case of the call is unknown: less use or a later time does not help."""
    subject, cause, remedy = _UNKNOWN_WORST_CASES[line.measure]
    return (
        f"{subject} unknown: budget '{line.name}' ({unit}) cannot admit a call whose worst case is unknown ({cause})."
        f" Use another model, or ask the operator to set {remedy}."
    )


def _never_resets(line: BudgetLine) -> bool:
    return line.resets_at is None and not line.bucket_seconds


def _reset_sentence(line: BudgetLine, now: float) -> str:
    if line.bucket_seconds:
        return f"Capacity returns as calls become older than {_duration(line.budget.window.seconds)}."
    if line.resets_at is None:
        return "It never resets."
    return f"It resets in {_duration(line.resets_at - now)}."


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
