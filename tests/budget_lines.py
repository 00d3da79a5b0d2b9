"""Budgets, lines, hold options and amounts for tests of the budget stores."""

from gateway.values.budget import Amounts, Budget, BudgetLine, BudgetThresholds, HoldOption, Measure, Shrinkage, Window

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC, a Monday


def budget(
    name: str,
    measure: Measure,
    limit: int,
    *,
    scope: dict[str, str] | None = None,
    rolling: int = 0,
    shadow: bool = False,
    notify: tuple[int, ...] = (),
    store_failure_mode: str = "closed",
    contact: str = "",
) -> Budget:
    return Budget(
        name=name,
        scope=scope or {},
        measure=measure,
        limit=limit,
        window=Window(kind="rolling", seconds=rolling) if rolling else Window(kind="total"),
        thresholds=BudgetThresholds(notify_at=tuple((percent, limit * percent // 100) for percent in notify)),
        is_shadow=shadow,
        store_failure_mode=store_failure_mode,
        contact=contact,
    )


def line(
    name: str,
    measure: Measure,
    limit: int,
    *,
    keep: float = float("inf"),
    session: bool = False,
    rolling: int = 0,
    shadow: bool = False,
    notify: tuple[int, ...] = (),
    store_failure_mode: str = "closed",
) -> BudgetLine:
    step = max(1, rolling // 60) if rolling else 0
    return BudgetLine(
        account=name,
        budget=budget(
            name, measure, limit, rolling=rolling, shadow=shadow, notify=notify, store_failure_mode=store_failure_mode
        ),
        ceiling=limit,
        keep_until=keep,
        is_session_account=session,
        bucket_seconds=step,
        bucket_count=rolling // step + 1 if step else 0,
    )


def offer(
    lines: tuple[BudgetLine, ...],
    requested: tuple[int | None, ...],
    *,
    ceilings: tuple[int, ...] | None = None,
    shrinkage: Shrinkage | None = None,
) -> HoldOption:
    return HoldOption(
        lines=lines,
        amounts=requested,
        ceilings=tuple(each.ceiling for each in lines) if ceilings is None else ceilings,
        shrinkage=shrinkage,
    )


def amounts(nusd: int = 0, tokens: int = 0, calls: int = 0, millijoules: int = 0, micrograms: int = 0) -> Amounts:
    return nusd, tokens, calls, millijoules, micrograms
