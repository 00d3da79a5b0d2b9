"""Tests a cap of a root session with thirty concurrent sub-agents: is it ever exceeded?

    python loadtest/sub_agent_caps.py [--children N] [--calls N] [--seeds N] [--only WORD]

Each child is a session of its own, names its parent and root by headers, and makes several calls in mixed dialects,
half of them streamed, over one gateway or over four that share a Valkey. The cap is the operator's (`sessions.caps`)
or the run's own (POST /v1/sessions), in calls, in USD, or in sub-agents. The sums of the ledgers and of the store are
checked during the run and at the end. Exit status 1 if a cap was exceeded or no call was served.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import redis
from overspend import store_accounts
from processes import GatewayProcess, Processes, ValkeyServer, start_providers, wait_for
from store_audit import read_ledgers

from gateway.values.ledger_entry import LedgerEntry

ROOT_SESSION, SECRET, ADMIN = "root", "fan-secret", "fan-admin"
HEADERS = {"authorization": f"Bearer {SECRET}"}
SAMPLE_SECONDS, SETTLE_SECONDS, CALL_SECONDS = 0.05, 10.0, 60.0
GATEWAY_REPLICAS = 4
# A store that has just started may not answer at once.
WARMUP_ATTEMPTS = 50
# Cap: its amount, and the same in the integer unit of its account.
CAP_AMOUNTS = {"calls": (40, 40), "usd": (0.004, 4_000_000), "sub_agents": (12, 12)}
_PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
# Error codes of a refusal by a cap.
_REFUSED = ("budget_exceeded", "cap_exceeded", "budget_held")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One cap of one owner (operator or run) on a number of gateways."""

    cap: str
    owner: str
    gateway_count: int

    @property
    def limit(self) -> int:
        """The cap in the unit of its account."""
        return CAP_AMOUNTS[self.cap][1]

    @property
    def account(self) -> str:
        """Part of the account's key in the store after the tenant."""
        kind = "session" if self.owner == "operator" else "run"
        return f"account:{kind}-{self.cap.replace('_', '-')}|"

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.cap}, the {self.owner}'s"


@dataclass
class ChildOutcomes:
    """Outcomes as the children saw them.

    outcomes: calls by outcome
    served: served calls by child
    refused: children with a refused call
    unexpected: other answers
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    unexpected: list[str] = field(default_factory=list)


@dataclass
class RunResult:
    """Result of one run; amounts are in the unit of the capped account.

    ledger_amount, store_amount: used amount by the ledgers and by the store
    peak_amount: highest amount of all samples
    """

    tally: ChildOutcomes
    ledger_amount: int = 0
    peak_amount: int = 0
    store_amount: int | None = None
    sample_count: int = 0
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def amount_used(cap: str, entries: list[LedgerEntry]) -> int:
    """The tree's usage of a cap, from ledger entries."""
    own_entries = [entry for entry in entries if entry.root == ROOT_SESSION and entry.usage_basis != "none"]
    if cap == "sub_agents":
        return len({entry.session for entry in own_entries} - {ROOT_SESSION})
    return sum(entry.charge_nusd for entry in own_entries) if cap == "usd" else len(own_entries)


class CapSampler:
    """Samples the ledgers and the store while the children run."""

    def __init__(self, scenario: Scenario, folders: list[Path], store: ValkeyServer | None) -> None:
        self._scenario, self._folders, self._store = scenario, folders, store
        self._ended = threading.Event()
        self.peak = self.samples = 0
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self._thread.join(timeout=20)

    def _sample_until_stopped(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, amount_used(self._scenario.cap, read_ledgers(self._folders)))
            if self._store is not None:
                self.peak = max(self.peak, *store_amounts(self._scenario, self._store))
            self.samples += 1


def store_amounts(scenario: Scenario, store: ValkeyServer) -> tuple[int, int]:
    """(spent, spent plus held) of the capped account in the store."""
    accounts = [
        fields
        for key, fields in store_accounts(store).items()
        if scenario.account in key and f"session={ROOT_SESSION}|" in key
    ]
    spent = sum(fields.get(b"spent", 0) for fields in accounts)
    return spent, spent + sum(fields.get(b"held", 0) for fields in accounts)


def routing(models: dict[str, str], scenario: Scenario) -> str:
    """The routing file as JSON, which is valid YAML."""
    amount = CAP_AMOUNTS[scenario.cap][0]
    document = {
        "version": 1,
        "keys": [{"id": "fan", "team": "fan", "secret": {"env": "FAN_KEY"}}],
        "providers": {
            "openai": {"base_url": models["sim-small"], "api_key": {"env": "FAN_KEY"}},
            "claude": {"dialect": "anthropic", "base_url": models["sim-claude"], "api_key": {"env": "FAN_KEY"}},
        },
        "deployments": {
            "small": _deployment("openai", "sim-small", "small", 0.25, 2),
            "claude": _deployment("claude", "sim-claude", "frontier", 3, 15),
        },
        "routes": {"small": {"candidates": ["small"]}, "claude": {"candidates": ["claude", "small"]}},
        "sessions": {"hold": "worst_case"} | ({"caps": {scenario.cap: amount}} if scenario.owner == "operator" else {}),
    }
    return json.dumps(document, indent=1)


def _deployment(provider: str, model: str, tier: str, input: float, output: float) -> dict[str, Any]:
    return {
        "provider": provider, "model": model, "tier": tier, "price": {"input": input, "output": output},
        "output_tokens": 4000,
    }  # fmt: skip


class SubAgents:
    """All sub-agents of one root."""

    def __init__(self, bases: list[str], children: int, calls: int, randomness: random.Random) -> None:
        self._bases, self._count, self._calls, self._random = bases, children, calls, randomness
        self.outcomes = ChildOutcomes()

    async def run(self, scenario: Scenario) -> ChildOutcomes:
        """Warm up each gateway with another session, open the root, then start all children at once."""
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
            for number, base in enumerate(self._bases):
                await self._warm(http, base, f"other-{number}")
            if scenario.owner == "run":
                session = {"id": ROOT_SESSION, "caps": {scenario.cap: CAP_AMOUNTS[scenario.cap][0]}}
                async with http.post(f"{self._bases[0]}/v1/sessions", json=session, headers=HEADERS) as answer:
                    if answer.status != 200:
                        raise RuntimeError(f"cannot open the root session: {(await answer.text())[:300]}")
            await asyncio.gather(*(self._child(http, number) for number in range(self._count)))
        return self.outcomes

    async def _warm(self, http: aiohttp.ClientSession, base: str, name: str) -> None:
        body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        for _ in range(WARMUP_ATTEMPTS):
            async with http.post(
                f"{base}{_PATHS['chat']}", json=body, headers=HEADERS | {"x-penstock-session": name}
            ) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.1)
        raise TimeoutError("gateway serves no request")

    async def _child(self, http: aiohttp.ClientSession, number: int) -> None:
        name, dialect = f"child-{number}", list(_PATHS)[number % len(_PATHS)]
        history: list[dict[str, Any]] = []
        for turn in range(self._calls):
            history.append({"role": "user", "content": f"Part {number}.{turn}. [[sim {self._order()}]]"})
            outcome = await self._call(http, name, dialect, history)
            self.outcomes.outcomes[outcome] += 1
            if outcome == "served":
                self.outcomes.served[name] += 1
            elif outcome == "refused":
                self.outcomes.refused.add(name)
            history.append({"role": "assistant", "content": f"Done {number}.{turn}."})

    def _order(self) -> str:
        return json.dumps({"output_tokens": self._random.choice((3, 8, 20, 40))})

    async def _call(self, http: aiohttp.ClientSession, name: str, dialect: str, history: list[dict[str, Any]]) -> str:
        body: dict[str, Any] = {
            "model": self._random.choice(("small", "claude")),
            "stream": self._random.random() < 0.5,
        }
        body |= {"input" if dialect == "responses" else "messages": history}
        body |= {"max_output_tokens" if dialect == "responses" else "max_tokens": 60}
        headers = HEADERS | {
            "x-penstock-session": name,
            "x-penstock-parent-session": ROOT_SESSION,
            "x-penstock-root-session": ROOT_SESSION,
            "anthropic-version": "2023-06-01",
        }
        url = self._random.choice(self._bases) + _PATHS[dialect]
        async with http.post(url, json=body, headers=headers) as answer:
            text = await answer.text()
        if answer.status == 200:
            return "served"
        if any(code in text for code in _REFUSED):
            return "refused"
        self.outcomes.unexpected.append(f"{answer.status} {dialect}: {text[:200]}")
        return "failed"


def run_scenario(scenario: Scenario, seed: int, children: int, calls: int, folder: Path) -> RunResult:
    """Run one scenario in a folder of its own and check its result."""
    with Processes() as processes:
        config = folder / "routing.yaml"
        config.write_text(routing(start_providers(processes, folder), scenario))
        env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        env |= {"FAN_KEY": SECRET, "PENSTOCK_ADMIN_TOKEN": ADMIN}
        store = ValkeyServer(processes, folder / "store") if scenario.gateway_count > 1 else None
        if store is not None:
            env["PENSTOCK_REDIS_URL"] = f"redis://127.0.0.1:{store.port}/0"
        gateways = [
            GatewayProcess(processes, folder / f"gateway-{number}", config, env)
            for number in range(scenario.gateway_count)
        ]
        for gateway in gateways:
            wait_for("gateway listens", gateway.is_ready)
        folders = [gateway.folder for gateway in gateways]
        sampler = CapSampler(scenario, folders, store)
        sub_agents = SubAgents([gateway.base_url for gateway in gateways], children, calls, random.Random(seed))
        result = RunResult(tally=asyncio.run(sub_agents.run(scenario)))
        if store is not None:
            result.store_amount = _settled_amount(scenario, store)
        sampler.stop()
        for gateway in gateways:
            gateway.stop()
        result.ledger_amount, result.sample_count = amount_used(scenario.cap, read_ledgers(folders)), sampler.samples
        result.peak_amount = max(sampler.peak, result.ledger_amount)
        logs = "".join(gateway.log.read_text(errors="replace") for gateway in gateways)
    result.violations += list(_violations(scenario, result, logs))
    result.notes += list(_notes(scenario, result, children))
    if "budget_store_unavailable" in logs:
        result.notes.append("the store did not answer for a while")
    return result


def _settled_amount(scenario: Scenario, store: ValkeyServer) -> int:
    """The account's spent amount in the store, once nothing is held there."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        spent, spent_and_held = store_amounts(scenario, store)
        if spent == spent_and_held or time.monotonic() > deadline:
            return spent_and_held
        time.sleep(SAMPLE_SECONDS)


def _violations(scenario: Scenario, result: RunResult, logs: str) -> Iterator[str]:
    if result.peak_amount > scenario.limit:
        yield f"{scenario.name}: {result.peak_amount} of {scenario.limit}"
    if not result.tally.outcomes["served"]:
        yield "no call was served"
    if scenario.cap == "calls" and result.tally.outcomes["served"] != result.ledger_amount:
        yield f"{result.tally.outcomes['served']} calls were served, the ledgers have {result.ledger_amount}"
    if scenario.cap != "sub_agents" and result.store_amount is not None and result.store_amount != result.ledger_amount:
        yield f"the store has {result.store_amount}, the ledgers have {result.ledger_amount}"
    if "Traceback" in logs:
        yield f"traceback in a log: {logs[logs.index('Traceback') :][:800]}"
    yield from result.tally.unexpected[:3]


def _notes(scenario: Scenario, result: RunResult, children: int) -> Iterator[str]:
    """Refusals that were stricter than necessary."""
    if result.ledger_amount < min(scenario.limit, children) and scenario.cap in ("calls", "sub_agents"):
        yield f"{scenario.limit - result.ledger_amount} less than the cap allows"
    partly_served = [child for child in result.tally.refused if result.tally.served[child]]
    if scenario.cap == "sub_agents" and partly_served:
        yield f"{len(partly_served)} sub-agents served and refused"


def table(results: dict[Scenario, list[RunResult]]) -> str:
    """The results as Markdown, one row per scenario."""
    heads = (
        "cap", "gateways", "seeds", "calls", "served", "refused", "failed", "sub-agents served", "limit",
        "ledgers (max)", "store (max)", "peak", "samples", "exceeded", "violations", "remarks",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for scenario, runs in results.items():
        outcomes = sum((result.tally.outcomes for result in runs), start=Counter[str]())
        stores = [result.store_amount for result in runs if result.store_amount is not None]
        cells = (
            scenario.name, scenario.gateway_count, len(runs), outcomes.total(), outcomes["served"], outcomes["refused"],
            outcomes["failed"], "/".join(str(len(result.tally.served)) for result in runs), scenario.limit,
            max(result.ledger_amount for result in runs), max(stores) if stores else "–",
            max(result.peak_amount for result in runs), sum(result.sample_count for result in runs),
            sum(result.peak_amount > scenario.limit for result in runs),
            sum(len(result.violations) for result in runs),
            "; ".join(note for result in runs for note in result.notes) or "–",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the scenarios and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--children", type=int, default=30, help="sub-agents (default: 30)")
    parser.add_argument("--calls", type=int, default=5, help="calls of each child (default: 5)")
    parser.add_argument("--seeds", type=int, default=1, help="runs per scenario (default: 1)")
    parser.add_argument(
        "--only", default="", help="run only scenarios whose name contains this word, such as calls or operator"
    )
    args = parser.parse_args()
    scenarios = [
        Scenario(cap=cap, owner=owner, gateway_count=gateways)
        for gateways in (1, GATEWAY_REPLICAS)
        for owner in ("operator", "run")
        for cap in CAP_AMOUNTS
    ]
    results: dict[Scenario, list[RunResult]] = {}
    for scenario in scenarios:
        if args.only not in scenario.name:
            continue
        for seed in range(1, args.seeds + 1):
            with tempfile.TemporaryDirectory(prefix="fanout-") as folder:
                try:
                    result = run_scenario(scenario, seed, args.children, args.calls, Path(folder))
                except (TimeoutError, RuntimeError, OSError, aiohttp.ClientError, redis.RedisError) as error:
                    result = RunResult(ChildOutcomes(), violations=[f"the run did not finish: {error!r}"])
            results.setdefault(scenario, []).append(result)
            _log(f"{scenario.name}, {scenario.gateway_count} gateways, seed {seed}: {dict(result.tally.outcomes)}")
            for line in result.violations:
                _log(f"    {line}")
    print(table(results), flush=True)
    return 1 if any(result.violations for runs in results.values() for result in runs) else 0


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
