"""Prometheus: counters summed as integers and rendered as base units, so that they equal the ledger to the nano-dollar.

Counters only grow: what corrections take back is counted apart, to be subtracted. Labels come from closed sets (the configuration's names); a float64 renders 2**53 nUSD, nine million dollars, exactly.
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
from ..values.metric import MetricFamily
from ..values.units import NUSD_PER_USD

_LABELS = ["task_type", "tier", "deployment", "team"]
_MILLI, _MICRO = 1e3, 1e6
# A charge differs from a reported cost where the difference is more than the hundredth part of it.
_DIFFERENCES_COUNTED_ABOVE = 100
# Bucket bounds in ms. Durations: OpenTelemetry's for gen_ai; overhead: finer, for a gateway adds a millisecond or less.
_DURATION_BOUNDS_MS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 20480, 40960, 81920)
_OVERHEAD_BOUNDS_MS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# (metric, help, extra label value or "", entry field, units per base unit)
_SUMS: Sequence[tuple[str, str, str, str, float]] = (
    ("penstock_tokens", "Tokens by kind; input includes cached_input and cache_write, output includes reasoning.", "input", "input_tokens", 1),
    ("penstock_tokens", "", "cached_input", "cached_input_tokens", 1),
    ("penstock_tokens", "", "cache_write", "cache_write_tokens", 1),
    ("penstock_tokens", "", "output", "output_tokens", 1),
    ("penstock_tokens", "", "reasoning", "reasoning_tokens", 1),
    ("penstock_charge_usd", "Charges in US dollars.", "", "charge_nusd", NUSD_PER_USD),
    ("penstock_reported_cost_usd", "Costs in US dollars that providers report with their answers.", "", "reported_cost_nusd", NUSD_PER_USD),
    ("penstock_reference_usd", "Charges in US dollars had each route's most capable deployment served the same tokens.", "", "reference_nusd", NUSD_PER_USD),
    ("penstock_energy_joules", "Modeled facility energy in joules.", "low", "energy_mj_low", _MILLI),
    ("penstock_energy_joules", "", "mid", "energy_mj_mid", _MILLI),
    ("penstock_energy_joules", "", "high", "energy_mj_high", _MILLI),
    ("penstock_carbon_grams", "Operational (location-based) and embodied carbon in gCO2e.", "low", "carbon_ug_low", _MICRO),
    ("penstock_carbon_grams", "", "mid", "carbon_ug_mid", _MICRO),
    ("penstock_carbon_grams", "", "high", "carbon_ug_high", _MICRO),
    ("penstock_embodied_grams", "Embodied part of the mid carbon in gCO2e.", "", "embodied_ug", _MICRO),
    ("penstock_market_carbon_grams", "Mid carbon by market-based accounting in gCO2e; location-based where no contract is configured.", "", "market_carbon_ug", _MICRO),
    ("penstock_reference_carbon_grams", "Mid carbon in gCO2e had each route's most capable deployment served the same tokens.", "", "reference_carbon_ug", _MICRO),
    ("penstock_undeferred_carbon_grams", "Mid carbon in gCO2e had no request been deferred.", "", "undeferred_carbon_ug", _MICRO),
    ("penstock_reference_energy_joules", "Mid energy in joules had each route's most capable deployment served the same tokens.", "", "reference_energy_mj", _MILLI),
)  # fmt: skip
_EXTRA_LABEL_BY_METRIC = {
    "penstock_tokens": "kind",
    "penstock_energy_joules": "bound",
    "penstock_carbon_grams": "bound",
}
# What corrections took back is counted under the same name with this prefix.
_PREFIX, _CORRECTED_PREFIX = "penstock_", "penstock_corrected_"
_FIELDS = tuple(field for _, _, _, field, _ in _SUMS)
_entry_values = attrgetter(*_FIELDS)


class Metrics:
    """Sums of ledger entries per label set, and latency histograms.

    `observe_entry` and `observe_latency` are called on the event loop; `render` may run in a thread.
    scraped: gives the metric families that are read at a scrape
    """

    def __init__(self, scraped: Callable[[], Iterable[MetricFamily]]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._scraped = scraped
        self._sums: dict[tuple[str, ...], list[int]] = {}
        self._corrected_sums: dict[tuple[str, ...], list[int]] = {}
        self._requests: dict[tuple[str, ...], int] = {}
        self._refusals: dict[tuple[str, ...], int] = {}
        # Present at zero from the start, so that rate() sees the first error.
        self._errors: dict[tuple[str, ...], int] = {(code,): 0 for code in ("internal_error", "overloaded")}
        self._unpriced: dict[tuple[str, ...], int] = {}
        self._reported_differences: dict[tuple[str, ...], int] = {}
        self._differing_costs: dict[tuple[str, ...], int] = {}
        self._unknown_footprints: dict[tuple[str, ...], int] = {}
        self._attempt_failures: dict[tuple[str, ...], int] = {}
        self._translation_losses: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._request_durations = _Histogram(
            "penstock_request_duration_seconds",
            "Time from request to last byte.",
            ("route", "tier"),
            _DURATION_BOUNDS_MS,
        )
        self._first_bytes = _Histogram(
            "penstock_time_to_first_byte_seconds",
            "Time from request to the provider's first byte.",
            ("deployment",),
            _DURATION_BOUNDS_MS,
        )
        self._upstream_durations = _Histogram(
            "penstock_upstream_duration_seconds",
            "Time from dialing a deployment to the end of its answer.",
            ("deployment",),
            _DURATION_BOUNDS_MS,
        )
        self._overheads = _Histogram(
            "penstock_gateway_overhead_seconds",
            "Time in the gateway without the upstream and without deferral.",
            (),
            _OVERHEAD_BOUNDS_MS,
        )

    def observe_entry(self, entry: LedgerEntry) -> None:
        """Count one ledger entry."""
        key = (entry.task_type, entry.tier, entry.deployment, entry.team)
        sums = self._sums.get(key)
        if sums is None:
            with self._lock:
                sums = self._sums[key] = [0] * len(_FIELDS)
        if entry.outcome == "corrected":
            self._observe_correction(key, sums, entry)
            return
        if entry.code == "usage_pending":
            # Present at zero, so that increase() sees the first correction.
            self._corrected_sums_of(key)
        if entry.usage_basis != "none":
            sums[:] = map(add, sums, _entry_values(entry))
            if entry.reported_cost_nusd and entry.priced:
                self._compare_with_reported(entry)
            if not entry.priced or entry.unpriced_parts:
                self._increment(self._unpriced, (entry.deployment, entry.team))
            if entry.footprint_method == UNKNOWN_FOOTPRINT_METHOD:
                self._increment(self._unknown_footprints, (entry.deployment, entry.team))
        if entry.outcome in ("upstream_error", "cut"):
            self._increment(self._attempt_failures, (entry.deployment, entry.code))
        if entry.answer_losses:
            self._count_losses(entry)
        if not entry.final:
            return
        self._increment(self._requests, (*key, entry.outcome))
        if entry.outcome == "refused":
            self._increment(self._refusals, (entry.code, entry.team))
        else:
            self._request_durations.observe((entry.route, entry.tier), entry.duration_ms)
            if entry.first_byte_ms:
                self._first_bytes.observe((entry.deployment,), entry.first_byte_ms)

    def _observe_correction(self, key: tuple[str, ...], sums: list[int], entry: LedgerEntry) -> None:
        """Count the differences of a correction: what it adds, and apart from that what it takes back."""
        corrected = self._corrected_sums_of(key)
        for place, difference in enumerate(_entry_values(entry)):
            if difference > 0:
                sums[place] += difference
            else:
                corrected[place] -= difference

    def _corrected_sums_of(self, key: tuple[str, ...]) -> list[int]:
        sums = self._corrected_sums.get(key)
        if sums is None:
            with self._lock:
                sums = self._corrected_sums[key] = [0] * len(_FIELDS)
        return sums

    def _compare_with_reported(self, entry: LedgerEntry) -> None:
        """Count how far the charge is from the cost that the provider reports."""
        difference = abs(entry.charge_nusd - entry.reported_cost_nusd)
        with self._lock:
            self._reported_differences[(entry.deployment,)] = (
                self._reported_differences.get((entry.deployment,), 0) + difference
            )
        if difference * _DIFFERENCES_COUNTED_ABOVE > entry.reported_cost_nusd:
            self._increment(self._differing_costs, (entry.deployment,))

    def observe_latency(self, deployment: str, upstream_ms: float, overhead_ms: float | None) -> None:
        """Count the time of one attempt; `overhead_ms` is that of its request, None before the last attempt."""
        self._upstream_durations.observe((deployment,), upstream_ms)
        if overhead_ms is not None:
            self._overheads.observe((), overhead_ms)

    @property
    def request_count(self) -> int:
        """Requests since the process began, of any outcome."""
        return sum(self._requests.values())

    def count_error(self, code: str) -> None:
        """Count an error response without a ledger entry: a bad request, an invalid key, an overload."""
        self._increment(self._errors, (code,))

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type."""
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's collector interface."""
        with self._lock:
            sums = {key: tuple(values) for key, values in self._sums.items()}
            corrected = {key: tuple(values) for key, values in self._corrected_sums.items()}
            counted = (
                self._requests,
                self._refusals,
                self._errors,
                self._unpriced,
                self._unknown_footprints,
                self._attempt_failures,
                self._translation_losses,
                self._differing_costs,
            )
            tables = [dict(table) for table in counted]
            differences = dict(self._reported_differences)
        yield from _sum_families(sums)
        yield from _sum_families(corrected, corrected=True)
        requests = CounterMetricFamily("penstock_requests", "Requests by outcome.", labels=[*_LABELS, "outcome"])
        refusals = CounterMetricFamily("penstock_refusals", "Refusals by code.", labels=["code", "team"])
        errors = CounterMetricFamily(
            "penstock_errors", "Error responses without a ledger entry, by code.", labels=["code"]
        )
        unpriced = CounterMetricFamily(
            "penstock_unpriced_attempts", "Attempts without a known price.", labels=["deployment", "team"]
        )
        unknown = CounterMetricFamily(
            "penstock_unknown_footprint_attempts",
            "Attempts without a known energy model.",
            labels=["deployment", "team"],
        )
        failures = CounterMetricFamily(
            "penstock_attempt_failures",
            "Failed attempts, those recovered by a fallback included.",
            labels=["deployment", "code"],
        )
        losses = CounterMetricFamily(
            "penstock_translation_dropped",
            "Translated answers of which a part did not reach the caller, by the provider's and the caller's dialect.",
            labels=["from", "to", "kind"],
        )
        differing = CounterMetricFamily(
            "penstock_differing_costs",
            "Attempts whose charge differs by more than 1 % from the cost that the provider reports.",
            labels=["deployment"],
        )
        families = (requests, refusals, errors, unpriced, unknown, failures, losses, differing)
        for family, table in zip(families, tables, strict=True):
            for labels, count in table.items():
                family.add_metric(list(labels), count)
            yield family
        difference = CounterMetricFamily(
            "penstock_reported_cost_difference_usd",
            "Absolute differences in US dollars between charges and the costs that providers report.",
            labels=["deployment"],
        )
        for labels, nusd in differences.items():
            difference.add_metric(list(labels), nusd / NUSD_PER_USD)
        yield difference
        for histogram in (self._request_durations, self._first_bytes, self._upstream_durations, self._overheads):
            yield histogram.family()
        for scraped in self._scraped():
            kind = CounterMetricFamily if scraped.kind == "counter" else GaugeMetricFamily
            exposed = kind(scraped.name, scraped.help, labels=scraped.label_names)
            for label_values, value in scraped.samples:
                exposed.add_metric(label_values, value)
            yield exposed

    def _count_losses(self, entry: LedgerEntry) -> None:
        """Count each kind of loss of a translated answer once."""
        caller, _, provider = entry.translation.partition(" to ")
        for kind in {loss.partition(":")[0] for loss in entry.answer_losses.split("; ")}:
            self._increment(self._translation_losses, (provider, caller, kind))

    def _increment(self, table: dict[tuple[str, ...], int], key: tuple[str, ...]) -> None:
        if key in table:
            table[key] += 1
        else:
            with self._lock:
                table[key] = 1


class _Histogram:
    """Latency in milliseconds by label values; prometheus_client's own walks its buckets in Python."""

    def __init__(self, name: str, help: str, label_names: tuple[str, ...], bounds_ms: Sequence[float]) -> None:
        self._name, self._help, self._label_names, self._bounds_ms = name, help, label_names, bounds_ms
        # Per label values: a count for each bucket, one for what is beyond the last, and the sum in ms.
        self._series: dict[tuple[str, ...], list[float]] = {}

    def observe(self, labels: tuple[str, ...], milliseconds: float) -> None:
        """Count one duration."""
        counts = self._series.get(labels)
        if counts is None:
            counts = self._series[labels] = [0] * (len(self._bounds_ms) + 2)
        counts[bisect_left(self._bounds_ms, milliseconds)] += 1
        counts[-1] += milliseconds

    def family(self) -> HistogramMetricFamily:
        """The histogram as exposed, in seconds."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._label_names)
        bounds = [*(str(bound / _MILLI) for bound in self._bounds_ms), "+Inf"]
        for labels, counts in list(self._series.items()):
            *buckets, total_ms = counts
            family.add_metric(labels, list(zip(bounds, accumulate(buckets), strict=True)), total_ms / _MILLI)
        return family


def _sum_families(sums: dict[tuple[str, ...], tuple[int, ...]], *, corrected: bool = False) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    for place, (name, text, extra, _, scale) in enumerate(_SUMS):
        if name not in families:
            labels = [*_LABELS, _EXTRA_LABEL_BY_METRIC[name]] if name in _EXTRA_LABEL_BY_METRIC else _LABELS
            shown, help_text = name, text
            if corrected:
                shown = name.replace(_PREFIX, _CORRECTED_PREFIX, 1)
                help_text = f"What corrections took back of {name}_total."
            families[name] = CounterMetricFamily(shown, help_text, labels=labels)
        for key, values in sums.items():
            families[name].add_metric([*key, extra] if extra else list(key), values[place] / scale)
    yield from families.values()
