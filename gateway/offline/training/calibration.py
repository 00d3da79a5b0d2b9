"""A correction of the scorer for one kind of traffic, from its own labels: ridge regression of what the scorer's gain
leaves over, shrunk towards leaving it as it is.

gain' = offset + slope * gain + numbers + words. How strongly it is shrunk is chosen by cross-validation among the
labels; of settings that are not clearly worse than the best the one that changes least is taken.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...routing.classifiers.learned import corrected_gain
from ...values.quality import ScorerCorrection
from .train_scorer import fit_calibration

Floats = npt.NDArray[np.float64]

# Ridges, and what words and numbers weigh beside the gain; the last ridge leaves the scorer as it is.
_RIDGES = (300.0, 1_000.0, 3_000.0, 10_000.0, 100_000.0)
_WORD_WEIGHTS, _NUMBER_WEIGHTS = (0.0, 1.0, 3.0), (0.3, 1.0)
_FOLDS = 5
# Where the scorer knows this share of the words it was trained on traffic like this: a few labels then mislead more than
# they teach, and it is left as it is unless the order of unseen labels is better by so many standard errors. Of the eight
# public sources seven lie above this share when they were trained on, four below it when they were left out (the other four are
# mathematics and code, whose words are few).
_FAMILIAR_WORD_SHARE, _IMPROVEMENT_ERRORS_MIN = 0.925, 2.0
# A setting that changes more must be better by so many standard errors.
_MARGIN_ERRORS = 0.5
# A word counts from so many labels on, and not if nearly every prompt has it.
_WORD_LABELS_MIN, _WORD_SHARE_MAX = 4, 0.9
# The gain weighs as much as so many numbers.
_GAIN_WEIGHT = 3.0
# Fewer labels correct nothing.
LABELS_MIN = 40
# So many labels at most teach a correction: its arithmetic is cubic.
LABELS_MAX = 3_000


class TrainingLabel(NamedTuple):
    """One label: the scorer's gain, its probability that small does not suffice, its standardised numbers, the words it knows and their share of all (in [0, 1]), and
    both qualities in [0, 1]."""

    gain: float
    small_insufficient: float
    standardized: Sequence[float]
    words: frozenset[str]
    known_word_share: float
    small: float
    large: float


class _RegressionInputs(NamedTuple):
    """Labels as inputs of the regression: gain, numbers, words."""

    gain: Floats
    numbers: Floats
    words: Floats


def fit_correction(labels: Sequence[TrainingLabel], seed: int = 0) -> ScorerCorrection:
    """The correction that labels carry, and the calibration of what it gives; too few of them calibrate only."""
    labels = labels[-LABELS_MAX:]
    gain = np.array([label.gain for label in labels])
    true = np.array([label.large - label.small for label in labels])
    wanting = (true > 0).astype(np.float64)
    if len(labels) < LABELS_MIN:
        return ScorerCorrection(need=fit_calibration(gain, wanting, np.ones(len(labels))))
    counts = Counter(word for label in labels for word in label.words)
    most = _WORD_SHARE_MAX * len(labels)
    vocabulary = sorted(word for word, count in counts.items() if _WORD_LABELS_MIN <= count <= most)
    mean, spread = float(gain.mean()), float(gain.std()) + 1e-6
    space = _RegressionInputs(
        gain=(_GAIN_WEIGHT * (gain - mean) / spread)[:, None],
        numbers=np.array([label.standardized for label in labels]),
        words=_word_matrix(labels, vocabulary),
    )
    left = true - gain
    (ridge, of_words, of_numbers), unseen = _cross_validate(space, left, seed)
    familiar = float(np.mean([label.known_word_share for label in labels])) >= _FAMILIAR_WORD_SHARE
    if familiar and _improvement_errors(gain, gain + unseen, true) < _IMPROVEMENT_ERRORS_MIN:
        return ScorerCorrection(need=fit_calibration(gain, wanting, np.ones(len(labels))))
    kernels = _kernels(space)
    kernel = kernels[0] + of_numbers * kernels[1] + of_words * kernels[2]
    offset = float(left.mean())
    alpha = np.linalg.solve(kernel + ridge * np.eye(len(labels)), left - offset)
    slope = float((space.gain.T @ alpha)[0]) * _GAIN_WEIGHT / spread
    numbers, told = of_numbers * (space.numbers.T @ alpha), of_words * (space.words.T @ alpha)
    head = ScorerCorrection(
        offset=offset - slope * mean,
        slope=1 + slope,
        numbers=tuple(round(float(one), 6) for one in numbers),
        words={word: round(float(one), 6) for word, one in zip(vocabulary, told, strict=True) if one},
    )
    # Calibrated on labels that the correction has not seen would be better still; a slope below one is the price.
    fitted = np.array([corrected_gain(head, label.gain, label.standardized, label.words) for label in labels])
    return ScorerCorrection(
        offset=head.offset, slope=head.slope, numbers=head.numbers, words=head.words,
        need=fit_calibration(fitted, wanting, np.ones(len(labels))),
    )  # fmt: skip


def _improvement_errors(before: Floats, after: Floats, true: Floats) -> float:
    """By how many standard errors the order of `after` recovers more of the gap than that of `before`: what a prompt's
    place moves the area under the gain curve by, times its true gain."""
    count = len(true)
    ranks = [np.argsort(np.argsort(one, kind="stable"), kind="stable") / count for one in (before, after)]
    moved = true * (ranks[1] - ranks[0])
    spread = float(moved.std())
    return float(moved.mean()) / spread * count**0.5 if spread else 0.0


def _cross_validate(space: _RegressionInputs, left: Floats, seed: int) -> tuple[tuple[float, float, float], Floats]:
    """(ridge, weight of words, weight of numbers) by cross-validation; and what it says of labels that it has not seen."""
    count, kernels = len(left), _kernels(space)
    part = np.random.default_rng(seed).permutation(count) % _FOLDS
    errors: dict[tuple[float, float, float], Floats] = {}
    guesses: dict[tuple[float, float, float], Floats] = {}
    for of_words in _WORD_WEIGHTS:
        for of_numbers in _NUMBER_WEIGHTS:
            kernel = kernels[0] + of_numbers * kernels[1] + of_words * kernels[2]
            found = {ridge: np.zeros(count) for ridge in _RIDGES}
            for fold in range(_FOLDS):
                seen, unseen = part != fold, part == fold
                mean = left[seen].mean()
                # One decomposition serves every ridge.
                values, vectors = np.linalg.eigh(kernel[np.ix_(seen, seen)])
                turned, across = vectors.T @ (left[seen] - mean), kernel[np.ix_(unseen, seen)] @ vectors
                for ridge in _RIDGES:
                    said = mean + across @ (turned / (np.maximum(values, 0) + ridge))
                    found[ridge][unseen] = said
            for ridge, said in found.items():
                guesses[ridge, of_words, of_numbers] = said
                errors[ridge, of_words, of_numbers] = (left - said) ** 2
    best = min(errors, key=lambda one: float(errors[one].mean()))
    good = [
        one
        for one, error in errors.items()
        if (error - errors[best]).mean() <= _MARGIN_ERRORS * (error - errors[best]).std() / count**0.5
    ]
    chosen = max(good, key=lambda one: (one[0], -one[1], -one[2]))
    return chosen, guesses[chosen]


def _kernels(space: _RegressionInputs) -> tuple[Floats, Floats, Floats]:
    return space.gain @ space.gain.T, space.numbers @ space.numbers.T, space.words @ space.words.T


def _word_matrix(labels: Sequence[TrainingLabel], vocabulary: Sequence[str]) -> Floats:
    places = {word: place for place, word in enumerate(vocabulary)}
    found = np.zeros((len(labels), len(vocabulary)))
    for row, label in enumerate(labels):
        found[row, [places[word] for word in label.words if word in places]] = 1.0
    return found
