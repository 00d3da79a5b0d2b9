"""Cascade statistics: the share of doubtful answers."""

import pytest

from gateway.routing.cascade import CascadeStats


def test_the_share_of_doubtful_answers_is_learned_by_task_type_and_complexity():
    stats = CascadeStats()
    assert stats.doubtful_share("code", 0.3, 0.2) == pytest.approx(0.2)
    for _ in range(40):
        stats.record_verified("code", 0.3, doubtful=True)
    assert stats.doubtful_share("code", 0.3, 0.2) > 0.8
    assert stats.doubtful_share("code", 0.9, 0.2) == pytest.approx(0.2)
    assert stats.doubtful_share("chat", 0.3, 0.2) == pytest.approx(0.2)
