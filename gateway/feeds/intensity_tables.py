"""Grid intensities from the tables that codecarbon ships (MIT; values Our World in Data / Ember CC BY 4.0, EPA eGRID).

Read without importing codecarbon. Zones: ISO 3166 alpha-3 countries ("USA", "FRA"), US states as "USA-oregon", Nordic
bidding zones as "SE1", Chinese provinces as "CN-BJ". All are annual averages, location-based.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from .package_data import data_file

_GRAMS_PER_POUND = 453.59237
_KWH_PER_MWH = 1000.0


def load() -> Mapping[str, Mapping[str, float]]:
    """Method label -> zone -> gCO2e/kWh; empty tables where codecarbon is not installed."""
    countries = {
        zone: float(row["carbon_intensity"])
        for zone, row in _read("global_energy_mix.json").items()
        if isinstance(row, dict) and row.get("carbon_intensity")
    }
    regions = {
        f"USA-{state.replace(' ', '-')}": row["emissions"] * _GRAMS_PER_POUND / _KWH_PER_MWH
        for state, row in _read("2023", "usa_emissions.json").items()
        if isinstance(row, dict) and isinstance(row.get("emissions"), int | float)
    }
    for table in (("nordic_emissions.json",), ("2023", "china_provincial_emissions.json")):
        for zone, row in _read(*table).get("data", {}).items():
            regions[zone] = float(row["emission_factor"])
    return {"annual_region": regions, "annual_country": countries}


def _read(*parts: str) -> dict[str, Any]:
    path = data_file("codecarbon", "data", "private_infra", *parts)
    if path is None:
        return {}
    document: dict[str, Any] = orjson.loads(path.read_bytes())
    return document
