"""Tests for overspend: four gateways on one Valkey, 2,000 concurrent calls, tight budgets, kills and outages.

    python loadtest/overspend.py [--scenario NAME ...] [--seeds N] [--calls N] [--quick] [--keep FOLDER]

After a run every transaction of the store's append-only file is replayed: in no state may an account have more spent
and held than its limit. At the end nothing is held, and the spent amount of each account is the sum of the four
ledgers. All traffic is on loopback. Exit status 1 if a check failed. Progress goes to stderr, the table to stdout.
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
from collections.abc import Awaitable, Callable
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
# Accounts read at once: sampling must not block the server.
SAMPLE_BATCH = 100
DEFAULT_SEEDS = {"plain": 20}
OTHER_SEEDS = 3


class AccountSampler:
    """Samples every account of the running store: a check of the replay, not of the gateways."""

    def __init__(self, stores: list[ValkeyServer], limit_of: Callable[[str], int | None]) -> None:
        self._stores, self._limit_of = stores, limit_of
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self.samples = 0
        self.overruns: list[str] = []
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self._thread.join(timeout=20)

    def _sample_until_stopped(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for store in self._stores:
                try:
                    self._sample(store)
                except redis.RedisError:
                    # Killed or paused by the scenario.
                    continue

    def _sample(self, store: ValkeyServer) -> None:
        for key, fields in store_accounts(store).items():
            limit = self._limit_of(key)
            self.samples += 1
            if limit is not None and fields.get(b"spent", 0) + fields.get(b"held", 0) > limit:
                self.overruns.append(f"sampled account over its limit: {key}: {fields}")


def store_accounts(store: ValkeyServer) -> dict[str, dict[bytes, int]]:
    """Every account of a running store. Raises RedisError."""
    with store.client() as client:
        keys = list(client.scan_iter("penstock:*:account:*", count=1000))
        hashes: list[dict[bytes, bytes]] = []
        for first in range(0, len(keys), SAMPLE_BATCH):
            pipe = client.pipeline(transaction=False)
            for key in keys[first : first + SAMPLE_BATCH]:
                pipe.hgetall(key)
            hashes += pipe.execute()
        return {
            key.decode(): {name: int(value) for name, value in fields.items()}
            for key, fields in zip(keys, hashes, strict=True)
        }


def run_scenario(
    scenario: str, seed: int, calls: int, folder: Path, *, loose: bool = False
) -> tuple[CallerOutcomes, AuditFindings]:
    """Run one scenario in a folder of its own and check its result."""
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
        started = time.monotonic()
        tally = asyncio.run(_run_callers(callers, event, run))
        seconds = time.monotonic() - started
        for action in run.after_calls:
            action()
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
    sampled_overruns = [] if scenario == "amnesia" else sampler.overruns
    findings.violations += (
        unsettled + sampled_overruns + tally.violations + _log_errors(gateways) + _replay_differences(findings, last)
    )
    if seconds < 55 and scenario != "amnesia":
        findings.violations += ledger_overruns(snapshot, [gateway.folder for gateway in gateways])
    _log(
        f"{scenario} {seed}: {seconds:.1f} s, {dict(tally.outcomes)}, statuses {dict(tally.statuses)},"
        f" {findings.accounts} accounts ({findings.nearly_full_accounts} nearly full), {findings.checked_states} states"
        f" checked, {sampler.samples} samples, {findings.orphaned_holds} orphaned holds,"
        f" {findings.expired_holds} expired, scripts {scripts}, {len(findings.violations)} violations"
    )
    for line in findings.violations[:12]:
        _log(f"    {line}")
    return tally, findings


async def _run_callers(
    callers: MixedCallers, event: Callable[[ScenarioRun], Awaitable[None]], run: ScenarioRun
) -> CallerOutcomes:
    injection = asyncio.ensure_future(event(run))
    tally = await callers.run()
    await injection
    return tally


def _wait_until_ready(gateways: list[GatewayProcess]) -> None:
    for gateway in gateways:
        wait_for("gateway listens", gateway.is_ready)


def _unsettled_gateways(gateways: list[GatewayProcess]) -> list[str]:
    """Waits until no gateway has an open hold or an unsent settlement; returns what remains after SETTLE_SECONDS."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        remaining = [
            f"gateway on port {gateway.port} still has {text}" for gateway in gateways if (text := _unsettled(gateway))
        ]
        if not remaining or time.monotonic() > deadline:
            return remaining
        time.sleep(0.1)


def _unsettled(gateway: GatewayProcess) -> str:
    text = urllib.request.urlopen(f"{gateway.base_url}/metrics", timeout=10).read().decode()
    names = {
        "penstock_open_holds",
        "penstock_budget_store_backlog",
        "penstock_open_requests",
        "penstock_budget_store_failing",
    }
    matches = {name: re.search(rf"^{name} (\S+)$", text, re.MULTILINE) for name in names}
    figures = {name: float(match[1]) for name, match in matches.items() if match is not None}
    assert len(figures) == len(names), f"missing metrics: {names - figures.keys()}"
    return ", ".join(f"{name} {figure:g}" for name, figure in figures.items() if figure)


def _log_errors(gateways: list[GatewayProcess]) -> list[str]:
    """Tracebacks and unhandled errors in the gateways' logs, three of each log."""
    errors = []
    for gateway in gateways:
        text = gateway.log.read_text(errors="replace")
        starts = [match.start() for match in re.finditer("Traceback|Unhandled|never retrieved|was never awaited", text)]
        errors += [f"in a gateway's log: {text[start : start + 1500]}" for start in starts[:3]]
    return errors


def _replay_differences(findings: AuditFindings, last: dict[str, dict[bytes, int]]) -> list[str]:
    """Accounts whose final amounts differ between the replay and the server."""
    replayed, names = findings.final_accounts, (b"spent", b"held")
    different = [
        key
        for key in replayed.keys() | last.keys()
        if any(replayed.get(key, {}).get(name, 0) != last.get(key, {}).get(name, 0) for name in names)
    ]
    return [f"the replay and the server differ on {key}" for key in different[:3]]


def _script_cost_text(store: ValkeyServer) -> str:
    """Number of scripts since the server's last start, and mean duration."""
    with store.client() as client:
        stats = client.info("commandstats").get("cmdstat_evalsha", {})
    return f"{stats.get('calls', 0)} of {stats.get('usec_per_call', 0):.0f} us"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(results: dict[str, list[tuple[CallerOutcomes, AuditFindings]]]) -> str:
    """The results as Markdown, one row per scenario."""
    heads = (
        "scenario", "seeds", "calls", "completed", "refused", "failed, left", "503", "accounts", "transactions checked",
        "states over a limit", "accounts held at the end", "accounts where spent != ledgers", "charges above their hold",
        "violations", "p99 of 503 (s)", "remarks",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for scenario, runs in results.items():
        outcomes = sum((tally.outcomes for tally, _ in runs), start=CallerOutcomes().outcomes)
        findings = [audit for _, audit in runs]
        down = sorted(seconds for tally, _ in runs for seconds in tally.store_down_seconds)
        others = sum(outcomes[name] for name in ("failed", "left", "broken", "hung"))
        p99 = f"{down[min(len(down) - 1, len(down) * 99 // 100)]:.3f}" if down else "–"
        cells = (
            scenario, len(runs), outcomes.total(), outcomes["completed"], outcomes["refused"], others,
            outcomes["store_down"], *[sum(getattr(audit, name) for audit in findings) for name in _SUMMED_FIELDS],
            sum(len(audit.violations) for audit in findings), p99, _remarks([tally for tally, _ in runs], findings),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


_SUMMED_FIELDS = ("accounts", "transactions", "overruns", "accounts_still_held", "unequal_accounts", "above_hold")


def _remarks(tallies: list[CallerOutcomes], findings: list[AuditFindings]) -> str:
    extras = sum((tally.extras for tally in tallies), start=CallerOutcomes().extras)
    counts = {f"answers with {name}": extras[name] for name in sorted(extras)} | {
        "orphaned holds of killed gateways": sum(audit.orphaned_holds for audit in findings),
        "expired holds": sum(audit.expired_holds for audit in findings),
        "accounts over their limit after the loss": sum(audit.overruns_after_loss for audit in findings),
    }
    return ", ".join(f"{count} {text}" for text, count in counts.items() if count) or "–"


def main() -> int:
    """Run the scenarios and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument(
        "--seeds",
        type=int,
        help=f"runs per scenario (default: {DEFAULT_SEEDS['plain']} of plain, {OTHER_SEEDS} of others)",
    )
    parser.add_argument("--first", type=int, default=1, help="first seed (default: 1)")
    parser.add_argument("--calls", type=int, default=2000, help="calls of each run (default: 2000)")
    parser.add_argument("--quick", action="store_true", help="200 calls, one seed; scenarios plain, kill and pause")
    parser.add_argument("--keep", type=Path, help="copy the folders of the runs to this folder")
    parser.add_argument("--loose", action="store_true", help="limits that no run reaches, to measure the calls' usage")
    args = parser.parse_args()
    # SIGTERM must not leave processes running either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = args.scenario or (["plain", "kill", "pause"] if args.quick else list(SCENARIOS))
    calls, results = 200 if args.quick else args.calls, {}
    try:
        for name in names:
            seeds = args.seeds or (1 if args.quick else DEFAULT_SEEDS.get(name, OTHER_SEEDS))
            results[name] = [_run_and_keep(name, args.first + offset, calls, args) for offset in range(seeds)]
    except KeyboardInterrupt:
        _log("interrupted")
    print(table(results), flush=True)
    failed = any(audit.violations for runs in results.values() for _, audit in runs)
    return 1 if failed or len(results) < len(names) else 0


def _run_and_keep(name: str, seed: int, calls: int, args: argparse.Namespace) -> tuple[CallerOutcomes, AuditFindings]:
    """One run; copies its folder with --keep."""
    with tempfile.TemporaryDirectory(prefix="overspend-") as folder:
        try:
            tally, findings = run_scenario(name, seed, calls, Path(folder), loose=args.loose)
        except (TimeoutError, RuntimeError, OSError, redis.RedisError) as error:
            traceback.print_exc()
            tally, findings = (
                CallerOutcomes(),
                AuditFindings(violations=[f"the run did not finish: {error!r}"]),
            )
        (Path(folder) / "violations.txt").write_text("\n".join(findings.violations) + "\n")
        if args.keep is not None:
            shutil.copytree(folder, args.keep / f"{name}-{seed}", dirs_exist_ok=True)
    return tally, findings


if __name__ == "__main__":
    sys.exit(main())
