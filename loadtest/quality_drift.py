"""A router that learns in front of two models whose qualities differ by kind of work and drift half-way: does it converge,
hold its floor, notice the drift?

    python loadtest/quality_drift.py DATA [--requests N] [--keep Q] [--plot PNG] [--json OUT]

DATA is the folder of labelled prompts: what the simulated small and frontier models get right is what real ones got
right. Half-way the small model forgets most of one kind of work. Everything else is real: the gateway, its shadow calls
over HTTP, a judge that grades with noise, labels in SQLite, fits by `penstock learn`'s own code. Exit status 1 if the
floor was broken for longer than a drift takes to be noticed, or the drift was not.
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

# Kinds of work, and where their prompts come from. The first is the one that the small model forgets.
TASK_TYPES = {"knowledge": "mmlu_routellm", "exams": "mmlu_pro", "practice": "llmrouter"}
# Of what it knew, the part that it still gets right after the drift.
ACCURACY_AFTER_DRIFT = 0.35
# A judge takes one answer in so many for what it is not.
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
loops: {{mode: shadow}}
"""


@dataclass
class SimulatedModels:
    """What both models make of a prompt; the small one forgets when `drifted`."""

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
        """Chat completions of the three models."""
        body = await request.json()
        self.call_count += 1
        text = body["messages"][-1]["content"]
        if body["model"] == "judge":
            grades = [self._judge_grade(found) for found in re.findall(r"quality=([0-9.]+)", text)]
            said = json.dumps({"first": grades[0], "second": grades[1]})
        else:
            name = re.search(r"\[#([^\]]+)\]", text)
            quality = self.answer_quality(body["model"], name[1]) if name else 0.0
            drawn = quality if quality in (0.0, 1.0) else float(self.rng.random() < quality)
            said = f"An answer. quality={drawn}"
        message = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": max(1, len(text) // 4), "completion_tokens": 40, "total_tokens": len(text) // 4 + 41}
        return web.json_response(
            {"id": f"c{self.call_count}", "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage,
             "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        )  # fmt: skip

    def _judge_grade(self, found: str) -> float:
        grade = 10 * float(found)
        return 10 - grade if self.rng.random() < JUDGE_NOISE else grade


@dataclass
class RequestWindow:
    """What a stretch of requests of one kind came to."""

    served_quality: list[float] = field(default_factory=list)
    frontier_quality: list[float] = field(default_factory=list)
    small_count: int = 0

    @property
    def quality_kept(self) -> float:
        """The part of the frontier's quality that was kept."""
        whole = sum(self.frontier_quality)
        return sum(self.served_quality) / whole if whole else 1.0


async def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """The whole run; gives its figures."""
    randomness = random.Random(chosen.seed)
    rows, kind_of, names = {}, {}, defaultdict(list)
    for kind, file in TASK_TYPES.items():
        for row in labelled_prompts.load(
            [chosen.data / f"{file}.test.jsonl.gz", chosen.data / f"{file}.train.jsonl.gz"]
        ):
            rows[row.id], kind_of[row.id] = row, kind
            names[kind].append(row.id)
    models = SimulatedModels(rows, kind_of, randomness)
    base, runner = await _provider(models)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), port=0, log_level="ERROR")
        snapshot, _ = parse(ROUTING.format(base=base, keep=chosen.keep, share=chosen.share), "drift", {})
        app = App(settings, snapshot)
        await app.start()
        try:
            return await _send_traffic(chosen, app, models, names, randomness, Path(folder))
        finally:
            await app.stop()
            await runner.cleanup()


async def _provider(models: SimulatedModels) -> tuple[str, web.AppRunner]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/chat/completions", models.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/v1", runner


async def _send_traffic(
    chosen: argparse.Namespace,
    app: App,
    models: SimulatedModels,
    names: dict[str, list[str]],
    randomness: random.Random,
    folder: Path,
) -> dict[str, Any]:
    windows: dict[str, list[RequestWindow]] = {kind: [RequestWindow()] for kind in TASK_TYPES}
    fits: list[dict[str, Any]] = []
    alarms: list[dict[str, Any]] = []
    half = chosen.requests // 2
    async with aiohttp.ClientSession(base_url=f"http://127.0.0.1:{app.port}") as http:
        for begin in range(0, chosen.requests, CONCURRENCY):
            if begin >= half and not models.drifted:
                models.drifted = True
            asked = [
                (kind := randomness.choice(list(TASK_TYPES)), randomness.choice(names[kind]))
                for _ in range(CONCURRENCY)
            ]
            tiers = await asyncio.gather(*[_send(http, models, kind, name) for kind, name in asked])
            for (kind, name), tier in zip(asked, tiers, strict=True):
                window = windows[kind][-1]
                window.served_quality.append(models.answer_quality("small" if tier == "small" else "frontier", name))
                window.frontier_quality.append(models.answer_quality("frontier", name))
                window.small_count += tier == "small"
                if len(window.served_quality) >= WINDOW_REQUESTS:
                    windows[kind].append(RequestWindow())
            while app.quality_service.open_shadow_calls:  # noqa: ASYNC110 - nobody else waits for them
                await asyncio.sleep(0.005)
            for kind in TASK_TYPES:
                why = app.quality_service.drift_reason(("default", kind, "small", "frontier"))
                if why and not any(one["kind"] == kind and one["open"] for one in alarms):
                    alarms.append({"kind": kind, "at": begin, "why": why, "open": True})
            if (begin // CONCURRENCY) % (
                FIT_INTERVAL_REQUESTS // CONCURRENCY
            ) == FIT_INTERVAL_REQUESTS // CONCURRENCY - 1:
                await app.quality_service.flush()
                fits.append({"at": begin, **await asyncio.to_thread(_fit, folder, chosen)})
                app.quality_service.reload_fitted()
                for alarm in alarms:
                    alarm["open"] = alarm["open"] and bool(
                        app.quality_service.drift_reason(("default", alarm["kind"], "small", "frontier"))
                    )
    return {
        "keep": chosen.keep,
        "requests": chosen.requests,
        "drift_at": half,
        "upstream_calls": models.call_count,
        "alarms": [{name: value for name, value in alarm.items() if name != "open"} for alarm in alarms],
        "fits": fits,
        "windows": {
            kind: [{"small": one.small_count / len(one.served_quality), "kept": one.quality_kept, "n": len(one.served_quality)} for one in found if one.served_quality]
            for kind, found in windows.items()
        },
    }  # fmt: skip


def _fit(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    snapshot, _ = parse(ROUTING.format(base="http://x/v1", keep=chosen.keep, share=chosen.share), "drift", {})
    learnt = fit_floors.fit_floors(
        SqliteLabels(folder, 200_000).valid_labels(), scorer_weights.load(), snapshot.quality_policy, time.time()
    )
    write_learned(folder, learnt)
    return {group[1]: {"labels": one.labels, "ceiling": one.ceiling} for group, one in learnt.floors.items()}


async def _send(http: aiohttp.ClientSession, models: SimulatedModels, kind: str, name: str) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": f"{models.rows[name].prompt}\n[#{name}]"}]}
    async with http.post("/v1/chat/completions", json=body, headers={"x-penstock-task-type": kind}) as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers["x-penstock-tier"]


def plot(found: dict[str, Any], path: Path) -> None:
    """Three rows, one for each kind of work: the share on the small model, and what was kept of the frontier's quality."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    every = figure.subplots(len(TASK_TYPES), 1, sharex=True)
    for axes, kind in zip(every, TASK_TYPES, strict=True):
        windows = found["windows"][kind]
        at = [(place + 0.5) * WINDOW_REQUESTS * len(TASK_TYPES) for place in range(len(windows))]
        axes.plot(
            at,
            [one["kept"] for one in windows],
            color="#0b6e4f",
            linewidth=2,
            marker="o",
            markersize=3,
            label="kept of the frontier's quality",
        )
        axes.plot(at, [one["small"] for one in windows], color="#c77d0a", linewidth=2, label="share on the small model")
        axes.axhline(found["keep"], color="#0b6e4f", linestyle=":", linewidth=1.2, label=f"floor {found['keep']:g}")
        axes.axvline(
            found["drift_at"], color="#999999", linestyle="--", linewidth=1.2, label="drift of the small model"
        )
        for alarm in found["alarms"]:
            if alarm["kind"] == kind:
                axes.axvline(alarm["at"], color="#b3261e", linewidth=1.5, label=f"alarm: {alarm['why']}")
        axes.set(ylim=(0, 1.05), ylabel=kind, xlim=(0, found["requests"]))
        axes.grid(alpha=0.25)
    every[0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    every[0].set_title("A learning router: qualities differ by kind of work, and one drifts half-way")
    every[-1].set_xlabel("requests")
    figure.savefig(path, dpi=120)


def _mean_kept(windows: list[dict[str, Any]]) -> float:
    count: int = sum(one["n"] for one in windows)
    return float(sum(one["kept"] * one["n"] for one in windows)) / count


def main() -> int:
    """Run, tell, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--keep", type=float, default=0.93)
    parser.add_argument(
        "--share", type=float, default=0.6, help="of requests that are shadowed (default: 0.6, to be quick)"
    )
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found = asyncio.run(run(chosen))
    for kind, windows in found["windows"].items():
        print(f"{kind:10s} kept  " + " ".join(f"{one['kept']:.2f}" for one in windows))
        print(f"{'':10s} small " + " ".join(f"{one['small']:.2f}" for one in windows))
    print("alarms", found["alarms"])
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))
    if chosen.plot:
        plot(found, chosen.plot)
    noticed = any(alarm["kind"] == "knowledge" and alarm["at"] >= found["drift_at"] for alarm in found["alarms"])
    # Single windows are noisy (a standard error of two points): the last fifth of each kind is judged together.
    held = all(_mean_kept(windows[-len(windows) // 5 :]) >= chosen.keep - 0.01 for windows in found["windows"].values())
    print(
        "drift noticed" if noticed else "drift NOT noticed",
        "| floor holds at the end" if held else "| floor BROKEN at the end",
    )
    return 0 if noticed and held else 1


if __name__ == "__main__":
    sys.exit(main())
