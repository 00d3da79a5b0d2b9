"""When work that can wait is begun: at the greenest moment before its deadline, and never too late."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.deferred_start import greenest_start, lead_seconds
from gateway.values.grid import IntensitySample
from tests.snapshots import snapshot

NOW = 1_790_000_000.0
SMALL = snapshot().deployments["small"]
HOUR = 3600.0


def at(grams: float, *forecast: float, name: str = "small"):
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
    ids=["the greenest hour", "the greenest before the deadline", "small gains are noise", "of equals the earliest",
         "now is the greenest", "no forecast", "nothing begins before the deadline", "it is too late already"],
)  # fmt: skip
def test_the_moment(grams, forecast, hours, start):
    found = greenest_start(at(grams, *forecast), now=NOW, latest=NOW + hours * HOUR, gain_min=0.2)
    assert (found - NOW) / HOUR == start if found is not None else start is None


def test_nobody_waits_where_the_energy_is_not_known():
    assert (
        greenest_start(replace(at(300, 300, 10), energy_models=None), now=NOW, latest=NOW + HOUR * 4, gain_min=0.2)
        is None
    )


@given(
    grams=st.floats(0, 2000),
    forecast=st.lists(st.floats(0, 2000), max_size=40),
    hours=st.floats(-2, 50),
    gain=st.floats(0, 0.99),
)
def test_it_never_begins_too_late_nor_for_less_than_the_gain(grams, forecast, hours, gain):
    found = greenest_start(at(grams, *forecast), now=NOW, latest=NOW + hours * HOUR, gain_min=gain)
    if found is not None:
        assert NOW < found <= NOW + hours * HOUR
        assert forecast[round((found - NOW) / HOUR)] <= (1 - gain) * grams


@pytest.mark.parametrize(
    "expected, timeout, limit, room",
    [(1, 10, 3600, 30), (60, 10, 3600, 180), (1, 600, 3600, 600), (1, 600, 100, 50), (60, 600, 100, 180)],
    ids=[
        "half a minute at least",
        "three times what is usual",
        "its own timeout",
        "or half of the time",
        "as is usual, though",
    ],
)
def test_a_call_is_begun_with_room_before_its_deadline(expected, timeout, limit, room):
    assert lead_seconds(expected, timeout, limit) == room
