"""The order of intensity sources, their labels, and forecasts."""

from typing import Any

import pytest

from gateway.carbon.intensity import annual_intensity, current_intensity
from gateway.feeds import cloud_regions, intensity_tables
from gateway.values.grid import CarbonIntensity, GridReading, IntensitySample

TABLES = {
    "cloud_region": {"gcp/europe-west1": 110.0},
    "annual_region": {"USA-oregon": 165.0},
    "annual_country": {"USA": 369.0},
}
NOW = 1_790_000_000.0
ANNUAL = CarbonIntensity(zone="DEU", grams_per_kwh=354.0, method="annual_country")


def make_reading(grams: float = 200.0, age: float = 60.0, **more: Any) -> GridReading:
    fields = {"zone": "DE", "grams_per_kwh": grams, "read_at": NOW - age, "feed": "electricity_maps", **more}
    return GridReading(**fields)


@pytest.mark.parametrize(
    "zone, region, override, method, grams",
    [
        ("USA-oregon", "", 12.0, "override", 12.0),
        ("USA-oregon", "", None, "annual_region", 165.0),
        ("USA-nowhere", "", None, "annual_country", 369.0),
        (None, "gcp/europe-west1", None, "cloud_region", 110.0),
        ("USA", "gcp/europe-west1", None, "annual_country", 369.0),
        ("XXX", "", None, "world", 475.0),
        (None, "", None, "world", 475.0),
    ],
    ids=["override", "a state", "its country", "a cloud region", "zone before region", "unknown zone", "undeclared"],
)  # fmt: skip
def test_the_order_of_sources(zone, region, override, method, grams):
    intensity = annual_intensity(zone, region, override, TABLES)
    assert (intensity.method, intensity.grams_per_kwh) == (method, grams)


def intensity_of(*readings: GridReading, annual: CarbonIntensity = ANNUAL) -> CarbonIntensity:
    return current_intensity(annual, readings, now=NOW, age_max=7200)


def test_a_live_reading_replaces_the_annual_value_and_is_labelled():
    intensity = intensity_of(make_reading())
    assert (intensity.grams_per_kwh, intensity.source, intensity.read_at) == (200.0, "live:electricity_maps", NOW - 60)


def test_a_stale_reading_is_ignored():
    assert intensity_of(make_reading(age=7201)) == ANNUAL


def test_the_first_feed_with_a_current_reading_is_used():
    intensity = intensity_of(make_reading(), make_reading(grams=300.0, feed="uk"))
    assert intensity.source == "live:electricity_maps"
    assert intensity_of(make_reading(age=9000), make_reading(grams=300.0, feed="uk")).source == "live:uk"


def test_an_override_is_kept_whatever_feeds_report():
    override = CarbonIntensity(zone="DEU", grams_per_kwh=1.0, method="override")
    assert (
        intensity_of(
            make_reading(forecast=(IntensitySample(NOW, 5.0), IntensitySample(NOW + 3600, 5.0))), annual=override
        )
        == override
    )


def test_a_marginal_signal_is_for_decisions_and_never_reported():
    intensity = intensity_of(make_reading(grams=800.0, signal="marginal", feed="watttime"))
    assert (intensity.grams_per_kwh, intensity.marginal_grams_per_kwh) == (354.0, 800.0)
    assert intensity.source == "annual_country"
    assert intensity_of(make_reading(grams=800.0, signal="marginal", age=9000)).marginal_grams_per_kwh is None


def test_a_forecast_ends_with_its_last_slot():
    intensity = intensity_of(make_reading(forecast=(IntensitySample(NOW, 200.0), IntensitySample(NOW + 1800, 100.0))))
    slots = [intensity.sample_at(NOW + after) for after in (-1, 0, 1799, 1800, 3599, 3600)]
    assert [slot and slot.grams_per_kwh for slot in slots] == [None, 200, 200, 100, 100, None]


@pytest.mark.parametrize(
    "after, grams, source",
    [
        (0, 210.0, "live:uk"), (1799, 210.0, "live:uk"), (1800, 100.0, "forecast:uk"), (3600, 210.0, "live:uk"),
        (7201, 354.0, "annual_country"),
    ],
    ids=["at once", "in the same slot", "in the next slot", "beyond the forecast", "too old"],
)  # fmt: skip
def test_between_two_readings_the_feeds_own_forecast_is_used(after, grams, source):
    reading = make_reading(
        grams=210.0, age=0, feed="uk", forecast=(IntensitySample(NOW, 200.0), IntensitySample(NOW + 1800, 100.0))
    )
    intensity = current_intensity(ANNUAL, [reading], now=NOW + after, age_max=7200)
    assert (intensity.grams_per_kwh, intensity.source) == (grams, source)


def test_the_shipped_tables_have_the_usual_zones():
    tables = {
        "cloud_region": {name: intensity.grams_per_kwh for name, intensity in cloud_regions.load().items()},
        **intensity_tables.load(),
    }
    assert 20 < annual_intensity("NOR", "", None, tables).grams_per_kwh < 60
    assert 300 < annual_intensity("DEU", "", None, tables).grams_per_kwh < 450
    assert annual_intensity("SE1", "", None, tables).method == "annual_region"
    assert annual_intensity(None, "gcp/europe-north1", None, tables).grams_per_kwh < 100
    assert annual_intensity(None, "aws/us-east-1", None, tables).method == "cloud_region"
