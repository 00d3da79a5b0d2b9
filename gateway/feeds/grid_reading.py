"""What all intensity feeds share: how they are asked, and which answers are believed. Nothing here touches the network:
`fetch` is the door, given by whoever runs the feeds.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Protocol

import orjson

from ..values.grid import GRAMS_PER_KWH_MAX, GridReading, IntensitySample

# (url, headers) -> (status, body). Raises OSError or TimeoutError.
Fetch = Callable[[str, Mapping[str, str]], Awaitable[tuple[int, bytes]]]
# Half-hours of four days, the longest forecast of any feed (UK), and some more.
_SAMPLES_MAX = 400
# Clocks differ, and a slot is told at its beginning; what is further ahead is no present value.
_FUTURE_SECONDS_MAX = 3600.0


class FeedError(Exception):
    """A feed did not answer, or what it says cannot be. The text is safe to show: no key, no body. Never leaves `feeds`
    and who runs them."""


class GridFeed(Protocol):
    """One source of news; its name is what figures made with it are labelled with."""

    name: str

    async def fetch_reading(self, fetch: Fetch, zone: str, now: float) -> GridReading:
        """What it says of a zone. Raises FeedError, OSError, TimeoutError."""
        ...


async def fetch_json(fetch: Fetch, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object at an address. Raises FeedError, OSError, TimeoutError."""
    status, body = await fetch(url, headers)
    if status != 200:
        raise FeedError(f"status {status}")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FeedError("not JSON") from error
    if not isinstance(found, dict):
        raise FeedError("not a JSON object")
    return found


def parse_grams_per_kwh(value: Any, factor: float = 1.0) -> float:
    """A value that a grid can have, in gCO2e/kWh. Raises FeedError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FeedError("no number")
    try:
        found = float(value) * factor
    except OverflowError as error:
        raise FeedError("a value that no grid has") from error
    if not math.isfinite(found) or not 0 <= found <= GRAMS_PER_KWH_MAX:
        raise FeedError("a value that no grid has")
    return found


def parse_timestamp(value: Any) -> float:
    """An ISO 8601 time, UTC where it does not say, as seconds since the epoch. Raises FeedError."""
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise FeedError("no time") from error


def check_not_future(at: float, now: float) -> float:
    """A time that a present value may have. Raises FeedError."""
    if at - now > _FUTURE_SECONDS_MAX:
        raise FeedError("a value from the future")
    return at


def parse_forecast(points: Iterable[tuple[Any, Any]], factor: float = 1.0) -> tuple[IntensitySample, ...]:
    """(time, value) pairs as samples in ascending order. Raises FeedError: of a forecast that lies in one place nothing is
    believed."""
    found = [IntensitySample(parse_timestamp(when), parse_grams_per_kwh(value, factor)) for when, value in points]
    if len(found) > _SAMPLES_MAX:
        raise FeedError("a forecast that is too long")
    starts = [sample.start for sample in found]
    if any(later <= earlier for earlier, later in pairwise(starts)):
        raise FeedError("a forecast that is not in order")
    return tuple(found)


def parse_rows(found: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects under this name. Raises FeedError."""
    value = found.get(name)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise FeedError(f"no '{name}'")
    return value
