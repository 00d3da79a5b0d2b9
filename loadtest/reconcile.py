"""Replays every recorded session in a folder through the demo, then compares ledger, metrics and export.

`python loadtest/reconcile.py FOLDER [--kill] [--infer]`. Needs the folder of recorded trajectories (JSON Lines, .gz or
not); files whose name begins with "synthetic" are left out. --kill ends the gateway process with SIGKILL several times
in the middle of the replay. Exit status 0 if the books agree to the nano-dollar.
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
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def gateway_pids(pid: int) -> list[int]:
    """The process ids of the gateways that a demo has started."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "serve"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def run_demo(files: list[Path], data: Path, port: int, *, kill: bool, infer: bool) -> tuple[subprocess.Popen, str]:
    """The demo, up to the point where it stays up; its process and what it printed."""
    command = [sys.executable, "-m", "gateway.cli.main", "demo", "--port", str(port), "--data", str(data), "--sessions"]
    command += [*map(str, files), *(["--infer"] if infer else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed, kills, randomness = [], 0, random.Random(1)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        printed.append(line)
        if kill and kills < KILLS and re.match(r"\[", line) and " 1/" not in line:
            time.sleep(randomness.uniform(0, 1))
            for pid in gateway_pids(process.pid):
                os.kill(pid, signal.SIGKILL)
            kills += 1
        if line.startswith("Ctrl-C"):
            break
    return process, "".join(printed)


def metric_sums(base: str) -> dict[str, int]:
    """The sums that /metrics shows, back in integer units."""
    text = urllib.request.urlopen(f"{base}/metrics", timeout=10).read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {
        name: sum(round(s.value * scale) for s in families[metric].samples)
        for name, (metric, scale) in _SUMMED_METRICS.items()
    }
    for bound in ("low", "mid", "high"):
        joules = [s.value for s in families["penstock_energy_joules"].samples if s.labels["bound"] == bound]
        found[f"energy_{bound}"] = sum(round(value * 1000) for value in joules)
    found["requests"] = round(sum(s.value for s in families["penstock_requests"].samples))
    return found


def export_sums(base: str) -> dict[str, int]:
    """The sums of the exported table."""
    text = urllib.request.urlopen(f"{base}/export?by=task_type,tier,team&format=csv", timeout=30).read().decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = {"charge": "charge_nusd", "reference": "reference_nusd", "requests": "requests"}
    columns |= {f"energy_{bound}": f"energy_mj_{bound}" for bound in ("low", "mid", "high")}
    return {name: sum(int(row[column]) for row in rows) for name, column in columns.items()}


def ledger_sums(data: Path) -> dict[str, int]:
    """The sums of the entries themselves."""
    row = (
        sqlite3.connect(data / "ledger.sqlite")
        .execute(
            "SELECT SUM(charge_nusd), SUM(reference_nusd), SUM(final), SUM(energy_mj_low), SUM(energy_mj_mid), SUM(energy_mj_high),"
            " COUNT(*), COUNT(DISTINCT request_id), SUM(outcome = 'expired') FROM entries"
        )
        .fetchone()
    )
    names = (
        "charge",
        "reference",
        "requests",
        "energy_low",
        "energy_mid",
        "energy_high",
        "entries",
        "calls",
        "expired",
    )
    return dict(zip(names, row, strict=True))


def main() -> int:
    """Replay, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", action="store_true", help="SIGKILL the gateway in the middle, several times")
    parser.add_argument("--infer", action="store_true", help="send no session header")
    chosen = parser.parse_args()
    files = [one for one in sorted(chosen.folder.glob("*.jsonl*")) if not one.name.startswith("synthetic")]
    if not files:
        print(f"no recorded sessions in {chosen.folder}; this target needs them", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        process, printed = run_demo(files, Path(folder), port, kill=chosen.kill, infer=chosen.infer)
        base = f"http://127.0.0.1:{port}"
        books = {"ledger": ledger_sums(Path(folder)), "export": export_sums(base), "metrics": metric_sums(base)}
        process.terminate()
        process.wait(timeout=60)
    return compare(books, printed, killed=chosen.kill)


def compare(books: dict[str, dict[str, int]], printed: str, *, killed: bool) -> int:
    """Print the three books side by side; 0 if they agree. Counters begin anew with a process, so a kill leaves them out."""
    found = re.search(r"(\d+) calls answered .*stopped: (.*); failed: (.*); interrupted and repeated: (\d+)", printed)
    assert found is not None, "the demo did not finish"
    answered, interrupted = int(found[1]), int(found[4])
    stopped = sum(int(count) for count in re.findall(r": (\d+)", found[2]))
    print(f"\n{'':<12}" + "".join(f"{name:>22}" for name in books))
    agree = found[3] == "none"
    for name in books["export"]:
        values = [book[name] for book in books.values()]
        same = len(set(values[:2] if killed else values)) == 1
        agree = agree and same
        print(f"{name:<12}" + "".join(f"{value:>22}" for value in values) + ("" if same else "   DIFFER"))
    own = books["ledger"]
    one_each = own["entries"] == own["calls"]
    # A call that a kill interrupted may have been settled, be charged as held, or never have been admitted.
    complete = answered + stopped <= own["calls"] <= answered + stopped + interrupted
    print(
        f"entries {own['entries']}, calls {own['calls']}, answered {answered}, stopped {stopped}, interrupted {interrupted}, expired holds {own['expired']}"
    )
    print("the books agree" if agree and one_each and complete else "THE BOOKS DO NOT AGREE")
    return 0 if agree and one_each and complete else 1


if __name__ == "__main__":
    sys.exit(main())
