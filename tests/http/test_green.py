"""Energy and carbon through a running gateway: real feeds over HTTP, receipts, counters that equal the ledger, SCI, explain."""

import asyncio
import csv
import io
import json
import sqlite3
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from gateway.carbon.footprint import with_footprint_model
from gateway.cli.main import main
from gateway.exporters.prometheus import Metrics
from gateway.simulator.playbook import Playbook, UpstreamAnswer
from tests.gateways import Gateway, StartGateway
from tests.snapshots import BASE_CONFIG, ENV, snapshot

MORE = "feeds: {{uk: {{base_url: '{base}'}}, refresh_minutes: 0.01}}"
SMALL = ", feeds: {uk: '13'}"


class Outside:
    """A feed on loopback: `grams` now, or whatever `answer` says instead."""

    def __init__(self) -> None:
        self.grams: object = 42
        self.answer: web.Response | None = None
        self.pause = 0.0
        self.asked = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        await asyncio.sleep(self.pause)
        if self.answer is not None:
            return web.Response(status=self.answer.status, body=self.answer.body)
        slot = datetime.now(UTC).replace(minute=datetime.now(UTC).minute // 30 * 30, second=0, microsecond=0)
        row = {"from": slot.strftime("%Y-%m-%dT%H:%MZ"), "intensity": {"forecast": self.grams}}
        return web.json_response({"data": {"regionid": 13, "data": [row]}})


@asynccontextmanager
async def feed():
    outside = Outside()
    runner = web.ServerRunner(web.Server(outside.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield outside, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def until(what, seconds: float = 10.0) -> None:
    """Look until it is so."""
    for _ in range(round(seconds / 0.05)):
        if what():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came so far")


def written(data: Path) -> tuple[int, int]:
    """(entries, reported outcomes) on disk."""
    with sqlite3.connect(data / "ledger.sqlite") as db:
        (entries,), (outcomes,) = (
            db.execute(f"SELECT COUNT(*) FROM {where}").fetchone()
            for where in ("entries", "events WHERE kind = 'session_outcome'")
        )
    return entries, outcomes


async def receipt(gateway: Gateway, **sim: object) -> str:
    async with gateway.post(model="small", max_tokens=50, sim={"output_tokens": 20, **sim}) as answer:
        await answer.read()
        assert answer.status == 200
        return answer.headers["x-penstock-footprint"]


async def test_a_live_feed_reaches_receipts_and_whatever_it_does_changes_no_request_s_fate(start_gateway: StartGateway):
    async with feed() as (outside, base):
        async with start_gateway(more=MORE.format(base=base), small=SMALL) as it:
            before = it.app._world
            await until(lambda: it.app._world is not before)
            told = await receipt(it)
            assert "grid=GBR-13 42 g/kWh" in told and "/live:uk/" in told
            asked, outside.answer = outside.asked, web.Response(body=b'{"data": 3}')
            await until(lambda: outside.asked > asked)
            assert "/live:uk/" in await receipt(it), "the last good value stays"
            async with it.get("/metrics") as answer:
                text = await answer.text()
        assert 'penstock_grid_intensity_grams_per_kwh{deployment="small",method="live:uk",zone="GBR-13"} 42.0' in text
        assert 'penstock_feed_questions{feed="uk",outcome="answered"}' in text


async def test_a_feed_that_hangs_holds_up_nothing(start_gateway: StartGateway):
    async with feed() as (outside, base):
        outside.pause = 30.0
        async with start_gateway(more=MORE.format(base=base), small=SMALL) as it:
            await until(lambda: outside.asked > 0)
            assert "/annual_country/" in await receipt(it)


async def test_counters_equal_the_ledger_to_the_last_unit_and_the_export_too(start_gateway: StartGateway):
    async with start_gateway() as it:
        for tokens in (1, 17, 256):
            for model in ("small", "frontier", "auto"):
                async with it.post(model=model, max_tokens=300, sim={"output_tokens": tokens}) as answer:
                    await answer.read()
        it.app._ledger.close()
        async with it.get("/metrics") as answer:
            text = await answer.text()
    with sqlite3.connect(it.data_folder / "ledger.sqlite") as db:
        columns = (
            "energy_mj_low, energy_mj_mid, energy_mj_high, carbon_ug_low, carbon_ug_mid, carbon_ug_high, embodied_ug,"
        )
        columns += " market_carbon_ug, reference_carbon_ug, undeferred_carbon_ug"
        sums = db.execute(f"SELECT {', '.join(f'SUM({name})' for name in columns.split(', '))} FROM entries").fetchone()
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, sample.labels.get("bound", "")
            found[key] = found.get(key, 0.0) + sample.value
    names = [("penstock_energy_joules_total", bound) for bound in ("low", "mid", "high")]
    names += [("penstock_carbon_grams_total", bound) for bound in ("low", "mid", "high")]
    names += [(f"penstock_{name}_total", "") for name in ("embodied_grams", "market_carbon_grams", "reference_carbon_grams", "undeferred_carbon_grams")]  # fmt: skip
    for place, (name, total) in enumerate(zip(names, sums, strict=True)):
        assert round(found[name] * (1e3 if place < 3 else 1e6)) == total, name


async def test_sci_per_request_session_and_reported_unit(start_gateway: StartGateway):
    async with start_gateway() as it:
        for session, calls in (("a", 2), ("b", 1), ("c", 1)):
            for _ in range(calls):
                async with it.post({"x-penstock-session": session}, model="small", sim={"output_tokens": 50}) as answer:
                    await answer.read()
        outcome = {"outcome": "success", "units": 4, "unit": "tickets"}
        async with it.client.post(f"{it.base_url}/v1/sessions/a/outcome", json=outcome, headers={"Authorization": "Bearer secret-one"}) as answer:  # fmt: skip
            assert answer.status == 200
        async with it.get("/v1/sessions/a", headers={"Authorization": "Bearer secret-one"}) as answer:
            told = (await answer.json())["footprint"]
        # Entries and reports are written behind the requests.
        await until(lambda: written(it.data_folder) == (4, 1))
        async with it.get("/export?by=key") as answer:
            (row,) = csv.DictReader(io.StringIO(await answer.text()))
    low, mid, high = (told["g_co2e"][bound] for bound in ("low", "mid", "high"))
    assert 0 < low < mid < high
    assert told["g_co2e_per_unit"]["mid"] == pytest.approx(mid / 4)
    assert told["on_frontier_g"] >= told["g_co2e"]["mid"] > told["embodied_g"] > 0
    total = float(row["carbon_g_mid"])
    assert float(row["g_per_request_mid"]) == pytest.approx(total / 4, abs=1e-6)
    assert float(row["g_per_session_mid"]) == pytest.approx(total / 3, abs=1e-6)
    assert float(row["g_per_unit_mid"]) == pytest.approx(mid / 4, abs=1e-6)
    assert float(row["units"]) == 4
    assert float(row["g_saved_by_waiting"]) == 0


async def test_explain_shows_the_arithmetic_of_a_request_as_it_was_booked(
    start_gateway: StartGateway, tmp_path, capsys, monkeypatch
):
    async with start_gateway() as it, it.post(model="small", sim={"output_tokens": 50}) as answer:
        await answer.read()
        request_id = answer.headers["x-penstock-request-id"]
    config = tmp_path / "r.yaml"
    config.write_text(BASE_CONFIG.format(more="", small="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:2/v1"))
    for name, value in {**ENV, "PENSTOCK_DATA": str(it.data_folder), "PENSTOCK_CONFIG": str(config)}.items():
        monkeypatch.setenv(name, value)
    assert main(["explain", request_id]) == 0
    shown = capsys.readouterr().out
    assert "This is what the ledger says." in shown
    assert "prefill" in shown and "56" in shown and "embodied" in shown
    assert main(["explain", "0123"]) == 1
    assert main(["explain"]) == 2
    assert main(["explain", "--deployment", "frontier", "--input", "10", "--cached", "11"]) == 2
    assert main(["explain", "--deployment", "nobody"]) == 1
    capsys.readouterr()
    assert main(["explain", "--deployment", "frontier", "--output", "1"]) == 0
    assert "carbon" in capsys.readouterr().out
    text = config.read_text().replace("active_params_b: 8", "active_params_b: 9")
    config.write_text(text)
    assert main(["explain", request_id]) == 0
    assert "knew this deployment otherwise" in capsys.readouterr().out


async def test_unknown_weights_are_counted_and_never_guessed():
    at = snapshot()
    small = at.deployments["small"]
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}]}).encode()
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    whole = json.dumps({"choices": [{"message": {"content": "hello"}}], "usage": usage}).encode()
    book = Playbook(
        at.with_deployments({"small": with_footprint_model(small, None, small.intensity)}),
        [UpstreamAnswer(body=[whole])],
    )
    answer = await book.ask(body)
    (entry,) = book.ledger_entries
    assert answer.headers["x-penstock-footprint"] == f"method={entry.footprint_method}" == "method=unknown-model"
    assert (entry.energy_mj_high, entry.carbon_ug_high) == (0, 0)
    assert (entry.reference_energy_mj, entry.reference_carbon_ug) == (0, 0), "nothing is saved beside what nobody knows"
    metrics = Metrics(list)
    metrics.observe_entry(entry)
    assert b'penstock_unknown_footprint_total{deployment="small",team="research"} 1.0' in metrics.render()[0]
