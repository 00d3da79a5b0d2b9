"""Runs every client in every scenario of every profile, and prints what worked: `python -m tests.clients.run --help`."""

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
from .tap import Seen, Tap

HERE = Path(__file__).resolve().parent
DRIVERS = HERE / "drivers"
OUT = HERE / "out"
_VENV = Path(os.environ.get("CLIENTS_VENV", HERE / ".venv"))
# What must stand in the answer, where the driver does not know better; the provider counts what it sees.
_WANTED = {"text": "Hello from the simulator.", "stream": "Hello from the simulator.", "image": "I see 1 image"}
# What a driver gets, and what is added until it is ended with all that it started.
_SECONDS, _GRACE_SECONDS = 90, 20


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
    """How a job ended. `ok` None: the client does not offer this. `requests` are those that ask a model."""

    job: Job
    ok: bool | None
    detail: str
    requests: int
    seconds: float


def main() -> int:
    """Gives 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="append", choices=PROFILES, help="default: all but direct")
    parser.add_argument("--client", action="append", help="its name, or a part of several; default: all")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--jobs", type=int, default=4, help="how many at once (default 4)")
    parser.add_argument("--list", action="store_true", help="print the jobs and leave")
    chosen = parser.parse_args()
    jobs = [
        Job(client=client, scenario=scenario, profile=profile)
        for profile in chosen.profile or PROFILES[1:]
        for client in CLIENTS
        if profile in client.profiles and meant(client.name, chosen.client or [""])
        for scenario in client.scenarios
        if scenario in (chosen.scenario or SCENARIOS)
    ]
    if chosen.list:
        print("\n".join(job.name for job in jobs))
        return 0
    outcomes, events = asyncio.run(_run(jobs, chosen.jobs))
    print(render(outcomes))
    # These agents do what they are asked: whatever the loop guard has to say of them is wrong.
    print(f"\nLoop guard: {len(events)} events.", *(f"- {event}" for event in events), sep="\n")
    return 1 if events or any(outcome.ok is False for outcome in outcomes) else 0


def meant(name: str, parts: Sequence[str]) -> bool:
    """A whole name means that client, anything else all clients in whose names it occurs."""
    whole = {client.name for client in CLIENTS}
    return any(part == name or (part not in whole and part in name) for part in parts)


async def _run(jobs: Sequence[Job], at_once: int) -> tuple[list[Outcome], Sequence[Mapping[str, object]]]:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    stage, tap = ClientEnvironment(OUT), Tap()
    await tap.start()
    try:
        targets: dict[str, Mapping[str, str]] = {}
        for profile in dict.fromkeys(job.profile for job in jobs):
            targets[profile] = await (stage.direct_providers() if profile == "direct" else stage.start_gateway(profile))
        turn = asyncio.Semaphore(at_once)

        async def one(job: Job) -> Outcome:
            async with turn:
                outcome = await _job(job, tap, targets[job.profile][job.client.model])
                print(_line(outcome), file=sys.stderr, flush=True)
                return outcome

        outcomes = await asyncio.gather(*(one(job) for job in jobs))
        return outcomes, await stage.loop_events()
    finally:
        await tap.stop()
        await stage.stop()


async def _job(job: Job, tap: Tap, target: str) -> Outcome:
    base_url = tap.open(job.name, target)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True) as home:
        out, err = await drive(job, environment(job, base_url, home))
    seen = tap.seen[job.name]
    said = last_line(out)
    requests = sum(one.asks_a_model for one in seen)
    ok, detail = _judged(job, said, seen, err)
    if ok is False:
        left = {"said": said, "out": out[-5000:], "err": err[-5000:], "seen": [one.document() for one in seen]}
        (OUT / f"{job.name}.json").write_text(json.dumps(left, indent=1))
    return Outcome(
        job=job, ok=ok, detail=_explained(detail, seen), requests=requests, seconds=time.monotonic() - started
    )


def environment(job: Job, base_url: str, home: str) -> dict[str, str]:
    """What a driver is told."""
    order = job.client.order(job.scenario, job.profile)
    # A run must not look like the one before it: the gateway would take them for one session, and that for a loop.
    nonce = f"(run {uuid.uuid4().hex[:12]})"
    then = {"tool_calls": [{"name": "final_answer", "arguments": {"answer": "done"}}]}
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
        "DIRECTIVE_AFTER": f"[[sim {json.dumps(then)}]]",
        "REFUSAL": refusal,
        "WANTED": ""
        if job.client.model == EMBEDDER or job.scenario in job.client.orders
        else _WANTED.get(job.scenario, ""),
        "SECONDS_MAX": str(_SECONDS),
    }


async def drive(job: Job, env: Mapping[str, str]) -> tuple[str, str]:
    """Run the job's driver: what it printed, and its errors."""
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
    """What the driver reports."""
    for line in reversed(out.splitlines()):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "ok" in found:
                return found
    return {"ok": False, "detail": "the driver said nothing"}


def _judged(job: Job, said: Mapping[str, object], seen: Sequence[Seen], err: str) -> tuple[bool | None, str]:
    ok, detail = said.get("ok"), str(said.get("detail") or "")
    requests = sum(one.asks_a_model for one in seen)
    if ok is None:
        return None, detail
    if not ok:
        return False, detail if detail != "the driver said nothing" else f"{detail}: {err.strip()[-300:]}"
    if not requests and job.scenario != "count":
        return False, "no request went by"
    if job.scenario != "refusal" and any(one.asks_a_model and one.status != 200 for one in seen):
        return False, "the client got over an error that should not have been"
    if job.scenario == "refusal" and requests > job.client.refusals:
        return False, f"{requests} requests after a refusal, {job.client.refusals} at most"
    return True, detail


def _explained(detail: str, seen: Sequence[Seen]) -> str:
    """The first error that the server gave, if there is something to explain."""
    failed = next((one for one in seen if one.status >= 400 and one.asks_a_model), None)
    if not detail or failed is None:
        return detail
    return f"{detail[:200]} | {failed.status}: {bytes(failed.answered[:300]).decode(errors='replace')}"


def _line(outcome: Outcome) -> str:
    word = {True: "ok  ", False: "FAIL", None: "-   "}[outcome.ok]
    return f"{word} {outcome.job.name} ({outcome.requests} requests, {outcome.seconds:.1f} s) {outcome.detail[:160]}"


if __name__ == "__main__":
    sys.exit(main())
