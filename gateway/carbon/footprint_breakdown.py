"""The arithmetic of one footprint, line by line, as `penstock explain` shows it.

The lines add up to what footprint.py gives.
"""

import math
from collections.abc import Sequence

from ..values.base import Value
from ..values.catalog import EnergyModel, EnergyProfile
from ..values.grid import CarbonIntensity
from ..values.units import JOULES_PER_KWH, MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, Bounds
from ..values.usage import Usage
from .energy import SERVER_FACTORS, concurrency_bounds, energy_models, engine_factor, gpu_count, step_terms
from .footprint import EMBODIED_GRAMS_PER_KWH, footprint

_MILLIJOULES_PER_JOULE, _WH_PER_KWH = 1000.0, 1000.0


class BreakdownLine(Value, frozen=True, kw_only=True):
    """One line.

    name: what it is
    low, mid, high: in `unit`
    formula: in words
    """

    name: str
    low: float
    mid: float
    high: float
    unit: str
    formula: str = ""


def breakdown(
    profile: EnergyProfile, intensity: CarbonIntensity, usage: Usage, *, has_images: bool = False
) -> list[BreakdownLine]:
    """Every step from tokens to grams, in order of computation."""
    models, concurrency = energy_models(profile), concurrency_bounds(profile)
    input_tokens, output_tokens, cached = usage.input, usage.output, usage.cached_input
    fresh, context = input_tokens - cached, input_tokens + output_tokens / 2
    steps, tokens = [], []
    for bound, model in enumerate(models):
        step, token = step_terms(profile, max(1.0, concurrency[bound]), bound)
        share = step / max(1.0, concurrency[bound])
        # The common factor of both (engine, hardware, meter, residual), from their scaled sum.
        factor = model.per_output / (share + token)
        steps.append(output_tokens * share * factor)
        tokens.append(output_tokens * token * factor)
    lines = [
        _breakdown_line(
            "together", concurrency, "sequences", f"{profile.concurrency_source}: how many share each step"
        ),
        _breakdown_line(
            "GPUs",
            [gpu_count(profile, bound) for bound in range(3)],
            "",
            "declared" if profile.gpus else "as the weights need",
        ),
        _breakdown_line(
            "decode, steps", steps, "J", f"{output_tokens:,} output tokens x (weights streamed + fixed) / together"
        ),
        _breakdown_line(
            "decode, tokens", tokens, "J", f"{output_tokens:,} output tokens x (arithmetic + fixed + collectives)"
        ),
        _breakdown_line(
            "decode, context",
            [output_tokens * model.per_output_context * context for model in models],
            "J",
            f"{output_tokens:,} x {context:,.0f} tokens of context",
        ),
        _breakdown_line(
            "prefill", [fresh * model.per_input for model in models], "J", f"{fresh:,} uncached input tokens"
        ),
        _breakdown_line(
            "prefill, attention",
            [fresh * model.per_input_squared * input_tokens for model in models],
            "J",
            f"{fresh:,} x {input_tokens:,} tokens",
        ),
        _breakdown_line(
            "prefill, cached",
            [cached * model.per_input * model.cached_input_share for model in models],
            "J",
            f"{cached:,} cached input tokens",
        ),
    ]
    return lines + _total_lines(profile, models, intensity, usage, pictures=has_images)


def _total_lines(
    profile: EnergyProfile,
    models: tuple[EnergyModel, EnergyModel, EnergyModel],
    intensity: CarbonIntensity,
    usage: Usage,
    *,
    pictures: bool,
) -> list[BreakdownLine]:
    accelerator = [model.accelerator_joules(usage.input, usage.cached_input, usage.output) for model in models]
    total = footprint(models, intensity, usage, has_images=pictures)
    energy, grid = _scaled_bounds(total.energy_millijoules, MILLIJOULES_PER_WH), intensity.grams_per_kwh
    embodied = [
        joules * per_kwh / JOULES_PER_KWH for joules, per_kwh in zip(accelerator, EMBODIED_GRAMS_PER_KWH, strict=True)
    ]
    how = "at the facility's meter" + ", images widen the high bound" * pictures
    grams = f"x {grid:.4g} g/kWh, {intensity.zone} ({intensity.source})"
    return [
        _breakdown_line("accelerator", accelerator, "J", "the sum"),
        _breakdown_line("x server", SERVER_FACTORS, "", "host and provisioned idle"),
        _breakdown_line("x PUE", profile.pue, "", "the building"),
        _breakdown_line("energy", _scaled_bounds(total.energy_millijoules, _MILLIJOULES_PER_JOULE), "J", how),
        _breakdown_line("energy", energy, "Wh"),
        _breakdown_line("operational", [wh / _WH_PER_KWH * grid for wh in energy], "g", grams),
        _breakdown_line("embodied", embodied, "g", "40, 70, 140 g per accelerator kWh"),
        _breakdown_line(
            "carbon", _scaled_bounds(total.carbon_micrograms, MICROGRAMS_PER_GRAM), "g CO2e", "operational + embodied"
        ),
    ]


def _scaled_bounds(bounds: Bounds, per: float) -> tuple[float, float, float]:
    return bounds.low / per, bounds.mid / per, bounds.high / per


def factors_text(profile: EnergyProfile) -> str:
    """The factors on a deployment's joules beside the formula, in words; "": none."""
    factors = {
        "older engine": engine_factor(profile),
        "hardware": profile.hardware_factor,
        "meter": profile.meter_scale,
    }
    return ", ".join(f"{name} x {factor:.3g}" for name, factor in factors.items() if not math.isclose(factor, 1.0))


def _breakdown_line(name: str, bounds: Sequence[float], unit: str, how: str = "") -> BreakdownLine:
    low, mid, high = bounds
    return BreakdownLine(name=name, low=low, mid=mid, high=high, unit=unit, formula=how)
