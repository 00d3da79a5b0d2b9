"""Where an intensity comes from: the operator, a live feed, the cloud region, region, country, world; and what it is called."""

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
KNOWN = CarbonIntensity(zone="DEU", grams_per_kwh=354.0, method="annual_country")


def news(grams: float = 200.0, age: float = 60.0, **more: object) -> GridReading:
    return GridReading(
        **{"zone": "DE", "grams_per_kwh": grams, "read_at": NOW - age, "feed": "electricity_maps", **more}
    )


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
    ids=["the operator's word", "a state", "its country", "a cloud region", "a zone before the region", "nowhere", "not said"],
)  # fmt: skip
def test_the_order_of_sources(zone, region, override, method, grams):
    found = annual_intensity(zone, region, override, TABLES)
    assert (found.method, found.grams_per_kwh) == (method, grams)


def present(*told: GridReading, known: CarbonIntensity = KNOWN) -> CarbonIntensity:
    return current_intensity(known, told, now=NOW, age_max=7200)


def test_a_live_value_replaces_the_annual_one_and_says_so():
    found = present(news())
    assert (found.grams_per_kwh, found.source, found.read_at) == (200.0, "live:electricity_maps", NOW - 60)


def test_a_stale_value_is_not_used_any_more():
    assert present(news(age=7201)) == KNOWN


def test_the_first_feed_that_tells_counts():
    found = present(news(), news(grams=300.0, feed="uk"))
    assert found.source == "live:electricity_maps"
    assert present(news(age=9000), news(grams=300.0, feed="uk")).source == "live:uk"


def test_the_operator_s_word_stands_whatever_feeds_say():
    override = CarbonIntensity(zone="DEU", grams_per_kwh=1.0, method="override")
    assert (
        present(news(forecast=(IntensitySample(NOW, 5.0), IntensitySample(NOW + 3600, 5.0))), known=override)
        == override
    )


def test_a_marginal_signal_is_for_decisions_and_never_reported():
    found = present(news(grams=800.0, signal="marginal", feed="watttime"))
    assert (found.grams_per_kwh, found.marginal_grams_per_kwh) == (354.0, 800.0)
    assert found.source == "annual_country"
    assert present(news(grams=800.0, signal="marginal", age=9000)).marginal_grams_per_kwh is None


def test_a_forecast_reaches_as_far_as_its_last_slot_lasts():
    found = present(news(forecast=(IntensitySample(NOW, 200.0), IntensitySample(NOW + 1800, 100.0))))
    slots = [found.sample_at(NOW + after) for after in (-1, 0, 1799, 1800, 3599, 3600)]
    assert [slot and slot.grams_per_kwh for slot in slots] == [None, 200, 200, 100, 100, None]


@pytest.mark.parametrize(
    "after, grams, source",
    [(0, 210.0, "live:uk"), (1799, 210.0, "live:uk"), (1800, 100.0, "forecast:uk"), (3600, 210.0, "live:uk"), (7201, 354.0, "annual_country")],
    ids=["as it was told", "in the same slot", "in the next slot", "beyond the forecast", "too old altogether"],
)  # fmt: skip
def test_between_two_answers_the_feed_s_own_forecast_says_what_is(after, grams, source):
    told = news(
        grams=210.0, age=0, feed="uk", forecast=(IntensitySample(NOW, 200.0), IntensitySample(NOW + 1800, 100.0))
    )
    found = current_intensity(KNOWN, [told], now=NOW + after, age_max=7200)
    assert (found.grams_per_kwh, found.source) == (grams, source)


def test_the_shipped_tables_know_the_usual_places():
    tables = {
        "cloud_region": {name: one.grams_per_kwh for name, one in cloud_regions.load().items()},
        **intensity_tables.load(),
    }
    assert 20 < annual_intensity("NOR", "", None, tables).grams_per_kwh < 60
    assert 300 < annual_intensity("DEU", "", None, tables).grams_per_kwh < 450
    assert annual_intensity("SE1", "", None, tables).method == "annual_region"
    assert annual_intensity(None, "gcp/europe-north1", None, tables).grams_per_kwh < 100
    assert annual_intensity(None, "aws/us-east-1", None, tables).method == "cloud_region"
