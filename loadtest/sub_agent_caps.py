"""Thirty sub-agents at once against one cap of the run that started them: is it ever exceeded?

    python loadtest/sub_agent_caps.py [--children N] [--calls N] [--seeds N] [--only WORD]

Each child is a session of its own, tells its parent and root by headers, and makes several calls, in mixed dialects, half
of them streamed, over one gateway or over four that share a Valkey. The cap is the operator's (`sessions.caps`) or the
run's own (POST /v1/sessions), in calls, in USD, or in sub-agents. What the ledgers sum to, and what the store holds,
is looked at while it runs and at the end. Exit status 1 if a cap was exceeded or nothing was let in.
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
from overspend import standing
from processes import Gateway, Processes, Store, providers, wait_for
from store_audit import ledgers

from gateway.values.ledger_entry import LedgerEntry

ROOT, SECRET, ADMIN = "root", "fan-secret", "fan-admin"
HEADERS = {"authorization": f"Bearer {SECRET}"}
SAMPLE_SECONDS, SETTLE_SECONDS, CALL_SECONDS = 0.05, 10.0, 60.0
REPLICAS = 4
# A store that has just begun may not answer at once.
WARM_TRIES = 50
# Each cap: its amount, and what it is in the integer unit of its account.
CAPS = {"calls": (40, 40), "usd": (0.004, 4_000_000), "sub_agents": (12, 12)}
_PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
# Codes of a refusal by a cap.
_REFUSED = ("budget_exceeded", "cap_exceeded", "session_budget_exceeded", "sub_agents_exceeded")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Which cap, whose, and on how many gateways."""

    cap: str
    whose: str
    gateways: int

    @property
    def limit(self) -> int:
        """In the unit of its account."""
        return CAPS[self.cap][1]

    @property
    def account(self) -> str:
        """How the keys of its account in the store go on behind the tenant."""
        kind = "session" if self.whose == "operator" else "run"
        return f"account:{kind}-{self.cap.replace('_', '-')}|"

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.cap}, the {self.whose}'s"


@dataclass
class Tally:
    """What the children saw. `served` counts calls by child; `refused` are children that were; `odd` is what else came."""

    outcomes: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    odd: list[str] = field(default_factory=list)


@dataclass
class Seen:
    """What a run came to; `peak` is the most that was ever seen on the capped account."""

    tally: Tally
    booked: int = 0
    peak: int = 0
    stored: int | None = None
    samples: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def used(cap: str, entries: list[LedgerEntry]) -> int:
    """What the ledgers say that the tree took of a cap."""
    own = [entry for entry in entries if entry.root == ROOT and entry.usage_basis != "none"]
    if cap == "sub_agents":
        return len({entry.session for entry in own} - {ROOT})
    return sum(entry.charge_nusd for entry in own) if cap == "usd" else len(own)


class Sampler:
    """Looks at the ledgers and the store while the children run."""

    def __init__(self, scenario: Scenario, folders: list[Path], store: Store | None) -> None:
        self._scenario, self._folders, self._store = scenario, folders, store
        self._ended = threading.Event()
        self.peak = self.samples = 0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more."""
        self._ended.set()
        self._thread.join(timeout=20)

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, used(self._scenario.cap, ledgers(self._folders)))
            if self._store is not None:
                self.peak = max(self.peak, *stored(self._scenario, self._store))
            self.samples += 1


def stored(scenario: Scenario, store: Store) -> tuple[int, int]:
    """(spent, spent and held) of the capped account in the store."""
    accounts = [
        fields for key, fields in standing(store).items() if scenario.account in key and f"session={ROOT}|" in key
    ]
    spent = sum(fields.get(b"spent", 0) for fields in accounts)
    return spent, spent + sum(fields.get(b"held", 0) for fields in accounts)


def routing(models: dict[str, str], scenario: Scenario) -> str:
    """The file as JSON, which is YAML."""
    amount = CAPS[scenario.cap][0]
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
        "sessions": {"caps": {scenario.cap: amount}} if scenario.whose == "operator" else {},
    }
    return json.dumps(document, indent=1)


def _deployment(provider: str, model: str, tier: str, input: float, output: float) -> dict[str, Any]:
    return {
        "provider": provider, "model": model, "tier": tier, "price": {"input": input, "output": output},
        "output_tokens": 4000,
    }  # fmt: skip


class Children:
    """All sub-agents of one root."""

    def __init__(self, bases: list[str], children: int, calls: int, chance: random.Random) -> None:
        self._bases, self._count, self._calls, self._chance = bases, children, calls, chance
        self.tally = Tally()

    async def run(self, scenario: Scenario) -> Tally:
        """A call of somebody else's at each gateway, so that none is cold; open the root, then every child at once."""
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
            for number, base in enumerate(self._bases):
                await self._warm(http, base, f"other-{number}")
            if scenario.whose == "run":
                asked = {"id": ROOT, "caps": {scenario.cap: CAPS[scenario.cap][0]}}
                async with http.post(f"{self._bases[0]}/v1/sessions", json=asked, headers=HEADERS) as answer:
                    if answer.status != 200:
                        raise RuntimeError(f"the root was not opened: {(await answer.text())[:300]}")
            await asyncio.gather(*(self._child(http, number) for number in range(self._count)))
        return self.tally

    async def _warm(self, http: aiohttp.ClientSession, base: str, name: str) -> None:
        body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        for _ in range(WARM_TRIES):
            async with http.post(
                f"{base}{_PATHS['chat']}", json=body, headers=HEADERS | {"x-penstock-session": name}
            ) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.1)
        raise TimeoutError("a gateway serves nothing")

    async def _child(self, http: aiohttp.ClientSession, number: int) -> None:
        name, dialect = f"child-{number}", list(_PATHS)[number % len(_PATHS)]
        history: list[dict[str, Any]] = []
        for turn in range(self._calls):
            history.append({"role": "user", "content": f"Part {number}.{turn}. [[sim {self._order()}]]"})
            outcome = await self._call(http, name, dialect, history)
            self.tally.outcomes[outcome] += 1
            if outcome == "served":
                self.tally.served[name] += 1
            elif outcome == "refused":
                self.tally.refused.add(name)
            history.append({"role": "assistant", "content": f"Done {number}.{turn}."})

    def _order(self) -> str:
        return json.dumps({"output_tokens": self._chance.choice((3, 8, 20, 40))})

    async def _call(self, http: aiohttp.ClientSession, name: str, dialect: str, history: list[dict[str, Any]]) -> str:
        body: dict[str, Any] = {
            "model": self._chance.choice(("small", "claude")),
            "stream": self._chance.random() < 0.5,
        }
        body |= {"input" if dialect == "responses" else "messages": history}
        body |= {"max_output_tokens" if dialect == "responses" else "max_tokens": 60}
        headers = HEADERS | {
            "x-penstock-session": name, "x-penstock-parent-session": ROOT, "x-penstock-root-session": ROOT,
            "anthropic-version": "2023-06-01",
        }  # fmt: skip
        url = self._chance.choice(self._bases) + _PATHS[dialect]
        async with http.post(url, json=body, headers=headers) as answer:
            text = await answer.text()
        if answer.status == 200:
            return "served"
        if any(code in text for code in _REFUSED):
            return "refused"
        self.tally.odd.append(f"{answer.status} {dialect}: {text[:200]}")
        return "failed"


def one(scenario: Scenario, seed: int, children: int, calls: int, folder: Path) -> Seen:
    """One run in its own folder."""
    with Processes() as processes:
        config = folder / "routing.yaml"
        config.write_text(routing(providers(processes, folder), scenario))
        env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        env |= {"FAN_KEY": SECRET, "PENSTOCK_ADMIN_TOKEN": ADMIN}
        store = Store(processes, folder / "store") if scenario.gateways > 1 else None
        if store is not None:
            env["PENSTOCK_REDIS_URL"] = f"redis://127.0.0.1:{store.port}/0"
        gateways = [
            Gateway(processes, folder / f"gateway-{number}", config, env) for number in range(scenario.gateways)
        ]
        for gateway in gateways:
            wait_for("a gateway listens", gateway.ready)
        folders = [gateway.folder for gateway in gateways]
        sampler = Sampler(scenario, folders, store)
        flock = Children([gateway.base for gateway in gateways], children, calls, random.Random(seed))
        seen = Seen(tally=asyncio.run(flock.run(scenario)))
        if store is not None:
            seen.stored = _settled(scenario, store)
        sampler.stop()
        for gateway in gateways:
            gateway.stop()
        seen.booked, seen.samples = used(scenario.cap, ledgers(folders)), sampler.samples
        seen.peak = max(sampler.peak, seen.booked)
        logs = "".join(gateway.log.read_text(errors="replace") for gateway in gateways)
    seen.wrong += list(_wrong(scenario, seen, logs))
    seen.notes += list(_notes(scenario, seen, children))
    if "does not answer" in logs:
        seen.notes.append("the store did not answer for a while")
    return seen


def _settled(scenario: Scenario, store: Store) -> int:
    """What the store has spent on the account once nothing is held there any more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        spent, whole = stored(scenario, store)
        if spent == whole or time.monotonic() > deadline:
            return whole
        time.sleep(SAMPLE_SECONDS)


def _wrong(scenario: Scenario, seen: Seen, logs: str) -> Iterator[str]:
    if seen.peak > scenario.limit:
        yield f"{scenario.name}: {seen.peak} of {scenario.limit}"
    if not seen.tally.outcomes["served"]:
        yield "nothing was served"
    if scenario.cap == "calls" and seen.tally.outcomes["served"] != seen.booked:
        yield f"{seen.tally.outcomes['served']} calls were served, the ledgers have {seen.booked}"
    if scenario.cap != "sub_agents" and seen.stored is not None and seen.stored != seen.booked:
        yield f"the store has {seen.stored}, the ledgers have {seen.booked}"
    if "Traceback" in logs:
        yield f"a traceback in a log: {logs[logs.index('Traceback') :][:800]}"
    yield from seen.tally.odd[:3]


def _notes(scenario: Scenario, seen: Seen, children: int) -> Iterator[str]:
    """What is stricter than it need be."""
    if seen.booked < min(scenario.limit, children) and scenario.cap in ("calls", "sub_agents"):
        yield f"{scenario.limit - seen.booked} less than the cap allows"
    torn = [child for child in seen.tally.refused if seen.tally.served[child]]
    if scenario.cap == "sub_agents" and torn:
        yield f"{len(torn)} sub-agents served and refused"


def table(results: dict[Scenario, list[Seen]]) -> str:
    """The results as Markdown, one row for each scenario."""
    heads = (
        "cap", "gateways", "seeds", "calls", "served", "refused", "failed", "sub-agents served", "limit",
        "ledgers (most)", "store (most)", "most seen", "samples", "exceeded", "wrong in all", "remarks",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for scenario, runs in results.items():
        outcomes = sum((seen.tally.outcomes for seen in runs), start=Counter[str]())
        stores = [seen.stored for seen in runs if seen.stored is not None]
        cells = (
            scenario.name, scenario.gateways, len(runs), outcomes.total(), outcomes["served"], outcomes["refused"],
            outcomes["failed"], "/".join(str(len(seen.tally.served)) for seen in runs), scenario.limit,
            max(seen.booked for seen in runs), max(stores) if stores else "–", max(seen.peak for seen in runs),
            sum(seen.samples for seen in runs), sum(seen.peak > scenario.limit for seen in runs),
            sum(len(seen.wrong) for seen in runs), "; ".join(note for seen in runs for note in seen.notes) or "–",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run every scenario, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--children", type=int, default=30)
    parser.add_argument("--calls", type=int, default=5, help="calls of each child")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="scenarios whose name has this word, like calls or operator")
    chosen = parser.parse_args()
    scenarios = [
        Scenario(cap=cap, whose=whose, gateways=gateways)
        for gateways in (1, REPLICAS)
        for whose in ("operator", "run")
        for cap in CAPS
    ]
    results: dict[Scenario, list[Seen]] = {}
    for scenario in scenarios:
        if chosen.only not in scenario.name:
            continue
        for seed in range(1, chosen.seeds + 1):
            with tempfile.TemporaryDirectory(prefix="fanout-") as folder:
                try:
                    seen = one(scenario, seed, chosen.children, chosen.calls, Path(folder))
                except (TimeoutError, RuntimeError, OSError, aiohttp.ClientError, redis.RedisError) as error:
                    seen = Seen(Tally(), wrong=[f"the run did not come to its end: {error!r}"])
            results.setdefault(scenario, []).append(seen)
            _say(f"{scenario.name}, {scenario.gateways} gateways, seed {seed}: {dict(seen.tally.outcomes)}")
            for line in seen.wrong:
                _say(f"    {line}")
    print(table(results), flush=True)
    return 1 if any(seen.wrong for runs in results.values() for seen in runs) else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
