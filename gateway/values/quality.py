"""Quality targets set by operators, and quality floors learned from own traffic."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .catalog import Tier

# The team and the key that shadow calls and their judge are charged to; budgets of that name bound them.
SHADOW_KEY = "penstock-shadow"


def meets_shadow_calls(scope: Mapping[str, str]) -> bool:
    """Whether a budget of this scope applies to shadow calls; no other budget does."""
    return SHADOW_KEY in (scope.get("team"), scope.get("key"))


# The task type of whatever is not configured.
OTHER_TASK_TYPE = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityTarget:
    """The target for one kind of work; shares are in [0, 1].

    keep: share of the frontier's quality to keep; None: no floor
    confidence: with which `keep` must hold
    fallback_share: share sent to the frontier where the labels do not support that claim; None: all
    frontier_share: share always sent to the frontier; None: no such share
    """

    keep: float | None = None
    confidence: float = 0.95
    fallback_share: float | None = None
    frontier_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPolicy:
    """Quality targets by task type, with a default."""

    default: QualityTarget = QualityTarget()
    by_task_type: Mapping[str, QualityTarget] = field(default_factory=dict)

    @property
    def has_floor(self) -> bool:
        """Whether any target sets a floor."""
        return any(target.keep is not None for target in (self.default, *self.by_task_type.values()))

    def for_task_type(self, task_type: str) -> QualityTarget:
        """The target for a request."""
        return self.by_task_type.get(task_type, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Small tier first, then the frontier if the answer looks doubtful.

    escalation_share_prior: share of doubtful answers assumed before any was seen, in [0, 1]
    """

    is_enabled: bool = False
    escalation_share_prior: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSampling:
    """A sample of requests is sent to both tiers, and a judge compares the answers.

    share: of the requests of auto routes, in [0, 1]
    judge: the route that judges
    nusd_per_day_max: what this may cost per organization and day
    """

    share: float = 0.0
    judge: str = ""
    nusd_per_day_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How labels are collected and used.

    keep_content: keep prompts and answers of labels, else only features
    labels_max: labels kept; the oldest are dropped
    refit_seconds: between fits; None: only on the operator's request
    """

    shadow_sampling: ShadowSampling = ShadowSampling()
    keep_content: bool = False
    labels_max: int = 200_000
    refit_seconds: float | None = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role that agents play in a session: how it is recognized, its tier limits.

    It is recognized by its header, by any of the criteria below, or by an agent seen with its header before.

    agents: shell patterns of the agent's name
    words: all of them occur in the system prompt
    tools: any of them is offered
    sub_agents: matches every session that another one started
    task_type: task type of its requests; None: as classified
    complexity_shift: added to the log-odds of the complexity
    tier_min, tier_max: bounds of the tier; None: none
    """

    name: str
    agents: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    sub_agents: bool = False
    task_type: str | None = None
    complexity_shift: float = 0.0
    tier_min: Tier | None = None
    tier_max: Tier | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerCorrection:
    """A correction of the scorer's gain for one kind of traffic.

    offset, slope: the corrected gain is offset + slope * gain + the weights below
    numbers: weights of the scorer's standardized numbers; (): none
    words: weights of words
    need: (slope, offset) that turn the result into the log-odds that the small tier does not suffice
    """

    offset: float = 0.0
    slope: float = 1.0
    numbers: tuple[float, ...] = ()
    words: Mapping[str, float] = field(default_factory=dict)
    need: tuple[float, float] = (4.0, -1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFloor:
    """The quality floor that the labels of one group support.

    ceiling: highest complexity that the tier may serve so that `keep` holds with `confidence`; None: unsupported
    labels: their number
    share: of the labels, at or below the ceiling
    kept: the share of quality that those kept
    edges, shares: of the scores of sessions' first requests, the share `shares[k]` is above `edges[k - 1]` and at or
        below `edges[k]`
    watched: number of those scores
    head: correction of the scorer for this traffic; None: none
    """

    ceiling: float | None
    keep: float
    confidence: float
    labels: int
    share: float
    kept: float
    edges: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    watched: int = 0
    head: ScorerCorrection | None = None


# (organization, task type, models of the lowest tier, models of the highest): a claim is about models, not route names.
LabelGroup = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedFloors:
    """All learned floors, published as a whole.

    scorer: name of the weights that they were fitted with
    fitted_at: seconds since the epoch
    """

    scorer: str = ""
    fitted_at: float = 0.0
    floors: Mapping[LabelGroup, FittedFloor] = field(default_factory=dict)


NO_LEARNED_FLOORS = LearnedFloors()
NO_QUALITY, NO_CASCADE, NO_LEARNING = QualityPolicy(), Cascade(), Learning()
