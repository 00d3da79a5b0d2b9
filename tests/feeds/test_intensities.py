"""What intensity feeds say, in the shapes that their APIs document; and what of it is not believed."""

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


class Web:
    """Answers by the end of the path; remembers what was asked."""

    def __init__(self, **answers: object) -> None:
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self._answers = answers

    async def __call__(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.asked.append((url, headers))
        found = next((answer for name, answer in self._answers.items() if name in url), (404, {"error": "no"}))
        if isinstance(found, Exception):
            raise found
        status, body = found if isinstance(found, tuple) else (200, found)
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()


def maps() -> ElectricityMaps:
    return ElectricityMaps(FeedAccess(base_url="http://em", key="k"))


async def test_electricity_maps_latest_and_forecast():
    web = Web(latest=LATEST, forecast=FORECAST)
    session_sync = await maps().fetch_reading(web, "DE", NOW)
    assert (session_sync.grams_per_kwh, session_sync.read_at) == (216.0, NOW - 600)
    assert session_sync.forecast == (IntensitySample(NOW - 600, 210.0), IntensitySample(NOW + 3000, 90.0))
    assert [url for url, _ in web.asked] == [
        "http://em/v3/carbon-intensity/latest?zone=DE",
        "http://em/v3/carbon-intensity/forecast?zone=DE",
    ]
    assert all(headers == {"auth-token": "k"} for _, headers in web.asked)


@pytest.mark.parametrize(
    "forecast",
    [(403, b"Access denied"), OSError("gone"), {"zone": "FR", "forecast": FORECAST["forecast"]},
     {"zone": "DE", "forecast": [{"carbonIntensity": -1, "datetime": "2026-03-06T19:00:00Z"}]},
     {"zone": "DE", "forecast": FORECAST["forecast"][::-1]}],
    ids=["a plan without forecasts", "no connection", "another zone", "a value that no grid has", "out of order"],
)  # fmt: skip
async def test_the_value_counts_without_a_forecast_that_cannot_be(forecast):
    session_sync = await maps().fetch_reading(Web(latest=LATEST, forecast=forecast), "DE", NOW)
    assert (session_sync.grams_per_kwh, session_sync.forecast) == (216.0, ())


LIES = {
    "negative": {"carbonIntensity": -5},
    "not a number": {"carbonIntensity": "216"},
    "nothing": {"carbonIntensity": None},
    "beyond any grid": {"carbonIntensity": 1e6},
    "beyond any float": {"carbonIntensity": 10**30},
    "true": {"carbonIntensity": True},
    "another zone": {"zone": "FR"},
    "from the future": {"datetime": "2027-01-01T00:00:00Z"},
    "no time": {"datetime": "yesterday"},
    "a time beyond time": {"datetime": 12},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_what_cannot_be_is_not_believed(lie):
    with pytest.raises(FeedError):
        await maps().fetch_reading(Web(latest={**LATEST, **lie}, forecast=FORECAST), "DE", NOW)


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
    ids=["no key", "too often", "no JSON", "no object", "NaN", "nothing"],
)
async def test_no_answer_is_a_failure_that_names_no_key(answer):
    with pytest.raises(FeedError) as failed:
        await maps().fetch_reading(Web(latest=answer if isinstance(answer, tuple) else (200, answer)), "DE", NOW)
    assert "k" not in str(failed.value).split()


async def test_the_island_s_running_half_hour_and_its_day():
    web = Web(fw24h={"data": SLOTS})
    session_sync = await UkIntensity(FeedAccess(base_url="http://uk")).fetch_reading(web, "GB", NOW)
    assert web.asked[0][0] == "http://uk/intensity/2026-03-06T19:10Z/fw24h"
    assert (session_sync.zone, session_sync.grams_per_kwh) == ("GBR", 250.0)
    assert [sample.grams_per_kwh for sample in session_sync.forecast] == [250.0, 120.0]


@pytest.mark.parametrize("wrapped", [False, True], ids=["an object", "a list of one"])
async def test_a_region_is_told_by_its_number(wrapped):
    region = {"regionid": 13, "shortname": "London", "data": SLOTS}
    web = Web(regionid={"data": [region] if wrapped else region})
    session_sync = await UkIntensity(FeedAccess(base_url="http://uk")).fetch_reading(web, "13", NOW)
    assert web.asked[0][0] == "http://uk/regional/intensity/2026-03-06T19:10Z/fw24h/regionid/13"
    assert (session_sync.zone, session_sync.grams_per_kwh) == ("GBR-13", 250.0)


@pytest.mark.parametrize(
    "answer",
    [{"data": {"regionid": 7, "data": SLOTS}}, {"data": {"regionid": 13, "data": SLOTS[:1]}}, {"data": []},
     {"data": {"regionid": 13, "data": [1]}}, (400, {"error": {"code": "400 Bad Request"}}), (200, b"")],
    ids=["another region", "nothing of the present", "nothing", "no slots", "refused", "an empty body"],
)  # fmt: skip
async def test_a_region_that_is_not_told(answer):
    with pytest.raises(FeedError):
        await UkIntensity(FeedAccess(base_url="http://uk")).fetch_reading(Web(regionid=answer), "13", NOW)


async def test_watttime_logs_in_once_and_tells_the_marginal_signal_in_grams():
    web, feed = (
        Web(login={"token": "t"}, forecast=MOER),
        WattTime(FeedAccess(base_url="http://wt", user="u", password="p")),
    )
    session_sync = await feed.fetch_reading(web, "CAISO_NORTH", NOW)
    assert session_sync.grams_per_kwh == pytest.approx(453.59237)
    assert (session_sync.signal, session_sync.forecast) == ("marginal", ())
    await feed.fetch_reading(web, "CAISO_NORTH", NOW + 60)
    assert [url.rsplit("/", 1)[-1].partition("?")[0] for url, _ in web.asked] == ["login", "forecast", "forecast"]
    assert web.asked[0][1] == {"authorization": "Basic dTpw"}
    assert web.asked[1][1] == {"authorization": "Bearer t"}


@pytest.mark.parametrize(
    "meta", [{"region": "ERCOT"}, {"units": "percentile"}], ids=["another region", "a percentile is no intensity"]
)
async def test_watttime_s_other_signals_are_not_taken_for_it(meta):
    answer = {**MOER, "meta": {**MOER["meta"], **meta}}
    with pytest.raises(FeedError):
        await WattTime(FeedAccess(base_url="http://wt", user="u", password="p")).fetch_reading(
            Web(login={"token": "t"}, forecast=answer), "CAISO_NORTH", NOW
        )


async def test_a_token_that_is_not_believed_any_more_is_asked_for_anew():
    feed = WattTime(FeedAccess(base_url="http://wt", user="u", password="p"))
    with pytest.raises(FeedError):
        await feed.fetch_reading(Web(login={"token": "t"}, forecast=(401, b"expired")), "CAISO_NORTH", NOW)
    web = Web(login={"token": "t2"}, forecast=MOER)
    await feed.fetch_reading(web, "CAISO_NORTH", NOW)
    assert "login" in web.asked[0][0]


async def test_a_region_that_is_not_allowed_costs_the_others_no_token():
    feed = WattTime(FeedAccess(base_url="http://wt", user="u", password="p"))
    web = Web(login={"token": "t"}, forecast=(403, {"error": "Invalid scope"}))
    for _ in range(3):
        with pytest.raises(FeedError):
            await feed.fetch_reading(web, "ERCOT", NOW)
    assert sum("login" in url for url, _ in web.asked) == 1
