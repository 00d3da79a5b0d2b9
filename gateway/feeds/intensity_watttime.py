"""WattTime, API v3: the marginal signal (co2_moer), five-minutely. For decisions only; reports are of the average.

GET /login (basic) gives a token that is good for half an hour, GET /v3/forecast?region=R&signal_type=co2_moer with it the
signal from now on, in pounds per MWh. Shapes: WattTime's docs of v3. The region is told back in `meta`.
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
# The docs say 30 minutes; a new one is asked for before that.
_TOKEN_SECONDS = 25 * 60.0
# A login that failed is not tried again for every region of the same round.
_LOGIN_RETRY_SECONDS = 20.0


class WattTime:
    """The feed of one account; keeps its token."""

    name = "watttime"

    def __init__(self, access: FeedAccess) -> None:
        self._base_url = access.base_url
        shown = b64encode(f"{access.user or ''}:{access.password or ''}".encode()).decode()
        self._login_headers = {"authorization": f"Basic {shown}"}
        self._token, self._token_until = "", 0.0
        self._login_lock, self._login_failed_at = asyncio.Lock(), -math.inf

    async def fetch_reading(self, fetch: Fetch, zone: str, now: float) -> GridReading:
        """The marginal intensity of the running five minutes. Raises FeedError."""
        async with self._login_lock:
            # One login for all regions that are asked about at once.
            if 0 <= now - self._login_failed_at < _LOGIN_RETRY_SECONDS:
                raise FeedError("no login just now")
            if not 0 <= self._token_until - now <= _TOKEN_SECONDS:
                await self._log_in(fetch, now)
        url = f"{self._base_url}/v3/forecast?region={quote(zone)}&signal_type=co2_moer"
        try:
            found = await fetch_json(fetch, url, {"authorization": f"Bearer {self._token}"})
        except FeedError as error:
            if str(error) == "status 401":
                # The token is not believed any more.
                self._token_until = 0.0
            raise
        meta = found.get("meta")
        if not isinstance(meta, dict) or meta.get("region") != zone:
            raise FeedError("another zone than was asked for")
        if meta.get("units") not in ("lbs_co2_per_mwh", None):
            raise FeedError("other units than pounds per MWh")
        points = [(row.get("point_time"), row.get("value")) for row in parse_rows(found, "data")]
        samples = parse_forecast(points[:1], _GRAMS_PER_POUND_PER_MWH)
        if not samples:
            raise FeedError("no value")
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
            raise FeedError("no token")
        self._token, self._token_until, self._login_failed_at = token, now + _TOKEN_SECONDS, -math.inf
