"""Electricity Maps, API v3: location-based average, life-cycle, hourly, with a forecast where the plan has one.

GET /v3/carbon-intensity/latest?zone=DE and /forecast?zone=DE with the header `auth-token`. Shapes: docs of the API (v3,
2025); the zone is told back and must be the one that was asked for.
"""

from urllib.parse import quote

from ..values.grid import GridNews, Sample
from ..values.grid_feeds import Access
from .grid_reading import FeedError, Fetch, document, forecast, grams, present, rows, seconds

BASE_URL = "https://api.electricitymaps.com"


class ElectricityMaps:
    """The feed of one account."""

    name = "electricity_maps"

    def __init__(self, access: Access) -> None:
        self._base = access.base_url
        self._headers = {"auth-token": access.key or ""}

    async def news(self, fetch: Fetch, zone: str, now: float) -> GridNews:
        """The latest value, and the forecast; many plans have no forecast: the value counts without it."""
        url = f"{self._base}/v3/carbon-intensity/{{}}?zone={quote(zone)}"
        latest = await document(fetch, url.format("latest"), self._headers)
        if latest.get("zone") != zone:
            raise FeedError("another zone than was asked for")
        return GridNews(
            zone=zone,
            grams_per_kwh=grams(latest.get("carbonIntensity")),
            at=present(seconds(latest.get("datetime")), now),
            feed=self.name,
            forecast=await self._forecast(fetch, url.format("forecast"), zone),
        )

    async def _forecast(self, fetch: Fetch, url: str, zone: str) -> tuple[Sample, ...]:
        try:
            found = await document(fetch, url, self._headers)
            if found.get("zone", zone) != zone:
                return ()
            return forecast((row.get("datetime"), row.get("carbonIntensity")) for row in rows(found, "forecast"))
        except (FeedError, OSError, TimeoutError):
            return ()
