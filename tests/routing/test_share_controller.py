"""Share controller: a requested frontier share is held, whatever the scores do."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.share_controller import ShareController


def share_of(scores, share: float) -> float:
    controller = ShareController()
    chosen = [controller.wants_frontier("a", score, share) for score in scores]
    return sum(chosen) / len(chosen)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    "draw",
    [
        lambda r, n: r.random(),
        lambda r, n: 0.5,
        lambda r, n: r.choice([0.1, 0.9]),
        lambda r, n: n / 1000,
        lambda r, n: -n,
    ],
    ids=["uniform", "all the same", "two values", "ever harder", "ever easier"],
)
def test_the_share_is_held_to_three_points(share, draw):
    randomness = random.Random(3)
    assert abs(share_of([draw(randomness, n) for n in range(1000)], share) - share) <= 0.03


def test_the_highest_scores_go_to_the_frontier():
    randomness, controller = random.Random(1), ShareController()
    scores = [randomness.random() for _ in range(2000)]
    chosen = [controller.wants_frontier("a", score, 0.3) for score in scores]
    high = sum(score for score, frontier in zip(scores, chosen, strict=True) if frontier) / sum(chosen)
    assert high > 0.8


@pytest.mark.parametrize("share, expected", [(0.0, 0.0), (1.0, 1.0)])
def test_shares_of_zero_and_one_are_exact(share, expected):
    assert share_of([random.Random(1).random() for _ in range(200)], share) == expected


def test_each_name_has_its_own_share():
    controller = ShareController()
    for _ in range(200):
        assert controller.wants_frontier("all", 0.1, 1.0)
        assert not controller.wants_frontier("none", 0.9, 0.0)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300), st.floats(0, 1))
def test_the_deficit_stays_bounded(scores, share):
    controller, deficit = ShareController(), 0.0
    for score in scores:
        deficit += share - controller.wants_frontier("a", score, share)
    assert abs(deficit) <= 60
