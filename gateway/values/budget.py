"""Budgets: limits per scope and window, thresholds, holds and session caps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from zoneinfo import ZoneInfo

from .base import Value
from .catalog import Tier
from .units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, NUSD_PER_USD, plain_decimal


class Measure(IntEnum):
    """What a budget counts, in its integer unit: nUSD, tokens, calls, mJ, ug CO2e."""

    nusd = 0
    tokens = 1
    calls = 2
    millijoules = 3
    micrograms = 4


# The unit that people read, and how many of our integer units make one.
MEASURE_UNITS = {
    Measure.nusd: ("USD", NUSD_PER_USD),
    Measure.tokens: ("tokens", 1),
    Measure.calls: ("calls", 1),
    Measure.millijoules: ("Wh", MILLIJOULES_PER_WH),
    Measure.micrograms: ("gCO2e", MICROGRAMS_PER_GRAM),
}

# Amounts in the order of Measure; None where unknown (no price sheet, no energy profile).
Amounts = tuple[int | None, int | None, int, int | None, int | None]
ZERO_AMOUNTS: Amounts = (0, 0, 0, 0, 0)


def add_amounts(a: Amounts, b: Amounts) -> Amounts:
    """The sum per measure; an unknown amount counts as 0."""
    return (
        (a[0] or 0) + (b[0] or 0), (a[1] or 0) + (b[1] or 0), a[2] + b[2],
        (a[3] or 0) + (b[3] or 0), (a[4] or 0) + (b[4] or 0),
    )  # fmt: skip


# Scope dimensions known from the request, and those known only once a deployment is chosen.
REQUEST_DIMENSIONS = ("org", "team", "key", "user", "session", "task_type", "route")
ATTEMPT_DIMENSIONS = ("deployment", "model", "tier", "provider")
# Sums beside a limit stay exact in a double (Lua has no other number): 2**53 is 9 million dollars, or 2.5 GWh.
LIMIT_MAX = 2**52


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a budget resets.

    kind: hour, day, week, month, rolling, session or total. Calendar windows begin with the hour, day, Monday or month;
        `session` and `total` never reset.
    zone: time zone of calendar windows; None: UTC
    seconds: length of a rolling window. It moves in steps of 1/60, so an amount leaves between one and 61/60 windows
        after it was booked, never before.
    """

    kind: str
    zone: ZoneInfo | None = None
    seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetThresholds:
    """What happens below the limit, from an amount in the budget's unit; None: never.

    notify_at: (percent, amount) pairs; reaching one sends a notice once per window
    downgrade_above: above it only tiers up to `downgrade_tier_max` may book, where the request has such a candidate
    downgrade_tier_max: the highest tier allowed above `downgrade_above`
    shrink_above: above it output limits are lowered
    output_tokens_min: output limits are lowered no further than this, tokens
    queue_above: a call that would pass it waits for capacity
    queue_seconds: how long such a call waits at most
    """

    notify_at: tuple[tuple[int, int], ...] = ()
    downgrade_above: int | None = None
    downgrade_tier_max: Tier = Tier.small
    shrink_above: int | None = None
    output_tokens_min: int = 256
    queue_above: int | None = None
    queue_seconds: float = 0.0


NO_THRESHOLDS = BudgetThresholds()
# Safety factor of expected holds where the file gives none. With it no recorded session is refused (docs/evidence.md).
DEFAULT_EXPECTED_FACTOR = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit for a scope and a window.

    scope: dimension -> the value that it applies to; "*" gives each value an account of its own
    limit: in the integer unit of `measure`, 0 to LIMIT_MAX
    refuse_above: the amount beyond which nothing is booked; -1: the limit
    expected_factor: safety factor of expected holds; 0: hold the worst case
    store_failure_mode: while the budget store is down: closed, open or local
    is_shadow: counts and notifies, refuses nothing
    contact: how to ask for more, shown in refusals
    dimensions: the names in `scope`, sorted
    header_label: name, unit and limit as response headers show them
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
    """One budget as it applies to one request now, with the account that it books on.

    ceiling: spent + held may not exceed it, integer unit of the measure
    starts_at, resets_at: when the account's window begins and ends, seconds since the epoch; None: it never resets
    keep_until: when the account may be forgotten, seconds since the epoch
    bucket_seconds, bucket_count: step and number of steps of a rolling account; 0 for any other
    is_session_account: belongs to one session; the number of those is unbounded, so the oldest may be evicted
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
        """What the budget counts."""
        return self.budget.measure


class ApplicableLines(Value, frozen=True, kw_only=True):
    """The lines of a request at one deployment, with what holds for all of them.

    measures, ceilings: those of `lines`, in the same order
    is_worst_case_only: every line holds the worst case up to its limit (no thresholds, no expected holds)
    has_thresholds: something happens below the limit of some line
    counts_carbon: some line counts carbon
    """

    lines: tuple[BudgetLine, ...]
    measures: tuple[Measure, ...]
    ceilings: tuple[int, ...]
    is_worst_case_only: bool
    has_thresholds: bool
    counts_carbon: bool


def join_lines(first: ApplicableLines, second: ApplicableLines) -> ApplicableLines:
    """The lines of both."""
    if not second.lines:
        return first
    return ApplicableLines(
        lines=first.lines + second.lines,
        measures=first.measures + second.measures,
        ceilings=first.ceilings + second.ceilings,
        is_worst_case_only=first.is_worst_case_only and second.is_worst_case_only,
        has_thresholds=first.has_thresholds or second.has_thresholds,
        counts_carbon=first.counts_carbon or second.counts_carbon,
    )


def applicable_lines(lines: tuple[BudgetLine, ...]) -> ApplicableLines:
    """Precomputes what holds for all of these lines."""
    budgets = [line.budget for line in lines]
    return ApplicableLines(
        lines=lines,
        measures=tuple([budget.measure for budget in budgets]),
        ceilings=tuple([line.ceiling for line in lines]),
        is_worst_case_only=all(budget.thresholds is NO_THRESHOLDS and not budget.expected_factor for budget in budgets),
        has_thresholds=any(budget.thresholds is not NO_THRESHOLDS for budget in budgets),
        counts_carbon=any(budget.measure is Measure.micrograms for budget in budgets),
    )


NO_LINES = applicable_lines(())


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCaps:
    """What a session may take; None: no cap.

    tree_budgets: caps of the session together with all its sub-agents
    session_budgets: caps of the session alone
    sub_agent_budget: how many sub-agents it may have in all
    duration_seconds_max: wall clock since the root of its tree began
    depth_max: how deep the tree may be; 1: no sub-agents of sub-agents
    own_expected_factor: `expected_factor` of the caps that callers set for their sessions
    """

    tree_budgets: tuple[Budget, ...] = ()
    session_budgets: tuple[Budget, ...] = ()
    sub_agent_budget: Budget | None = None
    duration_seconds_max: float | None = None
    depth_max: int | None = None
    own_expected_factor: float = DEFAULT_EXPECTED_FACTOR

    @property
    def all_budgets(self) -> tuple[Budget, ...]:
        """Every budget that is a cap."""
        return (
            *self.tree_budgets,
            *self.session_budgets,
            *([self.sub_agent_budget] if self.sub_agent_budget is not None else []),
        )


# Name prefixes of caps by who set them: the configuration for a tree, for each session alone, the run itself.
CAP_NAME_PREFIXES = ("session", "each", "run")
CAP_MEASURES = {"calls": Measure.calls, "usd": Measure.nusd, "tokens": Measure.tokens, "wh": Measure.millijoules}


def cap_budget(kind: str, unit: str, limit: int, *, expected_factor: float = DEFAULT_EXPECTED_FACTOR) -> Budget:
    """The budget of a cap: `session-usd`, `each-calls`, `run-wh`."""
    measure = Measure.calls if unit == "sub-agents" else CAP_MEASURES[unit]
    return Budget(
        name=f"{kind}-{unit}",
        scope={"key": "*", "session": "*"},
        measure=measure,
        limit=limit,
        window=Window(kind="session"),
        # A call is one call, whatever is expected.
        expected_factor=0.0 if measure is Measure.calls else expected_factor,
    )


def tightest_caps(first: SessionCaps, second: SessionCaps) -> SessionCaps:
    """The lower of each cap."""

    def lower(left: tuple[Budget, ...], right: tuple[Budget, ...]) -> tuple[Budget, ...]:
        by_name = {budget.name: budget for budget in left}
        for budget in right:
            current = by_name.get(budget.name)
            if current is None or budget.limit < current.limit:
                by_name[budget.name] = budget
        return tuple(by_name.values())

    def least(left: float | None, right: float | None) -> float | None:
        return right if left is None else left if right is None else min(left, right)

    agents = lower(*[(caps.sub_agent_budget,) if caps.sub_agent_budget is not None else () for caps in (first, second)])
    depth = least(first.depth_max, second.depth_max)
    return SessionCaps(
        tree_budgets=lower(first.tree_budgets, second.tree_budgets),
        session_budgets=lower(first.session_budgets, second.session_budgets),
        sub_agent_budget=agents[0] if agents else None,
        duration_seconds_max=least(first.duration_seconds_max, second.duration_seconds_max),
        depth_max=None if depth is None else int(depth),
        own_expected_factor=first.own_expected_factor,
    )


class Shrinkage(Value, frozen=True, kw_only=True):
    """How a hold option may shrink; tuples hold one amount per line.

    fixed_amounts: amount without any output
    amounts_per_token: amount per output token, rounded up so that a shrunk hold is never too small
    output_tokens_max, output_tokens_min: range of the output limit
    thresholds: amounts to stay under while more than `output_tokens_min` is requested
    ceilings: amounts that are never passed
    """

    fixed_amounts: tuple[int, ...]
    amounts_per_token: tuple[int, ...]
    output_tokens_max: int
    output_tokens_min: int
    thresholds: tuple[int, ...]
    ceilings: tuple[int, ...]

    def amounts_at(self, output_tokens: int) -> tuple[int, ...]:
        """The hold on each line at this output limit."""
        return tuple(
            [
                fixed + per_token * output_tokens
                for fixed, per_token in zip(self.fixed_amounts, self.amounts_per_token, strict=True)
            ]
        )


class HoldOption(Value, frozen=True, kw_only=True):
    """What one attempt would hold on each of its lines.

    amounts: per line, integer unit of its measure; None: unknown
    ceilings: per line, what spent + held may reach
    shrinkage: how the hold may shrink; None: not at all
    """

    lines: tuple[BudgetLine, ...]
    amounts: tuple[int | None, ...]
    ceilings: tuple[int, ...]
    shrinkage: Shrinkage | None = None


class Reservation(Value, frozen=True, kw_only=True):
    """What was set aside for a request. Resolved once, by its id.

    option_index: which hold option fitted
    amounts: held on each line
    balances: per line (spent, held, granted), this reservation included
    expires_at, reserved_at: seconds since the epoch; windows were chosen by `reserved_at`
    output_tokens: the output limit where the option was shrunk; None: not shrunk
    exceeded_budget: name of the budget that the first option would have exceeded; "": none
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
    """No hold option fitted; describes the line that one of them exceeded.

    granted: what operators granted beyond the line's ceiling
    requested: what the call would have held; None: unknown
    is_held: an option is kept out by holds of other calls only; the line is the first that they keep it from. Otherwise
        the line is the first that the last option of a known amount exceeds even without them
    """

    line: BudgetLine
    spent: int
    held: int
    granted: int
    requested: int | None
    is_held: bool = False


class ThresholdCrossing(Value, frozen=True, kw_only=True):
    """An account's spending reached a percentage of its limit that sends a notice."""

    line: BudgetLine
    percent: int
    spent: int
    crossed_at: float


class Grant(Value, frozen=True, kw_only=True):
    """An operator's increase of one account.

    amount: added to the limit, integer unit of the measure
    until: end of a temporary grace, seconds since the epoch; None: a top-up for the rest of the window
    """

    id: str
    account: str
    amount: int
    until: float | None = None
