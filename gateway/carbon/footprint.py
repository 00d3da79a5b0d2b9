"""Footprint of one request: (energy x intensity) + embodied, low-mid-high (Software Carbon Intensity, ISO/IEC 21031).

Location-based average intensity; training is outside the boundary (the gateway is a consumer in SCI-for-AI's terms).
"""

import math
from dataclasses import replace

from ..values.catalog import UNKNOWN_FOOTPRINT_METHOD, Deployment, EnergyModel, EnergyProfile, Footprint
from ..values.grid import CarbonIntensity
from ..values.units import JOULES_PER_KWH, MICROGRAMS_PER_GRAM, Bounds
from ..values.usage import Usage
from .energy import METHOD, energy_models

# Embodied gCO2e per accelerator kWh: 8xH100 server 7,884 kg over 3 years at 550 W a GPU = 68; Google's own share 71.
EMBODIED_GRAMS_PER_KWH = (40.0, 70.0, 140.0)
_MILLIJOULES_PER_JOULE = 1000.0
_MICROGRAMS_PER_JOULE = MICROGRAMS_PER_GRAM / JOULES_PER_KWH
# Pictures widen the high bound: 95 % over the median of ML.ENERGY v3's picture tasks (2.07 / 1.28). What they come to in tokens is
# counted as input already, so the mid stays.
_IMAGES_HIGH_FACTOR = 1.62
# The numbers above: with energy.py's what a data version is made of.
COEFFICIENTS = (EMBODIED_GRAMS_PER_KWH, _IMAGES_HIGH_FACTOR)
# Where the figures end: the data centre's own meter, with host, idle, cooling.
BOUNDARY = "facility"

UNKNOWN_FOOTPRINT = Footprint(energy_millijoules=Bounds(0, 0, 0), carbon_micrograms=Bounds(0, 0, 0))

EnergyModels = tuple[EnergyModel, EnergyModel, EnergyModel]


def with_footprint_model(
    deployment: Deployment, profile: EnergyProfile | None, intensity: CarbonIntensity
) -> Deployment:
    """The deployment with what is known of its weights, machine and grid now, everything but the tokens multiplied out."""
    return replace(
        deployment,
        energy_profile=profile,
        energy_models=energy_models(profile) if profile is not None else None,
        intensity=intensity,
        footprint_method=footprint_method(profile, intensity, deployment.data_version),
    )


def footprint_method(profile: EnergyProfile | None, intensity: CarbonIntensity, data_version: str) -> str:
    """What figures are labelled with: `modelled-2+declared/facility/annual_country/1a2b3c4d`, which is the formula and how
    concurrency is known (`+metered`: with a meter's correction; `+guess`: the weights are a registry's guess), the boundary,
    how the intensity was come by, and the version of the tables."""
    if profile is None:
        return UNKNOWN_FOOTPRINT_METHOD
    energy = METHOD if profile.concurrency is None else f"{METHOD}+{profile.concurrency_source}"
    energy += "+metered" * profile.is_metered + "+guess" * (profile.source == "ecologits")
    return f"{energy}/{BOUNDARY}/{intensity.source}/{data_version}"


def footprint(models: EnergyModels, intensity: CarbonIntensity, usage: Usage, *, pictures: bool = False) -> Footprint:
    """Energy at the facility's meter and carbon of `usage`; `pictures`: the request holds some."""
    grid, given, cached, written = intensity.grams_per_kwh, usage.input, usage.cached_input, usage.output
    low, mid, high = models
    first, second, third = EMBODIED_GRAMS_PER_KWH
    energy_low, carbon_low, _ = _bound_footprint(low, first, grid, given, cached, written)
    energy, carbon, embodied = _bound_footprint(mid, second, grid, given, cached, written)
    energy_high, carbon_high, _ = _bound_footprint(high, third, grid, given, cached, written)
    if pictures:
        energy_high, carbon_high = round(energy_high * _IMAGES_HIGH_FACTOR), round(carbon_high * _IMAGES_HIGH_FACTOR)
    market = intensity.market_grams_per_kwh
    return Footprint(
        energy_millijoules=Bounds(energy_low, energy, energy_high),
        carbon_micrograms=Bounds(carbon_low, carbon, carbon_high),
        embodied_micrograms=embodied,
        market_micrograms=carbon
        if market is None
        else embodied + round(energy / _MILLIJOULES_PER_JOULE * market * _MICROGRAMS_PER_JOULE),
    )


def _bound_footprint(
    model: EnergyModel, embodied: float, grid: float, given: int, cached: int, written: int
) -> tuple[int, int, int]:
    """(mJ, ug, ug embodied) by one bound's formula."""
    accelerator = model.accelerator_joules(given, cached, written)
    facility, made = accelerator * model.facility_factor, accelerator * embodied * _MICROGRAMS_PER_JOULE
    return round(facility * _MILLIJOULES_PER_JOULE), round(facility * grid * _MICROGRAMS_PER_JOULE + made), round(made)


def operational_micrograms(millijoules: int, intensity: CarbonIntensity, signal: str) -> int:
    """Operational carbon of facility energy alone, what plans compare: by the marginal intensity where that is the signal and
    a feed tells it, else by the average."""
    grams = intensity.marginal_grams_per_kwh if signal == "marginal" else None
    return round(
        millijoules
        / _MILLIJOULES_PER_JOULE
        * (intensity.grams_per_kwh if grams is None else grams)
        * _MICROGRAMS_PER_JOULE
    )


def carbon_micrograms_at(models: EnergyModels, grams_per_kwh: float, millijoules: int) -> int:
    """Carbon of so much facility energy on a grid of that intensity, embodied included, by the mid estimate."""
    joules = millijoules / _MILLIJOULES_PER_JOULE
    made = joules / models[1].facility_factor * EMBODIED_GRAMS_PER_KWH[1]
    return round((joules * grams_per_kwh + made) * _MICROGRAMS_PER_JOULE)


def carbon_hold_micrograms(models: EnergyModels, intensity: CarbonIntensity, mj: int) -> int:
    """What is held for a call of so many mJ at the facility's meter, embodied included: no less than `footprint`'s mid
    says of such a call, in spite of both roundings."""
    facility = (mj + 1) / _MILLIJOULES_PER_JOULE
    grams = facility * intensity.grams_per_kwh + facility / models[1].facility_factor * EMBODIED_GRAMS_PER_KWH[1]
    return math.ceil(grams * _MICROGRAMS_PER_JOULE)


def energy_millijoules_mid(models: EnergyModels, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> int:
    """The mid estimate alone: what plans compare and budgets hold."""
    mid = models[1]
    return round(
        mid.accelerator_joules(input_tokens, cached_tokens, output_tokens)
        * mid.facility_factor
        * _MILLIJOULES_PER_JOULE
    )
