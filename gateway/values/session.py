"""Sessions as operators see them: how the loop guard climbs its ladder, what stops a run, what a run may take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .base import Value

# The ladder, lowest step first; what comes before the first is only observed.
LADDER_STEPS = ("warn", "nudge", "tier", "answer", "hold", "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopThresholds:
    """The scores at which each step is taken, None for never; see sessions/loops.py for what a score is.

    `enforce` False only observes; so does a share of the sessions (`holdout`, in [0, 1]), beside which the benefit is
    measured. `move` says whether `tier` escalates to a more capable tier or downgrades to a cheaper one. `stop_mode`:
    `error`, or `answer` for a last answer in the model's place. `hold_seconds`: so long a held request waits for a
    human. `statuses` maps a word of the User-Agent to the HTTP status of a stop, where the dialect's own will not do.
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
    """Other limits for a route, a task type, or a task type on a route; None stands for any."""

    route: str | None
    task_type: str | None
    thresholds: LoopThresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopPolicy:
    """The limits that apply: those of the first rule that fits, else the default. `approval` says where a link
    is told that lets a person resume a session: `everywhere`, in the `webhook` only, or nowhere (`none`)."""

    default: LoopThresholds = LoopThresholds()
    rules: tuple[LoopRule, ...] = ()
    approval_link: str = "everywhere"

    def limits_for(self, route: str, task_type: str) -> LoopThresholds:
        """What applies to a request."""
        for rule in self.rules:
            if rule.route in (None, route) and rule.task_type in (None, task_type):
                return rule.thresholds
        return self.default


class SessionEvent(Value, frozen=True, kw_only=True):
    """Something happened to a session that somebody may want to know: a step of the ladder, what an operator did.

    `kind` is one of EVENT_KINDS; `at` in seconds since the epoch; `acted` False where it was only observed; `details`
    are the evidence, or what was set.
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
    """Why a session is not served. `id` is what an approval is for; `at` in seconds since the epoch.

    `code` is loop_stopped, loop_held or session_killed; `details` are the evidence.
    """

    id: str
    stopped_at: float
    code: str
    message: str
    details: Mapping[str, Any]
