"""Quality labels and floors: labels from reports, tool results and shadow calls; drift; new fits."""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.feeds import scorer_weights
from gateway.services.quality import QualityService
from gateway.services.supervisor import Supervisor
from gateway.simulator.playbook import CALLER
from gateway.stores.labels_sqlite import LEARNED_FILE, SqliteLabels, StoredLabel, write_learned
from gateway.values.quality import FittedFloor, LabelGroup, LearnedFloors
from gateway.values.session import SessionEvent
from gateway.values.snapshot import Snapshot
from tests.services.clocks import NOW, ManualClock, until
from tests.services.observed_calls import ObservedCall, ObservedPlaybook, answer, request_body
from tests.snapshots import snapshot

SESSION = "run-1"
GROUP: LabelGroup = ("default", "other", "sim-small", "sim-frontier")
FLOOR = "quality: {keep: 0.9, confidence: 0.9}"
SHADOWED = "learning: {shadow: {share: 1, judge: frontier, usd_per_day: 1}}"


class QualityFixture:
    """A quality service behind a pipeline with a scripted provider.

    jitter: the random number of every draw
    alerts: events for the webhook
    published: the fits that were published
    refits: how often floors were fitted
    """

    def __init__(self, folder: Path, more: str) -> None:
        self.folder, self.clock, self.jitter = folder, ManualClock(), 0.5
        self.alerts: list[dict[str, Any]] = []
        self.published: list[LearnedFloors] = []
        self.refits = 0
        self.supervisor = Supervisor(self.clock.sleep)
        self.service = QualityService(
            lambda: self.playbook.snapshot, folder, self.supervisor, self.clock.now, lambda: self.jitter, self._publish,
            scorer_weights.load(), self._refit,
        )  # fmt: skip
        self.playbook = ObservedPlaybook(
            snapshot(more=more), [], on_end=self.service.call_ended, scorer=scorer_weights.load()
        )
        self.drift = self.playbook.pipeline.router.tier_targets.drift

    def _publish(self, learned: LearnedFloors) -> None:
        self.published.append(learned)
        self.playbook.snapshot = dataclasses.replace(self.playbook.snapshot, learned_floors=learned)

    async def _refit(self) -> None:
        self.refits += 1

    async def call(self, body: bytes | None = None, *, session: str = SESSION, **hints: str) -> ObservedCall:
        """Serves one request of a session."""
        self.playbook.upstream_script.append(answer())
        return await self.playbook.call(body, session=session, session_source="header", **hints)

    async def shadowed_call(self, small: float, large: float) -> None:
        """Serves a request whose shadow call is graded, from 0 to 10; waits for the grades."""
        judged = self.service.label_counts.get("judge", 0)
        orders = ((small, large), (large, small))
        self.playbook.upstream_script += [answer(), answer("large"), answer("small")]
        self.playbook.upstream_script += [answer(json.dumps({"first": a, "second": b})) for a, b in orders]
        await self.playbook.call(None, session=SESSION, session_source="header")
        await until(lambda: self.service.label_counts.get("judge", 0) > judged)

    def report(
        self, kind: str = "session_outcome", event_id: str = "e1", session: str = SESSION, **details: Any
    ) -> None:
        """Reports on a session of the caller."""
        self.service.session_reported(
            SessionEvent(
                id=event_id, kind=kind, at=self.clock.now(), org="default", key=CALLER.key, session=session,
                was_enforced=True, details=details,
            )
        )  # fmt: skip

    async def labels(self) -> list[StoredLabel]:
        """The labels in the store, with those that were pending."""
        await self.service.flush()
        return list(SqliteLabels(self.folder, 10_000).valid_labels())

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """A metric by its label values."""
        return next(dict(family.samples) for family in self.service.metrics() if family.name == name)


@contextlib.asynccontextmanager
async def running_quality(folder: Path, more: str = "") -> AsyncIterator[QualityFixture]:
    fixture = QualityFixture(folder / "data", more)
    fixture.service.start(fixture.playbook.pipeline, lambda event: fixture.alerts.append(dict(event)))
    try:
        yield fixture
    finally:
        await fixture.supervisor.stop()


# --- labels from reports


@pytest.mark.parametrize(
    "more, tier, graded",
    [("", "small", (1.0, None)), (FLOOR, "frontier", (None, 1.0))],
    ids=["the lowest tier", "the highest tier"],
)
async def test_a_report_labels_the_tier_that_answered(
    tmp_path: Path, more: str, tier: str, graded: tuple[float | None, float | None]
):
    async with running_quality(tmp_path, more) as fixture:
        call = await fixture.call()
        assert call.entry.tier == tier
        fixture.report(quality=1.0)
        (label,) = await fixture.labels()
        assert (label.small, label.large) == graded
        assert (label.id, label.source, label.group) == (f"{call.entry.request_id}.outcome.e1", "outcome", GROUP)
        assert (label.at_ms, label.score) == (round(NOW * 1000), call.context.classification.complexity)
        assert fixture.samples("penstock_quality_labels_total") == {("outcome",): 1}


async def test_feedback_on_one_answer_labels_that_answer_only(tmp_path: Path):
    async with running_quality(tmp_path) as fixture:
        first, second = await fixture.call(), await fixture.call()
        fixture.report("session_feedback", quality=0.25, request_id=second.entry.request_id)
        fixture.report("session_feedback", quality=0.5, request_id="unknown")
        assert [(label.id, label.small) for label in await fixture.labels()] == [
            (f"{second.entry.request_id}.feedback.e1", 0.25)
        ]
        fixture.report("session_feedback", "e2", quality=0.75)
        assert sorted(label.id for label in await fixture.labels() if label.small == 0.75) == [
            f"{call.entry.request_id}.feedback.e2" for call in (first, second)
        ]


async def test_a_report_credits_the_newest_calls_of_a_session(tmp_path: Path):
    async with running_quality(tmp_path) as fixture:
        calls = [await fixture.call() for _ in range(18)]
        fixture.report(quality=1.0)
        labelled = {label.id for label in await fixture.labels()}
        assert labelled == {f"{call.entry.request_id}.outcome.e1" for call in calls[2:]}


async def test_a_report_without_quality_or_calls_labels_nothing(tmp_path: Path):
    async with running_quality(tmp_path) as fixture:
        await fixture.call()
        fixture.report(quality=None)
        fixture.report(quality="good")
        fixture.report(session="another", quality=1.0)
        assert fixture.service.label_counts == {} and await fixture.labels() == []


async def test_calls_without_a_choice_of_tiers_are_not_labelled(tmp_path: Path):
    async with running_quality(tmp_path) as fixture:
        await fixture.call(request_body(model="small"))
        fixture.playbook.upstream_script += [answer(status=400)]
        await fixture.playbook.ask(request_body(), session=SESSION, session_source="header")
        fixture.report(quality=1.0)
        assert fixture.service.label_counts == {}


async def test_a_call_of_a_middle_tier_is_not_labelled(tmp_path: Path):
    async with running_quality(tmp_path) as fixture:
        fixture.playbook.snapshot = with_medium_tier(fixture.playbook.snapshot)
        call = await fixture.call()
        assert call.entry.tier == "medium"
        fixture.report(quality=1.0)
        assert await fixture.labels() == []


def with_medium_tier(configured: Snapshot) -> Snapshot:
    """A snapshot whose auto route sends every request to a middle tier."""
    small = configured.deployments["small"]
    medium = dataclasses.replace(small, name="medium", tier=type(small.tier).medium)
    auto = configured.routes["auto"]
    route = dataclasses.replace(auto, candidates=(small, medium, auto.reference))
    policy = dataclasses.replace(configured.routing_policy, tier_ceilings={small.tier: 0.0, medium.tier: 1.0})
    return dataclasses.replace(
        configured, deployments={**configured.deployments, "medium": medium}, routes={**configured.routes, "auto": route},
        routing_policy=policy,
    )  # fmt: skip


@pytest.mark.parametrize("more, stored", [("", False), (FLOOR, True), (SHADOWED, True)])
async def test_prompt_features_are_stored_only_where_floors_are_learned(tmp_path: Path, more: str, stored: bool):
    async with running_quality(tmp_path, more) as fixture:
        fixture.jitter = 1.0
        await fixture.call(request_body("Summarize the meeting of the finance team."))
        fixture.report(quality=1.0)
        (label,) = await fixture.labels()
        assert (bool(label.numbers), bool(label.words), label.known > 0) == (stored,) * 3
        assert label.content is None


async def test_labels_are_dropped_while_too_many_are_pending(tmp_path: Path):
    async with running_quality(tmp_path) as fixture:
        await fixture.call()
        for number in range(5_002):
            fixture.report(event_id=f"e{number}", quality=1.0)
        assert fixture.service.label_counts == {"outcome": 5_000, "dropped": 2}
        assert len(await fixture.labels()) == 5_000


# --- labels from tool results


def tool_turn(result: str) -> bytes:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return request_body(
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": result},
        ]
    )


@pytest.mark.parametrize(
    "result, accepted",
    [("Traceback (most recent call last): 1 error", 0.0), ("3 passed", 1.0)],
    ids=["failed", "passed"],
)
async def test_the_next_turn_shows_whether_a_tool_call_was_accepted(tmp_path: Path, result: str, accepted: float):
    async with running_quality(tmp_path) as fixture:
        await fixture.call()
        await fixture.call(tool_turn(result))
        assert fixture.samples("penstock_tool_calls_checked_total") == {("other", "small"): 1}
        assert fixture.samples("penstock_tool_calls_accepted_total") == {("other", "small"): accepted}
        assert fixture.service.label_counts == {}, "only a sample becomes labels"


async def test_a_sample_of_tool_checks_becomes_labels(tmp_path: Path):
    async with running_quality(tmp_path) as fixture:
        fixture.jitter = 0.04
        first = await fixture.call()
        await fixture.call(tool_turn("3 passed"))
        assert [(label.id, label.source, label.small) for label in await fixture.labels()] == [
            (f"{first.entry.request_id}.check", "check", 1.0)
        ]


# --- labels from shadow calls


async def test_a_graded_shadow_call_becomes_a_label_without_content(tmp_path: Path):
    async with running_quality(tmp_path, SHADOWED) as fixture:
        await fixture.shadowed_call(4, 10)
        (label,) = await fixture.labels()
        assert (label.id, label.small, label.large, label.content) == ("r1.judge", 0.4, 1.0, None)
        assert fixture.service.open_shadow_calls == 0


async def test_content_is_kept_where_configured(tmp_path: Path):
    async with running_quality(tmp_path, SHADOWED.replace("learning: {", "learning: {keep_content: true, ")) as fixture:
        await fixture.shadowed_call(4, 10)
        (label,) = await fixture.labels()
        assert label.content is not None
        assert json.loads(label.content) == {"task": "[user] hi", "small": "small", "large": "large"}


@pytest.mark.parametrize("jitter, shadowed", [(0.24, 1), (0.25, 0)])
async def test_a_share_of_requests_is_shadowed(tmp_path: Path, jitter: float, shadowed: int):
    async with running_quality(tmp_path, SHADOWED.replace("share: 1", "share: 0.25")) as fixture:
        fixture.jitter = jitter
        fixture.playbook.upstream_script += [answer(), answer(status=400)]
        await fixture.playbook.ask(request_body(), session=SESSION, session_source="header")
        assert fixture.service.open_shadow_calls == shadowed
        await until(lambda: fixture.service.label_counts.get("shadow_failed", 0) == shadowed)
        assert len(fixture.playbook.upstream_calls) == 1 + shadowed


async def test_the_number_of_shadow_calls_at_once_is_bounded(tmp_path: Path):
    async with running_quality(tmp_path, SHADOWED) as fixture:
        # The pipeline never suspends here, so that no shadow call begins between the requests.
        for _ in range(20):
            await fixture.call()
        assert fixture.service.open_shadow_calls == 16


async def test_a_failing_shadow_call_is_logged_and_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with running_quality(tmp_path, SHADOWED) as fixture:
        # The script has no step for the shadow call.
        await fixture.call()
        await until(lambda: fixture.service.open_shadow_calls == 0)
        assert "shadow_call_failed error=IndexError" in caplog.text
        assert fixture.service.label_counts == {}


# --- storage


async def test_pending_labels_are_stored_in_the_background(tmp_path: Path):
    async with running_quality(tmp_path) as fixture:
        await fixture.call()
        fixture.report(quality=1.0)
        store = SqliteLabels(fixture.folder, 10)
        assert list(store.valid_labels()) == []
        await fixture.clock.advance(2)
        await until(lambda: list(store.valid_labels()))


async def test_labels_and_drifts_are_kept_while_the_store_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with running_quality(tmp_path, FLOOR) as fixture:
        path, moved = fixture.folder / "labels.sqlite", fixture.folder / "moved.sqlite"
        await fixture.call()
        fixture.report(quality=1.0)
        path.rename(moved)
        path.write_bytes(b"not a database" * 100)
        await fixture.service.flush()
        assert "labels_not_stored labels=1 drifts=0 error=" in caplog.text
        fixture.report(event_id="e2", quality=0.5)
        moved.replace(path)
        assert sorted(label.large or 0 for label in await fixture.labels()) == [0.5, 1.0]


# --- fitted floors


def fitted_floor(ceiling: float | None = 1.0, *, watched: int = 0, **change: Any) -> FittedFloor:
    base = FittedFloor(ceiling=ceiling, keep=0.9, confidence=0.9, labels=500, share=0.5, kept=0.92, watched=watched)
    return dataclasses.replace(base, **change)


def learned_floors(fitted_at: float = NOW - 60, scorer: str = "", **floors: FittedFloor) -> LearnedFloors:
    """Fits by task type, of the scorer in use unless another is named."""
    groups = {(GROUP[0], task_type, *GROUP[2:]): floor for task_type, floor in floors.items()}
    return LearnedFloors(scorer=scorer or scorer_weights.load().name, fitted_at=fitted_at, floors=groups)


def write_fit(folder: Path, learned: LearnedFloors) -> None:
    (folder / "data").mkdir(exist_ok=True)
    write_learned(folder / "data", learned)


async def test_stored_floors_are_published_at_the_start(tmp_path: Path):
    learned = learned_floors(other=fitted_floor(), code=fitted_floor(None))
    write_fit(tmp_path, learned)
    async with running_quality(tmp_path, FLOOR) as fixture:
        assert fixture.published == [learned]


async def test_a_floor_that_drifted_after_its_fit_is_not_published(tmp_path: Path):
    write_fit(tmp_path, learned_floors(other=fitted_floor(), code=fitted_floor()))
    store = SqliteLabels(tmp_path / "data", 10)
    store.create()
    store.reset(GROUP, round((NOW - 30) * 1000))
    async with running_quality(tmp_path, FLOOR) as fixture:
        assert [task_type for _, task_type, _, _ in fixture.published[0].floors] == ["code"]


@pytest.mark.parametrize("name", [LEARNED_FILE, "labels.sqlite"])
async def test_a_corrupt_file_does_not_prevent_a_start(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(b"{ nonsense" * 200)
    async with running_quality(tmp_path, FLOOR) as fixture:
        assert fixture.published == []
        assert "learned_floors_unreadable quality_floors=disabled" in caplog.text
        assert (await fixture.call()).entry.outcome == "completed"


async def test_a_new_fit_is_published_while_serving_and_a_corrupt_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with running_quality(tmp_path, FLOOR) as fixture:
        first, second = learned_floors(other=fitted_floor()), learned_floors(NOW, other=fitted_floor(0.5))
        write_fit(tmp_path, first)
        await fixture.clock.advance(5)
        await until(lambda: fixture.published == [first])
        (fixture.folder / LEARNED_FILE).write_bytes(b"{ nonsense")
        await fixture.clock.advance(5)
        await until(lambda: "learned_floors_unreadable quality_floors=unchanged" in caplog.text)
        write_fit(tmp_path, second)
        await fixture.clock.advance(5)
        await until(lambda: fixture.published == [first, second])
        await fixture.clock.advance(60)
        assert len(fixture.published) == 2, "an unchanged file is not published again"


async def test_floors_are_fitted_again_once_there_are_new_grades(tmp_path: Path):
    async with running_quality(tmp_path, SHADOWED) as fixture:

        async def poll_after(seconds: float) -> int:
            """The number of fits after that time and a few polls."""
            fixture.clock.seconds += seconds
            for _ in range(5):
                # Labels are stored in a thread before a poll can end.
                await fixture.clock.advance(5)
                await fixture.service.flush()
            return fixture.refits

        assert await poll_after(7200) == 0, "no grades since the start"
        await fixture.shadowed_call(5, 5)
        await fixture.service.flush()
        await fixture.clock.advance(5)
        await until(lambda: fixture.refits == 1)
        assert await poll_after(7200) == 1, "no new grades"
        await fixture.shadowed_call(5, 5)
        await fixture.service.flush()
        assert await poll_after(60) == 2, "the interval had passed"
        await fixture.shadowed_call(5, 5)
        await fixture.service.flush()
        assert await poll_after(60) == 2, "once an hour at most"


async def test_metrics_show_why_a_floor_is_inactive(tmp_path: Path):
    floors = learned_floors(other=fitted_floor(), code=fitted_floor(None), summary=fitted_floor())
    write_fit(tmp_path, floors)
    async with running_quality(tmp_path, FLOOR) as fixture:
        models = GROUP[2:]
        fixture.drift.record_fit(("default", "summary", *models), (0.1,), (0.9, 0.1), at=NOW)
        while not fixture.drift.record_score(("default", "summary", *models), 0.9, now=NOW):
            pass
        assert fixture.samples("penstock_quality_floor_active") == {
            ("default", "other", *models, ""): 1, ("default", "code", *models, "too_few_labels"): 0,
            ("default", "summary", *models, "drift_mix"): 0,
        }  # fmt: skip
        assert set(fixture.samples("penstock_quality_floor_labels").values()) == {500}
    write_fit(tmp_path, learned_floors(NOW, "another scorer", other=fitted_floor()))
    async with running_quality(tmp_path, FLOOR) as fixture:
        assert fixture.samples("penstock_quality_floor_active") == {("default", "other", *models, "other_scorer"): 0}
    async with running_quality(tmp_path) as fixture:
        assert fixture.samples("penstock_quality_floor_active") == {}, "no floor is configured"


# --- drift


async def test_a_quality_drift_is_reported_stored_and_disables_the_floor_until_the_next_fit(tmp_path: Path):
    write_fit(tmp_path, learned_floors(other=fitted_floor()))
    async with running_quality(tmp_path, f"{FLOOR}\n{SHADOWED}") as fixture:
        for _ in range(60):
            await fixture.shadowed_call(0, 10)
            if fixture.alerts:
                break
        assert fixture.alerts == [
            {
                "kind": "quality_drift", "at": fixture.clock.now(), "org": "default", "task_type": "other",
                "small": "sim-small", "frontier": "sim-frontier", "reason": "quality",
            }
        ]  # fmt: skip
        assert fixture.service.drift_reason(GROUP) == "quality"
        assert await fixture.labels() == [], "labels from before the drift count no more"
        assert SqliteLabels(fixture.folder, 10).resets() == {GROUP: round(NOW * 1000)}
    async with running_quality(tmp_path, FLOOR) as fixture:
        assert fixture.published[0].floors == {}


async def test_grades_within_the_allowance_are_no_drift(tmp_path: Path):
    write_fit(tmp_path, learned_floors(other=fitted_floor()))
    async with running_quality(tmp_path, f"{FLOOR}\n{SHADOWED}") as fixture:
        for _ in range(40):
            await fixture.shadowed_call(10, 10)
        assert fixture.alerts == [] and fixture.service.drift_reason(GROUP) == ""
        assert fixture.drift.wealth(GROUP) <= 1.0


async def test_grades_by_another_scorer_say_nothing_of_a_floor(tmp_path: Path):
    write_fit(tmp_path, learned_floors(scorer="another scorer", other=fitted_floor()))
    async with running_quality(tmp_path, f"{FLOOR}\n{SHADOWED}") as fixture:
        for _ in range(3):
            await fixture.shadowed_call(0, 10)
        assert fixture.drift.wealth(GROUP) == 1.0


async def test_a_drift_of_the_mix_of_requests_is_reported_at_the_next_poll(tmp_path: Path):
    write_fit(tmp_path, learned_floors(other=fitted_floor(edges=(0.1,), shares=(0.9, 0.1), watched=1000)))
    async with running_quality(tmp_path, FLOOR) as fixture:
        while not fixture.drift.record_score(GROUP, 0.9, now=NOW):
            pass
        assert fixture.alerts == []
        await fixture.clock.advance(5)
        assert [(alert["reason"], alert["task_type"]) for alert in fixture.alerts] == [("mix", "other")]
        await fixture.clock.advance(60)
        assert len(fixture.alerts) == 1
