"""Carbon intensity of a deployment's grid: the operator's override, else live, cloud region, sub-national, country, world."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..values.grid import GridNews, Intensity

# World average, gCO2e/kWh, life-cycle (Our World in Data / Ember 2023, as codecarbon ships it).
WORLD_GRAMS_PER_KWH = 475.0

# A slot is told at its beginning, and clocks differ: a value of further ahead is none (it was told before the clock was set back).
_AHEAD_SECONDS = 3600.0

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
    left out. Between two answers of a feed its own forecast says more of the present than what it told of an earlier
    slot; the method then is `forecast`. An override stands, whatever feeds say of the average.
    """
    found = known
    for one in reversed(news):
        if not -_AHEAD_SECONDS <= now - one.at <= age_max:
            continue
        if one.signal == "marginal":
            found = replace(found, marginal_grams_per_kwh=one.grams_per_kwh)
        elif known.method != "override":
            found = _told(found, one, now)
    return found


def _told(found: Intensity, news: GridNews, now: float) -> Intensity:
    """What a feed says of the average, now and ahead."""
    live = replace(
        found,
        zone=news.zone,
        grams_per_kwh=news.grams_per_kwh,
        method="live",
        feed=news.feed,
        at=news.at,
        forecast=news.forecast,
    )
    slot = live.slot_at(now)
    if slot is None or slot.start <= news.at:
        return live
    return replace(live, grams_per_kwh=slot.grams_per_kwh, method="forecast")
