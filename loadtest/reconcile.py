"""Replays recorded sessions through the demo, then compares the sums of ledger, export and metrics.

    python loadtest/reconcile.py FOLDER [--kill] [--no-session-header]

FOLDER holds recorded sessions (JSON Lines, .gz or not); files whose name begins with "synthetic" are skipped. --kill
ends the gateway process with SIGKILL several times during the replay. Exit status 0 if the sums agree to the
nano-dollar.
"""

import argparse
import csv
import io
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

KILLS = 5
_SUMMED_METRICS = {"charge": ("penstock_charge_usd", 1e9), "reference": ("penstock_reference_usd", 1e9)}


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def gateway_pids(pid: int) -> list[int]:
    """Process ids of the gateways that a demo has started."""
    result = subprocess.run(["pgrep", "-P", str(pid), "-f", "serve"], capture_output=True, text=True, check=False)
    return [int(line) for line in result.stdout.split()]


def run_demo(
    files: list[Path], data: Path, port: int, *, kill: bool, no_session_header: bool
) -> tuple[subprocess.Popen, str]:
    """Runs the demo until its replay is complete; returns its process, still up, and its output."""
    command = [sys.executable, "-m", "gateway.cli.main", "demo", "--port", str(port), "--data", str(data), "--sessions"]
    command += [*map(str, files), *(["--no-session-header"] if no_session_header else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines, kills, randomness = [], 0, random.Random(1)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
        if kill and kills < KILLS and re.match(r"\[", line) and " 1/" not in line:
            time.sleep(randomness.uniform(0, 1))
            for pid in gateway_pids(process.pid):
                os.kill(pid, signal.SIGKILL)
            kills += 1
        if "Ctrl-C" in line:
            break
    return process, "".join(lines)


def metric_sums(base: str) -> dict[str, int]:
    """Sums of /metrics, converted to integer units."""
    text = urllib.request.urlopen(f"{base}/metrics", timeout=10).read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    sums = {
        name: sum(round(sample.value * scale) for sample in families[metric].samples)
        for name, (metric, scale) in _SUMMED_METRICS.items()
    }
    for bound in ("low", "mid", "high"):
        samples = families["penstock_energy_joules"].samples
        joules = [sample.value for sample in samples if sample.labels["bound"] == bound]
        sums[f"energy_{bound}"] = sum(round(value * 1000) for value in joules)
    sums["requests"] = round(sum(sample.value for sample in families["penstock_requests"].samples))
    return sums


def export_sums(base: str) -> dict[str, int]:
    """Sums of the exported table."""
    text = urllib.request.urlopen(f"{base}/export?by=task_type,tier,team&format=csv", timeout=30).read().decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = {"charge": "charge_nusd", "reference": "reference_nusd", "requests": "requests"}
    columns |= {f"energy_{bound}": f"energy_mj_{bound}" for bound in ("low", "mid", "high")}
    return {name: sum(int(row[column]) for row in rows) for name, column in columns.items()}


def ledger_sums(data: Path) -> dict[str, int]:
    """Sums of the ledger's entries."""
    columns = {
        "charge": "SUM(charge_nusd)",
        "reference": "SUM(reference_nusd)",
        "requests": "SUM(final)",
        "energy_low": "SUM(energy_mj_low)",
        "energy_mid": "SUM(energy_mj_mid)",
        "energy_high": "SUM(energy_mj_high)",
        "entries": "COUNT(*)",
        "calls": "COUNT(DISTINCT request_id)",
        "expired": "SUM(outcome = 'expired')",
    }
    row = (
        sqlite3.connect(data / "ledger.sqlite").execute(f"SELECT {', '.join(columns.values())} FROM entries").fetchone()
    )
    return dict(zip(columns, row, strict=True))


def main() -> int:
    """Replay the sessions, compare the sums, print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of recorded sessions")
    parser.add_argument("--kill", action="store_true", help="SIGKILL the gateway several times during the replay")
    parser.add_argument("--no-session-header", action="store_true", help="send no session header")
    args = parser.parse_args()
    files = [path for path in sorted(args.folder.glob("*.jsonl*")) if not path.name.startswith("synthetic")]
    if not files:
        print(f"error: no recorded sessions in {args.folder}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        process, output = run_demo(files, Path(folder), port, kill=args.kill, no_session_header=args.no_session_header)
        base = f"http://127.0.0.1:{port}"
        sums = {"ledger": ledger_sums(Path(folder)), "export": export_sums(base), "metrics": metric_sums(base)}
        process.terminate()
        process.wait(timeout=60)
    return compare(sums, output, killed=args.kill)


def compare(sums: dict[str, dict[str, int]], output: str, *, killed: bool) -> int:
    """Prints the sums of the three sources side by side; 0 if they agree.

    Counters restart with the process, so metrics are not compared after a kill.
    """
    counts = re.search(r"(\d+) answered, (\d+) refused, (\d+) failed", output)
    repeated = re.search(r"calls repeated: (\d+)\.", output)
    assert counts is not None and repeated is not None, "the demo did not finish"
    (answered, stopped, failed), interrupted = map(int, counts.groups()), int(repeated[1])
    print(f"\n{'':<12}" + "".join(f"{name:>22}" for name in sums))
    agree = failed == 0
    for name in sums["export"]:
        values = [source[name] for source in sums.values()]
        same = len(set(values[:2] if killed else values)) == 1
        agree = agree and same
        print(f"{name:<12}" + "".join(f"{value:>22}" for value in values) + ("" if same else "   DIFFER"))
    ledger = sums["ledger"]
    one_entry_per_call = ledger["entries"] == ledger["calls"]
    # A call that a kill interrupted may be settled, charged as held, or not admitted at all.
    complete = answered + stopped <= ledger["calls"] <= answered + stopped + interrupted
    print(
        f"entries {ledger['entries']}, calls {ledger['calls']}, answered {answered}, stopped {stopped},"
        f" interrupted {interrupted}, expired holds {ledger['expired']}"
    )
    correct = agree and one_entry_per_call and complete
    print("the sums agree" if correct else "THE SUMS DIFFER")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
