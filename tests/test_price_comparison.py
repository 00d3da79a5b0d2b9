"""Our charge is litellm's over the bundled list, but for the provider's rules that a table names.

One model for each set of keys; `make prices` compares every model.
"""

import pytest

from gateway.feeds.package_data import is_installed

from . import price_comparison


@pytest.fixture(scope="module")
def litellm():
    if not is_installed("litellm"):
        pytest.skip("litellm is not installed")
    loaded = price_comparison.load_litellm()
    before = loaded.model_cost
    yield loaded
    price_comparison.use_list(loaded, before)


def test_every_difference_from_litellms_calculator_has_an_explanation(litellm):
    models = price_comparison.entries()
    comparisons = [
        comparison
        for name, entry in price_comparison.sample()
        for comparison in price_comparison.compare(litellm, name, entry, models)
    ]
    unexplained = [one for one in comparisons if one.explanation == price_comparison.UNEXPLAINED]
    assert unexplained == []
    assert len(comparisons) > 10_000
    equal = sum(not one.explanation for one in comparisons)
    assert equal > 0.9 * len(comparisons), "explanations are exceptions"


def test_every_explanation_names_its_rule_and_a_dated_source():
    for key, row in price_comparison.EXPLANATIONS.items():
        assert row.rule and "2026-" in row.source, key
