"""What is learnt from own traffic: labels are collected, floors are watched, and what was fitted is published.

Labels come from shadow calls that a judge grades (shadowing.py), from what callers report, and from what the next turn
shows of a call. Built by app.py.
"""

import asyncio
import logging
import sqlite3
from array import array
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from ..pipeline.context import AttemptProgress, RequestContext
from ..pipeline.pipeline import Pipeline
from ..routing import tool_result_labels
from ..routing.quality_floor import QualityLabel
from ..routing.scorer import Scorer
from ..routing.tier_target import TierTargets, group_of
from ..stores.labels_sqlite import LEARNED_FILE, SqliteLabels, StoredLabel, read_learned
from ..values.base import Value
from ..values.catalog import Deployment
from ..values.ledger_entry import LedgerEntry
from ..values.metric import MetricFamily, counter, gauge
from ..values.quality import SHADOW_KEY, LabelGroup, LearnedFloors
from ..values.request import Request
from ..values.session import SessionEvent
from ..values.snapshot import Snapshot
from .shadow_calls import ShadowFailure, repeatable_request, run_shadow_call
from .supervisor import Supervisor

log = logging.getLogger(__name__)

# Shadows under way or waiting, each with the body of its request; more are not taken.
_SHADOW_CALLS_MAX = 16
# Agents make a call a second: of what their next turns show this share is kept.
_CHECK_SAMPLE_SHARE = 0.05
# Labels that wait to be written.
_PENDING_LABELS_MAX = 5_000
_WRITE_SECONDS, _POLL_SECONDS = 2.0, 5.0
# The newest calls of a session, which a later outcome is credited to, and sessions; a call is about 1 kB.
_RECENT_CALLS_MAX, _SESSIONS_MAX = 16, 5_000


class _RecentCall(Value, frozen=True, kw_only=True):
    """One call of an auto route: its label without a grade, and whether a model of the lowest or of the highest tier
    answered (neither: one between them)."""

    label: StoredLabel
    answered_by_lowest: bool
    answered_by_highest: bool
    deployment: str


class QualityService:
    """Labels and floors of one process. `publish` gives the house what was learnt; `refit` fits anew (in a process of its
    own); `warn` tells people. `shadows` are under way now."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        folder: Path,
        supervisor: Supervisor,
        now: Callable[[], float],
        jitter: Callable[[], float],
        publish: Callable[[LearnedFloors], None],
        scorer: Scorer,
        refit: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._snapshot, self._folder = snapshot, folder
        self._supervisor = supervisor
        self._now, self._jitter = now, jitter
        self._publish, self._refit = publish, refit
        self._scorer = scorer
        self._tier_targets = TierTargets()
        self._send_alert: Callable[[Mapping[str, Any]], None] = _ignore_alert
        self._pending_labels: list[StoredLabel] = []
        self._pending_resets: list[tuple[LabelGroup, int]] = []
        self._recent_calls: OrderedDict[tuple[str, str], deque[_RecentCall]] = OrderedDict()
        self._learned_mtime_ns: int | None = None
        self._tool_check_sums: dict[tuple[str, str], list[float]] = {}
        self._refit_at, self._judged_at_refit = now(), 0
        self.open_shadow_calls = 0
        self.label_counts: dict[str, int] = {}

    def start(self, pipeline: Pipeline, warn: Callable[[Mapping[str, Any]], None]) -> None:
        """Begin to learn; publishes what is known already. What cannot be read is said, and nothing is learnt from it."""
        self._pipeline, self._tier_targets, self._send_alert = pipeline, pipeline.router.tier_targets, warn
        self._label_store = SqliteLabels(self._folder, self._snapshot().learning.labels_max)
        try:
            self._label_store.create()
            self.reload_fitted()
        except (sqlite3.Error, OSError, ValueError) as error:
            log.error("what was learnt cannot be read, so nothing is: %s", error)
        self._supervisor.run_every(_WRITE_SECONDS, "labels", self.flush)
        self._supervisor.run_every(_POLL_SECONDS, "learnt", self._poll_fitted)

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """A call has ended, in whatever way; waits for nobody."""
        if (
            context.target is None
            or entry.outcome != "completed"
            or context.caller.key == SHADOW_KEY
            or not entry.final
        ):
            return
        route = context.route
        if len(route.tiers) < 2:
            return
        key = (context.caller.key, context.session.id)
        recent = self._recent_calls.get(key)
        if recent is None:
            recent = self._recent_calls[key] = deque(maxlen=_RECENT_CALLS_MAX)
            if len(self._recent_calls) > _SESSIONS_MAX:
                self._recent_calls.popitem(last=False)
        else:
            self._recent_calls.move_to_end(key)
            fared = tool_result_labels.tool_success_share(context.request.messages)
            if fared is not None:
                self._record_tool_check(recent[-1], fared)
        tier = progress.attempt.deployment.tier
        one = _RecentCall(
            label=self._ungraded_label(context),
            answered_by_lowest=tier == route.lowest_tier,
            answered_by_highest=tier == route.reference.tier,
            deployment=entry.deployment,
        )
        recent.append(one)
        shadow = context.snapshot.learning.shadow_sampling
        if shadow.share and self._jitter() < shadow.share:
            self._start_shadow_call(context, one.label)

    def session_reported(self, event: SessionEvent) -> None:
        """A caller tells how its session went."""
        quality = event.details.get("quality")
        if not isinstance(quality, int | float):
            return
        only = event.details.get("request_id")
        how = "outcome" if event.kind == "session_outcome" else "feedback"
        for one in self._recent_calls.get((event.key, event.session), ()):
            if only is None or one.label.id == only:
                self._queue_one_sided_label(one, float(quality), how, event.id)

    def drift_reason(self, group: LabelGroup) -> str:
        """Why a floor that was fitted is not trusted any more, "" while it is."""
        return self._tier_targets.drift.reason(group)

    def metrics(self) -> Iterator[MetricFamily]:
        """Metrics of labels, tier targets and quality floors, read at a scrape."""
        yield counter(
            "penstock_quality_labels_total",
            "Quality labels collected, by source.",
            [([source], count) for source, count in self.label_counts.items()],
            ("source",),
        )
        yield counter(
            "penstock_routing_decisions_total",
            "Tier decisions of auto routes by basis: ceiling, floor, fallback, share, role.",
            self._tier_targets.counts_by_basis.items(),
            ("task_type", "basis"),
        )
        for index, (name, text) in enumerate(_TOOL_CHECK_METRICS):
            checks = [(names, sums[index]) for names, sums in self._tool_check_sums.items()]
            yield counter(name, text, checks, ("task_type", "deployment"))
        floors = list(self._floor_states())
        labels = ("org", "task_type", "small", "frontier")
        yield gauge(
            "penstock_quality_floor_active",
            "1 while labels support the quality floor; otherwise the reason why not.",
            [((*group, reason), not reason) for group, reason, _ in floors],
            (*labels, "reason"),
        )
        yield gauge(
            "penstock_quality_floor_labels",
            "Labels behind each quality floor.",
            [(group, count) for group, _, count in floors],
            labels,
        )

    def _floor_states(self) -> Iterator[tuple[LabelGroup, str, int]]:
        """(group, why its floor is not held, labels) of every group that was fitted."""
        snapshot = self._snapshot()
        for group, fitted in snapshot.learned_floors.floors.items():
            asked = snapshot.quality_policy.for_task_type(group[1])
            if asked.keep is None:
                continue
            drifted = self.drift_reason(group)
            if drifted:
                why = f"drift_{drifted}"
            elif snapshot.learned_floors.scorer != self._scorer.name:
                why = "other_scorer"
            else:
                why = "" if self._tier_targets.trusts_floor(group, fitted, asked) else "too_few_labels"
            yield group, why, fitted.labels

    def _ungraded_label(self, context: RequestContext) -> StoredLabel:
        """What a label of this call would be; what was read of its prompt only where something is learnt from it."""
        classification, snapshot = context.classification, context.snapshot
        org, task_type, small, large = group_of(context.caller.org, classification.task_type, context.route)
        label = StoredLabel(
            id=context.request_id,
            at_ms=int(context.started_at * 1000),
            org=org,
            task_type=task_type,
            small_model=small,
            large_model=large,
            score=classification.complexity,
            moved=classification.log_odds_shift,
            opens=int(context.session.call_count <= 1),
            small=None,
            large=None,
            how="",
            scorer=classification.scorer,
        )
        read = classification.features
        if read is None or not (snapshot.learning.shadow_sampling.share or snapshot.quality_policy.has_floor):
            return label
        places = self._scorer.word_indices(read.words)
        return structs.replace(
            label,
            numbers=array("f", read.dense).tobytes(),
            words=array("I", places).tobytes(),
            known=len(places) / max(1, len(read.words)),
        )

    def _record_tool_check(self, one: _RecentCall, fared: float) -> None:
        """How a call fared: every one is counted, a sample of them is kept."""
        seen = self._tool_check_sums.setdefault((one.label.task_type, one.deployment), [0.0, 0.0])
        seen[0] += 1
        seen[1] += fared
        if self._jitter() < _CHECK_SAMPLE_SHARE:
            self._queue_one_sided_label(one, fared, "check", "")

    def _queue_one_sided_label(self, one: _RecentCall, quality: float, how: str, by: str) -> None:
        """A quality that was seen on one side only."""
        if one.answered_by_lowest or one.answered_by_highest:
            name = f"{one.label.id}.{how}.{by}" if by else f"{one.label.id}.{how}"
            small, large = (quality if one.answered_by_lowest else None), (quality if one.answered_by_highest else None)
            self._queue_label(structs.replace(one.label, id=name, small=small, large=large, how=how))

    def _queue_label(self, label: StoredLabel) -> None:
        if len(self._pending_labels) >= _PENDING_LABELS_MAX:
            self._increment("dropped")
            return
        self._increment(label.how)
        self._pending_labels.append(label)

    def _increment(self, what: str) -> None:
        self.label_counts[what] = self.label_counts.get(what, 0) + 1

    def _start_shadow_call(self, context: RequestContext, label: StoredLabel) -> None:
        request = repeatable_request(context) if self.open_shadow_calls < _SHADOW_CALLS_MAX else None
        if request is None:
            return
        self.open_shadow_calls += 1
        self._supervisor.spawn("shadow", self._run_shadow_call(context, request, label), self._log_shadow_failure)

    def _log_shadow_failure(self, error: BaseException) -> None:
        log.error("a shadow call failed: %s", type(error).__name__)

    async def _run_shadow_call(self, context: RequestContext, request: Request, label: StoredLabel) -> None:
        """Ask both tiers once more, have their answers graded, and see whether the floor still holds."""
        try:
            low, high = self._draw_deployment(context, lowest=True), self._draw_deployment(context, lowest=False)
            found = await run_shadow_call(self._pipeline, context, request, low, high)
        finally:
            self.open_shadow_calls -= 1
        if isinstance(found, ShadowFailure):
            self._increment(found.reason)
            return
        content = found.content.decode() if context.snapshot.learning.keep_content else None
        self._queue_label(
            structs.replace(
                label, id=f"{label.id}.judge", small=found.small, large=found.large, how="judge", content=content
            )
        )
        self._check_drift(label, found.small, found.large)

    def _draw_deployment(self, context: RequestContext, *, lowest: bool) -> Deployment:
        """One of the deployments of the lowest, or of the highest tier."""
        tier = context.route.lowest_tier if lowest else context.route.reference.tier
        found = [one for one in context.route.candidates if one.tier == tier]
        return found[int(self._jitter() * len(found))]

    def _check_drift(self, label: StoredLabel, small: float, large: float) -> None:
        """Does the floor still hold? What has drifted falls back until it is fitted anew."""
        snapshot, group = self._snapshot(), label.group
        fitted, asked = (
            snapshot.learned_floors.floors.get(group),
            snapshot.quality_policy.for_task_type(label.task_type),
        )
        if (
            fitted is None
            or fitted.ceiling is None
            or asked.keep is None
            or label.scorer != snapshot.learned_floors.scorer
        ):
            return
        seen = QualityLabel(score=label.score, small=small, large=large)
        if self._tier_targets.drift.record_label(group, seen, fitted.ceiling, asked.keep, now=self._now()):
            self._report_drift(group, "quality")

    def _report_drift(self, group: LabelGroup, why: str) -> None:
        org, task_type, small, large = group
        self._pending_resets.append((group, int(self._now() * 1000)))
        log.warning("the floor of '%s' (%s for %s) no longer holds: %s; falling back", task_type, small, large, why)
        self._send_alert(
            {
                "kind": "quality_drift", "at": self._now(), "org": org, "task_type": task_type, "small": small,
                "frontier": large, "reason": why,
            }
        )  # fmt: skip

    async def flush(self) -> None:
        """Write down the labels and the drifts that wait."""
        waiting, self._pending_labels = self._pending_labels, []
        resets, self._pending_resets = self._pending_resets, []
        if not waiting and not resets:
            return
        try:
            await asyncio.to_thread(self._write_pending, waiting, resets)
        except sqlite3.Error as error:
            log.error("%d labels and %d drifts wait to be written down: %s", len(waiting), len(resets), error)
            self._pending_resets = resets + self._pending_resets
            self._pending_labels = (waiting + self._pending_labels)[-_PENDING_LABELS_MAX:]

    def _write_pending(self, labels: list[StoredLabel], resets: list[tuple[LabelGroup, int]]) -> None:
        for group, at_ms in resets:
            self._label_store.reset(group, at_ms)
        self._label_store.add(labels)

    async def _poll_fitted(self) -> None:
        for group in self._tier_targets.drift.take_mix_alarms():
            self._report_drift(group, "mix")
        # A drift is written down before anything is fitted: else labels of before it would carry the next claim.
        await self.flush()
        try:
            self.reload_fitted()
        except (sqlite3.Error, OSError, ValueError) as error:
            log.error("what was learnt cannot be read, so nothing changes: %s", error)
        every, judged = self._snapshot().learning.refit_seconds, self.label_counts.get("judge", 0)
        if self._refit is None or every is None or judged == self._judged_at_refit or self._pending_resets:
            return
        if self._now() - self._refit_at >= every:
            self._refit_at, self._judged_at_refit = self._now(), judged
            await self._refit()

    def reload_fitted(self) -> None:
        """Publish what was fitted since the last look; what has drifted since it was fitted is left out. Raises
        sqlite3.Error, OSError and ValueError."""
        path = self._folder / LEARNED_FILE
        stamp = path.stat().st_mtime_ns if path.exists() else None
        if stamp is None or stamp == self._learned_mtime_ns:
            return
        learnt = read_learned(self._folder)
        assert learnt is not None, "it is there"
        resets = self._label_store.resets()
        holding = {
            group: fitted for group, fitted in learnt.floors.items() if resets.get(group, 0) < learnt.fitted_at * 1000
        }
        self._learned_mtime_ns = stamp
        for group, fitted in holding.items():
            self._tier_targets.drift.record_fit(
                group, fitted.edges, fitted.shares, labels=fitted.watched, at=learnt.fitted_at
            )
        self._publish(LearnedFloors(scorer=learnt.scorer, fitted_at=learnt.fitted_at, floors=holding))
        log.info("learnt: %d floors, fitted at %.0f", len(holding), learnt.fitted_at)


_TOOL_CHECK_METRICS = (
    ("penstock_tool_calls_checked_total", "Tool calls whose result the next turn showed."),
    ("penstock_tool_calls_accepted_total", "Tool calls whose result was a success."),
)


def _ignore_alert(event: Mapping[str, Any]) -> None:
    """Before the start nobody listens."""
