"""A correction of the scorer for one kind of traffic, from its own labels.

Ridge regression of the residual of the scorer's gain, shrunk towards no correction: gain' = offset + slope * gain +
numbers + words. The shrinkage is chosen by cross-validation among the labels; of the settings that are not clearly
worse than the best, the one that changes least is used.
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

# Ridges, and weights of words and numbers beside the gain; the last ridge leaves the scorer unchanged.
_RIDGES = (300.0, 1_000.0, 3_000.0, 10_000.0, 100_000.0)
_WORD_WEIGHTS, _NUMBER_WEIGHTS = (0.0, 1.0, 3.0), (0.3, 1.0)
_FOLDS = 5
# Where the scorer knows this share of the words, it was trained on such traffic: a few labels then do more harm than
# good, and it is corrected only if that ranks unseen labels better by this many standard errors. Of the eight public
# sources seven are above this share when they were trained on, four below it when they were left out (the other four
# are mathematics and code, whose words are few).
_FAMILIAR_WORD_SHARE, _IMPROVEMENT_ERRORS_MIN = 0.925, 2.0
# A setting that changes more must be better by this many standard errors.
_MARGIN_ERRORS = 0.5
# A word must occur in this many labels at least, and in this share of them at most.
_WORD_LABELS_MIN, _WORD_SHARE_MAX = 4, 0.9
# Scale of the gain beside the numbers.
_GAIN_WEIGHT = 3.0
# With fewer labels there is no correction.
LABELS_MIN = 40
# Labels used at most: the arithmetic is cubic.
LABELS_MAX = 3_000


class TrainingLabel(NamedTuple):
    """One label.

    gain: the scorer's
    small_insufficient: the scorer's probability that small does not suffice, in [0, 1]
    standardized: the scorer's standardized numbers
    words: those that the scorer knows
    known_word_share: their share of all words, in [0, 1]
    small, large: quality of both tiers, in [0, 1]
    """

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
    """The correction that labels support, calibrated; too few labels only calibrate."""
    labels = labels[-LABELS_MAX:]
    gain = np.array([label.gain for label in labels])
    true_gain = np.array([label.large - label.small for label in labels])
    needed = (true_gain > 0).astype(np.float64)
    if len(labels) < LABELS_MIN:
        return ScorerCorrection(need=fit_calibration(gain, needed, np.ones(len(labels))))
    counts = Counter(word for label in labels for word in label.words)
    count_max = _WORD_SHARE_MAX * len(labels)
    vocabulary = sorted(word for word, count in counts.items() if _WORD_LABELS_MIN <= count <= count_max)
    mean, spread = float(gain.mean()), float(gain.std()) + 1e-6
    inputs = _RegressionInputs(
        gain=(_GAIN_WEIGHT * (gain - mean) / spread)[:, None],
        numbers=np.array([label.standardized for label in labels]),
        words=_word_matrix(labels, vocabulary),
    )
    residual = true_gain - gain
    (ridge, words_weight, numbers_weight), predicted = _cross_validate(inputs, residual, seed)
    familiar = float(np.mean([label.known_word_share for label in labels])) >= _FAMILIAR_WORD_SHARE
    if familiar and _improvement_errors(gain, gain + predicted, true_gain) < _IMPROVEMENT_ERRORS_MIN:
        return ScorerCorrection(need=fit_calibration(gain, needed, np.ones(len(labels))))
    kernels = _kernels(inputs)
    kernel = kernels[0] + numbers_weight * kernels[1] + words_weight * kernels[2]
    offset = float(residual.mean())
    alpha = np.linalg.solve(kernel + ridge * np.eye(len(labels)), residual - offset)
    slope = float((inputs.gain.T @ alpha)[0]) * _GAIN_WEIGHT / spread
    numbers, words = numbers_weight * (inputs.numbers.T @ alpha), words_weight * (inputs.words.T @ alpha)
    head = ScorerCorrection(
        offset=offset - slope * mean,
        slope=1 + slope,
        numbers=tuple(round(float(value), 6) for value in numbers),
        words={word: round(float(value), 6) for word, value in zip(vocabulary, words, strict=True) if value},
    )
    # Calibration on labels unseen by the correction would be better; the price is a slope below one.
    fitted = np.array([corrected_gain(head, label.gain, label.standardized, label.words) for label in labels])
    return ScorerCorrection(
        offset=head.offset, slope=head.slope, numbers=head.numbers, words=head.words,
        need=fit_calibration(fitted, needed, np.ones(len(labels))),
    )  # fmt: skip


def _improvement_errors(before: Floats, after: Floats, true: Floats) -> float:
    """By how many standard errors `after` ranks better than `before`.

    The change of the area under the gain curve: a prompt's change in rank times its true gain.
    """
    count = len(true)
    ranks = [np.argsort(np.argsort(gains, kind="stable"), kind="stable") / count for gains in (before, after)]
    changes = true * (ranks[1] - ranks[0])
    spread = float(changes.std())
    return float(changes.mean()) / spread * count**0.5 if spread else 0.0


def _cross_validate(
    inputs: _RegressionInputs, residual: Floats, seed: int
) -> tuple[tuple[float, float, float], Floats]:
    """(ridge, weight of words, weight of numbers), and held-out predictions."""
    count, kernels = len(residual), _kernels(inputs)
    fold_of = np.random.default_rng(seed).permutation(count) % _FOLDS
    errors: dict[tuple[float, float, float], Floats] = {}
    predictions: dict[tuple[float, float, float], Floats] = {}
    for words_weight in _WORD_WEIGHTS:
        for numbers_weight in _NUMBER_WEIGHTS:
            kernel = kernels[0] + numbers_weight * kernels[1] + words_weight * kernels[2]
            predicted = {ridge: np.zeros(count) for ridge in _RIDGES}
            for fold in range(_FOLDS):
                training, held_out = fold_of != fold, fold_of == fold
                mean = residual[training].mean()
                # One decomposition serves every ridge.
                values, vectors = np.linalg.eigh(kernel[np.ix_(training, training)])
                projected, cross_kernel = (
                    vectors.T @ (residual[training] - mean),
                    kernel[np.ix_(held_out, training)] @ vectors,
                )
                for ridge in _RIDGES:
                    prediction = mean + cross_kernel @ (projected / (np.maximum(values, 0) + ridge))
                    predicted[ridge][held_out] = prediction
            for ridge, prediction in predicted.items():
                predictions[ridge, words_weight, numbers_weight] = prediction
                errors[ridge, words_weight, numbers_weight] = (residual - prediction) ** 2
    best = min(errors, key=lambda setting: float(errors[setting].mean()))
    candidates = [
        setting
        for setting, error in errors.items()
        if (error - errors[best]).mean() <= _MARGIN_ERRORS * (error - errors[best]).std() / count**0.5
    ]
    chosen = max(candidates, key=lambda setting: (setting[0], -setting[1], -setting[2]))
    return chosen, predictions[chosen]


def _kernels(inputs: _RegressionInputs) -> tuple[Floats, Floats, Floats]:
    return inputs.gain @ inputs.gain.T, inputs.numbers @ inputs.numbers.T, inputs.words @ inputs.words.T


def _word_matrix(labels: Sequence[TrainingLabel], vocabulary: Sequence[str]) -> Floats:
    columns = {word: column for column, word in enumerate(vocabulary)}
    matrix = np.zeros((len(labels), len(vocabulary)))
    for row, label in enumerate(labels):
        matrix[row, [columns[word] for word in label.words if word in columns]] = 1.0
    return matrix
