"""WattTime API v3: marginal intensity (co2_moer) for decisions, not for reports.

GET /login (basic auth) returns a token valid for 30 minutes; GET /v3/forecast?region=R&signal_type=co2_moer returns the
signal from now on, in pounds per MWh. Shapes: WattTime's docs of v3. The response repeats the region in `meta`.
"""

import asyncio
import math
from base64 import b64encode
from urllib.parse import quote

from ..values.grid import GridReading
from ..values.grid_feeds import FeedAccess
from .grid_reading import FeedError, Fetch, check_not_future, fetch_json, parse_forecast, parse_rows

BASE_URL = "https://api.watttime.org"
# lb/MWh -> g/kWh.
_GRAMS_PER_POUND_PER_MWH = 0.45359237
# Valid for 30 minutes according to the docs; renewed earlier.
_TOKEN_SECONDS = 25 * 60.0
# A failed login is not repeated for the other regions of the same round.
_LOGIN_RETRY_SECONDS = 20.0


class WattTime:
    """The WattTime feed of one account; caches its token."""

    name = "watttime"

    def __init__(self, access: FeedAccess) -> None:
        self._base_url = access.base_url
        credentials = b64encode(f"{access.user or ''}:{access.password or ''}".encode()).decode()
        self._login_headers = {"authorization": f"Basic {credentials}"}
        self._token, self._token_until = "", 0.0
        self._login_lock, self._login_failed_at = asyncio.Lock(), -math.inf

    async def fetch_reading(self, fetch: Fetch, zone: str, now: float) -> GridReading:
        """Returns the current marginal intensity, without a forecast. Raises FeedError."""
        async with self._login_lock:
            # One login for all regions that are polled at once.
            if 0 <= now - self._login_failed_at < _LOGIN_RETRY_SECONDS:
                raise FeedError("login failed recently; not retried yet")
            if not 0 <= self._token_until - now <= _TOKEN_SECONDS:
                await self._log_in(fetch, now)
        url = f"{self._base_url}/v3/forecast?region={quote(zone)}&signal_type=co2_moer"
        try:
            document = await fetch_json(fetch, url, {"authorization": f"Bearer {self._token}"})
        except FeedError as error:
            if str(error) == "status 401":
                # The token is no longer valid; log in again next time.
                self._token_until = 0.0
            raise
        meta = document.get("meta")
        if not isinstance(meta, dict) or meta.get("region") != zone:
            raise FeedError("response is for a different zone")
        if meta.get("units") not in ("lbs_co2_per_mwh", None):
            raise FeedError("unit is not pounds per MWh")
        points = [(row.get("point_time"), row.get("value")) for row in parse_rows(document, "data")]
        samples = parse_forecast(points[:1], _GRAMS_PER_POUND_PER_MWH)
        if not samples:
            raise FeedError("empty forecast")
        return GridReading(
            zone=zone,
            grams_per_kwh=samples[0].grams_per_kwh,
            read_at=check_not_future(samples[0].start, now),
            feed=self.name,
            signal="marginal",
        )

    async def _log_in(self, fetch: Fetch, now: float) -> None:
        self._login_failed_at = now
        token = (await fetch_json(fetch, f"{self._base_url}/login", self._login_headers)).get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise FeedError("missing or invalid token")
        self._token, self._token_until, self._login_failed_at = token, now + _TOKEN_SECONDS, -math.inf
