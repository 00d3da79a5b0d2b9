"""Carbon intensity of a deployment's grid: the operator's override, else live, cloud region, sub-national, country, world."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..values.grid import CarbonIntensity, GridReading

# World average, gCO2e/kWh, life-cycle (Our World in Data / Ember 2023, as codecarbon ships it).
WORLD_GRAMS_PER_KWH = 475.0

# A slot is told at its beginning, and clocks differ: a value of further ahead is none (it was told before the clock was set back).
_CLOCK_SKEW_SECONDS = 3600.0

IntensityTables = Mapping[str, Mapping[str, float]]


def annual_intensity(
    zone: str | None, cloud_region: str, override: float | None, tables: IntensityTables
) -> CarbonIntensity:
    """What is known without any feed. `zone` is like "USA", "FRA", "USA-oregon" (None: not said), `cloud_region` like
    "gcp/europe-west1".

    `tables` maps a method (cloud_region, annual_region, annual_country) to place -> gCO2e/kWh. The operator's zone is
    asked for before the cloud region: whoever names both knows better than the table.
    """
    if override is not None:
        return CarbonIntensity(zone=zone or cloud_region or "world", grams_per_kwh=override, method="override")
    for candidate in (zone, zone.split("-")[0]) if zone else (cloud_region,):
        for method, values in tables.items():
            if candidate in values:
                return CarbonIntensity(zone=candidate, grams_per_kwh=values[candidate], method=method)
    return CarbonIntensity(zone="world", grams_per_kwh=WORLD_GRAMS_PER_KWH, method="world")


def current_intensity(
    known: CarbonIntensity, session_sync: Sequence[GridReading], *, now: float, age_max: float
) -> CarbonIntensity:
    """`known` (the annual value) with what feeds say, the preferred feed first: values older than `age_max` seconds are
    left out. Between two answers of a feed its own forecast says more of the present than what it told of an earlier
    slot; the method then is `forecast`. An override stands, whatever feeds say of the average.
    """
    found = known
    for one in reversed(session_sync):
        if not -_CLOCK_SKEW_SECONDS <= now - one.read_at <= age_max:
            continue
        if one.signal == "marginal":
            found = replace(found, marginal_grams_per_kwh=one.grams_per_kwh)
        elif known.method != "override":
            found = _live_intensity(found, one, now)
    return found


def _live_intensity(found: CarbonIntensity, session_sync: GridReading, now: float) -> CarbonIntensity:
    """What a feed says of the average, now and ahead."""
    live = replace(
        found,
        zone=session_sync.zone,
        grams_per_kwh=session_sync.grams_per_kwh,
        method="live",
        feed=session_sync.feed,
        read_at=session_sync.read_at,
        forecast=session_sync.forecast,
    )
    slot = live.sample_at(now)
    if slot is None or slot.start <= session_sync.read_at:
        return live
    return replace(live, grams_per_kwh=slot.grams_per_kwh, method="forecast")
