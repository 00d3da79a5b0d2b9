"""The refusal of a request that exceeds a budget: figures, reset time, remedy."""

from datetime import UTC, datetime

from ..values.budget import MEASURE_UNITS, BudgetExceeded, BudgetLine
from ..values.plan import Refusal
from ..values.units import message_number

_DEFAULT_CONTACT = "ask the operator to raise it"


def refusal(exceeded: BudgetExceeded, now: float) -> Refusal:
    """The refusal for an exceeded budget; `now` in seconds since the epoch."""
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
    if exceeded.requested is None:
        worst_case = (
            f"the worst case of this call in {unit} is unknown, so it cannot be held (no price sheet or energy profile)"
        )
    else:
        details["requested"] = exceeded.requested / scale
        worst_case = f"this call may use up to {message_number(exceeded.requested / scale)}"
    if line.resets_at is not None:
        details["resets_at"] = datetime.fromtimestamp(line.resets_at, UTC).isoformat().replace("+00:00", "Z")
        details["resets_in_seconds"] = round(line.resets_at - now)
    return Refusal(
        code="cap_exceeded" if _never_resets(line) else "budget_exceeded",
        message=(
            f"Budget '{line.name}' exceeded: {message_number(used)} {unit} spent and {message_number(held)} held of"
            f" {message_number(limit)}; {worst_case}. {_reset_sentence(line, now)} Lower max_tokens, use a smaller model,"
            f" or {contact or _DEFAULT_CONTACT}."
        ),
        details=details,
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
