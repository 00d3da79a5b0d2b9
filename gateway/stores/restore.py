"""After a start: what the ledger says was spent in each budget's current window, line by line."""

from collections.abc import Iterator

from ..accounting.expectation import OutputBook
from ..accounting.lines import SESSION_KEEP_SECONDS, line_of
from ..accounting.windows import span_of, steps_of
from ..values.budget import Line
from ..values.world import World
from .ledger_sqlite import SqliteLedger

# Answers whose lengths are learnt anew after a start.
_OUTPUTS = 5_000
# The ledger's column for a dimension, where its name is another: a session's budgets are those of its tree.
_COLUMNS = {"session": "root"}


def restored(world: World, ledger: SqliteLedger, *, now: float) -> Iterator[tuple[Line, int, float]]:
    """(line, what was spent on it, when: seconds since the epoch), oldest first for each line."""
    for budget in (*world.budgets, *world.caps.budgets):
        step, steps = steps_of(budget.window)
        start = now - step * steps if step else span_of(budget.window, now).starts_at
        if "session" in budget.scope:
            start = max(start, now - max(SESSION_KEEP_SECONDS, budget.window.seconds))
        columns = {_COLUMNS.get(dimension, dimension): dimension for dimension in budget.scope}
        fixed = {column: budget.scope[name] for column, name in columns.items() if budget.scope[name] != "*"}
        rows = ledger.spent(
            list(columns), fixed, round(start * 1000), step_seconds=step, named="session" in budget.scope
        )
        for values, at, amounts in rows:
            spent = amounts[budget.measure]
            if spent:
                scope = {columns[column]: value for column, value in values.items()}
                yield line_of(budget, scope, now=now), spent, float(at) if step else now


def learn_outputs(outputs: OutputBook, ledger: SqliteLedger) -> None:
    """How long answers were, from the newest calls of the ledger."""
    for task_type, model, output_tokens in ledger.outputs(_OUTPUTS):
        outputs.learn(task_type, model, output_tokens)
