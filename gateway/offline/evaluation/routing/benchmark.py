"""The trial: labelled prompts in, the measures of our router and of what it must beat out, by source and together.

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

# Sources with fewer prompts say nothing by themselves.
MACRO_MIN_PROMPTS = 100
# Draws of the bootstrap, and the interval that is told.
_BOOTSTRAP_DRAWS, _INTERVAL_PERCENTILES = 300, (2.5, 97.5)
# Frontier shares that are asked for when the contract is tried.
_TARGET_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
POOLED, MACRO = "pooled", "macro"


class RouterResult(NamedTuple):
    """One router on one set: its measures, the interval of its APGR, the mean gap between asked and given shares."""

    measures: Measures
    apgr_low: float
    apgr_high: float
    budget_error: float
    prompt_count: int

    def document(self) -> dict[str, float | int | list[float] | None]:
        """What `--json` writes; null for what the data cannot say."""
        said = {name: _finite_or_none(value) for name, value in self.measures._asdict().items()}
        return {
            **said, "budget_error": _finite_or_none(self.budget_error), "n": self.prompt_count,
            "apgr_95": [round(self.apgr_low, 4), round(self.apgr_high, 4)],
        }  # fmt: skip


class RouterBenchmark(msgspec.Struct):
    """`found` holds, for each router, what it did on every source, `pooled` and `macro`; `curves` its pooled curve;
    `small_share` is the quality of all-small as a share of all-frontier, by set."""

    results: dict[str, dict[str, RouterResult]] = {}
    curves: dict[str, Curve] = {}
    small_quality_share: dict[str, float] = {}
    family_count: int = 0

    def document(self) -> dict[str, Any]:
        """Our own figures where they are looked for, those of the others beside them."""
        ours = self.results[PENSTOCK]
        others = {
            name: {place: one.document() for place, one in found.items()}
            for name, found in self.results.items()
            if name != PENSTOCK
        }
        return {**_document(ours), "small_share": self.small_quality_share, "beside": others}


def run(
    rows: Sequence[LabelledPrompt], routers: Mapping[str, Callable[[Sequence[LabelledPrompt]], RouterScores]], seed: int
) -> RouterBenchmark:
    """Try every router on all rows."""
    trial = RouterBenchmark(family_count=len({row.family_or_any for row in rows}))
    places = {
        name: np.array([number for number, row in enumerate(rows) if row.source_group == name], np.intp)
        for name in by_source(rows)
    }
    sizes = Counter(row.family_or_any for row in rows)
    even = outcomes(rows, np.array([1 / sizes[row.family_or_any] for row in rows]))
    plain = outcomes(rows, np.ones(len(rows)))
    for name, router in routers.items():
        said = router(rows)
        found = {place: _evaluate(said, numbers, plain.subset(numbers), seed) for place, numbers in places.items()}
        found[POOLED] = _evaluate(said, np.arange(len(rows)), even, seed)
        found[MACRO] = _macro_mean(found, places)
        trial.results[name] = found
        trial.curves[name] = curve(said.scores, even)
    for place, numbers in {**places, POOLED: np.arange(len(rows))}.items():
        known = even if place == POOLED else plain.subset(numbers)
        large = float((known.large * known.weights).sum())
        trial.small_quality_share[place] = (
            round(float((known.small * known.weights).sum()) / large, 4) if large else 1.0
        )
    return trial


def outcomes(rows: Sequence[LabelledPrompt], weights: Array) -> TierOutcomes:
    """The outcomes of rows; costs are those that were logged for a source, else a small call costs RHO of a frontier
    one."""
    logged = [_logged_costs(row) for row in rows]
    whole = {
        place for place in {row.source_group for row in rows}
        if all(costs is not None for row, costs in zip(rows, logged, strict=True) if row.source_group == place)
    }  # fmt: skip
    means = {
        place: np.mean(
            [costs[1] for row, costs in zip(rows, logged, strict=True) if row.source_group == place and costs]
        )
        for place in whole
    }
    small: list[float] = []
    large: list[float] = []
    for row, costs in zip(rows, logged, strict=True):
        if row.source_group in whole and costs is not None and means[row.source_group]:
            # In units of the source's mean frontier call, so that pooled sources weigh as their weights say.
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


def budget_error(scores: Array, weights: Array, seed: int) -> float:
    """The mean gap in [0, 1] between frontier shares asked for and given, over shares from 0.1 to 0.9, on traffic that
    nobody has seen: the prompts come one by one in random order, and the contract corrects as it goes."""
    order = np.random.default_rng(seed).permutation(len(scores))
    gaps = []
    for share in _TARGET_SHARES:
        book = ShareController()
        given = np.array([book.wants_frontier("", float(scores[place]), share) for place in order], float)
        gaps.append(abs(float(given.mean()) - share))
    return float(np.mean(gaps))


def _evaluate(said: RouterScores, numbers: RowIndexes, known: TierOutcomes, seed: int) -> RouterResult:
    scores, need = said.scores[numbers], said.frontier_need[numbers]
    randomness, apgrs = np.random.default_rng(seed), []
    for _ in range(_BOOTSTRAP_DRAWS if len(numbers) > 1 else 0):
        times = np.bincount(randomness.integers(0, len(numbers), len(numbers)), minlength=len(numbers)).astype(
            np.float64
        )
        drawn = known.subset(np.arange(len(numbers)), times)
        pgr = curve(scores, drawn)
        apgrs.append(np.trapezoid(pgr.pgr, pgr.share))
    low, high = (
        np.nanpercentile(apgrs, _INTERVAL_PERCENTILES) if apgrs and not np.all(np.isnan(apgrs)) else (np.nan, np.nan)
    )
    return RouterResult(
        measures=measures(scores, need, known),
        apgr_low=float(low),
        apgr_high=float(high),
        budget_error=budget_error(scores, known.weights, seed),
        prompt_count=len(numbers),
    )


def _macro_mean(found: Mapping[str, RouterResult], places: Mapping[str, RowIndexes]) -> RouterResult:
    """The mean over sources that are large enough (all of them, if none is)."""
    large = [found[place] for place, numbers in places.items() if len(numbers) >= MACRO_MIN_PROMPTS]
    large = large or [found[place] for place in places]
    means = [_nan_mean([one.measures[at] for one in large]) for at in range(len(Measures._fields))]
    # Sources are independent: the half width of a mean is the root of the squares over their number.
    half = float(np.sqrt(np.nansum([((one.apgr_high - one.apgr_low) / 2) ** 2 for one in large])) / len(large))
    return RouterResult(
        measures=Measures(*means),
        apgr_low=means[0] - half,
        apgr_high=means[0] + half,
        budget_error=float(np.mean([one.budget_error for one in large])),
        prompt_count=sum(one.prompt_count for one in large),
    )


def _nan_mean(values: Sequence[float]) -> float:
    """The mean of what the data can say; nan where they say nothing."""
    known = [value for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def _logged_costs(row: LabelledPrompt) -> tuple[float, float] | None:
    known = row.costs_usd or {}
    small, large = known.get(row.small_model), known.get(row.large_model)
    return (small, large) if small is not None and large is not None else None


def _document(found: Mapping[str, RouterResult]) -> dict[str, Any]:
    by_source = {place: one.document() for place, one in found.items() if place not in (POOLED, MACRO)}
    return {POOLED: found[POOLED].document(), MACRO: found[MACRO].document(), "by_source": by_source}


def _finite_or_none(value: float) -> float | None:
    return None if np.isnan(value) or np.isinf(value) else round(float(value), 4)
