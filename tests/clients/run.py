"""Runs clients in all scenarios and profiles, and prints the results: `python -m tests.clients.run --help`."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .clients import CLIENTS, EMBEDDER, PROFILES, SCENARIOS, Client
from .environment import FUNDED_KEY, UNFUNDED_KEY, ClientEnvironment
from .quiet import QUIET
from .table import render
from .tap import RecordedRequest, Tap

HERE = Path(__file__).resolve().parent
DRIVERS = HERE / "drivers"
OUT = HERE / "out"
_VENV = Path(os.environ.get("CLIENTS_VENV", HERE / ".venv"))
# Text that the answer must contain, by scenario, unless the driver checks it itself; the provider counts images.
_EXPECTED = {"text": "Hello from the simulator.", "stream": "Hello from the simulator.", "image": "I see 1 image"}
# Time limit of a driver, and additional time until its process group is killed.
_SECONDS, _GRACE_SECONDS = 90, 20
NO_REPORT = "no report from the driver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One client in one scenario of one profile."""

    client: Client
    scenario: str
    profile: str

    @property
    def name(self) -> str:
        return f"{self.profile}.{self.client.name}.{self.scenario}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended.

    ok: None where the client does not offer the scenario
    requests: requests that used a model
    """

    job: Job
    ok: bool | None
    detail: str
    requests: int
    seconds: float


def main() -> int:
    """Run the selected jobs and print the tables; 1 if a job failed or a loop guard recorded an event."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="append", choices=PROFILES, help="default: all but direct")
    parser.add_argument(
        "--client", action="append", help="full name of a client, or part of several names; default: all"
    )
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--jobs", type=int, default=4, help="concurrent jobs (default: 4)")
    parser.add_argument("--list", action="store_true", help="print the jobs and exit")
    args = parser.parse_args()
    jobs = [
        Job(client=client, scenario=scenario, profile=profile)
        for profile in args.profile or PROFILES[1:]
        for client in CLIENTS
        if profile in client.profiles and is_selected(client.name, args.client or [""])
        for scenario in client.scenarios
        if scenario in (args.scenario or SCENARIOS)
    ]
    if args.list:
        print("\n".join(job.name for job in jobs))
        return 0
    outcomes, events = asyncio.run(_run(jobs, args.jobs))
    print(render(outcomes))
    # No client loops in these scenarios: any event of a loop guard is wrong.
    print(f"\nLoop guard: {len(events)} events.", *(f"- {event}" for event in events), sep="\n")
    return 1 if events or any(outcome.ok is False for outcome in outcomes) else 0


def is_selected(name: str, parts: Sequence[str]) -> bool:
    """Whether a client is selected: by its full name, or by a part that is no full name."""
    names = {client.name for client in CLIENTS}
    return any(part == name or (part not in names and part in name) for part in parts)


async def _run(jobs: Sequence[Job], concurrency: int) -> tuple[list[Outcome], Sequence[Mapping[str, object]]]:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    servers, tap = ClientEnvironment(OUT), Tap()
    await tap.start()
    try:
        targets: dict[str, Mapping[str, str]] = {}
        for profile in dict.fromkeys(job.profile for job in jobs):
            targets[profile] = await (
                servers.direct_providers() if profile == "direct" else servers.start_gateway(profile)
            )
        slots = asyncio.Semaphore(concurrency)

        async def run_job(job: Job) -> Outcome:
            async with slots:
                outcome = await _job(job, tap, targets[job.profile][job.client.model])
                print(_line(outcome), file=sys.stderr, flush=True)
                return outcome

        outcomes = await asyncio.gather(*(run_job(job) for job in jobs))
        return outcomes, await servers.loop_events()
    finally:
        await tap.stop()
        await servers.stop()


async def _job(job: Job, tap: Tap, target: str) -> Outcome:
    base_url = tap.open(job.name, target)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True) as home:
        out, err = await drive(job, environment(job, base_url, home))
    recorded = tap.requests[job.name]
    report = last_line(out)
    ok, detail = _judged(job, report, recorded, err)
    if ok is False:
        failure = {
            "report": report,
            "out": out[-5000:],
            "err": err[-5000:],
            "requests": [request.document() for request in recorded],
        }
        (OUT / f"{job.name}.json").write_text(json.dumps(failure, indent=1))
    return Outcome(
        job=job,
        ok=ok,
        detail=_explained(detail, recorded),
        requests=sum(request.calls_model for request in recorded),
        seconds=time.monotonic() - started,
    )


def environment(job: Job, base_url: str, home: str) -> dict[str, str]:
    """The environment variables of a driver."""
    order = job.client.order(job.scenario, job.profile)
    # Runs must differ: the gateway would link equal ones to one session, and see a loop.
    nonce = f"(run {uuid.uuid4().hex[:12]})"
    next_order = {"tool_calls": [{"name": "final_answer", "arguments": {"answer": "done"}}]}
    refusal = "simulated" if job.profile == "direct" else "budget"
    return {
        **QUIET,
        "PATH": os.environ["PATH"],
        "HOME": home,
        "LANG": "C.UTF-8",
        "BASE_URL": base_url,
        "API_KEY": UNFUNDED_KEY if job.scenario == "refusal" else FUNDED_KEY,
        "MODEL": job.client.model,
        "SCENARIO": job.scenario,
        "DIRECTIVE": f"[[sim {json.dumps(order)}]] {nonce}" if order else nonce,
        "DIRECTIVE_AFTER": f"[[sim {json.dumps(next_order)}]]",
        "REFUSAL": refusal,
        "EXPECTED": ""
        if job.client.model == EMBEDDER or job.scenario in job.client.orders
        else _EXPECTED.get(job.scenario, ""),
        "SECONDS_MAX": str(_SECONDS),
    }


async def drive(job: Job, env: Mapping[str, str]) -> tuple[str, str]:
    """Run the job's driver; returns its output and errors."""
    file = job.client.file
    python = str(_VENV.with_name(_VENV.name + job.client.venv) / "bin" / "python")
    command = ["node", file] if file.endswith(".mjs") else [python, file]
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(env),
        cwd=DRIVERS,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_SECONDS + _GRACE_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        out, err = b"", f"ended after {_SECONDS + _GRACE_SECONDS} s".encode()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return out.decode(errors="replace"), err.decode(errors="replace")


def last_line(out: str) -> dict[str, object]:
    """The driver's report: the last JSON line of its output."""
    for line in reversed(out.splitlines()):
        with suppress(ValueError):
            report = json.loads(line)
            if isinstance(report, dict) and "ok" in report:
                return report
    return {"ok": False, "detail": NO_REPORT}


def _judged(
    job: Job, report: Mapping[str, object], recorded: Sequence[RecordedRequest], err: str
) -> tuple[bool | None, str]:
    """(ok, detail) of a job, from the driver's report and the recorded requests."""
    ok, detail = report.get("ok"), str(report.get("detail") or "")
    model_requests = [request for request in recorded if request.calls_model]
    if ok is None:
        return None, detail
    if not ok:
        return False, detail if detail != NO_REPORT else f"{detail}: {err.strip()[-300:]}"
    if not model_requests and job.scenario != "count":
        return False, "no request was recorded"
    if job.scenario != "refusal" and any(request.status != 200 for request in model_requests):
        return False, "the client recovered from an unexpected error"
    if job.scenario == "refusal" and len(model_requests) > job.client.refusals:
        return False, f"{len(model_requests)} requests after a refusal, {job.client.refusals} at most"
    return True, detail


def _explained(detail: str, recorded: Sequence[RecordedRequest]) -> str:
    """The detail with the server's first error, if there is one."""
    failed = next((request for request in recorded if request.status >= 400 and request.calls_model), None)
    if not detail or failed is None:
        return detail
    return f"{detail[:200]} | {failed.status}: {bytes(failed.response_body[:300]).decode(errors='replace')}"


def _line(outcome: Outcome) -> str:
    mark = {True: "ok  ", False: "FAIL", None: "-   "}[outcome.ok]
    return f"{mark} {outcome.job.name} ({outcome.requests} requests, {outcome.seconds:.1f} s) {outcome.detail[:160]}"


if __name__ == "__main__":
    sys.exit(main())
