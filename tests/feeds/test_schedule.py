"""When feeds are asked: jittered, cooled down after failures, last good news kept."""

from gateway.feeds.poll_schedule import PollSchedule, PollTarget
from gateway.values.grid import GridReading

ONE = PollTarget("uk", "GB")
NEWS = GridReading(zone="GBR", grams_per_kwh=100.0, read_at=0.0, feed="uk")


def schedule(jitter: float = 0.5) -> PollSchedule:
    return PollSchedule(frozenset({ONE}), 900.0, lambda: jitter)


def test_asked_at_once_and_then_every_so_often():
    book = schedule()
    assert book.due(0) == [ONE]
    assert not book.record_reading(ONE, NEWS, now=0)
    assert book.due(899) == []
    assert book.due(900) == [ONE]


def test_many_gateways_do_not_ask_at_once():
    early, late = schedule(0.0), schedule(1.0)
    for book in (early, late):
        book.record_reading(ONE, NEWS, now=0)
    assert early.due(811) and not late.due(989)


def test_failures_cool_down_twice_as_long_each_up_to_an_hour():
    book, now, pauses = schedule(0.0), 0.0, []
    for _ in range(12):
        book.record_failure(ONE, "status 500", now=now)
        pause = next(seconds for seconds in range(10_000) if book.due(now + seconds))
        pauses.append(pause)
        now += pause
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600, 3600]


def test_last_good_news_stay_and_what_is_new_is_told_once():
    book = schedule()
    book.record_reading(ONE, NEWS, now=0)
    assert book.record_failure(ONE, "status 500", now=900)
    assert not book.record_failure(ONE, "status 500", now=930)
    assert book.record_failure(ONE, "not JSON", now=990)
    assert book.last_reading("uk", "GB") is NEWS
    assert book.record_reading(ONE, NEWS, now=2000)
    assert book.outcome_counts == {("uk", "answered"): 2, ("uk", "failed"): 3}
    assert book.last_reading("uk", "13") is None
