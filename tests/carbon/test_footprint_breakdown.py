"""What `explain` shows adds up to what is booked."""

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


@given(profile=PROFILES, given_=COUNTS, cached=COUNTS, written=COUNTS, pictures=st.booleans())
def test_the_lines_add_up_to_the_footprint(profile, given_, cached, written, pictures):
    usage = Usage(input=given_, cached_input=min(cached, given_), output=written)
    found = {(line.name, line.unit): line for line in breakdown(profile, GRID, usage, pictures=pictures)}
    took = footprint(energy_models(profile), GRID, usage, pictures=pictures)
    for bound in ("low", "mid", "high"):
        parts = sum(getattr(found[part, "J"], bound) for part in _PARTS)
        assert parts == pytest.approx(getattr(found["accelerator", "J"], bound))
        assert getattr(found["energy", "J"], bound) * 1000 == pytest.approx(getattr(took.energy_millijoules, bound))
        assert getattr(found["carbon", "g CO2e"], bound) * 1e6 == pytest.approx(getattr(took.carbon_micrograms, bound))


def test_what_scales_all_joules_is_told():
    assert factors_text(DENSE) == ""
    other = EnergyProfile(active_params_b=8, total_params_b=8, bytes_per_param=2, engine="2024", meter_scale=1.2)
    assert factors_text(other) == "older engine x 1.5, meter x 1.2"
