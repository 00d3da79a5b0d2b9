"""After a start: what the ledger says was spent in each budget's current window, line by line."""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

from ..accounting.budget_lines import SESSION_KEEP_SECONDS, line_of
from ..accounting.output_estimate import OutputEstimates
from ..accounting.windows import buckets_of, period_of
from ..values.budget import Amounts, Budget, BudgetLine
from ..values.quality import meets_shadow_calls
from ..values.snapshot import Snapshot
from .ledger_sqlite import SqliteLedger

# Answers whose lengths are learnt anew after a start.
_OUTPUTS_MAX = 5_000
# A session that has gone on for longer starts its budgets anew at a restart.
_SESSION_SECONDS_MAX = 30 * 86_400.0


# By the values of a grouping: (when, amounts).
_Rows = dict[tuple[str, ...], list[tuple[int, Amounts]]]


def iter_spent(snapshot: Snapshot, ledger: SqliteLedger, *, now: float) -> Iterator[tuple[BudgetLine, int, float]]:
    """(line, what was spent on it, when: seconds since the epoch), oldest first for each line.

    Of sessions only those that callers name: the others begin anew after a start, and are legion. Budgets that are
    grouped alike share one question to the ledger.
    """
    asked: dict[tuple[object, ...], _Rows] = {}
    for budget in (*snapshot.budgets, *snapshot.cap_budgets):
        columns, start_ms, step, active_ms = _ledger_query(budget, now)
        shadows = meets_shadow_calls(budget.scope)
        key = (columns, start_ms, step, active_ms, shadows)
        if key not in asked:
            found = asked[key] = {}
            for values, at, amounts in ledger.iter_spent(
                columns, start_ms, step_seconds=step, active_ms=active_ms, shadows=shadows
            ):
                found.setdefault(values, []).append((at, amounts))
        wanted = tuple([budget.scope[dimension] for dimension in budget.dimensions])
        rows = asked[key]
        some = [wanted] if "*" not in wanted else [values for values in rows if _scope_matches(values, wanted)]
        for values in some:
            scope = dict(zip(budget.dimensions, values, strict=True))
            yield from _iter_lines(budget, scope, rows.get(values, ()), step, now)


def iter_spent_of_account(
    budget: Budget, account: str, ledger: SqliteLedger, *, now: float
) -> Iterator[tuple[BudgetLine, int, float]]:
    """The same for one account of a budget, whoever named its session; nothing if its window is over."""
    scope = parse_scope(account)
    if set(scope) != set(budget.scope) or line_of(budget, scope, now=now).account != account:
        return
    _, start_ms, step, _ = _ledger_query(budget, now)
    fixed = {_column(budget, dimension): value for dimension, value in scope.items()}
    shadows = meets_shadow_calls(budget.scope)
    spent = ledger.iter_spent((), start_ms, fixed=fixed, step_seconds=step, shadows=shadows)
    rows = [(at, amounts) for _, at, amounts in spent]
    if not rows and budget.name.startswith("run-"):
        # A run within another's tree: what it took itself, without what it started.
        fixed = dict(scope)
        rows = [(at, amounts) for _, at, amounts in ledger.iter_spent((), start_ms, fixed=fixed, step_seconds=step)]
    yield from _iter_lines(budget, scope, rows, step, now)


def parse_scope(account: str) -> dict[str, str]:
    """The scope values that an account's name holds."""
    pairs = [pair.split("=", 1) for pair in account.split("|")[1].split("/") if pair]
    return {name: unquote(value) for name, value in pairs}


def _ledger_query(budget: Budget, now: float) -> tuple[tuple[str, ...], int, int, int | None]:
    """What to ask the ledger about a budget: columns, start in ms, seconds of a step, since when sessions are alive."""
    step, steps = buckets_of(budget.window)
    start = now - step * steps if step else period_of(budget.window, now).starts_at
    active_ms = None
    if "session" in budget.scope:
        # A session goes on while it calls, however long ago it began.
        active_ms = round((now - max(SESSION_KEEP_SECONDS, budget.window.seconds)) * 1000)
        start = max(start, now - _SESSION_SECONDS_MAX)
    return tuple([_column(budget, name) for name in budget.dimensions]), round(start * 1000), step, active_ms


def _column(budget: Budget, dimension: str) -> str:
    """The ledger's column for a dimension: a session's budgets are those of its tree, unless they are each one's own."""
    return "root" if dimension == "session" and not budget.name.startswith("each-") else dimension


def _scope_matches(values: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return all(want in ("*", value) for value, want in zip(values, wanted, strict=True))


def _iter_lines(
    budget: Budget, scope: Mapping[str, str], rows: Iterable[tuple[int, Amounts]], step: int, now: float
) -> Iterator[tuple[BudgetLine, int, float]]:
    for at, amounts in rows:
        spent = amounts[budget.measure]
        if spent:
            yield line_of(budget, scope, now=now), spent, float(at) if step else now


def restore_outputs(outputs: OutputEstimates, ledger: SqliteLedger) -> None:
    """How long answers were, from the newest calls of the ledger."""
    for task_type, model, output_tokens in ledger.newest_output_tokens(_OUTPUTS_MAX):
        outputs.observe(task_type, model, output_tokens)
