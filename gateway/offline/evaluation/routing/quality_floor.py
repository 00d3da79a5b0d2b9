"""The quality floor on trial: is what it claims kept on prompts that it has not seen, and what does it save?

Each source is split many times: labels drawn at random set the ceiling, the rest is served by it. The truth is what the
source as a whole keeps at that ceiling (labels are drawn from it without putting back); what the rest alone kept, a
smaller sample, is told beside it.
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
    """One source: splits, those whose floor was broken (in truth; on the rest alone), those whose labels carried no claim,
    the mean of what was kept and of the cost saved (shares of all-frontier's), and what the best ceiling would save."""

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
        """What `--json` writes."""
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
    """Every source with more than so many labels. Raises ValueError if there is none."""
    found = {}
    for place, mine in by_source(rows).items():
        if len(mine) <= labels:
            continue
        known = [
            QualityLabel(
                score=scorer.score(prompt_features(row.prompt, row.tools_json)).small_insufficient,
                small=row.small_score,
                large=row.large_score,
            )
            for row in mine
        ]
        found[place] = _evaluate_source(known, keep, confidence, labels, splits, seed)
    if not found:
        raise ValueError(f"no source has more than {labels} labelled prompts")
    return found


def _evaluate_source(
    known: Sequence[QualityLabel], keep: float, confidence: float, labels: int, splits: int, seed: int
) -> FloorResult:
    randomness, broken, on_rest, empty = np.random.default_rng(seed), 0, 0, 0
    shares, quality = [], []
    for _ in range(splits):
        drawn = [known[place] for place in randomness.permutation(len(known)).tolist()]
        set_by, rest = drawn[:labels], drawn[labels:]
        ceiling = fit_floor(set_by, keep=keep, confidence=confidence).ceiling
        empty += ceiling is None
        broken += kept_quality(known, ceiling) < keep
        on_rest += kept_quality(rest, ceiling) < keep
        quality.append(kept_quality(known, ceiling))
        shares.append(0.0 if ceiling is None else sum(one.score <= ceiling for one in rest) / len(rest))
    return FloorResult(
        rows=len(known),
        labels=labels,
        splits=splits,
        broken=broken,
        broken_on_rest=on_rest,
        empty=empty,
        kept=float(np.mean(quality)),
        saved=float(np.mean(shares)) * (1 - SMALL_COST_RATIO),
        best=_best_share(known, keep) * (1 - SMALL_COST_RATIO),
    )


def _best_share(known: Sequence[QualityLabel], keep: float) -> float:
    """The share that the highest ceiling serves which truly keeps enough: what no procedure can know."""
    ordered = sorted(known, key=lambda label: label.score)
    left = (1 - keep) * sum(label.large for label in known)
    best = 0
    for place, label in enumerate(ordered):
        left -= label.large - label.small
        if left >= 0:
            best = place + 1
    return best / len(known)


def render(found: Mapping[str, FloorResult], keep: float, confidence: float) -> Iterator[str]:
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
    for place, one in found.items():
        low, high = clopper_pearson(one.broken, one.splits)
        rows.append(
            (
                place, f"{one.rows:,}", f"{one.labels:,}", str(one.splits), f"{one.broken / one.splits:.1%}",
                f"{low:.1%}-{high:.1%}", f"{one.broken_on_rest / one.splits:.1%}", str(one.empty), f"{one.kept:.4f}",
                f"{one.saved:.1%}", f"{one.best:.1%}",
            )
        )  # fmt: skip
    yield table(f"Quality floor: keep {keep:g} with confidence {confidence:g}", head, rows)
