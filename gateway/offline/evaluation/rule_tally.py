"""The tally of one rule over many sessions: what it did to the healthy ones, how many loops it found, what that saved.

A stop refuses a request. In a loop whose first looping call is `onset`, a stop at request k > onset came after
k - onset paid calls; one at or before the onset could not have known, counts as "before onset" and finds nothing.
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
    """Counts, added to session by session. `onsets` are loops whose onset is known; only those have wasted calls and
    shares. A nudge counts wherever the rule stood on that level or above it."""

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

    def add(self, recording: Recording, classification: RuleLevels, spends: Sequence[Spend]) -> None:
        """Enter one session; `spends` are its calls' and are read for loops only."""
        stopped = classification.first_reaching(Level.stop) is not None
        nudged = classification.first_reaching(Level.nudge) is not None
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
            self._add_loop(recording, classification, spends)
        else:
            self.unknown += 1
            self.unknown_stopped += stopped

    def _add_loop(self, recording: Recording, classification: RuleLevels, spends: Sequence[Spend]) -> None:
        onset = recording.onset
        known = -1 if onset is None else onset
        found = self.classes.setdefault(recording.loop_class or "any", LoopClassCounts())
        found.loops += 1
        stop, nudge = (
            classification.first_reaching(Level.stop, known),
            classification.first_reaching(Level.nudge, known),
        )
        found.stopped += stop is not None
        found.nudged += nudge is not None
        self.stops_before_onset += stop is None and classification.first_reaching(Level.stop) is not None
        early = classification.first_reaching(Level.nudge)
        self.nudges_before_onset += early is not None and early <= known
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
        return sum(found.loops for found in self.classes.values())

    @property
    def loops_stopped(self) -> int:
        """Loop sessions stopped after their onset."""
        return sum(found.stopped for found in self.classes.values())

    @property
    def loops_nudged(self) -> int:
        """Loop sessions nudged, or stopped, after their onset."""
        return sum(found.nudged for found in self.classes.values())

    def document(self) -> dict[str, Any]:
        """The figures for a JSON file; shares are None where there is nothing to share."""
        saved, after = self.saved_after_onset, self.after_onset
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
            "by_class": {name: msgspec.to_builtins(found) for name, found in sorted(self.classes.items())},
            "stops_before_onset": self.stops_before_onset,
            "nudges_before_onset": self.nudges_before_onset,
            "wasted_calls_p90": p90(self.wasted_calls_to_stop),
            "wasted_calls_to_nudge_median": median(self.wasted_calls_to_nudge),
            "wasted_calls_to_nudge_p90": p90(self.wasted_calls_to_nudge),
            "loops_spent_usd": round(self.spent.usd, 4),
            "after_onset_usd": round(after.usd, 4),
            "saved_share_calls": share(saved.call_count, after.call_count),
            "saved_share_tokens": share(saved.tokens, after.tokens),
            "saved_share_usd": share(saved.usd, after.usd),
            "saved_share_wh": share(saved.wh, after.wh),
            "wh_saved": round(self.saved.wh, 4),
        }


def median(values: Sequence[int]) -> float | None:
    """The middle one, or halfway between the two."""
    return float(statistics.median(values)) if values else None


def p90(values: Sequence[int]) -> int | None:
    """The smallest value that nine in ten do not exceed."""
    return sorted(values)[math.ceil(0.9 * len(values)) - 1] if values else None


def share(part: float, whole: float) -> float | None:
    """Part of the whole, four digits."""
    return round(part / whole, 4) if whole else None


def per_thousand(count: int, calls: int) -> float | None:
    """So many for each 1,000 calls."""
    return round(1000 * count / calls, 4) if calls else None
