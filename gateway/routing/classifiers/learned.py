"""The learned classifier: the scorer's calibrated opinion of a prompt, and what only a gateway sees. Pure.

The scorer knows prompts and nothing of sessions. Signals of the session move its log-odds by weights set by hand; labels
of own traffic correct its gain (`Head`).
"""

import math
from collections.abc import Sequence

from ...values.plan import Facts
from ...values.quality import Head
from ..scorer import Scored
from . import transparent

# The transparent classifier's signals that say something which a prompt alone does not.
# Greetings and chores are what public benchmarks lack.
_OF_SESSIONS = frozenset({"long-input", "many-tools", "failed-tools", "long-session", "images", "routine-words"})
# What own traffic moves it by is called this.
OWN = "own-traffic"
# Log-odds beyond this are certainty enough.
_LOG_ODDS_MAX = 12.0


def log_odds(facts: Facts, scored: Scored, own: float | None) -> tuple[float, list[tuple[str, float]]]:
    """The scorer's log-odds that the small tier does not suffice, and each move's name with what it moves them by; `own`
    are the log-odds by what own traffic has taught, None where it has taught nothing."""
    base = math.log(scored.need / (1 - scored.need))
    moves = [move for move in transparent.log_odds(facts)[1] if move[0] in _OF_SESSIONS]
    if own is not None:
        moves.append((OWN, own - base))
    return base, moves


def own_log_odds(head: Head, gain: float, placed: Sequence[float], words: frozenset[str]) -> float:
    """The log-odds that the small tier does not suffice, corrected for one kind of traffic."""
    slope, offset = head.need
    found = slope * corrected(head, gain, placed, words) + offset
    return max(-_LOG_ODDS_MAX, min(_LOG_ODDS_MAX, found))


def corrected(head: Head, gain: float, placed: Sequence[float], words: frozenset[str]) -> float:
    """The scorer's gain by what own traffic has taught; `placed` are the standardised numbers of the prompt."""
    found = head.offset + head.slope * gain
    if head.numbers:
        found += sum([weight * value for weight, value in zip(head.numbers, placed, strict=True)])
    if head.words:
        found += sum([head.words[word] for word in sorted(head.words.keys() & words)])
    return found
