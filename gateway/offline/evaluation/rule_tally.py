"""The tally of one rule over many sessions: false alarms, loops found, savings.

A stop refuses a request. In a loop whose first looping call is `onset`, a stop at request k > onset came after k -
onset paid calls; one at or before the onset is premature, counts as "before onset" and finds nothing.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from .clopper_pearson import clopper_pearson
from .published_rules import Level
from .recordings import Recording
from .replay import RuleLevels
from .session_spend import Spend, total_spend


class LoopClassCounts(msgspec.Struct):
    """Loops of one class, and how many of them were stopped and nudged."""

    loops: int = 0
    stopped: int = 0
    nudged: int = 0


class RuleTally(msgspec.Struct):
    """Counts over sessions.

    A nudge counts wherever the rule reached that level or a higher one. Wasted calls and shares only count loops with a
    known onset.

    completed: sessions that ended by themselves without solving the task
    unknown: sessions without a counted label
    spent, after_onset: usage of loops in total, and after their onset
    saved, saved_after_onset: usage that stops avoided in total, and of loops with a known onset
    """

    healthy: int = 0
    healthy_calls: int = 0
    false_stops: int = 0
    false_nudges: int = 0
    completed: int = 0
    completed_stopped: int = 0
    completed_nudged: int = 0
    unknown: int = 0
    unknown_stopped: int = 0
    classes: dict[str, LoopClassCounts] = {}
    stops_before_onset: int = 0
    nudges_before_onset: int = 0
    wasted_calls_to_stop: list[int] = []
    wasted_calls_to_nudge: list[int] = []
    spent: Spend = Spend()
    after_onset: Spend = Spend()
    saved_after_onset: Spend = Spend()
    saved: Spend = Spend()

    def add(self, recording: Recording, levels: RuleLevels, spends: Sequence[Spend]) -> None:
        """Add one session; `spends` are those of its calls, read for loops only."""
        stopped = levels.first_reaching(Level.stop) is not None
        nudged = levels.first_reaching(Level.nudge) is not None
        if recording.label == "healthy":
            self.healthy += 1
            self.healthy_calls += len(recording.answer_positions)
            self.false_stops += stopped
            self.false_nudges += nudged
        elif recording.label == "completed":
            self.completed += 1
            self.completed_stopped += stopped
            self.completed_nudged += nudged
        elif recording.label == "loop":
            self._add_loop(recording, levels, spends)
        else:
            self.unknown += 1
            self.unknown_stopped += stopped

    def _add_loop(self, recording: Recording, levels: RuleLevels, spends: Sequence[Spend]) -> None:
        onset = recording.onset
        onset_or_start = -1 if onset is None else onset
        counts = self.classes.setdefault(recording.loop_class or "any", LoopClassCounts())
        counts.loops += 1
        stop, nudge = (
            levels.first_reaching(Level.stop, onset_or_start),
            levels.first_reaching(Level.nudge, onset_or_start),
        )
        counts.stopped += stop is not None
        counts.nudged += nudge is not None
        self.stops_before_onset += stop is None and levels.first_reaching(Level.stop) is not None
        first_nudge = levels.first_reaching(Level.nudge)
        self.nudges_before_onset += first_nudge is not None and first_nudge <= onset_or_start
        saved = total_spend(spends[stop:]) if stop is not None else Spend()
        self.saved = self.saved + saved
        self.spent = self.spent + total_spend(spends)
        if onset is None:
            return
        self.after_onset = self.after_onset + total_spend(spends[onset:])
        self.saved_after_onset = self.saved_after_onset + saved
        if stop is not None:
            self.wasted_calls_to_stop.append(stop - onset)
        if nudge is not None:
            self.wasted_calls_to_nudge.append(nudge - onset)

    @property
    def loops(self) -> int:
        """Loop sessions."""
        return sum(counts.loops for counts in self.classes.values())

    @property
    def loops_stopped(self) -> int:
        """Loop sessions stopped after their onset."""
        return sum(counts.stopped for counts in self.classes.values())

    @property
    def loops_nudged(self) -> int:
        """Loop sessions nudged, or stopped, after their onset."""
        return sum(counts.nudged for counts in self.classes.values())

    def document(self) -> dict[str, Any]:
        """For JSON; shares are None without a total."""
        saved, after_onset = self.saved_after_onset, self.after_onset
        return {
            "healthy": self.healthy,
            "false_stops": self.false_stops,
            "false_nudges": self.false_nudges,
            "loops": self.loops,
            "loops_stopped": self.loops_stopped,
            "loops_nudged": self.loops_nudged,
            "wasted_calls_median": median(self.wasted_calls_to_stop),
            "spend_saved_usd": round(self.saved.usd, 4),
            "healthy_calls": self.healthy_calls,
            "false_stop_rate_ci95": clopper_pearson(self.false_stops, self.healthy),
            "false_nudge_rate_ci95": clopper_pearson(self.false_nudges, self.healthy),
            "false_stops_per_1000_calls": per_thousand(self.false_stops, self.healthy_calls),
            "false_nudges_per_1000_calls": per_thousand(self.false_nudges, self.healthy_calls),
            "completed": self.completed,
            "completed_stopped": self.completed_stopped,
            "completed_nudged": self.completed_nudged,
            "unknown": self.unknown,
            "unknown_stopped": self.unknown_stopped,
            "recall_stop_ci95": clopper_pearson(self.loops_stopped, self.loops),
            "recall_nudge_ci95": clopper_pearson(self.loops_nudged, self.loops),
            "by_class": {name: msgspec.to_builtins(counts) for name, counts in sorted(self.classes.items())},
            "stops_before_onset": self.stops_before_onset,
            "nudges_before_onset": self.nudges_before_onset,
            "wasted_calls_p90": p90(self.wasted_calls_to_stop),
            "wasted_calls_to_nudge_median": median(self.wasted_calls_to_nudge),
            "wasted_calls_to_nudge_p90": p90(self.wasted_calls_to_nudge),
            "loops_spent_usd": round(self.spent.usd, 4),
            "after_onset_usd": round(after_onset.usd, 4),
            "saved_share_calls": share(saved.call_count, after_onset.call_count),
            "saved_share_tokens": share(saved.tokens, after_onset.tokens),
            "saved_share_usd": share(saved.usd, after_onset.usd),
            "saved_share_wh": share(saved.wh, after_onset.wh),
            "wh_saved": round(self.saved.wh, 4),
        }


def median(values: Sequence[int]) -> float | None:
    """The median; None without values."""
    return float(statistics.median(values)) if values else None


def p90(values: Sequence[int]) -> int | None:
    """The smallest value that nine in ten do not exceed."""
    return sorted(values)[math.ceil(0.9 * len(values)) - 1] if values else None


def share(part: float, whole: float) -> float | None:
    """Part of the whole, four digits; None without a whole."""
    return round(part / whole, 4) if whole else None


def per_thousand(count: int, calls: int) -> float | None:
    """The count per 1,000 calls; None without calls."""
    return round(1000 * count / calls, 4) if calls else None
