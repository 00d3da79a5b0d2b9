"""Drift: whether what is served now is still what the floor was fitted on. A book.

Two watches. Quality: every fresh label bets against "the floor holds" (an e-detector: Shin, Ramdas, Rinaldo, 2022); it
alarms when the wealth reaches `1 / false alarms`, so on a floor that holds it is wrong once in that many labels on
average at most. Mix: the scores of live requests against those of the labels, by the population stability index.
"""

import math
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Sequence

from ..values.base import Value
from ..values.quality import Group
from .floor import Label, excess

# Mean number of labels between false alarms is at least this.
_LABELS_BETWEEN_FALSE_ALARMS = 2_000
# Bets that are mixed: small ones find slow losses, large ones find collapses.
_BETS = (0.05, 0.15, 0.4)
# Live scores that are compared, and how many it takes to compare them.
_WINDOW, _WINDOW_MIN = 500, 200
# The index is worked out once in so many requests.
_LOOKS_EVERY = 20
# Above this, and what chance alone makes of so few (its mean for equal distributions: parts less one over both numbers), the
# index says that a distribution has changed (the usual reading: under 0.1 stable, over 0.25 changed).
PSI_MAX = 0.25
_GROUPS_MAX = 1_000


class Watched(Value, frozen=True, kw_only=True):
    """How a group stands: `wealth` against the floor (alarm at `alarm_at`), the stability index of its scores (None
    before there are enough), and why it is no longer trusted, "" while it is."""

    wealth: float = 1.0
    psi: float | None = None
    why: str = ""


ALARM_AT = float(_LABELS_BETWEEN_FALSE_ALARMS)


class _Group:
    __slots__ = ("drifted_at", "edges", "labels", "scores", "shares", "since", "wealths", "why")

    def __init__(self, edges: tuple[float, ...], shares: tuple[float, ...], labels: int) -> None:
        self.wealths = [1.0] * len(_BETS)
        self.edges, self.shares = edges, shares
        self.labels = labels
        self.scores: deque[float] = deque(maxlen=_WINDOW)
        self.since = 0
        self.why = ""
        self.drifted_at = 0.0


class DriftBook:
    """Groups (organisation, task type, tier) with a fitted floor; bounded. What is not trusted stays so until its floor
    is fitted anew."""

    def __init__(self) -> None:
        self._groups: OrderedDict[Group, _Group] = OrderedDict()
        self._mixed: list[Group] = []

    def fitted(
        self, group: Group, edges: tuple[float, ...], shares: tuple[float, ...], *, labels: int = 0, at: float
    ) -> None:
        """A floor was fitted at that time (seconds since the epoch): what had drifted before is trusted again. `edges`
        part the scores of so many labels, of which `shares` lie in each part; () for too few of them."""
        known = self._groups.get(group)
        if known is not None and known.why and known.drifted_at >= at:
            return
        fresh = self._groups[group] = _Group(edges, shares, labels)
        if known is not None and not known.why:
            # Evidence against the floor is evidence whichever labels it was fitted to last; so is what came in since.
            fresh.wealths, fresh.scores = known.wealths, known.scores
        self._groups.move_to_end(group)
        if len(self._groups) > _GROUPS_MAX:
            self._groups.popitem(last=False)

    def labelled(self, group: Group, label: Label, ceiling: float, keep: float, *, now: float) -> bool:
        """A fresh label of live traffic; True if this one sets off the alarm."""
        state = self._groups.get(group)
        if state is None or state.why:
            return False
        lost = excess(label, ceiling, keep)
        # Never below one: the alarm is about now, and what went well long ago is no credit.
        state.wealths = [max(1.0, wealth) * (1 + bet * lost) for wealth, bet in zip(state.wealths, _BETS, strict=True)]
        if sum(state.wealths) / len(_BETS) < ALARM_AT:
            return False
        state.why, state.drifted_at = "quality", now
        return True

    def served(self, group: Group, score: float, *, now: float) -> bool:
        """The score of a session's first request (later ones repeat it); True if this one sets off the alarm."""
        state = self._groups.get(group)
        if state is None or state.why or not state.shares:
            return False
        state.scores.append(score)
        state.since += 1
        if len(state.scores) < _WINDOW_MIN or state.since % _LOOKS_EVERY:
            return False
        if _index(state) <= PSI_MAX + (len(state.shares) - 1) * (1 / len(state.scores) + 1 / max(1, state.labels)):
            return False
        state.why, state.drifted_at = "mix", now
        self._mixed.append(group)
        return True

    def alarms(self) -> list[Group]:
        """Groups whose mix has changed since this was asked last: each is told of once."""
        found, self._mixed = self._mixed, []
        return found

    def watched(self, group: Group) -> Watched:
        """How a group stands."""
        state = self._groups.get(group)
        if state is None:
            return Watched()
        psi = _index(state) if len(state.scores) >= _WINDOW_MIN and state.shares else None
        return Watched(wealth=sum(state.wealths) / len(_BETS), psi=psi, why=state.why)

    def groups(self) -> list[Group]:
        """All groups, for the metrics."""
        return list(self._groups)


def _index(state: _Group) -> float:
    counts = [0.0] * len(state.shares)
    for score in state.scores:
        counts[bisect_left(state.edges, score)] += 1
    return stability(counts, len(state.scores), state.shares)


def stability(counts: Sequence[float], seen: float, shares: Sequence[float]) -> float:
    """The population stability index of counts beside the shares that are expected; half a request, shared out alike, is
    added, so that an empty part is no infinity."""
    found = 0.0
    for count, share in zip(counts, shares, strict=True):
        given = (count + 0.5 * share) / (seen + 0.5)
        found += (given - share) * math.log(given / share)
    return found
