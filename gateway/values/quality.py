"""What operators ask of quality, and what was learnt of it from their own traffic."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .catalog import Tier

# The team, and the key, that shadow calls and their judge are charged to; a budget of that name bounds them.
SHADOW_KEY = "penstock-shadow"


def meets_shadow_calls(scope: Mapping[str, str]) -> bool:
    """Whether a budget of this scope is met by shadow calls; no other is, and no other call meets it."""
    return SHADOW_KEY in (scope.get("team"), scope.get("key"))


# Whatever is not one of the configured kinds of work.
OTHER_TASK_TYPE = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityTarget:
    """What is asked for one kind of work.

    `keep`: at least this part of the frontier's quality is kept, with `confidence`; None asks for no floor.
    `fallback_share`: where the labels do not carry that claim, this share goes to the frontier; None sends all.
    `frontier_share`: a share that is held whatever the quality; None asks for none. All in [0, 1].
    """

    keep: float | None = None
    confidence: float = 0.95
    fallback_share: float | None = None
    frontier_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPolicy:
    """What is asked by task type; the default for the rest. `asks`: anything at all."""

    default: QualityTarget = QualityTarget()
    by_task_type: Mapping[str, QualityTarget] = field(default_factory=dict)

    @property
    def has_floor(self) -> bool:
        """Whether a floor is asked for anywhere."""
        return any(one.keep is not None for one in (self.default, *self.by_task_type.values()))

    def for_task_type(self, task_type: str) -> QualityTarget:
        """What applies to a request."""
        return self.by_task_type.get(task_type, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Small first, and the frontier if the answer looks doubtful. `on`: whether it is done at all. `escalates` is the
    share of doubtful answers assumed before any was seen, in [0, 1]."""

    is_enabled: bool = False
    escalation_share_prior: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSampling:
    """A sample of requests is asked of both tiers once more, beside the caller, and a judge compares the answers.

    `share` in [0, 1] of the requests of auto routes; `judge` is the route that judges; `nusd_per_day` is what all of it
    may cost in each organisation.
    """

    share: float = 0.0
    judge: str = ""
    nusd_per_day_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How labels are collected and used. `keep_content`: prompts and answers of labels are kept, too (else features
    only). `labels_max` are kept, oldest out. `refit_seconds` between fits, None to leave that to the operator."""

    shadow_sampling: ShadowSampling = ShadowSampling()
    keep_content: bool = False
    labels_max: int = 200_000
    refit_seconds: float | None = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One of the parts that agents of a session play, how it is known, and what it is bound to.

    It is known by a header, by the name of the agent (`agents`, shell patterns), by words that must all stand in the
    system prompt, by tools one of which is offered, or by having been seen with its header before. `sub_agents`: every
    session that another one started. `tier_min` and `tier_max` bound the choice.
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
    """A correction of the scorer's gain for one kind of traffic: offset + slope * gain, and weights of its standardised
    numbers and of words (none of them: ()). `need` (slope, offset) turns the result into the log-odds that the small
    tier does not suffice."""

    offset: float = 0.0
    slope: float = 1.0
    numbers: tuple[float, ...] = ()
    words: Mapping[str, float] = field(default_factory=dict)
    need: tuple[float, float] = (4.0, -1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFloor:
    """What the labels of one group carry.

    `ceiling` is the highest complexity that the tier may serve so that `keep` holds with `confidence`, None where the
    labels do not say so; `labels` is their number, `share` of them lie at or below it, `kept` is what those kept.
    Of the scores of sessions' first requests, `watched` of them, the part `shares[k]` lies above `edges[k - 1]` and at or
    below `edges[k]`. `head` corrects the scorer for this traffic, None leaves it as it
    is.
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


# (organisation, task type, models of the lowest tier, models of the highest): a claim is about models, not about names.
LabelGroup = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedFloors:
    """Everything that was learnt, published as a whole. `scorer` names the weights that it was fitted with, `at` is
    when (seconds since the epoch)."""

    scorer: str = ""
    fitted_at: float = 0.0
    floors: Mapping[LabelGroup, FittedFloor] = field(default_factory=dict)


NO_LEARNED_FLOORS = LearnedFloors()
NO_QUALITY, NO_CASCADE, NO_LEARNING = QualityPolicy(), Cascade(), Learning()
