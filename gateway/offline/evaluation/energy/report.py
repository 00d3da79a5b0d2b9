"""The energy benchmark as plain text."""

from collections.abc import Iterator, Mapping

from ..report import table
from .benchmark import SUBSETS, EstimateErrors


def render(results: Mapping[str, EstimateErrors]) -> Iterator[str]:
    """The whole report, one section at a time."""
    rows = [
        [
            name, SUBSETS[name][1], f"{errors.n:,}", f"{errors.median_abs_log2:.2f}", f"{errors.p90_abs_log2:.2f}",
            f"{errors.bias_log2:+.2f}", f"{errors.coverage:.0%}", f"{errors.width_log2:.1f}",
            f"{errors.ecologits_median_abs_log2:.2f}",
        ]
        for name, errors in results.items()
    ]  # fmt: skip
    head = ("", "concurrency", "n", "median", "p90", "bias", "in band", "band", "EcoLogits 0.11")
    yield table("Energy a request, |log2| of estimate over published figure", head, rows)
    yield (
        "1.0 is a factor of two. Bias: median signed error. Band: high over low, log2. 'known': the table's concurrency\n"
        "(the prior where it has none); 'latency': inferred from the time between tokens.\n"
    )
