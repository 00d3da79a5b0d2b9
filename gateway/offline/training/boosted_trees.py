"""Gradient-boosted regression trees with two outputs on binned inputs, squared loss; leaf-wise, numpy only.

The method is that of LightGBM (Ke et al., NeurIPS 2017) without its shortcuts: histograms of each leaf, the smaller child
counted and the larger subtracted. Sums run in a fixed order, so that the same data give the same trees.
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
    """How trees are grown: their number, leaves each, step, least rows of a leaf, ridge, shares of features and rows that
    a tree sees, and what a difference of both outputs weighs beside them."""

    trees: int = 200
    leaves: int = 16
    rate: float = 0.06
    least: int = 80
    ridge: float = 10.0
    features: float = 0.25
    rows: float = 0.7
    gain: float = 4.0


def bin_thresholds(inputs: Floats, weights: Floats) -> list[Floats]:
    """For each input at most BINS - 1 thresholds, at weighted quantiles; what is above one goes right."""
    found = []
    for column in inputs.T:
        order = np.argsort(column, kind="stable")
        values, mass = column[order], np.cumsum(weights[order]) / weights.sum()
        distinct, first = np.unique(values, return_index=True)
        upto = np.append(mass[first[1:] - 1], 1.0)
        places = sorted({int(np.searchsorted(upto, step / BINS_MAX)) for step in range(1, BINS_MAX)})
        found.append(
            np.array([(distinct[place] + distinct[place + 1]) / 2 for place in places if place + 1 < len(distinct)])
        )
    return found


def bin_inputs(inputs: Floats, thresholds: Sequence[Floats]) -> Integers:
    """The bin of every input."""
    columns = [np.searchsorted(cut, inputs[:, place], "left") for place, cut in enumerate(thresholds)]
    return np.stack(columns, 1).astype(np.int64)


def fit_trees(
    bins: Integers, targets: Floats, weights: Floats, growth: TreeParameters, seed: int = 0
) -> tuple[Floats, list[Tree]]:
    """The mean of the targets (n x 2), and the trees that are added to it."""
    randomness = np.random.default_rng(seed)
    base = (weights[:, None] * targets).sum(0) / weights.sum()
    reached, trees = np.tile(base, (len(targets), 1)), []
    some = max(1, int(bins.shape[1] * growth.features))
    for _ in range(growth.trees):
        rows = np.flatnonzero(randomness.random(len(targets)) < growth.rows)
        columns = np.sort(randomness.choice(bins.shape[1], some, replace=False))
        tree = _TreeGrower(bins, targets - reached, weights, columns, growth).grow(rows)
        reached = reached + tree_values(tree, bins)
        trees.append(tree)
    return base, trees


def predict(base: Floats, trees: Sequence[Tree], bins: Integers) -> Floats:
    """What base and trees give for rows of bins, n x 2."""
    found = np.tile(base, (len(bins), 1))
    for tree in trees:
        found += tree_values(tree, bins)
    return found


def tree_values(tree: Tree, bins: Integers) -> Floats:
    """What one tree gives for rows of bins, n x 2."""
    found = np.zeros((len(bins), 2))
    waiting = [(tree, np.arange(len(bins)))]
    while waiting:
        node, rows = waiting.pop()
        if "value" in node:
            found[rows] = node["value"]
            continue
        left = bins[rows, node["feature"]] <= node["last"]
        waiting += [(node["left"], rows[left]), (node["right"], rows[~left])]
    return found


class _Split(NamedTuple):
    gain: float
    column: int
    last_bin: int


class _TreeGrower:
    """Grows one tree from residuals over some columns."""

    def __init__(
        self, bins: Integers, residuals: Floats, weights: Floats, columns: Integers, growth: TreeParameters
    ) -> None:
        self._bins, self._residuals, self._weights = bins, residuals, weights
        self._columns, self._parameters = columns, growth
        self._bin_offsets = np.arange(len(columns)) * BINS_MAX

    def grow(self, rows: Integers) -> Tree:
        """Split the leaf that gains most until there are enough."""
        root: Tree = {}
        counted = self._histogram(rows)
        leaves = [(rows, counted, self._best_split(counted), root)]
        while len(leaves) < self._parameters.leaves:
            place = max(range(len(leaves)), key=lambda one: leaves[one][2].gain)
            rows, counted, split, node = leaves[place]
            if split.gain <= 1e-9:
                break
            column = int(self._columns[split.column])
            left = self._bins[rows, column] <= split.last_bin
            fewer = self._histogram(rows[left] if 2 * left.sum() < len(rows) else rows[~left])
            more = counted - fewer
            of_left, of_right = (fewer, more) if 2 * left.sum() < len(rows) else (more, fewer)
            node.update(feature=column, last=split.last_bin, left={}, right={})
            leaves[place] = (rows[left], of_left, self._best_split(of_left), node["left"])
            leaves.append((rows[~left], of_right, self._best_split(of_right), node["right"]))
        for _, counted, _, node in leaves:
            weight, small, frontier = counted[:3, 0].sum(1)
            scale = self._parameters.rate / (weight + self._parameters.ridge)
            node["value"] = (float(small * scale), float(frontier * scale))
        return root

    def _histogram(self, rows: Integers) -> Floats:
        """For each column and bin: weight, weighted residuals of both outputs, number of rows."""
        width = len(self._columns)
        places = (self._bins[np.ix_(rows, self._columns)] + self._bin_offsets).ravel()
        weights, residuals = self._weights[rows], self._residuals[rows]
        sums = [weights, weights * residuals[:, 0], weights * residuals[:, 1], np.ones(len(rows))]
        counted = [np.bincount(places, np.repeat(one, width), width * BINS_MAX) for one in sums]
        return np.stack(counted).astype(np.float64).reshape(4, width, BINS_MAX)

    def _best_split(self, counted: Floats) -> _Split:
        left = np.cumsum(counted, 2)
        whole = left[:, :, -1:]
        right = whole - left
        gain = self._split_score(left) + self._split_score(right) - self._split_score(whole)
        gain[(left[3] < self._parameters.least) | (right[3] < self._parameters.least)] = -1.0
        place = int(np.argmax(gain))
        return _Split(float(gain.ravel()[place]), place // BINS_MAX, place % BINS_MAX)

    def _split_score(self, sums: Floats) -> Floats:
        weight, small, frontier = sums[:3]
        both = small * small + frontier * frontier + self._parameters.gain * (frontier - small) ** 2
        found: Floats = both / (weight + self._parameters.ridge)
        return found
