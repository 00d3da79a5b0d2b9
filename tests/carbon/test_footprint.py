"""Energy and carbon: physics that any estimate must keep, and the figures of the method's own table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carbon import intensity
from gateway.carbon.energy import model_of
from gateway.carbon.footprint import footprint
from gateway.feeds import intensity_tables
from gateway.values.catalog import EnergyProfile, Intensity
from gateway.values.usage import Usage

DENSE = EnergyProfile(active_params_b=8, total_params_b=8, bytes_per_param=2)
EXPERTS = EnergyProfile(active_params_b=37, total_params_b=671, bytes_per_param=1)
GRID = Intensity(zone="FRA", grams_per_kwh=56.0, method="annual_country", label="test")
PROFILES = st.sampled_from([DENSE, EXPERTS])
COUNTS = st.integers(0, 200_000)


def took(profile: EnergyProfile, **tokens: int):
    return footprint(model_of(profile), GRID, Usage(**{"input": 0, "output": 0, **tokens}))


@given(profile=PROFILES, given_=COUNTS, written=COUNTS, cached=COUNTS, more=st.integers(0, 5000))
def test_energy_grows_with_every_token_count_and_bounds_are_ordered(profile, given_, written, cached, more):
    cached = min(cached, given_)
    base = took(profile, input=given_, output=written, cached_input=cached)
    for larger in (
        took(profile, input=given_ + more, output=written, cached_input=cached),
        took(profile, input=given_, output=written + more, cached_input=cached),
    ):
        assert larger.energy_millijoules.low >= base.energy_millijoules.low >= 0
        assert larger.energy_millijoules.mid >= base.energy_millijoules.mid
        assert larger.carbon_micrograms.high >= base.carbon_micrograms.high
    for figure in (base.energy_millijoules, base.carbon_micrograms):
        assert figure.low <= figure.mid <= figure.high


@given(profile=PROFILES, given_=st.integers(1, 100_000), cached=st.integers(0, 100_000))
def test_cached_input_never_takes_more_than_fresh_input(profile, given_, cached):
    cached = min(cached, given_)
    assert (
        took(profile, input=given_, cached_input=cached).energy_millijoules.mid
        <= took(profile, input=given_).energy_millijoules.mid
    )


@pytest.mark.parametrize(
    "tokens, wh, source",
    [
        # Published points with the reference mid estimate within the stated factor; GPT-4o guessed at 100B active, 400B total.
        ({"input": 100, "output": 500}, 0.30, "Epoch AI, GPT-4o query"),
        ({"input": 10_000, "output": 500}, 2.5, "Epoch AI, 10k input"),
        ({"input": 100_000, "output": 500}, 40.0, "Epoch AI, 100k input"),
    ],
)
def test_the_band_holds_published_points(tokens, wh, source):
    profile = EnergyProfile(active_params_b=100, total_params_b=400, bytes_per_param=1)
    figure = took(profile, **tokens).energy_millijoules
    assert figure.low / 3.6e6 <= wh <= figure.high / 3.6e6, source


def test_known_concurrency_narrows_the_band():
    known = EnergyProfile(active_params_b=8, total_params_b=8, bytes_per_param=2, concurrency=64)
    wide, narrow = took(DENSE, output=1000).energy_millijoules, took(known, output=1000).energy_millijoules
    assert narrow.high / narrow.low < wide.high / wide.low


def test_a_joule_per_token_is_what_the_formula_says():
    # 8B dense, bf16, 64 together, 1000 out, 0 in: 1000 * (0.264*8*2/64 + 0.0029*8 + 0.0095*sqrt(8)*0.5 + 0.03) J of GPU
    known = EnergyProfile(active_params_b=8, total_params_b=8, bytes_per_param=2, concurrency=64)
    gpu = model_of(known)[1].accelerator_joules(0, 0, 1000)
    assert gpu == pytest.approx(1000 * (0.066 + 0.0232 + 0.0095 * 8**0.5 * 0.5 + 0.030))


def test_a_zone_resolves_from_override_to_region_to_country_to_world():
    tables = {"annual_region": {"USA-oregon": 165.0}, "annual_country": {"USA": 369.0}}
    assert intensity.resolve("USA-oregon", 12.0, tables).method == "override"
    assert intensity.resolve("USA-oregon", None, tables).grams_per_kwh == 165.0
    assert intensity.resolve("USA-nowhere", None, tables).method == "annual_country"
    assert intensity.resolve("XXX", None, tables).method == "world"
    assert intensity.resolve(None, None, tables).method == "world"


def test_the_shipped_tables_know_the_usual_zones():
    tables = intensity_tables.load()
    assert 20 < intensity.resolve("NOR", None, tables).grams_per_kwh < 60
    assert 300 < intensity.resolve("DEU", None, tables).grams_per_kwh < 450
    assert intensity.resolve("SE1", None, tables).method == "annual_region"
