"""Electricity Maps: documented response shapes, and rejection of invalid ones."""

import pytest

from gateway.feeds.grid_reading import FeedError
from gateway.feeds.intensity_electricity_maps import ElectricityMaps
from gateway.values.grid import IntensitySample
from gateway.values.grid_feeds import FeedAccess
from tests.feeds.fake_web import NOW, FakeWeb

LATEST = {
    "zone": "DE", "carbonIntensity": 216, "datetime": "2026-03-06T19:00:00.000Z", "updatedAt": "2026-03-06T18:48:27.926Z",
    "emissionFactorType": "lifecycle", "isEstimated": True, "estimationMethod": "TIME_SLICER_AVERAGE",
}  # fmt: skip
FORECAST = {
    "zone": "DE",
    "forecast": [
        {"carbonIntensity": 210, "datetime": "2026-03-06T19:00:00.000Z"},
        {"carbonIntensity": 90, "datetime": "2026-03-06T20:00:00.000Z"},
    ],
}


def electricity_maps() -> ElectricityMaps:
    return ElectricityMaps(FeedAccess(base_url="http://em", key="k"))


async def test_electricity_maps_latest_and_forecast():
    web = FakeWeb(latest=LATEST, forecast=FORECAST)
    reading = await electricity_maps().fetch_reading(web, "DE", NOW)
    assert (reading.grams_per_kwh, reading.read_at) == (216.0, NOW - 600)
    assert reading.forecast == (IntensitySample(NOW - 600, 210.0), IntensitySample(NOW + 3000, 90.0))
    assert [url for url, _ in web.requests] == [
        "http://em/v3/carbon-intensity/latest?zone=DE",
        "http://em/v3/carbon-intensity/forecast?zone=DE",
    ]
    assert all(headers == {"auth-token": "k"} for _, headers in web.requests)


@pytest.mark.parametrize(
    "forecast",
    [(403, b"Access denied"), OSError("gone"), {"zone": "FR", "forecast": FORECAST["forecast"]},
     {"zone": "DE", "forecast": [{"carbonIntensity": -1, "datetime": "2026-03-06T19:00:00Z"}]},
     {"zone": "DE", "forecast": FORECAST["forecast"][::-1]}],
    ids=["plan without forecasts", "connection failed", "another zone", "out of range", "out of order"],
)  # fmt: skip
async def test_an_invalid_forecast_is_ignored_and_the_value_kept(forecast):
    reading = await electricity_maps().fetch_reading(FakeWeb(latest=LATEST, forecast=forecast), "DE", NOW)
    assert (reading.grams_per_kwh, reading.forecast) == (216.0, ())


INVALID_VALUES = {
    "negative": {"carbonIntensity": -5},
    "not a number": {"carbonIntensity": "216"},
    "missing": {"carbonIntensity": None},
    "beyond any grid": {"carbonIntensity": 1e6},
    "beyond any float": {"carbonIntensity": 10**30},
    "boolean": {"carbonIntensity": True},
    "another zone": {"zone": "FR"},
    "from the future": {"datetime": "2027-01-01T00:00:00Z"},
    "not a timestamp": {"datetime": "yesterday"},
    "timestamp is a number": {"datetime": 12},
}


@pytest.mark.parametrize("invalid", INVALID_VALUES.values(), ids=INVALID_VALUES)
async def test_an_invalid_value_is_rejected(invalid):
    with pytest.raises(FeedError):
        await electricity_maps().fetch_reading(FakeWeb(latest={**LATEST, **invalid}, forecast=FORECAST), "DE", NOW)


@pytest.mark.parametrize(
    "answer",
    [
        (401, {"error": "Invalid auth-token"}),
        (429, b""),
        b"<html>",
        b"[1]",
        b'{"carbonIntensity": NaN, "zone": "DE"}',
        b"",
    ],
    ids=["unauthorized", "rate limited", "not JSON", "not an object", "NaN", "empty body"],
)
async def test_an_unusable_response_is_an_error_without_the_key(answer):
    with pytest.raises(FeedError) as failed:
        await electricity_maps().fetch_reading(
            FakeWeb(latest=answer if isinstance(answer, tuple) else (200, answer)), "DE", NOW
        )
    assert "k" not in str(failed.value).split()
