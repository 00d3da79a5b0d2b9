"""Gradient-boosted regression trees, binned inputs, two outputs; numpy only.

The method is that of LightGBM (Ke et al., NeurIPS 2017) without its shortcuts, leaf-wise, with squared loss: histograms
of each leaf, the smaller child counted and the larger subtracted. Sums run in a fixed order, so that the same data give
the same trees.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
# A tree: {"feature", "last", "left", "right"}, or a leaf: {"value": (small, frontier)}.
Tree = dict[str, Any]

BINS_MAX = 32


class TreeParameters(NamedTuple):
    """How trees are grown.

    trees: their number
    leaves: of each tree
    rate: step size
    least: rows of a leaf at least
    ridge: of leaf values
    features, rows: shares that a tree sees, in [0, 1]
    gain: weight of the difference of both outputs beside the outputs
    """

    trees: int = 200
    leaves: int = 16
    rate: float = 0.06
    least: int = 80
    ridge: float = 10.0
    features: float = 0.25
    rows: float = 0.7
    gain: float = 4.0


def bin_thresholds(inputs: Floats, weights: Floats) -> list[Floats]:
    """At most BINS_MAX - 1 thresholds per input, at weighted quantiles.

    Values above a threshold go right.
    """
    thresholds = []
    for column in inputs.T:
        order = np.argsort(column, kind="stable")
        values, mass = column[order], np.cumsum(weights[order]) / weights.sum()
        distinct, first = np.unique(values, return_index=True)
        cumulative_mass = np.append(mass[first[1:] - 1], 1.0)
        positions = sorted({int(np.searchsorted(cumulative_mass, step / BINS_MAX)) for step in range(1, BINS_MAX)})
        thresholds.append(
            np.array(
                [
                    (distinct[position] + distinct[position + 1]) / 2
                    for position in positions
                    if position + 1 < len(distinct)
                ]
            )
        )
    return thresholds


def bin_inputs(inputs: Floats, thresholds: Sequence[Floats]) -> Integers:
    """The bin of every input."""
    columns = [
        np.searchsorted(column_thresholds, inputs[:, column], "left")
        for column, column_thresholds in enumerate(thresholds)
    ]
    return np.stack(columns, 1).astype(np.int64)


def fit_trees(
    bins: Integers, targets: Floats, weights: Floats, parameters: TreeParameters, seed: int = 0
) -> tuple[Floats, list[Tree]]:
    """The mean of the targets (n x 2), and the trees that are added to it."""
    randomness = np.random.default_rng(seed)
    base = (weights[:, None] * targets).sum(0) / weights.sum()
    predicted, trees = np.tile(base, (len(targets), 1)), []
    column_count = max(1, int(bins.shape[1] * parameters.features))
    for _ in range(parameters.trees):
        rows = np.flatnonzero(randomness.random(len(targets)) < parameters.rows)
        columns = np.sort(randomness.choice(bins.shape[1], column_count, replace=False))
        tree = _TreeGrower(bins, targets - predicted, weights, columns, parameters).grow(rows)
        predicted = predicted + tree_values(tree, bins)
        trees.append(tree)
    return base, trees


def predict(base: Floats, trees: Sequence[Tree], bins: Integers) -> Floats:
    """The prediction of base and trees for rows of bins, n x 2."""
    predicted = np.tile(base, (len(bins), 1))
    for tree in trees:
        predicted += tree_values(tree, bins)
    return predicted


def tree_values(tree: Tree, bins: Integers) -> Floats:
    """The values of one tree for rows of bins, n x 2."""
    values = np.zeros((len(bins), 2))
    pending = [(tree, np.arange(len(bins)))]
    while pending:
        node, rows = pending.pop()
        if "value" in node:
            values[rows] = node["value"]
            continue
        left = bins[rows, node["feature"]] <= node["last"]
        pending += [(node["left"], rows[left]), (node["right"], rows[~left])]
    return values


class _Split(NamedTuple):
    gain: float
    column: int
    last_bin: int


class _TreeGrower:
    """Grows one tree from residuals over some columns."""

    def __init__(
        self, bins: Integers, residuals: Floats, weights: Floats, columns: Integers, parameters: TreeParameters
    ) -> None:
        self._bins, self._residuals, self._weights = bins, residuals, weights
        self._columns, self._parameters = columns, parameters
        self._bin_offsets = np.arange(len(columns)) * BINS_MAX

    def grow(self, rows: Integers) -> Tree:
        """Split the leaf with the highest gain until there are enough leaves."""
        root: Tree = {}
        histogram = self._histogram(rows)
        leaves = [(rows, histogram, self._best_split(histogram), root)]
        while len(leaves) < self._parameters.leaves:
            index = max(range(len(leaves)), key=lambda leaf: leaves[leaf][2].gain)
            rows, histogram, split, node = leaves[index]
            if split.gain <= 1e-9:
                break
            column = int(self._columns[split.column])
            left = self._bins[rows, column] <= split.last_bin
            smaller_child = self._histogram(rows[left] if 2 * left.sum() < len(rows) else rows[~left])
            larger_child = histogram - smaller_child
            left_histogram, right_histogram = (
                (smaller_child, larger_child) if 2 * left.sum() < len(rows) else (larger_child, smaller_child)
            )
            node.update(feature=column, last=split.last_bin, left={}, right={})
            leaves[index] = (rows[left], left_histogram, self._best_split(left_histogram), node["left"])
            leaves.append((rows[~left], right_histogram, self._best_split(right_histogram), node["right"]))
        for _, histogram, _, node in leaves:
            weight, small, frontier = histogram[:3, 0].sum(1)
            scale = self._parameters.rate / (weight + self._parameters.ridge)
            node["value"] = (float(small * scale), float(frontier * scale))
        return root

    def _histogram(self, rows: Integers) -> Floats:
        """Per column and bin: weight, weighted residuals of both outputs, rows."""
        width = len(self._columns)
        bin_indexes = (self._bins[np.ix_(rows, self._columns)] + self._bin_offsets).ravel()
        weights, residuals = self._weights[rows], self._residuals[rows]
        sums = [weights, weights * residuals[:, 0], weights * residuals[:, 1], np.ones(len(rows))]
        histograms = [np.bincount(bin_indexes, np.repeat(values, width), width * BINS_MAX) for values in sums]
        return np.stack(histograms).astype(np.float64).reshape(4, width, BINS_MAX)

    def _best_split(self, histogram: Floats) -> _Split:
        left = np.cumsum(histogram, 2)
        whole = left[:, :, -1:]
        right = whole - left
        gain = self._split_score(left) + self._split_score(right) - self._split_score(whole)
        gain[(left[3] < self._parameters.least) | (right[3] < self._parameters.least)] = -1.0
        index = int(np.argmax(gain))
        return _Split(float(gain.ravel()[index]), index // BINS_MAX, index % BINS_MAX)

    def _split_score(self, sums: Floats) -> Floats:
        weight, small, frontier = sums[:3]
        squares = small * small + frontier * frontier + self._parameters.gain * (frontier - small) ** 2
        score: Floats = squares / (weight + self._parameters.ridge)
        return score
