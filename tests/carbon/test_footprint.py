"""Energy and carbon: physical properties of any estimate, and published figures."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carbon import energy
from gateway.carbon.energy import energy_models
from gateway.carbon.footprint import carbon_hold_micrograms, footprint, footprint_method, with_footprint_model
from gateway.values.catalog import EnergyProfile, Footprint
from gateway.values.grid import CarbonIntensity
from gateway.values.usage import Usage
from tests.snapshots import snapshot

DENSE = EnergyProfile(active_params_b=8, total_params_b=8, bytes_per_param=2)
EXPERTS = EnergyProfile(active_params_b=37, total_params_b=671, bytes_per_param=1)
GRID = CarbonIntensity(zone="FRA", grams_per_kwh=56.0, method="annual_country")
COUNTS = st.integers(0, 200_000)
PROFILES = st.builds(
    EnergyProfile,
    active_params_b=st.floats(0.1, 100),
    total_params_b=st.floats(100, 3000),
    bytes_per_param=st.sampled_from([0.5, 1.0, 2.0]),
    hardware=st.sampled_from(sorted(energy.HARDWARE)),
    engine=st.sampled_from(["", "2024", "2025"]),
    concurrency=st.none() | st.floats(0.2, 5000),
    gpus=st.none() | st.integers(1, 64),
    meter_scale=st.floats(0.1, 10),
)


def footprint_of(profile: EnergyProfile, **tokens: Any) -> Footprint:
    return footprint(energy_models(profile), GRID, Usage(**{"input": 0, "output": 0, **tokens}))


@given(profile=PROFILES, input_tokens=COUNTS, output_tokens=COUNTS, cached=COUNTS, more=st.integers(0, 5000))
def test_energy_grows_with_every_token_count_and_bounds_are_ordered(profile, input_tokens, output_tokens, cached, more):
    cached = min(cached, input_tokens)
    base = footprint_of(profile, input=input_tokens, output=output_tokens, cached_input=cached)
    for larger in (
        footprint_of(profile, input=input_tokens + more, output=output_tokens, cached_input=cached),
        footprint_of(profile, input=input_tokens + more, output=output_tokens, cached_input=cached + more),
        footprint_of(profile, input=input_tokens, output=output_tokens + more, cached_input=cached),
    ):
        assert larger.energy_millijoules.low >= base.energy_millijoules.low >= 0
        assert larger.energy_millijoules.mid >= base.energy_millijoules.mid
        assert larger.carbon_micrograms.high >= base.carbon_micrograms.high
    for figure in (base.energy_millijoules, base.carbon_micrograms):
        assert figure.low <= figure.mid <= figure.high
    assert 0 <= base.embodied_micrograms <= base.carbon_micrograms.mid


@given(profile=PROFILES, input_tokens=st.integers(1, 100_000), cached=st.integers(0, 100_000))
def test_cached_input_never_takes_more_energy_than_fresh_input(profile, input_tokens, cached):
    cached = min(cached, input_tokens)
    assert (
        footprint_of(profile, input=input_tokens, cached_input=cached).energy_millijoules.mid
        <= footprint_of(profile, input=input_tokens).energy_millijoules.mid
    )


@given(profile=PROFILES, first=st.integers(0, 50_000), second=st.integers(0, 50_000))
def test_split_requests_add_up_to_the_whole_except_for_context(profile, first, second):
    for models in energy_models(profile):
        parts = models.accelerator_joules(0, 0, first) + models.accelerator_joules(0, 0, second)
        whole = models.accelerator_joules(0, 0, first + second)
        # Every token of the second part has the first part in its context.
        context = models.per_output_context * first * second
        assert whole == pytest.approx(parts + context)
        parts = models.accelerator_joules(first, 0, 0) + models.accelerator_joules(second, 0, 0)
        whole = models.accelerator_joules(first + second, 0, 0)
        assert whole == pytest.approx(parts + 2 * models.per_input_squared * first * second)


@given(profile=PROFILES, input_tokens=COUNTS, output_tokens=COUNTS, grams=st.floats(0, 2000))
def test_the_held_carbon_is_never_less_than_the_booked_carbon(profile, input_tokens, output_tokens, grams):
    models, grid = energy_models(profile), replace(GRID, grams_per_kwh=grams)
    booked = footprint(models, grid, Usage(input=input_tokens, output=output_tokens))
    assert carbon_hold_micrograms(models, grid, booked.energy_millijoules.mid) >= booked.carbon_micrograms.mid


@pytest.mark.parametrize(
    "tokens, wh, source",
    [
        # Published points within the band; GPT-4o estimated at 100B active, 400B total.
        ({"input": 100, "output": 500}, 0.30, "Epoch AI, GPT-4o query"),
        ({"input": 10_000, "output": 500}, 2.5, "Epoch AI, 10k input"),
        ({"input": 100_000, "output": 500}, 40.0, "Epoch AI, 100k input"),
    ],
)
def test_published_points_are_within_the_band(tokens, wh, source):
    profile = EnergyProfile(active_params_b=100, total_params_b=400, bytes_per_param=1)
    figure = footprint_of(profile, **tokens).energy_millijoules
    assert figure.low / 3.6e6 <= wh <= figure.high / 3.6e6, source


@pytest.mark.parametrize("fact", [{"concurrency": 64}, {"engine": "2025"}], ids=["concurrency", "engine"])
def test_a_declared_fact_narrows_the_band(fact):
    wide = footprint_of(DENSE, output=1000).energy_millijoules
    narrow = footprint_of(replace(DENSE, **fact), output=1000).energy_millijoules
    assert narrow.high / narrow.low < wide.high / wide.low


@pytest.mark.parametrize(
    "fact, more",
    [({"concurrency": 8}, True), ({"concurrency": 2000}, False), ({"engine": "2024"}, True), ({"gpus": 8}, True),
     ({"hardware": "b200"}, False), ({"bytes_per_param": 1.0}, False), ({"meter_scale": 2.0}, True)],
    ids=["low concurrency takes more", "high concurrency takes less", "older engines take more",
         "more GPUs than needed take more", "newer hardware takes less", "fewer bits take less", "a meter scales"],
)  # fmt: skip
def test_hardware_facts_change_the_energy(fact, more):
    base, other = footprint_of(DENSE, output=1000), footprint_of(replace(DENSE, **fact), output=1000)
    assert (other.energy_millijoules.mid > base.energy_millijoules.mid) is more


def test_market_based_carbon_is_a_separate_figure():
    clean = replace(GRID, market_grams_per_kwh=0.0)
    figure = footprint(energy_models(DENSE), clean, Usage(input=100, output=100))
    assert figure.market_micrograms == figure.embodied_micrograms < figure.carbon_micrograms.mid


@pytest.mark.parametrize(
    "profile, method",
    [
        (DENSE, "modelled-2/facility/annual_country/v1"),
        (replace(DENSE, concurrency=64.0, concurrency_source="declared"), "modelled-2+declared/facility/annual_country/v1"),
        (replace(DENSE, source="ecologits"), "modelled-2+guess/facility/annual_country/v1"),
        (replace(DENSE, is_metered=True), "modelled-2+metered/facility/annual_country/v1"),
        (None, "unknown-model"),
    ],
    ids=["the prior", "declared", "a registry's estimate", "with a meter", "unknown weights"],
)  # fmt: skip
def test_the_label_of_a_figure_names_its_method(profile, method):
    assert footprint_method(profile, GRID, "v1") == method


def test_a_deployment_is_updated_by_its_profile_and_grid():
    small = snapshot().deployments["small"]
    live = replace(small.annual_intensity, grams_per_kwh=12.0, method="live", feed="uk", read_at=1.0)
    assert small.energy_profile is not None
    updated = with_footprint_model(
        small, replace(small.energy_profile, concurrency=9.0, concurrency_source="observed"), live
    )
    assert updated.footprint_method.startswith("modelled-2+observed/facility/live:uk/")
    assert updated.intensity.grams_per_kwh == 12.0
    assert updated.annual_intensity is small.annual_intensity
    assert updated.energy_models != small.energy_models
