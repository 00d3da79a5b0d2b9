"""Carbon intensity of a deployment's grid: the operator's override, else live, cloud region, sub-national, country, world."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..values.grid import GridNews, Intensity

# World average, gCO2e/kWh, life-cycle (Our World in Data / Ember 2023, as codecarbon ships it).
WORLD_GRAMS_PER_KWH = 475.0

Tables = Mapping[str, Mapping[str, float]]


def annual(zone: str | None, cloud_region: str, override: float | None, tables: Tables) -> Intensity:
    """What is known without any feed. `zone` is like "USA", "FRA", "USA-oregon" (None: not said), `cloud_region` like
    "gcp/europe-west1".

    `tables` maps a method (cloud_region, annual_region, annual_country) to place -> gCO2e/kWh. The operator's zone is
    asked for before the cloud region: whoever names both knows better than the table.
    """
    if override is not None:
        return Intensity(zone=zone or cloud_region or "world", grams_per_kwh=override, method="override")
    for candidate in (zone, zone.split("-")[0]) if zone else (cloud_region,):
        for method, values in tables.items():
            if candidate in values:
                return Intensity(zone=candidate, grams_per_kwh=values[candidate], method=method)
    return Intensity(zone="world", grams_per_kwh=WORLD_GRAMS_PER_KWH, method="world")


def at_present(known: Intensity, news: Sequence[GridNews], *, now: float, age_max: float) -> Intensity:
    """`known` (the annual value) with what feeds say, the preferred feed first: values older than `age_max` seconds are
    left out. An override stands, whatever feeds say; forecasts and the marginal signal are taken beside it all the same.
    """
    found = known
    for one in reversed(news):
        fresh = now - one.at <= age_max
        if one.signal == "marginal":
            found = replace(found, marginal_grams_per_kwh=one.grams_per_kwh) if fresh else found
            continue
        forecast = tuple(sample for sample in one.forecast) if one.forecast and _reaches(one, now) else ()
        if fresh and known.method != "override":
            found = replace(
                found, zone=one.zone, grams_per_kwh=one.grams_per_kwh, method="live", feed=one.feed, at=one.at
            )
        if forecast and known.method != "override":
            found = replace(found, forecast=forecast)
    return found


def _reaches(news: GridNews, now: float) -> bool:
    """Whether the forecast still says something of what comes."""
    return news.forecast[-1].start > now
