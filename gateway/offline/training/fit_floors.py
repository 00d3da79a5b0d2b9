"""What an operator's own labels carry: a correction of the scorer and a quality floor, for each organisation, task type
and pair of models.

Labels are split at random, by a digest of their ids: one part teaches the correction, the other, which it has not seen,
sets the ceiling. With both from the same labels the claim would be about labels, not about traffic.
"""

import hashlib
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ...routing.classifiers.learned import corrected_log_odds
from ...routing.classify import complexity_of
from ...routing.quality_floor import QualityLabel, fit_floor
from ...routing.scorer import Scorer
from ...stores.labels_sqlite import StoredLabel
from ...values.plan import PromptFeatures
from ...values.quality import FittedFloor, LabelGroup, LearnedFloors, QualityPolicy, ScorerCorrection
from . import calibration
from .calibration import TrainingLabel

# With fewer labels than this all of them set the ceiling, and nothing is corrected.
_SPLIT_LABELS_MIN = 400
# The share of labels that teach the correction, where there are enough.
_CORRECTION_SHARE = 0.4
# Scores of sessions' first requests that a mix of traffic is known by.
_FIRST_REQUESTS_MIN = 200
# What is fitted where no floor is asked for, so that it is known what one would carry.
_DEFAULT_KEEP, _DEFAULT_CONFIDENCE = 0.97, 0.95


def fit_floors(labels: Iterable[StoredLabel], scorer: Scorer, policy: QualityPolicy, at: float) -> LearnedFloors:
    """Everything that the labels carry. Only labels of both sides count, and only those that this scorer weighed."""
    groups: dict[LabelGroup, list[StoredLabel]] = defaultdict(list)
    for label in labels:
        if label.small is not None and label.large is not None and label.scorer == scorer.name and label.numbers:
            groups[label.group].append(label)
    fitted = {}
    for group, found in groups.items():
        asked = policy.for_task_type(group[1])
        keep = asked.keep if asked.keep is not None else _DEFAULT_KEEP
        confidence = asked.confidence if asked.keep is not None else _DEFAULT_CONFIDENCE
        fitted[group] = fit_group(found, scorer, keep, confidence)
    return LearnedFloors(scorer=scorer.name, fitted_at=at, floors=fitted)


def fit_group(labels: Sequence[StoredLabel], scorer: Scorer, keep: float, confidence: float) -> FittedFloor:
    """What the labels of one group carry."""
    mixed = sorted(labels, key=lambda label: hashlib.sha256(label.id.encode()).digest())
    taught = round(len(mixed) * _CORRECTION_SHARE) if len(mixed) >= _SPLIT_LABELS_MIN else 0
    seen = [_training_label(label, scorer) for label in mixed]
    head = calibration.fit_correction(seen[:taught]) if taught else None
    rest = [
        QualityLabel(score=_complexity(one, label, head), small=one.small, large=one.large)
        for one, label in zip(seen[taught:], mixed[taught:], strict=True)
    ]
    # By the scorer alone: live scores of before this fit are compared with it as well.
    openers = np.array([_complexity(one, label, None) for one, label in zip(seen, mixed, strict=True) if label.opens])
    edges = _score_edges(openers) if len(openers) >= _FIRST_REQUESTS_MIN else ()
    found = fit_floor(rest, keep=keep, confidence=confidence)
    return FittedFloor(
        ceiling=found.ceiling,
        keep=keep,
        confidence=confidence,
        labels=len(mixed),
        share=found.share,
        kept=found.kept_quality,
        edges=edges,
        shares=_score_shares(openers, edges) if edges else (),
        watched=len(openers),
        head=head,
    )


def _score_edges(scores: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """About nine places that part the scores evenly, each half-way between two that differ."""
    distinct = np.unique(scores)
    places = {int(np.searchsorted(distinct, edge)) for edge in np.quantile(scores, np.arange(1, 10) / 10)}
    return tuple(
        float(distinct[place] + distinct[place + 1]) / 2 for place in sorted(places) if place + 1 < len(distinct)
    )


def _score_shares(scores: npt.NDArray[np.float64], edges: Sequence[float]) -> tuple[float, ...]:
    """The part of the scores above each edge and up to the next; of equal prompts all lie in one."""
    counts = np.bincount(np.searchsorted(edges, scores, "left"), minlength=len(edges) + 1).astype(np.float64)
    # Half a label in every part: what was never seen is rare, not impossible.
    return tuple(float(one) for one in (counts + 0.5) / (counts + 0.5).sum())


def _training_label(label: StoredLabel, scorer: Scorer) -> TrainingLabel:
    assert label.small is not None and label.large is not None, "both sides were seen"
    words, numbers = scorer.words_at(array("I", label.words)), tuple(array("f", label.numbers))
    scored = scorer.score(PromptFeatures(words=words, dense=numbers))
    return TrainingLabel(
        gain=scored.gain,
        small_insufficient=scored.small_insufficient,
        standardized=scorer.standardize(numbers),
        words=words,
        known_word_share=label.known,
        small=label.small,
        large=label.large,
    )


def _complexity(seen: TrainingLabel, label: StoredLabel, head: ScorerCorrection | None) -> float:
    """The complexity that live traffic like this has with the correction, by the same arithmetic."""
    if head is None:
        odds = math.log(seen.small_insufficient / (1 - seen.small_insufficient))
    else:
        odds = corrected_log_odds(head, seen.gain, seen.standardized, seen.words)
    return complexity_of(odds + label.moved)
