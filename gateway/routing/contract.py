"""A requested frontier share as a contract: held on traffic that nobody has seen by correcting as it goes. A book.

The threshold is the quantile of the newest scores that would give the share, moved by what was given too much or too
little so far; so the realised share is off by no more than a handful of requests, whatever the scores do (the feedback
of adaptive conformal inference, Gibbs and Candes, NeurIPS 2021).
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque

# Scores that the quantile is read from.
_WINDOW = 256
# What is owed is made good over so many requests.
_REPAID_OVER = 20
# Owed or overdrawn beyond this many requests is forgotten: a long drift is not repaid in one stretch.
_OWED_MAX = 50.0
# Shares that are held apart (routes and task types), the longest unused forgotten.
_HELD_MAX = 1_000


class _Share:
    __slots__ = ("newest", "ordered", "owed")

    def __init__(self) -> None:
        self.newest: deque[float] = deque()
        self.ordered: list[float] = []
        self.owed = 0.0


class ShareBook:
    """Decides request by request which go to the frontier, each name with a share of its own."""

    def __init__(self) -> None:
        self._shares: OrderedDict[str, _Share] = OrderedDict()

    def wants_frontier(self, name: str, score: float, share: float) -> bool:
        """Whether this request is among the `share` (in [0, 1]) that want the frontier most; booked as answered so."""
        held = self._shares.get(name)
        if held is None:
            held = self._shares[name] = _Share()
            if len(self._shares) > _HELD_MAX:
                self._shares.popitem(last=False)
        else:
            self._shares.move_to_end(name)
        _enter(held, score)
        aimed = min(1.0, max(0.0, share + held.owed / _REPAID_OVER))
        # How many of the window lie strictly below; of equals the share decides by what is owed.
        below = bisect_left(held.ordered, score) / len(held.ordered)
        chosen = aimed > 0 and below >= 1 - aimed
        held.owed = min(_OWED_MAX, max(-_OWED_MAX, held.owed + share - chosen))
        return chosen


def _enter(held: _Share, score: float) -> None:
    held.newest.append(score)
    insort(held.ordered, score)
    if len(held.newest) > _WINDOW:
        del held.ordered[bisect_left(held.ordered, held.newest.popleft())]
