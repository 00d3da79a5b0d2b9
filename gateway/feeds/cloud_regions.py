"""Cloud regions: grid intensity, Electricity Maps zone, PUE, carbon-free share.

Source, `cloud_regions.csv`: for Google Cloud its own hourly-weighted location-based averages of 2024
(region-carbon-info, Apache-2.0); for AWS and Azure the state's or country's average (eGRID 2023, Our World in Data /
Ember CC BY 4.0) where available, else cloud-carbon-footprint's factor of 2021 (Apache-2.0). Columns give the source and
year of each value.
"""

import csv
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from ..values.base import Value


class CloudRegion(Value, frozen=True, kw_only=True):
    """One region.

    name: provider and region, like "gcp/europe-west1".
    grams_per_kwh: location-based intensity, gCO2e/kWh.
    electricity_maps_zone: zone at Electricity Maps.
    pue: power usage effectiveness, None if not published.
    carbon_free_share: market-based share of carbon-free energy in [0, 1], None if not published.
    """

    name: str
    grams_per_kwh: float
    electricity_maps_zone: str
    pue: float | None
    carbon_free_share: float | None


@lru_cache(maxsize=1)
def load() -> Mapping[str, CloudRegion]:
    """Returns name -> region from the packaged file."""
    text = resources.files(__package__).joinpath("cloud_regions.csv").read_text("utf-8")
    return {
        f"{row['provider']}/{row['region']}": CloudRegion(
            name=f"{row['provider']}/{row['region']}",
            grams_per_kwh=float(row["grams_per_kwh"]),
            electricity_maps_zone=row["electricity_maps"],
            pue=float(row["pue"]) if row["pue"] else None,
            carbon_free_share=float(row["carbon_free"]) if row["carbon_free"] else None,
        )
        for row in csv.DictReader(text.splitlines())
    }
