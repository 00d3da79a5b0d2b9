"""Quality floors: the scores at which the small tier keeps enough quality.

Enough is at least `keep` of the frontier's quality, with the stated confidence. Conformal risk control by
learn-then-test (Angelopoulos, Bates, Candes, Jordan, Lei: arXiv 2110.01052): ceilings are tested from the safest on,
each against "it loses more than allowed", and the last one before the first that is not rejected is taken; testing in
a fixed order needs no correction for their number. The test is a bet on the labels in their order (Waudby-Smith and
Ramdas, JRSS B 86 (2024)): valid for any number of labels, whatever their distribution in [0, 1], as long as they are a
random sample of the traffic that the claim is about, in random order.
"""

import math
from collections.abc import Sequence

from ..values.base import Value

# Ceilings tested: quantiles of the labels' scores.
_CEILINGS_MAX = 50
# Largest bet, as a share of the wealth.
_BET_MAX = 0.5
# Prior variance of a loss, with the weight of one label.
_PRIOR_VARIANCE = 0.25


class QualityLabel(Value, frozen=True, kw_only=True):
    """Quality of both tiers' responses to one request.

    score: the scorer's score in [0, 1]; higher needs the frontier more
    small: quality of the small tier's response, in [0, 1]
    large: quality of the frontier's response, in [0, 1]
    """

    score: float
    small: float
    large: float


class QualityFloor(Value, frozen=True, kw_only=True):
    """A fitted quality floor.

    ceiling: highest score that the small tier may serve, None if the labels do not support any
    share: share of the labels at or below the ceiling
    kept_quality: share of the frontier's quality that the labels keep with it
    labels: number of labels
    """

    ceiling: float | None
    share: float
    kept_quality: float
    labels: int


def fit_floor(labels: Sequence[QualityLabel], *, keep: float, confidence: float) -> QualityFloor:
    """The highest ceiling that keeps `keep` of the quality; arguments in (0, 1)."""
    assert 0 < keep < 1 and 0 < confidence < 1, "shares"
    ceiling = None
    for candidate in _candidate_ceilings([label.score for label in labels]):
        # A ceiling that the labels themselves do not keep is not claimed, whatever wealth the bet reached on the way.
        if kept_quality(labels, candidate) < keep or not ceiling_holds(
            labels, candidate, keep=keep, confidence=confidence
        ):
            break
        ceiling = candidate
    return QualityFloor(
        ceiling=ceiling,
        share=sum(label.score <= ceiling for label in labels) / len(labels) if ceiling is not None else 0.0,
        kept_quality=kept_quality(labels, ceiling),
        labels=len(labels),
    )


def ceiling_holds(labels: Sequence[QualityLabel], ceiling: float, *, keep: float, confidence: float) -> bool:
    """Whether the labels reject that the ceiling keeps less than `keep`."""
    wealth_required = -math.log(1 - confidence)
    wealth, mean_of_squares, seen = 0.0, _PRIOR_VARIANCE, 1
    scale = math.sqrt(2 * wealth_required / max(1, len(labels)))
    for label in labels:
        excess = excess_loss(label, ceiling, keep)
        bet = min(_BET_MAX, scale / math.sqrt(mean_of_squares / seen))
        wealth += math.log1p(-bet * excess)
        if wealth >= wealth_required:
            return True
        mean_of_squares += excess * excess
        seen += 1
    return False


def excess_loss(label: QualityLabel, ceiling: float, keep: float) -> float:
    """Quality lost beyond the allowance, in [-1, 1]; mean <= 0 if the floor holds."""
    lost = label.large - label.small if label.score <= ceiling else 0.0
    return lost - (1 - keep) * label.large


def kept_quality(labels: Sequence[QualityLabel], ceiling: float | None) -> float:
    """Share of the frontier's quality that the ceiling keeps; 1 if there is none."""
    total = sum(label.large for label in labels)
    if ceiling is None or not total:
        return 1.0
    return sum(label.small if label.score <= ceiling else label.large for label in labels) / total


def _candidate_ceilings(scores: Sequence[float]) -> list[float]:
    """Distinct scores at even quantiles, ascending."""
    ordered = sorted(scores)
    indices = [round(step * len(ordered) / _CEILINGS_MAX) - 1 for step in range(1, _CEILINGS_MAX + 1)]
    return sorted({ordered[index] for index in indices if index >= 0})
