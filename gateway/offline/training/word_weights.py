"""Weights of words: log-odds that a small and a frontier model's answer is right, from the set of words of a prompt.

Two logistic regressions trained together by Adam (Kingma and Ba, 2015) with words left out at random, their difference,
the predicted gain, weighed beside each of them. Numpy only; the same data give the same weights.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# A word has to stand in so many prompts.
_PROMPTS_MIN = 5
_EPOCHS, _BATCH, _LEARNING_RATE, _DROPOUT, _WEIGHT_DECAY = 6, 256, 0.01, 0.3, 1e-4
# Words enter small, so that a few epochs do not learn them by heart.
_INPUT_SCALE = 0.1
# The squared error of the gain, beside the logistic losses.
_GAIN_WEIGHT = 4.0
# Weights are kept to so many decimals: the scorer's parts.
_DECIMALS = 4


class EncodedPrompts(NamedTuple):
    """Prompts as rows of word indices: those of row k lie at [begins[k], begins[k + 1])."""

    row_offsets: Integers
    word_indices: Integers

    def pairs(self, rows: Integers) -> tuple[Integers, Integers]:
        """(row, word) pairs of some rows, rows numbered as given."""
        sizes = self.row_offsets[rows + 1] - self.row_offsets[rows]
        row = np.repeat(np.arange(len(rows)), sizes)
        starts = np.repeat(self.row_offsets[rows] - np.cumsum(sizes) + sizes, sizes)
        return row, self.word_indices[starts + np.arange(sizes.sum())]


class WordWeights:
    """A vocabulary and its weights, words x (small, frontier)."""

    def __init__(self, vocabulary: Sequence[str], weights: Floats) -> None:
        self.vocabulary, self.weights = tuple(vocabulary), weights
        self._word_index = {word: place for place, word in enumerate(vocabulary)}

    def encode(self, prompts: Sequence[frozenset[str]]) -> EncodedPrompts:
        """Prompts as indices of known words."""
        begins, found = [0], []
        for prompt in prompts:
            found += sorted(self._word_index[word] for word in prompt if word in self._word_index)
            begins.append(len(found))
        return EncodedPrompts(np.array(begins), np.array(found, np.int64))

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
    learnt = _Adam([np.zeros((len(vocabulary), 2)), np.log(mean / (1 - mean))])
    randomness = np.random.default_rng(seed)
    steps = _EPOCHS * -(-len(prompts) // _BATCH)
    scale = _INPUT_SCALE / (1 - _DROPOUT)
    for _ in range(_EPOCHS):
        order = randomness.permutation(len(prompts))
        for begin in range(0, len(prompts), _BATCH):
            rows = order[begin : begin + _BATCH]
            row, word = encoded.pairs(rows)
            kept = randomness.random(len(word)) > _DROPOUT
            row, word = row[kept], word[kept]
            table, bias = learnt.values
            odds = bias + scale * _sum_weights(table, row, word, len(rows))
            slope = _gradient(1 / (1 + np.exp(-odds)), targets[rows]) * weights[rows, None] / len(rows)
            by_word = scale * np.stack([np.bincount(word, slope[row, side], len(table)) for side in (0, 1)], 1)
            learnt.step([by_word + _WEIGHT_DECAY * table, slope.sum(0)], _LEARNING_RATE, steps)
    return WordWeights(vocabulary, np.round(learnt.values[0] * _INPUT_SCALE, _DECIMALS))


def _gradient(said: Floats, true: Floats) -> Floats:
    """The losses' derivative by the log-odds."""
    wrong = (said[:, 1] - said[:, 0]) - (true[:, 1] - true[:, 0])
    found: Floats = said - true + _GAIN_WEIGHT * np.stack([-wrong, wrong], 1) * said * (1 - said)
    return found


def _sum_weights(table: Floats, row: Integers, word: Integers, rows: int) -> Floats:
    return np.stack([np.bincount(row, table[word, side], rows) for side in (0, 1)], 1)


class _Adam:
    """Adam over a few arrays, its rate falling to a twentieth."""

    def __init__(self, values: list[Floats]) -> None:
        self.values = values
        self._means = [np.zeros_like(one) for one in values]
        self._squares = [np.zeros_like(one) for one in values]
        self._steps = 0

    def step(self, slopes: list[Floats], rate: float, steps: int) -> None:
        self._steps += 1
        rate *= 1 - 0.95 * self._steps / steps
        for place, slope in enumerate(slopes):
            mean, square = self._means[place], self._squares[place]
            mean += 0.1 * (slope - mean)
            square += 0.01 * (slope * slope - square)
            root = np.sqrt(square / (1 - 0.99**self._steps)) + 1e-7
            self.values[place] = self.values[place] - rate * (mean / (1 - 0.9**self._steps)) / root
