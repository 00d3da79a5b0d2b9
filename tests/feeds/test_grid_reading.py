"""Parsing and validation that the intensity feeds share."""

import math

import pytest

from gateway.feeds.grid_reading import (
    FeedError,
    check_not_future,
    fetch_json,
    parse_forecast,
    parse_grams_per_kwh,
    parse_rows,
    parse_timestamp,
)
from gateway.values.grid import GRAMS_PER_KWH_MAX, IntensitySample
from tests.feeds.fake_web import NOW, FakeWeb


async def test_a_json_object_is_returned():
    assert await fetch_json(FakeWeb(x={"a": 1}), "http://x", {}) == {"a": 1}


@pytest.mark.parametrize(
    "answer, problem",
    [((500, b"{}"), "status 500"), ((200, b"<html>"), "invalid JSON"), ((200, b"[1]"), "not a JSON object")],
    ids=["error status", "not JSON", "not an object"],
)
async def test_any_other_answer_is_a_feed_error(answer, problem):
    with pytest.raises(FeedError, match=problem):
        await fetch_json(FakeWeb(x=answer), "http://x", {})


async def test_a_failed_connection_is_passed_on():
    with pytest.raises(OSError, match="gone"):
        await fetch_json(FakeWeb(x=OSError("gone")), "http://x", {})


@pytest.mark.parametrize(
    "value, factor, grams", [(0, 1.0, 0.0), (GRAMS_PER_KWH_MAX, 1.0, float(GRAMS_PER_KWH_MAX)), (1000, 0.4535, 453.5)]
)
def test_an_intensity_is_scaled_to_grams(value, factor, grams):
    assert parse_grams_per_kwh(value, factor) == grams


@pytest.mark.parametrize(
    "value", [-0.1, GRAMS_PER_KWH_MAX + 1, math.nan, math.inf, 10**400, True, None, "216", [216]], ids=str
)
def test_an_implausible_intensity_is_refused(value):
    with pytest.raises(FeedError):
        parse_grams_per_kwh(value)


@pytest.mark.parametrize("text", ["2026-03-06T19:10:00Z", "2026-03-06T20:10:00+01:00", "2026-03-06T19:10"])
def test_a_time_without_an_offset_is_utc(text):
    assert parse_timestamp(text) == NOW


@pytest.mark.parametrize("value", ["yesterday", "", None, 12, "2026-03-06T25:00Z"])
def test_anything_else_is_no_time(value):
    with pytest.raises(FeedError, match="invalid timestamp"):
        parse_timestamp(value)


def test_a_time_may_be_up_to_an_hour_ahead():
    assert check_not_future(NOW + 3600, NOW) == NOW + 3600
    with pytest.raises(FeedError, match="future"):
        check_not_future(NOW + 3601, NOW)


def hours(count: int) -> list[tuple[str, int]]:
    return [(f"2026-03-{6 + number // 24:02}T{number % 24:02}:00Z", number) for number in range(count)]


def test_a_forecast_is_a_series_of_samples():
    first, second = parse_forecast([("2026-03-06T19:10Z", 1), ("2026-03-06T19:40Z", 2.5)], 2.0)
    assert (first, second) == (IntensitySample(NOW, 2.0), IntensitySample(NOW + 1800, 5.0))
    assert parse_forecast([]) == ()


@pytest.mark.parametrize(
    "points",
    [hours(2)[::-1], hours(1) * 2, [*hours(1), ("2026-03-07T00:00Z", None)], [("soon", 1)], hours(401)],
    ids=["descending", "repeated", "a value is missing", "not a time", "longer than any feed's"],
)
def test_a_forecast_with_one_invalid_point_is_refused(points):
    with pytest.raises(FeedError):
        parse_forecast(points)


@pytest.mark.parametrize("document", [{}, {"rows": None}, {"rows": {"a": 1}}, {"rows": [{}, 7]}])
def test_rows_are_a_list_of_objects(document):
    assert parse_rows({"rows": [{"a": 1}]}, "rows") == [{"a": 1}]
    with pytest.raises(FeedError, match="missing 'rows'"):
        parse_rows(document, "rows")
