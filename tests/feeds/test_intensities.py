"""Intensity feeds: documented response shapes, and rejection of invalid ones."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from gateway.feeds.grid_reading import FeedError
from gateway.feeds.intensity_electricity_maps import ElectricityMaps
from gateway.feeds.intensity_uk import UkIntensity
from gateway.feeds.intensity_watttime import WattTime
from gateway.values.grid import IntensitySample
from gateway.values.grid_feeds import FeedAccess

NOW = datetime(2026, 3, 6, 19, 10, tzinfo=UTC).timestamp()
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
SLOTS = [
    {"from": "2026-03-06T18:30Z", "to": "2026-03-06T19:00Z", "intensity": {"forecast": 264, "actual": 271, "index": "high"}},
    {"from": "2026-03-06T19:00Z", "to": "2026-03-06T19:30Z", "intensity": {"forecast": 250, "actual": None, "index": "high"}},
    {"from": "2026-03-06T19:30Z", "to": "2026-03-06T20:00Z", "intensity": {"forecast": 120, "actual": None, "index": "low"}},
]  # fmt: skip
MOER = {
    "data": [{"point_time": "2026-03-06T19:10:00+00:00", "value": 1000.0}, {"point_time": "2026-03-06T19:15:00+00:00", "value": 900.0}],
    "meta": {"region": "CAISO_NORTH", "signal_type": "co2_moer", "units": "lbs_co2_per_mwh", "data_point_period_seconds": 300},
}  # fmt: skip


class FakeWeb:
    """Answers by a part of the URL; records requests."""

    def __init__(self, **answers: object) -> None:
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self._answers = answers

    async def __call__(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.requests.append((url, headers))
        response = next((answer for name, answer in self._answers.items() if name in url), (404, {"error": "no"}))
        if isinstance(response, Exception):
            raise response
        status, body = response if isinstance(response, tuple) else (200, response)
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()


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


async def test_great_britains_current_half_hour_and_forecast():
    web = FakeWeb(fw24h={"data": SLOTS})
    reading = await UkIntensity(FeedAccess(base_url="http://uk")).fetch_reading(web, "GB", NOW)
    assert web.requests[0][0] == "http://uk/intensity/2026-03-06T19:10Z/fw24h"
    assert (reading.zone, reading.grams_per_kwh) == ("GBR", 250.0)
    assert [sample.grams_per_kwh for sample in reading.forecast] == [250.0, 120.0]


@pytest.mark.parametrize("wrapped", [False, True], ids=["object", "list of one"])
async def test_a_region_is_selected_by_its_id(wrapped):
    region = {"regionid": 13, "shortname": "London", "data": SLOTS}
    web = FakeWeb(regionid={"data": [region] if wrapped else region})
    reading = await UkIntensity(FeedAccess(base_url="http://uk")).fetch_reading(web, "13", NOW)
    assert web.requests[0][0] == "http://uk/regional/intensity/2026-03-06T19:10Z/fw24h/regionid/13"
    assert (reading.zone, reading.grams_per_kwh) == ("GBR-13", 250.0)


@pytest.mark.parametrize(
    "answer",
    [{"data": {"regionid": 7, "data": SLOTS}}, {"data": {"regionid": 13, "data": SLOTS[:1]}}, {"data": []},
     {"data": {"regionid": 13, "data": [1]}}, (400, {"error": {"code": "400 Bad Request"}}), (200, b"")],
    ids=["another region", "no current slot", "no region", "invalid slots", "error status", "empty body"],
)  # fmt: skip
async def test_an_invalid_region_response_is_rejected(answer):
    with pytest.raises(FeedError):
        await UkIntensity(FeedAccess(base_url="http://uk")).fetch_reading(FakeWeb(regionid=answer), "13", NOW)


async def test_watttime_logs_in_once_and_returns_the_marginal_signal_in_grams():
    web, feed = (
        FakeWeb(login={"token": "t"}, forecast=MOER),
        WattTime(FeedAccess(base_url="http://wt", user="u", password="p")),
    )
    reading = await feed.fetch_reading(web, "CAISO_NORTH", NOW)
    assert reading.grams_per_kwh == pytest.approx(453.59237)
    assert (reading.signal, reading.forecast) == ("marginal", ())
    await feed.fetch_reading(web, "CAISO_NORTH", NOW + 60)
    assert [url.rsplit("/", 1)[-1].partition("?")[0] for url, _ in web.requests] == ["login", "forecast", "forecast"]
    assert web.requests[0][1] == {"authorization": "Basic dTpw"}
    assert web.requests[1][1] == {"authorization": "Bearer t"}


@pytest.mark.parametrize(
    "meta", [{"region": "ERCOT"}, {"units": "percentile"}], ids=["another region", "percentile instead of intensity"]
)
async def test_other_watttime_signals_are_rejected(meta):
    answer = {**MOER, "meta": {**MOER["meta"], **meta}}
    with pytest.raises(FeedError):
        await WattTime(FeedAccess(base_url="http://wt", user="u", password="p")).fetch_reading(
            FakeWeb(login={"token": "t"}, forecast=answer), "CAISO_NORTH", NOW
        )


async def test_an_expired_token_is_renewed():
    feed = WattTime(FeedAccess(base_url="http://wt", user="u", password="p"))
    with pytest.raises(FeedError):
        await feed.fetch_reading(FakeWeb(login={"token": "t"}, forecast=(401, b"expired")), "CAISO_NORTH", NOW)
    web = FakeWeb(login={"token": "t2"}, forecast=MOER)
    await feed.fetch_reading(web, "CAISO_NORTH", NOW)
    assert "login" in web.requests[0][0]


async def test_a_forbidden_region_does_not_discard_the_token():
    feed = WattTime(FeedAccess(base_url="http://wt", user="u", password="p"))
    web = FakeWeb(login={"token": "t"}, forecast=(403, {"error": "Invalid scope"}))
    for _ in range(3):
        with pytest.raises(FeedError):
            await feed.fetch_reading(web, "ERCOT", NOW)
    assert sum("login" in url for url, _ in web.requests) == 1
