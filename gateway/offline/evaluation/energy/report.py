"""The trial as plain text."""

from collections.abc import Iterator, Mapping

from ..report import table
from .benchmark import SUBSETS, EstimateErrors


def render(found: Mapping[str, EstimateErrors]) -> Iterator[str]:
    """The whole report, one piece at a time."""
    rows = [
        [
            name, SUBSETS[name][1], f"{one.n:,}", f"{one.median_abs_log2:.2f}", f"{one.p90_abs_log2:.2f}",
            f"{one.bias_log2:+.2f}", f"{one.coverage:.0%}", f"{one.width_log2:.1f}",
            f"{one.ecologits_median_abs_log2:.2f}",
        ]
        for name, one in found.items()
    ]  # fmt: skip
    head = ("", "concurrency", "n", "median", "p90", "bias", "in band", "band", "EcoLogits 0.11")
    yield table("Energy a request, |log2| of estimate over published figure", head, rows)
    yield (
        "1.0 is a factor of two. Bias: median of the signed error. Band: high over low, log2. 'known': how many sequences are\n"
        "served together, as the table says (where it does not say: the prior); 'latency': inferred from the time between tokens.\n"
    )
