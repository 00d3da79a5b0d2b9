"""A requested frontier share is held, whatever the scores do."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.share_controller import ShareController


def share_of(scores, share: float) -> float:
    book = ShareController()
    given_ = [book.wants_frontier("a", score, share) for score in scores]
    return sum(given_) / len(given_)


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


def test_those_that_want_it_most_get_it():
    randomness, book = random.Random(1), ShareController()
    scores = [randomness.random() for _ in range(2000)]
    chosen = [book.wants_frontier("a", score, 0.3) for score in scores]
    high = sum(score for score, frontier in zip(scores, chosen, strict=True) if frontier) / sum(chosen)
    assert high > 0.8


@pytest.mark.parametrize("share, expected", [(0.0, 0.0), (1.0, 1.0)])
def test_nothing_and_everything(share, expected):
    assert share_of([random.Random(1).random() for _ in range(200)], share) == expected


def test_names_hold_shares_of_their_own():
    book = ShareController()
    for _ in range(200):
        assert book.wants_frontier("all", 0.1, 1.0)
        assert not book.wants_frontier("none", 0.9, 0.0)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300), st.floats(0, 1))
def test_it_never_strays_further_than_what_it_may_owe(scores, share):
    book, owed = ShareController(), 0.0
    for score in scores:
        owed += share - book.wants_frontier("a", score, share)
    assert abs(owed) <= 60
