"""Which budgets meet a request, as lines on their accounts. Pure; LineBook remembers them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from urllib.parse import quote

from ..values.budget import ATTEMPT_DIMENSIONS, REQUEST_DIMENSIONS, Budget, Line, Met, met
from ..values.catalog import Deployment
from .windows import span_of, steps_of

# Session accounts are forgotten after a day without a call; calendar accounts when their window has passed.
SESSION_KEEP_SECONDS = 24 * 3600.0
# Callers x task types (x users, x sessions) remembered at once.
LINES_MAX = 10_000
# Lines are told anew at least so often; that also renews how long sessions' accounts are kept.
_KEPT_SECONDS = 3600.0
# What may stand in an account's name: not the marks that part its fields, nor those of a hash tag.
_SAFE = "@:+.-_~ "
_PLAIN = re.compile(r"[A-Za-z0-9@:+.\-_~ ]*")


def line_of(budget: Budget, scope: Mapping[str, str], *, now: float) -> Line:
    """The line of a budget that applies to these scope values."""
    span = span_of(budget.window, now)
    values = "/".join([f"{dimension}={quoted(scope[dimension])}" for dimension in budget.dimensions])
    step, steps = steps_of(budget.window)
    session = "session" in budget.scope
    keep_until = span.ends_at if span.ends_at is not None else float("inf")
    if session:
        keep_until = min(keep_until, now + max(SESSION_KEEP_SECONDS, budget.window.seconds))
    elif step:
        keep_until = now + _KEPT_SECONDS + step * steps
    return Line(
        account=f"{budget.name}|{values}|{span.name}",
        budget=budget,
        ceiling=budget.refuse,
        starts_at=span.starts_at,
        resets_at=span.ends_at,
        keep_until=keep_until,
        bucket_seconds=step,
        buckets=steps,
        session=session,
    )


def quoted(value: str) -> str:
    """A scope's value as it stands in an account's name: no value passes for another, or for two."""
    return value if _PLAIN.fullmatch(value) else quote(value, safe=_SAFE)


def lines_for(budgets: Iterable[Budget], scope: Mapping[str, str], *, now: float) -> tuple[Line, ...]:
    """The lines that apply to a request with these scope values."""
    return tuple(line_of(budget, scope, now=now) for budget in budgets if applies(budget, scope))


def applies(budget: Budget, scope: Mapping[str, str]) -> bool:
    """Whether a request with these scope values falls under the budget."""
    return all(dimension in scope and wanted in ("*", scope[dimension]) for dimension, wanted in budget.scope.items())


def scope_of(deployment: Deployment) -> dict[str, str]:
    """The scope values that the choice of a deployment adds."""
    return {
        "deployment": deployment.name,
        "model": deployment.model,
        "tier": deployment.tier.name,
        "provider": deployment.provider,
    }


class LineBook:
    """The lines of each kind of request, remembered until the first of their windows ends."""

    def __init__(self) -> None:
        self._budgets: Sequence[Budget] = ()
        self._until = 0.0
        self._lines: dict[tuple[object, str], Met] = {}
        # Takes from a request's values those that some budget asks for.
        self._used: Callable[[tuple[str, ...]], object] = _nothing
        self._by_deployment = False
        # Budgets by one value that they insist on, and those that insist on none; with their place in the file.
        self._insisting: dict[tuple[str, str], list[tuple[int, Budget]]] = {}
        self._others: list[tuple[int, Budget]] = []

    def of(self, budgets: Sequence[Budget], who: tuple[str, ...], deployment: Deployment, *, now: float) -> Met:
        """The lines of a request with these values of REQUEST_DIMENSIONS, served by `deployment`."""
        if budgets is not self._budgets:
            self._index(budgets)
        if now >= self._until or now < self._until - 2 * _KEPT_SECONDS or len(self._lines) > LINES_MAX:
            self._lines = {}
            ends = [span_of(window, now).ends_at for window in {budget.window for budget in budgets}]
            self._until = min([end for end in ends if end is not None] + [now + _KEPT_SECONDS])
        key = (self._used(who), deployment.name if self._by_deployment else "")
        found = self._lines.get(key)
        if found is None:
            scope = dict(zip(REQUEST_DIMENSIONS, who, strict=True))
            found = self._lines[key] = met(self._found({**scope, **scope_of(deployment)}, now))
        return found

    def _found(self, scope: Mapping[str, str], now: float) -> tuple[Line, ...]:
        candidates = list(self._others)
        for pair in scope.items():
            candidates += self._insisting.get(pair, ())
        candidates.sort(key=lambda one: one[0])
        return lines_for([budget for _, budget in candidates], scope, now=now)

    def _index(self, budgets: Sequence[Budget]) -> None:
        self._budgets, self._until = budgets, 0.0
        self._insisting, self._others = {}, []
        for place, budget in enumerate(budgets):
            pair = next(((name, value) for name, value in budget.scope.items() if value != "*"), None)
            (self._others if pair is None else self._insisting.setdefault(pair, [])).append((place, budget))
        used = {dimension for budget in budgets for dimension in budget.scope}
        self._by_deployment = not used.isdisjoint(ATTEMPT_DIMENSIONS)
        places = [place for place, name in enumerate(REQUEST_DIMENSIONS) if name in used]
        self._used = itemgetter(*places) if places else _nothing


def _nothing(who: tuple[str, ...]) -> object:
    return ()
