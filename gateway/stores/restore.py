"""After a start: book on every budget what the ledger says was spent in its current window."""

from ..accounting.budgets import SESSION_KEEP_SECONDS, BudgetBook, lines_for, window_of
from ..sessions import caps
from ..sessions.identity import Session
from ..values.catalog import Budget, Window
from ..values.world import World
from .ledger_sqlite import SqliteLedger

_WINDOW_SECONDS = {Window.hour: 3600.0, Window.day: 86_400.0, Window.week: 604_800.0}


def restore(book: BudgetBook, world: World, ledger: SqliteLedger, *, now: float) -> None:
    """Bring a fresh book up to the ledger; `now` in seconds since the epoch."""
    for budget in world.budgets:
        start_ms = round(_window_start(budget.window, now) * 1000)
        for scope in _scopes(budget, ledger, start_ms):
            spent = ledger.spent(scope, start_ms)
            for line in lines_for((budget,), scope, now=now):
                book.restore(line, spent[line.measure])
    _restore_sessions(book, world, ledger, now)


def _restore_sessions(book: BudgetBook, world: World, ledger: SqliteLedger, now: float) -> None:
    """Sessions that agents name go on after a restart; inferred ones begin anew."""
    start_ms = round((now - SESSION_KEEP_SECONDS) * 1000)
    for key, session_id, *spent in ledger.spent_by_named_sessions(start_ms):
        for line in caps.lines_of(world.caps, Session(id=session_id, source="", started_at=now), key, now=now):
            book.restore(line, spent[line.measure])


def _scopes(budget: Budget, ledger: SqliteLedger, start_ms: int) -> list[dict[str, str]]:
    """The scope values of a budget that the ledger knows, those with "*" spelt out."""
    dimensions = sorted(budget.scope)
    if not dimensions:
        return [{}]
    rows = ledger.values_of(dimensions, start_ms)
    return [dict(zip(dimensions, row, strict=True)) for row in rows]


def _window_start(window: Window, now: float) -> float:
    if window is Window.total:
        return 0.0
    name, end = window_of(window, now)
    if window is Window.month:
        # The last second of the month before ends where this month begins.
        earlier, step = now, 86_400.0
        while window_of(window, earlier)[0] == name:
            earlier -= step
        start = window_of(window, earlier)[1]
        assert start is not None
        return start
    assert end is not None
    return end - _WINDOW_SECONDS[window]
