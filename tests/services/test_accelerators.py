"""Observed concurrency and metered energy of self-hosted deployments."""

import asyncio
import sqlite3

import pytest
from msgspec import structs

from gateway.carbon.concurrency import infer_concurrency
from gateway.values.ledger_entry import LedgerEntry
from tests.services.clocks import NOW, until
from tests.services.grid_fixture import ENGINE, LATENCY, METER, GridFixture, with_energy
from tests.services.observed_calls import ObservedCall, ObservedPlaybook, answer, observed_call, request_body
from tests.snapshots import snapshot

SMALL_BODY = request_body(model="small")


# --- engines


async def test_the_running_requests_of_an_engine_become_its_concurrency():
    fixture = with_energy(ENGINE)
    assert fixture.profile.concurrency_source == "prior"
    fixture.responses["engine"] = b"vllm:num_requests_running 12.0\n"
    await fixture.poll_engines()
    assert (fixture.profile.concurrency, fixture.profile.concurrency_source) == (12.0, "observed")
    assert fixture.small.footprint_method.startswith("modelled-2+observed/")
    fixture.responses["engine"] = b"vllm:num_requests_running 12.5\n"
    await fixture.poll_engines()
    assert fixture.published == 1, "small changes publish no snapshot"
    fixture.responses["engine"] = b"vllm:num_requests_running 0\n"
    await fixture.poll_engines()
    assert fixture.profile.concurrency == 12.0, "an idle engine is ignored"


async def test_readings_of_an_engine_are_smoothed():
    fixture = with_energy(ENGINE)
    for running, concurrency in ((10, 10.0), (60, 20.0), (120, 40.0)):
        fixture.responses["engine"] = f"vllm:num_requests_running {running}\n".encode()
        await fixture.poll_engines()
        assert fixture.profile.concurrency == pytest.approx(concurrency)
    assert fixture.samples("penstock_deployment_concurrency") == {("small", "observed"): pytest.approx(40.0)}


@pytest.mark.parametrize(
    "failure",
    [b"<html>", (503, b"vllm:num_requests_running 99.0\n"), OSError("gone"), TimeoutError()],
    ids=["no metric", "an error status", "refused", "timeout"],
)
async def test_the_default_concurrency_is_used_after_an_engine_keeps_failing(
    failure: object, caplog: pytest.LogCaptureFixture
):
    fixture = with_energy(ENGINE)
    fixture.responses["engine"] = b"vllm:num_requests_running 12.0\n"
    await fixture.poll_engines()
    fixture.responses["engine"] = failure
    for _ in range(59):
        await fixture.poll_engines()
    assert (fixture.profile.concurrency, fixture.profile.concurrency_source) == (12.0, "observed")
    for _ in range(10):
        await fixture.poll_engines()
    assert fixture.profile.concurrency_source == "prior"
    assert caplog.text.count("concurrency_metric_missing deployment=small") == 1


async def test_an_engine_that_answers_in_between_counts_as_working():
    fixture = with_energy(ENGINE)
    for response in (b"vllm:num_requests_running 12.0\n", b"vllm:num_requests_running 0\n"):
        fixture.responses["engine"] = response
        await fixture.poll_engines()
        fixture.responses["engine"] = b"<html>"
        for _ in range(59):
            await fixture.poll_engines()
    assert fixture.profile.concurrency_source == "observed"


# --- meters


def dcgm(joules: float) -> bytes:
    return f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="GPU-a"}} {joules * 1000:.0f}\n'.encode()


async def test_metered_energy_is_attributed_and_stored_without_loss():
    fixture = with_energy(METER)
    playbook = ObservedPlaybook(fixture.snapshot, [answer() for _ in range(60)], fixture.accelerators)
    counter = 1000.0
    fixture.responses["dcgm"] = dcgm(counter)
    await fixture.read_meters()
    for window in range(20):
        for _ in range(3):
            fixture.clock.seconds += 2
            await playbook.ask(SMALL_BODY)
        fixture.clock.seconds = NOW + (window + 1) * 10
        counter += 3000.0
        fixture.responses["dcgm"] = dcgm(counter)
        await fixture.read_meters()
    attributed = sum(millijoules for _, shares, _, _ in fixture.windows for _, millijoules in shares)
    idle = sum(window_idle for *_, window_idle in fixture.windows)
    total = sum(window_total for _, _, window_total, _ in fixture.windows)
    assert total == 20 * 3000 * 1000
    assert idle == 20 * 1000 * 1000
    assert attributed + idle == pytest.approx(total, rel=0.01)
    assert {entry for _, shares, _, _ in fixture.windows for entry, _ in shares} == {
        entry.id for entry in playbook.ledger_entries
    }
    energy = fixture.samples("penstock_metered_energy_joules_total")
    served = [value for labels, value in energy.items() if labels[1] == "served"]
    assert sum(served) * 1000 == pytest.approx(attributed)
    assert energy["small", "idle", "", ""] == 20 * 1000
    # The ratio of metered to modelled energy is applied from then on, and the method says so.
    assert fixture.profile.is_metered
    assert fixture.samples("penstock_metered_to_modelled_energy_ratio") == {("small",): fixture.profile.meter_scale}
    assert fixture.small.footprint_method.startswith("modelled-2+metered/")
    models, modelled = fixture.small.energy_models, snapshot().deployments["small"].energy_models
    assert models is not None and modelled is not None
    assert models[1].per_output > modelled[1].per_output


async def test_an_unreadable_meter_is_reported_and_changes_nothing(caplog: pytest.LogCaptureFixture):
    fixture = with_energy(METER)
    before = fixture.small
    for response in (OSError("gone"), b"<html>", b""):
        fixture.responses["dcgm"] = response
        await fixture.read_meters()
    assert fixture.samples("penstock_meter_failing") == {("small",): 1.0}
    assert fixture.small is before and fixture.windows == []
    assert caplog.text.count("meter_unreadable deployment=small") == 1
    fixture.responses["dcgm"] = dcgm(1000)
    await fixture.read_meters()
    assert fixture.samples("penstock_meter_failing") == {("small",): 0.0}


async def test_energy_without_requests_is_idle_or_unattributed():
    fixture = with_energy(METER)
    for joules in (1000, 4000):
        fixture.responses["dcgm"] = dcgm(joules)
        await fixture.read_meters()
        fixture.clock.seconds += 10
    assert fixture.samples("penstock_metered_energy_joules_total") == {
        ("small", "idle", "", ""): 1000.0,
        ("small", "unattributed", "", ""): 2000.0,
    }
    assert fixture.windows == [("small", [], 3_000_000, 1_000_000)]


async def test_a_reading_without_new_energy_stores_nothing():
    fixture = with_energy(METER)
    fixture.responses["dcgm"] = dcgm(1000)
    for _ in range(3):
        await fixture.read_meters()
        fixture.clock.seconds += 10
    assert fixture.windows == []


async def serve_calls(fixture: GridFixture, call: ObservedCall, name: str, count: int, joules: float) -> None:
    """Serves calls within a window of ten seconds, then reads the meter."""
    context = structs.replace(call.context, request_id=name)
    for number in range(count):
        call.progress.number = number
        fixture.accelerators.call_started(context, call.progress)
    fixture.clock.seconds += 10
    for number in range(count):
        entry = structs.replace(call.entry, id=f"{name}.{number}")
        fixture.accelerators.call_ended(context, call.progress, entry)
    fixture.responses["dcgm"] = dcgm(joules)
    await fixture.read_meters()


async def test_shares_are_kept_while_the_store_is_not_writable(caplog: pytest.LogCaptureFixture):
    fixture = with_energy(METER)
    call = await observed_call(fixture.snapshot, SMALL_BODY)
    fixture.responses["dcgm"] = dcgm(0)
    await fixture.read_meters()
    fixture.store_error = sqlite3.OperationalError("disk full")
    await serve_calls(fixture, call, "first", 15_000, 3_000)
    await serve_calls(fixture, call, "second", 15_000, 6_000)
    assert fixture.windows == [] and "metered_energy_not_stored deployment=small error=disk full" in caplog.text
    fixture.store_error = None
    await serve_calls(fixture, call, "third", 10_000, 9_000)
    ((_, shares, total, idle),) = fixture.windows
    assert (len(shares), total, idle) == (30_000, 9_000_000, 3_000_000), "the newest 20,000 are kept, and all totals"
    assert shares[0][0] == "first.10000" and shares[-1][0] == "third.9999"
    await serve_calls(fixture, call, "fourth", 1, 12_000)
    assert fixture.windows[1] == ("small", [("fourth.0", 2_000_000)], 3_000_000, 1_000_000), "nothing is stored twice"


async def test_a_hanging_meter_delays_no_other_work():
    fixture = with_energy(METER)
    fixture.responses["dcgm"] = hung = asyncio.Event()
    reading = asyncio.ensure_future(fixture.read_meters())
    await until(lambda: fixture.fetched)
    call = await observed_call(fixture.snapshot, SMALL_BODY)
    fixture.accelerators.call_started(call.context, call.progress)
    fixture.accelerators.call_ended(*call)
    hung.set()
    await reading
    assert fixture.samples("penstock_meter_failing") == {("small",): 1.0}


# --- latencies


def streamed(entry: LedgerEntry, output_tokens: int = 101, **change: object) -> LedgerEntry:
    """The entry of a stream with 20 ms per token."""
    return structs.replace(
        entry, stream=1, outcome="completed", usage_basis="exact", output_tokens=output_tokens,
        duration_ms=200 + 20 * (output_tokens - 1), first_byte_ms=200, **change,
    )  # fmt: skip


async def test_concurrency_is_inferred_from_token_latency_where_configured():
    fixture = with_energy(LATENCY)
    call, profile = await observed_call(fixture.snapshot, SMALL_BODY), fixture.profile
    for _ in range(8):
        fixture.accelerators.call_ended(call.context, call.progress, streamed(call.entry))
    fixture.grid.publish_changes()
    assert fixture.profile.concurrency_source == "latency"
    assert fixture.profile.concurrency == infer_concurrency(profile, 20.0)


@pytest.mark.parametrize(
    "change", [{"stream": 0}, {"outcome": "cut"}, {"usage_basis": "estimated"}], ids=["whole", "cut", "estimated"]
)
async def test_only_complete_streams_with_exact_usage_show_a_latency(change: dict[str, object]):
    fixture = with_energy(LATENCY)
    call = await observed_call(fixture.snapshot, SMALL_BODY)
    for _ in range(8):
        entry = structs.replace(streamed(call.entry), **change)
        fixture.accelerators.call_ended(call.context, call.progress, entry)
    fixture.grid.publish_changes()
    assert fixture.profile.concurrency_source == "prior" and fixture.published == 0


async def test_a_deployment_without_sensors_is_not_observed():
    fixture = GridFixture(snapshot())
    assert not (
        fixture.accelerators.has_engines or fixture.accelerators.has_meters or fixture.accelerators.infers_concurrency
    )
    call = await observed_call(fixture.snapshot, SMALL_BODY)
    fixture.accelerators.call_started(call.context, call.progress)
    fixture.accelerators.call_ended(*call)
    await fixture.poll_engines()
    await fixture.read_meters()
    assert (fixture.published, fixture.windows, fixture.fetched) == (0, [], [])
    assert fixture.samples("penstock_meter_failing") == {}
