"""What one run may take. Its caps are budget lines whose scope is the session, so that they are reserved together with
all other budgets; wall clock, and how deep a tree may be, are checked here.

Three kinds: the operator's for a whole tree (scope: the session at its head) and for each session of it alone, and those
that whoever started a run has set for it and all that it starts. None of them loosens another.
"""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from ..accounting.budget_lines import SESSION_KEEP_SECONDS, quote_scope_value
from ..values.budget import (
    CAP_MEASURES,
    LIMIT_MAX,
    MEASURE_UNITS,
    ApplicableLines,
    Budget,
    BudgetLine,
    SessionCaps,
    applicable_lines,
    cap_budget,
    tightest_caps,
)
from ..values.errors import BadRequest
from ..values.plan import Refusal
from ..values.units import message_number
from .session_index import Session

_HOUR_SECONDS = 3600
# A run's own caps in minutes are below a month, its tree below so many levels and sub-agents.
_DURATION_MINUTES_MAX, _DEPTH_MAX, _SUB_AGENTS_MAX = 43_200, 64, 1_000_000
_CAPS_HEADER_CHARS_MAX = 400


def cap_lines(caps: SessionCaps, session: Session, key: str, *, now: float) -> ApplicableLines:
    """The budget lines of a session's caps; what its path took before it parted from another lowers them.

    Kept on the session for an hour, which also renews how long its accounts are remembered.
    """
    stamp = (int(now) // _HOUR_SECONDS, id(caps), session.own_caps_version, session.is_counted_sub_agent)
    if session.ancestors:
        stamp = (
            *stamp[:2],
            sum([one.own_caps_version for one in (session, *session.ancestors)]),
            session.is_counted_sub_agent,
        )
    if session.cap_lines_key != stamp:
        keep_until = now + SESSION_KEEP_SECONDS
        session.cap_lines = applicable_lines(
            tuple(_build_cap_lines(caps, session, f"key={quote_scope_value(key)}", keep_until))
        )
        session.cap_lines_key = stamp
    return session.cap_lines


def _build_cap_lines(caps: SessionCaps, session: Session, whose: str, keep_until: float) -> Iterator[BudgetLine]:
    for budget in caps.tree_budgets:
        yield _cap_line(budget, whose, session.root, keep_until, _inherited_amount(budget, session))
    for budget in caps.session_budgets:
        yield _cap_line(budget, whose, session.id, keep_until, _inherited_amount(budget, session))
    joins = bool(session.parent) and not session.is_counted_sub_agent
    if joins and caps.sub_agent_budget is not None:
        yield _cap_line(caps.sub_agent_budget, whose, session.root, keep_until, 0)
    for reserver in (session, *session.ancestors):
        own = reserver.own_caps
        if own is None:
            continue
        for budget in own.tree_budgets:
            yield _cap_line(budget, whose, reserver.id, keep_until, _inherited_amount(budget, reserver))
        if joins and reserver is not session and own.sub_agent_budget is not None:
            yield _cap_line(own.sub_agent_budget, whose, reserver.id, keep_until, 0)


def tighten_caps(session: Session, more: SessionCaps) -> bool:
    """Set caps for the session beside those that it has, of which none is loosened; False if that changes nothing."""
    own = more if session.own_caps is None else tightest_caps(session.own_caps, more)
    if own == session.own_caps:
        return False
    session.own_caps, session.own_caps_version = own, session.own_caps_version + 1
    return True


def own_cap_lines(session: Session, key: str, *, now: float) -> tuple[BudgetLine, ...]:
    """The lines of the session's own caps."""
    own = session.own_caps.tree_budgets if session.own_caps is not None else ()
    keep_until = now + SESSION_KEEP_SECONDS
    return tuple([_cap_line(budget, f"key={quote_scope_value(key)}", session.id, keep_until, 0) for budget in own])


def _cap_line(budget: Budget, whose: str, session: str, keep_until: float, inherited: int) -> BudgetLine:
    return BudgetLine(
        account=f"{budget.name}|{whose}/session={quote_scope_value(session)}|session",
        budget=budget,
        ceiling=max(0, budget.refuse_above - inherited),
        keep_until=keep_until,
        is_session_account=True,
    )


def exceeded_cap(caps: SessionCaps, session: Session, *, now: float) -> Refusal | None:
    """A refusal once the session, or one above it, has run longer than it may, or lies deeper in its tree than it may."""
    for ran, limit in _duration_caps(caps, session, now):
        if ran > limit:
            return _duration_refusal(session, ran, limit)
    for levels, reserver in enumerate((session, *session.ancestors)):
        most = reserver.own_caps.depth_max if reserver.own_caps is not None else None
        if most is not None and levels > most:
            return _depth_refusal(session, levels, most)
    if caps.depth_max is not None and session.depth > caps.depth_max:
        return _depth_refusal(session, session.depth, caps.depth_max)
    return None


def seconds_left(caps: SessionCaps, session: Session, *, now: float) -> float:
    """How long the session, and those above it, may still run; endlessly without such a cap."""
    return min((limit - ran for ran, limit in _duration_caps(caps, session, now)), default=math.inf)


def _duration_caps(caps: SessionCaps, session: Session, now: float) -> Iterator[tuple[float, float]]:
    """(how long it has run, how long it may) of every cap in minutes."""
    for reserver in (session, *session.ancestors):
        limits = [reserver.own_caps.duration_seconds_max if reserver.own_caps is not None else None]
        if reserver.id == session.root or not reserver.parent:
            limits.append(caps.duration_seconds_max)
        for limit in limits:
            if limit is not None:
                yield now - reserver.started_at, limit + reserver.extra_seconds


def parse_caps_header(text: str) -> SessionCaps:
    """A run's own caps as a header tells them: `usd=2, minutes=20`. Raises BadRequest."""
    if len(text) > _CAPS_HEADER_CHARS_MAX:
        raise BadRequest(f"A run's caps are told in at most {_CAPS_HEADER_CHARS_MAX} characters.", param="caps")
    told_caps: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        if name.strip() in told_caps:
            raise BadRequest("A run's caps are told once each.", param="caps")
        told_caps[name.strip()] = value.strip()
    return parse_caps(told_caps)


def parse_caps(told_caps: Mapping[str, Any]) -> SessionCaps:
    """A run's own caps: calls, usd, tokens, wh, minutes, depth, sub_agents. Raises BadRequest."""
    unknown = set(told_caps) - {*CAP_MEASURES, "minutes", "depth", "sub_agents"}
    if unknown:
        known = ", ".join((*CAP_MEASURES, "minutes", "depth", "sub_agents"))
        name = min(unknown).encode("ascii", "replace").decode()[:40]
        raise BadRequest(f"'{name}' is no cap of a run; there are {known}.", param="caps")
    budgets = []
    for unit, measure in CAP_MEASURES.items():
        if unit in told_caps:
            scale = MEASURE_UNITS[measure][1]
            amount = int(_parse_amount(unit, told_caps[unit], LIMIT_MAX / scale) * scale)
            budgets.append(cap_budget("run", unit, amount))
    minutes = _parse_amount("minutes", told_caps["minutes"], _DURATION_MINUTES_MAX) if "minutes" in told_caps else None
    agents = (
        int(_parse_amount("sub_agents", told_caps["sub_agents"], _SUB_AGENTS_MAX))
        if "sub_agents" in told_caps
        else None
    )
    return SessionCaps(
        tree_budgets=tuple(budgets),
        sub_agent_budget=cap_budget("run", "sub-agents", agents) if agents is not None else None,
        duration_seconds_max=float(minutes * 60) if minutes is not None else None,
        depth_max=int(_parse_amount("depth", told_caps["depth"], _DEPTH_MAX)) if "depth" in told_caps else None,
    )


def raise_caps(own: SessionCaps | None, more: SessionCaps) -> SessionCaps | None:
    """A run's own caps raised by so much, by an operator; what it has no cap for stays so."""
    if own is None:
        return None
    by_name = {budget.name: budget.limit for budget in more.tree_budgets}
    budgets = tuple(
        cap_budget("run", one.name.partition("-")[2], min(LIMIT_MAX, one.limit + by_name.get(one.name, 0)))
        for one in own.tree_budgets
    )
    agents = own.sub_agent_budget
    if agents is not None and more.sub_agent_budget is not None:
        agents = cap_budget("run", "sub-agents", min(_SUB_AGENTS_MAX, agents.limit + more.sub_agent_budget.limit))
    seconds = (
        min(_DURATION_MINUTES_MAX * 60.0, own.duration_seconds_max + (more.duration_seconds_max or 0))
        if own.duration_seconds_max is not None
        else None
    )
    depth = min(_DEPTH_MAX, own.depth_max + (more.depth_max or 0)) if own.depth_max is not None else None
    return SessionCaps(tree_budgets=budgets, sub_agent_budget=agents, duration_seconds_max=seconds, depth_max=depth)


def caps_to_json(caps: SessionCaps) -> dict[str, float]:
    """A run's caps as `asked_of` reads them."""
    found: dict[str, float] = {}
    for budget in caps.tree_budgets:
        scale = MEASURE_UNITS[budget.measure][1]
        found[budget.name.partition("-")[2]] = budget.limit / scale if scale > 1 else budget.limit
    if caps.sub_agent_budget is not None:
        found["sub_agents"] = caps.sub_agent_budget.limit
    if caps.duration_seconds_max is not None:
        found["minutes"] = caps.duration_seconds_max / 60
    if caps.depth_max is not None:
        found["depth"] = caps.depth_max
    return found


def _parse_amount(name: str, value: Any, most: float) -> Decimal:
    try:
        number = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 <= number <= Decimal(str(most)):
        raise BadRequest(f"The cap '{name}' must be a number from 0 to {message_number(most)}.", param="caps")
    return number


def _duration_refusal(session: Session, used: float, limit: float) -> Refusal:
    return Refusal(
        code="session_time_exceeded",
        message=(
            f"This session has run for {message_number(used / 60)} minutes; its cap is {message_number(limit / 60)}. "
            "Start a new session, or ask the operator to raise sessions.caps.minutes."
        ),
        details={"session": session.id, "used_minutes": round(used / 60, 1), "limit_minutes": limit / 60},
    )


def _depth_refusal(session: Session, depth: int, limit: int) -> Refusal:
    return Refusal(
        code="depth_exceeded",
        message=(
            f"This session is a sub-agent {message_number(depth)} levels below the one whose cap is {message_number(limit)}. Let the agents "
            "above it do the work, or ask the operator to raise sessions.caps.depth."
        ),
        details={"session": session.id, "root": session.root, "depth": depth, "limit": limit},
    )


def _inherited_amount(budget: Budget, session: Session) -> int:
    return session.inherited[budget.measure] or 0
