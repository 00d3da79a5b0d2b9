"""The quality floor: it holds on what it has not seen, and says so where labels do not carry it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.quality_floor import QualityLabel, ceiling_holds, excess_loss, fit_floor, kept_quality


def labels(count: int, seed: int, *, slope: float = 0.6, frontier: float = 0.9) -> list[QualityLabel]:
    """Scores in [0, 1]; the small model's chance falls with the score."""
    randomness = random.Random(seed)
    found = []
    for _ in range(count):
        score = randomness.random()
        small = float(randomness.random() < frontier - slope * score)
        found.append(QualityLabel(score=score, small=small, large=float(randomness.random() < frontier)))
    return found


def truly_kept(ceiling: float | None, slope: float = 0.6, frontier: float = 0.9) -> float:
    """What a ceiling keeps in the long run: the integral of the loss up to it."""
    return 1.0 if ceiling is None else 1 - slope * ceiling**2 / 2 / frontier


def test_the_floor_is_broken_in_no_more_than_one_case_in_twenty():
    ceilings = [fit_floor(labels(1000, seed), keep=0.97, confidence=0.95).ceiling for seed in range(200)]
    assert sum(truly_kept(ceiling) < 0.97 for ceiling in ceilings) <= 10
    # And it is worth something: the best ceiling is 0.3.
    assert sum(ceiling or 0.0 for ceiling in ceilings) / 200 > 0.12


def test_too_few_labels_carry_no_claim():
    assert fit_floor(labels(50, 1), keep=0.97, confidence=0.95).ceiling is None


def test_a_small_model_that_is_as_good_serves_everything():
    found = fit_floor(labels(1000, 2, slope=0.0), keep=0.9, confidence=0.95)
    assert found.share == 1.0


def test_a_small_model_that_is_useless_serves_nothing_or_next_to_it():
    found = fit_floor(
        [QualityLabel(score=n / 1000, small=0.0, large=1.0) for n in range(1000)], keep=0.97, confidence=0.95
    )
    assert found.share <= 0.03


def test_more_labels_save_more():
    few = sum(fit_floor(labels(400, seed), keep=0.97, confidence=0.95).share for seed in range(20))
    many = sum(fit_floor(labels(4000, seed), keep=0.97, confidence=0.95).share for seed in range(20))
    assert many > few


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=60),
    st.floats(0.5, 0.99),
    st.floats(0.5, 0.99),
)
def test_any_labels_give_a_floor_that_its_own_test_accepts(rows, keep, confidence):
    found = [QualityLabel(score=score, small=small, large=large) for score, small, large in rows]
    result = fit_floor(found, keep=keep, confidence=confidence)
    assert result.labels == len(found)
    assert 0 <= result.share <= 1
    if result.ceiling is not None:
        assert ceiling_holds(found, result.ceiling, keep=keep, confidence=confidence)


@pytest.mark.parametrize("ceiling, part", [(None, 1.0), (0.5, 0.5), (0.1, 1.0)])
def test_what_was_kept(ceiling, part):
    rows = [QualityLabel(score=0.3, small=0.0, large=1.0), QualityLabel(score=0.9, small=0.0, large=1.0)]
    assert kept_quality(rows, ceiling) == part


def test_excess_is_what_was_lost_beyond_what_may_be():
    label = QualityLabel(score=0.3, small=0.0, large=1.0)
    assert excess_loss(label, 0.5, 0.97) == pytest.approx(0.97)
    assert excess_loss(label, 0.1, 0.97) == pytest.approx(-0.03)
