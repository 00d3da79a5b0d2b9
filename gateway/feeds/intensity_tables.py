"""Annual grid intensities, shipped as `data/intensity_tables.json`.

Source: codecarbon (MIT), with values of Our World in Data / Ember (CC BY 4.0) and EPA eGRID. Zones: ISO 3166 alpha-3
countries ("USA", "FRA"), US states as "USA-oregon", Nordic bidding zones as "SE1", Chinese provinces as "CN-BJ". All
values are location-based.
"""

from collections.abc import Mapping
from functools import lru_cache

import orjson

from .package_data import DATA_FOLDER, INTENSITY_TABLES


@lru_cache(maxsize=1)
def load() -> Mapping[str, Mapping[str, float]]:
    """Returns method label -> zone -> gCO2e/kWh, cached."""
    tables = orjson.loads((DATA_FOLDER / INTENSITY_TABLES).read_bytes())
    return {method: tables[method] for method in ("annual_region", "annual_country")}
