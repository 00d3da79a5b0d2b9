"""Dashboard, rules and image use only metrics that the gateway exposes and files that exist."""

import asyncio
import json
import re
import shlex
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from gateway.config.settings import read_settings
from gateway.stores.labels_sqlite import SqliteLabels, write_learned
from gateway.values.quality import FittedFloor, LearnedFloors
from tests.feeds.simulated_feed import running_feed, serving
from tests.gateways import AUTH_HEADERS, Gateway, ImpatientClock, serving_gateway, until
from tests.snapshots import BASE_CONFIG

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/penstock.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/penstock.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MORE = """
budgets:
  day: {limit: {calls: 1000}, window: day, stages: {notify: [1]}}
  none: {scope: {key: k2}, limit: {calls: 0}, window: day}
quality: {keep: 0.9}
notify: {webhook: {url: "http://127.0.0.1:1/"}}
feeds: {uk: {base_url: "@feed"}, refresh_minutes: 0.01}
"""
ENERGY = 'energy: {{active_params_b: 8, concurrency: 4, power: {{dcgm_url: "@meter/metrics"}}}}'
# Without a price and a model size.
DEPLOYMENTS = """deployments:
  bare: {{provider: near, model: sim-small, tier: small, zone: FRA, output_tokens: 4000}}
"""
ROUTES = """routes:
  bare: {{candidates: [bare]}}
"""
# Prometheus' own metrics, and the labels that it adds to every scraped series.
PROMETHEUS_METRICS, PROMETHEUS_LABELS = {"up"}, {"job", "instance"}
# A metric name (not a label or function), with or without its selector.
_METRIC = re.compile(r"(?<![\w:\"$.])((?:\w+:)?penstock_\w+(?::\w+)?|up)\b(?:\{([^}]*)\})?(?!\s*\()")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")


class SimulatedMeter:
    """The energy counter of one GPU that draws 100 W, as DCGM exports it in mJ; `readings` counts its readers."""

    def __init__(self) -> None:
        self.readings = 0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.readings += 1
        millijoules = int(time.monotonic() * 100 * 1000)
        return web.Response(text=f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="GPU-a"}} {millijoules}\n')


async def _scraped(data: Path) -> str:
    """The /metrics of a gateway that has served, refused, failed, metered, polled a feed, and learned a floor."""
    fitted = FittedFloor(ceiling=None, keep=0.9, confidence=0.9, labels=1, share=0.0, kept=1.0)
    SqliteLabels(data, 10).create()
    write_learned(data, LearnedFloors(scorer="x", fitted_at=1.0, floors={("default", "code", "s", "f"): fitted}))
    meter = SimulatedMeter()
    async with running_feed() as (_, feed_url), serving(meter.handle) as meter_url:
        config = BASE_CONFIG.replace("energy: {{active_params_b: 8}}", ENERGY.replace("@meter", meter_url))
        config = config.replace("deployments:\n", DEPLOYMENTS).replace("routes:\n", ROUTES)
        more = MORE.replace("@feed", feed_url)
        small = ", feeds: {uk: '13'}"
        async with serving_gateway(data, config=config, more=more, small=small, clock=ImpatientClock()) as gateway:
            # Requests before the first reading are not metered.
            await until(lambda: meter.readings)
            await _send_traffic(gateway)

            async def is_live() -> bool:
                text = await gateway.metrics()
                return 'method="live:uk"' in text and "penstock_metered_to_modelled_energy_ratio{" in text

            await until(is_live)
            return await gateway.metrics()


async def _send_traffic(gateway: Gateway) -> None:
    async def post(status: int, headers: dict[str, str] | None = None, **body: object) -> None:
        async with gateway.post(headers, **body) as answer:
            assert answer.status == status, await answer.text()

    # As many as the meter needs before it compares itself with the model; the budget notifies at the tenth.
    for _ in range(20):
        await post(200, model="small")
    await post(200, model="bare")
    await post(400, {"Authorization": "Bearer secret-two"}, model="small")
    await post(502, model="small", sim={"fault": "status:500"})
    session = {"x-penstock-session": "run-1"}
    await post(200, session)
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    await post(200, session, messages=[*turns, {"role": "tool", "tool_call_id": "c1", "content": "fine"}])
    background = {"model": "small", "input": "hi", "background": True}
    url = f"{gateway.base_url}/v1/responses"
    async with gateway.client.post(url, json=background, headers=AUTH_HEADERS) as answer:
        name = (await answer.json())["id"]
    for _ in range(2):
        async with gateway.get(f"/v1/responses/{name}", headers=AUTH_HEADERS) as answer:
            assert answer.status == 200, await answer.text()
    # A translated answer that loses a part.
    prompt = '[[sim {"reply": {"content": "fine", "audio": {"id": "a1", "data": "UklGRg=="}}}]]'
    asked = {"model": "small", "max_tokens": 100, "messages": [{"role": "user", "content": prompt}]}
    async with gateway.client.post(f"{gateway.base_url}/v1/messages", json=asked, headers=AUTH_HEADERS) as answer:
        assert answer.status == 200, await answer.text()
    url = f"{gateway.base_url}/v1/sessions/run-1/feedback"
    async with gateway.client.post(url, json={"rating": 1}, headers=AUTH_HEADERS) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def exposed(tmp_path_factory) -> dict[str, set[str]]:
    """Series name -> its labels."""
    text = asyncio.run(_scraped(tmp_path_factory.mktemp("data")))
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def queries() -> Iterator[tuple[str, str]]:
    """(where, expression) of everything that asks Prometheus."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"panel {panel['title']} {target['refId']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            parts = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert parts is not None, variable["query"]
            name, label = parts.groups()
            yield f"variable {variable['name']}", f"{name}{{{label}='x'}}"
    for rule in RULES:
        yield f"rule {rule.get('alert') or rule['record']}", rule["expr"]


def copied() -> Iterator[str]:
    """Yields the sources of COPY that come from the build context."""
    for line in DOCKERFILE.splitlines():
        if line.startswith("COPY ") and "--from=" not in line:
            *sources, _ = (word for word in shlex.split(line)[1:] if not word.startswith("--"))
            yield from sources


@pytest.mark.parametrize("where, expression", [pytest.param(*query, id=query[0]) for query in queries()])
def test_every_query_names_series_and_labels_that_exist(exposed, where, expression):
    found = _METRIC.findall(expression)
    assert found, f"{where} queries no metric of the gateway"
    for name, selector in found:
        assert name in exposed or name in RECORDS or name in PROMETHEUS_METRICS, f"{where}: {name} is not exposed"
        if name in exposed:
            unknown = set(_LABEL.findall(selector)) - exposed[name] - PROMETHEUS_LABELS
            assert not unknown, f"{where}: {name} has no {unknown}"
    if all(name in exposed for name, _ in found):
        grouped = {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")}
        unknown = grouped - set.union(*(exposed[name] for name, _ in found)) - PROMETHEUS_LABELS
        assert not unknown, f"{where}: grouped by {unknown}"


def test_every_exposed_series_is_used_by_a_query(exposed):
    queried = {name for _, expression in queries() for name, _ in _METRIC.findall(expression)}
    assert {name for name in exposed if not name.endswith(("_sum", "_count"))} - queried == set()


def test_a_recording_rule_is_named_after_the_labels_it_keeps():
    for rule in RULES:
        if "record" in rule and " by (" in rule["expr"]:
            (labels,) = _GROUPED.findall(rule["expr"])
            assert rule["record"].split(":")[0] == labels.replace(", ", "_"), rule["record"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_a_title_a_description_and_a_unit(panel):
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}"
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))


def test_panels_have_unique_ids_and_do_not_overlap():
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(boxes)
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    for one, other in combinations(boxes, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_severity_a_summary_and_a_description(alert):
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert set(alert["annotations"]) == {"summary", "description"}
    assert all(text.endswith(".") for text in alert["annotations"].values())


def test_every_alert_has_a_unit_test_and_a_line_in_the_readme():
    tests = yaml.safe_load((ROOT / "deploy/prometheus/penstock.rules.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
    documented = set(re.findall(r"^\| (Penstock\w+) \|", (ROOT / "deploy/README.md").read_text(), re.MULTILINE))
    assert fired == documented == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("source", list(copied()))
def test_a_file_that_the_image_copies_exists_and_is_not_ignored(source):
    assert (ROOT / source).exists()
    assert f"!{source.removeprefix('./')}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_image_sets_valid_settings(monkeypatch):
    settings = dict(re.findall(r"(PENSTOCK_\w+)=(\S+)", DOCKERFILE))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert read_settings().host == "0.0.0.0"
    assert settings["PENSTOCK_HOST"] == "0.0.0.0"
    assert re.search(rf"^VOLUME {settings['PENSTOCK_DATA']}$", DOCKERFILE, re.MULTILINE)
    assert f"EXPOSE {settings['PENSTOCK_PORT']} {settings['PENSTOCK_ADMIN_PORT']}" in DOCKERFILE
