"""Quality floors: valid on unseen traffic, and none without enough labels."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.quality_floor import QualityLabel, ceiling_holds, excess_loss, fit_floor, kept_quality


def labels(count: int, seed: int, *, slope: float = 0.6, frontier: float = 0.9) -> list[QualityLabel]:
    """Labels with scores in [0, 1]; the small model's quality falls with the score."""
    randomness = random.Random(seed)
    rows = []
    for _ in range(count):
        score = randomness.random()
        small = float(randomness.random() < frontier - slope * score)
        rows.append(QualityLabel(score=score, small=small, large=float(randomness.random() < frontier)))
    return rows


def truly_kept(ceiling: float | None, slope: float = 0.6, frontier: float = 0.9) -> float:
    """Expected share of quality kept: one minus the loss integrated to the ceiling."""
    return 1.0 if ceiling is None else 1 - slope * ceiling**2 / 2 / frontier


def test_a_95_percent_floor_is_broken_in_at_most_5_percent_of_fits():
    ceilings = [fit_floor(labels(1000, seed), keep=0.97, confidence=0.95).ceiling for seed in range(200)]
    assert sum(truly_kept(ceiling) < 0.97 for ceiling in ceilings) <= 10
    # The mean ceiling is useful too: the best possible one is 0.3.
    assert sum(ceiling or 0.0 for ceiling in ceilings) / 200 > 0.12


def test_too_few_labels_fit_no_ceiling():
    assert fit_floor(labels(50, 1), keep=0.97, confidence=0.95).ceiling is None


def test_an_equally_good_small_model_serves_everything():
    fitted = fit_floor(labels(1000, 2, slope=0.0), keep=0.9, confidence=0.95)
    assert fitted.share == 1.0


def test_a_useless_small_model_serves_next_to_nothing():
    fitted = fit_floor(
        [QualityLabel(score=n / 1000, small=0.0, large=1.0) for n in range(1000)], keep=0.97, confidence=0.95
    )
    assert fitted.share <= 0.03


def test_more_labels_allow_a_larger_small_tier_share():
    few = sum(fit_floor(labels(400, seed), keep=0.97, confidence=0.95).share for seed in range(20))
    many = sum(fit_floor(labels(4000, seed), keep=0.97, confidence=0.95).share for seed in range(20))
    assert many > few


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=60),
    st.floats(0.5, 0.99),
    st.floats(0.5, 0.99),
)
def test_a_fitted_ceiling_always_passes_its_own_test(rows, keep, confidence):
    given_labels = [QualityLabel(score=score, small=small, large=large) for score, small, large in rows]
    result = fit_floor(given_labels, keep=keep, confidence=confidence)
    assert result.labels == len(given_labels)
    assert 0 <= result.share <= 1
    if result.ceiling is not None:
        assert ceiling_holds(given_labels, result.ceiling, keep=keep, confidence=confidence)


@pytest.mark.parametrize("ceiling, share", [(None, 1.0), (0.5, 0.5), (0.1, 1.0)])
def test_the_share_of_quality_kept(ceiling, share):
    rows = [QualityLabel(score=0.3, small=0.0, large=1.0), QualityLabel(score=0.9, small=0.0, large=1.0)]
    assert kept_quality(rows, ceiling) == share


def test_excess_loss_is_the_loss_beyond_the_allowance():
    label = QualityLabel(score=0.3, small=0.0, large=1.0)
    assert excess_loss(label, 0.5, 0.97) == pytest.approx(0.97)
    assert excess_loss(label, 0.1, 0.97) == pytest.approx(-0.03)
