"""Measures how accurately calls without session headers are linked to sessions.

    python loadtest/session_links.py FOLDER [--sessions N] [--processes 1|2|4 --valkey]
        [--dialect chat|messages|responses|mixed] [--at-once N] [--seed S] [--examples N] [--json OUT]

Recorded sessions are replayed over HTTP, many at once and all under one key, with no session id. A simulated provider
gives the recorded answers; the next history contains what was received, tool call ids included. A share of the
sessions is perturbed as agents do: compacted, old output elided, a clock in the system prompt, calls sent twice, one
job started several times at once, forks. Half of the calls stream.

Scores are over pairs of calls. Precision: share of the pairs with one `x-penstock-session` that belong to one true
session. Recall: share of the true pairs that were linked. The precision of a kind counts every pair with a call of
that kind. Excluded from "all", as neither right nor wrong: pairs across the two branches of a fork (calls before it
count with the branch that kept the session), and pairs within jobs of indistinguishable copies; these have a row in
which copies may be swapped at each step. Jobs with the same opening and the same first answer are indistinguishable at
their second call as well; they have a row, and so have all others. Skipped: files whose name begins with "synthetic",
and records of several agents that talk to each other. Exit status 1 if calls failed without an ordered fault.

`session_links_agents.py` replays the sessions, `session_links_dialects.py` builds requests and reads answers,
`session_links_score.py` compares.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from processes import GatewayProcess, Processes, ValkeyServer, wait_for
from session_links_agents import KEPT_TOOL_RESULTS, KEY, AgentRun, ReplayClient, tool_output_positions
from session_links_dialects import PATHS
from session_links_score import examples, score, table

from gateway.simulator.agent_sessions import AgentSession, load_sessions

# Share of the jobs with each perturbation; the rest are plain.
PERTURBATION_SHARES = {
    "diverging": 0.05,
    "identical": 0.05,
    "elided": 0.1,
    "compacted": 0.1,
    "forked": 0.03,
    "rewritten": 0.1,
}
# Calls that a session needs for the perturbation to have an effect.
MIN_CALLS = {"compacted": 6, "forked": 4, "identical": 2, "rewritten": 3}
COPIES_RANGE = (2, 5)


def main() -> int:
    """Plan the jobs, replay them, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of recorded sessions")
    parser.add_argument(
        "--sessions", type=int, default=500, help="jobs, without parallel copies and branches (default: 500)"
    )
    parser.add_argument(
        "--processes", type=int, choices=(1, 2, 4), default=1, help="gateways, used round-robin (default: 1)"
    )
    parser.add_argument("--valkey", action="store_true", help="the gateways share a Valkey")
    parser.add_argument("--dialect", choices=(*PATHS, "mixed"), default="chat")
    parser.add_argument("--at-once", type=int, default=40, help="concurrent jobs (default: 40)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--examples", type=int, default=0, help="print this number of wrong links and splits of each kind"
    )
    parser.add_argument("--json", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs = ReplayPlanner(args.folder, random.Random(args.seed), args.dialect).jobs(args.sessions)
    with tempfile.TemporaryDirectory(prefix="links-") as folder, Processes() as processes:
        bases = start_gateways(processes, Path(folder), args.processes, shared=args.valkey)
        client, started = ReplayClient(bases, args.at_once), time.monotonic()
        asyncio.run(client.replay(jobs))
        seconds = time.monotonic() - started
    rows = score(client.calls, client.opening_digests)
    gateways = f"{args.processes} gateway(s){', one Valkey' if args.valkey else ''}"
    print(f"{args.dialect}, {gateways}, seed {args.seed}: {len(client.calls)} calls in {seconds:.0f} s", end="")
    print(f", without session {client.calls_without_session}, failed {dict(client.failures) or 0}\n{table(rows)}")
    if args.examples:
        print("\n".join(examples(client.calls, args.examples)))
    if args.json:
        args.json.write_text(json.dumps({"dialect": args.dialect, "seed": args.seed, "rows": rows}, indent=1))
    return 1 if client.failures or client.calls_without_session else 0


def start_gateways(processes: Processes, folder: Path, count: int, *, shared: bool) -> list[str]:
    """Starts a provider and `count` gateways; returns the gateways' base URLs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    log = folder / "provider.log"
    processes.start([sys.executable, "-m", "gateway.simulator.provider", "--model", "sim:0.01:0"], log, env)
    wait_for("provider listens", lambda: "http://" in log.read_text())
    config = folder / "routing.yaml"
    config.write_text(json.dumps(_routing(log.read_text().split()[1])))
    env |= {"LINKS_KEY": KEY, "LINKS_PROVIDER": "provider-secret"}
    if shared:
        env["PENSTOCK_REDIS_URL"] = f"redis://127.0.0.1:{ValkeyServer(processes, folder / 'store').port}/0"
    gateways = [GatewayProcess(processes, folder / f"gateway-{number}", config, env) for number in range(count)]
    for gateway in gateways:
        wait_for("gateway listens", gateway.is_ready)
    return [gateway.base_url for gateway in gateways]


def _routing(url: str) -> dict[str, Any]:
    """A routing document without limits, stops and retries."""
    provider = {"base_url": url, "api_key": {"env": "LINKS_PROVIDER"}}
    names = ("openai", "anthropic")
    return {
        "version": 1,
        "keys": [{"id": "links", "team": "links", "secret": {"env": "LINKS_KEY"}}],
        "providers": {name: {**provider, "dialect": name} for name in names},
        "deployments": {name: {"provider": name, "model": "sim", "tier": "small"} for name in names},
        "routes": {name: {"candidates": [name]} for name in names},
        "sessions": {"caps": {}},
        "loop_guard": {"mode": "shadow"},
        "retries": {"same_deployment": 0},
    }


class ReplayPlanner:
    """Chooses recorded sessions and their perturbations; a job is the runs that start together."""

    def __init__(self, folder: Path, randomness: random.Random, dialect: str) -> None:
        self._random, self._dialect = randomness, dialect
        paths = [path for path in sorted(folder.glob("*.jsonl*")) if not path.name.startswith("synthetic")]
        if not paths:
            sys.exit(f"error: no recorded sessions in {folder}")
        by_content = {session.content_key: session for path in paths for session in _load_recorded(path)}
        self._unused_sessions = [session for session in by_content.values() if not session.has_consecutive_answers]
        randomness.shuffle(self._unused_sessions)

    def jobs(self, count: int) -> list[list[AgentRun]]:
        """`count` jobs, shuffled. Every recorded session is used at most once, except for copies."""
        count = min(count, len(self._unused_sessions))
        planned = self._diverging_jobs(round(count * PERTURBATION_SHARES["diverging"]))
        for kind, share in PERTURBATION_SHARES.items():
            if kind != "diverging":
                planned += [self._job(kind, [session]) for session in self._take(kind, round(count * share))]
        planned += [self._job("plain", [session]) for session in self._take("plain", count - len(planned))]
        self._random.shuffle(planned)
        return _mark_shared_openings(planned)

    def _diverging_jobs(self, count: int) -> list[list[AgentRun]]:
        """Jobs whose runs are one task done by several models at once."""
        by_opening: defaultdict[str, list[_RecordedSession]] = defaultdict(list)
        for session in self._unused_sessions:
            by_opening[session.opening_key].append(session)
        groups = [group for group in by_opening.values() if len(group) >= COPIES_RANGE[0]]
        selected = [
            group[: self._random.randint(*COPIES_RANGE)]
            for group in self._random.sample(groups, min(count, len(groups)))
        ]
        used = {id(session) for group in selected for session in group}
        self._unused_sessions = [session for session in self._unused_sessions if id(session) not in used]
        return [self._job("diverging", group) for group in selected]

    def _take(self, kind: str, count: int) -> "list[_RecordedSession]":
        fitting = [session for session in self._unused_sessions if session.fits(kind)][:count]
        used = {id(session) for session in fitting}
        self._unused_sessions = [session for session in self._unused_sessions if id(session) not in used]
        return fitting

    def _job(self, kind: str, recorded: "list[_RecordedSession]") -> list[AgentRun]:
        if kind == "identical":
            recorded = recorded * self._random.randint(*COPIES_RANGE)
        seed, job = self._random.random(), f"{recorded[0].source}/{recorded[0].session.id}"
        dialect = self._random.choice(list(PATHS)) if self._dialect == "mixed" else self._dialect
        return [
            AgentRun(
                name=f"{job}#{number}" if len(recorded) > 1 else job,
                group=f"{job}#{number}" if kind == "diverging" else job,
                kind=kind,
                source=session.source,
                dialect=dialect,
                session=session.session,
                seed=f"{seed}-{number}",
            )
            for number, session in enumerate(recorded)
        ]


@dataclass(frozen=True, slots=True)
class _RecordedSession:
    """A recorded session and the name of its file."""

    session: AgentSession
    source: str

    @property
    def content_key(self) -> str:
        """Equal for sessions with the same messages."""
        return json.dumps(self.session.messages)

    @property
    def opening_key(self) -> str:
        """The messages before the first answer, as JSON."""
        return json.dumps(
            list(itertools.takewhile(lambda message: message["role"] != "assistant", self.session.messages))
        )

    @property
    def has_consecutive_answers(self) -> bool:
        """Whether answers follow answers, as in records of several agents, which no client sends."""
        roles = [message["role"] for message in self.session.messages]
        return ("assistant", "assistant") in itertools.pairwise(roles)

    def fits(self, kind: str) -> bool:
        """Whether the perturbation would have an effect."""
        if kind == "elided":
            return len(tool_output_positions(self.session.messages)) >= KEPT_TOOL_RESULTS + 2
        return self.session.call_count >= MIN_CALLS.get(kind, 1)


def _load_recorded(path: Path) -> Iterator[_RecordedSession]:
    source = path.name.split(".")[0]
    return (_RecordedSession(session, source) for session in load_sessions([path]) if session.call_count)


def _mark_shared_openings(jobs: list[list[AgentRun]]) -> list[list[AgentRun]]:
    """Gives plain runs whose opening another job shares a kind of their own."""
    openings = Counter(
        opening for job in jobs for opening in {_RecordedSession(run.session, "").opening_key for run in job}
    )
    return [
        [
            replace(run, kind="again")
            if run.kind == "plain" and openings[_RecordedSession(run.session, "").opening_key] > 1
            else run
            for run in job
        ]
        for job in jobs
    ]


if __name__ == "__main__":
    sys.exit(main())
