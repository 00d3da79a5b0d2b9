"""Metrics as Prometheus scrapes them."""

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.exporters.prometheus import Metrics
from gateway.values.catalog import UNKNOWN_FOOTPRINT_METHOD
from gateway.values.ledger_entry import AMOUNT_COLUMNS, correction_entry
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


def test_entries_without_usage_count_as_requests_only():
    metrics = Metrics(list)
    metrics.observe_entry(msgspec.structs.replace(ENTRY, usage_basis="none", outcome="cancelled"))
    found = exposed(metrics)
    labels = (("deployment", "small"), ("task_type", "code"), ("team", "research"), ("tier", "small"))
    outcome = tuple(sorted((*labels, ("outcome", "cancelled"))))
    assert found["penstock_requests_total", outcome] == 1
    assert found["penstock_charge_usd_total", labels] == 0
    assert not [key for key in found if key[0] == "penstock_unpriced_attempts_total"]


def test_tokens_energy_and_carbon_are_exposed_in_base_units_by_kind_and_bound():
    metrics = Metrics(list)
    metrics.observe_entry(
        msgspec.structs.replace(ENTRY, cached_input_tokens=3, energy_mj_high=1_500, carbon_ug_low=2_500_000)
    )
    found = {
        (name, dict(labels).get("kind") or dict(labels).get("bound")): value
        for (name, labels), value in exposed(metrics).items()
    }
    assert (found["penstock_tokens_total", "cached_input"], found["penstock_tokens_total", "output"]) == (3, 20)
    assert found["penstock_energy_joules_total", "high"] == 1.5
    assert found["penstock_carbon_grams_total", "low"] == 2.5


@pytest.mark.parametrize("outcome, failures", [("upstream_error", 1), ("cut", 1), ("rejected", 0), ("completed", 0)])
def test_only_attempts_that_failed_upstream_count_as_failures(outcome, failures):
    metrics = Metrics(list)
    metrics.observe_entry(msgspec.structs.replace(ENTRY, outcome=outcome, code="upstream_timeout", final=0))
    found = exposed(metrics)
    labels = (("code", "upstream_timeout"), ("deployment", "small"))
    assert found.get(("penstock_attempt_failures_total", labels), 0) == failures
    assert metrics.request_count == 0, "a fallback may still answer"


def test_unpriced_attempts_and_unknown_footprints_are_counted_by_deployment():
    metrics = Metrics(list)
    metrics.observe_entry(ENTRY)
    metrics.observe_entry(msgspec.structs.replace(ENTRY, priced=1, footprint_method=UNKNOWN_FOOTPRINT_METHOD))
    found, labels = exposed(metrics), (("deployment", "small"), ("team", "research"))
    assert found["penstock_unpriced_attempts_total", labels] == 1
    assert found["penstock_unknown_footprint_attempts_total", labels] == 1
    assert metrics.request_count == 2


def test_parts_without_a_price_count_as_unpriced():
    metrics = Metrics(list)
    metrics.observe_entry(msgspec.structs.replace(ENTRY, priced=1, unpriced_parts="web_search"))
    found = exposed(metrics)
    assert found["penstock_unpriced_attempts_total", (("deployment", "small"), ("team", "research"))] == 1


@pytest.mark.parametrize(
    "reported, difference, differing",
    [(100, 0.0, 0), (101, 1e-9, 0), (99, 1e-9, 1), (200, 1e-7, 1), (0, None, 0)],
    ids=["equal", "within the hundredth part", "beyond it", "half", "not reported"],
)
def test_charges_are_compared_with_what_the_provider_reports(reported, difference, differing):
    metrics = Metrics(list)
    metrics.observe_entry(msgspec.structs.replace(ENTRY, priced=1, charge_nusd=100, reported_cost_nusd=reported))
    found, labels = exposed(metrics), (("deployment", "small"),)
    assert found.get(("penstock_reported_cost_difference_usd_total", labels)) == difference
    assert found.get(("penstock_differing_costs_total", labels), 0) == differing


def test_errors_without_a_ledger_entry_are_present_at_zero_and_counted_by_code():
    metrics = Metrics(list)
    assert exposed(metrics)["penstock_errors_total", (("code", "internal_error"),)] == 0
    for code in ("overloaded", "overloaded", "invalid_api_key"):
        metrics.count_error(code)
    found = exposed(metrics)
    assert found["penstock_errors_total", (("code", "overloaded"),)] == 2
    assert found["penstock_errors_total", (("code", "invalid_api_key"),)] == 1


def test_a_duration_on_a_bound_falls_into_its_bucket_and_one_beyond_all_into_the_last():
    metrics = Metrics(list)
    for milliseconds in (10, 10.1, 10**6):
        metrics.observe_latency("small", upstream_ms=milliseconds, overhead_ms=None)
    found = exposed(metrics)
    counts = [
        found["penstock_upstream_duration_seconds_bucket", (("deployment", "small"), ("le", bound))]
        for bound in ("0.01", "0.02", "81.92", "+Inf")
    ]
    assert counts == [1, 2, 2, 3]


def test_families_are_read_at_each_scrape():
    open_requests = [1.0]
    metrics = Metrics(lambda: [gauge("penstock_open_requests", "Open.", open_requests[0])])
    first = exposed(metrics)["penstock_open_requests", ()]
    open_requests[0] = 2.0
    assert (first, exposed(metrics)["penstock_open_requests", ()]) == (1, 2)


def test_a_label_value_with_quotes_and_newlines_is_escaped():
    metrics = Metrics(list)
    metrics.observe_entry(msgspec.structs.replace(ENTRY, team='a"b\nc\\'))
    teams = {dict(labels).get("team") for _, labels in exposed(metrics)} - {None}
    assert teams == {'a"b\nc\\'}


def test_a_kind_of_loss_is_counted_once_for_each_answer():
    metrics = Metrics(list)
    lossy = msgspec.structs.replace(
        ENTRY, translation="responses to messages", answer_losses="server_tool: a; server_tool: b; citation: c"
    )
    for entry in (lossy, lossy, ENTRY):
        metrics.observe_entry(entry)
    found = exposed(metrics)
    for kind in ("server_tool", "citation"):
        labels = (("from", "messages"), ("kind", kind), ("to", "responses"))
        assert found["penstock_translation_dropped_total", labels] == 2


def test_what_corrections_take_back_is_counted_apart_because_counters_only_grow():
    metrics = Metrics(list)
    pending = msgspec.structs.replace(ENTRY, usage_basis="estimated", code="usage_pending")
    metrics.observe_entry(pending)
    labels = (("deployment", "small"), ("task_type", "code"), ("team", "research"), ("tier", "small"))
    assert exposed(metrics)["penstock_corrected_charge_usd_total", labels] == 0, "present before the first correction"
    before = exposed(metrics)
    actual = {name: getattr(pending, name) for name in AMOUNT_COLUMNS} | {"charge_nusd": 30, "output_tokens": 25}
    metrics.observe_entry(correction_entry(pending, actual, reason="", priced=True))
    found = exposed(metrics)
    charged, corrected = (found[f"penstock_{name}_usd_total", labels] for name in ("charge", "corrected_charge"))
    assert (charged, corrected) == (100 / 1e9, 70 / 1e9)
    tokens = tuple(sorted((*labels, ("kind", "output"))))
    assert (found["penstock_tokens_total", tokens], found["penstock_corrected_tokens_total", tokens]) == (25, 0)
    for name in ("penstock_requests_total", "penstock_request_duration_seconds_count"):
        assert {key: value for key, value in found.items() if key[0] == name} == {
            key: value for key, value in before.items() if key[0] == name
        }
