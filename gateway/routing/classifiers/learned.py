"""The learned classifier: the scorer's calibrated opinion of a prompt, and what only a gateway sees. Pure.

The scorer knows prompts and nothing of sessions. Signals of the session move its log-odds by weights set by hand, until
labels of own traffic correct the sum (`Fitted.head`).
"""

import math
from collections.abc import Sequence

from ...values.plan import Facts
from ..scorer import Scored
from . import transparent

# The transparent classifier's signals that say something which a prompt alone does not.
_OF_SESSIONS = frozenset({"long-input", "many-tools", "failed-tools", "long-session", "images"})
# Log-odds beyond this are certainty enough.
_LOG_ODDS_MAX = 12.0


def log_odds(facts: Facts, scored: Scored, head: Sequence[float]) -> tuple[float, list[tuple[str, float]]]:
    """The scorer's log-odds that the small tier does not suffice, and each move's name with what it moves them by.

    `head` corrects for own traffic: an offset, then a weight for each of the scorer's lanes; () for none.
    """
    base = math.log(scored.need / (1 - scored.need))
    moves = [move for move in transparent.log_odds(facts)[1] if move[0] in _OF_SESSIONS]
    if head:
        moves.append(("own-traffic", corrected(base, scored.lanes, head) - base))
    return base, moves


def corrected(base: float, lanes: Sequence[float], head: Sequence[float]) -> float:
    """The log-odds by what own traffic has taught: head[0] + head[1] * base + the lanes by the rest."""
    found = head[0] + head[1] * base + sum([weight * lane for weight, lane in zip(head[2:], lanes, strict=True)])
    return max(-_LOG_ODDS_MAX, min(_LOG_ODDS_MAX, found))
