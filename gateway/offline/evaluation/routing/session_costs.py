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
from ....routing.classifiers.task_type import TaskTypeClassifier
from ....routing.classify import ScoredPrompt, classify
from ....routing.expected_cost import (
    CACHE_TOKENS_MIN,
    HIGHER_TIER_MARGIN,
    CostInputs,
    SessionForecast,
    expected_cost_nusd,
)
from ....routing.prompt_features import normalized_tools, prompt_features
from ....routing.request_features import request_features
from ....routing.scorer import Scorer
from ....routing.session_forecast import CachedPrefix, SessionForecaster
from ....routing.tier_target import TierTargets
from ....values.catalog import PriceSheet
from ....values.snapshot import Snapshot
from ....values.units import NUSD_PER_USD
from ....values.usage import Usage
from ..recordings import Recording
from ..report import table
from ..session_spend import CHARS_PER_TOKEN, message_chars

POLICIES = ("always frontier", "always small", "per request", "cache-aware", "hindsight")
_SMALL, _FRONTIER = 0, 1
# So long after its last call a session's next one comes; caches keep for longer.
_CALL_GAP_SECONDS = 5.0


class PricedCall(NamedTuple):
    """One call: input and output tokens, and whether the request wants the frontier."""

    input_tokens: int
    output_tokens: int
    wants_frontier: bool


class StayDecision(NamedTuple):
    """Where the cache-aware way parted from what the request wanted: at which call, with how much history, and the
    expected totals in nUSD of staying above and of going down."""

    session: str
    call_number: int
    history_tokens: int
    stay_nusd: float
    switch_nusd: float


class SessionCosts:
    """Totals by source and way, in nUSD; where the cache-aware way stayed, and how often each changed."""

    def __init__(self, small: PriceSheet, frontier: PriceSheet) -> None:
        self.price_sheets = (small, frontier)
        self.totals_nusd: dict[str, dict[str, int]] = {}
        self.call_counts: dict[str, int] = {}
        self.frontier_call_counts: dict[str, int] = {}
        self.tier_changes: dict[str, dict[str, int]] = {}
        self.session_counts: dict[str, int] = {}
        self.costlier_session_counts: dict[str, int] = {}
        self.stay_decisions: dict[str, list[StayDecision]] = {}

    def add(self, recording: Recording, steps: Sequence[PricedCall], forecasts: SessionForecaster) -> None:
        """Price one session in every way."""
        source = recording.source
        totals = self.totals_nusd.setdefault(source, dict.fromkeys(POLICIES, 0))
        changes = self.tier_changes.setdefault(source, dict.fromkeys(POLICIES, 0))
        ways = {
            "always frontier": [_FRONTIER] * len(steps),
            "always small": [_SMALL] * len(steps),
            "per request": [_FRONTIER if step.wants_frontier else _SMALL for step in steps],
            "cache-aware": self._cache_aware_tiers(recording, steps, forecasts),
            "hindsight": _hindsight_tiers(self.price_sheets, steps),
        }
        costs = {name: _total_nusd(self.price_sheets, steps, way) for name, way in ways.items()}
        for name, way in ways.items():
            totals[name] += costs[name]
            changes[name] += sum(one != other for one, other in itertools.pairwise(way))
        self.session_counts[source] = self.session_counts.get(source, 0) + 1
        self.costlier_session_counts[source] = self.costlier_session_counts.get(source, 0) + (
            costs["cache-aware"] > costs["per request"]
        )
        self.call_counts[source] = self.call_counts.get(source, 0) + len(steps)
        self.frontier_call_counts[source] = self.frontier_call_counts.get(source, 0) + sum(
            step.wants_frontier for step in steps
        )

    def _cache_aware_tiers(
        self, recording: Recording, steps: Sequence[PricedCall], forecasts: SessionForecaster
    ) -> list[int]:
        """The way that the gateway goes, learning as it does."""
        way: list[int] = []
        warm: dict[str, CachedPrefix] = {}
        before: bool | None = None
        now = 0.0
        for number, step in enumerate(steps):
            outlook = forecasts.forecast(recording.source, number, warm, now=now)
            chosen = _FRONTIER if step.wants_frontier else self._choose_tier(recording, number, step, outlook)
            way.append(chosen)
            grown = step.input_tokens - steps[number - 1].input_tokens if number else 0
            forecasts.record_call(
                recording.source, number + 1, high=step.wants_frontier, before=before, grown_tokens=grown
            )
            if str(chosen) in warm:
                forecasts.record_cache_read(
                    str(chosen), warm[str(chosen)].tokens, min(step.input_tokens, warm[str(chosen)].tokens)
                )
            warm[str(chosen)] = CachedPrefix(tokens=step.input_tokens + step.output_tokens, expires_at=now + 300.0)
            before, now = step.wants_frontier, now + _CALL_GAP_SECONDS
        return way

    def _choose_tier(self, recording: Recording, number: int, step: PricedCall, outlook: SessionForecast) -> int:
        small, frontier = (
            CostInputs(
                sheet=price_sheet, output_tokens=step.output_tokens, warm_tokens=outlook.warm_tokens.get(str(place), 0)
            )
            for place, price_sheet in enumerate(self.price_sheets)
        )
        goes = expected_cost_nusd(small, [frontier], step.input_tokens, outlook)
        stays = expected_cost_nusd(frontier, [], step.input_tokens, outlook)
        if stays * (1 + HIGHER_TIER_MARGIN) >= goes:
            return _SMALL
        kept = self.stay_decisions.setdefault(recording.source, [])
        kept.append(StayDecision(recording.id, number + 1, step.input_tokens, stays, goes))
        return _FRONTIER

    def document(self) -> dict[str, Any]:
        """What `--json` writes; dollars."""
        return {
            source: {
                "sessions": self.session_counts[source],
                "calls": self.call_counts[source],
                "hard_calls": self.frontier_call_counts[source],
                "usd": {name: total / NUSD_PER_USD for name, total in totals.items()},
                "changes": self.tier_changes[source],
                "stayed": len(self.stay_decisions.get(source, ())),
                "sessions_dearer_than_per_request": self.costlier_session_counts[source],
            }
            for source, totals in sorted(self.totals_nusd.items())
        }


def priced_calls(recording: Recording, snapshot: Snapshot, scorer: Scorer) -> list[PricedCall]:
    """The calls of a session, each with what the gateway's classifier wants for it."""
    route, kinds, aims, found, given, before = snapshot.routes["auto"], TaskTypeClassifier(), TierTargets(), [], 0, 0
    read: tuple[tuple[str, bytes], ScoredPrompt] | None = None
    for place in recording.answer_positions:
        given += sum(message_chars(message) for message in recording.messages[before:place])
        before = place
        features = request_features(chat.parse(recording.request_body(place)))
        if read is None or read[0] != (features.newest_user_text, features.tools_head):
            weighed = prompt_features(features.newest_user_text, normalized_tools(features.tools_head))
            read = (features.newest_user_text, features.tools_head), ScoredPrompt(weighed, scorer)
        classification = classify(features, snapshot, "default", kinds, read=read[1])
        target = aims.choose(route, classification, "default", snapshot)
        found.append(
            PricedCall(
                input_tokens=max(1, given // CHARS_PER_TOKEN),
                output_tokens=max(1, message_chars(recording.messages[place]) // CHARS_PER_TOKEN),
                wants_frontier=target.tier > route.lowest_tier,
            )
        )
    return found


def run(
    recordings: Sequence[Recording], snapshot: Snapshot, scorer: Scorer, seed: int, flips: float | None = None
) -> SessionCosts:
    """Price all sessions, in random order. The world's route `auto` has the two deployments. With `flips` each call wants
    the frontier with that probability, whatever it says: what a router without memory does to a session."""
    candidates = sorted(snapshot.routes["auto"].candidates, key=lambda one: one.tier)
    small, frontier = candidates[0].price_sheet, candidates[-1].price_sheet
    assert small is not None and frontier is not None, "both have a price"
    economy, forecasts = SessionCosts(small, frontier), SessionForecaster()
    randomness = np.random.default_rng(seed)
    for place in randomness.permutation(len(recordings)).tolist():
        steps = priced_calls(recordings[place], snapshot, scorer)
        if flips is not None:
            steps = [step._replace(wants_frontier=bool(randomness.random() < flips)) for step in steps]
        if steps:
            economy.add(recordings[place], steps, forecasts)
    return economy


def _total_nusd(sheets: tuple[PriceSheet, PriceSheet], steps: Sequence[PricedCall], way: Sequence[int]) -> int:
    """What a way costs in nUSD, with each deployment's cache."""
    total, read = 0, [0, 0]
    for step, chosen in zip(steps, way, strict=True):
        total += _call_nusd(sheets[chosen], step, read[chosen])
        read[chosen] = step.input_tokens + step.output_tokens
    return total


def _call_nusd(price_sheet: PriceSheet, step: PricedCall, read: int) -> int:
    """What a call costs in nUSD where so many tokens of its history were read before."""
    cached = min(read, step.input_tokens)
    cached = cached if cached >= CACHE_TOKENS_MIN else 0
    stored = step.input_tokens - cached if price_sheet.base.cache_write > price_sheet.base.input else 0
    usage = Usage(
        input=step.input_tokens, output=step.output_tokens, cached_input=cached, cache_write=stored, exact=True
    )
    return pricing.charge(price_sheet, usage)


def _hindsight_tiers(sheets: tuple[PriceSheet, PriceSheet], steps: Sequence[PricedCall]) -> list[int]:
    """The cheapest way that gives every request at least what it wants, by dynamic programming over what each deployment
    has read."""
    ways: dict[tuple[int, int], tuple[int, list[int]]] = {(0, 0): (0, [])}
    for step in steps:
        onward: dict[tuple[int, int], tuple[int, list[int]]] = {}
        read = step.input_tokens + step.output_tokens
        for known, (cost, way) in ways.items():
            for chosen in (_FRONTIER,) if step.wants_frontier else (_SMALL, _FRONTIER):
                then = (read, known[1]) if chosen == _SMALL else (known[0], read)
                total = cost + _call_nusd(sheets[chosen], step, known[chosen])
                if then not in onward or total < onward[then][0]:
                    onward[then] = total, [*way, chosen]
        ways = onward
    return min(ways.values())[1]


def render(economy: SessionCosts, names: Mapping[str, str]) -> Iterator[str]:
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
    for source, totals in sorted(economy.totals_nusd.items()):
        for name in POLICIES:
            everything[name] += totals[name]
        rows.append(_row(source, economy, totals, [source]))
    rows.append(_row("everything", economy, everything, list(economy.totals_nusd)))
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
    for source, stays in sorted(economy.stay_decisions.items()):
        rows.append(
            (
                source[:40], str(economy.tier_changes[source]["per request"]), str(economy.tier_changes[source]["cache-aware"]),
                str(len(stays)), f"{np.median([one.history_tokens for one in stays]):,.0f}",
                f"{np.mean([one.switch_nusd for one in stays]) / NUSD_PER_USD:.5f}",
                f"{np.mean([one.stay_nusd for one in stays]) / NUSD_PER_USD:.5f}",
            )
        )  # fmt: skip
    if rows:
        yield table(
            "Where it stayed on the frontier although the request did not want it, and why (means of expected totals)",
            head,
            rows,
        )


def _row(name: str, economy: SessionCosts, totals: Mapping[str, int], sources: Sequence[str]) -> tuple[str, ...]:
    calls, hard = (
        sum(economy.call_counts[one] for one in sources),
        sum(economy.frontier_call_counts[one] for one in sources),
    )
    against = totals["cache-aware"] / totals["per request"] - 1 if totals["per request"] else 0.0
    return (
        name[:40], f"{sum(economy.session_counts[one] for one in sources):,}", f"{calls:,}", f"{hard / max(1, calls):.0%}",
        *(f"{totals[policy] / NUSD_PER_USD:.3f}" for policy in POLICIES), f"{against:+.2%}",
        str(sum(economy.costlier_session_counts[one] for one in sources)),
    )  # fmt: skip
