"""Drift: whether what is served now is still what the floor was fitted on. A book.

Two watches. Quality: every fresh label bets against "the floor holds" (an e-detector: Shin, Ramdas, Rinaldo, 2022); the
alarm goes at a wealth of so many labels, and on a floor that holds not before so many on average. Mix: the scores of live
requests against those of the labels, by the population stability index.
"""

import math
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Sequence

from ..values.quality import LabelGroup
from .quality_floor import QualityLabel, excess_loss

# The wealth of the alarm, and the least mean number of labels between false ones.
_ALARM_WEALTH = 2_000.0
# Bets that are mixed: small ones find slow losses, large ones find collapses.
_BET_SIZES = (0.05, 0.15, 0.4)
# Live scores that are compared, and how many it takes to compare them.
_SCORES_MAX, _SCORES_MIN = 500, 200
# The index is worked out once in so many requests.
_CHECK_EVERY = 20
# Above this, and what chance alone makes of so few (its mean for equal distributions: parts less one over both numbers), the
# index says that a distribution has changed (the usual reading: under 0.1 stable, over 0.25 changed).
PSI_MAX = 0.25
_GROUPS_MAX = 1_000


class _DriftState:
    __slots__ = ("drifted_at", "edges", "labels", "reason", "score_count", "scores", "shares", "wealths")

    def __init__(self, edges: tuple[float, ...], shares: tuple[float, ...], labels: int) -> None:
        self.wealths = [1.0] * len(_BET_SIZES)
        self.edges, self.shares = edges, shares
        self.labels = labels
        self.scores: deque[float] = deque(maxlen=_SCORES_MAX)
        self.score_count = 0
        self.reason = ""
        self.drifted_at = 0.0


class DriftDetector:
    """Groups with a fitted floor; bounded. What is not trusted stays so until its floor
    is fitted anew."""

    def __init__(self) -> None:
        self._groups: OrderedDict[LabelGroup, _DriftState] = OrderedDict()
        self._mix_alarms: list[LabelGroup] = []

    def record_fit(
        self, group: LabelGroup, edges: tuple[float, ...], shares: tuple[float, ...], *, labels: int = 0, at: float
    ) -> None:
        """A floor was fitted at that time (seconds since the epoch): what had drifted before is trusted again. `edges`
        part the scores of so many labels, of which `shares` lie in each part; () for too few of them."""
        known = self._groups.get(group)
        if known is not None and known.reason and known.drifted_at >= at:
            return
        fresh = self._groups[group] = _DriftState(edges, shares, labels)
        if known is not None and not known.reason:
            # Evidence against the floor is evidence whichever labels it was fitted to last; so is what came in since.
            fresh.wealths, fresh.scores = known.wealths, known.scores
        self._groups.move_to_end(group)
        if len(self._groups) > _GROUPS_MAX:
            self._groups.popitem(last=False)

    def record_label(self, group: LabelGroup, label: QualityLabel, ceiling: float, keep: float, *, now: float) -> bool:
        """A fresh label of live traffic; True if this one sets off the alarm."""
        state = self._groups.get(group)
        if state is None or state.reason:
            return False
        lost = excess_loss(label, ceiling, keep)
        # Never below one: the alarm is about now, and what went well long ago is no credit.
        state.wealths = [
            max(1.0, wealth) * (1 + bet * lost) for wealth, bet in zip(state.wealths, _BET_SIZES, strict=True)
        ]
        if _mean_wealth(state) < _ALARM_WEALTH:
            return False
        state.reason, state.drifted_at = "quality", now
        return True

    def record_score(self, group: LabelGroup, score: float, *, now: float) -> bool:
        """The score of a session's first request (later ones repeat it); True if this one sets off the alarm."""
        state = self._groups.get(group)
        if state is None or state.reason or not state.shares:
            return False
        state.scores.append(score)
        state.score_count += 1
        if len(state.scores) < _SCORES_MIN or state.score_count % _CHECK_EVERY:
            return False
        if _group_stability_index(state) <= PSI_MAX + (len(state.shares) - 1) * (
            1 / len(state.scores) + 1 / max(1, state.labels)
        ):
            return False
        state.reason, state.drifted_at = "mix", now
        self._mix_alarms.append(group)
        return True

    def take_mix_alarms(self) -> list[LabelGroup]:
        """Groups whose mix has changed since this was asked last: each is told of once."""
        found, self._mix_alarms = self._mix_alarms, []
        return found

    def reason(self, group: LabelGroup) -> str:
        """Why a group is no longer trusted: "quality", "mix", "" while it is."""
        state = self._groups.get(group)
        return state.reason if state is not None else ""

    def wealth(self, group: LabelGroup) -> float:
        """What the bets against its floor have come to; 1 where there is none."""
        state = self._groups.get(group)
        return _mean_wealth(state) if state is not None else 1.0


def _mean_wealth(state: _DriftState) -> float:
    return sum(state.wealths) / len(_BET_SIZES)


def _group_stability_index(state: _DriftState) -> float:
    counts = [0.0] * len(state.shares)
    for score in state.scores:
        counts[bisect_left(state.edges, score)] += 1
    return population_stability_index(counts, len(state.scores), state.shares)


def population_stability_index(counts: Sequence[float], seen: float, shares: Sequence[float]) -> float:
    """The population stability index of counts beside the shares that are expected; half a request, shared out alike, is
    added, so that an empty part is no infinity."""
    found = 0.0
    for count, share in zip(counts, shares, strict=True):
        given = (count + 0.5 * share) / (seen + 0.5)
        found += (given - share) * math.log(given / share)
    return found
