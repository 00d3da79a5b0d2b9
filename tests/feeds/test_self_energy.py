"""The gateway's own energy, measured by CodeCarbon."""

import pytest

from gateway.feeds.self_energy import OwnEnergyMeter


def test_a_meter_that_was_never_read_has_no_figures_and_can_be_stopped():
    meter = OwnEnergyMeter("FRA")
    meter.stop()
    assert (meter.energy_joules, meter.carbon_grams) == (0, 0)


@pytest.mark.filterwarnings("ignore")
def test_the_gateway_s_own_energy_is_measured():
    meter = OwnEnergyMeter("FRA")
    meter.read()
    meter.read()
    meter.stop()
    assert meter.energy_joules > 0
    assert meter.carbon_grams > 0
