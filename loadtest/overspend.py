"""Four gateways on one Valkey, 2,000 calls at once, budgets that most of them collide with: is anything ever overspent?

    python loadtest/overspend.py [--scenario NAME ...] [--seeds N] [--calls N] [--quick] [--keep FOLDER]

After a run every transaction of the store's append-only file is replayed: at no instant may an account have more spent
and held than its limit. At the end nothing is held, and what each account has spent is the sum of the four ledgers.
Everything on loopback; exit status 1 if anything does not hold. Progress goes to stderr, the table to stdout.
"""

import argparse
import asyncio
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path

import redis
from mixed_callers import CallerOutcomes, MixedCallers
from processes import GatewayProcess, Processes, ValkeyServer, join_cluster, start_providers, wait_for
from scenarios import SCENARIOS, ScenarioRun
from store_audit import AuditFindings, account_limits, check, ledger_overruns
from tight_budgets import key_environment, routing

from gateway.config.load import parse

GATEWAYS = 4
CLOCK_SKEWS_SECONDS = (0.0, 300.0, -300.0, 0.0)
SETTLE_SECONDS = 30.0
SAMPLE_SECONDS = 1.0
# Accounts asked for at once: the server must not be held up by who looks on.
SAMPLE_BATCH = 100
DEFAULT_SEEDS = {"plain": 20}
OTHER_SEEDS = 3


class AccountSampler:
    """Looks at every account in the running store now and then: a check on the replay, not on the gateways."""

    def __init__(self, stores: list[ValkeyServer], limit_of: Callable[[str], int | None]) -> None:
        self._stores, self._limit_of = stores, limit_of
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self.samples = 0
        self.overruns: list[str] = []
        self._thread.start()

    def stop(self) -> None:
        """No more."""
        self._ended.set()
        self._thread.join(timeout=20)

    def _sample_until_stopped(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for store in self._stores:
                try:
                    self._sample(store)
                except redis.RedisError:
                    # It is dead or paused just now; that is the scenario.
                    continue

    def _sample(self, store: ValkeyServer) -> None:
        for key, fields in store_accounts(store).items():
            limit = self._limit_of(key)
            self.samples += 1
            if limit is not None and fields.get(b"spent", 0) + fields.get(b"held", 0) > limit:
                self.overruns.append(f"sampled over its limit: {key}: {fields}")


def store_accounts(store: ValkeyServer) -> dict[str, dict[bytes, int]]:
    """Every account of a running store. Raises RedisError."""
    with store.client() as client:
        keys = list(client.scan_iter("penstock:*:account:*", count=1000))
        found: list[dict[bytes, bytes]] = []
        for first in range(0, len(keys), SAMPLE_BATCH):
            pipe = client.pipeline(transaction=False)
            for key in keys[first : first + SAMPLE_BATCH]:
                pipe.hgetall(key)
            found += pipe.execute()
        named = zip(keys, found, strict=True)
        return {key.decode(): {name: int(value) for name, value in fields.items()} for key, fields in named}


def run_scenario(
    scenario: str, seed: int, calls: int, folder: Path, *, loose: bool = False
) -> tuple[CallerOutcomes, AuditFindings]:
    """One run in its own folder."""
    randomness = random.Random(f"{scenario}-{seed}")
    event, ramp = SCENARIOS[scenario]
    pace = min(1.0, calls / 1000)
    with Processes() as processes:
        text = routing(
            start_providers(processes, folder), calls, randomness, patience=4 if calls >= 1000 else 1, loose=loose
        )
        config = folder / "routing.yaml"
        config.write_text(text)
        env = {
            name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")
        } | key_environment()
        snapshot = parse(text, str(config), env)[0]
        clustered = scenario == "cluster"
        stores = [
            ValkeyServer(processes, folder / f"store-{n}", cluster=clustered) for n in range(3 if clustered else 1)
        ]
        if clustered:
            join_cluster(stores)
        scheme = "redis+cluster" if clustered else "redis"
        env["PENSTOCK_REDIS_URL"] = f"{scheme}://127.0.0.1:{stores[0].port}/0"
        skews = CLOCK_SKEWS_SECONDS if scenario == "skew" else (0.0,) * GATEWAYS
        gateways = [
            GatewayProcess(processes, folder / f"gateway-{number}", config, env, skew=skew)
            for number, skew in enumerate(skews)
        ]
        _wait_until_ready(gateways)
        run = ScenarioRun(gateways, stores, randomness, pace=pace)
        sampler = AccountSampler(stores, account_limits(snapshot))
        callers = MixedCallers([gateway.base_url for gateway in gateways], calls, random.Random(seed), ramp * pace)
        began = time.monotonic()
        tally = asyncio.run(_run_callers(callers, event, run))
        took = time.monotonic() - began
        for late in run.after_calls:
            late()
        _wait_until_ready(gateways)
        unsettled = _unsettled_gateways(gateways)
        sampler.stop()
        for gateway in gateways:
            gateway.stop()
        scripts = ", ".join(_script_cost_text(store) for store in stores)
        last = {key: fields for store in stores for key, fields in store_accounts(store).items()}
        for store in stores:
            store.kill()
        findings = check(
            snapshot,
            [store.data_folders for store in stores],
            {gateway.replica_name: gateway.folder for gateway in gateways},
            killed=run.killed_replicas,
            forgetful=scenario == "amnesia",
        )
    over = [] if scenario == "amnesia" else sampler.overruns
    findings.violations += (
        unsettled + over + tally.violations + _log_errors(gateways) + _replay_differences(findings, last)
    )
    if took < 55 and scenario != "amnesia":
        findings.violations += ledger_overruns(snapshot, [gateway.folder for gateway in gateways])
    _log(
        f"{scenario} {seed}: {took:.1f} s, {dict(tally.outcomes)}, statuses {dict(tally.statuses)}, {findings.accounts} accounts ({findings.nearly_full_accounts} "
        f"nearly full), {findings.checked_states} instants, {sampler.samples} samples, {findings.orphaned_holds} orphans, "
        f"{findings.expired_holds} expired, scripts {scripts}, {len(findings.violations)} wrong"
    )
    for line in findings.violations[:12]:
        _log(f"    {line}")
    return tally, findings


async def _run_callers(
    callers: MixedCallers, event: Callable[[ScenarioRun], object], run: ScenarioRun
) -> CallerOutcomes:
    happening = asyncio.ensure_future(event(run))
    tally = await callers.run()
    await happening
    return tally


def _wait_until_ready(gateways: list[GatewayProcess]) -> None:
    for gateway in gateways:
        wait_for("a gateway listens", gateway.is_ready)


def _unsettled_gateways(gateways: list[GatewayProcess]) -> list[str]:
    """Wait until no gateway has an open hold or an undelivered resolution; what is left when the time is over."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        left = [f"gateway on {one.port} still has {found}" for one in gateways if (found := _unsettled(one))]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def _unsettled(gateway: GatewayProcess) -> str:
    text = urllib.request.urlopen(f"{gateway.base_url}/metrics", timeout=10).read().decode()
    names = (
        "penstock_holds_open",
        "penstock_budget_store_backlog",
        "penstock_calls_open",
        "penstock_budget_store_failing",
    )
    figures = {name: float(found[1]) for name in names if (found := re.search(rf"^{name} (\S+)$", text, re.MULTILINE))}
    assert len(figures) == len(names), "the metrics are there"
    return ", ".join(f"{name} {figure:g}" for name, figure in figures.items() if figure)


def _log_errors(gateways: list[GatewayProcess]) -> list[str]:
    """Tracebacks, and what the logs say that is no warning about the store."""
    found = []
    for gateway in gateways:
        text = gateway.log.read_text(errors="replace")
        for place in [
            match.start() for match in re.finditer("Traceback|Unhandled|never retrieved|was never awaited", text)
        ][:3]:
            found.append(f"in a gateway's log: {text[place : place + 1500]}")
    return found


def _replay_differences(findings: AuditFindings, last: dict[str, dict[bytes, int]]) -> list[str]:
    """The replay must end where the server ended."""
    found, names = findings.final_accounts, (b"spent", b"held")
    differ = [
        key
        for key in found.keys() | last.keys()
        if any(found.get(key, {}).get(name, 0) != last.get(key, {}).get(name, 0) for name in names)
    ]
    return [f"the replay and the server differ on {key}" for key in differ[:3]]


def _script_cost_text(store: ValkeyServer) -> str:
    """How often scripts ran in the server's last life, and how long one took."""
    with store.client() as client:
        found = client.info("commandstats").get("cmdstat_evalsha", {})
    return f"{found.get('calls', 0)} of {found.get('usec_per_call', 0):.0f} us"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(results: dict[str, list[tuple[CallerOutcomes, AuditFindings]]]) -> str:
    """The results as Markdown, one row for each scenario."""
    heads = (
        "scenario", "seeds", "calls", "completed", "refused", "failed, left", "503", "accounts", "transactions checked",
        "instants over a limit", "held at the end", "accounts where spent != ledgers", "wrong in all",
        "p99 of 503 (s)", "remarks",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for scenario, runs in results.items():
        outcomes = sum((tally.outcomes for tally, _ in runs), start=CallerOutcomes().outcomes)
        findings = [one for _, one in runs]
        down = sorted(second for tally, _ in runs for second in tally.store_down_seconds)
        others = sum(outcomes[name] for name in ("failed", "left", "broken", "hung"))
        p99 = f"{down[min(len(down) - 1, len(down) * 99 // 100)]:.3f}" if down else "–"
        cells = (
            scenario, len(runs), outcomes.total(), outcomes["completed"], outcomes["refused"], others,
            outcomes["store_down"], *[sum(getattr(one, name) for one in findings) for name in _SUMMED_FIELDS],
            sum(len(one.violations) for one in findings), p99, _remarks(findings),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


_SUMMED_FIELDS = ("accounts", "transactions", "over", "held", "unequal")


def _remarks(findings: list[AuditFindings]) -> str:
    named = {
        "holds of killed gateways, never written down": sum(one.orphaned_holds for one in findings),
        "holds that expired": sum(one.expired_holds for one in findings),
        "accounts over their limit after the loss": sum(one.overruns_after_loss for one in findings),
    }
    return ", ".join(f"{count} {what}" for what, count in named.items() if count) or "–"


def main() -> int:
    """Run what was asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument(
        "--seeds", type=int, help=f"runs of each (default: {DEFAULT_SEEDS['plain']} of plain, {OTHER_SEEDS} of others)"
    )
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="200 calls, one seed, plain, kill and pause")
    parser.add_argument("--keep", type=Path, help="keep what the runs leave in this folder")
    parser.add_argument("--loose", action="store_true", help="limits that nobody reaches, to see what calls take")
    chosen = parser.parse_args()
    # The end by SIGTERM, too, must leave no process behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = chosen.scenario or (["plain", "kill", "pause"] if chosen.quick else list(SCENARIOS))
    calls, results = 200 if chosen.quick else chosen.calls, {}
    try:
        for name in names:
            seeds = chosen.seeds or (1 if chosen.quick else DEFAULT_SEEDS.get(name, OTHER_SEEDS))
            results[name] = [_run_and_keep(name, chosen.first + at, calls, chosen) for at in range(seeds)]
    except KeyboardInterrupt:
        _log("interrupted")
    print(table(results), flush=True)
    return 1 if any(one.wrong for runs in results.values() for _, one in runs) or len(results) < len(names) else 0


def _run_and_keep(name: str, seed: int, calls: int, chosen: argparse.Namespace) -> tuple[CallerOutcomes, AuditFindings]:
    """One run; a copy of its folder is kept where that was asked for."""
    with tempfile.TemporaryDirectory(prefix="overspend-") as folder:
        try:
            tally, findings = run_scenario(name, seed, calls, Path(folder), loose=chosen.loose)
        except (TimeoutError, RuntimeError, OSError, redis.RedisError) as error:
            traceback.print_exc()
            tally, findings = (
                CallerOutcomes(),
                AuditFindings(violations=[f"the run did not come to its end: {error!r}"]),
            )
        (Path(folder) / "wrong.txt").write_text("\n".join(findings.violations) + "\n")
        if chosen.keep is not None:
            shutil.copytree(folder, chosen.keep / f"{name}-{seed}", dirs_exist_ok=True)
    return tally, findings


if __name__ == "__main__":
    sys.exit(main())
