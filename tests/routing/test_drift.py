"""Drift: a floor that holds is left alone, one that broke is found, and trusted again only when it was fitted anew."""

import random

from gateway.routing.drift import PSI_MAX, DriftBook, stability
from gateway.routing.quality_floor import Label

GROUP = ("default", "code", "s", "f")
EDGES = tuple(place / 10 for place in range(1, 10))
SHARES = (0.1,) * 10


def fitted() -> DriftBook:
    book = DriftBook()
    book.fitted(GROUP, EDGES, SHARES, labels=1000, at=0.0)
    return book


def alarm_at(small_right: float, seed: int, labels: int = 2000) -> int | None:
    """The label at which a small model of this quality sets off the alarm; the frontier is right nine times in ten."""
    book, chance = fitted(), random.Random(seed)
    for number in range(labels):
        label = Label(score=0.1, small=float(chance.random() < small_right), large=float(chance.random() < 0.9))
        if book.labelled(GROUP, label, ceiling=0.5, keep=0.95, now=float(number)):
            return number
    return None


def test_a_floor_that_holds_is_left_alone():
    assert sum(alarm_at(0.9, seed) is not None for seed in range(30)) <= 1


def test_a_collapse_is_found_within_a_few_dozen_labels():
    found = [alarm_at(0.45, seed) for seed in range(30)]
    assert all(number is not None and number < 150 for number in found)


def test_requests_unlike_the_labels_are_found():
    book, chance = fitted(), random.Random(1)
    assert not any(book.served(GROUP, chance.random(), now=1.0) for _ in range(3000))
    assert any(book.served(GROUP, 0.8 + 0.2 * chance.random(), now=2.0) for _ in range(1500))
    assert book.why(GROUP) == "mix"
    assert book.alarms() == [GROUP]
    assert book.alarms() == []


def test_trust_comes_back_with_a_fit_that_knows_of_the_drift():
    book = fitted()
    for number in range(300):
        book.labelled(GROUP, Label(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=100.0 + number)
    assert book.why(GROUP) == "quality"
    book.fitted(GROUP, EDGES, SHARES, at=50.0)
    assert book.why(GROUP) == "quality"
    book.fitted(GROUP, EDGES, SHARES, at=1000.0)
    assert book.why(GROUP) == ""


def test_evidence_outlives_a_fit():
    book = fitted()
    for _ in range(6):
        book.labelled(GROUP, Label(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=1.0)
    before = book.wealth(GROUP)
    book.fitted(GROUP, EDGES, SHARES, at=2.0)
    assert book.wealth(GROUP) == before > 1


def test_the_stability_index_of_even_counts_is_nothing():
    assert stability([50.0] * 10, 500.0, SHARES) < 0.001
    assert stability([500.0] + [0.0] * 9, 500.0, SHARES) > PSI_MAX


def test_groups_that_were_never_fitted_are_no_business_of_its():
    book = DriftBook()
    assert not book.served(GROUP, 0.5, now=0.0)
    assert not book.labelled(GROUP, Label(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=0.0)


def test_traffic_of_a_few_prompts_is_no_drift():
    book = DriftBook()
    book.fitted(GROUP, (0.2, 0.5), (0.3, 0.6, 0.1), labels=1000, at=0.0)
    chance = random.Random(4)
    scores = chance.choices((0.2, 0.5, 0.9), (0.3, 0.6, 0.1), k=3000)
    assert not any(book.served(GROUP, score, now=1.0) for score in scores)
