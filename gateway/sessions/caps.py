"""Caps on one session: budget lines, wall clock and tree depth. Pure.

The budget lines are reserved together with all other budgets; wall clock and depth are checked here. There are three
kinds: the operator's for a whole tree (scope: its root) and for each session alone, and those that the caller sets for
a session and its sub-agents. None of them loosens another.
"""

import dataclasses
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
    Measure,
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
# Upper bounds of caller-set caps; the minutes are those of a month.
_DURATION_MINUTES_MAX, _DEPTH_MAX, _SUB_AGENTS_MAX = 43_200, 64, 1_000_000
_CAPS_HEADER_CHARS_MAX = 400


def cap_lines(caps: SessionCaps, session: Session, key: str, *, now: float) -> ApplicableLines:
    """The budget lines of a session's caps, lowered by what a fork inherited.

    Cached on the session for an hour; rebuilding also extends how long its accounts are kept.
    """
    cache_key = (int(now) // _HOUR_SECONDS, id(caps), session.own_caps_version, session.is_counted_sub_agent)
    if session.ancestors:
        cache_key = (
            *cache_key[:2],
            sum([capped.own_caps_version for capped in (session, *session.ancestors)]),
            session.is_counted_sub_agent,
        )
    if session.cap_lines_key != cache_key:
        keep_until = now + SESSION_KEEP_SECONDS
        session.cap_lines = applicable_lines(
            tuple(_build_cap_lines(caps, session, f"key={quote_scope_value(key)}", keep_until))
        )
        session.cap_lines_key = cache_key
    return session.cap_lines


def lines_at(caps: SessionCaps, session: Session, key: str, *, now: float) -> tuple[BudgetLine, ...]:
    """The same lines as of another time, without the cache."""
    key_scope, keep_until = f"key={quote_scope_value(key)}", now + SESSION_KEEP_SECONDS
    return tuple(_build_cap_lines(caps, session, key_scope, keep_until))


def _build_cap_lines(caps: SessionCaps, session: Session, key_scope: str, keep_until: float) -> Iterator[BudgetLine]:
    for budget in caps.tree_budgets:
        yield _cap_line(budget, key_scope, session.root, keep_until, _inherited_amount(budget, session))
    for budget in caps.session_budgets:
        yield _cap_line(budget, key_scope, session.id, keep_until, _inherited_amount(budget, session))
    joins_tree = bool(session.parent) and not session.is_counted_sub_agent
    if joins_tree and caps.sub_agent_budget is not None:
        yield _cap_line(caps.sub_agent_budget, key_scope, session.root, keep_until, 0)
    for capped in (session, *session.ancestors):
        own_caps = capped.own_caps
        if own_caps is None:
            continue
        for budget in own_caps.tree_budgets:
            held = _held_by(budget, caps.own_expected_factor)
            yield _cap_line(held, key_scope, capped.id, keep_until, _inherited_amount(budget, capped))
        if joins_tree and capped is not session and own_caps.sub_agent_budget is not None:
            yield _cap_line(own_caps.sub_agent_budget, key_scope, capped.id, keep_until, 0)


def _held_by(budget: Budget, expected_factor: float) -> Budget:
    """The cap with the operator's kind of hold."""
    if budget.measure is Measure.calls or budget.expected_factor == expected_factor:
        return budget
    return dataclasses.replace(budget, expected_factor=expected_factor)


def tighten_caps(session: Session, more: SessionCaps) -> bool:
    """Add caps to the session's own, keeping the tighter; False if unchanged."""
    own = more if session.own_caps is None else tightest_caps(session.own_caps, more)
    if own == session.own_caps:
        return False
    session.own_caps, session.own_caps_version = own, session.own_caps_version + 1
    return True


def own_cap_lines(session: Session, key: str, *, now: float) -> tuple[BudgetLine, ...]:
    """The budget lines of the session's own caps."""
    budgets = session.own_caps.tree_budgets if session.own_caps is not None else ()
    keep_until = now + SESSION_KEEP_SECONDS
    return tuple([_cap_line(budget, f"key={quote_scope_value(key)}", session.id, keep_until, 0) for budget in budgets])


def _cap_line(budget: Budget, key_scope: str, session: str, keep_until: float, inherited: int) -> BudgetLine:
    return BudgetLine(
        account=f"{budget.name}|{key_scope}/session={quote_scope_value(session)}|session",
        budget=budget,
        ceiling=max(0, budget.refuse_above - inherited),
        keep_until=keep_until,
        is_session_account=True,
    )


def exceeded_cap(caps: SessionCaps, session: Session, *, now: float) -> Refusal | None:
    """The refusal for an exceeded duration or depth cap, else None.

    Duration caps of ancestors apply as well.
    """
    for elapsed, limit in _duration_caps(caps, session, now):
        if elapsed > limit:
            return _duration_refusal(session, elapsed, limit)
    for levels, capped in enumerate((session, *session.ancestors)):
        depth_max = capped.own_caps.depth_max if capped.own_caps is not None else None
        if depth_max is not None and levels > depth_max:
            return _depth_refusal(session, levels, depth_max)
    if caps.depth_max is not None and session.depth > caps.depth_max:
        return _depth_refusal(session, session.depth, caps.depth_max)
    return None


def seconds_left(caps: SessionCaps, session: Session, *, now: float) -> float:
    """Seconds until the first duration cap is reached; infinite without one."""
    return min((limit - elapsed for elapsed, limit in _duration_caps(caps, session, now)), default=math.inf)


def _duration_caps(caps: SessionCaps, session: Session, now: float) -> Iterator[tuple[float, float]]:
    """(seconds run, seconds allowed) of every duration cap that applies."""
    for capped in (session, *session.ancestors):
        limits = [capped.own_caps.duration_seconds_max if capped.own_caps is not None else None]
        if capped.id == session.root or not capped.parent:
            limits.append(caps.duration_seconds_max)
        for limit in limits:
            if limit is not None:
                yield now - capped.started_at, limit + capped.extra_seconds


def parse_caps_header(text: str) -> SessionCaps:
    """Parse a caps header such as `usd=2, minutes=20`. Raises BadRequest."""
    if len(text) > _CAPS_HEADER_CHARS_MAX:
        raise BadRequest(f"Invalid caps header: longer than {_CAPS_HEADER_CHARS_MAX} characters.", param="caps")
    values: dict[str, Any] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        name, _, value = part.partition("=")
        if name.strip() in values:
            raise BadRequest("Duplicate cap; give each cap once.", param="caps")
        values[name.strip()] = value.strip()
    return parse_caps(values)


def parse_caps(values: Mapping[str, Any]) -> SessionCaps:
    """Parse caller-set caps by their names. Raises BadRequest."""
    unknown = set(values) - {*CAP_MEASURES, "minutes", "depth", "sub_agents"}
    if unknown:
        supported = ", ".join((*CAP_MEASURES, "minutes", "depth", "sub_agents"))
        name = min(unknown).encode("ascii", "replace").decode()[:40]
        raise BadRequest(f"Unknown cap '{name}'; supported caps: {supported}.", param="caps")
    budgets = []
    for unit, measure in CAP_MEASURES.items():
        if unit in values:
            scale = MEASURE_UNITS[measure][1]
            amount = int(_parse_amount(unit, values[unit], LIMIT_MAX / scale) * scale)
            budgets.append(cap_budget("run", unit, amount))
    minutes = _parse_amount("minutes", values["minutes"], _DURATION_MINUTES_MAX) if "minutes" in values else None
    agents = int(_parse_amount("sub_agents", values["sub_agents"], _SUB_AGENTS_MAX)) if "sub_agents" in values else None
    return SessionCaps(
        tree_budgets=tuple(budgets),
        sub_agent_budget=cap_budget("run", "sub-agents", agents) if agents is not None else None,
        duration_seconds_max=float(minutes * 60) if minutes is not None else None,
        depth_max=int(_parse_amount("depth", values["depth"], _DEPTH_MAX)) if "depth" in values else None,
    )


def raise_caps(own: SessionCaps | None, more: SessionCaps) -> SessionCaps | None:
    """The session's own caps raised by `more`; what is uncapped stays uncapped."""
    if own is None:
        return None
    by_name = {budget.name: budget.limit for budget in more.tree_budgets}
    budgets = tuple(
        cap_budget("run", budget.name.partition("-")[2], min(LIMIT_MAX, budget.limit + by_name.get(budget.name, 0)))
        for budget in own.tree_budgets
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
    """The caps in the form that `parse_caps` reads."""
    document: dict[str, float] = {}
    for budget in caps.tree_budgets:
        scale = MEASURE_UNITS[budget.measure][1]
        document[budget.name.partition("-")[2]] = budget.limit / scale if scale > 1 else budget.limit
    if caps.sub_agent_budget is not None:
        document["sub_agents"] = caps.sub_agent_budget.limit
    if caps.duration_seconds_max is not None:
        document["minutes"] = caps.duration_seconds_max / 60
    if caps.depth_max is not None:
        document["depth"] = caps.depth_max
    return document


def _parse_amount(name: str, value: Any, maximum: float) -> Decimal:
    try:
        number = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 <= number <= Decimal(str(maximum)):
        raise BadRequest(f"Invalid cap '{name}': must be a number from 0 to {message_number(maximum)}.", param="caps")
    return number


def _duration_refusal(session: Session, used: float, limit: float) -> Refusal:
    return Refusal(
        code="session_time_exceeded",
        message=(
            f"Session duration cap exceeded: {message_number(used / 60)} minutes, cap {message_number(limit / 60)}. "
            "Start a new session, or ask the operator to raise sessions.caps.minutes."
        ),
        details={"session": session.id, "used_minutes": round(used / 60, 1), "limit_minutes": limit / 60},
    )


def _depth_refusal(session: Session, depth: int, limit: int) -> Refusal:
    return Refusal(
        code="depth_exceeded",
        message=(
            f"Sub-agent depth cap exceeded: {message_number(depth)} levels, cap {message_number(limit)}. "
            "Let the parent agents do the work, or ask the operator to raise sessions.caps.depth."
        ),
        details={"session": session.id, "root": session.root, "depth": depth, "limit": limit},
    )


def _inherited_amount(budget: Budget, session: Session) -> int:
    return session.inherited[budget.measure] or 0
