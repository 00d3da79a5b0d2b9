"""After a start: what the ledger says was spent in each budget's current window, line by line."""

from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from ..accounting.expectation import OutputBook
from ..accounting.lines import SESSION_KEEP_SECONDS, line_of
from ..accounting.windows import span_of, steps_of
from ..values.budget import Budget, Line
from ..values.world import World
from .ledger_sqlite import SqliteLedger

# Answers whose lengths are learnt anew after a start.
_OUTPUTS = 5_000
# The ledger's column for a dimension, where its name is another: a session's budgets are those of its tree.
_COLUMNS = {"session": "root"}


def restored(world: World, ledger: SqliteLedger, *, now: float) -> Iterator[tuple[Line, int, float]]:
    """(line, what was spent on it, when: seconds since the epoch), oldest first for each line.

    Of sessions only those that callers name: the others begin anew after a start, and are legion.
    """
    for budget in (*world.budgets, *world.caps.budgets):
        yield from _spent(budget, budget.scope, ledger, now, named="session" in budget.scope)


def restored_account(
    budget: Budget, account: str, ledger: SqliteLedger, *, now: float
) -> Iterator[tuple[Line, int, float]]:
    """The same for one account of a budget; nothing if its window is over."""
    scope = scope_in(account)
    if set(scope) == set(budget.scope) and line_of(budget, scope, now=now).account == account:
        yield from _spent(budget, scope, ledger, now, named=False)


def scope_in(account: str) -> dict[str, str]:
    """The scope values that an account's name holds."""
    pairs = [pair.split("=", 1) for pair in account.split("|")[1].split("/") if pair]
    return {name: unquote(value) for name, value in pairs}


def _spent(
    budget: Budget, scope: Mapping[str, str], ledger: SqliteLedger, now: float, *, named: bool
) -> Iterator[tuple[Line, int, float]]:
    """What the ledger says of the accounts of a budget; scope values "*" stand for every one."""
    step, steps = steps_of(budget.window)
    start = now - step * steps if step else span_of(budget.window, now).starts_at
    if "session" in scope:
        start = max(start, now - max(SESSION_KEEP_SECONDS, budget.window.seconds))
    columns = {_COLUMNS.get(dimension, dimension): dimension for dimension in scope}
    fixed = {column: scope[name] for column, name in columns.items() if scope[name] != "*"}
    rows = ledger.spent(list(columns), fixed, round(start * 1000), step_seconds=step, named=named)
    for values, at, amounts in rows:
        spent = amounts[budget.measure]
        if spent:
            line = line_of(budget, {columns[column]: value for column, value in values.items()}, now=now)
            yield line, spent, float(at) if step else now


def learn_outputs(outputs: OutputBook, ledger: SqliteLedger) -> None:
    """How long answers were, from the newest calls of the ledger."""
    for task_type, model, output_tokens in ledger.outputs(_OUTPUTS):
        outputs.learn(task_type, model, output_tokens)
