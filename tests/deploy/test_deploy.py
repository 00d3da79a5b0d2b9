"""Dashboard, rules and image use only metrics that the gateway exposes and files that exist."""

import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import App
from gateway.carbon.footprint import with_footprint_model
from gateway.config.settings import Settings, read_settings
from gateway.services.accelerators import _MeteredDeployment
from gateway.values.budget import Measure, ThresholdCrossing
from gateway.values.catalog import UNKNOWN_FOOTPRINT_METHOD
from gateway.values.quality import FittedFloor, LearnedFloors
from tests import budget_lines
from tests.entries import ENTRY
from tests.snapshots import snapshot

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
BUDGETS = """
budgets: {day: {limit: {usd: 1}, window: day}}
quality: {keep: 0.9}
notify: {webhook: {url: "http://127.0.0.1:1/"}}
"""
# Prometheus' own metrics, and the labels that it adds to every scraped series.
PROMETHEUS_METRICS, PROMETHEUS_LABELS = {"up"}, {"job", "instance"}
# A metric name (not a label or function), with or without its selector.
_METRIC = re.compile(r"(?<![\w:\"$.])((?:\w+:)?penstock_\w+(?::\w+)?|up)\b(?:\{([^}]*)\})?(?!\s*\()")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")


async def _rendered(data: Path) -> str:
    """The /metrics of a started gateway after one unpriced answer, one refusal, one failed attempt and one notice."""
    app = App(Settings(data=data, port=0), snapshot(more=BUDGETS))
    await app.start()
    try:
        app._metrics.observe_entry(ENTRY)
        app._metrics.observe_entry(msgspec.structs.replace(ENTRY, footprint_method=UNKNOWN_FOOTPRINT_METHOD))
        app._metrics.observe_entry(
            msgspec.structs.replace(ENTRY, outcome="refused", code="loop_stopped", usage_basis="none")
        )
        app._metrics.observe_entry(
            msgspec.structs.replace(ENTRY, outcome="upstream_error", code="upstream_error", final=0)
        )
        app._budget_service._notifier.notify(
            ThresholdCrossing(line=budget_lines.line("day", Measure.nusd, 2), percent=50, spent=1, crossed_at=1)
        )
        app._metrics.observe_latency("small", upstream_ms=5.0, overhead_ms=0.5)
        group = ("default", "code", "s", "f")
        fitted = FittedFloor(ceiling=None, keep=0.9, confidence=0.9, labels=1, share=0.0, kept=1.0)
        app._publish_fitted(LearnedFloors(scorer="x", floors={group: fitted}))
        app.quality_service.label_counts["judge"] = 1
        app.quality_service._tier_targets.counts_by_basis["code", "floor"] = 1
        app.quality_service._tool_check_sums["code", "small"] = [1.0, 1.0]
        grid_service = app._grid_service
        grid_service._poll_schedule.outcome_counts["uk", "answered"] = 1
        grid_service.accelerators._meters["small"] = metered = _MeteredDeployment(0.0)
        metered.meter._attributed_requests, metered.meter._modelled_joules = 20, 1.0
        metered.attributed_mj["code", "research"] = 1
        small = app._snapshot.deployments["small"]
        profile = replace(small.energy_profile, concurrency=4.0, concurrency_source="observed")
        live = replace(small.annual_intensity, method="live", feed="uk", read_at=1.0)
        app._publish_snapshot(app._snapshot.with_deployments({"small": with_footprint_model(small, profile, live)}))
        app._refresh_metrics()
        return app._metrics.render()[0].decode()
    finally:
        await app.stop()


@pytest.fixture(scope="module")
def exposed(tmp_path_factory) -> dict[str, set[str]]:
    """Series name -> its labels."""
    text = asyncio.run(_rendered(tmp_path_factory.mktemp("data")))
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
            name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
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
