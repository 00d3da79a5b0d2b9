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

from ..pipeline.context import Decided, Progress
from ..pipeline.pipeline import Exchange
from ..routing import tool_result_labels
from ..routing.quality_floor import Label
from ..routing.scorer import Scorer
from ..routing.tier_target import Aims, group_of
from ..stores.labels_sqlite import LEARNED, KeptLabel, SqliteLabels, read_learnt
from ..values.base import Value
from ..values.catalog import Deployment
from ..values.ledger_entry import LedgerEntry
from ..values.quality import SHADOW, Group, Learnt
from ..values.request import Request
from ..values.session import SessionEvent
from ..values.snapshot import World
from .budgets import Gauge
from .shadow_calls import Shadowed, graded, repeatable
from .supervisor import Supervisor

log = logging.getLogger(__name__)

# Shadows under way or waiting, each with the body of its request; more are not taken.
_SHADOWS_MAX = 16
# Agents make a call a second: of what their next turns show this share is kept.
_CHECKS_KEPT = 0.05
# Labels that wait to be written.
_WAITING_MAX = 5_000
_WRITE_SECONDS, _LOOK_SECONDS = 2.0, 5.0
# The newest calls of a session, which a later outcome is credited to, and sessions; a call is about 1 kB.
_CREDITED_MAX, _SESSIONS_MAX = 16, 5_000


class _Served(Value, frozen=True, kw_only=True):
    """One call of an auto route: its label without a grade, and whether a model of the lowest or of the highest tier
    answered (neither: one between them)."""

    label: KeptLabel
    low: bool
    high: bool
    served_by: str


class School:
    """Labels and floors of one process. `publish` gives the house what was learnt; `refit` fits anew (in a process of its
    own); `warn` tells people. `shadows` are under way now."""

    def __init__(
        self,
        world: Callable[[], World],
        folder: Path,
        supervisor: Supervisor,
        now: Callable[[], float],
        jitter: Callable[[], float],
        publish: Callable[[Learnt], None],
        scorer: Scorer,
        refit: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._world, self._folder = world, folder
        self._supervisor = supervisor
        self._now, self._jitter = now, jitter
        self._publish, self._refit = publish, refit
        self._scorer = scorer
        self._aims = Aims()
        self._warn: Callable[[Mapping[str, Any]], None] = _nobody
        self._waiting: list[KeptLabel] = []
        self._resets: list[tuple[Group, int]] = []
        self._recent: OrderedDict[tuple[str, str], deque[_Served]] = OrderedDict()
        self._learnt_stamp: int | None = None
        self._checks: dict[tuple[str, str], list[float]] = {}
        self._fitted_at, self._fitted_with = now(), 0
        self.shadows = 0
        self.counts: dict[str, int] = {}

    def start(self, exchange: Exchange, warn: Callable[[Mapping[str, Any]], None]) -> None:
        """Begin to learn; publishes what is known already. What cannot be read is said, and nothing is learnt from it."""
        self._exchange, self._aims, self._warn = exchange, exchange.navigator.aims, warn
        self._labels = SqliteLabels(self._folder, self._world().learning.labels_max)
        try:
            self._labels.create()
            self.look()
        except (sqlite3.Error, OSError, ValueError) as error:
            log.error("what was learnt cannot be read, so nothing is: %s", error)
        self._supervisor.every(_WRITE_SECONDS, "labels", self.write)
        self._supervisor.every(_LOOK_SECONDS, "learnt", self._look_again)

    def served(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None:
        """A call has ended, in whatever way; waits for nobody."""
        if decided.aim is None or entry.outcome != "completed" or decided.caller.key == SHADOW or not entry.final:
            return
        route = decided.route
        if len(route.tiers) < 2:
            return
        key = (decided.caller.key, decided.session.id)
        recent = self._recent.get(key)
        if recent is None:
            recent = self._recent[key] = deque(maxlen=_CREDITED_MAX)
            if len(self._recent) > _SESSIONS_MAX:
                self._recent.popitem(last=False)
        else:
            self._recent.move_to_end(key)
            fared = tool_result_labels.accepted(decided.request.messages)
            if fared is not None:
                self._check(recent[-1], fared)
        tier = progress.attempt.deployment.tier
        one = _Served(
            label=self._ungraded(decided),
            low=tier == route.lowest,
            high=tier == route.reference.tier,
            served_by=entry.deployment,
        )
        recent.append(one)
        shadow = decided.world.learning.shadow
        if shadow.share and self._jitter() < shadow.share:
            self._sample(decided, one.label)

    def reported(self, event: SessionEvent) -> None:
        """A caller tells how its session went."""
        quality = event.details.get("quality")
        if not isinstance(quality, int | float):
            return
        only = event.details.get("request_id")
        how = "outcome" if event.kind == "session_outcome" else "feedback"
        for one in self._recent.get((event.key, event.session), ()):
            if only is None or one.label.id == only:
                self._credit(one, float(quality), how, event.id)

    def untrusted(self, group: Group) -> str:
        """Why a floor that was fitted is not trusted any more, "" while it is."""
        return self._aims.drift.why(group)

    def gauges(self) -> Iterator[Gauge]:
        """What is read when metrics are scraped."""
        labels = [([how], float(count)) for how, count in self.counts.items()]
        yield "penstock_labels", "Labels collected since the start, by how.", ["how"], labels
        aims = [([*names], float(count)) for names, count in self._aims.counts.items()]
        yield "penstock_aims", "Decisions of auto routes since the start, by grounds.", ["task_type", "basis"], aims
        for place, (name, text) in enumerate(_CHECKED):
            found = [([*names], seen[place]) for names, seen in self._checks.items()]
            yield name, text, ["task_type", "deployment"], found
        floors = list(self._floors())
        names = ["org", "task_type", "small", "frontier"]
        held = [([*group, why], float(not why)) for group, why, _ in floors]
        yield (
            "penstock_quality_floor_held",
            "1 while labels carry the floor that is asked for.",
            [*names, "why_not"],
            held,
        )
        behind = [([*group], float(labels)) for group, _, labels in floors]
        yield "penstock_quality_labels", "Labels behind each floor.", names, behind

    def _floors(self) -> Iterator[tuple[Group, str, int]]:
        """(group, why its floor is not held, labels) of every group that was fitted."""
        world = self._world()
        for group, fitted in world.learnt.fitted.items():
            asked = world.quality.of(group[1])
            if asked.keep is None:
                continue
            drifted = self.untrusted(group)
            if drifted:
                why = f"drift_{drifted}"
            elif world.learnt.scorer != self._scorer.name:
                why = "other_scorer"
            else:
                why = "" if self._aims.trusts(group, fitted, asked) else "too_few_labels"
            yield group, why, fitted.labels

    def _ungraded(self, decided: Decided) -> KeptLabel:
        """What a label of this call would be; what was read of its prompt only where something is learnt from it."""
        verdict, world = decided.verdict, decided.world
        org, task_type, small, large = group_of(decided.caller.org, verdict.task_type, decided.route)
        label = KeptLabel(
            id=decided.request_id,
            at_ms=int(decided.at * 1000),
            org=org,
            task_type=task_type,
            small_model=small,
            large_model=large,
            score=verdict.complexity,
            moved=verdict.moved,
            opens=int(decided.session.calls <= 1),
            small=None,
            large=None,
            how="",
            scorer=verdict.scorer,
        )
        read = verdict.features
        if read is None or not (world.learning.shadow.share or world.quality.asks):
            return label
        places = self._scorer.known(read.words)
        return structs.replace(
            label,
            numbers=array("f", read.dense).tobytes(),
            words=array("I", places).tobytes(),
            known=len(places) / max(1, len(read.words)),
        )

    def _check(self, one: _Served, fared: float) -> None:
        """How a call fared: every one is counted, a sample of them is kept."""
        seen = self._checks.setdefault((one.label.task_type, one.served_by), [0.0, 0.0])
        seen[0] += 1
        seen[1] += fared
        if self._jitter() < _CHECKS_KEPT:
            self._credit(one, fared, "check", "")

    def _credit(self, one: _Served, quality: float, how: str, by: str) -> None:
        """A quality that was seen on one side only."""
        if one.low or one.high:
            name = f"{one.label.id}.{how}.{by}" if by else f"{one.label.id}.{how}"
            small, large = (quality if one.low else None), (quality if one.high else None)
            self._keep(structs.replace(one.label, id=name, small=small, large=large, how=how))

    def _keep(self, label: KeptLabel) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self._count("dropped")
            return
        self._count(label.how)
        self._waiting.append(label)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _sample(self, decided: Decided, label: KeptLabel) -> None:
        request = repeatable(decided) if self.shadows < _SHADOWS_MAX else None
        if request is None:
            return
        self.shadows += 1
        self._supervisor.start("shadow", self._shadow(decided, request, label), self._failed)

    def _failed(self, error: BaseException) -> None:
        log.error("a shadow call failed: %s", type(error).__name__)

    async def _shadow(self, decided: Decided, request: Request, label: KeptLabel) -> None:
        """Ask both tiers once more, have their answers graded, and see whether the floor still holds."""
        try:
            low, high = self._drawn(decided, lowest=True), self._drawn(decided, lowest=False)
            found = await graded(self._exchange, decided, request, low, high)
        finally:
            self.shadows -= 1
        if isinstance(found, Shadowed):
            self._count(found.why)
            return
        content = found.content.decode() if decided.world.learning.keep_content else None
        self._keep(
            structs.replace(
                label, id=f"{label.id}.judge", small=found.small, large=found.large, how="judge", content=content
            )
        )
        self._watch(label, found.small, found.large)

    def _drawn(self, decided: Decided, *, lowest: bool) -> Deployment:
        """One of the deployments of the lowest, or of the highest tier."""
        tier = decided.route.lowest if lowest else decided.route.reference.tier
        found = [one for one in decided.route.candidates if one.tier == tier]
        return found[int(self._jitter() * len(found))]

    def _watch(self, label: KeptLabel, small: float, large: float) -> None:
        """Does the floor still hold? What has drifted falls back until it is fitted anew."""
        world, group = self._world(), label.group
        fitted, asked = world.learnt.fitted.get(group), world.quality.of(label.task_type)
        if fitted is None or fitted.ceiling is None or asked.keep is None or label.scorer != world.learnt.scorer:
            return
        seen = Label(score=label.score, small=small, large=large)
        if self._aims.drift.labelled(group, seen, fitted.ceiling, asked.keep, now=self._now()):
            self._alarm(group, "quality")

    def _alarm(self, group: Group, why: str) -> None:
        org, task_type, small, large = group
        self._resets.append((group, int(self._now() * 1000)))
        log.warning("the floor of '%s' (%s for %s) no longer holds: %s; falling back", task_type, small, large, why)
        self._warn(
            {
                "kind": "quality_drift", "at": self._now(), "org": org, "task_type": task_type, "small": small,
                "frontier": large, "why": why,
            }
        )  # fmt: skip

    async def write(self) -> None:
        """Write down the labels and the drifts that wait."""
        waiting, self._waiting = self._waiting, []
        resets, self._resets = self._resets, []
        if not waiting and not resets:
            return
        try:
            await asyncio.to_thread(self._written, waiting, resets)
        except sqlite3.Error as error:
            log.error("%d labels and %d drifts wait to be written down: %s", len(waiting), len(resets), error)
            self._resets = resets + self._resets
            self._waiting = (waiting + self._waiting)[-_WAITING_MAX:]

    def _written(self, labels: list[KeptLabel], resets: list[tuple[Group, int]]) -> None:
        for group, at_ms in resets:
            self._labels.reset(group, at_ms)
        self._labels.add(labels)

    async def _look_again(self) -> None:
        for group in self._aims.drift.alarms():
            self._alarm(group, "mix")
        # A drift is written down before anything is fitted: else labels of before it would carry the next claim.
        await self.write()
        try:
            self.look()
        except (sqlite3.Error, OSError, ValueError) as error:
            log.error("what was learnt cannot be read, so nothing changes: %s", error)
        every, judged = self._world().learning.refit_seconds, self.counts.get("judge", 0)
        if self._refit is None or every is None or judged == self._fitted_with or self._resets:
            return
        if self._now() - self._fitted_at >= every:
            self._fitted_at, self._fitted_with = self._now(), judged
            await self._refit()

    def look(self) -> None:
        """Publish what was fitted since the last look; what has drifted since it was fitted is left out. Raises
        sqlite3.Error, OSError and ValueError."""
        path = self._folder / LEARNED
        stamp = path.stat().st_mtime_ns if path.exists() else None
        if stamp is None or stamp == self._learnt_stamp:
            return
        learnt = read_learnt(self._folder)
        assert learnt is not None, "it is there"
        resets = self._labels.resets()
        holding = {group: fitted for group, fitted in learnt.fitted.items() if resets.get(group, 0) < learnt.at * 1000}
        self._learnt_stamp = stamp
        for group, fitted in holding.items():
            self._aims.drift.fitted(group, fitted.edges, fitted.shares, labels=fitted.watched, at=learnt.at)
        self._publish(Learnt(scorer=learnt.scorer, at=learnt.at, fitted=holding))
        log.info("learnt: %d floors, fitted at %.0f", len(holding), learnt.at)


_CHECKED = (
    ("penstock_checked_calls", "Tool calls whose results the next turn showed, since the start."),
    ("penstock_checked_calls_accepted", "Those that went well (no error in the result; several count in parts)."),
)


def _nobody(event: Mapping[str, Any]) -> None:
    """Before the start nobody listens."""
