"""Which budgets apply to a request, as lines on their accounts. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from urllib.parse import quote

from ..values.budget import (
    ATTEMPT_DIMENSIONS,
    REQUEST_DIMENSIONS,
    ApplicableLines,
    Budget,
    BudgetLine,
    applicable_lines,
)
from ..values.catalog import Deployment
from .windows import buckets_of, period_of

# Session accounts are forgotten after a day without a call; calendar accounts when their window has passed.
SESSION_KEEP_SECONDS = 24 * 3600.0
# Callers x task types (x users, x sessions) remembered at once.
LINES_MAX = 10_000
# Lines are rebuilt at least this often, which also renews how long sessions' accounts are kept.
_CACHE_SECONDS = 3600.0
# Allowed in an account's name: neither the separators of its fields nor those of a Redis hash tag.
_UNQUOTED_MARKS = "@:+.-_~ "
_UNQUOTED = re.compile(r"[A-Za-z0-9@:+.\-_~ ]*")


def line_of(budget: Budget, scope: Mapping[str, str], *, now: float) -> BudgetLine:
    """The line of a budget for these scope values."""
    period = period_of(budget.window, now)
    values = "/".join([f"{dimension}={quote_scope_value(scope[dimension])}" for dimension in budget.dimensions])
    step, steps = buckets_of(budget.window)
    session = "session" in budget.scope
    keep_until = period.ends_at if period.ends_at is not None else float("inf")
    if session:
        keep_until = min(keep_until, now + max(SESSION_KEEP_SECONDS, budget.window.seconds))
    elif step:
        keep_until = now + _CACHE_SECONDS + step * steps
    return BudgetLine(
        account=f"{budget.name}|{values}|{period.name}",
        budget=budget,
        ceiling=budget.refuse_above,
        starts_at=period.starts_at,
        resets_at=period.ends_at,
        keep_until=keep_until,
        bucket_seconds=step,
        bucket_count=steps,
        is_session_account=session,
    )


def quote_scope_value(value: str) -> str:
    """A scope value, quoted so that account names stay unambiguous."""
    return value if _UNQUOTED.fullmatch(value) else quote(value, safe=_UNQUOTED_MARKS)


def lines_for(budgets: Iterable[Budget], scope: Mapping[str, str], *, now: float) -> tuple[BudgetLine, ...]:
    """The lines that apply to a request with these scope values."""
    return tuple(line_of(budget, scope, now=now) for budget in budgets if applies(budget, scope))


def applies(budget: Budget, scope: Mapping[str, str]) -> bool:
    """Whether a request with these scope values falls under the budget."""
    return all(
        dimension in scope and expected in ("*", scope[dimension]) for dimension, expected in budget.scope.items()
    )


def scope_of(deployment: Deployment) -> dict[str, str]:
    """The scope values that the choice of a deployment adds."""
    return {
        "deployment": deployment.name,
        "model": deployment.model,
        "tier": deployment.tier.name,
        "provider": deployment.provider,
    }


class BudgetLineCache:
    """The lines of each kind of request, cached until the first window ends."""

    def __init__(self) -> None:
        self._budgets: Sequence[Budget] = ()
        self._valid_until = 0.0
        self._lines: dict[tuple[object, str], ApplicableLines] = {}
        # Selects the request's values that some budget's scope uses.
        self._used_dimensions: Callable[[tuple[str, ...]], object] = _no_dimensions
        self._depends_on_deployment = False
        # Budgets by one value that they require, and those that require none; with their position in the file.
        self._budgets_by_value: dict[tuple[str, str], list[tuple[int, Budget]]] = {}
        self._wildcard_budgets: list[tuple[int, Budget]] = []

    def lines(
        self, budgets: Sequence[Budget], request_values: tuple[str, ...], deployment: Deployment, *, now: float
    ) -> ApplicableLines:
        """The lines of a request served by `deployment`; values of REQUEST_DIMENSIONS."""
        if budgets is not self._budgets:
            self._index(budgets)
        if now >= self._valid_until or now < self._valid_until - 2 * _CACHE_SECONDS or len(self._lines) > LINES_MAX:
            self._lines = {}
            ends = [period_of(window, now).ends_at for window in {budget.window for budget in budgets}]
            self._valid_until = min([end for end in ends if end is not None] + [now + _CACHE_SECONDS])
        key = (self._used_dimensions(request_values), deployment.name if self._depends_on_deployment else "")
        lines = self._lines.get(key)
        if lines is None:
            scope = dict(zip(REQUEST_DIMENSIONS, request_values, strict=True))
            lines = self._lines[key] = applicable_lines(self._matching_lines({**scope, **scope_of(deployment)}, now))
        return lines

    def _matching_lines(self, scope: Mapping[str, str], now: float) -> tuple[BudgetLine, ...]:
        candidates = list(self._wildcard_budgets)
        for pair in scope.items():
            candidates += self._budgets_by_value.get(pair, ())
        candidates.sort(key=lambda indexed: indexed[0])
        return lines_for([budget for _, budget in candidates], scope, now=now)

    def _index(self, budgets: Sequence[Budget]) -> None:
        self._budgets, self._valid_until = budgets, 0.0
        self._budgets_by_value, self._wildcard_budgets = {}, []
        for position, budget in enumerate(budgets):
            pair = next(((name, value) for name, value in budget.scope.items() if value != "*"), None)
            (self._wildcard_budgets if pair is None else self._budgets_by_value.setdefault(pair, [])).append(
                (position, budget)
            )
        used = {dimension for budget in budgets for dimension in budget.scope}
        self._depends_on_deployment = not used.isdisjoint(ATTEMPT_DIMENSIONS)
        positions = [position for position, name in enumerate(REQUEST_DIMENSIONS) if name in used]
        self._used_dimensions = itemgetter(*positions) if positions else _no_dimensions


def _no_dimensions(_: tuple[str, ...]) -> object:
    return ()
