"""Session-link accuracy with headers removed: which calls does the gateway think belong to one run, and which do?

    python loadtest/session_links.py FOLDER [--sessions N] [--processes 1|2|4 --valkey] [--dialect chat|messages|responses|mixed]
        [--at-once N] [--seed S] [--examples N] [--json OUT]

Recorded sessions are replayed through the real HTTP path, many at once and all under one key, with nothing that names a
session. A simulated provider gives the recorded answers; what was received is what the next history holds, tool call
ids included. A share of the sessions is perturbed as agents do it: compacted, old output elided, a clock in the system
prompt, calls sent twice, the same job started several times at one moment, forks. Half of the calls stream.

Scored over pairs of calls: precision is the share of the pairs with one `x-penstock-session` that are of one true
session, recall the share of the true pairs that were found. A kind's precision looks at every pair with a call of that
kind. Neither right nor wrong, and left out of "all": pairs across the two branches of a fork (the calls before it count
with the branch that kept the session), and pairs within jobs whose copies nobody can tell apart; those have a row where
copies may be exchanged from step to step. Jobs that open alike and receive the same first answer cannot be told apart by
their second call either; they have a row, and so has the rest. Left out are files whose name begins with "synthetic" and
records of several agents that talk to each other. Exit status 1 if calls failed that were not told to.

`links_agents.py` lives the sessions, `links_wording.py` words them, `links_score.py` compares.
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

# The share of the jobs that each perturbation takes (design/loops.md, section 7); the rest are plain.
PERTURBATION_SHARES = {
    "diverging": 0.05,
    "identical": 0.05,
    "elided": 0.1,
    "compacted": 0.1,
    "forked": 0.03,
    "rewritten": 0.1,
}
# How many calls a session needs for the perturbation to mean something; for elision: tool results.
MIN_CALLS = {"compacted": 6, "forked": 4, "identical": 2, "rewritten": 3}
COPIES_RANGE = (2, 5)


def main() -> int:
    """Plan, replay, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sessions", type=int, default=500, help="jobs; parallel copies and branches come on top")
    parser.add_argument("--processes", type=int, choices=(1, 2, 4), default=1, help="gateways, taken in turn")
    parser.add_argument("--valkey", action="store_true", help="the gateways share a Valkey")
    parser.add_argument("--dialect", choices=(*PATHS, "mixed"), default="chat")
    parser.add_argument("--at-once", type=int, default=40, help="jobs in flight")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=0, help="print so many wrong links and splits of each kind")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs = ReplayPlanner(chosen.folder, random.Random(chosen.seed), chosen.dialect).jobs(chosen.sessions)
    with tempfile.TemporaryDirectory(prefix="links-") as folder, Processes() as processes:
        bases = start_gateways(processes, Path(folder), chosen.processes, shared=chosen.valkey)
        client, began = ReplayClient(bases, chosen.at_once), time.monotonic()
        asyncio.run(client.replay(jobs))
        took = time.monotonic() - began
    rows = score(client.calls, client.opening_digests)
    gateways = f"{chosen.processes} gateway(s){', one Valkey' if chosen.valkey else ''}"
    print(f"{chosen.dialect}, {gateways}, seed {chosen.seed}: {len(client.calls)} calls in {took:.0f} s", end="")
    print(f", unnamed {client.calls_without_session}, failed {dict(client.failures) or 0}\n{table(rows)}")
    if chosen.examples:
        print("\n".join(examples(client.calls, chosen.examples)))
    if chosen.json:
        chosen.json.write_text(json.dumps({"dialect": chosen.dialect, "seed": chosen.seed, "rows": rows}, indent=1))
    return 1 if client.failures or client.calls_without_session else 0


def start_gateways(processes: Processes, folder: Path, count: int, *, shared: bool) -> list[str]:
    """A provider and so many gateways; the gateways' base URLs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    log = folder / "provider.log"
    processes.start([sys.executable, "-m", "gateway.simulator.provider", "--model", "sim:0.01:0"], log, env)
    wait_for("the provider listens", lambda: "http://" in log.read_text())
    config = folder / "routing.yaml"
    config.write_text(json.dumps(_routing(log.read_text().split()[1])))
    env |= {"LINKS_KEY": KEY, "LINKS_PROVIDER": "provider-secret"}
    if shared:
        env["PENSTOCK_REDIS_URL"] = f"redis://127.0.0.1:{ValkeyServer(processes, folder / 'store').port}/0"
    gateways = [GatewayProcess(processes, folder / f"gateway-{number}", config, env) for number in range(count)]
    for gateway in gateways:
        wait_for("a gateway listens", gateway.is_ready)
    return [gateway.base_url for gateway in gateways]


def _routing(url: str) -> dict[str, Any]:
    """Routing that stops, retries and limits nothing."""
    provider = {"base_url": url, "api_key": {"env": "LINKS_PROVIDER"}}
    names = ("openai", "anthropic")
    return {
        "version": 1,
        "keys": [{"id": "links", "team": "links", "secret": {"env": "LINKS_KEY"}}],
        "providers": {name: {**provider, "dialect": name} for name in names},
        "deployments": {name: {"provider": name, "model": "sim", "tier": "small"} for name in names},
        "routes": {name: {"candidates": [name]} for name in names},
        "sessions": {"caps": {}},
        "loops": {"mode": "shadow"},
        "retries": {"same_deployment": 0},
    }


class ReplayPlanner:
    """Chooses recorded sessions and what happens to each; a job is the runs that start at one moment."""

    def __init__(self, folder: Path, randomness: random.Random, dialect: str) -> None:
        self._chance, self._dialect = randomness, dialect
        paths = [path for path in sorted(folder.glob("*.jsonl*")) if not path.name.startswith("synthetic")]
        if not paths:
            sys.exit(f"links: no recorded sessions in {folder}")
        found = {session.content_key: session for path in paths for session in _load_recorded(path)}
        self._unused_sessions = [one for one in found.values() if not one.has_consecutive_answers]
        randomness.shuffle(self._unused_sessions)

    def jobs(self, count: int) -> list[list[AgentRun]]:
        """So many jobs, shuffled. Every recorded session is used at most once, but for copies."""
        count = min(count, len(self._unused_sessions))
        planned = self._diverging_jobs(round(count * PERTURBATION_SHARES["diverging"]))
        for kind, share in PERTURBATION_SHARES.items():
            if kind != "diverging":
                planned += [self._job(kind, [one]) for one in self._take(kind, round(count * share))]
        planned += [self._job("plain", [one]) for one in self._take("plain", count - len(planned))]
        self._chance.shuffle(planned)
        return _mark_shared_openings(planned)

    def _diverging_jobs(self, count: int) -> list[list[AgentRun]]:
        """The same job done by several models at once."""
        same: defaultdict[str, list[_RecordedSession]] = defaultdict(list)
        for one in self._unused_sessions:
            same[one.opening_key].append(one)
        groups = [group for group in same.values() if len(group) >= COPIES_RANGE[0]]
        chosen = [
            group[: self._chance.randint(*COPIES_RANGE)]
            for group in self._chance.sample(groups, min(count, len(groups)))
        ]
        used = {id(one) for group in chosen for one in group}
        self._unused_sessions = [one for one in self._unused_sessions if id(one) not in used]
        return [self._job("diverging", group) for group in chosen]

    def _take(self, kind: str, count: int) -> "list[_RecordedSession]":
        fitting = [one for one in self._unused_sessions if one.fits(kind)][:count]
        used = {id(one) for one in fitting}
        self._unused_sessions = [one for one in self._unused_sessions if id(one) not in used]
        return fitting

    def _job(self, kind: str, recorded: "list[_RecordedSession]") -> list[AgentRun]:
        if kind == "identical":
            recorded = recorded * self._chance.randint(*COPIES_RANGE)
        seed, job = self._chance.random(), f"{recorded[0].source}/{recorded[0].session.id}"
        dialect = self._chance.choice(list(PATHS)) if self._dialect == "mixed" else self._dialect
        return [
            AgentRun(
                name=f"{job}#{number}" if len(recorded) > 1 else job,
                group=f"{job}#{number}" if kind == "diverging" else job,
                kind=kind,
                source=one.source,
                dialect=dialect,
                session=one.session,
                seed=f"{seed}-{number}",
            )
            for number, one in enumerate(recorded)
        ]


@dataclass(frozen=True, slots=True)
class _RecordedSession:
    """A recorded session and the file that it is from."""

    session: AgentSession
    source: str

    @property
    def content_key(self) -> str:
        """Equal for sessions that are the same word for word."""
        return json.dumps(self.session.messages)

    @property
    def opening_key(self) -> str:
        """What is said before the first answer."""
        return json.dumps(
            list(itertools.takewhile(lambda message: message["role"] != "assistant", self.session.messages))
        )

    @property
    def has_consecutive_answers(self) -> bool:
        """Whether answers follow answers, as in records of several agents talking, which no client sent so."""
        roles = [message["role"] for message in self.session.messages]
        return ("assistant", "assistant") in itertools.pairwise(roles)

    def fits(self, kind: str) -> bool:
        """Whether the perturbation would change anything."""
        if kind == "elided":
            return len(tool_output_positions(self.session.messages)) >= KEPT_TOOL_RESULTS + 2
        return self.session.call_count >= MIN_CALLS.get(kind, 1)


def _load_recorded(path: Path) -> Iterator[_RecordedSession]:
    source = path.name.split(".")[0]
    return (_RecordedSession(session, source) for session in load_sessions([path]) if session.call_count)


def _mark_shared_openings(jobs: list[list[AgentRun]]) -> list[list[AgentRun]]:
    """Plain runs whose opening another job has too are a kind of their own."""
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
