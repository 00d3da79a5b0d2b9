"""Simulates a day of two grids in minutes: carbon price, energy budget in watt-hours, deferral.

    python loadtest/carbon_day.py [--seconds S] [--plot PNG] [--json OUT]

Two deployments of one model are in London and in North West England. A feed on loopback plays their half-hourly carbon
intensities of 15 March 2023, with the forecast of the evening before (carbon_day.csv: Contains Carbon Intensity API
data, National Grid ESO / NESO and University of Oxford, CC BY 4.0). The gateway is the real one over HTTP, in front of
a simulated provider; its clock is sped up, so that the day takes S seconds. `chat` has a carbon price, `code` a budget
in Wh; half of the `summary` requests may wait six hours, the other half may not. Checked: routing follows the price,
saved grams equal the arithmetic, every deadline is kept, export and metrics equal the ledger. Exit status 1 otherwise.
"""

import argparse
import asyncio
import csv
import io
import json
import sys
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import aiohttp
from aiohttp import web
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import App, export_ledger
from gateway.config.load import parse
from gateway.config.settings import Settings
from gateway.simulator.provider import SimulatedModel, SimulatedProvider
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.ledger_entry import LedgerEntry

START_EPOCH = datetime(2023, 3, 15, tzinfo=UTC).timestamp()
SLOT_SECONDS, HOUR_SECONDS, DAY_SECONDS = 1800.0, 3600.0, 86_400.0
INTENSITY_CSV = Path(__file__).with_name("carbon_day.csv")
LONDON, NORTH_WEST = "13", "3"
WAIT_HOURS = 6
# Requests of each kind per half-hour, and tokens of each answer.
ARRIVALS_PER_SLOT, OUTPUT_TOKENS = 4, 200
ENERGY_BUDGET_WH = 12

ROUTING = """
version: 1
access: open
providers: {{sim: {{base_url: "{base}"}}, tiny: {{base_url: "{tiny}"}}}}
deployments:
  london:
    {{provider: sim, model: m, tier: medium, price: {{input: 0.02, output: 0.06}},
     output_tokens: 400, zone: GBR, feeds: {{uk: '13'}},
     energy: {{active_params_b: 70, bits_per_param: 8, concurrency: 64, hardware: h100, engine: '2025'}}}}
  north-west:
    {{provider: sim, model: m, tier: medium, price: {{input: 0.02, output: {clean_price}}},
     output_tokens: 400, zone: GBR, feeds: {{uk: '3'}},
     energy: {{active_params_b: 70, bits_per_param: 8, concurrency: 64, hardware: h100, engine: '2025'}}}}
  little:
    {{provider: tiny, model: s, tier: small, price: {{input: 0.01, output: 0.02}},
     output_tokens: 400, zone: GBR, feeds: {{uk: '13'}},
     energy: {{active_params_b: 8, bits_per_param: 8, concurrency: 64, hardware: h100, engine: '2025'}}}}
routes:
  auto: {{candidates: [london, north-west, little], auto: true}}
  london: {{candidates: [london]}}
tiers: {{small: {{max_complexity: 0}}, medium: {{max_complexity: 1}}}}
task_types: {{chat: {{}}, code: {{}}, summary: {{}}}}
energy:
  rules:
    - {{task_type: chat, carbon_price_usd_per_tonne: {price}}}
    - {{task_type: summary, defer: {{hours: {hours}}}}}
budgets:
  code-energy:
    {{scope: {{task_type: code}}, limit: {{wh: {wh}}}, window: total, hold: expected,
     stages: {{downgrade: {{at: 50}}}}}}
feeds: {{uk: {{base_url: "{feed}"}}, refresh_minutes: 15, max_age_minutes: 120}}
loop_guard: {{mode: shadow}}
"""
# USD per tonne, high for an internal price, because a request emits hundredths of a gram; and the cleaner region's
# price in USD per million output tokens: the difference is about the value of 140 g/kWh at that carbon price.
CARBON_PRICE_USD_PER_TONNE, CLEAN_OUTPUT_PRICE = 1000, "0.09"
# The router treats deployments whose expected costs differ by less than 2 % as equal: beyond twice that share of the
# total, the price decides.
DECISION_MARGIN = 0.04


class FastClock:
    """A clock that begins at START_EPOCH and runs `speed` times as fast as the machine's."""

    def __init__(self, speed: float) -> None:
        self._speed, self._started_monotonic = speed, time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return START_EPOCH + self.monotonic()

    def monotonic(self) -> float:
        """Seconds since the start of the day."""
        return (time.monotonic() - self._started_monotonic) * self._speed

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of the day."""
        await asyncio.sleep(seconds / self._speed)


@dataclass
class RegionIntensity:
    """One region's half-hours in g/kWh: forecast and actual intensity."""

    starts: list[float] = field(default_factory=list)
    forecast: list[float] = field(default_factory=list)
    actual: list[float] = field(default_factory=list)

    def actual_at(self, when: float) -> float:
        """The actual intensity at a time."""
        return self.actual[max(0, bisect_right(self.starts, when) - 1)]


def region_intensities() -> dict[str, RegionIntensity]:
    """The day's intensities by region id."""
    regions: dict[str, RegionIntensity] = defaultdict(RegionIntensity)
    with INTENSITY_CSV.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            curve = regions[row["region"]]
            curve.starts.append(datetime.fromisoformat(row["start_utc"]).timestamp())
            curve.forecast.append(float(row["forecast_g_per_kwh"]))
            curve.actual.append(float(row["outcome_g_per_kwh"]))
    return dict(regions)


class IntensityFeed:
    """Great Britain's intensity API: the current half-hour as measured, later ones as forecast."""

    def __init__(self, regions: dict[str, RegionIntensity], clock: FastClock) -> None:
        self._regions, self._clock = regions, clock

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /regional/intensity/FROM/fw24h/regionid/N."""
        region = request.path.rsplit("/", 1)[-1]
        curve = self._regions[region]
        index = bisect_right(curve.starts, self._clock.now()) - 1
        values = [curve.actual[index], *curve.forecast[index + 1 :]]
        slots = [
            {"from": datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%dT%H:%MZ"), "intensity": {"forecast": value}}
            for start, value in zip(curve.starts[index:], values, strict=True)
        ]
        return web.json_response({"data": {"regionid": int(region), "data": slots}})


@dataclass
class DayRequest:
    """One request of the day.

    arrived_at, answered_at: seconds since the epoch
    """

    task_type: str
    deferrable: bool
    arrived_at: float
    answered_at: float = 0.0
    request_id: str = ""
    status: int = 0


class DayRun:
    """The traffic of the day, and the metrics scraped meanwhile."""

    def __init__(self, seconds: float) -> None:
        self.clock = FastClock(DAY_SECONDS / seconds)
        self.intensities = region_intensities()
        self.requests: list[DayRequest] = []
        self.scrapes: list[tuple[float, dict[tuple[str, str, str], float]]] = []

    async def run(self, folder: Path) -> list[LedgerEntry]:
        """Run the day and return the ledger's entries."""
        provider, tiny = SimulatedProvider(SimulatedModel(model="m")), SimulatedProvider(SimulatedModel(model="s"))
        runner = web.ServerRunner(web.Server(IntensityFeed(self.intensities, self.clock).handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        text = ROUTING.format(
            base=await provider.start(),
            tiny=await tiny.start(),
            feed=f"http://127.0.0.1:{runner.addresses[0][1]}",
            clean_price=CLEAN_OUTPUT_PRICE,
            price=CARBON_PRICE_USD_PER_TONNE,
            hours=WAIT_HOURS,
            wh=ENERGY_BUDGET_WH,
        )
        snapshot, _ = parse(text, "carbon_day.yaml", {})
        app = App(Settings(data=folder, port=0, drain_seconds=2.0), snapshot, clock=self.clock)
        await app.start()
        try:
            async with aiohttp.ClientSession() as client:
                await self._send_traffic(client, f"http://127.0.0.1:{app.port}")
        finally:
            await app.stop()
            await provider.stop()
            await tiny.stop()
            await runner.cleanup()
        store = SqliteLedger(folder / "ledger.sqlite")
        try:
            return list(store.entries())
        finally:
            store.close()

    async def _send_traffic(self, client: aiohttp.ClientSession, base: str) -> None:
        pending: list[asyncio.Future[None]] = []
        # The feed is polled at once and has answered by the second half-hour.
        for slot in range(1, 48):
            await self.clock.sleep(START_EPOCH + slot * SLOT_SECONDS + SLOT_SECONDS * 0.6 - self.clock.now())
            await self._scrape(client, base)
            for _ in range(ARRIVALS_PER_SLOT):
                for task_type, deferrable in (("chat", False), ("code", False), ("summary", True), ("summary", False)):
                    call = DayRequest(task_type=task_type, deferrable=deferrable, arrived_at=self.clock.now())
                    self.requests.append(call)
                    pending.append(asyncio.ensure_future(self._send(client, base, call)))
        await asyncio.gather(*pending)
        await self._scrape(client, base)

    async def _send(self, client: aiohttp.ClientSession, base: str, call: DayRequest) -> None:
        headers = {"x-penstock-task-type": call.task_type}
        if call.task_type == "summary" and not call.deferrable:
            headers["x-penstock-defer"] = "no"
        body = {
            "model": "london" if call.task_type == "summary" else "auto",
            "messages": [
                {"role": "user", "content": f"{call.task_type} {len(self.requests)}: say something of some length"}
            ],
            "max_tokens": 400,
            "sim": {"output_tokens": OUTPUT_TOKENS},
        }
        async with client.post(f"{base}/v1/chat/completions", json=body, headers=headers) as answer:
            await answer.read()
            call.status = answer.status
            call.request_id = answer.headers.get("x-penstock-request-id", "")
        call.answered_at = self.clock.now()

    async def _scrape(self, client: aiohttp.ClientSession, base: str) -> None:
        """Record the metrics that the plot uses, by (metric, task type, deployment)."""
        async with client.get(f"{base}/metrics") as answer:
            text = await answer.text()
        totals: dict[tuple[str, str, str], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                if sample.name in _SCRAPED_METRICS and labels.get("bound", "mid") == "mid":
                    key = sample.name, labels.get("task_type", ""), labels.get("deployment", "")
                    totals[key] = totals.get(key, 0.0) + sample.value
        self.scrapes.append((self.clock.now(), totals))


_SCRAPED_METRICS = (
    "penstock_requests_total", "penstock_carbon_grams_total", "penstock_undeferred_carbon_grams_total",
    "penstock_grid_intensity_grams_per_kwh", "penstock_energy_joules_total",
)  # fmt: skip


def findings(day: DayRun, entries: list[LedgerEntry], table: list[dict[str, str]]) -> dict[str, Any]:
    """The figures of the day, next to those computed from the intensities."""
    by_id = {entry.request_id: entry for entry in entries if entry.final}
    return {
        "requests": len(day.requests),
        "answered": sum(call.status == 200 for call in day.requests),
        "chat": _chat_findings(day, by_id),
        "code": _code_findings(entries),
        "summary": _summary_findings(day, by_id),
        "export_equals_ledger": sum(int(row["carbon_ug_mid"]) for row in table)
        == sum(e.carbon_ug_mid for e in entries),
        "metrics_equal_ledger": round(_metric_total(day.scrapes[-1][1], "penstock_carbon_grams_total") * 1e6)
        == sum(entry.carbon_ug_mid for entry in entries),
    }


def _chat_findings(day: DayRun, by_id: dict[str, LedgerEntry]) -> dict[str, Any]:
    """Deployments of the priced task type, compared with what price and intensity at that time imply."""
    gap = (float(CLEAN_OUTPUT_PRICE) - 0.06) * OUTPUT_TOKENS / 1e6
    by_deployment: dict[str, int] = defaultdict(int)
    right = decided = 0
    for call in day.requests:
        entry = by_id.get(call.request_id)
        if call.task_type != "chat" or entry is None:
            continue
        by_deployment[entry.deployment] += 1
        kwh = entry.energy_mj_mid / 1000 / 3.6e6
        saved = (
            kwh
            * (
                day.intensities[LONDON].actual_at(call.arrived_at)
                - day.intensities[NORTH_WEST].actual_at(call.arrived_at)
            )
            / 1e6
            * CARBON_PRICE_USD_PER_TONNE
        )
        if abs(saved - gap) > DECISION_MARGIN * (
            entry.charge_nusd / 1e9 + kwh * entry.grid_grams_per_kwh / 1e6 * CARBON_PRICE_USD_PER_TONNE
        ):
            decided += 1
            right += (entry.deployment == "north-west") == (saved > gap)
    return {"by_deployment": dict(by_deployment), "decided": decided, "as_price_implies": right}


def _code_findings(entries: list[LedgerEntry]) -> dict[str, Any]:
    code = [entry for entry in entries if entry.task_type == "code"]
    downgraded = [entry for entry in code if entry.deployment == "little"]
    spent = sum(entry.energy_mj_mid for entry in code) / 3.6e6
    first = min((entry.at_ms / 1000 - START_EPOCH) / HOUR_SECONDS for entry in downgraded) if downgraded else None
    first_ms = min((entry.at_ms for entry in downgraded), default=0)
    before = sum(entry.energy_mj_mid for entry in code if entry.at_ms < first_ms) / 3.6e6
    refused = sum(entry.outcome == "refused" for entry in code)
    return {
        "wh": spent, "limit_wh": ENERGY_BUDGET_WH, "wh_before_downgrade": before, "downgraded_at_hour": first,
        "requests": len(code), "downgraded": len(downgraded), "refused": refused,
    }  # fmt: skip


def _summary_findings(day: DayRun, by_id: dict[str, LedgerEntry]) -> dict[str, Any]:
    """Grams of deferrable requests and of their twins, sent at the same moment, that may not wait; savings; deadlines.

    Savings are computed by the intensities that the gateway used (a twin's is that of the arrival) and by actual ones.
    """
    pairs = [
        (call, by_id[call.request_id], by_id[twin.request_id])
        for call, twin in zip(
            _summary_requests(day, deferrable=True), _summary_requests(day, deferrable=False), strict=True
        )
    ]
    curve, saved_by_used, saved_by_actual = day.intensities[LONDON], 0.0, 0.0
    for call, entry, twin in pairs:
        kwh = entry.energy_mj_mid / 1000 / 3.6e6
        saved_by_used += kwh * (twin.grid_grams_per_kwh - entry.grid_grams_per_kwh)
        saved_by_actual += kwh * (curve.actual_at(call.arrived_at) - curve.actual_at(entry.at_ms / 1000))
    grams = sum(entry.carbon_ug_mid for _, entry, _ in pairs) / 1e6
    twin_grams = sum(twin.carbon_ug_mid for _, _, twin in pairs) / 1e6
    saved_by_ledger = sum(entry.undeferred_carbon_ug - entry.carbon_ug_mid for _, entry, _ in pairs) / 1e6
    hours = [(call.answered_at - call.arrived_at) / HOUR_SECONDS for call, _, _ in pairs]
    return {
        "grams": grams, "twin_grams": twin_grams, "saved_by_arithmetic": saved_by_used,
        "saved_by_actual_intensity": saved_by_actual, "saved_by_ledger": saved_by_ledger,
        "saved_against_twins": twin_grams - grams, "waited": sum(entry.deferred_ms > 0 for _, entry, _ in pairs),
        "requests": len(pairs), "longest_hours": max(hours), "mean_hours": mean(hours), "deadline_hours": WAIT_HOURS,
    }  # fmt: skip


def _summary_requests(day: DayRun, *, deferrable: bool) -> list[DayRequest]:
    return [call for call in day.requests if call.task_type == "summary" and call.deferrable is deferrable]


def _metric_total(scraped: dict[tuple[str, str, str], float], name: str) -> float:
    return sum(value for (metric, _, _), value in scraped.items() if metric == name)


def violations(result: dict[str, Any]) -> list[str]:
    """The checks that failed."""
    chat, code, summary = result["chat"], result["code"], result["summary"]
    saved = summary["saved_by_arithmetic"]
    checks = {
        "not every request was answered": result["answered"] + code["refused"] == result["requests"],
        "the carbon price did not move chat between deployments": len(chat["by_deployment"]) == 2,
        "chat was routed against the price": chat["as_price_implies"] >= 0.97 * chat["decided"],
        "the budget in Wh was overspent": code["wh"] <= code["limit_wh"],
        "the budget in Wh had no effect": code["downgraded"] > 0,
        "the tier changed before half of the budget was spent": code["wh_before_downgrade"] >= 0.45 * code["limit_wh"],
        "deferral saved nothing": saved > 0,
        "the ledger's saving differs from the arithmetic": abs(summary["saved_by_ledger"] - saved) <= 0.001 * saved,
        "the saving against the twins differs from the arithmetic": abs(summary["saved_against_twins"] - saved)
        <= 0.001 * saved,
        "a deadline was missed": summary["longest_hours"] <= summary["deadline_hours"],
        "the export does not equal the ledger": result["export_equals_ledger"],
        "the metrics do not equal the ledger": result["metrics_equal_ledger"],
    }
    return [text for text, holds in checks.items() if not holds]


def render(result: dict[str, Any]) -> str:
    """The figures as plain text."""
    chat, code, summary = result["chat"], result["code"], result["summary"]
    return "\n".join(
        [
            f"{result['requests']} requests in a day of two grids, {result['answered']} answered",
            f"chat, {CARBON_PRICE_USD_PER_TONNE} USD per tonne: {chat['by_deployment']};"
            f" {chat['as_price_implies']} of {chat['decided']} as the price implies",
            f"code, {code['limit_wh']} Wh: {code['wh']:.2f} Wh spent, smaller tier from hour"
            f" {code['downgraded_at_hour']:.1f} (at {code['wh_before_downgrade']:.2f} Wh), {code['refused']} refused",
            f"summary, may wait {summary['deadline_hours']} h: {summary['waited']} of {summary['requests']} waited,"
            f" {summary['mean_hours']:.2f} h on average, {summary['longest_hours']:.2f} h at most",
            f"  {summary['grams']:.3f} g, against {summary['twin_grams']:.3f} g of as many that did not wait",
            f"  saved: {summary['saved_by_arithmetic']:.4f} g by arithmetic, {summary['saved_by_ledger']:.4f} g by the"
            f" ledger, {summary['saved_against_twins']:.4f} g against the twins;"
            f" {summary['saved_by_actual_intensity']:.4f} g by the actual intensity",
            f"export equals ledger: {result['export_equals_ledger']};"
            f" metrics equal ledger: {result['metrics_equal_ledger']}",
        ]
    )


def plot(day: DayRun, path: Path) -> None:
    """Plot the day: grids, chat by deployment, energy of code, carbon of summary with and without deferral."""
    figure = Figure(figsize=(10, 11), layout="constrained")
    grids, chat, energy, carbon = figure.subplots(4, 1, sharex=True)
    hours = [(at - START_EPOCH) / HOUR_SECONDS for at, _ in day.scrapes]
    middles = [(earlier + later) / 2 for earlier, later in pairwise(hours)]
    for name, region, color in (("london", LONDON, "#c0392b"), ("north-west", NORTH_WEST, "#0b6e4f")):
        curve = day.intensities[region]
        steps = [(start - START_EPOCH) / HOUR_SECONDS for start in curve.starts]
        grids.step(steps, curve.actual, where="post", color=color, alpha=0.35, linewidth=4, label=f"{name}, actual")
        used = [scraped.get(("penstock_grid_intensity_grams_per_kwh", "", name)) for _, scraped in day.scrapes]
        grids.plot(hours, used, color=color, linewidth=1, marker=".", label=f"{name}, as used by the gateway")
        chat.plot(
            middles, _increases(day, "penstock_requests_total", "chat", name), color=color, marker=".", label=name
        )
    for name, color in (("london", "#c0392b"), ("north-west", "#0b6e4f"), ("little", "#3d5a98")):
        used_wh = [
            scraped.get(("penstock_energy_joules_total", "code", name), 0.0) / 3600 for _, scraped in day.scrapes
        ]
        energy.plot(hours, used_wh, color=color, label=name)
    energy.axhline(ENERGY_BUDGET_WH / 2, color="#999999", linestyle="--", label="half of the budget")
    for name, label, color in (
        ("penstock_carbon_grams_total", "emitted", "#0b6e4f"),
        ("penstock_undeferred_carbon_grams_total", "without deferral", "#999999"),
    ):
        carbon.plot(
            hours,
            [_metric_by_task_type(scraped, name, "summary") for _, scraped in day.scrapes],
            color=color,
            label=label,
        )
    for axes, title, unit in (
        (grids, "Grid intensity", "g/kWh"),
        (chat, f"chat, {CARBON_PRICE_USD_PER_TONNE} USD per tonne: requests per half-hour", "requests"),
        (energy, f"code, {ENERGY_BUDGET_WH} Wh: energy so far", "Wh"),
        (carbon, "summary, half of it may wait six hours: carbon so far", "g CO2e"),
    ):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylabel(unit)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
        axes.grid(alpha=0.3)
    grids.set_ylim(0, 480)
    carbon.set_xlabel("hour of 15 March 2023, UTC. Intensities: NESO Carbon Intensity API, CC BY 4.0")
    figure.savefig(path, dpi=110)


def _metric_by_task_type(scraped: dict[tuple[str, str, str], float], name: str, task_type: str) -> float:
    return sum(value for (metric, task, _), value in scraped.items() if (metric, task) == (name, task_type))


def _increases(day: DayRun, name: str, task_type: str, deployment: str) -> list[float]:
    values = [scraped.get((name, task_type, deployment), 0.0) for _, scraped in day.scrapes]
    return [later - earlier for earlier, later in pairwise(values)]


def main() -> int:
    """Run the day and print its figures; 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=150.0, help="duration of the simulated day (default: 150)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="plot the day")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures as JSON")
    args = parser.parse_args()
    day = DayRun(args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        entries = asyncio.run(day.run(Path(folder)))
        text, _ = export_ledger(Path(folder), {"by": "hour,task_type,deployment"}, now=START_EPOCH + 2 * DAY_SECONDS)
    result = findings(day, entries, list(csv.DictReader(io.StringIO(text))))
    print(render(result))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2))
    if args.plot is not None:
        plot(day, args.plot)
    failed = violations(result)
    for text in failed:
        print(f"WRONG: {text}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
