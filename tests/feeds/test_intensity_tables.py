"""Annual grid intensities as shipped."""

import re

import pytest

from gateway.feeds import intensity_tables


@pytest.mark.parametrize("method, zones_min", [("annual_country", 150), ("annual_region", 50)])
def test_a_table_has_plausible_values(method, zones_min):
    table = intensity_tables.load()[method]
    assert len(table) > zones_min
    assert {zone for zone, grams in table.items() if not 0 <= grams < 1500} == set()


def test_the_tables_are_those_of_the_two_methods():
    assert set(intensity_tables.load()) == {"annual_country", "annual_region"}


def test_countries_have_three_letters():
    assert {zone for zone in intensity_tables.load()["annual_country"] if not re.fullmatch("[A-Z]{3}", zone)} == set()


def test_nuclear_france_is_cleaner_than_coal_powered_poland():
    countries = intensity_tables.load()["annual_country"]
    assert countries["FRA"] < 100 < 400 < countries["POL"]
