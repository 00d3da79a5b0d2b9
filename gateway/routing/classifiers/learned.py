"""The learned classifier: the scorer's calibrated opinion of a prompt, and what only a gateway sees. Pure.

The scorer knows prompts and nothing of sessions. Signals of the session move its log-odds by weights set by hand; labels
of own traffic correct its gain (`Head`).
"""

import math
from collections.abc import Sequence

from ...values.plan import RequestFeatures
from ...values.quality import ScorerCorrection
from ..scorer import Prediction
from . import transparent

# The transparent classifier's signals that say something which a prompt alone does not.
# Greetings and chores are what public benchmarks lack.
_SESSION_SIGNALS = frozenset({"long-input", "many-tools", "failed-tools", "long-session", "images", "routine-words"})
# What own traffic moves it by is called this.
OWN_TRAFFIC = "own-traffic"
# Log-odds beyond this are certainty enough.
_LOG_ODDS_MAX = 12.0


def log_odds(features: RequestFeatures, scored: Prediction, own: float | None) -> tuple[float, list[tuple[str, float]]]:
    """The scorer's log-odds that the small tier does not suffice, and each move's name with what it moves them by; `own`
    are the log-odds by what own traffic has taught, None where it has taught nothing."""
    base = math.log(scored.small_insufficient / (1 - scored.small_insufficient))
    moves = [move for move in transparent.log_odds(features)[1] if move[0] in _SESSION_SIGNALS]
    if own is not None:
        moves.append((OWN_TRAFFIC, own - base))
    return base, moves


def corrected_log_odds(head: ScorerCorrection, gain: float, placed: Sequence[float], words: frozenset[str]) -> float:
    """The log-odds that the small tier does not suffice, corrected for one kind of traffic."""
    slope, offset = head.need
    found = slope * corrected_gain(head, gain, placed, words) + offset
    return max(-_LOG_ODDS_MAX, min(_LOG_ODDS_MAX, found))


def corrected_gain(head: ScorerCorrection, gain: float, placed: Sequence[float], words: frozenset[str]) -> float:
    """The scorer's gain by what own traffic has taught; `placed` are the standardised numbers of the prompt."""
    found = head.offset + head.slope * gain
    if head.numbers:
        found += sum([weight * value for weight, value in zip(head.numbers, placed, strict=True)])
    if head.words:
        found += sum([head.words[word] for word in sorted(head.words.keys() & words)])
    return found
