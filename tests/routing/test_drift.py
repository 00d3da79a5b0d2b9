"""Drift: a floor that holds is left alone, one that broke is found, and trusted again only when it was fitted anew."""

import random

from gateway.routing.drift import PSI_MAX, DriftDetector, population_stability_index
from gateway.routing.quality_floor import QualityLabel

GROUP = ("default", "code", "s", "f")
EDGES = tuple(place / 10 for place in range(1, 10))
SHARES = (0.1,) * 10


def fitted() -> DriftDetector:
    book = DriftDetector()
    book.record_fit(GROUP, EDGES, SHARES, labels=1000, at=0.0)
    return book


def alarm_at(small_right: float, seed: int, labels: int = 2000) -> int | None:
    """The label at which a small model of this quality sets off the alarm; the frontier is right nine times in ten."""
    book, randomness = fitted(), random.Random(seed)
    for number in range(labels):
        label = QualityLabel(
            score=0.1, small=float(randomness.random() < small_right), large=float(randomness.random() < 0.9)
        )
        if book.record_label(GROUP, label, ceiling=0.5, keep=0.95, now=float(number)):
            return number
    return None


def test_a_floor_that_holds_is_left_alone():
    assert sum(alarm_at(0.9, seed) is not None for seed in range(30)) <= 1


def test_a_collapse_is_found_within_a_few_dozen_labels():
    found = [alarm_at(0.45, seed) for seed in range(30)]
    assert all(number is not None and number < 150 for number in found)


def test_requests_unlike_the_labels_are_found():
    book, randomness = fitted(), random.Random(1)
    assert not any(book.record_score(GROUP, randomness.random(), now=1.0) for _ in range(3000))
    assert any(book.record_score(GROUP, 0.8 + 0.2 * randomness.random(), now=2.0) for _ in range(1500))
    assert book.reason(GROUP) == "mix"
    assert book.take_mix_alarms() == [GROUP]
    assert book.take_mix_alarms() == []


def test_trust_comes_back_with_a_fit_that_knows_of_the_drift():
    book = fitted()
    for number in range(300):
        book.record_label(
            GROUP, QualityLabel(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=100.0 + number
        )
    assert book.reason(GROUP) == "quality"
    book.record_fit(GROUP, EDGES, SHARES, at=50.0)
    assert book.reason(GROUP) == "quality"
    book.record_fit(GROUP, EDGES, SHARES, at=1000.0)
    assert book.reason(GROUP) == ""


def test_evidence_outlives_a_fit():
    book = fitted()
    for _ in range(6):
        book.record_label(GROUP, QualityLabel(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=1.0)
    before = book.wealth(GROUP)
    book.record_fit(GROUP, EDGES, SHARES, at=2.0)
    assert book.wealth(GROUP) == before > 1


def test_the_stability_index_of_even_counts_is_nothing():
    assert population_stability_index([50.0] * 10, 500.0, SHARES) < 0.001
    assert population_stability_index([500.0] + [0.0] * 9, 500.0, SHARES) > PSI_MAX


def test_groups_that_were_never_fitted_are_no_business_of_its():
    book = DriftDetector()
    assert not book.record_score(GROUP, 0.5, now=0.0)
    assert not book.record_label(GROUP, QualityLabel(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=0.0)


def test_traffic_of_a_few_prompts_is_no_drift():
    book = DriftDetector()
    book.record_fit(GROUP, (0.2, 0.5), (0.3, 0.6, 0.1), labels=1000, at=0.0)
    randomness = random.Random(4)
    scores = randomness.choices((0.2, 0.5, 0.9), (0.3, 0.6, 0.1), k=3000)
    assert not any(book.record_score(GROUP, score, now=1.0) for score in scores)
