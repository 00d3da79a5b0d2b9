"""Drift detection: whether traffic still matches what a floor was fitted on.

Two detectors. Quality: every new label bets against "the floor holds" (an e-detector: Shin, Ramdas, Rinaldo, 2022); it
alarms at a wealth of _ALARM_WEALTH, which is also the least mean number of labels between false alarms. Mix: the scores
of live requests against those of the labels, by the population stability index.
"""

import math
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Sequence

from ..values.quality import LabelGroup
from .quality_floor import QualityLabel, excess_loss

# Wealth at which the quality detector alarms.
_ALARM_WEALTH = 2_000.0
# Bet sizes in the mixture: small ones detect slow losses, large ones collapses.
_BET_SIZES = (0.05, 0.15, 0.4)
# Live scores kept for the comparison, and the least number for one.
_SCORES_MAX, _SCORES_MIN = 500, 200
# Requests between two computations of the index.
_CHECK_EVERY = 20
# The distribution has changed when the index exceeds this (usual reading: under 0.1 stable, over 0.25 changed) plus its
# mean under equal distributions: (bins - 1) * (1 / scores + 1 / labels).
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
    """Drift of groups with a fitted floor; bounded.

    A group that drifted stays so until its floor is refitted.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[LabelGroup, _DriftState] = OrderedDict()
        self._mix_alarms: list[LabelGroup] = []

    def record_fit(
        self, group: LabelGroup, edges: tuple[float, ...], shares: tuple[float, ...], *, labels: int = 0, at: float
    ) -> None:
        """A floor was fitted: a group that drifted earlier is trusted again.

        edges: bin edges of the labels' scores, () for too few labels
        shares: share of the labels in each bin
        labels: number of labels
        at: time of the fit, seconds since the epoch
        """
        previous = self._groups.get(group)
        if previous is not None and previous.reason and previous.drifted_at >= at:
            return
        fresh = self._groups[group] = _DriftState(edges, shares, labels)
        if previous is not None and not previous.reason:
            # Evidence collected so far stays valid for a floor that was refitted.
            fresh.wealths, fresh.scores = previous.wealths, previous.scores
        self._groups.move_to_end(group)
        if len(self._groups) > _GROUPS_MAX:
            self._groups.popitem(last=False)

    def record_label(self, group: LabelGroup, label: QualityLabel, ceiling: float, keep: float, *, now: float) -> bool:
        """Record a new label of live traffic; True if it triggers the quality alarm."""
        state = self._groups.get(group)
        if state is None or state.reason:
            return False
        lost = excess_loss(label, ceiling, keep)
        # At least 1: the alarm is about the present, and past gains are no credit.
        state.wealths = [
            max(1.0, wealth) * (1 + bet * lost) for wealth, bet in zip(state.wealths, _BET_SIZES, strict=True)
        ]
        if _mean_wealth(state) < _ALARM_WEALTH:
            return False
        state.reason, state.drifted_at = "quality", now
        return True

    def record_score(self, group: LabelGroup, score: float, *, now: float) -> bool:
        """Record a session's first score (later ones repeat it); True on a mix alarm."""
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
        """Groups with a mix alarm since the last call; each alarm is returned once."""
        groups, self._mix_alarms = self._mix_alarms, []
        return groups

    def reason(self, group: LabelGroup) -> str:
        """Why a group drifted: "quality" or "mix"; "" if it did not."""
        state = self._groups.get(group)
        return state.reason if state is not None else ""

    def wealth(self, group: LabelGroup) -> float:
        """Wealth of the bets against the group's floor; 1 without a floor."""
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
    """Population stability index of observed counts against expected shares.

    Half a request, distributed by the shares, is added so that an empty bin stays finite.
    """
    index = 0.0
    for count, share in zip(counts, shares, strict=True):
        observed = (count + 0.5 * share) / (seen + 0.5)
        index += (observed - share) * math.log(observed / share)
    return index
