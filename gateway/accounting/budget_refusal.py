"""What an agent is told when a budget has no room: which one, how it stands, when it starts again, how to get more."""

from datetime import UTC, datetime

from ..values.budget import MEASURE_UNITS, BudgetExceeded, BudgetLine
from ..values.plan import Refusal
from ..values.units import message_number

_DEFAULT_CONTACT = "ask the operator to raise it"


def refusal(exceeded: BudgetExceeded, now: float) -> Refusal:
    """The refusal for a budget that no attempt fits; `now` in seconds since the epoch."""
    line = exceeded.line
    unit, scale = MEASURE_UNITS[line.measure]
    used, held = exceeded.spent / scale, exceeded.held / scale
    limit = (line.ceiling + exceeded.granted) / scale
    contact = line.budget.contact
    details: dict[str, object] = {
        "budget": line.name, "account": line.account, "unit": unit, "window": line.budget.window.kind,
        "used": used, "held": held, "limit": limit, "remaining": max(0.0, limit - used - held),
        "ask": contact or _DEFAULT_CONTACT,
    }  # fmt: skip
    if exceeded.requested is None:
        wants = (
            f"what this call may take in {unit} is not known, so it cannot be held (no price sheet or energy profile)"
        )
    else:
        details["wanted"] = exceeded.requested / scale
        wants = f"this call may take up to {message_number(exceeded.requested / scale)}"
    if line.resets_at is not None:
        details["resets_at"] = datetime.fromtimestamp(line.resets_at, UTC).isoformat().replace("+00:00", "Z")
        details["resets_in_seconds"] = round(line.resets_at - now)
    return Refusal(
        code="cap_exceeded" if _never_resets(line) else "budget_exceeded",
        message=(
            f"Budget '{line.name}' is used up: {message_number(used)} {unit} spent and {message_number(held)} held of {message_number(limit)}; {wants}. "
            f"{_reset_sentence(line, now)} Lower max_tokens, ask for a smaller model, or {contact or _DEFAULT_CONTACT}."
        ),
        details=details,
    )


def _never_resets(line: BudgetLine) -> bool:
    return line.resets_at is None and not line.bucket_seconds


def _reset_sentence(line: BudgetLine, now: float) -> str:
    if line.bucket_seconds:
        return f"Room comes back as calls become older than {_duration(line.budget.window.seconds)}."
    if line.resets_at is None:
        return "It does not start again by itself."
    return f"It starts again in {_duration(line.resets_at - now)}."


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
