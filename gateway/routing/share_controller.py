"""A requested frontier share as a contract: held on traffic that nobody has seen by correcting as it goes. A book.

The threshold is the quantile of the newest scores that would give the share, moved by what was given too much or too
little so far; so the realised share is off by no more than a few dozen requests in all, whatever the scores do (the feedback
of adaptive conformal inference, Gibbs and Candes, NeurIPS 2021).
"""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque

# Scores that the quantile is read from.
_SCORES_MAX = 256
# What is owed is made good over so many requests.
_CORRECTION_REQUESTS = 20
# Owed or overdrawn beyond this many requests is forgotten: a long drift is not repaid in one stretch.
_DEFICIT_REQUESTS_MAX = 50.0
# Of equals the next one goes when so much is owed.
_TIE_BREAK_DEFICIT = 0.5
# Shares that are held apart (routes and task types), the longest unused forgotten.
_SHARES_MAX = 1_000


class _ShareState:
    __slots__ = ("deficit_requests", "recent_scores", "sorted_scores")

    def __init__(self) -> None:
        self.recent_scores: deque[float] = deque()
        self.sorted_scores: list[float] = []
        self.deficit_requests = 0.0


class ShareController:
    """Decides request by request which go to the frontier, each name with a share of its own."""

    def __init__(self) -> None:
        self._shares: OrderedDict[str, _ShareState] = OrderedDict()

    def wants_frontier(self, name: str, score: float, share: float) -> bool:
        """Whether this request is among the `share` (in [0, 1]) that want the frontier most; booked as answered so."""
        held = self._shares.get(name)
        if held is None:
            held = self._shares[name] = _ShareState()
            if len(self._shares) > _SHARES_MAX:
                self._shares.popitem(last=False)
        else:
            self._shares.move_to_end(name)
        _add_score(held, score)
        aimed = min(1.0, max(0.0, share + held.deficit_requests / _CORRECTION_REQUESTS))
        size = len(held.sorted_scores)
        below, upto = bisect_left(held.sorted_scores, score) / size, bisect_right(held.sorted_scores, score) / size
        if below >= 1 - aimed or upto <= 1 - aimed:
            chosen = aimed > 0 and below >= 1 - aimed
        else:
            # The quantile lies among equals: they take turns, as what is owed adds up.
            chosen = held.deficit_requests + share >= _TIE_BREAK_DEFICIT
        held.deficit_requests = min(
            _DEFICIT_REQUESTS_MAX, max(-_DEFICIT_REQUESTS_MAX, held.deficit_requests + share - chosen)
        )
        return chosen

    def correct(self, name: str, *, frontier: bool) -> None:
        """A request that was chosen otherwise went there (or, False, did not) in the end."""
        held = self._shares.get(name)
        if held is not None:
            held.deficit_requests = min(
                _DEFICIT_REQUESTS_MAX, max(-_DEFICIT_REQUESTS_MAX, held.deficit_requests + (-1 if frontier else 1))
            )


def _add_score(held: _ShareState, score: float) -> None:
    held.recent_scores.append(score)
    insort(held.sorted_scores, score)
    if len(held.recent_scores) > _SCORES_MAX:
        del held.sorted_scores[bisect_left(held.sorted_scores, held.recent_scores.popleft())]
