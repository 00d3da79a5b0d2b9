"""Sessions as operators see them: loop thresholds, ladder, events and stops."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .base import Value

# The ladder, lowest step first; below the first step a session is only observed.
LADDER_STEPS = ("warn", "nudge", "tier", "answer", "hold", "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopThresholds:
    """Loop scores at which each step of the ladder is taken; None: never.

    sessions/loop_guard.py defines the score.

    warn, nudge, tier, answer, hold, stop: the score of each step
    enforce: False only observes
    holdout: share of sessions that are only observed, to measure the benefit, in [0, 1]
    move: what the step `tier` does: "escalate" to a more capable tier, "downgrade" to a cheaper one
    stop_mode: "error", or "answer" for a final answer in the model's place
    hold_seconds: how long a held request waits for a human's approval
    statuses: word of the User-Agent -> HTTP status of a stop, where the dialect's own does not stop that client
    """

    warn: float | None = 3.0
    nudge: float | None = 4.0
    tier: float | None = None
    answer: float | None = None
    hold: float | None = None
    stop: float | None = 8.0
    enforce: bool = True
    holdout: float = 0.0
    move: str = "escalate"
    stop_mode: str = "error"
    hold_seconds: float = 0.0
    statuses: Mapping[str, int] = field(default_factory=dict)

    def threshold_of(self, step: str) -> float | None:
        """The score of a step."""
        score: float | None = getattr(self, step)
        return score


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRule:
    """Thresholds for a route and a task type; None matches any."""

    route: str | None
    task_type: str | None
    thresholds: LoopThresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopPolicy:
    """Loop thresholds: those of the first matching rule, else the default.

    approval_link: where the link that resumes a session is sent: `everywhere`, only in the `webhook`, or `none`
    """

    default: LoopThresholds = LoopThresholds()
    rules: tuple[LoopRule, ...] = ()
    approval_link: str = "everywhere"

    def limits_for(self, route: str, task_type: str) -> LoopThresholds:
        """The thresholds for a request."""
        for rule in self.rules:
            if rule.route in (None, route) and rule.task_type in (None, task_type):
                return rule.thresholds
        return self.default


class SessionEvent(Value, frozen=True, kw_only=True):
    """Something that happened to a session: a ladder step, an operator's action.

    kind: one of SESSION_EVENT_KINDS
    at: seconds since the epoch
    was_enforced: False where it was only observed
    details: the evidence, or what was set
    """

    id: str
    kind: str
    at: float
    org: str
    key: str
    session: str
    was_enforced: bool
    details: Mapping[str, Any]


SESSION_EVENT_KINDS = (
    "loop_warn", "loop_nudge", "loop_tier", "loop_answer", "loop_hold", "loop_stop", "session_caps", "session_resumed",
    "session_exempted", "session_killed", "session_labelled", "session_outcome", "session_feedback",
)  # fmt: skip


class SessionStop(Value, frozen=True, kw_only=True):
    """Why a session is not served.

    id: what an approval refers to
    stopped_at: seconds since the epoch
    code: loop_stopped, loop_approval_required or session_killed
    details: the evidence
    """

    id: str
    stopped_at: float
    code: str
    message: str
    details: Mapping[str, Any]
