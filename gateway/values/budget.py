"""Budgets: how much a scope may take in a window, what happens on the way there, and what is held for a call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from zoneinfo import ZoneInfo

from .base import Value
from .catalog import Tier
from .units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, NUSD_PER_USD, plain_decimal


class Measure(IntEnum):
    """What a budget counts, each in its integer unit: nUSD, tokens (input and output), calls, mJ, ug CO2e."""

    nusd = 0
    tokens = 1
    calls = 2
    millijoules = 3
    micrograms = 4


# How people read a measure: its unit, and how many of our integer units make one.
MEASURE_UNITS = {
    Measure.nusd: ("USD", NUSD_PER_USD),
    Measure.tokens: ("tokens", 1),
    Measure.calls: ("calls", 1),
    Measure.millijoules: ("Wh", MILLIJOULES_PER_WH),
    Measure.micrograms: ("gCO2e", MICROGRAMS_PER_GRAM),
}

# Amounts in the order of Measure; None where it is not known (no price sheet, no energy profile).
Amounts = tuple[int | None, int | None, int, int | None, int | None]
ZERO_AMOUNTS: Amounts = (0, 0, 0, 0, 0)


def add_amounts(one: Amounts, other: Amounts) -> Amounts:
    """Both; what is not known of one adds nothing."""
    a, b = one, other
    return (
        (a[0] or 0) + (b[0] or 0), (a[1] or 0) + (b[1] or 0), a[2] + b[2], (a[3] or 0) + (b[3] or 0), (a[4] or 0) + (b[4] or 0),
    )  # fmt: skip


# What a request says of itself, and what only the deployment that serves it decides.
REQUEST_DIMENSIONS = ("org", "team", "key", "user", "session", "task_type", "route")
ATTEMPT_DIMENSIONS = ("deployment", "model", "tier", "provider")
# Sums beside a limit stay exact in a double (Lua has no other number): 2**53 is 9 million dollars, or 2.5 GWh.
LIMIT_MAX = 2**52


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a budget starts again. Calendar windows begin with the hour, day, Monday or month of `zone` (None: UTC).

    `kind` is hour, day, week, month, rolling, session or total. `rolling` looks back over `seconds`, in steps of a
    sixtieth of it: an amount leaves between one and 61/60 windows after it was booked, never before. `session` and
    `total` never start again.
    """

    kind: str
    zone: ZoneInfo | None = None
    seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetThresholds:
    """What happens on the way to the limit, each from an amount in the budget's unit on.

    `notify`: (percent, amount) at which somebody is told, once per window. `downgrade`: above it only tiers up to
    `tier_max` may book, where the request has such a candidate. `shrink`: above it output limits are lowered, to no
    less than `output_min` tokens. `queue`: a call that would pass it waits up to `queue_seconds` for room.
    """

    notify_at: tuple[tuple[int, int], ...] = ()
    downgrade_above: int | None = None
    downgrade_tier_max: Tier = Tier.small
    shrink_above: int | None = None
    output_tokens_min: int = 256
    queue_above: int | None = None
    queue_seconds: float = 0.0


NO_THRESHOLDS = BudgetThresholds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit for a scope and a window.

    `scope` maps dimensions to the value it applies to; "*" gives each value its own account. `limit` is in the unit of
    `measure`, `refuse` the amount beyond which nothing is booked (the limit, unless a stage says less). `expected` is
    the safety factor of expected holds, 0 for the worst case. `fail` says what happens while the shared store is down:
    closed, open or local. `shadow` budgets count and notify, and refuse nothing. `contact` tells how to ask for more.
    `label` is how headers begin to tell of it: name, unit and limit.
    """

    name: str
    scope: Mapping[str, str]
    measure: Measure
    limit: int
    window: Window
    refuse_above: int = -1
    thresholds: BudgetThresholds = NO_THRESHOLDS
    expected_factor: float = 0.0
    store_failure_mode: str = "closed"
    is_shadow: bool = False
    contact: str = ""
    dimensions: tuple[str, ...] = field(init=False)
    header_label: str = field(init=False)

    def __post_init__(self) -> None:
        assert 0 <= self.limit <= LIMIT_MAX
        if self.refuse_above < 0:
            object.__setattr__(self, "refuse_above", self.limit)
        unit, scale = MEASURE_UNITS[self.measure]
        object.__setattr__(self, "dimensions", tuple(sorted(self.scope)))
        object.__setattr__(
            self, "header_label", f'"{self.name}";unit={unit};limit={plain_decimal(self.refuse_above / scale)}'
        )


class BudgetLine(Value, frozen=True, kw_only=True):
    """One budget as it applies to one request now: the account it books on, and when that account starts again.

    `ceiling` is what spent and held may reach; `bucket_seconds` > 0 makes the account a rolling one of `buckets`
    steps. `session`: the account is one session's own, of which there is no end; the oldest may be forgotten.
    """

    account: str
    budget: Budget
    ceiling: int
    starts_at: float = 0.0
    resets_at: float | None = None
    keep_until: float = float("inf")
    bucket_seconds: int = 0
    bucket_count: int = 0
    is_session_account: bool = False

    @property
    def name(self) -> str:
        """The budget's name."""
        return self.budget.name

    @property
    def measure(self) -> Measure:
        """What it counts."""
        return self.budget.measure


class ApplicableLines(Value, frozen=True, kw_only=True):
    """The lines that a request meets at one deployment, and what holds for all of them: their measures and ceilings,
    whether each holds the worst case up to its limit (`plain`), and whether one counts carbon."""

    lines: tuple[BudgetLine, ...]
    measures: tuple[Measure, ...]
    ceilings: tuple[int, ...]
    is_worst_case_only: bool
    counts_carbon: bool


def join_lines(one: ApplicableLines, other: ApplicableLines) -> ApplicableLines:
    """Both."""
    if not other.lines:
        return one
    return ApplicableLines(
        lines=one.lines + other.lines,
        measures=one.measures + other.measures,
        ceilings=one.ceilings + other.ceilings,
        is_worst_case_only=one.is_worst_case_only and other.is_worst_case_only,
        counts_carbon=one.counts_carbon or other.counts_carbon,
    )


def applicable_lines(lines: tuple[BudgetLine, ...]) -> ApplicableLines:
    """These lines, looked through once."""
    budgets = [line.budget for line in lines]
    return ApplicableLines(
        lines=lines,
        measures=tuple([budget.measure for budget in budgets]),
        ceilings=tuple([line.ceiling for line in lines]),
        is_worst_case_only=all(budget.thresholds is NO_THRESHOLDS and not budget.expected_factor for budget in budgets),
        counts_carbon=any(budget.measure is Measure.micrograms for budget in budgets),
    )


NO_LINES = applicable_lines(())


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCaps:
    """What a session may take: budgets of it together with all that it started (`budgets`), and of it alone (`each`);
    seconds of wall clock since the head of its tree began, how deep the tree may be (1: no sub-agents of sub-agents)
    and how many sub-agents it may have in all. None: no cap."""

    tree_budgets: tuple[Budget, ...] = ()
    session_budgets: tuple[Budget, ...] = ()
    sub_agent_budget: Budget | None = None
    duration_seconds_max: float | None = None
    depth_max: int | None = None

    @property
    def all_budgets(self) -> tuple[Budget, ...]:
        """Every budget that is a cap."""
        return (
            *self.tree_budgets,
            *self.session_budgets,
            *([self.sub_agent_budget] if self.sub_agent_budget is not None else []),
        )


# What a run's caps are called by who set them: the configuration for a tree, for each session alone, the run itself.
CAP_PREFIXES = ("session", "each", "run")
CAP_MEASURES = {"calls": Measure.calls, "usd": Measure.nusd, "tokens": Measure.tokens, "wh": Measure.millijoules}


def cap_budget(kind: str, unit: str, limit: int) -> Budget:
    """The budget that a cap is: `session-usd`, `each-calls`, `run-wh`."""
    return Budget(
        name=f"{kind}-{unit}",
        scope={"key": "*", "session": "*"},
        measure=Measure.calls if unit == "sub-agents" else CAP_MEASURES[unit],
        limit=limit,
        window=Window(kind="session"),
    )


def tightest_caps(one: SessionCaps, other: SessionCaps) -> SessionCaps:
    """Of each cap the lower."""

    def lower(these: tuple[Budget, ...], those: tuple[Budget, ...]) -> tuple[Budget, ...]:
        by_name = {budget.name: budget for budget in these}
        for budget in those:
            known = by_name.get(budget.name)
            if known is None or budget.limit < known.limit:
                by_name[budget.name] = budget
        return tuple(by_name.values())

    def least(this: float | None, that: float | None) -> float | None:
        return that if this is None else this if that is None else min(this, that)

    agents = lower(*[(caps.sub_agent_budget,) if caps.sub_agent_budget is not None else () for caps in (one, other)])
    depth = least(one.depth_max, other.depth_max)
    return SessionCaps(
        tree_budgets=lower(one.tree_budgets, other.tree_budgets),
        session_budgets=lower(one.session_budgets, other.session_budgets),
        sub_agent_budget=agents[0] if agents else None,
        duration_seconds_max=least(one.duration_seconds_max, other.duration_seconds_max),
        depth_max=None if depth is None else int(depth),
    )


class Shrinkage(Value, frozen=True, kw_only=True):
    """How an offer may shrink: per line, what it takes without output and for each token of it (rounded up, so that a
    shrunk hold is never too small), from `most` output tokens down to `least`; and per line the amount to stay under
    while more than `least` is asked for, and the one that is not passed at all."""

    fixed_amounts: tuple[int, ...]
    amounts_per_token: tuple[int, ...]
    output_tokens_max: int
    output_tokens_min: int
    thresholds: tuple[int, ...]
    ceilings: tuple[int, ...]


class HoldOption(Value, frozen=True, kw_only=True):
    """One attempt as the books see it: what it would hold on each line (None: not known), up to which ceiling it may
    go there, and how it may shrink."""

    lines: tuple[BudgetLine, ...]
    amounts: tuple[int | None, ...]
    ceilings: tuple[int, ...]
    shrinkage: Shrinkage | None = None


class Reservation(Value, frozen=True, kw_only=True):
    """What was set aside: which offer fitted, how much on each of its lines, and how the accounts stand with it.

    `at` is the time by which the windows were told. `output_tokens` is set where the offer was shrunk to that output.
    `passed_over` names the budget that the first offer would have broken. Resolved once, by its id.
    """

    id: str
    option_index: int
    lines: tuple[BudgetLine, ...]
    amounts: tuple[int, ...]
    balances: tuple[tuple[int, int, int], ...]
    expires_at: float
    reserved_at: float = 0.0
    output_tokens: int | None = None
    exceeded_budget: str = ""


class BudgetExceeded(Value, frozen=True, kw_only=True):
    """No offer fitted: the line that the last one broke, how it stood (`extra`: what was granted beyond its limit),
    and what was wanted."""

    line: BudgetLine
    spent: int
    held: int
    granted: int
    requested: int | None


class ThresholdCrossing(Value, frozen=True, kw_only=True):
    """What was spent on an account reached a percentage of its limit at which somebody is to be told."""

    line: BudgetLine
    percent: int
    spent: int
    crossed_at: float


class Grant(Value, frozen=True, kw_only=True):
    """More for one account, by an operator: a top-up for the rest of its window, or grace until `until` (seconds)."""

    id: str
    account: str
    amount: int
    until: float | None = None
