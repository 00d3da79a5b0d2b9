"""Cloud regions of the packaged table."""

import pytest

from gateway.feeds import cloud_regions


def test_cloud_regions_have_plausible_values():
    regions = cloud_regions.load()
    assert len(regions) > 100
    assert all(0 < region.grams_per_kwh < 1200 for region in regions.values())
    assert all(region.pue is None or 1 <= region.pue < 2 for region in regions.values())


def test_a_region_has_its_published_figures():
    region = cloud_regions.load()["gcp/europe-west1"]
    assert (region.name, region.electricity_maps_zone) == ("gcp/europe-west1", "BE")
    assert region.carbon_free_share is not None and 0 < region.carbon_free_share < 1


def test_a_carbon_free_share_is_unknown_where_the_provider_does_not_publish_it():
    published = {name.partition("/")[0] for name, region in cloud_regions.load().items() if region.carbon_free_share}
    assert published == {"gcp"}


@pytest.mark.parametrize("provider", ["aws", "azure", "gcp"])
def test_every_provider_has_regions(provider):
    assert any(name.startswith(f"{provider}/") for name in cloud_regions.load())
