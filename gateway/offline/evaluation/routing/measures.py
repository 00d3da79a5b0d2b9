"""Measures of a router's ranking, as in RouteLLM and RouterBench.

Prompts are sorted by score, the one that needs the frontier most first; c is the (weighted) share of prompts sent to
the frontier, Q(c) the mean quality then. Ties are one straight segment. PGR(c) is the share of the gap between the
small model's quality and the frontier's. Sources: RouteLLM (arXiv 2406.18665, section 3), RouterBench (arXiv
2403.12031).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Cost of a small call over that of a frontier call where no costs were logged.
SMALL_COST_RATIO = 0.1
# "Cost at 95 %": the target quality, as a share of the frontier's.
_TARGET_QUALITY_SHARE = 0.95
# Bins of equal size of the expected calibration error.
_CALIBRATION_BINS = 10


class TierOutcomes(NamedTuple):
    """Outcomes of n prompts on both models.

    small, large: scores in [0, 1]
    weights: sum to 1
    small_cost, large_cost: of each call, in any common unit
    """

    small: Array
    large: Array
    weights: Array
    small_cost: Array
    large_cost: Array

    def subset(self, rows: npt.NDArray[np.intp], times: Array | None = None) -> "TierOutcomes":
        """Only these rows, each counted `times` times."""
        weights = self.weights[rows] * (1.0 if times is None else times)
        return TierOutcomes(
            self.small[rows], self.large[rows], weights / weights.sum(), self.small_cost[rows], self.large_cost[rows]
        )


class Curve(NamedTuple):
    """Points from all-small to all-frontier.

    share: of prompts on the frontier
    quality: mean
    cost: as a share of all-frontier's
    """

    share: Array
    quality: Array
    cost: Array

    @property
    def pgr(self) -> Array:
        """The share of the performance gap that is recovered; nan where there is no gap."""
        gap = self.quality[-1] - self.quality[0]
        return (self.quality - self.quality[0]) / gap if gap else np.full_like(self.quality, np.nan)


class Measures(NamedTuple):
    """One router on one set of prompts; nan where the data cannot show it.

    apgr: average performance gap recovered; 0.5 is random
    cpt50, cpt80: shares of frontier calls that recover 50 and 80 % of the gap; lower is better
    cost_at_95: cost of 95 % of the frontier's quality, as a share of all-frontier's; lower is better
    auc_need: AUC of ranking the prompts that need the frontier
    ece: expected calibration error, in [0, 1]
    """

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
    quality_gains = weights * (outcomes.large - outcomes.small)[order]
    extra_costs = weights * (outcomes.large_cost - outcomes.small_cost)[order]
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    small, all_frontier = _weighted_mean(outcomes.small, outcomes), _weighted_mean(outcomes.large_cost, outcomes)
    cost = _weighted_mean(outcomes.small_cost, outcomes) + np.append(0.0, np.cumsum(extra_costs)[ends])
    return Curve(
        share=np.append(0.0, np.cumsum(weights)[ends]),
        quality=small + np.append(0.0, np.cumsum(quality_gains)[ends]),
        cost=cost / all_frontier if all_frontier else cost,
    )


def measures(scores: Array, need: Array, outcomes: TierOutcomes) -> Measures:
    """All measures of one router.

    `need`: its calibrated probability that the small model does not suffice.
    """
    router_curve = curve(scores, outcomes)
    pgr = router_curve.pgr
    needed = (outcomes.large > outcomes.small).astype(np.float64)
    return Measures(
        apgr=float(np.trapezoid(pgr, router_curve.share)),
        cpt50=_share_at_pgr(router_curve.share, pgr, 0.5),
        cpt80=_share_at_pgr(router_curve.share, pgr, 0.8),
        cost_at_95=cost_at_quality(router_curve, _TARGET_QUALITY_SHARE),
        auc_need=_auc(scores, needed, outcomes.weights),
        ece=calibration_error(need, needed, outcomes.weights),
    )


def cost_at_quality(curve_: Curve, share: float) -> float:
    """The least cost that keeps this share of all-frontier's quality.

    As a share of all-frontier's cost, interpolated between the points of the curve.
    """
    quality, best = share * curve_.quality[-1], np.inf
    for index in range(len(curve_.share)):
        if curve_.quality[index] >= quality:
            best = min(best, curve_.cost[index])
        if index and (curve_.quality[index - 1] < quality) != (curve_.quality[index] < quality):
            fraction = (quality - curve_.quality[index - 1]) / (curve_.quality[index] - curve_.quality[index - 1])
            best = min(best, curve_.cost[index - 1] + fraction * (curve_.cost[index] - curve_.cost[index - 1]))
    return float(best)


def calibration_error(predicted: Array, true: Array, weights: Array) -> float:
    """Expected calibration error in [0, 1], in ten bins of equal mass.

    The mean gap between predicted and true (Naeini et al., AAAI 2015; equal-mass bins).
    """
    order = np.argsort(predicted, kind="stable")
    bins = np.minimum((np.cumsum(weights[order]) * _CALIBRATION_BINS).astype(np.intp), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=(weights * (predicted - true))[order], minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _weighted_mean(values: Array, outcomes: TierOutcomes) -> float:
    return float((values * outcomes.weights).sum())


def _share_at_pgr(share: Array, pgr: Array, level: float) -> float:
    """The least share at which PGR reaches `level`, interpolated."""
    if np.isnan(pgr).any():
        return float("nan")
    index = int(np.argmax(pgr >= level))
    if index == 0:
        return 0.0
    fraction = (level - pgr[index - 1]) / (pgr[index] - pgr[index - 1])
    return float(share[index - 1] + fraction * (share[index] - share[index - 1]))


def _auc(scores: Array, needed: Array, weights: Array) -> float:
    """Area under the ROC curve, ties counted half; nan where a class is missing."""
    positive, negative = weights * needed, weights * (1 - needed)
    if not positive.sum() or not negative.sum():
        return float("nan")
    _, ranks = np.unique(scores, return_inverse=True)
    below = np.bincount(ranks, weights=negative)
    ranked_below = np.cumsum(below) - below / 2
    return float((positive * ranked_below[ranks]).sum() / (positive.sum() * negative.sum()))
