"""Metric families that are read when Prometheus scrapes, as plain values."""

from collections.abc import Iterable, Sequence
from typing import Literal

from .base import Value

Samples = float | Iterable[tuple[Sequence[str], float]]


class MetricFamily(Value, frozen=True, kw_only=True):
    """One metric family at a scrape.

    name: as exposed, in base units; a counter's ends in `_total`
    help: one sentence
    kind: counter (since the process began) or gauge
    label_names: names of its labels, from closed sets
    samples: (label values, value)
    """

    name: str
    help: str
    kind: Literal["counter", "gauge"]
    label_names: tuple[str, ...]
    samples: tuple[tuple[tuple[str, ...], float], ...]

    def __post_init__(self) -> None:
        assert (self.kind == "counter") == self.name.endswith("_total"), f"{self.name}: counters alone end in _total"


def counter(name: str, help: str, samples: Samples, labels: tuple[str, ...] = ()) -> MetricFamily:
    """A count since the process began.

    `samples` is one number where there are no labels.
    """
    return MetricFamily(name=name, help=help, kind="counter", label_names=labels, samples=_samples(samples))


def gauge(name: str, help: str, samples: Samples, labels: tuple[str, ...] = ()) -> MetricFamily:
    """The current value; `samples` is one number where there are no labels."""
    return MetricFamily(name=name, help=help, kind="gauge", label_names=labels, samples=_samples(samples))


def _samples(samples: Samples) -> tuple[tuple[tuple[str, ...], float], ...]:
    if isinstance(samples, int | float):
        return (((), float(samples)),)
    return tuple((tuple(labels), float(value)) for labels, value in samples)
