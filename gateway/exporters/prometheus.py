"""Prometheus: counters summed as integers and rendered as base units, so that they equal the ledger to the nano-dollar.

Labels come from closed sets (the configuration's names); a float64 renders 2**53 nUSD, nine million dollars, exactly.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import add, attrgetter

from prometheus_client import CollectorRegistry, disable_created_metrics, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ..values.catalog import UNKNOWN_FOOTPRINT_METHOD
from ..values.ledger_entry import LedgerEntry
from ..values.units import NUSD_PER_USD

_LABELS = ["task_type", "tier", "deployment", "team"]
_MILLI, _MICRO = 1e3, 1e6
# OpenTelemetry's buckets for gen_ai durations, in ms.
_BUCKETS_MS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 20480, 40960, 81920)
# (metric, help, extra label value or "", entry field, units per base unit)
_SUMS: Sequence[tuple[str, str, str, str, float]] = (
    ("penstock_tokens", "Tokens by kind; cached_input and cache_write lie within input, reasoning within output.", "input", "input_tokens", 1),
    ("penstock_tokens", "", "cached_input", "cached_input_tokens", 1),
    ("penstock_tokens", "", "cache_write", "cache_write_tokens", 1),
    ("penstock_tokens", "", "output", "output_tokens", 1),
    ("penstock_tokens", "", "reasoning", "reasoning_tokens", 1),
    ("penstock_charge_usd", "What was spent, in US dollars.", "", "charge_nusd", NUSD_PER_USD),
    ("penstock_reference_usd", "What the same tokens cost on each route's most capable deployment, in US dollars.", "", "reference_nusd", NUSD_PER_USD),
    ("penstock_energy_joules", "Modelled facility energy in joules.", "low", "energy_mj_low", _MILLI),
    ("penstock_energy_joules", "", "mid", "energy_mj_mid", _MILLI),
    ("penstock_energy_joules", "", "high", "energy_mj_high", _MILLI),
    ("penstock_carbon_grams", "Operational (location-based) and embodied carbon in gCO2e.", "low", "carbon_ug_low", _MICRO),
    ("penstock_carbon_grams", "", "mid", "carbon_ug_mid", _MICRO),
    ("penstock_carbon_grams", "", "high", "carbon_ug_high", _MICRO),
    ("penstock_embodied_grams", "The embodied part of the mid carbon, in gCO2e.", "", "embodied_ug", _MICRO),
    ("penstock_market_carbon_grams", "Mid carbon by market-based accounting, kept apart (location-based where no contract is told).", "", "market_carbon_ug", _MICRO),
    ("penstock_reference_carbon_grams", "Mid carbon of the same tokens on each route's most capable deployment.", "", "reference_carbon_ug", _MICRO),
    ("penstock_undeferred_carbon_grams", "Mid carbon had nothing waited for a greener hour.", "", "undeferred_carbon_ug", _MICRO),
    ("penstock_reference_energy_joules", "Mid energy of the same tokens on each route's most capable deployment.", "", "reference_energy_mj", _MILLI),
)  # fmt: skip
_EXTRA_LABEL_BY_METRIC = {
    "penstock_tokens": "kind",
    "penstock_energy_joules": "bound",
    "penstock_carbon_grams": "bound",
}
_FIELDS = tuple(field for _, _, _, field, _ in _SUMS)
_entry_values = attrgetter(*_FIELDS)

Gauges = Callable[[], Iterable[tuple[str, str, list[str], list[tuple[list[str], float]]]]]


class Metrics:
    """Sums per label set. `publish` is called on the event loop for every fact; `render` may run in a thread.

    `gauges` gives what is read at scrape time: (name, help, label names, [(label values, value)]).
    """

    def __init__(self, gauges: Gauges) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._gauges = gauges
        self._sums: dict[tuple[str, ...], list[int]] = {}
        self._requests: dict[tuple[str, ...], int] = {}
        self._refusals: dict[tuple[str, ...], int] = {}
        # Born at zero, so that a rate sees the first one too.
        self._errors: dict[tuple[str, ...], int] = {(code,): 0 for code in ("internal_error", "overloaded")}
        self._unpriced: dict[tuple[str, ...], int] = {}
        self._unknown_footprints: dict[tuple[str, ...], int] = {}
        self._attempt_failures: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._durations = _LatencyHistogram("penstock_request_duration_seconds", "From request to last byte.")
        self._first_bytes = _LatencyHistogram(
            "penstock_first_byte_seconds", "From request to the provider's first byte."
        )

    def observe_entry(self, entry: LedgerEntry) -> None:
        """Count one fact."""
        key = (entry.task_type, entry.tier, entry.deployment, entry.team)
        sums = self._sums.get(key)
        if sums is None:
            with self._lock:
                sums = self._sums[key] = [0] * len(_FIELDS)
        if entry.usage_basis != "none":
            sums[:] = map(add, sums, _entry_values(entry))
            if not entry.priced:
                self._increment(self._unpriced, (entry.deployment, entry.team))
            if entry.footprint_method == UNKNOWN_FOOTPRINT_METHOD:
                self._increment(self._unknown_footprints, (entry.deployment, entry.team))
        if entry.outcome in ("upstream_error", "cut"):
            self._increment(self._attempt_failures, (entry.deployment, entry.code))
        if not entry.final:
            return
        self._increment(self._requests, (*key, entry.outcome))
        if entry.outcome == "refused":
            self._increment(self._refusals, (entry.code, entry.team))
        else:
            self._durations.observe(entry.tier, entry.duration_ms)
            if entry.first_byte_ms:
                self._first_bytes.observe(entry.tier, entry.first_byte_ms)

    @property
    def request_count(self) -> int:
        """Requests since the start, however they ended."""
        return sum(self._requests.values())

    def count_error(self, code: str) -> None:
        """An answer that never became a ledger entry: a bad request, an unknown key, an overload."""
        self._increment(self._errors, (code,))

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type."""
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's collector interface."""
        with self._lock:
            sums = {key: tuple(values) for key, values in self._sums.items()}
            counted = (
                self._requests,
                self._refusals,
                self._errors,
                self._unpriced,
                self._unknown_footprints,
                self._attempt_failures,
            )
            tables = [dict(table) for table in counted]
        yield from _sum_families(sums)
        requests = CounterMetricFamily("penstock_requests", "Requests by how they ended.", labels=[*_LABELS, "outcome"])
        refusals = CounterMetricFamily("penstock_refusals", "Refusals by code.", labels=["code", "team"])
        errors = CounterMetricFamily("penstock_errors", "Answers without a ledger entry.", labels=["code"])
        unpriced = CounterMetricFamily(
            "penstock_unpriced", "Attempts whose price is not known.", labels=["deployment", "team"]
        )
        unknown = CounterMetricFamily(
            "penstock_unknown_footprint", "Attempts whose energy is not known.", labels=["deployment", "team"]
        )
        failures = CounterMetricFamily(
            "penstock_attempt_failures", "Attempts that did not serve.", labels=["deployment", "code"]
        )
        for family, table in zip((requests, refusals, errors, unpriced, unknown, failures), tables, strict=True):
            for labels, count in table.items():
                family.add_metric(list(labels), count)
            yield family
        yield self._durations.family()
        yield self._first_bytes.family()
        for name, text, labels_, values in self._gauges():
            gauge = GaugeMetricFamily(name, text, labels=labels_)
            for label_values, value in values:
                gauge.add_metric(label_values, value)
            yield gauge

    def _increment(self, table: dict[tuple[str, ...], int], key: tuple[str, ...]) -> None:
        if key in table:
            table[key] += 1
        else:
            with self._lock:
                table[key] = 1


class _LatencyHistogram:
    """Latency per tier in whole milliseconds: prometheus_client's own histogram walks its buckets in Python."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        # Per tier: a count for each bucket, one for what is beyond the last, and the sum in ms.
        self._tiers: dict[str, list[int]] = {}

    def observe(self, tier: str, milliseconds: int) -> None:
        """Count one duration."""
        counts = self._tiers.get(tier)
        if counts is None:
            counts = self._tiers[tier] = [0] * (len(_BUCKETS_MS) + 2)
        counts[bisect_left(_BUCKETS_MS, milliseconds)] += 1
        counts[-1] += milliseconds

    def family(self) -> HistogramMetricFamily:
        """What is exposed, in seconds."""
        family = HistogramMetricFamily(self._name, self._text, labels=["tier"])
        for tier, counts in list(self._tiers.items()):
            *buckets, total_ms = counts
            bounds = [*(str(bound / _MILLI) for bound in _BUCKETS_MS), "+Inf"]
            family.add_metric([tier], list(zip(bounds, accumulate(buckets), strict=True)), total_ms / _MILLI)
        return family


def _sum_families(sums: dict[tuple[str, ...], tuple[int, ...]]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    for place, (name, text, extra, _, scale) in enumerate(_SUMS):
        if name not in families:
            labels = [*_LABELS, _EXTRA_LABEL_BY_METRIC[name]] if name in _EXTRA_LABEL_BY_METRIC else _LABELS
            families[name] = CounterMetricFamily(name, text, labels=labels)
        for key, values in sums.items():
            families[name].add_metric([*key, extra] if extra else list(key), values[place] / scale)
    yield from families.values()
