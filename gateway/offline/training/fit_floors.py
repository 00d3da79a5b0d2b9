"""Fits a correction of the scorer and a quality floor to own labels.

For each organization, task type and pair of models. Labels are split at random, by a digest of their ids: one part fits
the correction, the other, unseen by it, sets the ceiling. With both from the same labels the claim would be about
labels, not about traffic.
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

# With fewer labels all of them set the ceiling, without a correction.
_SPLIT_LABELS_MIN = 400
# The share of labels that fit the correction, where there are enough.
_CORRECTION_SHARE = 0.4
# Scores of sessions' first requests needed to describe the mix of traffic.
_FIRST_REQUESTS_MIN = 200
# Fitted where no floor is configured, to report what one would achieve.
_DEFAULT_KEEP, _DEFAULT_CONFIDENCE = 0.97, 0.95


def fit_floors(labels: Iterable[StoredLabel], scorer: Scorer, policy: QualityPolicy, at: float) -> LearnedFloors:
    """The floors that the labels support.

    Only labels of both sides count, and only those made with this scorer.
    """
    groups: dict[LabelGroup, list[StoredLabel]] = defaultdict(list)
    for label in labels:
        if label.small is not None and label.large is not None and label.scorer == scorer.name and label.numbers:
            groups[label.group].append(label)
    fitted = {}
    for group, group_labels in groups.items():
        target = policy.for_task_type(group[1])
        keep = target.keep if target.keep is not None else _DEFAULT_KEEP
        confidence = target.confidence if target.keep is not None else _DEFAULT_CONFIDENCE
        fitted[group] = fit_group(group_labels, scorer, keep, confidence)
    return LearnedFloors(scorer=scorer.name, fitted_at=at, floors=fitted)


def fit_group(labels: Sequence[StoredLabel], scorer: Scorer, keep: float, confidence: float) -> FittedFloor:
    """The floor that the labels of one group support."""
    shuffled = sorted(labels, key=lambda label: hashlib.sha256(label.id.encode()).digest())
    correction_count = round(len(shuffled) * _CORRECTION_SHARE) if len(shuffled) >= _SPLIT_LABELS_MIN else 0
    training_labels = [_training_label(label, scorer) for label in shuffled]
    head = calibration.fit_correction(training_labels[:correction_count]) if correction_count else None
    floor_labels = [
        QualityLabel(
            score=_complexity(training_label, label, head), small=training_label.small, large=training_label.large
        )
        for training_label, label in zip(training_labels[correction_count:], shuffled[correction_count:], strict=True)
    ]
    # By the scorer alone: live scores from before this fit are compared with it too.
    first_scores = np.array(
        [
            _complexity(training_label, label, None)
            for training_label, label in zip(training_labels, shuffled, strict=True)
            if label.opens
        ]
    )
    edges = _score_edges(first_scores) if len(first_scores) >= _FIRST_REQUESTS_MIN else ()
    floor = fit_floor(floor_labels, keep=keep, confidence=confidence)
    return FittedFloor(
        ceiling=floor.ceiling,
        keep=keep,
        confidence=confidence,
        labels=len(shuffled),
        share=floor.share,
        kept=floor.kept_quality,
        edges=edges,
        shares=_score_shares(first_scores, edges) if edges else (),
        watched=len(first_scores),
        head=head,
    )


def _score_edges(scores: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """About nine edges that divide the scores evenly, between distinct scores."""
    distinct = np.unique(scores)
    positions = {int(np.searchsorted(distinct, edge)) for edge in np.quantile(scores, np.arange(1, 10) / 10)}
    return tuple(
        float(distinct[position] + distinct[position + 1]) / 2
        for position in sorted(positions)
        if position + 1 < len(distinct)
    )


def _score_shares(scores: npt.NDArray[np.float64], edges: Sequence[float]) -> tuple[float, ...]:
    """The share of the scores above each edge and at or below the next."""
    counts = np.bincount(np.searchsorted(edges, scores, "left"), minlength=len(edges) + 1).astype(np.float64)
    # Half a label in every share: what was never seen is rare, not impossible.
    return tuple(float(share) for share in (counts + 0.5) / (counts + 0.5).sum())


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


def _complexity(training_label: TrainingLabel, label: StoredLabel, head: ScorerCorrection | None) -> float:
    """The complexity of live traffic like this label, by the same arithmetic."""
    if head is None:
        odds = math.log(training_label.small_insufficient / (1 - training_label.small_insufficient))
    else:
        odds = corrected_log_odds(head, training_label.gain, training_label.standardized, training_label.words)
    return complexity_of(odds + label.moved)
