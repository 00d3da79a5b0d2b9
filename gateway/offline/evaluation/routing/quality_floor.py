"""Evaluates the quality floor: whether its claim holds, and what it saves.

Each source is split many times: labels drawn at random set the ceiling, the rest is served by it. The truth is what the
whole source keeps at that ceiling (labels are drawn from it without replacement); what the rest alone kept, a smaller
sample, is reported beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ....routing.prompt_features import prompt_features
from ....routing.quality_floor import QualityLabel, fit_floor, kept_quality
from ....routing.scorer import Scorer
from ...training.labelled_prompts import LabelledPrompt, by_source
from ..clopper_pearson import clopper_pearson
from ..report import table
from .measures import SMALL_COST_RATIO


class FloorResult(NamedTuple):
    """The floor on one source.

    broken: splits whose floor was not kept by the whole source
    broken_on_rest: splits whose floor was not kept by the rest alone
    empty: splits whose labels supported no claim
    kept: mean share of quality kept, in [0, 1]
    saved: mean share of all-frontier's cost saved, in [0, 1]
    best: what the best possible ceiling would save, in [0, 1]
    """

    rows: int
    labels: int
    splits: int
    broken: int
    broken_on_rest: int
    empty: int
    kept: float
    saved: float
    best: float

    def document(self) -> Mapping[str, Any]:
        """For `--json`."""
        return {**self._asdict(), "broken_share": self.broken / self.splits}


def run(
    rows: Sequence[LabelledPrompt],
    scorer: Scorer,
    *,
    keep: float,
    confidence: float,
    labels: int,
    splits: int,
    seed: int,
) -> dict[str, FloorResult]:
    """Every source with more than `labels` prompts. Raises ValueError without one."""
    results = {}
    for source, source_rows in by_source(rows).items():
        if len(source_rows) <= labels:
            continue
        source_labels = [
            QualityLabel(
                score=scorer.score(prompt_features(row.prompt, row.tools_json)).small_insufficient,
                small=row.small_score,
                large=row.large_score,
            )
            for row in source_rows
        ]
        results[source] = _evaluate_source(source_labels, keep, confidence, labels, splits, seed)
    if not results:
        raise ValueError(f"no source has more than {labels} labelled prompts")
    return results


def _evaluate_source(
    all_labels: Sequence[QualityLabel], keep: float, confidence: float, labels: int, splits: int, seed: int
) -> FloorResult:
    randomness, broken, on_rest, empty = np.random.default_rng(seed), 0, 0, 0
    shares, quality = [], []
    for _ in range(splits):
        shuffled = [all_labels[index] for index in randomness.permutation(len(all_labels)).tolist()]
        fit_on, rest = shuffled[:labels], shuffled[labels:]
        ceiling = fit_floor(fit_on, keep=keep, confidence=confidence).ceiling
        empty += ceiling is None
        broken += kept_quality(all_labels, ceiling) < keep
        on_rest += kept_quality(rest, ceiling) < keep
        quality.append(kept_quality(all_labels, ceiling))
        shares.append(0.0 if ceiling is None else sum(label.score <= ceiling for label in rest) / len(rest))
    return FloorResult(
        rows=len(all_labels),
        labels=labels,
        splits=splits,
        broken=broken,
        broken_on_rest=on_rest,
        empty=empty,
        kept=float(np.mean(quality)),
        saved=float(np.mean(shares)) * (1 - SMALL_COST_RATIO),
        best=_best_share(all_labels, keep) * (1 - SMALL_COST_RATIO),
    )


def _best_share(all_labels: Sequence[QualityLabel], keep: float) -> float:
    """The share that the highest ceiling that keeps enough serves, in hindsight."""
    ordered = sorted(all_labels, key=lambda label: label.score)
    allowance = (1 - keep) * sum(label.large for label in all_labels)
    best = 0
    for index, label in enumerate(ordered):
        allowance -= label.large - label.small
        if allowance >= 0:
            best = index + 1
    return best / len(all_labels)


def render(results: Mapping[str, FloorResult], keep: float, confidence: float) -> Iterator[str]:
    """The figures as plain text."""
    head = (
        "source",
        "rows",
        "labels",
        "splits",
        "floor broken",
        "95 %",
        "on the rest alone",
        "no claim",
        "kept",
        "cost saved",
        "best ceiling saves",
    )
    rows = []
    for source, result in results.items():
        low, high = clopper_pearson(result.broken, result.splits)
        rows.append(
            (
                source, f"{result.rows:,}", f"{result.labels:,}", str(result.splits),
                f"{result.broken / result.splits:.1%}", f"{low:.1%}-{high:.1%}",
                f"{result.broken_on_rest / result.splits:.1%}", str(result.empty), f"{result.kept:.4f}",
                f"{result.saved:.1%}", f"{result.best:.1%}",
            )
        )  # fmt: skip
    yield table(f"Quality floor: keep {keep:g} with confidence {confidence:g}", head, rows)
