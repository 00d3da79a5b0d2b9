"""Carbon intensity of a zone: the operator's override, else sub-national, country, world, each with its label."""

from collections.abc import Mapping

from ..values.catalog import Intensity
from .energy import METHOD

# World average, gCO2e/kWh, life-cycle (Our World in Data / Ember 2023, as codecarbon ships it).
WORLD_GRAMS_PER_KWH = 475.0


def resolve(zone: str | None, override: float | None, tables: Mapping[str, Mapping[str, float]]) -> Intensity:
    """The intensity for a deployment's zone ("USA", "FRA", "USA-oregon"; None if unknown).

    `tables` maps a method label (annual_region, annual_country) to zone -> gCO2e/kWh; the first label that knows the
    zone wins, then the country part of it.
    """
    if override is not None:
        return _of(zone or "world", override, "override")
    for candidate in (zone, zone.split("-")[0]) if zone else ():
        for method, values in tables.items():
            if candidate in values:
                return _of(candidate, values[candidate], method)
    return _of("world", WORLD_GRAMS_PER_KWH, "world")


def _of(zone: str, grams_per_kwh: float, method: str) -> Intensity:
    return Intensity(zone=zone, grams_per_kwh=grams_per_kwh, method=method, label=f"{METHOD}/{method}")
