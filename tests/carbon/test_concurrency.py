"""How many are served together, from the time between tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carbon.concurrency import LatencyBook, inferred, step_milliseconds
from gateway.carbon.energy import prior
from tests.carbon.test_footprint import DENSE, PROFILES


@given(profile=PROFILES, fewer=st.floats(1, 1000), more=st.floats(0, 1000))
def test_more_together_take_longer_a_step(profile, fewer, more):
    assert step_milliseconds(profile, fewer + more) >= step_milliseconds(profile, fewer)


@given(profile=PROFILES, milliseconds=st.floats(0.01, 100_000))
def test_what_is_inferred_lies_within_what_can_be(profile, milliseconds):
    assert 1 < inferred(profile, milliseconds) <= 4096


def test_a_step_of_known_size_is_found_again_but_for_the_pull_of_the_prior():
    for together in (16, 64, 256):
        found = inferred(DENSE, step_milliseconds(DENSE, together))
        assert found == pytest.approx(together**0.7 * prior(DENSE) ** 0.3, rel=1e-3)


def test_few_streams_and_short_answers_say_nothing():
    book = LatencyBook()
    for _ in range(7):
        book.heard(200, 4000)
    book.heard(10, 900)
    book.heard(200, 0)
    assert book.concurrency(DENSE) is None
    book.heard(200, 4000)
    assert book.concurrency(DENSE) == pytest.approx(inferred(DENSE, 4000 / 199))
