"""Our estimate beside published figures, by subset: how far off, which way, how often within its bounds; EcoLogits beside it.

Errors are log2 of estimate over figure: 1 is a factor of two. A subset says what the estimate was told. `known`: sizes, precision,
hardware, how many GPUs, and how many sequences are served together, where the table has them; `unknown`: sizes, precision and
hardware; `latency`: the same and the time between tokens.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median

from ....carbon.concurrency import inferred
from ....carbon.energy import HARDWARE, MEDIA, SERVER, UNDECLARED, model_of
from ....values.base import Value
from ....values.catalog import EnergyProfile
from . import ecologits
from .published_figures import Point, quantile

# Serving as people stand it: ML.ENERGY's configurations with at least so many together and so short a time between tokens.
_SERVING_TOGETHER, _SERVING_MS = 16, 100.0


class Errors(Value, frozen=True, kw_only=True):
    """One subset: log2 errors of the mid, the share within low and high, EcoLogits' median beside it (nan: none)."""

    n: int
    median_abs_log2: float
    p90_abs_log2: float
    bias_log2: float
    coverage: float
    width_log2: float
    ecologits_median_abs_log2: float

    def document(self) -> dict[str, float | int | None]:
        """As JSON has it."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: None if value != value else value for name, value in found.items()}


def run(points: Sequence[Point]) -> dict[str, Errors]:
    """Every subset that has a point."""
    found = {}
    for name, (fits, told) in SUBSETS.items():
        chosen = [point for point in points if fits(point)]
        if chosen:
            found[name] = _errors(chosen, told)
    return found


def estimate(point: Point, told: str) -> tuple[float, float, float]:
    """Joules a request, low, mid and high, at the point's boundary."""
    models = model_of(profile_of(point, told))
    joules = []
    for bound, (model, media) in enumerate(zip(models, MEDIA[point.media], strict=True)):
        accelerator = model.accelerator_joules(point.input_tokens, 0, round(point.output_tokens)) * media
        joules.append(accelerator * {"gpu": 1.0, "it": SERVER[bound], "facility": model.facility}[point.boundary])
    return joules[0], joules[1], joules[2]


def profile_of(point: Point, told: str) -> EnergyProfile:
    """What the estimate is told of a point."""
    profile = EnergyProfile(
        active_params_b=point.active_b,
        total_params_b=point.total_b,
        bytes_per_param=point.bits / 8,
        hardware=point.hardware if point.hardware in HARDWARE else UNDECLARED,
        gpus=point.gpus if told == "known" and point.kind == "measured" else None,
        concurrency=point.concurrency if told == "known" else None,
    )
    if told != "latency" or point.latency_ms is None:
        return profile
    return EnergyProfile(
        active_params_b=profile.active_params_b,
        total_params_b=profile.total_params_b,
        bytes_per_param=profile.bytes_per_param,
        hardware=profile.hardware,
        concurrency=inferred(profile, point.latency_ms),
        concurrency_source="latency",
    )


def _errors(points: Sequence[Point], told: str) -> Errors:
    logs = [[math.log2(joules / point.joules) for joules in estimate(point, told)] for point in points]
    off = [abs(mid) for _, mid, _ in logs]
    rival = [abs(_rival(point)) for point in points]
    return Errors(
        n=len(points),
        median_abs_log2=median(off),
        p90_abs_log2=quantile(off, 0.9),
        bias_log2=median(mid for _, mid, _ in logs),
        coverage=sum(low <= 0 <= high for low, _, high in logs) / len(logs),
        width_log2=median(high - low for low, _, high in logs),
        ecologits_median_abs_log2=median(rival) if rival else math.nan,
    )


def _rival(point: Point) -> float:
    """log2 of EcoLogits' estimate over the figure: the package's own where the table has it, else by its method."""
    if point.ecologits is not None:
        return point.ecologits
    told = ecologits.joules(point.active_b, point.total_b, point.output_tokens, point.boundary)
    return math.log2(told / point.joules)


def _published(kind: str) -> Callable[[Point], bool]:
    return lambda point: point.table == "published" and point.kind == kind


def _measured(point: Point) -> bool:
    return point.table == "published" and point.kind == "measured"


def _together(point: Point) -> bool:
    return _measured(point) and point.concurrency is not None


def _large(point: Point) -> bool:
    return _measured(point) and point.mixture and point.total_b > 200


def _v3(point: Point) -> bool:
    """Text with a prompt of known length."""
    return point.table == "v3" and point.media == "text" and point.input_tokens > 0


def _serving(point: Point) -> bool:
    together, latency = point.concurrency or 0, point.latency_ms or math.inf
    return _v3(point) and together >= _SERVING_TOGETHER and latency <= _SERVING_MS


# name -> (which points, what the estimate is told)
SUBSETS: dict[str, tuple[Callable[[Point], bool], str]] = {
    "all": (lambda point: point.table == "published", "known"),
    "all_unknown": (lambda point: point.table == "published", "unknown"),
    "measured_known": (_together, "known"),
    "measured_unknown": (_measured, "unknown"),
    "measured_latency": (lambda point: _measured(point) and point.latency_ms is not None, "latency"),
    "measured_dense_known": (lambda point: _together(point) and not point.mixture, "known"),
    "measured_moe_known": (lambda point: _together(point) and point.mixture, "known"),
    "moe_over_200b_known": (lambda point: _large(point) and point.concurrency is not None, "known"),
    "moe_over_200b": (_large, "unknown"),
    "derived": (_published("derived"), "known"),
    "modelled": (_published("modelled"), "known"),
    "provider_reported": (_published("provider_reported"), "known"),
    "mlenergy_v3_known": (_v3, "known"),
    "mlenergy_v3_unknown": (_v3, "unknown"),
    "mlenergy_v3_serving_unknown": (_serving, "unknown"),
    "mlenergy_v3_serving_latency": (_serving, "latency"),
    "mlenergy_v3_image_known": (lambda point: point.table == "v3" and point.media == "image", "known"),
    "mlenergy_v3_video_known": (lambda point: point.table == "v3" and point.media == "video", "known"),
    "mlenergy_v2_known": (lambda point: point.table == "v2", "known"),
    "mlenergy_v2_unknown": (lambda point: point.table == "v2", "unknown"),
}
