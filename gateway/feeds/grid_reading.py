"""The intensity feeds' Protocol, and parsing and validation of their responses.

No network access here: the service that polls the feeds supplies `fetch`.
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
# Allows for clock differences and for slots published at their start; later values are not current.
_FUTURE_SECONDS_MAX = 3600.0


class FeedError(Exception):
    """A feed's response is an error or invalid; the text contains no key and no body."""


class GridFeed(Protocol):
    """A source of grid intensities.

    name: label of the figures derived from it.
    """

    name: str

    async def fetch_reading(self, fetch: Fetch, zone: str, now: float) -> GridReading:
        """Returns the reading of a zone. Raises FeedError, OSError, TimeoutError."""
        ...


async def fetch_json(fetch: Fetch, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """Returns the JSON object at a URL. Raises FeedError, OSError, TimeoutError."""
    status, body = await fetch(url, headers)
    if status != 200:
        raise FeedError(f"status {status}")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FeedError("invalid JSON") from error
    if not isinstance(document, dict):
        raise FeedError("not a JSON object")
    return document


def parse_grams_per_kwh(value: Any, factor: float = 1.0) -> float:
    """Returns `value * factor` as gCO2e/kWh if plausible. Raises FeedError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FeedError("intensity is not a number")
    try:
        grams_per_kwh = float(value) * factor
    except OverflowError as error:
        raise FeedError("intensity out of range") from error
    if not math.isfinite(grams_per_kwh) or not 0 <= grams_per_kwh <= GRAMS_PER_KWH_MAX:
        raise FeedError("intensity out of range")
    return grams_per_kwh


def parse_timestamp(value: Any) -> float:
    """Returns seconds since the epoch of an ISO 8601 time, UTC without an offset.

    Raises FeedError.
    """
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise FeedError("invalid timestamp") from error


def check_not_future(at: float, now: float) -> float:
    """Returns `at` if it is not in the future, with tolerance. Raises FeedError."""
    if at - now > _FUTURE_SECONDS_MAX:
        raise FeedError("timestamp in the future")
    return at


def parse_forecast(points: Iterable[tuple[Any, Any]], factor: float = 1.0) -> tuple[IntensitySample, ...]:
    """Returns (time, value) pairs as samples; they must be in ascending order.

    Raises FeedError if any of them is invalid.
    """
    samples = [IntensitySample(parse_timestamp(when), parse_grams_per_kwh(value, factor)) for when, value in points]
    if len(samples) > _SAMPLES_MAX:
        raise FeedError(f"forecast longer than {_SAMPLES_MAX} samples")
    starts = [sample.start for sample in samples]
    if any(later <= earlier for earlier, later in pairwise(starts)):
        raise FeedError("forecast not in ascending order")
    return tuple(samples)


def parse_rows(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Returns the list of objects under this name. Raises FeedError."""
    rows = document.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FeedError(f"missing '{name}'")
    return rows
