"""Carbon intensity API of Great Britain: average intensity, half-hourly, no key.

Published by the system operator; direct emissions of generation. GET /intensity/FROM/fw24h for the whole grid ("GB"),
/regional/intensity/FROM/fw24h/regionid/N for a region ("1" to "14"; "15" England, "16" Scotland, "17" Wales). Shapes:
carbonintensity.org.uk, API v2. `actual` is null for the current half-hour; its forecast is used instead.
"""

from datetime import UTC, datetime
from typing import Any

from ..values.grid import GridReading
from ..values.grid_feeds import FeedAccess
from .grid_reading import FeedError, Fetch, fetch_json, parse_forecast, parse_grams_per_kwh, parse_rows, parse_timestamp

BASE_URL = "https://api.carbonintensity.org.uk"
ZONES = ("GB", *(str(number) for number in range(1, 18)))
_SLOT_SECONDS = 1800.0


class UkIntensity:
    """The feed of carbonintensity.org.uk."""

    name = "uk"

    def __init__(self, access: FeedAccess) -> None:
        self._base_url = access.base_url

    async def fetch_reading(self, fetch: Fetch, zone: str, now: float) -> GridReading:
        """Returns the current half-hour with a forecast for 24 hours. Raises FeedError."""
        start = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%MZ")
        path = f"intensity/{start}/fw24h" if zone == "GB" else f"regional/intensity/{start}/fw24h/regionid/{zone}"
        document = await fetch_json(fetch, f"{self._base_url}/{path}", {})
        slots = parse_rows(document, "data") if zone == "GB" else self._region_slots(document.get("data"), zone)
        samples = parse_forecast((slot.get("from"), _intensity_value(slot, "forecast")) for slot in slots)
        current = [
            number for number, sample in enumerate(samples) if sample.start <= now < sample.start + _SLOT_SECONDS
        ]
        if not current:
            raise FeedError("no value for the current half-hour")
        index = current[-1]
        actual = _intensity_value(slots[index], "actual")
        return GridReading(
            zone=f"GBR-{zone}" if zone != "GB" else "GBR",
            grams_per_kwh=samples[index].grams_per_kwh if actual is None else parse_grams_per_kwh(actual),
            read_at=parse_timestamp(slots[index].get("from")),
            feed=self.name,
            forecast=samples[index:],
        )

    @staticmethod
    def _region_slots(data: Any, zone: str) -> list[dict[str, Any]]:
        """Returns the half-hours of a region, whose id must match. Raises FeedError."""
        region = data[0] if isinstance(data, list) and len(data) == 1 else data
        if not isinstance(region, dict):
            raise FeedError("missing 'data'")
        if str(region.get("regionid")) != zone:
            raise FeedError("response is for a different zone")
        return parse_rows(region, "data")


def _intensity_value(slot: dict[str, Any], name: str) -> Any:
    intensity = slot.get("intensity")
    return intensity.get(name) if isinstance(intensity, dict) else None
