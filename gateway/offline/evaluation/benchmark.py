"""The benchmark: sessions in, a tally per source and rule and its document out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from . import session_spend
from .penstock_rule import GuardCost
from .recordings import Recording
from .replay import PENSTOCK, RuleFactory, replay
from .rule_tally import RuleTally, median, p90
from .session_spend import Spend, TokenPrices

ALL, REAL, SYNTHETIC = "everything", "real pooled", "synthetic pooled"
POOLS = (ALL, REAL, SYNTHETIC)
Tallies = dict[str, RuleTally]


class BenchmarkResult(msgspec.Struct):
    """Tallies by source and by pool, one per rule.

    synthetic_sources: sources of generated sessions
    guard_cost: time and memory of our detector
    recorded_cost_count: loops with recorded dollars
    """

    rules: Sequence[str]
    sources: dict[str, Tallies] = {}
    pools: dict[str, Tallies] = {}
    synthetic_sources: set[str] = set()
    guard_cost: GuardCost = msgspec.field(default_factory=GuardCost)
    recorded_cost_count: int = 0

    def add(self, recording: Recording, rules: Mapping[str, RuleFactory], prices: TokenPrices) -> None:
        """Replay one session with every rule and add the results to the tallies."""
        spends: Sequence[Spend] = ()
        if recording.label == "loop":
            spends = session_spend.call_spends(recording, prices)
            self.recorded_cost_count += recording.cost_usd is not None
        if recording.synthetic:
            self.synthetic_sources.add(recording.source)
        pool = self._tallies(self.pools, SYNTHETIC if recording.synthetic else REAL)
        tables = (self._tallies(self.sources, recording.source), pool, self._tallies(self.pools, ALL))
        for name, levels in replay(recording, rules).items():
            for tallies in tables:
                tallies[name].add(recording, levels, spends)

    def _tallies(self, table: dict[str, Tallies], key: str) -> Tallies:
        if key not in table:
            table[key] = {name: RuleTally() for name in self.rules}
        return table[key]

    def document(self) -> dict[str, Any]:
        """The `--json` document: all sessions pooled per rule, then real and synthetic."""
        rules = {}
        for name in self.rules:
            rules[name] = {
                **self.pools[ALL][name].document(),
                "real": self.pools[REAL][name].document() if REAL in self.pools else None,
                "synthetic": self.pools[SYNTHETIC][name].document() if SYNTHETIC in self.pools else None,
            }
        if PENSTOCK in rules:
            rules[PENSTOCK]["measured"] = guard_cost_figures(self.guard_cost)
        by_source = {
            source: {name: tally.document() for name, tally in tallies.items()}
            for source, tallies in sorted(self.sources.items())
        }
        return {"rules": rules, "by_source": by_source}


def guard_cost_figures(guard_cost: GuardCost) -> dict[str, float | None]:
    """Time in microseconds and estimated bytes of our detector in this run."""
    nanoseconds = guard_cost.nanoseconds
    slowest = sorted(nanoseconds)[int(0.99 * (len(nanoseconds) - 1))] if nanoseconds else 0
    return {
        "requests": len(nanoseconds),
        "microseconds_per_message": round(sum(nanoseconds) / 1000 / max(1, guard_cost.messages), 2),
        "microseconds_per_request": round(sum(nanoseconds) / 1000 / max(1, len(nanoseconds)), 2),
        "microseconds_per_request_p99": round(slowest / 1000, 2),
        "state_bytes_median": median(guard_cost.state_bytes),
        "state_bytes_p90": p90(guard_cost.state_bytes),
        "state_bytes_max": max(guard_cost.state_bytes, default=0),
    }


def run(
    recordings: Iterable[Recording], rules: Mapping[str, RuleFactory], prices: TokenPrices, guard_cost: GuardCost
) -> BenchmarkResult:
    """The whole benchmark. Raises ValueError without a session."""
    report = BenchmarkResult(rules=tuple(rules), guard_cost=guard_cost)
    for recording in recordings:
        report.add(recording, rules, prices)
    if not report.sources:
        raise ValueError("no session in the data")
    return report
