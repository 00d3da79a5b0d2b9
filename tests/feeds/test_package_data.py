"""Data files: shipped ones, and those of packages that are installed but not imported."""

import sys

import pytest

from gateway.feeds.package_data import DATA_FOLDER, INTENSITY_TABLES, PRICE_LIST, data_file, is_installed


def test_a_missing_package_has_no_data_file():
    assert data_file("no_such_package", "x.json") is None
    assert data_file("orjson", "no_such_file") is None


def test_a_file_of_an_installed_package_is_found_without_importing_it():
    path = data_file("pydantic_settings", "py.typed")
    assert path is not None and path.is_file()
    assert data_file("pydantic_settings") is None, "a folder is no file"


def test_a_module_without_a_folder_has_no_data_file():
    assert is_installed("this") and data_file("this", "x.json") is None
    assert "this" not in sys.modules


def test_only_packages_that_can_be_imported_are_installed():
    assert is_installed("orjson")
    assert not is_installed("no_such_package")


@pytest.mark.parametrize("name", [PRICE_LIST, INTENSITY_TABLES])
def test_the_data_that_serving_reads_is_shipped(name):
    assert (DATA_FOLDER / name).is_file()
