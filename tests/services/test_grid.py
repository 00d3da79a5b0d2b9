"""Live grid data: published when it changes, whatever the feeds do."""

import asyncio
from datetime import UTC, datetime

import pytest

from gateway.services.supervisor import Supervisor
from tests.services.clocks import NOW, until
from tests.services.grid_fixture import ENGINE, FEEDS, LATENCY, METER, ZONES, GridFixture, with_energy, with_feeds
from tests.snapshots import snapshot


async def test_a_live_value_reaches_the_deployments_and_the_routes():
    fixture = with_feeds()
    fixture.set_latest(33)
    await fixture.grid.poll_feeds()
    assert fixture.small.intensity.grams_per_kwh == 33.0
    assert fixture.small.footprint_method.split("/")[2] == "live:electricity_maps"
    assert fixture.snapshot.routes["auto"].candidates[0] is fixture.small
    assert fixture.snapshot.routes["auto"].reference is fixture.snapshot.deployments["frontier"]
    assert fixture.published == 1
    await fixture.grid.poll_feeds()
    assert fixture.published == 1, "an unchanged reading publishes no snapshot"


@pytest.mark.parametrize(
    "grams, age, zone",
    [(-1, 0, "FR"), (1e6, 0, "FR"), (None, 0, "FR"), (50, 0, "DE"), (50, 8000, "FR"), (50, -90_000, "FR")],
    ids=["negative", "beyond any grid", "nothing", "another zone", "stale", "from the future"],
)
async def test_an_implausible_reading_changes_nothing(grams: object, age: float, zone: str):
    fixture = with_feeds()
    before = fixture.small
    fixture.set_latest(grams, age, zone)
    await fixture.grid.poll_feeds()
    assert fixture.small is before
    assert fixture.samples("penstock_feed_requests_total")["electricity_maps", "failed"] == 1


async def test_the_last_reading_is_used_until_it_is_too_old_then_the_annual_table():
    fixture = with_feeds()
    fixture.set_latest(33)
    await fixture.grid.poll_feeds()
    fixture.responses.clear()
    for hours, source in ((1, "live:electricity_maps"), (1.99, "live:electricity_maps"), (2.01, "annual_country")):
        fixture.clock.seconds = NOW + hours * 3600
        await fixture.grid.poll_feeds()
        assert fixture.small.intensity.source == source
    assert fixture.small.intensity == fixture.small.annual_intensity


async def test_the_next_feed_is_used_when_the_first_fails():
    fixture = with_feeds()
    slot = datetime.fromtimestamp(NOW // 1800 * 1800, UTC).strftime("%Y-%m-%dT%H:%MZ")
    fixture.responses["regionid/13"] = {
        "data": {"regionid": 13, "data": [{"from": slot, "intensity": {"forecast": 77}}]}
    }
    await fixture.grid.poll_feeds()
    assert (fixture.small.intensity.source, fixture.small.intensity.grams_per_kwh) == ("live:uk", 77.0)


async def test_a_reloaded_configuration_keeps_live_readings():
    fixture = with_feeds()
    fixture.set_latest(33)
    await fixture.grid.poll_feeds()
    fresh = fixture.grid.with_live_data(snapshot(more=FEEDS, small=ZONES))
    assert fresh.deployments["small"].intensity.grams_per_kwh == 33.0


async def test_a_hanging_feed_delays_no_other():
    fixture = with_feeds()
    fixture.set_latest(33)
    fixture.responses["uk"] = asyncio.Event()
    polling = asyncio.ensure_future(fixture.grid.poll_feeds())
    await until(lambda: fixture.published)
    assert fixture.small.intensity.source == "live:electricity_maps", "published while the other feed hangs"
    assert not polling.done()
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling


async def test_a_feed_is_polled_again_only_when_it_is_due():
    fixture = with_feeds()
    fixture.set_latest(33)
    for seconds, answered, failed in ((0, 1, 1), (31, 1, 1), (32, 1, 2), (899, 1, 3), (900, 2, 3)):
        fixture.clock.seconds = NOW + seconds
        await fixture.grid.poll_feeds()
        assert fixture.samples("penstock_feed_requests_total") == {
            ("electricity_maps", "answered"): answered, ("uk", "failed"): failed,
        }, seconds  # fmt: skip


async def test_a_feeds_failure_and_recovery_are_logged_once(caplog: pytest.LogCaptureFixture):
    fixture = with_feeds()
    fixture.responses["latest"] = (503, b"")
    for _ in range(3):
        await fixture.grid.poll_feeds()
        fixture.clock.seconds += 7200
    fixture.set_latest(33)
    await fixture.grid.poll_feeds()
    messages = [record.getMessage() for record in caplog.records if "electricity_maps" in record.getMessage()]
    assert messages == [
        "feed_failing feed=electricity_maps zone=FR error=status 503",
        "feed_recovered feed=electricity_maps zone=FR",
    ]
    counts = fixture.samples("penstock_feed_requests_total")
    assert (counts["electricity_maps", "failed"], counts["electricity_maps", "answered"]) == (3, 1)


async def test_metrics_show_the_intensity_in_use_and_the_age_of_a_live_one():
    fixture = with_feeds()
    fixture.set_latest(33, age=60)
    await fixture.grid.poll_feeds()
    fixture.clock.seconds += 30
    intensities = fixture.samples("penstock_grid_intensity_grams_per_kwh")
    live = ("small", fixture.small.intensity.zone, "live:electricity_maps")
    assert intensities[live] == 33.0
    assert {name for name, _, _ in intensities} == {"small", "frontier"}
    assert fixture.samples("penstock_grid_intensity_age_seconds") == {live: 90.0}, "annual values have no age"


@pytest.mark.parametrize(
    "fixture, fetches",
    [
        (with_feeds, {"http://em": 1, "http://uk": 1}),
        (lambda: with_energy(ENGINE), {"http://engine": 4}),
        (lambda: with_energy(METER), {"http://dcgm": 2}),
        (lambda: with_energy(LATENCY), {}),
        (lambda: GridFixture(snapshot()), {}),
    ],
    ids=["feeds every second when due", "engines every 5 s", "meters every 10 s", "latencies from requests", "nothing"],
)
async def test_what_is_configured_is_polled_in_the_background(fixture, fetches):
    started = fixture()
    supervisor = Supervisor(started.clock.sleep)
    started.grid.start(supervisor, started)
    await started.clock.advance(20)
    await supervisor.stop()
    assert {url: sum(each.startswith(url) for each in started.fetched) for url in fetches} == fetches
    assert len(started.fetched) == sum(fetches.values())
