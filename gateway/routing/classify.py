"""A request's verdict, put together: the kind of work, how hard it looks, and what moved that. Pure but for what the
kinds of work have learnt to look like.
"""

import math

from ..values.plan import Classification, PromptFeatures, RequestFeatures
from ..values.quality import Role
from ..values.snapshot import Snapshot
from .classifiers import learned, transparent
from .classifiers.learned import corrected_log_odds
from .classifiers.task_type import TaskTypeClassifier, match_task_type, task_type_name
from .scorer import Scorer

# Complexity is told to four decimals, and never as certain.
_COMPLEXITY_MAX = 0.9999
# A signal is named in the reason when it moves the log-odds by at least this.
_REASON_SHIFT_MIN = 0.25


def complexity_of(log_odds: float) -> float:
    """Complexity as it is told, routed by and fitted to: four decimals, never certain."""
    return min(_COMPLEXITY_MAX, max(1 - _COMPLEXITY_MAX, round(1 / (1 + math.exp(-log_odds)), 4)))


class ScoredPrompt:
    """What a scorer has read of a prompt: its words and numbers, and what it says of them."""

    __slots__ = ("_standardized", "prediction", "prompt_features", "scorer")

    def __init__(self, features: PromptFeatures, scorer: Scorer) -> None:
        self.prompt_features, self.scorer = features, scorer
        self.prediction = scorer.score(features)
        self._standardized: tuple[float, ...] | None = None

    @property
    def standardized(self) -> tuple[float, ...]:
        """Its numbers as deviations from what is usual; worked out when somebody first asks."""
        if self._standardized is None:
            self._standardized = self.scorer.standardize(self.prompt_features.dense)
        return self._standardized


def classify(
    features: RequestFeatures,
    snapshot: Snapshot,
    org: str,
    kinds: TaskTypeClassifier,
    *,
    declared: str | None = None,
    role: Role | None = None,
    read: ScoredPrompt | None = None,
    pair: tuple[str, str] = ("", ""),
) -> Classification:
    """Complexity and task type of a request. `declared` is the caller's own task type; `read` is what the scorer says of
    it, None where it was not asked; `pair` are the models of its route's lowest and highest tier."""
    task, confidence = match_task_type(features, snapshot.task_types, declared)
    if read is None:
        base, moves = transparent.log_odds(features)
    else:
        if len(snapshot.task_types) > 1:
            task, confidence = kinds.classify(
                task, confidence, snapshot.task_types, org, lambda: read.standardized, declared
            )
        of_scorer = snapshot.learned_floors.scorer == read.scorer.name
        fitted = snapshot.learned_floors.floors.get((org, task_type_name(task), *pair)) if of_scorer else None
        own = None
        if fitted is not None and fitted.head is not None:
            placed = read.standardized if fitted.head.numbers else ()
            own = corrected_log_odds(fitted.head, read.prediction.gain, placed, read.prompt_features.words)
        base, moves = learned.log_odds(features, read.prediction, own)
    if task is not None and task.complexity_shift:
        moves.append((f"task-{task.name}", task.complexity_shift))
    if role is not None and role.complexity_shift:
        moves.append((f"role-{role.name}", role.complexity_shift))
    log_odds = base + sum([move for _, move in moves])
    moved = sum([move for name, move in moves if name != learned.OWN_TRAFFIC])
    named = [f"{name}{move:+.1f}" for name, move in moves if not -_REASON_SHIFT_MIN < move < _REASON_SHIFT_MIN]
    if read is not None:
        named.insert(0, f"small {read.prediction.small:.2f} frontier {read.prediction.frontier:.2f}")
    return Classification(
        complexity=complexity_of(log_odds),
        task_type=task_type_name(task),
        confidence=round(confidence, 3),
        reason=",".join(named) or "plain",
        role=role.name if role is not None else "",
        scorer=read.scorer.name if read is not None else "",
        features=read.prompt_features if read is not None else None,
        log_odds_shift=moved,
        uncorrected_complexity=complexity_of(base + moved),
    )
