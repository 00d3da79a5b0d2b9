"""Concurrency inferred from the time between tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carbon.concurrency import ConcurrencyEstimator, infer_concurrency, step_milliseconds
from gateway.carbon.energy import prior_concurrency
from tests.carbon.test_footprint import DENSE, PROFILES


@given(profile=PROFILES, fewer=st.floats(1, 1000), more=st.floats(0, 1000))
def test_a_step_takes_longer_at_higher_concurrency(profile, fewer, more):
    assert step_milliseconds(profile, fewer + more) >= step_milliseconds(profile, fewer)


@given(profile=PROFILES, milliseconds=st.floats(0.01, 100_000))
def test_the_inferred_concurrency_is_within_its_bounds(profile, milliseconds):
    assert 1 < infer_concurrency(profile, milliseconds) <= 4096


def test_inference_inverts_the_step_time_except_for_the_pull_of_the_prior():
    for concurrency in (16, 64, 256):
        inferred = infer_concurrency(DENSE, step_milliseconds(DENSE, concurrency))
        assert inferred == pytest.approx(concurrency**0.7 * prior_concurrency(DENSE) ** 0.3, rel=1e-3)


def test_too_few_streams_and_short_answers_give_no_estimate():
    estimator = ConcurrencyEstimator()
    for _ in range(7):
        estimator.record_stream(200, 4000)
    estimator.record_stream(10, 900)
    estimator.record_stream(200, 0)
    assert estimator.estimate(DENSE) is None
    estimator.record_stream(200, 4000)
    assert estimator.estimate(DENSE) == pytest.approx(infer_concurrency(DENSE, 4000 / 199))
