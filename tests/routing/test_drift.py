"""Drift: a floor that holds raises no alarm; a broken one does until a refit."""

import random

from gateway.routing.drift import PSI_MAX, DriftDetector, population_stability_index
from gateway.routing.quality_floor import QualityLabel

GROUP = ("default", "code", "s", "f")
EDGES = tuple(place / 10 for place in range(1, 10))
SHARES = (0.1,) * 10


def fitted() -> DriftDetector:
    detector = DriftDetector()
    detector.record_fit(GROUP, EDGES, SHARES, labels=1000, at=0.0)
    return detector


def alarm_at(small_right: float, seed: int, labels: int = 2000) -> int | None:
    """The label that triggers the alarm at this small-model quality (frontier: 0.9)."""
    detector, randomness = fitted(), random.Random(seed)
    for number in range(labels):
        label = QualityLabel(
            score=0.1, small=float(randomness.random() < small_right), large=float(randomness.random() < 0.9)
        )
        if detector.record_label(GROUP, label, ceiling=0.5, keep=0.95, now=float(number)):
            return number
    return None


def test_a_floor_that_holds_raises_no_alarm():
    assert sum(alarm_at(0.9, seed) is not None for seed in range(30)) <= 1


def test_a_collapse_is_detected_within_150_labels():
    alarms = [alarm_at(0.45, seed) for seed in range(30)]
    assert all(number is not None and number < 150 for number in alarms)


def test_requests_unlike_the_labels_raise_a_mix_alarm_once():
    detector, randomness = fitted(), random.Random(1)
    assert not any(detector.record_score(GROUP, randomness.random(), now=1.0) for _ in range(3000))
    assert any(detector.record_score(GROUP, 0.8 + 0.2 * randomness.random(), now=2.0) for _ in range(1500))
    assert detector.reason(GROUP) == "mix"
    assert detector.take_mix_alarms() == [GROUP]
    assert detector.take_mix_alarms() == []


def test_only_a_fit_after_the_drift_restores_trust():
    detector = fitted()
    for number in range(300):
        detector.record_label(
            GROUP, QualityLabel(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=100.0 + number
        )
    assert detector.reason(GROUP) == "quality"
    detector.record_fit(GROUP, EDGES, SHARES, at=50.0)
    assert detector.reason(GROUP) == "quality"
    detector.record_fit(GROUP, EDGES, SHARES, at=1000.0)
    assert detector.reason(GROUP) == ""


def test_evidence_survives_a_refit():
    detector = fitted()
    for _ in range(6):
        detector.record_label(GROUP, QualityLabel(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=1.0)
    before = detector.wealth(GROUP)
    detector.record_fit(GROUP, EDGES, SHARES, at=2.0)
    assert detector.wealth(GROUP) == before > 1


def test_the_stability_index_is_near_zero_for_equal_distributions():
    assert population_stability_index([50.0] * 10, 500.0, SHARES) < 0.001
    assert population_stability_index([500.0] + [0.0] * 9, 500.0, SHARES) > PSI_MAX


def test_groups_without_a_floor_raise_no_alarm():
    detector = DriftDetector()
    assert not detector.record_score(GROUP, 0.5, now=0.0)
    assert not detector.record_label(
        GROUP, QualityLabel(score=0.1, small=0.0, large=1.0), ceiling=0.5, keep=0.95, now=0.0
    )


def test_traffic_of_few_distinct_scores_is_no_drift():
    detector = DriftDetector()
    detector.record_fit(GROUP, (0.2, 0.5), (0.3, 0.6, 0.1), labels=1000, at=0.0)
    randomness = random.Random(4)
    scores = randomness.choices((0.2, 0.5, 0.9), (0.3, 0.6, 0.1), k=3000)
    assert not any(detector.record_score(GROUP, score, now=1.0) for score in scores)
