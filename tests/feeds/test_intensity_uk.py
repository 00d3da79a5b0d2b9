"""Great Britain's Carbon Intensity API: the country, its regions, and rejection of invalid answers."""

import pytest

from gateway.feeds.grid_reading import FeedError
from gateway.feeds.intensity_uk import UkIntensity
from gateway.values.grid_feeds import FeedAccess
from tests.feeds.fake_web import NOW, FakeWeb

SLOTS = [
    {"from": "2026-03-06T18:30Z", "to": "2026-03-06T19:00Z", "intensity": {"forecast": 264, "actual": 271, "index": "high"}},
    {"from": "2026-03-06T19:00Z", "to": "2026-03-06T19:30Z", "intensity": {"forecast": 250, "actual": None, "index": "high"}},
    {"from": "2026-03-06T19:30Z", "to": "2026-03-06T20:00Z", "intensity": {"forecast": 120, "actual": None, "index": "low"}},
]  # fmt: skip


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
