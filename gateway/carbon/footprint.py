"""Footprint of one request: energy x intensity + embodied (SCI, ISO/IEC 21031).

Location-based average intensity, low-mid-high; training is outside the boundary (the gateway is a consumer in
SCI-for-AI's terms).
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
# Images widen the high bound: 95 % over the median of ML.ENERGY v3's image tasks (2.07 / 1.28). Their tokens are
# counted as input already, so the mid stays.
_IMAGES_HIGH_FACTOR = 1.62
# Hashed into a data version, with energy.py's.
COEFFICIENTS = (EMBODIED_GRAMS_PER_KWH, _IMAGES_HIGH_FACTOR)
# The boundary of the figures: the data center's meter, with host, idle, cooling.
BOUNDARY = "facility"

UNKNOWN_FOOTPRINT = Footprint(energy_millijoules=Bounds(0, 0, 0), carbon_micrograms=Bounds(0, 0, 0))

EnergyModels = tuple[EnergyModel, EnergyModel, EnergyModel]


def with_footprint_model(
    deployment: Deployment, profile: EnergyProfile | None, intensity: CarbonIntensity
) -> Deployment:
    """The deployment with its current profile and grid, its energy models computed."""
    return replace(
        deployment,
        energy_profile=profile,
        energy_models=energy_models(profile) if profile is not None else None,
        intensity=intensity,
        footprint_method=footprint_method(profile, intensity, deployment.data_version),
    )


def footprint_method(profile: EnergyProfile | None, intensity: CarbonIntensity, data_version: str) -> str:
    """The label of figures: `modelled-2+declared/facility/annual_country/1a2b3c4d`.

    The formula with how concurrency is known (`+metered`: corrected by a meter; `+guess`: the weights are a registry's
    estimate), the boundary, how the intensity was obtained, and the version of the tables.
    """
    if profile is None:
        return UNKNOWN_FOOTPRINT_METHOD
    energy = METHOD if profile.concurrency is None else f"{METHOD}+{profile.concurrency_source}"
    energy += "+metered" * profile.is_metered + "+guess" * (profile.source == "ecologits")
    return f"{energy}/{BOUNDARY}/{intensity.source}/{data_version}"


def footprint(models: EnergyModels, intensity: CarbonIntensity, usage: Usage, *, has_images: bool = False) -> Footprint:
    """Energy at the facility's meter and carbon of `usage`; images widen the high bound."""
    grid = intensity.grams_per_kwh
    low, mid, high = models
    embodied_low, embodied_mid, embodied_high = EMBODIED_GRAMS_PER_KWH
    energy_low, carbon_low, _ = _bound_footprint(low, embodied_low, grid, usage)
    energy, carbon, embodied = _bound_footprint(mid, embodied_mid, grid, usage)
    energy_high, carbon_high, _ = _bound_footprint(high, embodied_high, grid, usage)
    if has_images:
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


def _bound_footprint(model: EnergyModel, embodied_per_kwh: float, grid: float, usage: Usage) -> tuple[int, int, int]:
    """(mJ, ug, ug embodied) by one bound's formula."""
    accelerator = model.accelerator_joules(usage.input, usage.cached_input, usage.output)
    facility, embodied = accelerator * model.facility_factor, accelerator * embodied_per_kwh * _MICROGRAMS_PER_JOULE
    carbon = facility * grid * _MICROGRAMS_PER_JOULE + embodied
    return round(facility * _MILLIJOULES_PER_JOULE), round(carbon), round(embodied)


def operational_micrograms(millijoules: int, intensity: CarbonIntensity, signal: str) -> int:
    """Operational carbon of facility energy, which plans compare.

    By the marginal intensity where that is the signal and a feed has it, else by the average.
    """
    grams = intensity.marginal_grams_per_kwh if signal == "marginal" else None
    return round(
        millijoules
        / _MILLIJOULES_PER_JOULE
        * (intensity.grams_per_kwh if grams is None else grams)
        * _MICROGRAMS_PER_JOULE
    )


def carbon_micrograms_at(models: EnergyModels, grams_per_kwh: float, millijoules: int) -> int:
    """Carbon of facility energy on a grid of that intensity, by the mid estimate.

    Embodied included.
    """
    joules = millijoules / _MILLIJOULES_PER_JOULE
    embodied = joules / models[1].facility_factor * EMBODIED_GRAMS_PER_KWH[1]
    return round((joules * grams_per_kwh + embodied) * _MICROGRAMS_PER_JOULE)


def carbon_hold_micrograms(models: EnergyModels, intensity: CarbonIntensity, mj: int) -> int:
    """The carbon held for a call of `mj` mJ at the facility, embodied included.

    No less than the mid of `footprint` for such a call, despite both roundings.
    """
    facility = (mj + 1) / _MILLIJOULES_PER_JOULE
    grams = facility * intensity.grams_per_kwh + facility / models[1].facility_factor * EMBODIED_GRAMS_PER_KWH[1]
    return math.ceil(grams * _MICROGRAMS_PER_JOULE)


def energy_millijoules_mid(models: EnergyModels, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> int:
    """The mid estimate alone, which plans compare and budgets hold."""
    mid = models[1]
    return round(
        mid.accelerator_joules(input_tokens, cached_tokens, output_tokens)
        * mid.facility_factor
        * _MILLIJOULES_PER_JOULE
    )
