"""Electricity Maps API v3: location-based average intensity, life-cycle, hourly.

GET /v3/carbon-intensity/latest?zone=DE and /forecast?zone=DE with the header `auth-token`. Shapes: the API's docs (v3,
2025); the response repeats the zone, which must match the request.
"""

from urllib.parse import quote

from ..values.grid import GridReading, IntensitySample
from ..values.grid_feeds import FeedAccess
from .grid_reading import (
    FeedError,
    Fetch,
    check_not_future,
    fetch_json,
    parse_forecast,
    parse_grams_per_kwh,
    parse_rows,
    parse_timestamp,
)

BASE_URL = "https://api.electricitymaps.com"


class ElectricityMaps:
    """The Electricity Maps feed of one account."""

    name = "electricity_maps"

    def __init__(self, access: FeedAccess) -> None:
        self._base_url = access.base_url
        self._headers = {"auth-token": access.key or ""}

    async def fetch_reading(self, fetch: Fetch, zone: str, now: float) -> GridReading:
        """Returns the latest value with the forecast. Raises FeedError.

        The forecast is empty if the plan has none or it is invalid.
        """
        url = f"{self._base_url}/v3/carbon-intensity/{{}}?zone={quote(zone)}"
        latest = await fetch_json(fetch, url.format("latest"), self._headers)
        if latest.get("zone") != zone:
            raise FeedError("response is for a different zone")
        return GridReading(
            zone=zone,
            grams_per_kwh=parse_grams_per_kwh(latest.get("carbonIntensity")),
            read_at=check_not_future(parse_timestamp(latest.get("datetime")), now),
            feed=self.name,
            forecast=await self._fetch_forecast(fetch, url.format("forecast"), zone),
        )

    async def _fetch_forecast(self, fetch: Fetch, url: str, zone: str) -> tuple[IntensitySample, ...]:
        try:
            document = await fetch_json(fetch, url, self._headers)
            if document.get("zone", zone) != zone:
                return ()
            return parse_forecast(
                (row.get("datetime"), row.get("carbonIntensity")) for row in parse_rows(document, "forecast")
            )
        except (FeedError, OSError, TimeoutError):
            return ()
