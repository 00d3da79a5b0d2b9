"""The benchmark: measures of our router and of baselines on labelled prompts.

By source is skill within a kind of work; `macro` is the mean over sources of at least 100 prompts; `pooled` is one
threshold for all, families weighted equally: what a gateway sees.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ....routing.share_controller import ShareController
from ...training.labelled_prompts import LabelledPrompt, by_source
from .measures import SMALL_COST_RATIO, Curve, Measures, TierOutcomes, curve, measures
from .routers import PENSTOCK, RouterScores

Array = npt.NDArray[np.float64]
RowIndexes = npt.NDArray[np.intp]

# Sources with fewer prompts do not count on their own.
MACRO_MIN_PROMPTS = 100
# Draws of the bootstrap, and its reported interval.
_BOOTSTRAP_DRAWS, _INTERVAL_PERCENTILES = 300, (2.5, 97.5)
# Target frontier shares in the evaluation of the share controller.
_TARGET_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
POOLED, MACRO = "pooled", "macro"


class RouterResult(NamedTuple):
    """One router on one set.

    apgr_low, apgr_high: 95 % interval of its APGR
    budget_error: mean gap between target and actual frontier shares, in [0, 1]
    """

    measures: Measures
    apgr_low: float
    apgr_high: float
    budget_error: float
    prompt_count: int

    def document(self) -> dict[str, float | int | list[float] | None]:
        """For `--json`; None for what the data cannot show."""
        figures = {name: _finite_or_none(value) for name, value in self.measures._asdict().items()}
        return {
            **figures, "budget_error": _finite_or_none(self.budget_error), "n": self.prompt_count,
            "apgr_95": [round(self.apgr_low, 4), round(self.apgr_high, 4)],
        }  # fmt: skip


class RouterBenchmark(msgspec.Struct):
    """Results of all routers.

    results: router -> source, `pooled` or `macro` -> result
    curves: pooled, by router
    small_quality_share: quality of all-small over all-frontier, by set
    """

    results: dict[str, dict[str, RouterResult]] = {}
    curves: dict[str, Curve] = {}
    small_quality_share: dict[str, float] = {}
    family_count: int = 0

    def document(self) -> dict[str, Any]:
        """For `--json`: our figures at the top level, the others under `beside`."""
        ours = self.results[PENSTOCK]
        others = {
            name: {source: result.document() for source, result in results.items()}
            for name, results in self.results.items()
            if name != PENSTOCK
        }
        return {**_document(ours), "small_share": self.small_quality_share, "beside": others}


def run(
    rows: Sequence[LabelledPrompt], routers: Mapping[str, Callable[[Sequence[LabelledPrompt]], RouterScores]], seed: int
) -> RouterBenchmark:
    """Evaluate every router on all rows."""
    benchmark = RouterBenchmark(family_count=len({row.family_or_any for row in rows}))
    indexes_by_source = {
        name: np.array([index for index, row in enumerate(rows) if row.source_group == name], np.intp)
        for name in by_source(rows)
    }
    sizes = Counter(row.family_or_any for row in rows)
    family_weighted = outcomes(rows, np.array([1 / sizes[row.family_or_any] for row in rows]))
    unweighted = outcomes(rows, np.ones(len(rows)))
    for name, router in routers.items():
        scores = router(rows)
        results = {
            source: _evaluate(scores, indexes, unweighted.subset(indexes), seed)
            for source, indexes in indexes_by_source.items()
        }
        results[POOLED] = _evaluate(scores, np.arange(len(rows)), family_weighted, seed)
        results[MACRO] = _macro_mean(results, indexes_by_source)
        benchmark.results[name] = results
        benchmark.curves[name] = curve(scores.scores, family_weighted)
    for source, indexes in {**indexes_by_source, POOLED: np.arange(len(rows))}.items():
        known_outcomes = family_weighted if source == POOLED else unweighted.subset(indexes)
        large = float((known_outcomes.large * known_outcomes.weights).sum())
        benchmark.small_quality_share[source] = (
            round(float((known_outcomes.small * known_outcomes.weights).sum()) / large, 4) if large else 1.0
        )
    return benchmark


def outcomes(rows: Sequence[LabelledPrompt], weights: Array) -> TierOutcomes:
    """The outcomes of rows.

    Costs are those logged where a whole source has them, else SMALL_COST_RATIO and 1.
    """
    logged = [_logged_costs(row) for row in rows]
    logged_sources = {
        source for source in {row.source_group for row in rows}
        if all(costs is not None for row, costs in zip(rows, logged, strict=True) if row.source_group == source)
    }  # fmt: skip
    means = {
        source: np.mean(
            [costs[1] for row, costs in zip(rows, logged, strict=True) if row.source_group == source and costs]
        )
        for source in logged_sources
    }
    small: list[float] = []
    large: list[float] = []
    for row, costs in zip(rows, logged, strict=True):
        if row.source_group in logged_sources and costs is not None and means[row.source_group]:
            # In units of the source's mean frontier call, so that pooled sources count by their weights.
            small.append(float(costs[0] / means[row.source_group]))
            large.append(float(costs[1] / means[row.source_group]))
        else:
            small.append(SMALL_COST_RATIO)
            large.append(1.0)
    return TierOutcomes(
        small=np.array([row.small_score for row in rows]),
        large=np.array([row.large_score for row in rows]),
        weights=weights / weights.sum(),
        small_cost=np.array(small),
        large_cost=np.array(large),
    )


def budget_error(scores: Array, seed: int) -> float:
    """The mean gap in [0, 1] between target and actual frontier shares, 0.1 to 0.9.

    On unseen traffic: the prompts come one by one in random order, and the share controller corrects as it goes.
    """
    order = np.random.default_rng(seed).permutation(len(scores))
    gaps = []
    for share in _TARGET_SHARES:
        controller = ShareController()
        chosen = np.array([controller.wants_frontier("", float(scores[index]), share) for index in order], float)
        gaps.append(abs(float(chosen.mean()) - share))
    return float(np.mean(gaps))


def _evaluate(
    router_scores: RouterScores, indexes: RowIndexes, known_outcomes: TierOutcomes, seed: int
) -> RouterResult:
    scores, need = router_scores.scores[indexes], router_scores.frontier_need[indexes]
    randomness, apgrs = np.random.default_rng(seed), []
    for _ in range(_BOOTSTRAP_DRAWS if len(indexes) > 1 else 0):
        draw_counts = np.bincount(randomness.integers(0, len(indexes), len(indexes)), minlength=len(indexes)).astype(
            np.float64
        )
        sample = known_outcomes.subset(np.arange(len(indexes)), draw_counts)
        sample_curve = curve(scores, sample)
        apgrs.append(np.trapezoid(sample_curve.pgr, sample_curve.share))
    low, high = (
        np.nanpercentile(apgrs, _INTERVAL_PERCENTILES) if apgrs and not np.all(np.isnan(apgrs)) else (np.nan, np.nan)
    )
    return RouterResult(
        measures=measures(scores, need, known_outcomes),
        apgr_low=float(low),
        apgr_high=float(high),
        budget_error=budget_error(scores, seed),
        prompt_count=len(indexes),
    )


def _macro_mean(results: Mapping[str, RouterResult], indexes_by_source: Mapping[str, RowIndexes]) -> RouterResult:
    """The mean over sources that are large enough (over all, if none is)."""
    large = [results[source] for source, indexes in indexes_by_source.items() if len(indexes) >= MACRO_MIN_PROMPTS]
    large = large or [results[source] for source in indexes_by_source]
    means = [_nan_mean([result.measures[field] for result in large]) for field in range(len(Measures._fields))]
    # Sources are independent: the half width of a mean is the root of the squares over their number.
    half = float(np.sqrt(np.nansum([((result.apgr_high - result.apgr_low) / 2) ** 2 for result in large])) / len(large))
    return RouterResult(
        measures=Measures(*means),
        apgr_low=means[0] - half,
        apgr_high=means[0] + half,
        budget_error=float(np.mean([result.budget_error for result in large])),
        prompt_count=sum(result.prompt_count for result in large),
    )


def _nan_mean(values: Sequence[float]) -> float:
    """The mean of the known values; nan without one."""
    numbers = [value for value in values if not np.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else float("nan")


def _logged_costs(row: LabelledPrompt) -> tuple[float, float] | None:
    costs = row.costs_usd or {}
    small, large = costs.get(row.small_model), costs.get(row.large_model)
    return (small, large) if small is not None and large is not None else None


def _document(results: Mapping[str, RouterResult]) -> dict[str, Any]:
    by_source = {source: result.document() for source, result in results.items() if source not in (POOLED, MACRO)}
    return {POOLED: results[POOLED].document(), MACRO: results[MACRO].document(), "by_source": by_source}


def _finite_or_none(value: float) -> float | None:
    return None if np.isnan(value) or np.isinf(value) else round(float(value), 4)
