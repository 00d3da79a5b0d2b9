"""How good a router's order is: the measures of RouteLLM and RouterBench, exactly as routers publish them.

Prompts are sorted by score, the one that wants the frontier most first; c is the (weighted) share of prompts that has
gone to the frontier, Q(c) the mean quality by then. Ties are crossed as one straight segment. PGR(c) is the share of
the way from the small model's quality to the frontier's. Sources: RouteLLM (arXiv 2406.18665, section 3), RouterBench
(arXiv 2403.12031).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# What a small model costs of a frontier one where no costs were logged.
SMALL_COST_RATIO = 0.1
# "Cost at 95 %": the quality that is asked for, as a share of the frontier's.
_TARGET_QUALITY_SHARE = 0.95
# Bins of equal size of the expected calibration error.
_CALIBRATION_BINS = 10


class TierOutcomes(NamedTuple):
    """What is known of n prompts: scores of both models in [0, 1], weights that sum to 1, and the costs of each."""

    small: Array
    large: Array
    weights: Array
    small_cost: Array
    large_cost: Array

    def subset(self, rows: npt.NDArray[np.intp], times: Array | None = None) -> "TierOutcomes":
        """These rows only, each counted so many `times`."""
        weights = self.weights[rows] * (1.0 if times is None else times)
        return TierOutcomes(
            self.small[rows], self.large[rows], weights / weights.sum(), self.small_cost[rows], self.large_cost[rows]
        )


class Curve(NamedTuple):
    """Points from all-small to all-frontier: share on the frontier, quality, cost as a share of all-frontier."""

    share: Array
    quality: Array
    cost: Array

    @property
    def pgr(self) -> Array:
        """The share of the performance gap that is recovered; nan where there is no gap."""
        gap = self.quality[-1] - self.quality[0]
        return (self.quality - self.quality[0]) / gap if gap else np.full_like(self.quality, np.nan)


class Measures(NamedTuple):
    """One router on one set of prompts. `apgr` 0.5 is random; `cpt50`, `cpt80` are shares of frontier calls and
    `cost_at_95` a share of all-frontier's cost: lower is better. nan where the data cannot say."""

    apgr: float
    cpt50: float
    cpt80: float
    cost_at_95: float
    auc_need: float
    ece: float


def curve(scores: Array, outcomes: TierOutcomes) -> Curve:
    """Quality and cost along the order of `scores`."""
    order = np.argsort(-scores, kind="stable")
    weights = outcomes.weights[order]
    gained = weights * (outcomes.large - outcomes.small)[order]
    dearer = weights * (outcomes.large_cost - outcomes.small_cost)[order]
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    small, all_frontier = _weighted_mean(outcomes.small, outcomes), _weighted_mean(outcomes.large_cost, outcomes)
    cost = _weighted_mean(outcomes.small_cost, outcomes) + np.append(0.0, np.cumsum(dearer)[ends])
    return Curve(
        share=np.append(0.0, np.cumsum(weights)[ends]),
        quality=small + np.append(0.0, np.cumsum(gained)[ends]),
        cost=cost / all_frontier if all_frontier else cost,
    )


def measures(scores: Array, need: Array, outcomes: TierOutcomes) -> Measures:
    """All measures of one router; `need` is its calibrated probability that the small model does not suffice."""
    found = curve(scores, outcomes)
    pgr = found.pgr
    wanting = (outcomes.large > outcomes.small).astype(np.float64)
    return Measures(
        apgr=float(np.trapezoid(pgr, found.share)),
        cpt50=_share_at_pgr(found.share, pgr, 0.5),
        cpt80=_share_at_pgr(found.share, pgr, 0.8),
        cost_at_95=cost_at_quality(found, _TARGET_QUALITY_SHARE),
        auc_need=_auc(scores, wanting, outcomes.weights),
        ece=calibration_error(need, wanting, outcomes.weights),
    )


def cost_at_quality(found: Curve, kept: float) -> float:
    """The least cost, as a share of all-frontier's, at which so much of the frontier's quality is kept; the curve is
    crossed in straight lines."""
    wanted, best = kept * found.quality[-1], np.inf
    for place in range(len(found.share)):
        if found.quality[place] >= wanted:
            best = min(best, found.cost[place])
        if place and (found.quality[place - 1] < wanted) != (found.quality[place] < wanted):
            part = (wanted - found.quality[place - 1]) / (found.quality[place] - found.quality[place - 1])
            best = min(best, found.cost[place - 1] + part * (found.cost[place] - found.cost[place - 1]))
    return float(best)


def calibration_error(said: Array, true: Array, weights: Array) -> float:
    """Expected calibration error in [0, 1]: the mean gap between what was said and what came true, in ten bins of equal
    size (Naeini et al., AAAI 2015; equal-mass bins)."""
    order = np.argsort(said, kind="stable")
    bins = np.minimum((np.cumsum(weights[order]) * _CALIBRATION_BINS).astype(np.intp), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=(weights * (said - true))[order], minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _weighted_mean(values: Array, outcomes: TierOutcomes) -> float:
    return float((values * outcomes.weights).sum())


def _share_at_pgr(share: Array, pgr: Array, level: float) -> float:
    """The least share at which `level` is reached, in straight lines between points."""
    if np.isnan(pgr).any():
        return float("nan")
    place = int(np.argmax(pgr >= level))
    if place == 0:
        return 0.0
    part = (level - pgr[place - 1]) / (pgr[place] - pgr[place - 1])
    return float(share[place - 1] + part * (share[place] - share[place - 1]))


def _auc(scores: Array, wanted: Array, weights: Array) -> float:
    """Area under the ROC curve, ties counted half; nan where one class is missing."""
    positive, negative = weights * wanted, weights * (1 - wanted)
    if not positive.sum() or not negative.sum():
        return float("nan")
    _, ranks = np.unique(scores, return_inverse=True)
    below = np.bincount(ranks, weights=negative)
    beaten = np.cumsum(below) - below / 2
    return float((positive * beaten[ranks]).sum() / (positive.sum() * negative.sum()))
