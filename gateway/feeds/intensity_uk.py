"""The carbon intensity API of Great Britain's system operator: average (generation, direct), half-hourly, without a key.

GET /intensity and /intensity/FROM/fw24h for the whole island ("GB"), /regional/intensity/FROM/fw24h/regionid/N for one of
its regions ("1" to "14"; "15" England, "16" Scotland, "17" Wales). Shapes: carbonintensity.org.uk, API v2. `actual` is null for the running half-hour: its
forecast stands in.
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
    """The feed; anybody may ask it."""

    name = "uk"

    def __init__(self, access: FeedAccess) -> None:
        self._base_url = access.base_url

    async def fetch_reading(self, fetch: Fetch, zone: str, now: float) -> GridReading:
        """The running half-hour, and the day from here."""
        start = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%MZ")
        path = f"intensity/{start}/fw24h" if zone == "GB" else f"regional/intensity/{start}/fw24h/regionid/{zone}"
        found = await fetch_json(fetch, f"{self._base_url}/{path}", {})
        slots = parse_rows(found, "data") if zone == "GB" else self._region_slots(found.get("data"), zone)
        samples = parse_forecast((slot.get("from"), _intensity_value(slot, "forecast")) for slot in slots)
        running = [
            number for number, sample in enumerate(samples) if sample.start <= now < sample.start + _SLOT_SECONDS
        ]
        if not running:
            raise FeedError("nothing of the present")
        at = running[-1]
        actual = _intensity_value(slots[at], "actual")
        return GridReading(
            zone=f"GBR-{zone}" if zone != "GB" else "GBR",
            grams_per_kwh=samples[at].grams_per_kwh if actual is None else parse_grams_per_kwh(actual),
            read_at=parse_timestamp(slots[at].get("from")),
            feed=self.name,
            forecast=samples[at:],
        )

    @staticmethod
    def _region_slots(data: Any, zone: str) -> list[dict[str, Any]]:
        """The half-hours of a region; its number is told back. Raises FeedError."""
        one = data[0] if isinstance(data, list) and len(data) == 1 else data
        if not isinstance(one, dict):
            raise FeedError("no 'data'")
        if str(one.get("regionid")) != zone:
            raise FeedError("another zone than was asked for")
        return parse_rows(one, "data")


def _intensity_value(slot: dict[str, Any], name: str) -> Any:
    intensity = slot.get("intensity")
    return intensity.get(name) if isinstance(intensity, dict) else None
