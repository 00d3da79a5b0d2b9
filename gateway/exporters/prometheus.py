"""Prometheus: counters summed as integers and rendered as base units, so that they equal the ledger to the nano-dollar.

Labels come from closed sets (the configuration's names); a float64 renders 2**53 nUSD, nine million dollars, exactly.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add, attrgetter

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..values.entry import LedgerEntry
from ..values.units import NUSD_PER_USD

_LABELS = ["task_type", "tier", "deployment", "team"]
_MILLI, _MICRO = 1e3, 1e6
# Seconds; OpenTelemetry's advice for gen_ai durations, plus the fast end.
_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
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
    ("penstock_reference_energy_joules", "Mid energy of the same tokens on each route's most capable deployment.", "", "reference_energy_mj", _MILLI),
)  # fmt: skip
_EXTRA = {"penstock_tokens": "kind", "penstock_energy_joules": "bound", "penstock_carbon_grams": "bound"}
_FIELDS = tuple(field for _, _, _, field, _ in _SUMS)
_figures = attrgetter(*_FIELDS)

Gauges = Callable[[], Iterable[tuple[str, str, list[str], list[tuple[list[str], float]]]]]


class Metrics:
    """Sums per label set. `publish` is called on the event loop for every fact; `render` may run in a thread.

    `gauges` gives what is read at scrape time: (name, help, label names, [(label values, value)]).
    """

    def __init__(self, gauges: Gauges) -> None:
        disable_created_metrics()
        self._gauges = gauges
        self._sums: dict[tuple[str, ...], list[int]] = {}
        self._requests: dict[tuple[str, ...], int] = {}
        self._refusals: dict[tuple[str, ...], int] = {}
        self._errors: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)  # type: ignore[arg-type]
        self._duration = Histogram(
            "penstock_request_duration_seconds", "From request to last byte.", ["tier"], buckets=_BUCKETS, registry=self._registry
        )  # fmt: skip
        self._first_byte = Histogram(
            "penstock_first_byte_seconds", "From request to the provider's first byte.", ["tier"], buckets=_BUCKETS, registry=self._registry
        )  # fmt: skip
        self._durations: dict[str, tuple[Histogram, Histogram]] = {}

    def publish(self, entry: LedgerEntry) -> None:
        """Count one fact."""
        key = (entry.task_type, entry.tier, entry.deployment, entry.team)
        sums = self._sums.get(key)
        if sums is None:
            with self._lock:
                sums = self._sums[key] = [0] * len(_FIELDS)
        if entry.usage_basis != "none":
            sums[:] = map(add, sums, _figures(entry))
            if not entry.priced:
                self._count(self._errors, ("unpriced",))
        if not entry.final:
            return
        self._count(self._requests, (*key, entry.outcome))
        if entry.outcome == "refused":
            self._count(self._refusals, (entry.code, entry.team))
        else:
            duration, first_byte = self._durations.get(entry.tier) or self._children(entry.tier)
            duration.observe(entry.duration_ms / _MILLI)
            if entry.first_byte_ms:
                first_byte.observe(entry.first_byte_ms / _MILLI)

    def count_error(self, code: str) -> None:
        """An answer that never became a ledger entry: a bad request, an unknown key, an overload."""
        self._count(self._errors, (code,))

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type."""
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's collector interface."""
        with self._lock:
            sums = {key: tuple(values) for key, values in self._sums.items()}
            tables = [dict(self._requests), dict(self._refusals), dict(self._errors)]
        yield from _sum_families(sums)
        requests = CounterMetricFamily("penstock_requests", "Requests by how they ended.", labels=[*_LABELS, "outcome"])
        refusals = CounterMetricFamily("penstock_refusals", "Refusals by code.", labels=["code", "team"])
        errors = CounterMetricFamily("penstock_errors", "Answers without a ledger entry, and unpriced ones.", labels=["code"])
        for family, table in zip((requests, refusals, errors), tables, strict=True):
            for labels, count in table.items():
                family.add_metric(list(labels), count)
            yield family
        for name, text, labels_, values in self._gauges():
            gauge = GaugeMetricFamily(name, text, labels=labels_)
            for label_values, value in values:
                gauge.add_metric(label_values, value)
            yield gauge

    def _count(self, table: dict[tuple[str, ...], int], key: tuple[str, ...]) -> None:
        if key in table:
            table[key] += 1
        else:
            with self._lock:
                table[key] = 1

    def _children(self, tier: str) -> tuple[Histogram, Histogram]:
        pair = self._durations[tier] = (self._duration.labels(tier), self._first_byte.labels(tier))
        return pair


def _sum_families(sums: dict[tuple[str, ...], tuple[int, ...]]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    for place, (name, text, extra, _, scale) in enumerate(_SUMS):
        if name not in families:
            labels = [*_LABELS, _EXTRA[name]] if name in _EXTRA else _LABELS
            families[name] = CounterMetricFamily(name, text, labels=labels)
        for key, values in sums.items():
            families[name].add_metric([*key, extra] if extra else list(key), values[place] / scale)
    yield from families.values()
