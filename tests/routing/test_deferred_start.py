"""Deferred starts: the greenest time before the deadline, and never too late."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.deferred_start import lead_seconds, lowest_carbon_start
from gateway.values.grid import IntensitySample
from tests.snapshots import snapshot

NOW = 1_790_000_000.0
SMALL = snapshot().deployments["small"]
HOUR = 3600.0


def deployment_on(grams: float, *forecast: float, name: str = "small"):
    """A deployment on a grid with this intensity, and an hourly forecast from now on."""
    samples = tuple(IntensitySample(NOW + hour * HOUR, value) for hour, value in enumerate(forecast))
    return replace(SMALL, name=name, intensity=replace(SMALL.intensity, grams_per_kwh=grams, forecast=samples))


@pytest.mark.parametrize(
    "grams, forecast, hours, start",
    [
        (300, (300, 200, 100, 250), 4, 2),
        (300, (300, 200, 100, 250), 1.5, 1),
        (300, (300, 290, 280, 270), 4, None),
        (300, (300, 100, 100, 250), 4, 1),
        (100, (100, 200, 300, 400), 4, None),
        (300, (), 4, None),
        (300, (300, 100), 0.5, None),
        (300, (300, 100), -1, None),
    ],
    ids=["the greenest hour", "the greenest before the deadline", "a gain below the minimum", "the earliest of equals",
         "now is the greenest", "no forecast", "no sample before the deadline", "the deadline has passed"],
)  # fmt: skip
def test_the_greenest_start(grams, forecast, hours, start):
    chosen = lowest_carbon_start(deployment_on(grams, *forecast), now=NOW, latest=NOW + hours * HOUR, gain_min=0.2)
    assert (chosen - NOW) / HOUR == start if chosen is not None else start is None


def test_requests_with_unknown_energy_are_not_deferred():
    assert (
        lowest_carbon_start(
            replace(deployment_on(300, 300, 10), energy_models=None), now=NOW, latest=NOW + HOUR * 4, gain_min=0.2
        )
        is None
    )


@given(
    grams=st.floats(0, 2000),
    forecast=st.lists(st.floats(0, 2000), max_size=40),
    hours=st.floats(-2, 50),
    gain=st.floats(0, 0.99),
)
def test_a_start_is_never_too_late_nor_below_the_minimum_gain(grams, forecast, hours, gain):
    chosen = lowest_carbon_start(deployment_on(grams, *forecast), now=NOW, latest=NOW + hours * HOUR, gain_min=gain)
    if chosen is not None:
        assert NOW < chosen <= NOW + hours * HOUR
        assert forecast[round((chosen - NOW) / HOUR)] <= (1 - gain) * grams


@pytest.mark.parametrize(
    "expected, timeout, limit, lead",
    [(1, 10, 3600, 30), (60, 10, 3600, 180), (1, 600, 3600, 600), (1, 600, 100, 50), (60, 600, 100, 180)],
    ids=[
        "half a minute at least",
        "three times the expected duration",
        "the timeout",
        "the timeout, at most half of the time",
        "the expected duration, beyond half of the time",
    ],
)
def test_the_lead_before_the_deadline(expected, timeout, limit, lead):
    assert lead_seconds(expected, timeout, limit) == lead
