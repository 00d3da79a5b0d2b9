"""Carbon intensity of a deployment's grid.

In this order: the operator's override, live, cloud region, sub-national, country, world.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..values.grid import CarbonIntensity, GridReading

# World average, gCO2e/kWh, life-cycle (Our World in Data / Ember 2023, as codecarbon ships it).
WORLD_GRAMS_PER_KWH = 475.0

# A slot is published at its beginning, and clocks differ; a value from further ahead is invalid (published before the
# clock was set back).
_CLOCK_SKEW_SECONDS = 3600.0

IntensityTables = Mapping[str, Mapping[str, float]]


def annual_intensity(
    zone: str | None, cloud_region: str, override: float | None, tables: IntensityTables
) -> CarbonIntensity:
    """The intensity without any feed.

    `zone`: like "USA", "FRA", "USA-oregon" (None: undeclared); `cloud_region`: like "gcp/europe-west1"; `tables`:
    method (cloud_region, annual_region, annual_country) -> place -> gCO2e/kWh. The operator's zone is tried before the
    cloud
    region: an operator who declares both knows better than the table.
    """
    if override is not None:
        return CarbonIntensity(zone=zone or cloud_region or "world", grams_per_kwh=override, method="override")
    for candidate in (zone, zone.split("-")[0]) if zone else (cloud_region,):
        for method, values in tables.items():
            if candidate in values:
                return CarbonIntensity(zone=candidate, grams_per_kwh=values[candidate], method=method)
    return CarbonIntensity(zone="world", grams_per_kwh=WORLD_GRAMS_PER_KWH, method="world")


def current_intensity(
    annual: CarbonIntensity, readings: Sequence[GridReading], *, now: float, age_max: float
) -> CarbonIntensity:
    """The `annual` intensity updated by feeds' `readings`, the preferred feed first.

    Readings older than `age_max` seconds are ignored. Between two readings a feed's own forecast is closer to the
    present than the reading of an earlier slot; the method is then `forecast`. An override stays, whatever feeds report
    as average.
    """
    current = annual
    for reading in reversed(readings):
        if not -_CLOCK_SKEW_SECONDS <= now - reading.read_at <= age_max:
            continue
        if reading.signal == "marginal":
            current = replace(current, marginal_grams_per_kwh=reading.grams_per_kwh)
        elif annual.method != "override":
            current = _live_intensity(current, reading, now)
    return current


def _live_intensity(current: CarbonIntensity, reading: GridReading, now: float) -> CarbonIntensity:
    """The average intensity by a feed's reading or, where newer, its forecast."""
    live = replace(
        current,
        zone=reading.zone,
        grams_per_kwh=reading.grams_per_kwh,
        method="live",
        feed=reading.feed,
        read_at=reading.read_at,
        forecast=reading.forecast,
    )
    slot = live.sample_at(now)
    if slot is None or slot.start <= reading.read_at:
        return live
    return replace(live, grams_per_kwh=slot.grams_per_kwh, method="forecast")
