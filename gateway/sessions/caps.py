"""What one session may take. Calls and dollars are budget lines whose scope is the session, so that they are reserved
together with all other budgets; wall clock is checked here."""

from ..accounting.budgets import SESSION_KEEP_SECONDS, Line
from ..values.catalog import Measure, SessionCaps
from ..values.plan import Refusal
from ..values.units import told
from .identity import Session

_HOUR_SECONDS = 3600


def lines_of(caps: SessionCaps, session: Session, key: str, *, now: float) -> tuple[Line, ...]:
    """The session's own budget lines; what its path took before it parted from another lowers them.

    Kept on the session for an hour, which also renews how long its accounts are remembered.
    """
    hour = int(now) // _HOUR_SECONDS
    if session.lines_hour == hour and session.lines_caps is caps:
        return session.lines
    limits = (
        (Measure.calls, "session-calls", caps.calls, session.inherited_calls),
        (Measure.nusd, "session-usd", caps.nusd, session.inherited_nusd),
    )
    session.lines = tuple(
        Line(
            account=account_of(name, key, session.id),
            name=name,
            measure=measure,
            limit=max(0, cap - inherited),
            resets_at=None,
            keep_until=now + SESSION_KEEP_SECONDS,
            session=True,
        )
        for measure, name, cap, inherited in limits
        if cap is not None
    )
    session.lines_hour, session.lines_caps = hour, caps
    return session.lines


def account_of(name: str, key: str, session_id: str) -> str:
    """The account of a session's cap, within the caller's key."""
    return f"{name}|key={key}|session={session_id}"


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
