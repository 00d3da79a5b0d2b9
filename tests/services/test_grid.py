"""Live grid and accelerator data: published when it changes, whatever feeds, engines and meters do."""

import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from gateway.carbon.concurrency import infer_concurrency
from gateway.config.load import parse
from gateway.pipeline.context import AttemptProgress
from gateway.services.grid import GridService
from gateway.simulator.playbook import Playbook, UpstreamAnswer
from gateway.values.snapshot import Snapshot
from tests.snapshots import BASE_CONFIG, ENV, snapshot

NOW = 1_790_000_000.0
FEEDS = "feeds: {electricity_maps: {api_key: {env: KEY_ONE}, base_url: 'http://em'}, uk: {base_url: 'http://uk'}}"
ZONES = ", feeds: {electricity_maps: FR, uk: '13'}"
ENGINE = ", energy: {active_params_b: 8, metrics_url: 'http://engine/metrics'}"
METER = ", energy: {active_params_b: 8, power: {dcgm_url: 'http://dcgm/metrics', idle_watts: 100}}"


class GridFixture:
    """A grid service with scripted endpoints, a settable clock and a store in memory.

    snapshot: the snapshot published last
    at: the time of both clocks, seconds since the epoch
    responses: what an address answers, by a part of its URL; exceptions are raised
    published: number of snapshots published
    windows: stored windows (deployment, shares, total mJ, idle mJ)
    """

    def __init__(self, start: Snapshot) -> None:
        self.snapshot, self.at = start, NOW
        self.responses: dict[str, object] = {}
        self.published = 0
        self.windows: list[tuple[str, list[tuple[str, int]], int, int]] = []
        clock = (lambda: self.at,) * 2
        self.grid = GridService(lambda: self.snapshot, self._publish, self.fetch, *clock, lambda: 0.5)
        self.accelerators = self.grid.accelerators

    def _publish(self, fresh: Snapshot) -> None:
        self.snapshot, self.published = fresh, self.published + 1

    async def poll_engines(self) -> None:
        await self.accelerators.poll_engines(self.grid.publish_changes)

    async def read_meters(self) -> None:
        await self.accelerators.read_meters(self, self.grid.publish_changes)

    async def fetch(self, url, headers):
        response = next((scripted for part, scripted in self.responses.items() if part in url), OSError("refused"))
        if isinstance(response, BaseException):
            raise response
        return 200, response if isinstance(response, bytes) else json.dumps(response).encode()

    def append_window(self, deployment, at_ms, shares, *, total, idle):
        self.windows.append((deployment, list(shares), total, idle))

    @property
    def small(self):
        return self.snapshot.deployments["small"]

    def set_latest(self, grams: object, age: float = 0.0, zone: str = "FR") -> None:
        when = datetime.fromtimestamp(self.at - age, UTC).isoformat()
        self.responses["latest"] = {"zone": zone, "carbonIntensity": grams, "datetime": when}


def with_feeds() -> GridFixture:
    return GridFixture(snapshot(more=FEEDS, small=ZONES))


def with_engine() -> GridFixture:
    return GridFixture(snapshot_with(ENGINE))


def snapshot_with(energy: str) -> Snapshot:
    """A snapshot whose small deployment has another energy section."""
    text = BASE_CONFIG.replace(" energy: {{active_params_b: 8}}, zone: FRA,", " zone: FRA,")
    full = text.format(more="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:2/v1", small=energy)
    return parse(full, "test.yaml", ENV)[0]


async def test_a_live_value_reaches_the_deployments_and_the_routes():
    fixture = with_feeds()
    fixture.set_latest(33)
    await fixture.grid.poll_feeds()
    assert fixture.small.intensity.grams_per_kwh == 33.0
    assert fixture.small.footprint_method.split("/")[2] == "live:electricity_maps"
    assert fixture.snapshot.routes["auto"].candidates[0] is fixture.small
    assert fixture.snapshot.routes["auto"].reference is fixture.snapshot.deployments["frontier"]
    assert fixture.published == 1
    await fixture.grid.poll_feeds()
    assert fixture.published == 1, "an unchanged reading publishes no snapshot"


@pytest.mark.parametrize(
    "grams, age, zone",
    [(-1, 0, "FR"), (1e6, 0, "FR"), (None, 0, "FR"), (50, 0, "DE"), (50, 8000, "FR"), (50, -90_000, "FR")],
    ids=["negative", "beyond any grid", "nothing", "another zone", "stale", "from the future"],
)
async def test_an_implausible_reading_changes_nothing(grams, age, zone):
    fixture = with_feeds()
    before = fixture.small
    fixture.set_latest(grams, age, zone)
    await fixture.grid.poll_feeds()
    assert fixture.small is before
    assert fixture.grid._poll_schedule.outcome_counts["electricity_maps", "failed"] == 1


async def test_the_last_reading_is_used_until_it_is_too_old_then_the_annual_table():
    fixture = with_feeds()
    fixture.set_latest(33)
    await fixture.grid.poll_feeds()
    fixture.responses.clear()
    for hours, source in ((1, "live:electricity_maps"), (1.99, "live:electricity_maps"), (2.01, "annual_country")):
        fixture.at = NOW + hours * 3600
        await fixture.grid.poll_feeds()
        assert fixture.small.intensity.source == source
    assert fixture.small.intensity == fixture.small.annual_intensity


async def test_the_next_feed_is_used_when_the_first_fails():
    fixture = with_feeds()
    slot = datetime.fromtimestamp(NOW // 1800 * 1800, UTC).strftime("%Y-%m-%dT%H:%MZ")
    fixture.responses["regionid/13"] = {
        "data": {"regionid": 13, "data": [{"from": slot, "intensity": {"forecast": 77}}]}
    }
    await fixture.grid.poll_feeds()
    assert (fixture.small.intensity.source, fixture.small.intensity.grams_per_kwh) == ("live:uk", 77.0)


async def test_a_reloaded_configuration_keeps_live_readings():
    fixture = with_feeds()
    fixture.set_latest(33)
    await fixture.grid.poll_feeds()
    fresh = fixture.grid.with_live_data(snapshot(more=FEEDS, small=ZONES))
    assert fresh.deployments["small"].intensity.grams_per_kwh == 33.0


async def test_a_hanging_feed_delays_no_other():
    fixture = with_feeds()
    fixture.set_latest(33)
    hung = asyncio.Event()

    async def fetch(url, headers):
        if "uk" in url:
            await hung.wait()
        return await GridFixture.fetch(fixture, url, headers)

    fixture.grid._fetch = fetch
    polling = asyncio.ensure_future(fixture.grid.poll_feeds())
    await asyncio.sleep(0.01)
    assert fixture.small.intensity.source == "live:electricity_maps", "published while the other feed hangs"
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling


async def test_the_running_requests_of_an_engine_become_its_concurrency():
    fixture = with_engine()
    assert fixture.small.energy_profile.concurrency_source == "prior"
    fixture.responses["engine"] = b"vllm:num_requests_running 12.0\n"
    await fixture.poll_engines()
    assert (fixture.small.energy_profile.concurrency, fixture.small.energy_profile.concurrency_source) == (
        12.0,
        "observed",
    )
    assert fixture.small.footprint_method.startswith("modelled-2+observed/")
    fixture.responses["engine"] = b"vllm:num_requests_running 12.5\n"
    await fixture.poll_engines()
    assert fixture.published == 1, "small changes publish no snapshot"
    fixture.responses["engine"] = b"vllm:num_requests_running 0\n"
    await fixture.poll_engines()
    assert fixture.small.energy_profile.concurrency == 12.0, "an idle engine is ignored"


async def test_the_default_concurrency_is_used_after_an_engine_keeps_failing():
    fixture = with_engine()
    fixture.responses["engine"] = b"vllm:num_requests_running 12.0\n"
    await fixture.poll_engines()
    fixture.responses["engine"] = b"<html>"
    for _ in range(60):
        await fixture.poll_engines()
    assert fixture.small.energy_profile.concurrency_source == "prior"


def dcgm(joules: float) -> bytes:
    return f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="GPU-a"}} {joules * 1000:.0f}\n'.encode()


async def test_metered_energy_is_attributed_and_stored_without_loss():
    fixture = GridFixture(snapshot_with(METER))
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}).encode()
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    answer = json.dumps({"choices": [{"message": {"content": "hello"}}], "usage": usage}).encode()
    playbook = Playbook(fixture.snapshot, [UpstreamAnswer(body=[answer]) for _ in range(60)])
    playbook.pipeline._call_observer = fixture.accelerators
    counter = 1000.0
    fixture.responses["dcgm"] = dcgm(counter)
    await fixture.read_meters()
    for window in range(20):
        for _ in range(3):
            fixture.at += 2
            await playbook.ask(body)
        fixture.at = NOW + (window + 1) * 10
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
    families = {family.name: family.samples for family in fixture.grid.metrics()}
    served = [value for labels, value in families["penstock_metered_energy_joules_total"] if labels[1] == "served"]
    assert sum(served) * 1000 == pytest.approx(attributed)
    # The ratio of metered to modelled energy is applied from then on, and the method says so.
    assert fixture.small.energy_profile.is_metered
    assert fixture.small.footprint_method.startswith("modelled-2+metered/")
    assert fixture.small.energy_models[1].per_output > snapshot().deployments["small"].energy_models[1].per_output


async def test_an_unreadable_meter_is_reported_and_changes_nothing():
    fixture = GridFixture(snapshot_with(METER))
    before = fixture.small
    for answer in (OSError("gone"), b"<html>", b""):
        fixture.responses["dcgm"] = answer
        await fixture.read_meters()
    families = {family.name: family.samples for family in fixture.grid.metrics()}
    assert families["penstock_meter_failing"] == ((("small",), 1.0),)
    assert fixture.small is before and fixture.windows == []


def test_concurrency_is_inferred_from_token_latency_where_configured():
    fixture = GridFixture(snapshot_with(", energy: {active_params_b: 8, infer_concurrency: true}"))
    deployment = fixture.small
    progress = AttemptProgress(number=1, attempt=SimpleNamespace(deployment=deployment))
    entry = SimpleNamespace(
        stream=1, outcome="completed", usage_basis="exact", output_tokens=101, duration_ms=2200, first_byte_ms=200
    )
    for _ in range(8):
        fixture.accelerators.call_ended(SimpleNamespace(request_id="r"), progress, entry)
    fixture.grid.publish_changes()
    assert fixture.small.energy_profile.concurrency_source == "latency"
    assert fixture.small.energy_profile.concurrency == infer_concurrency(deployment.energy_profile, 20.0)


async def test_shares_are_kept_while_the_store_is_not_writable():
    fixture = GridFixture(snapshot_with(METER))
    append_window, metered = fixture.append_window, fixture.accelerators._meters["small"]

    def fail(*args, **kwargs):
        raise sqlite3.OperationalError("disk full")

    metered.unsaved_shares = [(f"r{number}", 1) for number in range(30_000)]
    metered.meter.total_joules = 1.0
    fixture.append_window = fail
    await fixture.accelerators._save_metered("small", metered, fixture)
    assert len(metered.unsaved_shares) == 20_000 and metered.saved_total_mj == 0
    metered.unsaved_shares = [(f"r{number}", 1) for number in range(30_000)]
    fixture.append_window = append_window
    await fixture.accelerators._save_metered("small", metered, fixture)
    assert len(fixture.windows[0][1]) == 30_000 and metered.unsaved_shares == []
