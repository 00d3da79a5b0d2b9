"""What one session may take. Calls and dollars are budget lines whose scope is the session, so that they are reserved
together with all other budgets; wall clock is checked here."""

from msgspec import structs

from ..accounting.lines import SESSION_KEEP_SECONDS, quoted
from ..values.budget import Budget, Line, Measure, Met, SessionCaps
from ..values.plan import Refusal
from ..values.units import told
from .identity import Session

_HOUR_SECONDS = 3600


def lines_of(caps: SessionCaps, session: Session, key: str, *, now: float) -> Met:
    """The session's own budget lines; what its path took before it parted from another lowers them.

    Kept on the session for an hour, which also renews how long its accounts are remembered.
    """
    hour = int(now) // _HOUR_SECONDS
    if session.lines_hour == hour and session.lines_caps is caps:
        return session.lines
    whose = f"key={quoted(key)}/session={quoted(session.root)}|session"
    keep_until = now + SESSION_KEEP_SECONDS
    lines = tuple(
        [
            Line(
                account=f"{budget.name}|{whose}",
                budget=budget,
                ceiling=max(0, budget.refuse - _inherited(budget, session)),
                keep_until=keep_until,
                session=True,
            )
            for budget in caps.budgets
        ]
    )
    ceilings = tuple([line.ceiling for line in lines])
    session.lines = structs.replace(caps.blank, lines=lines, ceilings=ceilings)
    session.lines_hour, session.lines_caps = hour, caps
    return session.lines


def overtime(caps: SessionCaps, session: Session, *, now: float) -> Refusal | None:
    """A refusal once the session has run longer than it may."""
    if caps.seconds is None or now - session.started_at <= caps.seconds:
        return None
    minutes, cap = (now - session.started_at) / 60, caps.seconds / 60
    return Refusal(
        code="session_time_exceeded",
        message=(
            f"This session has run for {told(minutes)} minutes; its cap is {told(cap)}. "
            "Start a new session, or ask the operator to raise sessions.caps.minutes."
        ),
        details={"session": session.id, "used_minutes": round(minutes, 1), "limit_minutes": cap},
    )


def _inherited(budget: Budget, session: Session) -> int:
    if budget.measure is Measure.calls:
        return session.inherited_calls
    return session.inherited_nusd if budget.measure is Measure.nusd else 0
