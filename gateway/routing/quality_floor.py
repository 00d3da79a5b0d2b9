"""The quality floor: how far the smaller tier may be used so that, with the stated confidence, at least `keep` of the
frontier's quality is kept.

Conformal risk control by learn-then-test (Angelopoulos, Bates, Candes, Jordan, Lei: arXiv 2110.01052): thresholds are
tested from the safest on, each against "it gives up more than allowed", and the last one rejected in an unbroken row is
taken; testing in a fixed order needs no correction for their number. The test is a bet on the labels in the order
given (Waudby-Smith and Ramdas, JRSS B 86 (2024)): valid at every number of labels, whatever their distribution in
[0, 1], as long as they were drawn at random from the traffic that the claim is about, and stand in random order.
"""

import math
from collections.abc import Sequence

from ..values.base import Value

# Thresholds that are tested: quantiles of the scores at hand.
_CEILINGS_MAX = 50
# No bet takes more than this part of what could be lost at once.
_BET_MAX = 0.5
# Before anything is seen the variance of a loss is taken to be this, with the weight of one label.
_PRIOR_VARIANCE = 0.25


class QualityLabel(Value, frozen=True, kw_only=True):
    """What both tiers made of one request: quality in [0, 1] each, and the score (higher wants the frontier more)."""

    score: float
    small: float
    large: float


class QualityFloor(Value, frozen=True, kw_only=True):
    """`ceiling`: the highest score that the smaller tier may serve, None where the labels do not carry the claim.
    `share` of the labels is at or below it, `kept` the part of the frontier's quality they kept, `labels` their
    number."""

    ceiling: float | None
    share: float
    kept_quality: float
    labels: int


def fit_floor(labels: Sequence[QualityLabel], *, keep: float, confidence: float) -> QualityFloor:
    """The highest ceiling that keeps `keep` of the frontier's mean quality with `confidence`, both in (0, 1)."""
    assert 0 < keep < 1 and 0 < confidence < 1, "shares"
    ceiling = None
    for candidate in _candidate_ceilings([label.score for label in labels]):
        # What the labels themselves did not keep is not claimed, whatever the bet had won on the way.
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
    """Whether the labels reject, at this confidence, that the ceiling keeps less than `keep`."""
    wanted = -math.log(1 - confidence)
    wealth, mean_of_squares, seen = 0.0, _PRIOR_VARIANCE, 1
    scale = math.sqrt(2 * wanted / max(1, len(labels)))
    for label in labels:
        given_up = excess_loss(label, ceiling, keep)
        bet = min(_BET_MAX, scale / math.sqrt(mean_of_squares / seen))
        wealth += math.log1p(-bet * given_up)
        if wealth >= wanted:
            return True
        mean_of_squares += given_up * given_up
        seen += 1
    return False


def excess_loss(label: QualityLabel, ceiling: float, keep: float) -> float:
    """What this request gave up beyond what it may, in [-1, 1]: its mean is at most 0 where the floor holds."""
    lost = label.large - label.small if label.score <= ceiling else 0.0
    return lost - (1 - keep) * label.large


def kept_quality(labels: Sequence[QualityLabel], ceiling: float | None) -> float:
    """The part of the frontier's quality that the labels kept with this ceiling; 1 where there was none to keep."""
    whole = sum(label.large for label in labels)
    if ceiling is None or not whole:
        return 1.0
    return sum(label.small if label.score <= ceiling else label.large for label in labels) / whole


def _candidate_ceilings(scores: Sequence[float]) -> list[float]:
    """Scores at even quantiles, ascending, each once."""
    ordered = sorted(scores)
    places = [round(step * len(ordered) / _CEILINGS_MAX) - 1 for step in range(1, _CEILINGS_MAX + 1)]
    return sorted({ordered[place] for place in places if place >= 0})
