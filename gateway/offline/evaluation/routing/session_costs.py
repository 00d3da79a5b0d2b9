"""Session costs: recorded agent sessions priced call by call under tier policies.

Policies: always frontier, always small, per request (the tier that each request needs, whatever a change costs), and
cache-aware (the gateway's: stay or change by expected cost). `hindsight` is what perfect foresight would pay while it
gives every request at least the tier it needs: a lower bound. Caches are simulated as providers document them: what a
deployment has read of a history it reads again at the cached price, until five minutes pass; a prefix under 1,024
tokens is never cached. Tokens are characters / 4, sessions come in random order, and forecasts are learned on the way.
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
# Time between two calls of a session; caches last longer.
_CALL_GAP_SECONDS = 5.0


class PricedCall(NamedTuple):
    """One call: input and output tokens, and whether the request needs the frontier."""

    input_tokens: int
    output_tokens: int
    wants_frontier: bool


class StayDecision(NamedTuple):
    """A call that stayed on the frontier although it did not need it.

    call_number: from 1
    history_tokens: input tokens of the call
    stay_nusd, switch_nusd: expected totals of staying and of going down
    """

    session: str
    call_number: int
    history_tokens: int
    stay_nusd: float
    switch_nusd: float


class SessionCosts:
    """Totals by source and policy in nUSD, tier changes, and stay decisions."""

    def __init__(self, small: PriceSheet, frontier: PriceSheet) -> None:
        self.price_sheets = (small, frontier)
        self.totals_nusd: dict[str, dict[str, int]] = {}
        self.call_counts: dict[str, int] = {}
        self.frontier_call_counts: dict[str, int] = {}
        self.tier_changes: dict[str, dict[str, int]] = {}
        self.session_counts: dict[str, int] = {}
        self.costlier_session_counts: dict[str, int] = {}
        self.stay_decisions: dict[str, list[StayDecision]] = {}

    def add(self, recording: Recording, calls: Sequence[PricedCall], forecasts: SessionForecaster) -> None:
        """Price one session under every policy."""
        source = recording.source
        totals = self.totals_nusd.setdefault(source, dict.fromkeys(POLICIES, 0))
        changes = self.tier_changes.setdefault(source, dict.fromkeys(POLICIES, 0))
        tiers_by_policy = {
            "always frontier": [_FRONTIER] * len(calls),
            "always small": [_SMALL] * len(calls),
            "per request": [_FRONTIER if call.wants_frontier else _SMALL for call in calls],
            "cache-aware": self._cache_aware_tiers(recording, calls, forecasts),
            "hindsight": hindsight_tiers(self.price_sheets, calls),
        }
        costs = {name: total_nusd(self.price_sheets, calls, tiers) for name, tiers in tiers_by_policy.items()}
        for name, tiers in tiers_by_policy.items():
            totals[name] += costs[name]
            changes[name] += sum(tier != next_tier for tier, next_tier in itertools.pairwise(tiers))
        self.session_counts[source] = self.session_counts.get(source, 0) + 1
        self.costlier_session_counts[source] = self.costlier_session_counts.get(source, 0) + (
            costs["cache-aware"] > costs["per request"]
        )
        self.call_counts[source] = self.call_counts.get(source, 0) + len(calls)
        self.frontier_call_counts[source] = self.frontier_call_counts.get(source, 0) + sum(
            call.wants_frontier for call in calls
        )

    def _cache_aware_tiers(
        self, recording: Recording, calls: Sequence[PricedCall], forecasts: SessionForecaster
    ) -> list[int]:
        """The tiers that the gateway would choose, learning forecasts on the way."""
        tiers: list[int] = []
        warm: dict[str, CachedPrefix] = {}
        needed_before: bool | None = None
        now = 0.0
        for number, call in enumerate(calls):
            forecast = forecasts.forecast(recording.source, number, warm, now=now)
            chosen = _FRONTIER if call.wants_frontier else self._choose_tier(recording, number, call, forecast)
            tiers.append(chosen)
            grown_tokens = call.input_tokens - calls[number - 1].input_tokens if number else 0
            forecasts.record_call(
                recording.source,
                number + 1,
                needs_higher_tier=call.wants_frontier,
                previous_needed_higher_tier=needed_before,
                grown_tokens=grown_tokens,
            )
            if str(chosen) in warm:
                forecasts.record_cache_read(
                    str(chosen), warm[str(chosen)].tokens, min(call.input_tokens, warm[str(chosen)].tokens)
                )
            warm[str(chosen)] = CachedPrefix(tokens=call.input_tokens + call.output_tokens, expires_at=now + 300.0)
            needed_before, now = call.wants_frontier, now + _CALL_GAP_SECONDS
        return tiers

    def _choose_tier(self, recording: Recording, number: int, call: PricedCall, forecast: SessionForecast) -> int:
        small, frontier = (
            CostInputs(
                sheet=price_sheet, output_tokens=call.output_tokens, warm_tokens=forecast.warm_tokens.get(str(tier), 0)
            )
            for tier, price_sheet in enumerate(self.price_sheets)
        )
        switch_nusd = expected_cost_nusd(small, [frontier], call.input_tokens, forecast)
        stay_nusd = expected_cost_nusd(frontier, [], call.input_tokens, forecast)
        if stay_nusd * (1 + HIGHER_TIER_MARGIN) >= switch_nusd:
            return _SMALL
        decisions = self.stay_decisions.setdefault(recording.source, [])
        decisions.append(StayDecision(recording.id, number + 1, call.input_tokens, stay_nusd, switch_nusd))
        return _FRONTIER

    def document(self) -> dict[str, Any]:
        """For `--json`, in dollars."""
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
    """The calls of a session, each with the tier that the classifier wants for it."""
    route, task_types, tier_targets, calls, history_chars, previous = (
        snapshot.routes["auto"],
        TaskTypeClassifier(),
        TierTargets(),
        [],
        0,
        0,
    )
    scored: tuple[tuple[str, bytes], ScoredPrompt] | None = None
    for index in recording.answer_positions:
        history_chars += sum(message_chars(message) for message in recording.messages[previous:index])
        previous = index
        features = request_features(chat.parse(recording.request_body(index)))
        if scored is None or scored[0] != (features.newest_user_text, features.tools_head):
            features_ = prompt_features(features.newest_user_text, normalized_tools(features.tools_head))
            scored = (features.newest_user_text, features.tools_head), ScoredPrompt(features_, scorer)
        classification = classify(features, snapshot, "default", task_types, scored=scored[1])
        target = tier_targets.choose(route, classification, "default", snapshot)
        calls.append(
            PricedCall(
                input_tokens=max(1, history_chars // CHARS_PER_TOKEN),
                output_tokens=max(1, message_chars(recording.messages[index]) // CHARS_PER_TOKEN),
                wants_frontier=target.tier > route.lowest_tier,
            )
        )
    return calls


def run(
    recordings: Sequence[Recording], snapshot: Snapshot, scorer: Scorer, seed: int, flips: float | None = None
) -> SessionCosts:
    """Price all sessions, in random order.

    The snapshot's route `auto` has the two deployments. With `flips` each call needs the frontier with that
    probability,
    whatever its prompt: a router without memory.
    """
    candidates = sorted(snapshot.routes["auto"].candidates, key=lambda candidate: candidate.tier)
    small, frontier = candidates[0].price_sheet, candidates[-1].price_sheet
    assert small is not None and frontier is not None, "both have a price"
    costs, forecasts = SessionCosts(small, frontier), SessionForecaster()
    randomness = np.random.default_rng(seed)
    for index in randomness.permutation(len(recordings)).tolist():
        calls = priced_calls(recordings[index], snapshot, scorer)
        if flips is not None:
            calls = [call._replace(wants_frontier=bool(randomness.random() < flips)) for call in calls]
        if calls:
            costs.add(recordings[index], calls, forecasts)
    return costs


def total_nusd(sheets: tuple[PriceSheet, PriceSheet], calls: Sequence[PricedCall], tiers: Sequence[int]) -> int:
    """The cost of a sequence of tiers in nUSD, with each deployment's cache."""
    total, read = 0, [0, 0]
    for call, chosen in zip(calls, tiers, strict=True):
        total += _call_nusd(sheets[chosen], call, read[chosen])
        read[chosen] = call.input_tokens + call.output_tokens
    return total


def _call_nusd(price_sheet: PriceSheet, call: PricedCall, read: int) -> int:
    """The cost of a call in nUSD; `read`: tokens of its history read before."""
    cached = min(read, call.input_tokens)
    cached = cached if cached >= CACHE_TOKENS_MIN else 0
    stored = call.input_tokens - cached if price_sheet.base.cache_write > price_sheet.base.input else 0
    usage = Usage(
        input=call.input_tokens, output=call.output_tokens, cached_input=cached, cache_write=stored, exact=True
    )
    return pricing.charge(price_sheet, usage)


def hindsight_tiers(sheets: tuple[PriceSheet, PriceSheet], calls: Sequence[PricedCall]) -> list[int]:
    """The cheapest tiers that give every request at least the tier it needs.

    By dynamic programming over what each deployment has read.
    """
    cheapest: dict[tuple[int, int], tuple[int, list[int]]] = {(0, 0): (0, [])}
    for call in calls:
        cheapest_next: dict[tuple[int, int], tuple[int, list[int]]] = {}
        read = call.input_tokens + call.output_tokens
        for reads, (cost, tiers) in cheapest.items():
            for chosen in (_FRONTIER,) if call.wants_frontier else (_SMALL, _FRONTIER):
                reads_after = (read, reads[1]) if chosen == _SMALL else (reads[0], read)
                total = cost + _call_nusd(sheets[chosen], call, reads[chosen])
                if reads_after not in cheapest_next or total < cheapest_next[reads_after][0]:
                    cheapest_next[reads_after] = total, [*tiers, chosen]
        cheapest = cheapest_next
    return min(cheapest.values())[1]


def render(costs: SessionCosts, names: Mapping[str, str]) -> Iterator[str]:
    """The figures as plain text."""
    head = (
        "source",
        "sessions",
        "calls",
        "need frontier",
        *(f"{name}, USD" for name in POLICIES),
        "against per request",
        "sessions costlier",
    )
    rows = []
    all_totals = dict.fromkeys(POLICIES, 0)
    for source, totals in sorted(costs.totals_nusd.items()):
        for name in POLICIES:
            all_totals[name] += totals[name]
        rows.append(_row(source, costs, totals, [source]))
    rows.append(_row("everything", costs, all_totals, list(costs.totals_nusd)))
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
    for source, stays in sorted(costs.stay_decisions.items()):
        rows.append(
            (
                source[:40], str(costs.tier_changes[source]["per request"]),
                str(costs.tier_changes[source]["cache-aware"]), str(len(stays)), f"{np.median([decision.history_tokens for decision in stays]):,.0f}",
                f"{np.mean([decision.switch_nusd for decision in stays]) / NUSD_PER_USD:.5f}",
                f"{np.mean([decision.stay_nusd for decision in stays]) / NUSD_PER_USD:.5f}",
            )
        )  # fmt: skip
    if rows:
        yield table(
            "Stay decisions: on the frontier although the request did not need it (means of expected totals)",
            head,
            rows,
        )


def _row(name: str, costs: SessionCosts, totals: Mapping[str, int], sources: Sequence[str]) -> tuple[str, ...]:
    calls, frontier_calls = (
        sum(costs.call_counts[source] for source in sources),
        sum(costs.frontier_call_counts[source] for source in sources),
    )
    difference = totals["cache-aware"] / totals["per request"] - 1 if totals["per request"] else 0.0
    return (
        name[:40], f"{sum(costs.session_counts[source] for source in sources):,}", f"{calls:,}",
        f"{frontier_calls / max(1, calls):.0%}",
        *(f"{totals[policy] / NUSD_PER_USD:.3f}" for policy in POLICIES), f"{difference:+.2%}",
        str(sum(costs.costlier_session_counts[source] for source in sources)),
    )  # fmt: skip
