"""Errors of our energy estimate on published figures, by subset, with EcoLogits'.

Errors are log2 of estimate over figure: 1 is a factor of two. A subset defines what the estimate knows. `known`: sizes,
precision, hardware, number of GPUs, and concurrency, where the table has them; `unknown`: sizes, precision and
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

# Realistic serving: ML.ENERGY's configurations of at least this concurrency and at most this time between tokens.
_SERVING_CONCURRENCY_MIN, _SERVING_LATENCY_MS_MAX = 16, 100.0


class EstimateErrors(Value, frozen=True, kw_only=True):
    """Errors on one subset, log2 of estimate over figure.

    n: figures
    median_abs_log2, p90_abs_log2: absolute error of the mid
    bias_log2: median signed error of the mid
    coverage: share within low and high, in [0, 1]
    width_log2: median of high over low
    ecologits_median_abs_log2: EcoLogits' absolute error; nan: none
    """

    n: int
    median_abs_log2: float
    p90_abs_log2: float
    bias_log2: float
    coverage: float
    width_log2: float
    ecologits_median_abs_log2: float

    def to_json(self) -> dict[str, float | int | None]:
        """For JSON, with None for nan."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: None if value != value else value for name, value in fields.items()}


def run(points: Sequence[PublishedFigure]) -> dict[str, EstimateErrors]:
    """The errors of every subset that has a figure."""
    results = {}
    for name, (selects, knowledge) in SUBSETS.items():
        selected = [point for point in points if selects(point)]
        if selected:
            results[name] = _estimate_errors(selected, knowledge)
    return results


def estimate_joules(point: PublishedFigure, knowledge: str) -> tuple[float, float, float]:
    """Joules per request, low, mid and high, at the point's boundary.

    `knowledge`: known, unknown or latency, see the module.
    """
    models = energy_models(profile_of(point, knowledge))
    joules = []
    for bound, (model, media) in enumerate(zip(models, MEDIA_FACTORS[point.media], strict=True)):
        accelerator = model.accelerator_joules(point.input_tokens, 0, round(point.output_tokens)) * media
        joules.append(
            accelerator * {"gpu": 1.0, "it": SERVER_FACTORS[bound], "facility": model.facility_factor}[point.boundary]
        )
    return joules[0], joules[1], joules[2]


def profile_of(point: PublishedFigure, knowledge: str) -> EnergyProfile:
    """The profile that the estimate may use of a point."""
    profile = EnergyProfile(
        active_params_b=point.active_b,
        total_params_b=point.total_b,
        bytes_per_param=point.weight_bits / 8,
        hardware=point.hardware if point.hardware in HARDWARE else DEFAULT_HARDWARE,
        gpus=point.gpus if knowledge == "known" and point.kind == "measured" else None,
        concurrency=point.concurrent_sequences if knowledge == "known" else None,
    )
    if knowledge != "latency" or point.token_latency_ms_median is None:
        return profile
    return EnergyProfile(
        active_params_b=profile.active_params_b,
        total_params_b=profile.total_params_b,
        bytes_per_param=profile.bytes_per_param,
        hardware=profile.hardware,
        concurrency=infer_concurrency(profile, point.token_latency_ms_median),
        concurrency_source="latency",
    )


def _estimate_errors(points: Sequence[PublishedFigure], knowledge: str) -> EstimateErrors:
    logs = [[math.log2(joules / point.joules) for joules in estimate_joules(point, knowledge)] for point in points]
    errors = [abs(mid) for _, mid, _ in logs]
    ecologits_errors = [abs(_ecologits_log2_error(point)) for point in points]
    return EstimateErrors(
        n=len(points),
        median_abs_log2=median(errors),
        p90_abs_log2=quantile(errors, 0.9),
        bias_log2=median(mid for _, mid, _ in logs),
        coverage=sum(low <= 0 <= high for low, _, high in logs) / len(logs),
        width_log2=median(high - low for low, _, high in logs),
        ecologits_median_abs_log2=median(ecologits_errors) if ecologits_errors else math.nan,
    )


def _ecologits_log2_error(point: PublishedFigure) -> float:
    """log2 of EcoLogits' estimate over the figure.

    The package's own estimate where the table has it, else by its method.
    """
    if point.ecologits_log2_ratio is not None:
        return point.ecologits_log2_ratio
    estimate = ecologits.energy_joules(point.active_b, point.total_b, point.output_tokens, point.boundary)
    return math.log2(estimate / point.joules)


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
    concurrency, latency = point.concurrent_sequences or 0, point.token_latency_ms_median or math.inf
    return _is_mlenergy_v3(point) and concurrency >= _SERVING_CONCURRENCY_MIN and latency <= _SERVING_LATENCY_MS_MAX


# name -> (selects its points, what the estimate knows)
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
