"""Poll schedule of feeds: jitter, backoff after failures, last valid reading."""

from gateway.feeds.poll_schedule import PollSchedule, PollTarget
from gateway.values.grid import GridReading

TARGET = PollTarget("uk", "GB")
READING = GridReading(zone="GBR", grams_per_kwh=100.0, read_at=0.0, feed="uk")


def schedule(jitter: float = 0.5) -> PollSchedule:
    return PollSchedule(frozenset({TARGET}), 900.0, lambda: jitter)


def test_a_target_is_polled_at_start_and_then_every_refresh_interval():
    polls = schedule()
    assert polls.due(0) == [TARGET]
    assert not polls.record_reading(TARGET, READING, now=0)
    assert polls.due(899) == []
    assert polls.due(900) == [TARGET]


def test_polls_are_jittered():
    early, late = schedule(0.0), schedule(1.0)
    for polls in (early, late):
        polls.record_reading(TARGET, READING, now=0)
    assert early.due(811) and not late.due(989)


def test_backoff_doubles_with_each_failure_up_to_an_hour():
    polls, now, pauses = schedule(0.0), 0.0, []
    for _ in range(12):
        polls.record_failure(TARGET, "status 500", now=now)
        pause = next(seconds for seconds in range(10_000) if polls.due(now + seconds))
        pauses.append(pause)
        now += pause
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600, 3600]


def test_the_last_reading_is_kept_and_a_failure_reason_is_new_once():
    polls = schedule()
    polls.record_reading(TARGET, READING, now=0)
    assert polls.record_failure(TARGET, "status 500", now=900)
    assert not polls.record_failure(TARGET, "status 500", now=930)
    assert polls.record_failure(TARGET, "not JSON", now=990)
    assert polls.last_reading("uk", "GB") is READING
    assert polls.record_reading(TARGET, READING, now=2000)
    assert polls.outcome_counts == {("uk", "answered"): 2, ("uk", "failed"): 3}
    assert polls.last_reading("uk", "13") is None
