"""The learned classifier: the scorer's prediction and session signals. Pure.

The scorer sees prompts, not sessions. Signals of the session shift its log-odds by weights set by hand; labels of own
traffic correct its gain (`ScorerCorrection`).
"""

import math
from collections.abc import Sequence

from ...values.plan import RequestFeatures
from ...values.quality import ScorerCorrection
from ..scorer import Prediction
from . import transparent

# Signals of the transparent classifier that a prompt alone does not show. Routine words are among them because public
# benchmarks lack greetings and chores.
_SESSION_SIGNALS = frozenset({"long-input", "many-tools", "failed-tools", "long-session", "images", "routine-words"})
# Name of the shift learned from own traffic.
OWN_TRAFFIC = "own-traffic"
# Log-odds are clamped to this.
_LOG_ODDS_MAX = 12.0


def log_odds(features: RequestFeatures, scored: Prediction, own: float | None) -> tuple[float, list[tuple[str, float]]]:
    """(log-odds that the small tier does not suffice, named shifts to add).

    own: log-odds by the correction learned from own traffic, None without one
    """
    base = math.log(scored.small_insufficient / (1 - scored.small_insufficient))
    shifts = [shift for shift in transparent.log_odds(features)[1] if shift[0] in _SESSION_SIGNALS]
    if own is not None:
        shifts.append((OWN_TRAFFIC, own - base))
    return base, shifts


def corrected_log_odds(
    head: ScorerCorrection, gain: float, standardized: Sequence[float], words: frozenset[str]
) -> float:
    """Log-odds that the small tier does not suffice, corrected by own traffic."""
    slope, offset = head.need
    odds = slope * corrected_gain(head, gain, standardized, words) + offset
    return max(-_LOG_ODDS_MAX, min(_LOG_ODDS_MAX, odds))


def corrected_gain(head: ScorerCorrection, gain: float, standardized: Sequence[float], words: frozenset[str]) -> float:
    """The scorer's gain, corrected; `standardized` are the prompt's features."""
    corrected = head.offset + head.slope * gain
    if head.numbers:
        corrected += sum([weight * value for weight, value in zip(head.numbers, standardized, strict=True)])
    if head.words:
        corrected += sum([head.words[word] for word in sorted(head.words.keys() & words)])
    return corrected
