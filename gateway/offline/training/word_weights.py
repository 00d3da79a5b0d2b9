"""Word weights: log-odds that the small and the frontier model answer correctly.

Two logistic regressions over the set of words of a prompt, trained together by Adam (Kingma and Ba, 2015) with dropout;
the loss includes their difference, the predicted gain. Numpy only; the same data give the same weights.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# A word must occur in this many prompts.
_PROMPTS_MIN = 5
_EPOCHS, _BATCH, _LEARNING_RATE, _DROPOUT, _WEIGHT_DECAY = 6, 256, 0.01, 0.3, 1e-4
# Inputs are scaled down, so that a few epochs do not overfit.
_INPUT_SCALE = 0.1
# The squared error of the gain, beside the logistic losses.
_GAIN_WEIGHT = 4.0
# Decimals of the weights, the scorer's units.
_DECIMALS = 4


class EncodedPrompts(NamedTuple):
    """Prompts as rows of word indices.

    Those of row k are at [row_offsets[k], row_offsets[k + 1]).
    """

    row_offsets: Integers
    word_indices: Integers

    def pairs(self, rows: Integers) -> tuple[Integers, Integers]:
        """(row, word) pairs of some rows, numbered in the order given."""
        sizes = self.row_offsets[rows + 1] - self.row_offsets[rows]
        row = np.repeat(np.arange(len(rows)), sizes)
        starts = np.repeat(self.row_offsets[rows] - np.cumsum(sizes) + sizes, sizes)
        return row, self.word_indices[starts + np.arange(sizes.sum())]


class WordWeights:
    """A vocabulary and its weights, words x (small, frontier)."""

    def __init__(self, vocabulary: Sequence[str], weights: Floats) -> None:
        self.vocabulary, self.weights = tuple(vocabulary), weights
        self._word_index = {word: index for index, word in enumerate(vocabulary)}

    def encode(self, prompts: Sequence[frozenset[str]]) -> EncodedPrompts:
        """Prompts as indices of known words."""
        offsets, indices = [0], []
        for prompt in prompts:
            indices += sorted(self._word_index[word] for word in prompt if word in self._word_index)
            offsets.append(len(indices))
        return EncodedPrompts(np.array(offsets), np.array(indices, np.int64))

    def predict(self, prompts: Sequence[frozenset[str]]) -> Floats:
        """The sums of both weights, n x 2."""
        row, word = self.encode(prompts).pairs(np.arange(len(prompts)))
        return _sum_weights(self.weights, row, word, len(prompts))


def train_words(prompts: Sequence[frozenset[str]], targets: Floats, weights: Floats, seed: int = 0) -> WordWeights:
    """Weights for targets in [0, 1], n x 2."""
    counts = Counter(word for prompt in prompts for word in prompt)
    vocabulary = sorted(word for word, count in counts.items() if count >= _PROMPTS_MIN)
    encoded = WordWeights(vocabulary, np.zeros((len(vocabulary), 2))).encode(prompts)
    mean = (weights[:, None] * targets).sum(0) / weights.sum()
    parameters = _Adam([np.zeros((len(vocabulary), 2)), np.log(mean / (1 - mean))])
    randomness = np.random.default_rng(seed)
    steps = _EPOCHS * -(-len(prompts) // _BATCH)
    scale = _INPUT_SCALE / (1 - _DROPOUT)
    for _ in range(_EPOCHS):
        order = randomness.permutation(len(prompts))
        for start in range(0, len(prompts), _BATCH):
            rows = order[start : start + _BATCH]
            row, word = encoded.pairs(rows)
            kept = randomness.random(len(word)) > _DROPOUT
            row, word = row[kept], word[kept]
            table, bias = parameters.values
            odds = bias + scale * _sum_weights(table, row, word, len(rows))
            gradient = _gradient(1 / (1 + np.exp(-odds)), targets[rows]) * weights[rows, None] / len(rows)
            word_gradient = scale * np.stack([np.bincount(word, gradient[row, side], len(table)) for side in (0, 1)], 1)
            parameters.step([word_gradient + _WEIGHT_DECAY * table, gradient.sum(0)], _LEARNING_RATE, steps)
    return WordWeights(vocabulary, np.round(parameters.values[0] * _INPUT_SCALE, _DECIMALS))


def _gradient(predicted: Floats, true: Floats) -> Floats:
    """The loss's derivative by the log-odds."""
    gain_error = (predicted[:, 1] - predicted[:, 0]) - (true[:, 1] - true[:, 0])
    gradient: Floats = (
        predicted - true + _GAIN_WEIGHT * np.stack([-gain_error, gain_error], 1) * predicted * (1 - predicted)
    )
    return gradient


def _sum_weights(table: Floats, row: Integers, word: Integers, rows: int) -> Floats:
    return np.stack([np.bincount(row, table[word, side], rows) for side in (0, 1)], 1)


class _Adam:
    """Adam over a few arrays, with a rate that falls to a twentieth."""

    def __init__(self, values: list[Floats]) -> None:
        self.values = values
        self._means = [np.zeros_like(array) for array in values]
        self._squares = [np.zeros_like(array) for array in values]
        self._steps = 0

    def step(self, gradients: list[Floats], rate: float, steps: int) -> None:
        self._steps += 1
        rate *= 1 - 0.95 * self._steps / steps
        for index, gradient in enumerate(gradients):
            mean, square = self._means[index], self._squares[index]
            mean += 0.1 * (gradient - mean)
            square += 0.01 * (gradient * gradient - square)
            root = np.sqrt(square / (1 - 0.99**self._steps)) + 1e-7
            self.values[index] = self.values[index] - rate * (mean / (1 - 0.9**self._steps)) / root
