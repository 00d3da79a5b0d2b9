"""The book of budgets: hard limits, reservations and what was spent. Synchronous; every method takes `now`.

A request meets several lines at once (its key's day, its team's month, its session's cap): all are reserved together
or none is. For every account spent + held <= limit holds at every moment, except that a settlement is what really
happened: usage above its hold is booked in full, never trimmed.
"""

import calendar
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..values.base import Value
from ..values.catalog import Budget, Measure, Window
from ..values.plan import Refusal
from ..values.units import MILLIJOULES_PER_WH, NUSD_PER_USD, told

# Session accounts are forgotten after a day without a call; calendar accounts when their window has passed.
SESSION_KEEP_SECONDS = 24 * 3600.0
# Accounts kept in this process, about 300 bytes each.
ACCOUNTS_MAX = 200_000
_HOUR_SECONDS = 3600
# Callers x task types remembered at once.
LINES_MAX = 10_000
_SECONDS = {Window.hour: _HOUR_SECONDS, Window.day: 86_400, Window.week: 7 * 86_400}
# 1970-01-01 was a Thursday; weeks begin on Monday (ISO 8601).
_WEEK_OFFSET_SECONDS = 3 * 86_400

# How people read a measure: its unit, and how many of our integer units make one.
_UNITS = {
    Measure.nusd: ("USD", NUSD_PER_USD),
    Measure.millijoules: ("Wh", MILLIJOULES_PER_WH),
    Measure.calls: ("calls", 1),
}

# Amounts in the order of Measure: (nUSD or None if unpriced, mJ or None if the weights are unknown, calls).
Amounts = tuple[int | None, int | None, int]


class Line(Value, frozen=True, kw_only=True):
    """One limit that applies to one request: the account it books on and when that account starts again.

    `session`: the account is one session's own, of which there is no end; the oldest may be forgotten.
    """

    account: str
    name: str
    measure: Measure
    limit: int
    resets_at: float | None
    keep_until: float
    session: bool = False


class Reservation(Value, frozen=True, kw_only=True):
    """What was set aside: which offer fitted, and how much on which account. Resolved once, by its id."""

    id: str
    choice: int
    amounts: Amounts
    lines: tuple[Line, ...]
    expires_at: float


class Exceeded(Value, frozen=True, kw_only=True):
    """No offer fitted: the line that the cheapest one broke, and how it stood."""

    line: Line
    spent: int
    held: int
    wanted: int | None


class _Account(msgspec.Struct, gc=False):
    session: bool
    spent: int = 0
    held: int = 0
    keep_until: float = 0.0


class BudgetBook:
    """Accounts and open reservations in this process."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._open: dict[str, tuple[Reservation, list[_Account]]] = {}

    def reserve(
        self, reservation_id: str, lines: tuple[Line, ...], offers: Sequence[Amounts], *, now: float, lease: float
    ) -> Reservation | Exceeded:
        """Set aside the first of `offers` that fits every line; `lease` is in seconds."""
        assert reservation_id not in self._open, "a reservation id is used once"
        accounts = [self._account(line) for line in lines]
        exceeded: Exceeded | None = None
        for choice, amounts in enumerate(offers):
            broken = _first_broken(lines, accounts, amounts)
            if broken is None:
                for line, account in zip(lines, accounts, strict=True):
                    account.held += amounts[line.measure] or 0
                reservation = Reservation(
                    id=reservation_id, choice=choice, amounts=amounts, lines=lines, expires_at=now + lease
                )
                self._open[reservation_id] = (reservation, accounts)
                return reservation
            exceeded = broken
        assert exceeded is not None, "offers are never empty"
        return exceeded

    def settle(self, reservation_id: str, spent: Amounts) -> bool:
        """Replace the hold by what was really spent; False if it was resolved before (nothing changes then)."""
        found = self._open.pop(reservation_id, None)
        if found is None:
            return False
        reservation, accounts = found
        for line, account in zip(reservation.lines, accounts, strict=True):
            account.held -= reservation.amounts[line.measure] or 0
            account.spent += spent[line.measure] or 0
        return True

    def void(self, reservation_id: str) -> bool:
        """Give the hold back: nothing was spent. False if it was resolved before."""
        return self.settle(reservation_id, (0, 0, 0))

    def expire(self, now: float) -> list[Reservation]:
        """Resolve holds whose lease ran out, charged as held, and forget accounts whose time is over."""
        late = [reservation for reservation, _ in self._open.values() if reservation.expires_at <= now]
        for reservation in late:
            self.settle(reservation.id, reservation.amounts)
        over = [name for name, account in self._accounts.items() if account.keep_until <= now and account.held == 0]
        for name in over:
            del self._accounts[name]
        self._forget_oldest(len(self._accounts) - ACCOUNTS_MAX)
        return late

    def _forget_oldest(self, count: int) -> None:
        """Bound the memory: sessions' accounts that have gone longest without a call give way; budgets never do."""
        if count <= 0:
            return
        idle = [name for name, account in self._accounts.items() if account.session and account.held == 0]
        for name in idle[:count]:
            del self._accounts[name]

    def restore(self, line: Line, spent: int) -> None:
        """Book what the ledger says was spent before this process began."""
        self._account(line).spent += spent

    def standing(self, line: Line) -> tuple[int, int]:
        """(spent, held) of the line's account now."""
        account = self._accounts.get(line.account)
        return (account.spent, account.held) if account else (0, 0)

    @property
    def open_holds(self) -> int:
        """How many reservations wait for their resolution."""
        return len(self._open)

    def _account(self, line: Line) -> _Account:
        account = self._accounts.get(line.account)
        if account is None:
            account = self._accounts[line.account] = _Account(session=line.session)
        if account.keep_until < line.keep_until:
            account.keep_until = line.keep_until
        return account


class LineCache:
    """Remembers the lines of each caller and task type for the current hour: no calendar window ends within one."""

    def __init__(self) -> None:
        self._budgets: tuple[Budget, ...] = ()
        self._hour = -1
        self._lines: dict[tuple[str, str, str], tuple[Line, ...]] = {}

    def of(self, budgets: tuple[Budget, ...], who: tuple[str, str, str], *, now: float) -> tuple[Line, ...]:
        """The lines for (key, team, task type)."""
        hour = int(now) // _HOUR_SECONDS
        if hour != self._hour or budgets is not self._budgets or len(self._lines) > LINES_MAX:
            self._budgets, self._hour, self._lines = budgets, hour, {}
        lines = self._lines.get(who)
        if lines is None:
            scope = dict(zip(("key", "team", "task_type"), who, strict=True))
            lines = self._lines[who] = lines_for(budgets, scope, now=now)
        return lines


def lines_for(budgets: Iterable[Budget], scope: Mapping[str, str], *, now: float) -> tuple[Line, ...]:
    """The lines that apply to a request with these scope values (key, team, task_type, ...)."""
    return tuple(_line(budget, scope, now) for budget in budgets if _applies(budget, scope))


def window_of(window: Window, now: float) -> tuple[str, float | None]:
    """The name of the current window, and when it ends in seconds since the epoch (None: never)."""
    if window is Window.total:
        return "total", None
    if window is Window.month:
        day = time.gmtime(now)
        year, month = (day.tm_year + 1, 1) if day.tm_mon == 12 else (day.tm_year, day.tm_mon + 1)
        return f"{day.tm_year}-{day.tm_mon:02}", float(calendar.timegm((year, month, 1, 0, 0, 0)))
    length = _SECONDS[window]
    offset = _WEEK_OFFSET_SECONDS if window is Window.week else 0
    number = int(now + offset) // length
    return f"{window.name}{number}", float((number + 1) * length - offset)


def _first_broken(lines: Sequence[Line], accounts: Sequence[_Account], amounts: Amounts) -> Exceeded | None:
    for line, account in zip(lines, accounts, strict=True):
        wanted = amounts[line.measure]
        if wanted is None or account.spent + account.held + wanted > line.limit:
            return Exceeded(line=line, spent=account.spent, held=account.held, wanted=wanted)
    return None


def _applies(budget: Budget, scope: Mapping[str, str]) -> bool:
    return all(dimension in scope and wanted in ("*", scope[dimension]) for dimension, wanted in budget.scope.items())


def _line(budget: Budget, scope: Mapping[str, str], now: float) -> Line:
    name, resets_at = window_of(budget.window, now)
    values = "/".join(f"{dimension}={scope[dimension]}" for dimension in sorted(budget.scope))
    return Line(
        account=f"{budget.name}|{values}|{name}",
        name=budget.name,
        measure=budget.measure,
        limit=budget.limit,
        resets_at=resets_at,
        keep_until=resets_at if resets_at is not None else float("inf"),
    )


def refusal(exceeded: Exceeded, now: float) -> Refusal:
    """What to tell the agent: which limit, what was used, and how to go on."""
    line = exceeded.line
    unit, scale = _UNITS[line.measure]
    used, held, limit = exceeded.spent / scale, exceeded.held / scale, line.limit / scale
    details: dict[str, object] = {
        "budget": line.name, "unit": unit, "used": used, "held": held, "limit": limit, "account": line.account,
    }  # fmt: skip
    if exceeded.wanted is None:
        wants = (
            f"what this call may take in {unit} is not known, so it cannot be held (no price sheet or energy profile)"
        )
    else:
        details["wanted"] = exceeded.wanted / scale
        wants = f"this call may take up to {told(exceeded.wanted / scale)}"
    again = "It does not start again by itself."
    if line.resets_at is not None:
        details["resets_in_seconds"] = round(line.resets_at - now)
        again = f"It starts again in {_duration(line.resets_at - now)}."
    return Refusal(
        code="budget_exceeded" if line.resets_at is not None else "cap_exceeded",
        message=(
            f"Budget '{line.name}' is used up: {told(used)} {unit} spent and {told(held)} held of {told(limit)}; {wants}. "
            f"{again} Lower max_tokens, ask for a smaller model, or ask the operator to raise it."
        ),
        details=details,
    )


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
