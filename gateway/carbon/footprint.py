"""Footprint of one request: (energy x intensity) + embodied, low-mid-high (Software Carbon Intensity, ISO/IEC 21031).

Location-based average intensity; training is outside the boundary (the gateway is a consumer in SCI-for-AI's terms).
"""

import math

from ..values.catalog import EnergyModel, Footprint, Intensity
from ..values.units import JOULES_PER_KWH, MICROGRAMS_PER_GRAM, Bounds
from ..values.usage import Usage

# Embodied gCO2e per accelerator kWh: 8xH100 server 7,884 kg over 3 years at 550 W a GPU = 68; Google's own share 71.
_EMBODIED_GRAMS_PER_KWH = (40.0, 70.0, 140.0)
_MILLI = 1000.0
_MICROGRAMS_PER_JOULE = MICROGRAMS_PER_GRAM / JOULES_PER_KWH

UNKNOWN = Footprint(energy_millijoules=Bounds(0, 0, 0), carbon_micrograms=Bounds(0, 0, 0), method="unknown-model")


def footprint(model: tuple[EnergyModel, EnergyModel, EnergyModel], intensity: Intensity, usage: Usage) -> Footprint:
    """Energy at the facility's meter and carbon of `usage`."""
    grid = intensity.grams_per_kwh
    energy, carbon = [], []
    for bound, embodied in zip(model, _EMBODIED_GRAMS_PER_KWH, strict=True):
        accelerator = bound.accelerator_joules(usage.input, usage.cached_input, usage.output)
        facility = accelerator * bound.facility
        energy.append(round(facility * _MILLI))
        carbon.append(round((facility * grid + accelerator * embodied) * _MICROGRAMS_PER_JOULE))
    return Footprint(energy_millijoules=Bounds(*energy), carbon_micrograms=Bounds(*carbon), method=intensity.label)


def micrograms_mid(millijoules: int, intensity: Intensity) -> int:
    """Operational carbon of facility energy alone: what plans compare."""
    return round(millijoules / _MILLI * intensity.grams_per_kwh * _MICROGRAMS_PER_JOULE)


def carbon_micrograms_held(model: tuple[EnergyModel, EnergyModel, EnergyModel], intensity: Intensity, mj: int) -> int:
    """What is held for a call of so many mJ at the facility's meter, embodied included: no less than `footprint`'s mid
    says of such a call, in spite of both roundings."""
    facility = (mj + 1) / _MILLI
    grams = facility * intensity.grams_per_kwh + facility / model[1].facility * _EMBODIED_GRAMS_PER_KWH[1]
    return math.ceil(grams * _MICROGRAMS_PER_JOULE)


def energy_millijoules_mid(
    model: tuple[EnergyModel, EnergyModel, EnergyModel], input_tokens: int, output_tokens: int, cached_tokens: int = 0
) -> int:
    """The mid estimate alone: what plans compare and budgets hold."""
    mid = model[1]
    return round(mid.accelerator_joules(input_tokens, cached_tokens, output_tokens) * mid.facility * _MILLI)
