"""The refusal of a request that does not fit a budget: figures, reset time or time to retry, remedy."""

from datetime import UTC, datetime

from ..values.budget import MEASURE_UNITS, BudgetExceeded, BudgetLine, Measure
from ..values.plan import Attempt, Refusal
from ..values.units import message_number

_DEFAULT_CONTACT = "ask the operator to raise it"
# Measure of a budget -> (code, how the message begins, why the worst case is unknown, what the operator can set).
_UNKNOWN_WORST_CASES = {
    Measure.nusd: ("unpriced", "Unpriced", "no price sheet covers it", "a price"),
    Measure.millijoules: ("energy_unknown", "Energy unknown", "no energy profile covers it", "an energy profile"),
    Measure.micrograms: ("carbon_unknown", "Carbon unknown", "no energy profile covers it", "an energy profile"),
}


def refusal(
    exceeded: BudgetExceeded, now: float, *, retry_after_seconds: int = 1, attempt: Attempt | None = None
) -> Refusal:
    """The refusal for a budget that a call does not fit.

    now: seconds since the epoch
    retry_after_seconds: when to try again while only holds of other calls are in the way
    attempt: the call, where its worst case may be unknown
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
        code, message = _unknown_worst_case(line, unit, attempt)
        return Refusal(code=code, message=message, details=details)
    message = (
        f"Budget '{line.name}' exceeded: {message_number(used)} {unit} spent and {message_number(held)} held of"
        f" {message_number(limit)}; this call may use up to {message_number(exceeded.requested / scale)}."
        f" {_reset_sentence(line, now)} Lower max_tokens, use a smaller model, or {contact or _DEFAULT_CONTACT}."
    )
    return Refusal(code="cap_exceeded" if _never_resets(line) else "budget_exceeded", message=message, details=details)


def _unknown_worst_case(line: BudgetLine, unit: str, attempt: Attempt | None) -> tuple[str, str]:
    """Code and message where the worst case of the call is unknown: less use or a later time does not help."""
    code, subject, cause, remedy = _UNKNOWN_WORST_CASES[line.measure]
    if attempt is not None:
        cause = attempt.unpriced if line.measure is Measure.nusd else _unknown_energy(attempt, cause)
    message = (
        f"{subject}: {cause}. Budget '{line.name}' ({unit}) holds no call whose worst case is unknown, however much of it is"
        f" left. Use another model, or ask the operator to set {remedy}."
    )
    return code, message


def _unknown_energy(attempt: Attempt, cause: str) -> str:
    deployment = attempt.deployment
    if deployment.energy_models is not None:
        return cause
    return f"the size of model '{deployment.model}' at '{deployment.name}' is unknown"


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
