"""A meter's joules are attributed, idle or unattributed; none are lost."""

import random

import pytest

from gateway.carbon.meter_attribution import EndedRequest, EnergyMeter


def serve(meter: EnergyMeter, entry: str, start: float, end: float, joules: float = 10.0) -> None:
    """A request from start to end."""
    meter.start_request(entry, now=start)
    meter.end_request(EndedRequest(entry_id=entry, joules=joules, task_type="code", team="t"), now=end)


def test_two_requests_of_a_window_share_it_by_modelled_weight():
    meter = EnergyMeter(idle_watts=0)
    meter.record_reading({"g": 0.0}, now=0)
    serve(meter, "a", 1, 5, joules=30)
    serve(meter, "b", 2, 6, joules=10)
    shares = {share.entry_id: share.joules for share in meter.record_reading({"g": 80.0}, now=10)}
    assert shares == {"a": 60.0, "b": 20.0}


def test_idle_energy_is_a_separate_figure():
    meter = EnergyMeter(idle_watts=3)
    meter.record_reading({"g": 0.0}, now=0)
    serve(meter, "a", 1, 5)
    (share,) = meter.record_reading({"g": 100.0}, now=10)
    assert (share.joules, meter.idle_joules, meter.total_joules) == (70.0, 30.0, 100.0)


def test_a_window_waits_until_every_request_in_it_has_ended():
    meter = EnergyMeter(idle_watts=0)
    meter.record_reading({"g": 0.0}, now=0)
    meter.start_request("long", now=1)
    serve(meter, "short", 2, 4)
    assert meter.record_reading({"g": 50.0}, now=10) == []
    meter.end_request(EndedRequest(entry_id="long", joules=10, task_type="code", team="t"), now=19)
    shares = meter.record_reading({"g": 100.0}, now=20)
    # The long one has half of its ten joules in each window.
    first = {share.entry_id: share.joules for share in shares[:2]}
    assert first == pytest.approx({"short": 50 * 10 / 15, "long": 50 * 5 / 15})
    assert sum(share.joules for share in shares) == pytest.approx(100)


def test_a_window_does_not_wait_forever():
    meter = EnergyMeter(idle_watts=0)
    meter.record_reading({"g": 0.0}, now=0)
    meter.start_request("stuck", now=1)
    serve(meter, "a", 1, 5)
    assert meter.record_reading({"g": 50.0}, now=10) == []
    assert [share.entry_id for share in meter.record_reading({"g": 50.0}, now=911)] == ["a"]


def test_energy_without_requests_is_unattributed():
    meter = EnergyMeter(idle_watts=1)
    meter.record_reading({"g": 0.0}, now=0)
    assert meter.record_reading({"g": 40.0}, now=10) == []
    assert (meter.idle_joules, meter.unattributed_joules) == (10.0, 30.0)


def test_a_restarted_counter_and_a_new_gpu_add_nothing_at_first():
    meter = EnergyMeter(idle_watts=0)
    meter.record_reading({"g": 1000.0}, now=0)
    meter.record_reading({"g": 5.0, "h": 70.0}, now=10)
    assert meter.total_joules == 0.0
    meter.record_reading({"g": 6.0, "h": 71.0}, now=20)
    assert meter.total_joules == 2.0


def test_a_gpu_missing_from_one_reading_is_counted_at_the_next():
    meter = EnergyMeter(idle_watts=0)
    for now, counters in ((0, {"g": 0.0, "h": 0.0}), (10, {"g": 100.0}), (20, {"g": 200.0, "h": 200.0})):
        meter.record_reading(counters, now=now)
    assert meter.total_joules == 400.0


# The value at which a counter is stuck.
STUCK = 2500.0


@pytest.mark.parametrize(
    "invalid", [999_999_999.0, -5.0, STUCK], ids=["more than any GPU takes", "less than before", "stuck"]
)
def test_an_implausible_reading_is_not_attributed_and_leaves_the_ratio(invalid):
    meter = EnergyMeter(idle_watts=0)
    meter.record_reading({"g": 0.0}, now=-10)
    for window in range(30):
        serve(meter, f"r{window}", window * 10 - 9, window * 10 - 1, joules=50)
        meter.record_reading(
            {"g": (window + 1) * 100.0 if invalid != STUCK else min((window + 1) * 100.0, STUCK)}, now=window * 10
        )
    before = meter.metered_ratio
    serve(meter, "a", 291, 295)
    assert meter.record_reading({"g": invalid}, now=300) == []
    assert meter.metered_ratio == before == pytest.approx(2.0)
    serve(meter, "b", 301, 305)
    assert [share.joules for share in meter.record_reading({"g": invalid + 300}, now=310)] == [300.0]


def test_a_window_with_unfinished_requests_leaves_the_ratio():
    meter = EnergyMeter(idle_watts=0)
    meter.record_reading({"g": 0.0}, now=0)
    meter.start_request("stuck", now=1)
    for window in range(120):
        serve(meter, f"r{window}", window * 10 + 1, window * 10 + 9)
        meter.record_reading({"g": (window + 1) * 100.0}, now=(window + 1) * 10)
    assert meter.metered_ratio is None


def test_the_sum_of_shares_equals_the_meter():
    """An hour of overlapping requests: all parts add up to the meter."""
    rng = random.Random(7)
    meter, shares, counter = EnergyMeter(idle_watts=80), [], 0.0
    calls = sorted((rng.uniform(0, 3600), rng.expovariate(1 / 12)) for _ in range(2000))
    opens = [(start, f"r{number}") for number, (start, _) in enumerate(calls)]
    ends = sorted((start + length, f"r{number}", start) for number, (start, length) in enumerate(calls))
    meter.record_reading({"g": counter}, now=0)
    now = 0.0
    while now < 5000:
        now += 10
        while opens and opens[0][0] < now:
            start, name = opens.pop(0)
            meter.start_request(name, now=start)
        while ends and ends[0][0] < now:
            end, name, start = ends.pop(0)
            serve(meter, name, start, end, joules=(end - start) * rng.uniform(50, 150))
        counter += 10 * rng.uniform(80, 700)
        shares += meter.record_reading({"g": counter}, now=now)
    total = sum(share.joules for share in shares) + meter.idle_joules + meter.unattributed_joules
    assert total == pytest.approx(counter, rel=1e-9)
    assert len({share.entry_id for share in shares}) == 2000


def test_the_metered_ratio_needs_enough_requests():
    meter = EnergyMeter(idle_watts=0)
    meter.record_reading({"g": 0.0}, now=0)
    for window in range(30):
        serve(meter, f"r{window}", window * 10 + 1, window * 10 + 9, joules=50)
        meter.record_reading({"g": (window + 1) * 100.0}, now=(window + 1) * 10)
        assert (meter.metered_ratio is None) == (window < 19)
    assert meter.metered_ratio == pytest.approx(2.0)
