"""Tests a learning router with two models whose qualities differ by task type, one of which degrades half-way.

    python loadtest/quality_drift.py DATA [--requests N] [--keep Q] [--plot PNG] [--json OUT]

DATA is the folder of labeled prompts: the simulated small and frontier models answer correctly what real ones did.
Half-way the small model loses most of one task type. Everything else is real: the gateway, its shadow calls over HTTP,
a judge that grades with noise, labels in SQLite, fits by the code of `penstock learn`. Exit status 1 if the quality
floor is broken at the end, or the drift was not detected.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from matplotlib.figure import Figure

from gateway.app import App
from gateway.config.load import parse
from gateway.config.settings import Settings
from gateway.feeds import scorer_weights
from gateway.offline.training import fit_floors, labelled_prompts
from gateway.stores.labels_sqlite import SqliteLabels, write_learned

# Task type -> source of its prompts. The small model degrades on the first.
TASK_TYPES = {"knowledge": "mmlu_routellm", "exams": "mmlu_pro", "practice": "llmrouter"}
# Share of its quality that the small model keeps after the drift.
ACCURACY_AFTER_DRIFT = 0.35
# Share of grades that the judge inverts.
JUDGE_NOISE = 0.03
WINDOW_REQUESTS, FIT_INTERVAL_REQUESTS, CONCURRENCY = 200, 400, 24

ROUTING = """
version: 1
access: open
providers: {{sim: {{base_url: "{base}"}}}}
deployments:
  small: {{provider: sim, model: small, tier: small, price: {{input: 0.25, output: 2}}, output_tokens: 500}}
  frontier: {{provider: sim, model: frontier, tier: frontier, price: {{input: 1.25, output: 10}}, output_tokens: 500}}
  judge: {{provider: sim, model: judge, tier: frontier, price: {{input: 0.25, output: 2}}, output_tokens: 500}}
routes:
  auto: {{candidates: [small, frontier], auto: true}}
  judge: {{candidates: [judge]}}
task_types: {{knowledge: {{}}, exams: {{}}, practice: {{}}}}
quality: {{keep: {keep}, confidence: 0.95}}
learning: {{shadow: {{share: {share}, judge: judge, usd_per_day: 1000}}, refit_minutes: null}}
loop_guard: {{mode: shadow}}
"""


@dataclass
class SimulatedModels:
    """Simulates both models and the judge; the small model is degraded while `drifted`."""

    rows: dict[str, labelled_prompts.LabelledPrompt]
    task_type_of: dict[str, str]
    rng: random.Random
    drifted: bool = False
    call_count: int = 0

    def answer_quality(self, model: str, name: str) -> float:
        """The quality of the model's answer in [0, 1]."""
        row = self.rows[name]
        score = row.small_score if model == "small" else row.large_score
        if model == "small" and self.drifted and self.task_type_of[name] == "knowledge":
            return score * ACCURACY_AFTER_DRIFT
        return score

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a chat completion of one of the three models."""
        body = await request.json()
        self.call_count += 1
        text = body["messages"][-1]["content"]
        if body["model"] == "judge":
            grades = [self._judge_grade(quality) for quality in re.findall(r"quality=([0-9.]+)", text)]
            content = json.dumps({"first": grades[0], "second": grades[1]})
        else:
            match = re.search(r"\[#([^\]]+)\]", text)
            quality = self.answer_quality(body["model"], match[1]) if match else 0.0
            drawn = quality if quality in (0.0, 1.0) else float(self.rng.random() < quality)
            content = f"An answer. quality={drawn}"
        message = {"role": "assistant", "content": content}
        usage = {"prompt_tokens": max(1, len(text) // 4), "completion_tokens": 40, "total_tokens": len(text) // 4 + 41}
        return web.json_response(
            {
                "id": f"c{self.call_count}",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "usage": usage,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
        )

    def _judge_grade(self, quality: str) -> float:
        grade = 10 * float(quality)
        return 10 - grade if self.rng.random() < JUDGE_NOISE else grade


@dataclass
class RequestWindow:
    """Qualities of consecutive requests of one task type, and the number that the small model served."""

    served_quality: list[float] = field(default_factory=list)
    frontier_quality: list[float] = field(default_factory=list)
    small_count: int = 0

    @property
    def quality_kept(self) -> float:
        """Share of the frontier's quality that was kept."""
        frontier = sum(self.frontier_quality)
        return sum(self.served_quality) / frontier if frontier else 1.0


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole test and returns its figures."""
    randomness = random.Random(args.seed)
    rows: dict[str, labelled_prompts.LabelledPrompt] = {}
    task_type_of: dict[str, str] = {}
    names: dict[str, list[str]] = defaultdict(list)
    for kind, file in TASK_TYPES.items():
        for row in labelled_prompts.load([args.data / f"{file}.test.jsonl.gz", args.data / f"{file}.train.jsonl.gz"]):
            rows[row.id], task_type_of[row.id] = row, kind
            names[kind].append(row.id)
    models = SimulatedModels(rows, task_type_of, randomness)
    base, runner = await _start_provider(models)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), port=0, log_level="ERROR")
        snapshot, _ = parse(ROUTING.format(base=base, keep=args.keep, share=args.share), "drift", {})
        app = App(settings, snapshot)
        await app.start()
        try:
            return await _send_traffic(args, app, models, names, randomness, Path(folder))
        finally:
            await app.stop()
            await runner.cleanup()


async def _start_provider(models: SimulatedModels) -> tuple[str, web.AppRunner]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/chat/completions", models.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/v1", runner


async def _send_traffic(
    args: argparse.Namespace,
    app: App,
    models: SimulatedModels,
    names: dict[str, list[str]],
    randomness: random.Random,
    folder: Path,
) -> dict[str, Any]:
    windows: dict[str, list[RequestWindow]] = {kind: [RequestWindow()] for kind in TASK_TYPES}
    fits: list[dict[str, Any]] = []
    alarms: list[dict[str, Any]] = []
    half = args.requests // 2
    async with aiohttp.ClientSession(base_url=f"http://127.0.0.1:{app.port}") as http:
        for begin in range(0, args.requests, CONCURRENCY):
            if begin >= half and not models.drifted:
                models.drifted = True
            prompts = [
                (kind := randomness.choice(list(TASK_TYPES)), randomness.choice(names[kind]))
                for _ in range(CONCURRENCY)
            ]
            tiers = await asyncio.gather(*[_send(http, models, kind, name) for kind, name in prompts])
            for (kind, name), tier in zip(prompts, tiers, strict=True):
                window = windows[kind][-1]
                window.served_quality.append(models.answer_quality("small" if tier == "small" else "frontier", name))
                window.frontier_quality.append(models.answer_quality("frontier", name))
                window.small_count += tier == "small"
                if len(window.served_quality) >= WINDOW_REQUESTS:
                    windows[kind].append(RequestWindow())
            while app.quality_service.open_shadow_calls:  # noqa: ASYNC110 - no event reports their end
                await asyncio.sleep(0.005)
            for kind in TASK_TYPES:
                reason = app.quality_service.drift_reason(("default", kind, "small", "frontier"))
                if reason and not any(alarm["kind"] == kind and alarm["open"] for alarm in alarms):
                    alarms.append({"kind": kind, "at": begin, "reason": reason, "open": True})
            batches_per_fit = FIT_INTERVAL_REQUESTS // CONCURRENCY
            if (begin // CONCURRENCY) % batches_per_fit == batches_per_fit - 1:
                await app.quality_service.flush()
                fits.append({"at": begin, **await asyncio.to_thread(_fit, folder, args)})
                app.quality_service.reload_fitted()
                for alarm in alarms:
                    alarm["open"] = alarm["open"] and bool(
                        app.quality_service.drift_reason(("default", alarm["kind"], "small", "frontier"))
                    )
    return {
        "keep": args.keep,
        "requests": args.requests,
        "drift_at": half,
        "upstream_calls": models.call_count,
        "alarms": [{name: value for name, value in alarm.items() if name != "open"} for alarm in alarms],
        "fits": fits,
        "windows": {
            kind: [_window_fields(window) for window in of_kind if window.served_quality]
            for kind, of_kind in windows.items()
        },
    }


def _window_fields(window: RequestWindow) -> dict[str, Any]:
    count = len(window.served_quality)
    return {"small": window.small_count / count, "kept": window.quality_kept, "n": count}


def _fit(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    snapshot, _ = parse(ROUTING.format(base="http://x/v1", keep=args.keep, share=args.share), "drift", {})
    learned = fit_floors.fit_floors(
        SqliteLabels(folder, 200_000).valid_labels(), scorer_weights.load(), snapshot.quality_policy, time.time()
    )
    write_learned(folder, learned)
    return {group[1]: {"labels": floor.labels, "ceiling": floor.ceiling} for group, floor in learned.floors.items()}


async def _send(http: aiohttp.ClientSession, models: SimulatedModels, kind: str, name: str) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": f"{models.rows[name].prompt}\n[#{name}]"}]}
    async with http.post("/v1/chat/completions", json=body, headers={"x-penstock-task-type": kind}) as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers["x-penstock-tier"]


def plot(result: dict[str, Any], path: Path) -> None:
    """Plot the share on the small model and the share of the frontier's quality kept, one row per task type."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    rows = figure.subplots(len(TASK_TYPES), 1, sharex=True)
    for axes, kind in zip(rows, TASK_TYPES, strict=True):
        windows = result["windows"][kind]
        positions = [(index + 0.5) * WINDOW_REQUESTS * len(TASK_TYPES) for index in range(len(windows))]
        axes.plot(
            positions,
            [window["kept"] for window in windows],
            color="#0b6e4f",
            linewidth=2,
            marker="o",
            markersize=3,
            label="share of the frontier's quality kept",
        )
        axes.plot(
            positions,
            [window["small"] for window in windows],
            color="#c77d0a",
            linewidth=2,
            label="share on the small model",
        )
        axes.axhline(result["keep"], color="#0b6e4f", linestyle=":", linewidth=1.2, label=f"floor {result['keep']:g}")
        axes.axvline(
            result["drift_at"], color="#999999", linestyle="--", linewidth=1.2, label="drift of the small model"
        )
        for alarm in result["alarms"]:
            if alarm["kind"] == kind:
                axes.axvline(alarm["at"], color="#b3261e", linewidth=1.5, label=f"alarm: {alarm['reason']}")
        axes.set(ylim=(0, 1.05), ylabel=kind, xlim=(0, result["requests"]))
        axes.grid(alpha=0.25)
    rows[0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    rows[0].set_title("A learning router: qualities differ by task type, and one drifts half-way")
    rows[-1].set_xlabel("requests")
    figure.savefig(path, dpi=120)


def _mean_kept(windows: list[dict[str, Any]]) -> float:
    count: int = sum(window["n"] for window in windows)
    return float(sum(window["kept"] * window["n"] for window in windows)) / count


def main() -> int:
    """Run the test, print its figures; 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labeled prompts")
    parser.add_argument("--requests", type=int, default=12_000, help="requests in all (default: 12000)")
    parser.add_argument("--keep", type=float, default=0.93, help="quality.keep (default: 0.93)")
    parser.add_argument(
        "--share",
        type=float,
        default=0.6,
        help="share of requests that are shadowed (default: 0.6, high for a short run)",
    )
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="write a plot")
    parser.add_argument("--json", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    result = asyncio.run(run(args))
    for kind, windows in result["windows"].items():
        print(f"{kind:10s} kept  " + " ".join(f"{window['kept']:.2f}" for window in windows))
        print(f"{'':10s} small " + " ".join(f"{window['small']:.2f}" for window in windows))
    print("alarms", result["alarms"])
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    if args.plot:
        plot(result, args.plot)
    detected = any(alarm["kind"] == "knowledge" and alarm["at"] >= result["drift_at"] for alarm in result["alarms"])
    # Single windows are noisy (standard error of two points): the last fifth of each task type is averaged.
    holds = all(_mean_kept(windows[-len(windows) // 5 :]) >= args.keep - 0.01 for windows in result["windows"].values())
    print(
        "drift detected" if detected else "drift NOT detected",
        "| floor holds at the end" if holds else "| floor BROKEN at the end",
    )
    return 0 if detected and holds else 1


if __name__ == "__main__":
    sys.exit(main())
