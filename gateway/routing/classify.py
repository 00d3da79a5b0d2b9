"""Classifies a request: task type, complexity, and the signals behind them.

Pure apart from the task types' learned means.
"""

import math

from ..values.plan import Classification, PromptFeatures, RequestFeatures
from ..values.quality import Role
from ..values.snapshot import Snapshot
from .classifiers import learned, transparent
from .classifiers.learned import corrected_log_odds
from .classifiers.task_type import TaskTypeClassifier, match_task_type, task_type_name
from .scorer import Scorer

# Complexity is rounded to four decimals and never certain.
_COMPLEXITY_MAX = 0.9999
# Least shift of the log-odds for a signal to be named in the reason.
_REASON_SHIFT_MIN = 0.25


def complexity_of(log_odds: float) -> float:
    """Complexity as reported, routed by and fitted to: four decimals, never 0 or 1."""
    return min(_COMPLEXITY_MAX, max(1 - _COMPLEXITY_MAX, round(1 / (1 + math.exp(-log_odds)), 4)))


class ScoredPrompt:
    """A prompt's features and a scorer's prediction from them."""

    __slots__ = ("_standardized", "prediction", "prompt_features", "scorer")

    def __init__(self, features: PromptFeatures, scorer: Scorer) -> None:
        self.prompt_features, self.scorer = features, scorer
        self.prediction = scorer.score(features)
        self._standardized: tuple[float, ...] | None = None

    @property
    def standardized(self) -> tuple[float, ...]:
        """The features in standard deviations; computed on first use."""
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
    scored: ScoredPrompt | None = None,
    model_pair: tuple[str, str] = ("", ""),
) -> Classification:
    """Complexity and task type of a request.

    kinds: learned task types
    declared: task type declared by the caller or its role
    scored: the scored prompt, None for the transparent classifier
    model_pair: models of the route's lowest and highest tier
    """
    task, confidence = match_task_type(features, snapshot.task_types, declared)
    if scored is None:
        base, shifts = transparent.log_odds(features)
    else:
        if len(snapshot.task_types) > 1:
            task, confidence = kinds.classify(
                task, confidence, snapshot.task_types, org, lambda: scored.standardized, declared
            )
        same_scorer = snapshot.learned_floors.scorer == scored.scorer.name
        fitted = snapshot.learned_floors.floors.get((org, task_type_name(task), *model_pair)) if same_scorer else None
        corrected = None
        if fitted is not None and fitted.head is not None:
            standardized = scored.standardized if fitted.head.numbers else ()
            corrected = corrected_log_odds(
                fitted.head, scored.prediction.gain, standardized, scored.prompt_features.words
            )
        base, shifts = learned.log_odds(features, scored.prediction, corrected)
    if task is not None and task.complexity_shift:
        shifts.append((f"task-{task.name}", task.complexity_shift))
    if role is not None and role.complexity_shift:
        shifts.append((f"role-{role.name}", role.complexity_shift))
    log_odds = base + sum([shift for _, shift in shifts])
    uncorrected_shift = sum([shift for name, shift in shifts if name != learned.OWN_TRAFFIC])
    reasons = [f"{name}{shift:+.1f}" for name, shift in shifts if not -_REASON_SHIFT_MIN < shift < _REASON_SHIFT_MIN]
    if scored is not None:
        reasons.insert(0, f"small {scored.prediction.small:.2f} frontier {scored.prediction.frontier:.2f}")
    return Classification(
        complexity=complexity_of(log_odds),
        task_type=task_type_name(task),
        confidence=round(confidence, 3),
        reason=",".join(reasons) or "no signals",
        role=role.name if role is not None else "",
        scorer=scored.scorer.name if scored is not None else "",
        features=scored.prompt_features if scored is not None else None,
        log_odds_shift=uncorrected_shift,
        uncorrected_complexity=complexity_of(base + uncorrected_shift),
    )
