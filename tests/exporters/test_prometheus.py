"""Metrics as Prometheus scrapes them."""

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.exporters.prometheus import Metrics
from gateway.values.metric import counter, gauge
from tests.entries import ENTRY


def exposed(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(series, labels) -> value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render()[0].decode())
        for sample in family.samples
    }


def test_charges_are_exposed_in_dollars_to_the_nano_dollar():
    metrics = Metrics(list)
    for charge in (1, 2, 999_999_999):
        metrics.observe_entry(msgspec.structs.replace(ENTRY, charge_nusd=charge))
    labels = (("deployment", "small"), ("task_type", "code"), ("team", "research"), ("tier", "small"))
    assert exposed(metrics)["penstock_charge_usd_total", labels] == 1.000000002


def test_request_durations_are_by_route_and_tier_and_first_bytes_by_deployment():
    metrics = Metrics(list)
    metrics.observe_entry(msgspec.structs.replace(ENTRY, duration_ms=9, first_byte_ms=5))
    found = exposed(metrics)
    assert found["penstock_request_duration_seconds_sum", (("route", "auto"), ("tier", "small"))] == 0.009
    assert found["penstock_time_to_first_byte_seconds_sum", (("deployment", "small"),)] == 0.005


def test_overhead_is_counted_with_the_last_attempt_only():
    metrics = Metrics(list)
    metrics.observe_latency("small", upstream_ms=100.0, overhead_ms=None)
    metrics.observe_latency("medium", upstream_ms=200.0, overhead_ms=0.4)
    found = exposed(metrics)
    assert found["penstock_upstream_duration_seconds_sum", (("deployment", "small"),)] == 0.1
    assert found["penstock_gateway_overhead_seconds_count", ()] == 1
    assert found["penstock_gateway_overhead_seconds_bucket", (("le", "0.0005"),)] == 1
    assert found["penstock_gateway_overhead_seconds_bucket", (("le", "0.00025"),)] == 0


def test_families_read_at_a_scrape_keep_their_type():
    families = [counter("penstock_a_total", "A.", 3), gauge("penstock_b", "B.", [(("x",), 0.5)], ("name",))]
    text = Metrics(lambda: families).render()[0].decode()
    assert "# TYPE penstock_a_total counter" in text and "# TYPE penstock_b gauge" in text
    assert 'penstock_b{name="x"} 0.5' in text


@pytest.mark.parametrize("make, name", [(counter, "penstock_calls"), (gauge, "penstock_calls_total")])
def test_only_counters_end_in_total(make, name):
    with pytest.raises(AssertionError):
        make(name, "Help.", 1)


def test_a_refusal_counts_by_code_and_has_no_duration():
    metrics = Metrics(list)
    metrics.observe_entry(msgspec.structs.replace(ENTRY, outcome="refused", code="budget_exceeded", usage_basis="none"))
    found = exposed(metrics)
    assert found["penstock_refusals_total", (("code", "budget_exceeded"), ("team", "research"))] == 1
    assert not [key for key in found if key[0].startswith("penstock_request_duration_seconds_bucket")]
