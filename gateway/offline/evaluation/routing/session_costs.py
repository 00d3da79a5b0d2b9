"""Session economics on trial: recorded agent sessions are priced call by call under ways of choosing a tier.

always frontier, always small, per request (the tier that each request wants, whatever it costs to change), and
cache-aware (what the gateway does: staying or changing by what is expected). Beside them stands what perfect foresight
would pay while it gives every request at least what it wants: no way that can be gone costs less. Caches are simulated as providers
document them: what a deployment has read of a history it reads again at the cached price, until five minutes pass; a
prefix under 1,024 tokens is never cached. Tokens are characters / 4, sessions come in random order, and what is
expected of them is learnt as they go.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ....accounting import pricing
from ....dialects import chat
from ....routing.classifiers.task_type import TaskTypes
from ....routing.classify import Read, opinion
from ....routing.expected_cost import ABOVE_MARGIN, CACHE_TOKENS_MIN, Outlook, Stake, total_nusd
from ....routing.prompt_features import features, tools_text
from ....routing.request_features import facts_of
from ....routing.scorer import Scorer
from ....routing.session_forecast import ProspectBook, Warm
from ....routing.tier_target import Aims
from ....values.catalog import PriceSheet
from ....values.snapshot import World
from ....values.units import NUSD_PER_USD
from ....values.usage import Usage
from ..recordings import Recording
from ..report import table
from ..session_spend import CHARS_PER_TOKEN, chars_of

POLICIES = ("always frontier", "always small", "per request", "cache-aware", "hindsight")
_SMALL, _FRONTIER = 0, 1
# So long after its last call a session's next one comes; caches keep for longer.
_CALL_SECONDS = 5.0


class Step(NamedTuple):
    """One call: input and output tokens, and whether the request wants the frontier."""

    given: int
    written: int
    hard: bool


class Choice(NamedTuple):
    """Where the cache-aware way parted from what the request wanted: at which call, with how much history, and the
    expected totals in nUSD of staying above and of going down."""

    session: str
    call: int
    history: int
    stays: float
    goes: float


class Economy:
    """Totals by source and way, in nUSD; where the cache-aware way stayed, and how often each changed."""

    def __init__(self, small: PriceSheet, frontier: PriceSheet) -> None:
        self.sheets = (small, frontier)
        self.totals: dict[str, dict[str, int]] = {}
        self.calls: dict[str, int] = {}
        self.hard: dict[str, int] = {}
        self.changes: dict[str, dict[str, int]] = {}
        self.sessions: dict[str, int] = {}
        self.dearer: dict[str, int] = {}
        self.stays: dict[str, list[Choice]] = {}

    def add(self, recording: Recording, steps: Sequence[Step], prospects: ProspectBook) -> None:
        """Price one session in every way."""
        source = recording.source
        totals = self.totals.setdefault(source, dict.fromkeys(POLICIES, 0))
        changes = self.changes.setdefault(source, dict.fromkeys(POLICIES, 0))
        ways = {
            "always frontier": [_FRONTIER] * len(steps),
            "always small": [_SMALL] * len(steps),
            "per request": [_FRONTIER if step.hard else _SMALL for step in steps],
            "cache-aware": self._aware(recording, steps, prospects),
            "hindsight": _hindsight(self.sheets, steps),
        }
        costs = {name: _cost(self.sheets, steps, way) for name, way in ways.items()}
        for name, way in ways.items():
            totals[name] += costs[name]
            changes[name] += sum(one != other for one, other in itertools.pairwise(way))
        self.sessions[source] = self.sessions.get(source, 0) + 1
        self.dearer[source] = self.dearer.get(source, 0) + (costs["cache-aware"] > costs["per request"])
        self.calls[source] = self.calls.get(source, 0) + len(steps)
        self.hard[source] = self.hard.get(source, 0) + sum(step.hard for step in steps)

    def _aware(self, recording: Recording, steps: Sequence[Step], prospects: ProspectBook) -> list[int]:
        """The way that the gateway goes, learning as it does."""
        way: list[int] = []
        warm: dict[str, Warm] = {}
        before: bool | None = None
        now = 0.0
        for number, step in enumerate(steps):
            outlook = prospects.outlook(recording.source, number, warm, now=now)
            chosen = _FRONTIER if step.hard else self._cheaper(recording, number, step, outlook)
            way.append(chosen)
            grown = step.given - steps[number - 1].given if number else 0
            prospects.served(recording.source, number + 1, high=step.hard, before=before, grown_tokens=grown)
            if str(chosen) in warm:
                prospects.read(str(chosen), warm[str(chosen)].tokens, min(step.given, warm[str(chosen)].tokens))
            warm[str(chosen)] = Warm(tokens=step.given + step.written, until=now + 300.0)
            before, now = step.hard, now + _CALL_SECONDS
        return way

    def _cheaper(self, recording: Recording, number: int, step: Step, outlook: Outlook) -> int:
        small, frontier = (
            Stake(sheet=sheet, output_tokens=step.written, warm_tokens=outlook.warm.get(str(place), 0))
            for place, sheet in enumerate(self.sheets)
        )
        goes = total_nusd(small, [frontier], step.given, outlook)
        stays = total_nusd(frontier, [], step.given, outlook)
        if stays * (1 + ABOVE_MARGIN) >= goes:
            return _SMALL
        kept = self.stays.setdefault(recording.source, [])
        kept.append(Choice(recording.id, number + 1, step.given, stays, goes))
        return _FRONTIER

    def document(self) -> dict[str, Any]:
        """What `--json` writes; dollars."""
        return {
            source: {
                "sessions": self.sessions[source],
                "calls": self.calls[source],
                "hard_calls": self.hard[source],
                "usd": {name: total / NUSD_PER_USD for name, total in totals.items()},
                "changes": self.changes[source],
                "stayed": len(self.stays.get(source, ())),
                "sessions_dearer_than_per_request": self.dearer[source],
            }
            for source, totals in sorted(self.totals.items())
        }


def steps_of(recording: Recording, world: World, scorer: Scorer) -> list[Step]:
    """The calls of a session, each with what the gateway's classifier wants for it."""
    route, kinds, aims, found, given, before = world.routes["auto"], TaskTypes(), Aims(), [], 0, 0
    read: tuple[tuple[str, bytes], Read] | None = None
    for place in recording.places:
        given += sum(chars_of(message) for message in recording.messages[before:place])
        before = place
        facts = facts_of(chat.parse(recording.body(place)))
        if read is None or read[0] != (facts.prompt, facts.tools):
            weighed = features(facts.prompt, tools_text(facts.tools))
            read = (facts.prompt, facts.tools), Read(weighed, scorer)
        verdict = opinion(facts, world, "default", kinds, read=read[1])
        aim = aims.aim(route, verdict, "default", world)
        found.append(
            Step(
                given=max(1, given // CHARS_PER_TOKEN),
                written=max(1, chars_of(recording.messages[place]) // CHARS_PER_TOKEN),
                hard=aim.tier > route.lowest,
            )
        )
    return found


def run(
    recordings: Sequence[Recording], world: World, scorer: Scorer, seed: int, flips: float | None = None
) -> Economy:
    """Price all sessions, in random order. The world's route `auto` has the two deployments. With `flips` each call wants
    the frontier with that probability, whatever it says: what a router without memory does to a session."""
    candidates = sorted(world.routes["auto"].candidates, key=lambda one: one.tier)
    small, frontier = candidates[0].sheet, candidates[-1].sheet
    assert small is not None and frontier is not None, "both have a price"
    economy, prospects = Economy(small, frontier), ProspectBook()
    chance = np.random.default_rng(seed)
    for place in chance.permutation(len(recordings)).tolist():
        steps = steps_of(recordings[place], world, scorer)
        if flips is not None:
            steps = [step._replace(hard=bool(chance.random() < flips)) for step in steps]
        if steps:
            economy.add(recordings[place], steps, prospects)
    return economy


def _cost(sheets: tuple[PriceSheet, PriceSheet], steps: Sequence[Step], way: Sequence[int]) -> int:
    """What a way costs in nUSD, with each deployment's cache."""
    total, read = 0, [0, 0]
    for step, chosen in zip(steps, way, strict=True):
        total += _call(sheets[chosen], step, read[chosen])
        read[chosen] = step.given + step.written
    return total


def _call(sheet: PriceSheet, step: Step, read: int) -> int:
    """What a call costs in nUSD where so many tokens of its history were read before."""
    cached = min(read, step.given)
    cached = cached if cached >= CACHE_TOKENS_MIN else 0
    stored = step.given - cached if sheet.base.cache_write > sheet.base.input else 0
    usage = Usage(input=step.given, output=step.written, cached_input=cached, cache_write=stored, exact=True)
    return pricing.charge(sheet, usage)


def _hindsight(sheets: tuple[PriceSheet, PriceSheet], steps: Sequence[Step]) -> list[int]:
    """The cheapest way that gives every request at least what it wants, by dynamic programming over what each deployment
    has read."""
    ways: dict[tuple[int, int], tuple[int, list[int]]] = {(0, 0): (0, [])}
    for step in steps:
        onward: dict[tuple[int, int], tuple[int, list[int]]] = {}
        read = step.given + step.written
        for known, (cost, way) in ways.items():
            for chosen in (_FRONTIER,) if step.hard else (_SMALL, _FRONTIER):
                then = (read, known[1]) if chosen == _SMALL else (known[0], read)
                total = cost + _call(sheets[chosen], step, known[chosen])
                if then not in onward or total < onward[then][0]:
                    onward[then] = total, [*way, chosen]
        ways = onward
    return min(ways.values())[1]


def pages(economy: Economy, names: Mapping[str, str]) -> Iterator[str]:
    """The figures as plain text."""
    head = (
        "source",
        "sessions",
        "calls",
        "want frontier",
        *(f"{name}, USD" for name in POLICIES),
        "against per request",
        "sessions dearer",
    )
    rows = []
    everything = dict.fromkeys(POLICIES, 0)
    for source, totals in sorted(economy.totals.items()):
        for name in POLICIES:
            everything[name] += totals[name]
        rows.append(_row(source, economy, totals, [source]))
    rows.append(_row("everything", economy, everything, list(economy.totals)))
    yield table(f"Session economics: {names['small']} and {names['frontier']}", head, rows)
    head = (
        "source",
        "changes per request",
        "changes cache-aware",
        "stayed",
        "history, median tokens",
        "going down, USD expected",
        "staying, USD",
    )
    rows = []
    for source, stays in sorted(economy.stays.items()):
        rows.append(
            (
                source[:40], str(economy.changes[source]["per request"]), str(economy.changes[source]["cache-aware"]),
                str(len(stays)), f"{np.median([one.history for one in stays]):,.0f}",
                f"{np.mean([one.goes for one in stays]) / NUSD_PER_USD:.5f}",
                f"{np.mean([one.stays for one in stays]) / NUSD_PER_USD:.5f}",
            )
        )  # fmt: skip
    if rows:
        yield table(
            "Where it stayed on the frontier although the request did not want it, and why (means of expected totals)",
            head,
            rows,
        )


def _row(name: str, economy: Economy, totals: Mapping[str, int], sources: Sequence[str]) -> tuple[str, ...]:
    calls, hard = sum(economy.calls[one] for one in sources), sum(economy.hard[one] for one in sources)
    against = totals["cache-aware"] / totals["per request"] - 1 if totals["per request"] else 0.0
    return (
        name[:40], f"{sum(economy.sessions[one] for one in sources):,}", f"{calls:,}", f"{hard / max(1, calls):.0%}",
        *(f"{totals[policy] / NUSD_PER_USD:.3f}" for policy in POLICIES), f"{against:+.2%}",
        str(sum(economy.dearer[one] for one in sources)),
    )  # fmt: skip
