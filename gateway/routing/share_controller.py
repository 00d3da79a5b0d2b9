"""Share controller: holds a requested frontier share by feedback. State.

The threshold is the quantile of the newest scores that would give the share, shifted by the deficit so far. The
realized share is off by no more than a few dozen requests in all, whatever the scores do (the feedback of adaptive
conformal inference, Gibbs and Candes, NeurIPS 2021).
"""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque

# Scores in the quantile's window.
_SCORES_MAX = 256
# Requests over which a deficit is corrected.
_CORRECTION_REQUESTS = 20
# Deficits are clamped to this many requests: a long drift is not repaid in one stretch.
_DEFICIT_REQUESTS_MAX = 50.0
# Among equal scores the next request goes to the frontier at this deficit.
_TIE_BREAK_DEFICIT = 0.5
# Shares kept (by route and task type), the least recently used dropped.
_SHARES_MAX = 1_000


class _ShareState:
    __slots__ = ("deficit_requests", "recent_scores", "sorted_scores")

    def __init__(self) -> None:
        self.recent_scores: deque[float] = deque()
        self.sorted_scores: list[float] = []
        self.deficit_requests = 0.0


class ShareController:
    """Decides which requests go to the frontier; each name has its own share."""

    def __init__(self) -> None:
        self._shares: OrderedDict[str, _ShareState] = OrderedDict()

    def wants_frontier(self, name: str, score: float, share: float) -> bool:
        """Whether this request goes to the frontier: `share` of them do, by score.

        `share` is in [0, 1]. The request is counted as served so; see `correct`.
        """
        state = self._shares.get(name)
        if state is None:
            state = self._shares[name] = _ShareState()
            if len(self._shares) > _SHARES_MAX:
                self._shares.popitem(last=False)
        else:
            self._shares.move_to_end(name)
        _add_score(state, score)
        corrected = min(1.0, max(0.0, share + state.deficit_requests / _CORRECTION_REQUESTS))
        size = len(state.sorted_scores)
        below, upto = bisect_left(state.sorted_scores, score) / size, bisect_right(state.sorted_scores, score) / size
        if below >= 1 - corrected or upto <= 1 - corrected:
            chosen = corrected > 0 and below >= 1 - corrected
        else:
            # The quantile falls among equal scores: they alternate as the deficit adds up.
            chosen = state.deficit_requests + share >= _TIE_BREAK_DEFICIT
        state.deficit_requests = min(
            _DEFICIT_REQUESTS_MAX, max(-_DEFICIT_REQUESTS_MAX, state.deficit_requests + share - chosen)
        )
        return chosen

    def correct(self, name: str, *, frontier: bool) -> None:
        """Correct the count: the frontier served (False: did not), unlike the choice."""
        state = self._shares.get(name)
        if state is not None:
            state.deficit_requests = min(
                _DEFICIT_REQUESTS_MAX, max(-_DEFICIT_REQUESTS_MAX, state.deficit_requests + (-1 if frontier else 1))
            )


def _add_score(state: _ShareState, score: float) -> None:
    state.recent_scores.append(score)
    insort(state.sorted_scores, score)
    if len(state.recent_scores) > _SCORES_MAX:
        del state.sorted_scores[bisect_left(state.sorted_scores, state.recent_scores.popleft())]
