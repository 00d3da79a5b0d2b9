"""What is known of grids and machines: published as it changes, and never in a request's way, whatever feeds do."""

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


class Outside:
    """The world outside: what each address answers, and the time."""

    def __init__(self, at: Snapshot) -> None:
        self.world, self.at = at, NOW
        self.answers: dict[str, object] = {}
        self.published = 0
        self.kept: list[tuple[str, list[tuple[str, int]], int, int]] = []
        clock = (lambda: self.at,) * 2
        self.observatory = GridService(lambda: self.world, self._publish, self.fetch, *clock, lambda: 0.5)
        self.machines = self.observatory.accelerators

    def _publish(self, fresh: Snapshot) -> None:
        self.world, self.published = fresh, self.published + 1

    async def poll_engines(self) -> None:
        await self.machines.poll_engines(self.observatory.publish_changes)

    async def read_meters(self) -> None:
        await self.machines.read_meters(self, self.observatory.publish_changes)

    async def fetch(self, url, headers):
        found = next((answer for part, answer in self.answers.items() if part in url), OSError("no connection"))
        if isinstance(found, BaseException):
            raise found
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        return 200, body

    def append_window(self, deployment, at_ms, shares, *, total, idle):
        self.kept.append((deployment, list(shares), total, idle))

    @property
    def small(self):
        return self.world.deployments["small"]

    def latest(self, grams: object, age: float = 0.0, zone: str = "FR") -> None:
        when = datetime.fromtimestamp(self.at - age, UTC).isoformat()
        self.answers["latest"] = {"zone": zone, "carbonIntensity": grams, "datetime": when}


def feeds() -> Outside:
    return Outside(snapshot(more=FEEDS, small=ZONES))


def engine() -> Outside:
    return Outside(of_small(ENGINE))


def of_small(energy: str) -> Snapshot:
    """A world whose small deployment has another energy section."""
    text = BASE_CONFIG.replace(" energy: {{active_params_b: 8}}, zone: FRA,", " zone: FRA,")
    full = text.format(more="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:2/v1", small=energy)
    return parse(full, "test.yaml", ENV)[0]


async def test_a_live_value_is_published_and_both_rooms_of_a_route_see_it():
    outside = feeds()
    outside.latest(33)
    await outside.observatory.poll_feeds()
    assert outside.small.intensity.grams_per_kwh == 33.0
    assert outside.small.footprint_method.split("/")[2] == "live:electricity_maps"
    assert outside.world.routes["auto"].candidates[0] is outside.small
    assert outside.world.routes["auto"].reference is outside.world.deployments["frontier"]
    assert outside.published == 1
    await outside.observatory.poll_feeds()
    assert outside.published == 1, "nothing new makes no new world"


@pytest.mark.parametrize(
    "grams, age, zone",
    [(-1, 0, "FR"), (1e6, 0, "FR"), (None, 0, "FR"), (50, 0, "DE"), (50, 8000, "FR"), (50, -90_000, "FR")],
    ids=["negative", "beyond any grid", "nothing", "another zone", "stale", "from the future"],
)
async def test_a_lying_feed_changes_nothing(grams, age, zone):
    outside = feeds()
    before = outside.small
    outside.latest(grams, age, zone)
    await outside.observatory.poll_feeds()
    assert outside.small is before
    assert outside.observatory._poll_schedule.outcome_counts["electricity_maps", "failed"] == 1


async def test_a_feed_that_goes_silent_is_believed_for_so_long_and_then_the_table_is():
    outside = feeds()
    outside.latest(33)
    await outside.observatory.poll_feeds()
    outside.answers.clear()
    for hours, source in ((1, "live:electricity_maps"), (1.99, "live:electricity_maps"), (2.01, "annual_country")):
        outside.at = NOW + hours * 3600
        await outside.observatory.poll_feeds()
        assert outside.small.intensity.source == source
    assert outside.small.intensity == outside.small.annual_intensity


async def test_another_feed_stands_in():
    outside = feeds()
    slot = datetime.fromtimestamp(NOW // 1800 * 1800, UTC).strftime("%Y-%m-%dT%H:%MZ")
    outside.answers["regionid/13"] = {"data": {"regionid": 13, "data": [{"from": slot, "intensity": {"forecast": 77}}]}}
    await outside.observatory.poll_feeds()
    assert (outside.small.intensity.source, outside.small.intensity.grams_per_kwh) == ("live:uk", 77.0)


async def test_a_reloaded_configuration_keeps_what_is_known():
    outside = feeds()
    outside.latest(33)
    await outside.observatory.poll_feeds()
    fresh = outside.observatory.with_live_data(snapshot(more=FEEDS, small=ZONES))
    assert fresh.deployments["small"].intensity.grams_per_kwh == 33.0


async def test_a_hanging_feed_holds_up_no_other():
    outside = feeds()
    outside.latest(33)
    hung = asyncio.Event()

    async def fetch(url, headers):
        if "uk" in url:
            await hung.wait()
        return await Outside.fetch(outside, url, headers)

    outside.observatory._fetch = fetch
    asking = asyncio.ensure_future(outside.observatory.poll_feeds())
    await asyncio.sleep(0.01)
    assert outside.small.intensity.source == "live:electricity_maps", "and is published meanwhile"
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_engine_tells_how_many_it_serves_together():
    outside = engine()
    assert outside.small.energy_profile.concurrency_source == "prior"
    outside.answers["engine"] = b"vllm:num_requests_running 12.0\n"
    await outside.poll_engines()
    assert (outside.small.energy_profile.concurrency, outside.small.energy_profile.concurrency_source) == (
        12.0,
        "observed",
    )
    assert outside.small.footprint_method.startswith("modelled-2+observed/")
    outside.answers["engine"] = b"vllm:num_requests_running 12.5\n"
    await outside.poll_engines()
    assert outside.published == 1, "little changes make no new world"
    outside.answers["engine"] = b"vllm:num_requests_running 0\n"
    await outside.poll_engines()
    assert outside.small.energy_profile.concurrency == 12.0, "an idle engine says nothing of a busy one"


async def test_an_engine_that_stays_silent_is_forgotten():
    outside = engine()
    outside.answers["engine"] = b"vllm:num_requests_running 12.0\n"
    await outside.poll_engines()
    outside.answers["engine"] = b"<html>"
    for _ in range(60):
        await outside.poll_engines()
    assert outside.small.energy_profile.concurrency_source == "prior"


def dcgm(joules: float) -> bytes:
    return f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="GPU-a"}} {joules * 1000:.0f}\n'.encode()


async def test_a_meter_s_joules_are_shared_kept_and_come_to_the_meter():
    outside = Outside(of_small(METER))
    grid_service = outside.observatory
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}).encode()
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    answer = json.dumps({"choices": [{"message": {"content": "hello"}}], "usage": usage}).encode()
    book = Playbook(outside.world, [UpstreamAnswer(body=[answer]) for _ in range(60)])
    book.pipeline._call_observer = outside.machines
    counter = 1000.0
    outside.answers["dcgm"] = dcgm(counter)
    await outside.read_meters()
    for window in range(20):
        for _ in range(3):
            outside.at += 2
            await book.ask(body)
        outside.at = NOW + (window + 1) * 10
        counter += 3000.0
        outside.answers["dcgm"] = dcgm(counter)
        await outside.read_meters()
    shared = sum(millijoules for _, shares, _, _ in outside.kept for _, millijoules in shares)
    idle = sum(rested for *_, rested in outside.kept)
    total = sum(taken for _, _, taken, _ in outside.kept)
    assert total == 20 * 3000 * 1000
    assert idle == 20 * 1000 * 1000
    assert shared + idle == pytest.approx(total, rel=0.01)
    assert {entry for _, shares, _, _ in outside.kept for entry, _ in shares} == {
        entry.id for entry in book.ledger_entries
    }
    gauges = {name: values for name, _, _, values in grid_service.gauges()}
    served = [value for labels, value in gauges["penstock_metered_energy_joules"] if labels[1] == "served"]
    assert sum(served) * 1000 == pytest.approx(shared)
    # What the meter says of the model is used from then on, and said.
    assert outside.small.energy_profile.is_metered
    assert outside.small.footprint_method.startswith("modelled-2+metered/")
    assert outside.small.energy_models[1].per_output > snapshot().deployments["small"].energy_models[1].per_output


async def test_a_meter_that_cannot_be_read_is_told_and_changes_nothing():
    outside = Outside(of_small(METER))
    before = outside.small
    for answer in (OSError("gone"), b"<html>", b""):
        outside.answers["dcgm"] = answer
        await outside.read_meters()
    gauges = {name: values for name, _, _, values in outside.observatory.gauges()}
    assert gauges["penstock_meter_failing"] == [(["small"], 1.0)]
    assert outside.small is before and outside.kept == []


def test_time_between_tokens_tells_how_many_share_a_step_where_the_operator_trusts_it():
    outside = Outside(of_small(", energy: {active_params_b: 8, infer_concurrency: true}"))
    deployment = outside.small
    progress = AttemptProgress(number=1, attempt=SimpleNamespace(deployment=deployment))
    entry = SimpleNamespace(
        stream=1, outcome="completed", usage_basis="exact", output_tokens=101, duration_ms=2200, first_byte_ms=200
    )
    for _ in range(8):
        outside.machines.call_ended(SimpleNamespace(request_id="r"), progress, entry)
    outside.observatory.publish_changes()
    assert outside.small.energy_profile.concurrency_source == "latency"
    assert outside.small.energy_profile.concurrency == infer_concurrency(deployment.energy_profile, 20.0)


async def test_shares_wait_while_they_cannot_be_kept_and_none_is_lost():
    outside = Outside(of_small(METER))
    keeps, metered = outside.append_window, outside.machines._meters["small"]

    def full(*args, **kwargs):
        raise sqlite3.OperationalError("disk full")

    metered.unsaved_shares = [(f"r{number}", 1) for number in range(30_000)]
    metered.meter.total_joules = 1.0
    outside.append_window = full
    await outside.machines._save_metered("small", metered, outside)
    assert len(metered.unsaved_shares) == 20_000 and metered.saved_total_mj == 0
    metered.unsaved_shares = [(f"r{number}", 1) for number in range(30_000)]
    outside.append_window = keeps
    await outside.machines._save_metered("small", metered, outside)
    assert len(outside.kept[0][1]) == 30_000 and metered.unsaved_shares == []
