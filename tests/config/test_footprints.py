"""Model sizes, hardware, grids and feeds of a routing file."""

import pytest

from gateway.config.load import parse
from gateway.feeds import cloud_regions
from gateway.feeds.package_data import is_installed
from gateway.values.errors import ConfigError
from tests.snapshots import BASE_CONFIG, ENV


def small(text: str, more: str = "", model: str = "sim-small"):
    """The small deployment with this in place of its energy and zone."""
    full = BASE_CONFIG.format(more=more, small="", near="http://a/v1", far="http://b/v1")
    full = full.replace("energy: {active_params_b: 8}, zone: FRA, output", f"{text} output").replace("sim-small", model)
    snapshot, notes = parse(full, "test.yaml", ENV)
    return snapshot.deployments["small"], notes, snapshot


def test_the_size_of_an_open_model_comes_from_its_card():
    deployment, notes, _ = small("", model="meta-llama/Llama-3.1-70B-Instruct")
    assert deployment.energy_profile is not None
    assert (
        deployment.energy_profile.active_params_b,
        deployment.energy_profile.source,
        deployment.energy_profile.bytes_per_param,
    ) == (
        70,
        "card",
        2,
    )
    assert not notes


def test_the_file_overrides_the_model_card():
    deployment, _, _ = small("energy: {active_params_b: 3, bits_per_param: 4},", model="llama-3.1-70b")
    assert (deployment.energy_profile.active_params_b, deployment.energy_profile.bytes_per_param) == (3, 0.5)
    assert deployment.energy_profile.source == "config"


def test_hardware_may_be_declared_for_a_model_with_a_card():
    deployment, _, _ = small(
        "energy: {concurrency: 32, hardware: b200, gpus: 2, engine: '2025'},", model="llama-3.1-70b"
    )
    profile = deployment.energy_profile
    assert (profile.concurrency, profile.concurrency_source, profile.hardware, profile.gpus) == (
        32,
        "declared",
        "b200",
        2,
    )
    assert deployment.footprint_method.startswith("modelled-2+declared/facility/")


def test_an_unknown_model_size_is_noted_and_not_guessed():
    deployment, notes, _ = small("", model="unpublished")
    assert deployment.energy_profile is None and deployment.footprint_method == "unknown-model"
    assert any("no energy profile" in note for note in notes)


@pytest.mark.skipif(is_installed("ecologits"), reason="the registry is installed")
def test_a_registry_that_is_not_installed_is_a_problem():
    with pytest.raises(ConfigError, match=r"pip install 'penstock\[ecologits\]'"):
        small("", more="energy: {registry: ecologits}", model="unpublished-model")


def test_a_cloud_region_sets_grid_pue_market_intensity_and_feed_zone():
    more = "feeds: {electricity_maps: {api_key: {env: KEY_ONE}}}"
    deployment, _, snapshot = small("energy: {active_params_b: 8}, cloud_region: gcp/europe-west1,", more)
    region = cloud_regions.load()["gcp/europe-west1"]
    assert region.carbon_free_share is not None
    assert deployment.intensity.method == "cloud_region"
    assert deployment.intensity.grams_per_kwh == region.grams_per_kwh
    assert deployment.intensity.market_grams_per_kwh == pytest.approx(
        region.grams_per_kwh * (1 - region.carbon_free_share)
    )
    assert deployment.energy_profile.pue[1] == region.pue
    assert deployment.zone_by_feed == {"electricity_maps": region.electricity_maps_zone}
    assert snapshot.grid_feeds.access_by_feed["electricity_maps"].key == ENV["KEY_ONE"]
    assert ENV["KEY_ONE"] not in repr(snapshot.grid_feeds)


def test_the_data_version_depends_on_the_tables_only():
    first, _, _ = small("energy: {active_params_b: 8},")
    second, _, _ = small("energy: {active_params_b: 9}, zone: NOR,")
    assert len(first.data_version) == 8
    assert first.data_version == second.data_version
    assert first.footprint_method.endswith(first.data_version)


@pytest.mark.parametrize(
    "small_gpus, frontier_gpus, valid",
    [("['0']", "['1']", True), ("['0', '1']", "['1']", False), ("[]", "['1']", False), ("['0']", "[]", False)],
)
def test_a_gpu_is_metered_for_one_deployment_only(small_gpus, frontier_gpus, valid):
    power = "energy: {{active_params_b: 8, power: {{nvml: true, gpus: {}}}}}"
    text = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1")
    text = text.replace("energy: {active_params_b: 8}", power.format(small_gpus))
    text = text.replace("energy: {active_params_b: 60, total_params_b: 400}", power.format(frontier_gpus))
    if valid:
        assert parse(text, "test.yaml", ENV)[0].deployments["small"].sensors.nvml
    else:
        with pytest.raises(ConfigError, match="already metered for deployment 'small'"):
            parse(text, "test.yaml", ENV)
