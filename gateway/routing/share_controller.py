"""A requested frontier share as a contract: held on traffic that nobody has seen by correcting as it goes. A book.

The threshold is the quantile of the newest scores that would give the share, moved by what was given too much or too
little so far; so the realised share is off by no more than a few dozen requests in all, whatever the scores do (the feedback
of adaptive conformal inference, Gibbs and Candes, NeurIPS 2021).
"""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque

# Scores that the quantile is read from.
_WINDOW = 256
# What is owed is made good over so many requests.
_REPAID_OVER = 20
# Owed or overdrawn beyond this many requests is forgotten: a long drift is not repaid in one stretch.
_OWED_MAX = 50.0
# Of equals the next one goes when so much is owed.
_TURN = 0.5
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
        size = len(held.ordered)
        below, upto = bisect_left(held.ordered, score) / size, bisect_right(held.ordered, score) / size
        if below >= 1 - aimed or upto <= 1 - aimed:
            chosen = aimed > 0 and below >= 1 - aimed
        else:
            # The quantile lies among equals: they take turns, as what is owed adds up.
            chosen = held.owed + share >= _TURN
        held.owed = min(_OWED_MAX, max(-_OWED_MAX, held.owed + share - chosen))
        return chosen

    def corrected(self, name: str, *, frontier: bool) -> None:
        """A request that was chosen otherwise went there (or, False, did not) in the end."""
        held = self._shares.get(name)
        if held is not None:
            held.owed = min(_OWED_MAX, max(-_OWED_MAX, held.owed + (-1 if frontier else 1)))


def _enter(held: _Share, score: float) -> None:
    held.newest.append(score)
    insort(held.ordered, score)
    if len(held.newest) > _WINDOW:
        del held.ordered[bisect_left(held.ordered, held.newest.popleft())]
