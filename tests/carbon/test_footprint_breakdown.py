"""The lines of `explain` add up to the booked footprint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carbon.energy import energy_models
from gateway.carbon.footprint import footprint
from gateway.carbon.footprint_breakdown import breakdown, factors_text
from gateway.values.catalog import EnergyProfile
from gateway.values.usage import Usage
from tests.carbon.test_footprint import COUNTS, DENSE, GRID, PROFILES

_PARTS = ("decode, steps", "decode, tokens", "decode, context", "prefill", "prefill, attention", "prefill, cached")


@given(profile=PROFILES, input_tokens=COUNTS, cached=COUNTS, output_tokens=COUNTS, pictures=st.booleans())
def test_the_lines_add_up_to_the_footprint(profile, input_tokens, cached, output_tokens, pictures):
    usage = Usage(input=input_tokens, cached_input=min(cached, input_tokens), output=output_tokens)
    lines = {(line.name, line.unit): line for line in breakdown(profile, GRID, usage, has_images=pictures)}
    booked = footprint(energy_models(profile), GRID, usage, has_images=pictures)
    for bound in ("low", "mid", "high"):
        parts = sum(getattr(lines[part, "J"], bound) for part in _PARTS)
        assert parts == pytest.approx(getattr(lines["accelerator", "J"], bound))
        assert getattr(lines["energy", "J"], bound) * 1000 == pytest.approx(getattr(booked.energy_millijoules, bound))
        assert getattr(lines["carbon", "g CO2e"], bound) * 1e6 == pytest.approx(
            getattr(booked.carbon_micrograms, bound)
        )


def test_the_factors_on_all_joules_are_listed():
    assert factors_text(DENSE) == ""
    other = EnergyProfile(active_params_b=8, total_params_b=8, bytes_per_param=2, engine="2024", meter_scale=1.2)
    assert factors_text(other) == "older engine x 1.5, meter x 1.2"
