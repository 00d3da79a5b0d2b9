"""The scorer: how well a small and a frontier model will answer. Pure; no numpy.

Two parts, trained by `penstock learn train` on public outcomes of many models (docs/adr/0013): word weights, and
regression trees over the numeric features of `prompt_features.py` and the word scores. All trees are walked at once:
each split gives the leaves that it rules out as the zero bits of one long integer, and the lowest bit left of each tree
is its leaf (QuickScorer: Lucchese et al., SIGIR 2015).
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from operator import getitem
from typing import Any

from ..values.base import Value
from ..values.plan import PromptFeatures
from .prompt_features import ABSENT, FEATURE_NAMES, OPTIONAL_BLOCKS

# Most leaves of a tree: the width of a machine word that `memoryview` can read.
LEAVES_MAX = 16
# Weights are integers in these fractions, so that sums do not depend on their order.
WORD_WEIGHT_SCALE, LEAF_VALUE_SCALE = 10_000, 100_000
# Two sums are packed in one integer, each below this.
_LANE_BASE = 1 << 40
# Standardized features are clamped to this many standard deviations.
_DEVIATION_MAX = 3.0
# Probabilities are clamped: nothing is certain.
_PROBABILITY_MIN, _PROBABILITY_MAX = 0.01, 0.99

_Splits = tuple[int, tuple[float, ...], tuple[int, ...]]


class Prediction(Value, frozen=True, kw_only=True):
    """The scorer's prediction for a prompt.

    small: probability that a small model's answer is right, in [0.01, 0.99]
    frontier: the same of a frontier model
    small_insufficient: calibrated probability that the small tier does not suffice
    """

    small: float
    frontier: float
    small_insufficient: float

    @property
    def gain(self) -> float:
        """Expected gain in quality of the frontier over the small tier, in [-0.98, 0.98]."""
        return self.frontier - self.small


class Scorer:
    """A trained scorer; `name` is the digest of its weights."""

    def __init__(self, name: str, weights: Mapping[str, Any]) -> None:
        self.name = name
        trees = weights["trees"]
        assert all(_leaf_count(tree) <= LEAVES_MAX for tree in trees), "a tree's leaves fit a machine word"
        self._base = _pack(*weights["base"])
        self._word_weights = {
            word: _pack(small, frontier)
            for word, small, frontier in zip(weights["words"].split(" "), *weights["lanes"], strict=True)
        }
        self._vocabulary = tuple(self._word_weights)
        self._word_index = {word: index for index, word in enumerate(self._vocabulary)}
        self._scale = [(mean, factor) for mean, factor in weights["scale"]]
        self._calibration: tuple[float, float] = tuple(weights["need"])
        self._mask_bytes = len(trees) * LEAVES_MAX // 8
        self._first_leaf_bits = sum(1 << LEAVES_MAX * place for place in range(len(trees)))
        full = (1 << 8 * self._mask_bytes) - 1
        masks = [[full] * (len(cuts) + 1) for cuts in weights["cuts"]]
        self._leaf_values: list[dict[int, int]] = []
        for place, tree in enumerate(trees):
            leaves: dict[int, int] = {}
            _enter_tree(tree, place * LEAVES_MAX, masks, leaves, 0)
            self._leaf_values.append(leaves)
        rows = [(place, tuple(weights["cuts"][place]), tuple(row)) for place, row in enumerate(masks)]
        split_on = [row for row in rows if any(mask != full for mask in row[2])]
        self._common_splits = [row for row in split_on if row[0] < OPTIONAL_BLOCKS[0][0]]
        self._word_score_splits = [row for row in split_on if row[0] >= len(FEATURE_NAMES)]
        self._optional_splits = [(begin, *_block_splits(split_on, begin, end, full)) for begin, end in OPTIONAL_BLOCKS]

    def score(self, features: PromptFeatures) -> Prediction:
        """The prediction for a prompt."""
        dense, words = features.dense, self._word_weights
        word_sums = _unpack(sum(map(words.__getitem__, words.keys() & features.words)))
        small, frontier = word_sums[0] / WORD_WEIGHT_SCALE, word_sums[1] / WORD_WEIGHT_SCALE
        alive = -1
        for place, cuts, masks in self._common_splits:
            alive &= masks[bisect_left(cuts, dense[place])]
        for begin, absent, rows in self._optional_splits:
            if dense[begin] == ABSENT:
                alive &= absent
            else:
                for place, cuts, masks in rows:
                    alive &= masks[bisect_left(cuts, dense[place])]
        word_scores = (small, frontier, frontier - small)
        for place, cuts, masks in self._word_score_splits:
            alive &= masks[bisect_left(cuts, word_scores[place - len(FEATURE_NAMES)])]
        lowest = alive & (alive ^ (alive - self._first_leaf_bits))
        leaf_bits = memoryview(lowest.to_bytes(self._mask_bytes, "little")).cast("H")
        sums = _unpack(sum(map(getitem, self._leaf_values, leaf_bits), self._base))
        p_small, p_frontier = (min(_PROBABILITY_MAX, max(_PROBABILITY_MIN, each / LEAF_VALUE_SCALE)) for each in sums)
        gain = p_frontier - p_small
        slope, offset = self._calibration
        return Prediction(
            small=p_small, frontier=p_frontier, small_insufficient=1 / (1 + math.exp(-(slope * gain + offset)))
        )

    def standardize(self, dense: Sequence[float]) -> tuple[float, ...]:
        """Numeric features in standard deviations from the mean, each in [-3, 3]."""
        return tuple(
            [
                max(-_DEVIATION_MAX, min(_DEVIATION_MAX, (math.log1p(max(value, -0.5)) - mean) * factor))
                for value, (mean, factor) in zip(dense, self._scale, strict=True)
            ]
        )

    def word_indices(self, words: frozenset[str]) -> list[int]:
        """Vocabulary indices of the words in it, ascending; others are never stored."""
        return sorted([self._word_index[word] for word in self._word_index.keys() & words])

    def words_at(self, indices: Iterable[int]) -> frozenset[str]:
        """The words at these indices of the vocabulary."""
        return frozenset([self._vocabulary[index] for index in indices])


def _block_splits(rows: Sequence[_Splits], begin: int, end: int, full: int) -> tuple[int, list[_Splits]]:
    """(mask of the leaves left when the block is absent, its rows)."""
    block, absent = [row for row in rows if begin <= row[0] < end], full
    for _, cuts, masks in block:
        absent &= masks[bisect_left(cuts, ABSENT)]
    return absent, block


def _enter_tree(tree: Sequence[Any], shift: int, masks: list[list[int]], leaves: dict[int, int], leaf: int) -> int:
    """Enter a tree [feature, bin, left, right] or leaf [small, frontier].

    Returns the next free leaf. For every bin right of a split, the leaves to its left are ruled out.
    """
    if len(tree) == 2:
        leaves[1 << leaf] = _pack(*tree)
        return leaf + 1
    feature, last, left, right = tree
    middle = _enter_tree(left, shift, masks, leaves, leaf)
    ruled_out = ((1 << middle) - (1 << leaf)) << shift
    for place in range(last + 1, len(masks[feature])):
        masks[feature][place] &= ~ruled_out
    return _enter_tree(right, shift, masks, leaves, middle)


def _leaf_count(tree: Sequence[Any]) -> int:
    return 1 if len(tree) == 2 else _leaf_count(tree[2]) + _leaf_count(tree[3])


def _pack(small: int, frontier: int) -> int:
    """Two integers in one, to be added together."""
    return small + frontier * _LANE_BASE


def _unpack(packed: int) -> tuple[int, int]:
    low = (packed + _LANE_BASE // 2) % _LANE_BASE - _LANE_BASE // 2
    return low, (packed - low) // _LANE_BASE
