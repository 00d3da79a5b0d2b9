"""Extras: every one that pyproject.toml offers is named where its package is missing."""

import re
import tomllib
from pathlib import Path

import pytest

from gateway.values.extras import EXTRA_BY_PACKAGE, install_hint

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _name(requirement: str) -> str:
    match = re.match(r"[\w-]+", requirement)
    assert match is not None
    return match[0]


def test_every_hint_names_an_extra_that_brings_the_package():
    for package, extra in EXTRA_BY_PACKAGE.items():
        assert package in {_name(one) for one in EXTRAS[extra]}


def test_no_package_of_an_extra_is_a_plain_dependency():
    plain = {_name(one) for one in PROJECT["dependencies"]}
    assert plain.isdisjoint(EXTRA_BY_PACKAGE)


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"all"}))
def test_every_extra_is_hinted_at(extra):
    assert extra in EXTRA_BY_PACKAGE.values()


def test_the_hint_is_a_command():
    assert install_hint("redis") == "'redis' is not installed; run: pip install 'penstock[redis]'"
