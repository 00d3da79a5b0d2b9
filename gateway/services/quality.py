"""Quality labels and floors: collects labels, monitors drift of fitted floors, and publishes new fits.

Labels come from shadow calls that a judge grades (shadow_calls.py), from callers' reports, and from tool results in the
next turn of a conversation.
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

# Shadow calls in flight, each with the body of its request; beyond that requests are not sampled.
_SHADOW_CALLS_MAX = 16
# Share of tool checks stored as labels: agents make about one call a second.
_CHECK_SAMPLE_SHARE = 0.05
_PENDING_LABELS_MAX = 5_000
_WRITE_SECONDS, _POLL_SECONDS = 2.0, 5.0
# Calls per session that a later report is credited to, and sessions; a call takes about 1 kB.
_RECENT_CALLS_MAX, _SESSIONS_MAX = 16, 5_000


class _RecentCall(Value, frozen=True, kw_only=True):
    """One call of an auto route.

    label: its label without a grade
    answered_by_lowest: whether the lowest tier answered
    answered_by_highest: whether the highest tier answered
    deployment: name of the deployment that answered
    """

    label: StoredLabel
    answered_by_lowest: bool
    answered_by_highest: bool
    deployment: str


class QualityService:
    """Quality labels and floors of one process.

    snapshot: returns the current snapshot
    folder: data folder that holds labels and learned.json
    now: wall clock, seconds since the epoch
    jitter: random number in [0, 1)
    publish: called with newly fitted floors
    scorer: the complexity scorer in use
    refit: fits floors in a separate process, None for fits by the operator only
    """

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

    def start(self, pipeline: Pipeline, send_alert: Callable[[Mapping[str, Any]], None]) -> None:
        """Publish the stored fit and start collecting; a fit that cannot be read is logged and ignored."""
        self._pipeline, self._tier_targets, self._send_alert = pipeline, pipeline.router.tier_targets, send_alert
        self._label_store = SqliteLabels(self._folder, self._snapshot().learning.labels_max)
        try:
            self._label_store.create()
            self.reload_fitted()
        except (sqlite3.Error, OSError, ValueError) as error:
            log.error("learned_floors_unreadable quality_floors=disabled error=%s", error)
        self._supervisor.run_every(_WRITE_SECONDS, "labels", self.flush)
        self._supervisor.run_every(_POLL_SECONDS, "quality-floors", self._poll_fitted)

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """Collect labels from a completed call of an auto route; never blocks."""
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
            success_share = tool_result_labels.tool_success_share(context.request.messages)
            if success_share is not None:
                self._record_tool_check(recent[-1], success_share)
        tier = progress.attempt.deployment.tier
        call = _RecentCall(
            label=self._ungraded_label(context),
            answered_by_lowest=tier == route.lowest_tier,
            answered_by_highest=tier == route.reference.tier,
            deployment=entry.deployment,
        )
        recent.append(call)
        sampling = context.snapshot.learning.shadow_sampling
        if sampling.share and self._jitter() < sampling.share:
            self._start_shadow_call(context, call.label)

    def session_reported(self, event: SessionEvent) -> None:
        """Label the recent calls of a session with the quality that its caller reported."""
        quality = event.details.get("quality")
        if not isinstance(quality, int | float):
            return
        request_id = event.details.get("request_id")
        source = "outcome" if event.kind == "session_outcome" else "feedback"
        for call in self._recent_calls.get((event.key, event.session), ()):
            if request_id is None or call.label.id == request_id:
                self._queue_one_sided_label(call, float(quality), source, event.id)

    def drift_reason(self, group: LabelGroup) -> str:
        """Why a fitted floor has drifted (`quality`, `mix`), "" while it holds."""
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
        """(group, reason why its floor is inactive or "", labels) of every fitted group with a quality target."""
        snapshot = self._snapshot()
        for group, fitted in snapshot.learned_floors.floors.items():
            target = snapshot.quality_policy.for_task_type(group[1])
            if target.keep is None:
                continue
            drift = self.drift_reason(group)
            if drift:
                reason = f"drift_{drift}"
            elif snapshot.learned_floors.scorer != self._scorer.name:
                reason = "other_scorer"
            else:
                reason = "" if self._tier_targets.trusts_floor(group, fitted, target) else "too_few_labels"
            yield group, reason, fitted.labels

    def _ungraded_label(self, context: RequestContext) -> StoredLabel:
        """The label of this call without a grade; includes prompt features only where learning is configured."""
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
            source="",
            scorer=classification.scorer,
        )
        features = classification.features
        if features is None or not (snapshot.learning.shadow_sampling.share or snapshot.quality_policy.has_floor):
            return label
        word_indices = self._scorer.word_indices(features.words)
        return structs.replace(
            label,
            numbers=array("f", features.dense).tobytes(),
            words=array("I", word_indices).tobytes(),
            known=len(word_indices) / max(1, len(features.words)),
        )

    def _record_tool_check(self, call: _RecentCall, success_share: float) -> None:
        """Count the tool results of a call, and store a sample of them as labels."""
        sums = self._tool_check_sums.setdefault((call.label.task_type, call.deployment), [0.0, 0.0])
        sums[0] += 1
        sums[1] += success_share
        if self._jitter() < _CHECK_SAMPLE_SHARE:
            self._queue_one_sided_label(call, success_share, "check", "")

    def _queue_one_sided_label(self, call: _RecentCall, quality: float, source: str, event_id: str) -> None:
        """Queue a label with the quality of one tier only; none for a tier between lowest and highest."""
        if call.answered_by_lowest or call.answered_by_highest:
            label_id = f"{call.label.id}.{source}.{event_id}" if event_id else f"{call.label.id}.{source}"
            small = quality if call.answered_by_lowest else None
            large = quality if call.answered_by_highest else None
            self._queue_label(structs.replace(call.label, id=label_id, small=small, large=large, source=source))

    def _queue_label(self, label: StoredLabel) -> None:
        if len(self._pending_labels) >= _PENDING_LABELS_MAX:
            self._increment("dropped")
            return
        self._increment(label.source)
        self._pending_labels.append(label)

    def _increment(self, source: str) -> None:
        self.label_counts[source] = self.label_counts.get(source, 0) + 1

    def _start_shadow_call(self, context: RequestContext, label: StoredLabel) -> None:
        request = repeatable_request(context) if self.open_shadow_calls < _SHADOW_CALLS_MAX else None
        if request is None:
            return
        self.open_shadow_calls += 1
        self._supervisor.spawn("shadow", self._run_shadow_call(context, request, label), self._log_shadow_failure)

    def _log_shadow_failure(self, error: BaseException) -> None:
        log.error("shadow_call_failed error=%s", type(error).__name__)

    async def _run_shadow_call(self, context: RequestContext, request: Request, label: StoredLabel) -> None:
        """Repeat the request on both tiers, queue the graded label, and check the floor for drift."""
        try:
            low, high = self._draw_deployment(context, lowest=True), self._draw_deployment(context, lowest=False)
            grades = await run_shadow_call(self._pipeline, context, request, low, high)
        finally:
            self.open_shadow_calls -= 1
        if isinstance(grades, ShadowFailure):
            self._increment(grades.reason)
            return
        content = grades.content.decode() if context.snapshot.learning.keep_content else None
        self._queue_label(
            structs.replace(
                label, id=f"{label.id}.judge", small=grades.small, large=grades.large, source="judge", content=content
            )
        )
        self._check_drift(label, grades.small, grades.large)

    def _draw_deployment(self, context: RequestContext, *, lowest: bool) -> Deployment:
        """A random deployment of the route's lowest or highest tier."""
        tier = context.route.lowest_tier if lowest else context.route.reference.tier
        candidates = [deployment for deployment in context.route.candidates if deployment.tier == tier]
        return candidates[int(self._jitter() * len(candidates))]

    def _check_drift(self, label: StoredLabel, small: float, large: float) -> None:
        """Report drift if the graded label shows that the floor no longer holds; it is inactive until the next fit."""
        snapshot, group = self._snapshot(), label.group
        fitted = snapshot.learned_floors.floors.get(group)
        target = snapshot.quality_policy.for_task_type(label.task_type)
        if fitted is None or fitted.ceiling is None or target.keep is None:
            return
        if label.scorer != snapshot.learned_floors.scorer:
            return
        graded = QualityLabel(score=label.score, small=small, large=large)
        if self._tier_targets.drift.record_label(group, graded, fitted.ceiling, target.keep, now=self._now()):
            self._report_drift(group, "quality")

    def _report_drift(self, group: LabelGroup, reason: str) -> None:
        org, task_type, small, large = group
        self._pending_resets.append((group, int(self._now() * 1000)))
        log.warning(
            "quality_floor_drifted task_type=%s small=%s frontier=%s reason=%s", task_type, small, large, reason
        )
        self._send_alert(
            {
                "kind": "quality_drift", "at": self._now(), "org": org, "task_type": task_type, "small": small,
                "frontier": large, "reason": reason,
            }
        )  # fmt: skip

    async def flush(self) -> None:
        """Store pending labels and drifts; they are kept for the next attempt if the store cannot be written."""
        labels, self._pending_labels = self._pending_labels, []
        resets, self._pending_resets = self._pending_resets, []
        if not labels and not resets:
            return
        try:
            await asyncio.to_thread(self._write_pending, labels, resets)
        except sqlite3.Error as error:
            log.error("labels_not_stored labels=%d drifts=%d error=%s", len(labels), len(resets), error)
            self._pending_resets = resets + self._pending_resets
            self._pending_labels = (labels + self._pending_labels)[-_PENDING_LABELS_MAX:]

    def _write_pending(self, labels: list[StoredLabel], resets: list[tuple[LabelGroup, int]]) -> None:
        for group, at_ms in resets:
            self._label_store.reset(group, at_ms)
        self._label_store.add(labels)

    async def _poll_fitted(self) -> None:
        for group in self._tier_targets.drift.take_mix_alarms():
            self._report_drift(group, "mix")
        # Drifts are stored before a fit, so that it does not use labels from before the drift.
        await self.flush()
        try:
            self.reload_fitted()
        except (sqlite3.Error, OSError, ValueError) as error:
            log.error("learned_floors_unreadable quality_floors=unchanged error=%s", error)
        interval, judged = self._snapshot().learning.refit_seconds, self.label_counts.get("judge", 0)
        if self._refit is None or interval is None or judged == self._judged_at_refit or self._pending_resets:
            return
        if self._now() - self._refit_at >= interval:
            self._refit_at, self._judged_at_refit = self._now(), judged
            await self._refit()

    def reload_fitted(self) -> None:
        """Publish a new fit without the groups that have drifted since.

        Raises sqlite3.Error, OSError and ValueError.
        """
        path = self._folder / LEARNED_FILE
        mtime_ns = path.stat().st_mtime_ns if path.exists() else None
        if mtime_ns is None or mtime_ns == self._learned_mtime_ns:
            return
        learned = read_learned(self._folder)
        assert learned is not None, "the file exists"
        resets = self._label_store.resets()
        floors = {
            group: fitted for group, fitted in learned.floors.items() if resets.get(group, 0) < learned.fitted_at * 1000
        }
        self._learned_mtime_ns = mtime_ns
        for group, fitted in floors.items():
            self._tier_targets.drift.record_fit(
                group, fitted.edges, fitted.shares, labels=fitted.watched, at=learned.fitted_at
            )
        self._publish(LearnedFloors(scorer=learned.scorer, fitted_at=learned.fitted_at, floors=floors))
        log.info("quality_floors_published floors=%d fitted_at=%.0f", len(floors), learned.fitted_at)


_TOOL_CHECK_METRICS = (
    ("penstock_tool_calls_checked_total", "Tool calls whose result the next turn showed."),
    ("penstock_tool_calls_accepted_total", "Tool calls whose result was a success."),
)


def _ignore_alert(event: Mapping[str, Any]) -> None:
    """Stands for the webhook until `start`."""
