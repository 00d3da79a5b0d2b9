"""Our estimate beside published figures, by subset: how far off, which way, how often within its bounds; EcoLogits beside it.

Errors are log2 of estimate over figure: 1 is a factor of two. A subset says what the estimate was told. `known`: sizes, precision,
hardware, how many GPUs, and how many sequences are served together, where the table has them; `unknown`: sizes, precision and
hardware; `latency`: the same and the time between tokens.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median

from ....carbon.concurrency import infer_concurrency
from ....carbon.energy import DEFAULT_HARDWARE, HARDWARE, MEDIA_FACTORS, SERVER_FACTORS, energy_models
from ....values.base import Value
from ....values.catalog import EnergyProfile
from . import ecologits
from .published_figures import PublishedFigure, quantile

# Serving as people stand it: ML.ENERGY's configurations with at least so many together and so short a time between tokens.
_SERVING_CONCURRENCY_MIN, _SERVING_LATENCY_MS_MAX = 16, 100.0


class EstimateErrors(Value, frozen=True, kw_only=True):
    """One subset: log2 errors of the mid, the share within low and high, EcoLogits' median beside it (nan: none)."""

    n: int
    median_abs_log2: float
    p90_abs_log2: float
    bias_log2: float
    coverage: float
    width_log2: float
    ecologits_median_abs_log2: float

    def to_json(self) -> dict[str, float | int | None]:
        """As JSON has it."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: None if value != value else value for name, value in found.items()}


def run(points: Sequence[PublishedFigure]) -> dict[str, EstimateErrors]:
    """Every subset that has a point."""
    found = {}
    for name, (fits, told) in SUBSETS.items():
        chosen = [point for point in points if fits(point)]
        if chosen:
            found[name] = _estimate_errors(chosen, told)
    return found


def estimate_joules(point: PublishedFigure, told: str) -> tuple[float, float, float]:
    """Joules a request, low, mid and high, at the point's boundary."""
    models = energy_models(profile_of(point, told))
    joules = []
    for bound, (model, media) in enumerate(zip(models, MEDIA_FACTORS[point.media], strict=True)):
        accelerator = model.accelerator_joules(point.input_tokens, 0, round(point.output_tokens)) * media
        joules.append(
            accelerator * {"gpu": 1.0, "it": SERVER_FACTORS[bound], "facility": model.facility_factor}[point.boundary]
        )
    return joules[0], joules[1], joules[2]


def profile_of(point: PublishedFigure, told: str) -> EnergyProfile:
    """What the estimate is told of a point."""
    profile = EnergyProfile(
        active_params_b=point.active_b,
        total_params_b=point.total_b,
        bytes_per_param=point.weight_bits / 8,
        hardware=point.hardware if point.hardware in HARDWARE else DEFAULT_HARDWARE,
        gpus=point.gpus if told == "known" and point.kind == "measured" else None,
        concurrency=point.concurrent_sequences if told == "known" else None,
    )
    if told != "latency" or point.token_latency_ms_median is None:
        return profile
    return EnergyProfile(
        active_params_b=profile.active_params_b,
        total_params_b=profile.total_params_b,
        bytes_per_param=profile.bytes_per_param,
        hardware=profile.hardware,
        concurrency=infer_concurrency(profile, point.token_latency_ms_median),
        concurrency_source="latency",
    )


def _estimate_errors(points: Sequence[PublishedFigure], told: str) -> EstimateErrors:
    logs = [[math.log2(joules / point.joules) for joules in estimate_joules(point, told)] for point in points]
    off = [abs(mid) for _, mid, _ in logs]
    rival = [abs(_ecologits_log2_error(point)) for point in points]
    return EstimateErrors(
        n=len(points),
        median_abs_log2=median(off),
        p90_abs_log2=quantile(off, 0.9),
        bias_log2=median(mid for _, mid, _ in logs),
        coverage=sum(low <= 0 <= high for low, _, high in logs) / len(logs),
        width_log2=median(high - low for low, _, high in logs),
        ecologits_median_abs_log2=median(rival) if rival else math.nan,
    )


def _ecologits_log2_error(point: PublishedFigure) -> float:
    """log2 of EcoLogits' estimate over the figure: the package's own where the table has it, else by its method."""
    if point.ecologits_log2_ratio is not None:
        return point.ecologits_log2_ratio
    told = ecologits.energy_joules(point.active_b, point.total_b, point.output_tokens, point.boundary)
    return math.log2(told / point.joules)


def _published_as(kind: str) -> Callable[[PublishedFigure], bool]:
    return lambda point: point.table == "published" and point.kind == kind


def _is_measured(point: PublishedFigure) -> bool:
    return point.table == "published" and point.kind == "measured"


def _has_concurrency(point: PublishedFigure) -> bool:
    return _is_measured(point) and point.concurrent_sequences is not None


def _is_large_mixture(point: PublishedFigure) -> bool:
    return _is_measured(point) and point.is_mixture and point.total_b > 200


def _is_mlenergy_v3(point: PublishedFigure) -> bool:
    """Text with a prompt of known length."""
    return point.table == "v3" and point.media == "text" and point.input_tokens > 0


def _is_serving_configuration(point: PublishedFigure) -> bool:
    together, latency = point.concurrent_sequences or 0, point.token_latency_ms_median or math.inf
    return _is_mlenergy_v3(point) and together >= _SERVING_CONCURRENCY_MIN and latency <= _SERVING_LATENCY_MS_MAX


# name -> (which points, what the estimate is told)
SUBSETS: dict[str, tuple[Callable[[PublishedFigure], bool], str]] = {
    "all": (lambda point: point.table == "published", "known"),
    "all_unknown": (lambda point: point.table == "published", "unknown"),
    "measured_known": (_has_concurrency, "known"),
    "measured_unknown": (_is_measured, "unknown"),
    "measured_latency": (lambda point: _is_measured(point) and point.token_latency_ms_median is not None, "latency"),
    "measured_dense_known": (lambda point: _has_concurrency(point) and not point.is_mixture, "known"),
    "measured_moe_known": (lambda point: _has_concurrency(point) and point.is_mixture, "known"),
    "moe_over_200b_known": (lambda point: _is_large_mixture(point) and point.concurrent_sequences is not None, "known"),
    "moe_over_200b": (_is_large_mixture, "unknown"),
    "derived": (_published_as("derived"), "known"),
    "modelled": (_published_as("modelled"), "known"),
    "provider_reported": (_published_as("provider_reported"), "known"),
    "mlenergy_v3_known": (_is_mlenergy_v3, "known"),
    "mlenergy_v3_unknown": (_is_mlenergy_v3, "unknown"),
    "mlenergy_v3_serving_unknown": (_is_serving_configuration, "unknown"),
    "mlenergy_v3_serving_latency": (_is_serving_configuration, "latency"),
    "mlenergy_v3_image_known": (lambda point: point.table == "v3" and point.media == "image", "known"),
    "mlenergy_v3_video_known": (lambda point: point.table == "v3" and point.media == "video", "known"),
    "mlenergy_v2_known": (lambda point: point.table == "v2", "known"),
    "mlenergy_v2_unknown": (lambda point: point.table == "v2", "unknown"),
}
