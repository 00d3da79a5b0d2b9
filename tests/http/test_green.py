"""Energy and carbon through a running gateway: feeds, receipts, counters, export."""

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from gateway.carbon.footprint import with_footprint_model
from gateway.cli.main import main
from gateway.exporters.prometheus import Metrics
from gateway.simulator.playbook import Playbook, UpstreamAnswer
from tests.feeds.simulated_feed import running_feed
from tests.gateways import Gateway, ImpatientClock, StartGateway, until
from tests.snapshots import BASE_CONFIG, ENV, snapshot

MORE = "feeds: {{uk: {{base_url: '{base}'}}, refresh_minutes: 0.01}}"
SMALL = ", feeds: {uk: '13'}"


def written_counts(data: Path) -> tuple[int, int]:
    """Returns (entries, reported outcomes) on disk."""
    with closing(sqlite3.connect(data / "ledger.sqlite")) as db:
        (entries,), (outcomes,) = (
            db.execute(f"SELECT COUNT(*) FROM {source}").fetchone()
            for source in ("entries", "events WHERE kind = 'session_outcome'")
        )
    return entries, outcomes


async def receipt(gateway: Gateway, **sim: object) -> str:
    async with gateway.post(model="small", max_tokens=50, sim={"output_tokens": 20, **sim}) as answer:
        await answer.read()
        assert answer.status == 200
        return answer.headers["x-penstock-footprint"]


async def test_a_live_feed_reaches_receipts_and_its_failure_keeps_the_last_value(start_gateway: StartGateway):
    async with running_feed() as (feed, base_url):
        async with start_gateway(more=MORE.format(base=base_url), small=SMALL, clock=ImpatientClock()) as gateway:

            async def is_live() -> bool:
                return 'method="live:uk"' in await gateway.metrics()

            await until(is_live)
            footprint = await receipt(gateway)
            assert "grid=GBR-13 42 g/kWh" in footprint and "/live:uk/" in footprint
            polls, feed.answer = feed.polls, web.Response(body=b'{"data": 3}')
            await until(lambda: feed.polls > polls)
            assert "/live:uk/" in await receipt(gateway), "the last valid value is kept"
            text = await gateway.metrics()
        assert 'penstock_grid_intensity_grams_per_kwh{deployment="small",method="live:uk",zone="GBR-13"} 42.0' in text
        assert 'penstock_feed_requests_total{feed="uk",outcome="answered"}' in text


async def test_a_feed_that_hangs_delays_no_request(start_gateway: StartGateway):
    async with running_feed() as (feed, base_url):
        feed.may_answer.clear()
        async with start_gateway(more=MORE.format(base=base_url), small=SMALL, clock=ImpatientClock()) as gateway:
            await until(lambda: feed.polls > 0)
            assert "/annual_country/" in await receipt(gateway)


async def test_carbon_counters_equal_the_ledger_exactly(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        for tokens in (1, 17, 256):
            for model in ("small", "frontier", "auto"):
                async with gateway.post(model=model, max_tokens=300, sim={"output_tokens": tokens}) as answer:
                    await answer.read()
        await until(lambda: len(gateway.ledger_rows()) == 9)
        text = await gateway.metrics()
    with closing(sqlite3.connect(gateway.data_folder / "ledger.sqlite")) as db:
        columns = (
            "energy_mj_low, energy_mj_mid, energy_mj_high, carbon_ug_low, carbon_ug_mid, carbon_ug_high, embodied_ug,"
        )
        columns += " market_carbon_ug, reference_carbon_ug, undeferred_carbon_ug"
        sums = db.execute(f"SELECT {', '.join(f'SUM({name})' for name in columns.split(', '))} FROM entries").fetchone()
    totals: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, sample.labels.get("bound", "")
            totals[key] = totals.get(key, 0.0) + sample.value
    names = [("penstock_energy_joules_total", bound) for bound in ("low", "mid", "high")]
    names += [("penstock_carbon_grams_total", bound) for bound in ("low", "mid", "high")]
    names += [(f"penstock_{name}_total", "") for name in ("embodied_grams", "market_carbon_grams", "reference_carbon_grams", "undeferred_carbon_grams")]  # fmt: skip
    for index, (name, total) in enumerate(zip(names, sums, strict=True)):
        assert round(totals[name] * (1e3 if index < 3 else 1e6)) == total, name


async def test_sci_per_request_session_and_reported_unit(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        for session, count in (("a", 2), ("b", 1), ("c", 1)):
            for _ in range(count):
                async with gateway.post(
                    {"x-penstock-session": session}, model="small", sim={"output_tokens": 50}
                ) as answer:
                    await answer.read()
        outcome = {"outcome": "success", "units": 4, "unit": "tickets"}
        async with gateway.client.post(f"{gateway.base_url}/v1/sessions/a/outcome", json=outcome, headers={"Authorization": "Bearer secret-one"}) as answer:  # fmt: skip
            assert answer.status == 200
        async with gateway.get("/v1/sessions/a", headers={"Authorization": "Bearer secret-one"}) as answer:
            footprint = (await answer.json())["footprint"]
        # Entries and reports are written after the response.
        await until(lambda: written_counts(gateway.data_folder) == (4, 1))
        async with gateway.get("/export?by=key") as answer:
            (row,) = csv.DictReader(io.StringIO(await answer.text()))
    low, mid, high = (footprint["g_co2e"][bound] for bound in ("low", "mid", "high"))
    assert 0 < low < mid < high
    assert footprint["g_co2e_per_unit"]["mid"] == pytest.approx(mid / 4)
    assert footprint["frontier_g"] >= footprint["g_co2e"]["mid"] > footprint["embodied_g"] > 0
    total = float(row["carbon_g_mid"])
    assert float(row["g_per_request_mid"]) == pytest.approx(total / 4, abs=1e-6)
    assert float(row["g_per_session_mid"]) == pytest.approx(total / 3, abs=1e-6)
    assert float(row["g_per_unit_mid"]) == pytest.approx(mid / 4, abs=1e-6)
    assert float(row["units"]) == 4
    assert float(row["g_saved_by_waiting"]) == 0


async def test_explain_shows_the_arithmetic_behind_a_ledger_entry(
    start_gateway: StartGateway, tmp_path, capsys, monkeypatch
):
    async with start_gateway() as gateway, gateway.post(model="small", sim={"output_tokens": 50}) as answer:
        await answer.read()
        request_id = answer.headers["x-penstock-request-id"]
    config = tmp_path / "r.yaml"
    config.write_text(BASE_CONFIG.format(more="", small="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:2/v1"))
    for name, value in {**ENV, "PENSTOCK_DATA": str(gateway.data_folder), "PENSTOCK_CONFIG": str(config)}.items():
        monkeypatch.setenv(name, value)
    assert main(["explain", request_id]) == 0
    output = capsys.readouterr().out
    assert "The ledger has the same figures." in output
    assert "prefill" in output and "56" in output and "embodied" in output
    assert main(["explain", "0123"]) == 1
    assert main(["explain"]) == 2
    assert main(["explain", "--deployment", "frontier", "--input", "10", "--cached", "11"]) == 2
    assert main(["explain", "--deployment", "unknown"]) == 1
    capsys.readouterr()
    assert main(["explain", "--deployment", "frontier", "--output", "1"]) == 0
    assert "carbon" in capsys.readouterr().out
    text = config.read_text().replace("active_params_b: 8", "active_params_b: 9")
    config.write_text(text)
    assert main(["explain", request_id]) == 0
    assert "described the deployment differently" in capsys.readouterr().out


async def test_a_model_of_unknown_size_is_counted_without_an_estimate():
    base_snapshot = snapshot()
    small = base_snapshot.deployments["small"]
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}]}).encode()
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    response = json.dumps({"choices": [{"message": {"content": "hello"}}], "usage": usage}).encode()
    playbook = Playbook(
        base_snapshot.with_deployments({"small": with_footprint_model(small, None, small.intensity)}),
        [UpstreamAnswer(body=[response])],
    )
    answer = await playbook.ask(body)
    (entry,) = playbook.ledger_entries
    assert answer.headers["x-penstock-footprint"] == f"method={entry.footprint_method}" == "method=unknown-model"
    assert (entry.energy_mj_high, entry.carbon_ug_high) == (0, 0)
    assert (entry.reference_energy_mj, entry.reference_carbon_ug) == (0, 0), "no savings without a known footprint"
    metrics = Metrics(list)
    metrics.observe_entry(entry)
    assert b'penstock_unknown_footprint_attempts_total{deployment="small",team="research"} 1.0' in metrics.render()[0]
