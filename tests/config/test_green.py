"""What a routing file says of weights, machines, grids and feeds."""

import pytest

from gateway.config.load import parse
from gateway.feeds import cloud_regions
from gateway.values.errors import ConfigError
from tests.snapshots import BASE_CONFIG, ENV


def small(text: str, more: str = "", model: str = "sim-small"):
    """The small deployment with this in place of its energy and zone."""
    full = BASE_CONFIG.format(more=more, small="", near="http://a/v1", far="http://b/v1")
    full = full.replace("energy: {active_params_b: 8}, zone: FRA, output", f"{text} output").replace("sim-small", model)
    snapshot, notes = parse(full, "test.yaml", ENV)
    return snapshot.deployments["small"], notes, snapshot


def test_an_open_model_s_size_comes_from_its_card():
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


def test_the_file_counts_before_the_card():
    deployment, _, _ = small("energy: {active_params_b: 3, bits_per_param: 4},", model="llama-3.1-70b")
    assert (deployment.energy_profile.active_params_b, deployment.energy_profile.bytes_per_param) == (3, 0.5)
    assert deployment.energy_profile.source == "config"


def test_a_machine_may_be_said_of_a_model_whose_card_is_known():
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


def test_nobody_s_weights_are_told_of_and_not_guessed():
    deployment, notes, _ = small("", model="nobody-knows")
    assert deployment.energy_profile is None and deployment.footprint_method == "unknown-model"
    assert any("no energy profile" in note for note in notes)


def test_a_registry_that_is_not_installed_guesses_nothing():
    deployment, _, _ = small("", more="energy: {registry: ecologits}", model="nobody-knows-this-one")
    assert deployment.energy_profile is None


def test_a_cloud_region_brings_grid_building_contracts_and_the_feed_s_zone():
    more = "feeds: {electricity_maps: {api_key: {env: KEY_ONE}}}"
    deployment, _, snapshot = small("energy: {active_params_b: 8}, cloud_region: gcp/europe-west1,", more)
    region = cloud_regions.load()["gcp/europe-west1"]
    assert deployment.intensity.method == "cloud_region"
    assert deployment.intensity.grams_per_kwh == region.grams_per_kwh
    assert deployment.intensity.market_grams_per_kwh == pytest.approx(
        region.grams_per_kwh * (1 - region.carbon_free_share)
    )
    assert deployment.energy_profile.pue[1] == region.pue
    assert deployment.zone_by_feed == {"electricity_maps": region.electricity_maps_zone}
    assert snapshot.grid_feeds.access_by_feed["electricity_maps"].key == ENV["KEY_ONE"]
    assert ENV["KEY_ONE"] not in repr(snapshot.grid_feeds)


def test_the_data_version_follows_the_tables_alone():
    one, _, _ = small("energy: {active_params_b: 8},")
    other, _, _ = small("energy: {active_params_b: 9}, zone: NOR,")
    assert len(one.data_version) == 8
    assert one.data_version == other.data_version
    assert one.footprint_method.endswith(one.data_version)


@pytest.mark.parametrize(
    "one, other, fine",
    [("['0']", "['1']", True), ("['0', '1']", "['1']", False), ("[]", "['1']", False), ("['0']", "[]", False)],
)
def test_a_gpu_s_joules_belong_to_one_deployment(one, other, fine):
    power = "energy: {{active_params_b: 8, power: {{nvml: true, gpus: {}}}}}"
    text = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1")
    text = text.replace("energy: {active_params_b: 8}", power.format(one))
    text = text.replace("energy: {active_params_b: 60, total_params_b: 400}", power.format(other))
    if fine:
        assert parse(text, "test.yaml", ENV)[0].deployments["small"].sensors.nvml
    else:
        with pytest.raises(ConfigError, match="metered for 'small' already"):
            parse(text, "test.yaml", ENV)
