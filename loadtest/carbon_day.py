"""A day of two grids in a few minutes: a gateway that moves with a carbon price, keeps a budget in watt-hours, and lets work wait
for a greener hour. Does the export show it, do the grams fall by what arithmetic says, is every deadline kept?

    python loadtest/carbon_day.py [--seconds S] [--plot PNG] [--json OUT]

Two deployments of one model stand in London and in North West England, whose half-hourly carbon intensities of 15 March 2023,
with the forecast of the evening before, are played by a feed on loopback (carbon_day.csv: Contains Carbon Intensity API data,
National Grid ESO / NESO and University of Oxford, CC BY 4.0). The gateway is the real one over HTTP, in front of a simulated
provider; its clock runs so fast that the day takes S seconds. `chat` has a carbon price, `code` a budget in Wh, `summary` may
wait six hours, beside as many that may not. Exit status 1 if anything is not as the arithmetic says.
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
# So many of each kind arrive in a half-hour, and every answer is so long.
ARRIVALS_PER_SLOT, OUTPUT_TOKENS = 4, 200
ENERGY_BUDGET_WH = 12

ROUTING = """
version: 1
access: open
providers: {{sim: {{base_url: "{base}"}}, tiny: {{base_url: "{tiny}"}}}}
deployments:
  london:
    {{provider: sim, model: m, tier: medium, price: {{input: 0.02, output: 0.06}}, output_tokens: 400, zone: GBR, feeds: {{uk: '13'}},
     energy: {{active_params_b: 70, bits_per_param: 8, concurrency: 64, hardware: h100, engine: '2025'}}}}
  north-west:
    {{provider: sim, model: m, tier: medium, price: {{input: 0.02, output: {dearer}}}, output_tokens: 400, zone: GBR, feeds: {{uk: '3'}},
     energy: {{active_params_b: 70, bits_per_param: 8, concurrency: 64, hardware: h100, engine: '2025'}}}}
  little:
    {{provider: tiny, model: s, tier: small, price: {{input: 0.01, output: 0.02}}, output_tokens: 400, zone: GBR, feeds: {{uk: '13'}},
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
  code-energy: {{scope: {{task_type: code}}, limit: {{wh: {wh}}}, window: total, hold: expected, stages: {{downgrade: {{at: 50}}}}}}
feeds: {{uk: {{base_url: "{feed}"}}, refresh_minutes: 15, max_age_minutes: 120}}
loops: {{mode: shadow}}
"""
# USD per tonne: high, as internal prices go, for a request emits hundredths of a gram; and what the cleaner region costs, in USD per
# million output tokens: the difference is about what 140 g/kWh less are worth at that price.
CARBON_PRICE_USD_PER_TONNE, CLEAN_OUTPUT_PRICE = 1000, "0.09"
# Deployments that cost the same but for 2 % are the same to the router, by the lengths that it expects: what lies beyond twice that
# of the total is decided by the price.
DECISION_MARGIN = 0.04


class FastClock:
    """The day's clock: it begins at START and runs `speed` times as fast as the machine's."""

    def __init__(self, speed: float) -> None:
        self._speed, self._started_monotonic = speed, time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return START_EPOCH + self.monotonic()

    def monotonic(self) -> float:
        """Seconds of the day."""
        return (time.monotonic() - self._started_monotonic) * self._speed

    async def sleep(self, seconds: float) -> None:
        """So many of the day's seconds."""
        await asyncio.sleep(seconds / self._speed)


@dataclass
class RegionIntensity:
    """One region's half-hours: what was forecast, what came."""

    starts: list[float] = field(default_factory=list)
    forecast: list[float] = field(default_factory=list)
    actual: list[float] = field(default_factory=list)

    def actual_at(self, when: float) -> float:
        """The intensity that came."""
        return self.actual[max(0, bisect_right(self.starts, when) - 1)]


def region_intensities() -> dict[str, RegionIntensity]:
    """Every region's day."""
    found: dict[str, RegionIntensity] = defaultdict(RegionIntensity)
    with INTENSITY_CSV.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            curve = found[row["region"]]
            curve.starts.append(datetime.fromisoformat(row["start_utc"]).timestamp())
            curve.forecast.append(float(row["forecast_g_per_kwh"]))
            curve.actual.append(float(row["outcome_g_per_kwh"]))
    return dict(found)


class IntensityFeed:
    """Great Britain's intensity API: the running half-hour as it came, those ahead as they were forecast."""

    def __init__(self, days: dict[str, RegionIntensity], clock: FastClock) -> None:
        self._regions, self._clock = days, clock

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /regional/intensity/FROM/fw24h/regionid/N."""
        region = request.path.rsplit("/", 1)[-1]
        curve = self._regions[region]
        place = bisect_right(curve.starts, self._clock.now()) - 1
        values = [curve.actual[place], *curve.forecast[place + 1 :]]
        slots = [
            {"from": datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%dT%H:%MZ"), "intensity": {"forecast": value}}
            for start, value in zip(curve.starts[place:], values, strict=True)
        ]
        return web.json_response({"data": {"regionid": int(region), "data": slots}})


@dataclass
class DayRequest:
    """One request of the day: its kind, whether it may wait, when it came and was answered (seconds since the epoch)."""

    task_type: str
    deferrable: bool
    arrived_at: float
    answered_at: float = 0.0
    request_id: str = ""
    status: int = 0


class DayRun:
    """The day: traffic, what is scraped on the way, what is found at its end."""

    def __init__(self, seconds: float) -> None:
        self.clock = FastClock(DAY_SECONDS / seconds)
        self.intensities = region_intensities()
        self.requests: list[DayRequest] = []
        self.scrapes: list[tuple[float, dict[tuple[str, str, str], float]]] = []

    async def run(self, folder: Path) -> list[LedgerEntry]:
        """Live it. Gives the ledger."""
        provider, tiny = SimulatedProvider(SimulatedModel(model="m")), SimulatedProvider(SimulatedModel(model="s"))
        runner = web.ServerRunner(web.Server(IntensityFeed(self.intensities, self.clock).handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        text = ROUTING.format(
            base=await provider.start(), tiny=await tiny.start(), feed=f"http://127.0.0.1:{runner.addresses[0][1]}", dearer=CLEAN_OUTPUT_PRICE, price=CARBON_PRICE_USD_PER_TONNE,
            hours=WAIT_HOURS, wh=ENERGY_BUDGET_WH,
        )  # fmt: skip
        snapshot, _ = parse(text, "green.yaml", {})
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
        waiting: list[asyncio.Future[None]] = []
        # The feed is asked at once, and has answered by the second half-hour.
        for slot in range(1, 48):
            await self.clock.sleep(START_EPOCH + slot * SLOT_SECONDS + SLOT_SECONDS * 0.6 - self.clock.now())
            await self._scrape(client, base)
            for _ in range(ARRIVALS_PER_SLOT):
                for kind, waits in (("chat", False), ("code", False), ("summary", True), ("summary", False)):
                    call = DayRequest(task_type=kind, deferrable=waits, arrived_at=self.clock.now())
                    self.requests.append(call)
                    waiting.append(asyncio.ensure_future(self._send(client, base, call)))
        await asyncio.gather(*waiting)
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
        """What the dashboard is drawn from."""
        async with client.get(f"{base}/metrics") as answer:
            text = await answer.text()
        found: dict[tuple[str, str, str], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                if sample.name in _SCRAPED_METRICS and labels.get("bound", "mid") == "mid":
                    key = sample.name, labels.get("task_type", ""), labels.get("deployment", "")
                    found[key] = found.get(key, 0.0) + sample.value
        self.scrapes.append((self.clock.now(), found))


_SCRAPED_METRICS = (
    "penstock_requests_total", "penstock_carbon_grams_total", "penstock_undeferred_carbon_grams_total",
    "penstock_grid_intensity_grams_per_kwh", "penstock_energy_joules_total",
)  # fmt: skip


def findings(day: DayRun, entries: list[LedgerEntry], table: list[dict[str, str]]) -> dict[str, Any]:
    """What the day has shown, figure by figure, beside what arithmetic says."""
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
    """Where the priced task went, against what the price says of the intensities that held just then."""
    gap = (float(CLEAN_OUTPUT_PRICE) - 0.06) * OUTPUT_TOKENS / 1e6
    went, right, context = defaultdict(int), 0, 0
    for call in day.requests:
        entry = by_id.get(call.request_id)
        if call.task_type != "chat" or entry is None:
            continue
        went[entry.deployment] += 1
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
            context += 1
            right += (entry.deployment == "north-west") == (saved > gap)
    return {"went": dict(went), "decided": context, "as_the_price_says": right}


def _code_findings(entries: list[LedgerEntry]) -> dict[str, Any]:
    code = [entry for entry in entries if entry.task_type == "code"]
    little = [entry for entry in code if entry.deployment == "little"]
    spent = sum(entry.energy_mj_mid for entry in code) / 3.6e6
    first = min((entry.at_ms / 1000 - START_EPOCH) / HOUR_SECONDS for entry in little) if little else None
    before = sum(e.energy_mj_mid for e in code if little and e.at_ms < min(one.at_ms for one in little)) / 3.6e6
    refused = sum(entry.outcome == "refused" for entry in code)
    return {
        "wh": spent, "limit_wh": ENERGY_BUDGET_WH, "wh_before_downgrade": before, "downgraded_at_hour": first,
        "requests": len(code), "downgraded": len(little), "refused": refused,
    }  # fmt: skip


def _summary_findings(day: DayRun, by_id: dict[str, LedgerEntry]) -> dict[str, Any]:
    """Grams of what could wait and of its twins, asked at the same moment, that could not; the difference that arithmetic gives by
    what the gateway knew of the grid (the twin's intensity is that of the arrival), and by what came; deadlines."""
    pairs = [
        (call, by_id[call.request_id], by_id[twin.request_id])
        for call, twin in zip(_summary_requests(day, waits=True), _summary_requests(day, waits=False), strict=True)
    ]
    curve, known, came = day.intensities[LONDON], 0.0, 0.0
    for call, entry, twin in pairs:
        kwh = entry.energy_mj_mid / 1000 / 3.6e6
        known += kwh * (twin.grid_grams_per_kwh - entry.grid_grams_per_kwh)
        came += kwh * (curve.actual_at(call.arrived_at) - curve.actual_at(entry.at_ms / 1000))
    grams, at_once = (sum(pair[place].carbon_ug_mid for pair in pairs) / 1e6 for place in (1, 2))
    told = sum(entry.undeferred_carbon_ug - entry.carbon_ug_mid for _, entry, _ in pairs) / 1e6
    hours = [(call.answered_at - call.arrived_at) / HOUR_SECONDS for call, _, _ in pairs]
    return {
        "grams": grams, "grams_of_twins_at_once": at_once, "saved_by_arithmetic": known, "saved_as_it_came": came,
        "saved_by_ledger": told, "saved_against_twins": at_once - grams, "waited": sum(e.deferred_ms > 0 for _, e, _ in pairs),
        "requests": len(pairs), "longest_hours": max(hours), "mean_hours": mean(hours), "deadline_hours": WAIT_HOURS,
    }  # fmt: skip


def _summary_requests(day: DayRun, *, waits: bool) -> list[DayRequest]:
    return [call for call in day.requests if call.task_type == "summary" and call.deferrable is waits]


def _metric_total(scraped: dict[tuple[str, str, str], float], name: str) -> float:
    return sum(value for (one, _, _), value in scraped.items() if one == name)


def violations(result: dict[str, Any]) -> list[str]:
    """What is not as the arithmetic says."""
    chat, code, summary = result["chat"], result["code"], result["summary"]
    saved, told = summary["saved_by_arithmetic"], summary["saved_by_ledger"]
    checks = {
        "not every request was answered": result["answered"] + code["refused"] == result["requests"],
        "the carbon price did not move chat to and fro": len(chat["went"]) == 2,
        "chat went elsewhere than the price says": chat["as_the_price_says"] >= 0.97 * chat["decided"],
        "the budget in Wh was overspent": code["wh"] <= code["limit_wh"],
        "the budget in Wh changed nothing": code["downgraded"] > 0,
        "the tier was changed before half of the budget": code["wh_before_downgrade"] >= 0.45 * code["limit_wh"],
        "waiting saved nothing": saved > 0,
        "the ledger's saving is not the arithmetic's": abs(told - saved) <= 0.001 * saved,
        "nor is it what the twins that did not wait show": abs(summary["saved_against_twins"] - saved) <= 0.001 * saved,
        "a deadline was missed": summary["longest_hours"] <= summary["deadline_hours"],
        "the export does not equal the ledger": result["export_equals_ledger"],
        "the metrics do not equal the ledger": result["metrics_equal_ledger"],
    }
    return [text for text, holds in checks.items() if not holds]


def render(result: dict[str, Any]) -> str:
    """As plain text."""
    chat, code, summary = result["chat"], result["code"], result["summary"]
    return "\n".join(
        [
            f"{result['requests']} requests in a day of two grids, {result['answered']} answered",
            f"chat, {CARBON_PRICE_USD_PER_TONNE} USD a tonne: {chat['went']}; {chat['as_the_price_says']} of {chat['decided']} as the price says",
            f"code, {code['limit_wh']} Wh: {code['wh']:.2f} Wh spent, smaller tier from hour {code['downgraded_at_hour']:.1f} on"
            f" (at {code['wh_before_downgrade']:.2f} Wh), {code['refused']} refused",
            f"summary, may wait {summary['deadline_hours']} h: {summary['waited']} of {summary['requests']} waited,"
            f" {summary['mean_hours']:.2f} h on average, {summary['longest_hours']:.2f} h at most",
            f"  {summary['grams']:.3f} g against {summary['grams_of_twins_at_once']:.3f} g of as many that did not wait",
            f"  saved: {summary['saved_by_arithmetic']:.4f} g by arithmetic, {summary['saved_by_ledger']:.4f} g by the ledger,"
            f" {summary['saved_against_twins']:.4f} g against the others; {summary['saved_as_it_came']:.4f} g by what then came",
            f"export equals ledger: {result['export_equals_ledger']}; metrics equal ledger: {result['metrics_equal_ledger']}",
        ]
    )


def plot(day: DayRun, path: Path) -> None:
    """The day as the dashboard shows it: grids, where chat went, what code took, what waiting saved."""
    figure = Figure(figsize=(10, 11), layout="constrained")
    grids, where, energy, carbon = figure.subplots(4, 1, sharex=True)
    hours = [(at - START_EPOCH) / HOUR_SECONDS for at, _ in day.scrapes]
    middles = [(one + other) / 2 for one, other in pairwise(hours)]
    for name, region, colour in (("london", LONDON, "#c0392b"), ("north-west", NORTH_WEST, "#0b6e4f")):
        curve = day.intensities[region]
        steps = [(start - START_EPOCH) / HOUR_SECONDS for start in curve.starts]
        grids.step(
            steps, curve.actual, where="post", color=colour, alpha=0.35, linewidth=4, label=f"{name}, as it came"
        )
        seen = [scraped.get(("penstock_grid_intensity_grams_per_kwh", "", name)) for _, scraped in day.scrapes]
        grids.plot(hours, seen, color=colour, linewidth=1, marker=".", label=f"{name}, as the gateway knew it")
        where.plot(
            middles, _increases(day, "penstock_requests_total", "chat", name), color=colour, marker=".", label=name
        )
    for name, colour in (("london", "#c0392b"), ("north-west", "#0b6e4f"), ("little", "#3d5a98")):
        taken = [scraped.get(("penstock_energy_joules_total", "code", name), 0.0) / 3600 for _, scraped in day.scrapes]
        energy.plot(hours, taken, color=colour, label=name)
    energy.axhline(ENERGY_BUDGET_WH / 2, color="#999999", linestyle="--", label="half of the budget")
    for name, label, colour in (
        ("penstock_carbon_grams_total", "as it came", "#0b6e4f"),
        ("penstock_undeferred_carbon_grams_total", "had nothing waited", "#999999"),
    ):
        carbon.plot(
            hours,
            [_metric_by_task_type(scraped, name, "summary") for _, scraped in day.scrapes],
            color=colour,
            label=label,
        )
    for axes, title, unit in (
        (grids, "Grid intensity", "g/kWh"),
        (where, f"chat, {CARBON_PRICE_USD_PER_TONNE} USD a tonne: requests per half-hour", "requests"),
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


def _metric_by_task_type(scraped: dict[tuple[str, str, str], float], name: str, kind: str) -> float:
    return sum(value for (one, task, _), value in scraped.items() if (one, task) == (name, kind))


def _increases(day: DayRun, name: str, kind: str, deployment: str) -> list[float]:
    values = [scraped.get((name, kind, deployment), 0.0) for _, scraped in day.scrapes]
    return [later - earlier for earlier, later in pairwise(values)]


def main() -> int:
    """Live the day; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=150.0, help="that the day takes (default: 150)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw it")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures")
    chosen = parser.parse_args()
    day = DayRun(chosen.seconds)
    with tempfile.TemporaryDirectory() as folder:
        entries = asyncio.run(day.run(Path(folder)))
        text, _ = export_ledger(Path(folder), {"by": "hour,task_type,deployment"}, now=START_EPOCH + 2 * DAY_SECONDS)
    result = findings(day, entries, list(csv.DictReader(io.StringIO(text))))
    print(render(result))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(result, indent=2))
    if chosen.plot is not None:
        plot(day, chosen.plot)
    mistakes = violations(result)
    for mistake in mistakes:
        print(f"WRONG: {mistake}", file=sys.stderr)
    return int(bool(mistakes))


if __name__ == "__main__":
    sys.exit(main())
