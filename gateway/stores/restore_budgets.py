"""Restores the spend of current budget windows from the ledger at the start."""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

from ..accounting.budget_lines import SESSION_KEEP_SECONDS, line_of
from ..accounting.output_estimate import OutputEstimates
from ..accounting.windows import buckets_of, period_of
from ..values.budget import Amounts, Budget, BudgetLine
from ..values.quality import meets_shadow_calls
from ..values.snapshot import Snapshot
from .ledger_sqlite import SqliteLedger

# Newest answers read to restore the output estimates.
_OUTPUTS_MAX = 5_000
# Spend of a session older than this is not restored.
_SESSION_SECONDS_MAX = 30 * 86_400.0


# (seconds since the epoch, amounts) by the values of the grouping columns.
_Rows = dict[tuple[str, ...], list[tuple[int, Amounts]]]


def iter_spent(snapshot: Snapshot, ledger: SqliteLedger, *, now: float) -> Iterator[tuple[BudgetLine, int, float]]:
    """(line, amount spent, seconds since the epoch), oldest first for each line.

    Only sessions with a caller's id are included: the many others cannot continue after a restart. Budgets with equal
    grouping share one ledger query.
    """
    rows_by_query: dict[tuple[object, ...], _Rows] = {}
    for budget in (*snapshot.budgets, *snapshot.cap_budgets):
        columns, start_ms, step, active_ms = _ledger_query(budget, now)
        shadows = meets_shadow_calls(budget.scope)
        query = (columns, start_ms, step, active_ms, shadows)
        if query not in rows_by_query:
            new_rows = rows_by_query[query] = {}
            for values, at, amounts in ledger.iter_spent(
                columns, start_ms, step_seconds=step, active_ms=active_ms, shadows=shadows
            ):
                new_rows.setdefault(values, []).append((at, amounts))
        pattern = tuple([budget.scope[dimension] for dimension in budget.dimensions])
        rows = rows_by_query[query]
        matching = [pattern] if "*" not in pattern else [values for values in rows if _scope_matches(values, pattern)]
        for values in matching:
            scope = dict(zip(budget.dimensions, values, strict=True))
            yield from _iter_lines(budget, scope, rows.get(values, ()), step, now)


def iter_spent_of_account(
    budget: Budget, account: str, ledger: SqliteLedger, *, now: float
) -> Iterator[tuple[BudgetLine, int, float]]:
    """The same for one account, for any session; empty if its window is over."""
    scope = parse_scope(account)
    if set(scope) != set(budget.scope) or line_of(budget, scope, now=now).account != account:
        return
    _, start_ms, step, _ = _ledger_query(budget, now)
    fixed = {_column(budget, dimension): value for dimension, value in scope.items()}
    shadows = meets_shadow_calls(budget.scope)
    spent = ledger.iter_spent((), start_ms, fixed=fixed, step_seconds=step, shadows=shadows)
    rows = [(at, amounts) for _, at, amounts in spent]
    if not rows and budget.name.startswith("run-"):
        # A session within another's tree: its own calls, without those of its sub-agents.
        fixed = dict(scope)
        rows = [(at, amounts) for _, at, amounts in ledger.iter_spent((), start_ms, fixed=fixed, step_seconds=step)]
    yield from _iter_lines(budget, scope, rows, step, now)


def parse_scope(account: str) -> dict[str, str]:
    """The scope values in an account's name."""
    pairs = [pair.split("=", 1) for pair in account.split("|")[1].split("/") if pair]
    return {name: unquote(value) for name, value in pairs}


def _ledger_query(budget: Budget, now: float) -> tuple[tuple[str, ...], int, int, int | None]:
    """A budget's ledger query: columns, start, step, sessions active since.

    Start and activity are in ms (None: all sessions), the step in seconds.
    """
    step, steps = buckets_of(budget.window)
    start = now - step * steps if step else period_of(budget.window, now).starts_at
    active_ms = None
    if "session" in budget.scope:
        # A session stays active while it calls, however long ago it started.
        active_ms = round((now - max(SESSION_KEEP_SECONDS, budget.window.seconds)) * 1000)
        start = max(start, now - _SESSION_SECONDS_MAX)
    return tuple([_column(budget, name) for name in budget.dimensions]), round(start * 1000), step, active_ms


def _column(budget: Budget, dimension: str) -> str:
    """The ledger column of a dimension.

    Session budgets cover the tree, except those of each session alone.
    """
    return "root" if dimension == "session" and not budget.name.startswith("each-") else dimension


def _scope_matches(values: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return all(expected in ("*", value) for value, expected in zip(values, pattern, strict=True))


def _iter_lines(
    budget: Budget, scope: Mapping[str, str], rows: Iterable[tuple[int, Amounts]], step: int, now: float
) -> Iterator[tuple[BudgetLine, int, float]]:
    for at, amounts in rows:
        spent = amounts[budget.measure]
        if spent:
            yield line_of(budget, scope, now=now), spent, float(at) if step else now


def restore_outputs(outputs: OutputEstimates, ledger: SqliteLedger) -> None:
    """Restore output estimates from the ledger's newest answers."""
    for task_type, model, output_tokens in ledger.newest_output_tokens(_OUTPUTS_MAX):
        outputs.observe(task_type, model, output_tokens)
