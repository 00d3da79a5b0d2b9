"""How many are served together, from the time between tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carbon.concurrency import ConcurrencyEstimator, infer_concurrency, step_milliseconds
from gateway.carbon.energy import prior_concurrency
from tests.carbon.test_footprint import DENSE, PROFILES


@given(profile=PROFILES, fewer=st.floats(1, 1000), more=st.floats(0, 1000))
def test_more_together_take_longer_a_step(profile, fewer, more):
    assert step_milliseconds(profile, fewer + more) >= step_milliseconds(profile, fewer)


@given(profile=PROFILES, milliseconds=st.floats(0.01, 100_000))
def test_what_is_inferred_lies_within_what_can_be(profile, milliseconds):
    assert 1 < infer_concurrency(profile, milliseconds) <= 4096


def test_a_step_of_known_size_is_found_again_but_for_the_pull_of_the_prior():
    for together in (16, 64, 256):
        found = infer_concurrency(DENSE, step_milliseconds(DENSE, together))
        assert found == pytest.approx(together**0.7 * prior_concurrency(DENSE) ** 0.3, rel=1e-3)


def test_few_streams_and_short_answers_say_nothing():
    book = ConcurrencyEstimator()
    for _ in range(7):
        book.record_stream(200, 4000)
    book.record_stream(10, 900)
    book.record_stream(200, 0)
    assert book.estimate(DENSE) is None
    book.record_stream(200, 4000)
    assert book.estimate(DENSE) == pytest.approx(infer_concurrency(DENSE, 4000 / 199))
