"""What one run may take. Its caps are budget lines whose scope is the session, so that they are reserved together with
all other budgets; wall clock, and how deep a tree may be, are checked here.

Three kinds: the operator's for a whole tree (scope: the session at its head) and for each session of it alone, and those
that whoever started a run has set for it and all that it starts. None of them loosens another.
"""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from ..accounting.budget_lines import SESSION_KEEP_SECONDS, quoted
from ..values.budget import CAP_MEASURES, LIMIT_MAX, UNITS, Budget, Line, Met, SessionCaps, cap, met, tighter
from ..values.errors import BadRequest
from ..values.plan import Refusal
from ..values.units import told
from .session_index import Session

_HOUR_SECONDS = 3600
# A run's own caps in minutes are below a month, its tree below so many levels and sub-agents.
_MINUTES_MAX, _DEPTH_MAX, _AGENTS_MAX = 43_200, 64, 1_000_000
_ASKED_CHARS_MAX = 400


def lines_of(caps: SessionCaps, session: Session, key: str, *, now: float) -> Met:
    """The budget lines of a session's caps; what its path took before it parted from another lowers them.

    Kept on the session for an hour, which also renews how long its accounts are remembered.
    """
    stamp = (int(now) // _HOUR_SECONDS, id(caps), session.own_version, session.admitted)
    if session.above:
        stamp = (*stamp[:2], sum([one.own_version for one in (session, *session.above)]), session.admitted)
    if session.lines_stamp != stamp:
        keep_until = now + SESSION_KEEP_SECONDS
        session.lines = met(tuple(_lines(caps, session, f"key={quoted(key)}", keep_until)))
        session.lines_stamp = stamp
    return session.lines


def _lines(caps: SessionCaps, session: Session, whose: str, keep_until: float) -> Iterator[Line]:
    for budget in caps.budgets:
        yield _line(budget, whose, session.root, keep_until, _inherited(budget, session))
    for budget in caps.each:
        yield _line(budget, whose, session.id, keep_until, _inherited(budget, session))
    joins = bool(session.parent) and not session.admitted
    if joins and caps.sub_agents is not None:
        yield _line(caps.sub_agents, whose, session.root, keep_until, 0)
    for holder in (session, *session.above):
        own = holder.own
        if own is None:
            continue
        for budget in own.budgets:
            yield _line(budget, whose, holder.id, keep_until, _inherited(budget, holder))
        if joins and holder is not session and own.sub_agents is not None:
            yield _line(own.sub_agents, whose, holder.id, keep_until, 0)


def tighten(session: Session, more: SessionCaps) -> bool:
    """Set caps for the session beside those that it has, of which none is loosened; False if that changes nothing."""
    own = more if session.own is None else tighter(session.own, more)
    if own == session.own:
        return False
    session.own, session.own_version = own, session.own_version + 1
    return True


def own_lines(session: Session, key: str, *, now: float) -> tuple[Line, ...]:
    """The lines of the session's own caps."""
    own = session.own.budgets if session.own is not None else ()
    keep_until = now + SESSION_KEEP_SECONDS
    return tuple([_line(budget, f"key={quoted(key)}", session.id, keep_until, 0) for budget in own])


def _line(budget: Budget, whose: str, session: str, keep_until: float, inherited: int) -> Line:
    return Line(
        account=f"{budget.name}|{whose}/session={quoted(session)}|session",
        budget=budget,
        ceiling=max(0, budget.refuse - inherited),
        keep_until=keep_until,
        session=True,
    )


def beyond(caps: SessionCaps, session: Session, *, now: float) -> Refusal | None:
    """A refusal once the session, or one above it, has run longer than it may, or lies deeper in its tree than it may."""
    for ran, limit in _clocks(caps, session, now):
        if ran > limit:
            return _late(session, ran, limit)
    for levels, holder in enumerate((session, *session.above)):
        most = holder.own.depth if holder.own is not None else None
        if most is not None and levels > most:
            return _deep(session, levels, most)
    if caps.depth is not None and session.depth > caps.depth:
        return _deep(session, session.depth, caps.depth)
    return None


def seconds_left(caps: SessionCaps, session: Session, *, now: float) -> float:
    """How long the session, and those above it, may still run; endlessly without such a cap."""
    return min((limit - ran for ran, limit in _clocks(caps, session, now)), default=math.inf)


def _clocks(caps: SessionCaps, session: Session, now: float) -> Iterator[tuple[float, float]]:
    """(how long it has run, how long it may) of every cap in minutes."""
    for holder in (session, *session.above):
        limits = [holder.own.seconds if holder.own is not None else None]
        if holder.id == session.root or not holder.parent:
            limits.append(caps.seconds)
        for limit in limits:
            if limit is not None:
                yield now - holder.started_at, limit + holder.more_seconds


def asked(text: str) -> SessionCaps:
    """A run's own caps as a header tells them: `usd=2, minutes=20`. Raises BadRequest."""
    if len(text) > _ASKED_CHARS_MAX:
        raise BadRequest(f"A run's caps are told in at most {_ASKED_CHARS_MAX} characters.", param="caps")
    told_caps: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        if name.strip() in told_caps:
            raise BadRequest("A run's caps are told once each.", param="caps")
        told_caps[name.strip()] = value.strip()
    return asked_of(told_caps)


def asked_of(told_caps: Mapping[str, Any]) -> SessionCaps:
    """A run's own caps: calls, usd, tokens, wh, minutes, depth, sub_agents. Raises BadRequest."""
    unknown = set(told_caps) - {*CAP_MEASURES, "minutes", "depth", "sub_agents"}
    if unknown:
        known = ", ".join((*CAP_MEASURES, "minutes", "depth", "sub_agents"))
        name = min(unknown).encode("ascii", "replace").decode()[:40]
        raise BadRequest(f"'{name}' is no cap of a run; there are {known}.", param="caps")
    budgets = []
    for unit, measure in CAP_MEASURES.items():
        if unit in told_caps:
            scale = UNITS[measure][1]
            amount = int(_number(unit, told_caps[unit], LIMIT_MAX / scale) * scale)
            budgets.append(cap("run", unit, amount))
    minutes = _number("minutes", told_caps["minutes"], _MINUTES_MAX) if "minutes" in told_caps else None
    agents = int(_number("sub_agents", told_caps["sub_agents"], _AGENTS_MAX)) if "sub_agents" in told_caps else None
    return SessionCaps(
        budgets=tuple(budgets),
        sub_agents=cap("run", "sub-agents", agents) if agents is not None else None,
        seconds=float(minutes * 60) if minutes is not None else None,
        depth=int(_number("depth", told_caps["depth"], _DEPTH_MAX)) if "depth" in told_caps else None,
    )


def raised(own: SessionCaps | None, more: SessionCaps) -> SessionCaps | None:
    """A run's own caps raised by so much, by an operator; what it has no cap for stays so."""
    if own is None:
        return None
    by_name = {budget.name: budget.limit for budget in more.budgets}
    budgets = tuple(
        cap("run", one.name.partition("-")[2], min(LIMIT_MAX, one.limit + by_name.get(one.name, 0)))
        for one in own.budgets
    )
    agents = own.sub_agents
    if agents is not None and more.sub_agents is not None:
        agents = cap("run", "sub-agents", min(_AGENTS_MAX, agents.limit + more.sub_agents.limit))
    seconds = min(_MINUTES_MAX * 60.0, own.seconds + (more.seconds or 0)) if own.seconds is not None else None
    depth = min(_DEPTH_MAX, own.depth + (more.depth or 0)) if own.depth is not None else None
    return SessionCaps(budgets=budgets, sub_agents=agents, seconds=seconds, depth=depth)


def told_caps(caps: SessionCaps) -> dict[str, float]:
    """A run's caps as `asked_of` reads them."""
    found: dict[str, float] = {}
    for budget in caps.budgets:
        scale = UNITS[budget.measure][1]
        found[budget.name.partition("-")[2]] = budget.limit / scale if scale > 1 else budget.limit
    if caps.sub_agents is not None:
        found["sub_agents"] = caps.sub_agents.limit
    if caps.seconds is not None:
        found["minutes"] = caps.seconds / 60
    if caps.depth is not None:
        found["depth"] = caps.depth
    return found


def _number(name: str, value: Any, most: float) -> Decimal:
    try:
        number = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 <= number <= Decimal(str(most)):
        raise BadRequest(f"The cap '{name}' must be a number from 0 to {told(most)}.", param="caps")
    return number


def _late(session: Session, used: float, limit: float) -> Refusal:
    return Refusal(
        code="session_time_exceeded",
        message=(
            f"This session has run for {told(used / 60)} minutes; its cap is {told(limit / 60)}. "
            "Start a new session, or ask the operator to raise sessions.caps.minutes."
        ),
        details={"session": session.id, "used_minutes": round(used / 60, 1), "limit_minutes": limit / 60},
    )


def _deep(session: Session, depth: int, limit: int) -> Refusal:
    return Refusal(
        code="depth_exceeded",
        message=(
            f"This session is a sub-agent {told(depth)} levels below the one whose cap is {told(limit)}. Let the agents "
            "above it do the work, or ask the operator to raise sessions.caps.depth."
        ),
        details={"session": session.id, "root": session.root, "depth": depth, "limit": limit},
    )


def _inherited(budget: Budget, session: Session) -> int:
    return session.inherited[budget.measure] or 0
