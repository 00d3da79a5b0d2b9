"""WattTime: login, the marginal signal, and rejection of other signals."""

from typing import Any

import pytest

from gateway.feeds.grid_reading import FeedError
from gateway.feeds.intensity_watttime import WattTime
from gateway.values.grid_feeds import FeedAccess
from tests.feeds.fake_web import NOW, FakeWeb

META = {
    "region": "CAISO_NORTH",
    "signal_type": "co2_moer",
    "units": "lbs_co2_per_mwh",
    "data_point_period_seconds": 300,
}
MOER: dict[str, Any] = {
    "data": [{"point_time": "2026-03-06T19:10:00+00:00", "value": 1000.0}, {"point_time": "2026-03-06T19:15:00+00:00", "value": 900.0}],
    "meta": META,
}  # fmt: skip


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
    answer = {**MOER, "meta": {**META, **meta}}
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
