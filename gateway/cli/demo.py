"""`penstock demo`: agents run through a gateway in front of two simulated providers."""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..app import export_ledger
from ..simulator import agent_sessions
from ..simulator.session_replay import ReplayCounts, replay

_CONFIG = Path(__file__).parent.parent / "simulator" / "demo.yaml"
# (seconds to the first token:tokens per second) of the small and the frontier model, typical of 2026.
_SPEEDS = {"normal": ("0.08:180", "0.25:90"), "max": ("0:0", "0:0")}
_CONCURRENCY = {"normal": 16, "max": 8}
_BAR_CHARS = 30
# File that marks a folder as a demo's, which may be emptied.
_MARKER = ".penstock-demo"
_START_SECONDS_MAX = 20.0
_RESTARTS_MAX = 20
_PORT_MAX = 65_535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is replayed, how fast, and where."""
    parser.add_argument(
        "--sessions",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="recorded sessions to replay, JSON Lines or .jsonl.gz (default: 48 built-in ones)",
    )
    parser.add_argument(
        "--speed",
        choices=tuple(_SPEEDS),
        help="max: no pauses, and providers without latency (default: max with --sessions, else normal)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("var/demo"),
        metavar="FOLDER",
        help="folder of the ledger, emptied first (default: var/demo)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=8080,
        metavar="PORT",
        help="port of the gateway, another if it is in use (default: 8080)",
    )
    parser.add_argument(
        "--no-session-header", action="store_true", help="send no session id, so that the gateway infers sessions"
    )
    parser.add_argument("--exit", action="store_true", help="exit after the table instead of staying up")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _PORT_MAX:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {_PORT_MAX}, not {text[:20]!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Replay the sessions, print the table, and stay up; 1 if calls failed, 2 for a missing file."""
    args.speed = args.speed or ("max" if args.sessions else "normal")
    missing = [str(path) for path in args.sessions or () if not path.is_file()]
    if missing:
        print(f"penstock: file not found: {', '.join(missing)}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_demo(args))
    except KeyboardInterrupt:
        return 0
    except ValueError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1


async def _demo(args: argparse.Namespace) -> int:
    data: Path = args.data
    _reset_data_folder(data)
    sessions = list(agent_sessions.load_sessions(args.sessions)) if args.sessions else agent_sessions.demo_sessions()
    calls = sum(session.call_count for session in sessions)
    stop = asyncio.Event()
    # A closed terminal (SIGHUP) ends the demo; its gateway, which SIGHUP does not end, has to be stopped.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    port = _find_free_port(args.port)
    async with contextlib.AsyncExitStack() as stack:
        base_urls = await _start_providers(stack, _SPEEDS[args.speed])
        config = _write_config(data, base_urls)
        gateway = DemoGateway(config, data, port)
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        print(f"penstock demo: {len(sessions)} sessions, {calls} calls, http://127.0.0.1:{port}/v1", flush=True)
        started = time.monotonic()
        replaying = asyncio.ensure_future(
            replay(
                sessions,
                base_url=f"http://127.0.0.1:{port}/v1",
                api_key="demo",
                model="auto",
                sessions_at_once=_CONCURRENCY[args.speed],
                pauses=args.speed != "max",
                send_session_id=not args.no_session_header,
                progress=ProgressBar(calls).show,
            )
        )
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((replaying, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not replaying.done():
            replaying.cancel()
            return 0
        tally = replaying.result()
        await asyncio.sleep(0.5)
        _print_report(data, tally, calls, time.monotonic() - started)
        if not args.exit:
            _print_next_steps(port, data)
            await stopping
        stopping.cancel()
    return 1 if tally.failures else 0


class DemoGateway:
    """The gateway as a separate process, restarted when it exits: kill it to see what the ledger keeps."""

    def __init__(self, config: Path, data: Path, port: int) -> None:
        self._config = config
        self._data = data
        self._port = port
        self._process: asyncio.subprocess.Process | None = None
        self._restart_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens. Raises ValueError if it does not."""
        await self._spawn()
        self._restart_task = asyncio.ensure_future(self._restart_on_exit())

    async def stop(self) -> None:
        """Stop it with SIGTERM."""
        if self._restart_task is not None:
            self._restart_task.cancel()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def _restart_on_exit(self) -> None:
        for _ in range(_RESTARTS_MAX):
            assert self._process is not None
            code = await self._process.wait()
            print(f"\npenstock demo: gateway exited with status {code}; restarting it on the same ledger", flush=True)
            await self._spawn()

    async def _spawn(self) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        env |= {"PENSTOCK_DATA": str(self._data), "PENSTOCK_PORT": str(self._port)}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.cli.main",
            "serve",
            str(self._config),
            env=env,
            stdout=asyncio.subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not _is_listening(self._port):
            if self._process.returncode is not None or time.monotonic() > deadline:
                raise ValueError("gateway did not start; see the messages above")
            await asyncio.sleep(0.02)


class ProgressBar:
    """A progress bar on a terminal, else a line for every tenth of the calls."""

    def __init__(self, calls: int) -> None:
        self._calls = max(1, calls)
        self._last_step = -1
        self._steps = 200 if sys.stdout.isatty() else 10

    def show(self, tally: ReplayCounts) -> None:
        """Redraw if the bar has changed."""
        done = min(1.0, tally.calls_answered / self._calls)
        step = int(done * self._steps)
        if step == self._last_step:
            return
        self._last_step = step
        filled = int(done * _BAR_CHARS)
        line = f"[{'#' * filled}{'.' * (_BAR_CHARS - filled)}] {tally.calls_answered}/{self._calls} calls, {sum(tally.sessions_stopped.values())} sessions stopped"
        print(f"\r{line}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


async def _start_providers(stack: contextlib.AsyncExitStack, speeds: Sequence[str]) -> list[str]:
    """Start both simulated providers in a separate process; returns their base URLs."""
    models = [f"--model=sim-small:{speeds[0]}", f"--model=sim-frontier:{speeds[1]}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.simulator.provider", *models, stdout=asyncio.subprocess.PIPE
    )

    async def end() -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()

    stack.push_async_callback(end)
    assert process.stdout is not None
    return [(await process.stdout.readline()).decode().split()[1] for _ in models]


def _write_config(data: Path, base_urls: Sequence[str]) -> Path:
    """Write the demo's routing file with the ports of the providers into the data folder."""
    text = _CONFIG.read_text(encoding="utf-8")
    for number, base_url in enumerate(base_urls, 1):
        text = text.replace(f"http://127.0.0.1:{number}/v1", base_url)
    path = data / "routing.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _reset_data_folder(data: Path) -> None:
    """Delete the files of an earlier demo. Raises ValueError if the folder holds anything else."""
    data.mkdir(parents=True, exist_ok=True)
    if not (data / _MARKER).exists() and any(data.iterdir()):
        raise ValueError(f"{data} is not empty and not the folder of an earlier demo; choose another one with --data")
    (data / _MARKER).touch()
    shutil.rmtree(data / "journal", ignore_errors=True)
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "routing.yaml"):
        (data / name).unlink(missing_ok=True)


def _find_free_port(preferred: int) -> int:
    """The preferred port, or any other one if that is in use."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            bound: int = probe.getsockname()[1]
            return bound
    raise ValueError("no free port on 127.0.0.1")


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _print_report(data: Path, tally: ReplayCounts, calls: int, seconds: float) -> None:
    """Print the table by task type, from `penstock export`."""
    text, _ = export_ledger(data, {"by": "task_type", "format": "json"}, now=time.time())
    total, _ = export_ledger(data, {"by": "", "format": "json"}, now=time.time())
    rows = [*json.loads(text)["rows"], {"task_type": "TOTAL", **json.loads(total)["rows"][0]}]
    table = [_HEADINGS, *(_table_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    print("\n")
    for cells in table:
        print(_format_row(cells, widths))
    print("\nWh and gCO2e are modeled, low–mid–high; all-frontier assumes the same tokens.")
    print(_summary(tally, calls, seconds), flush=True)


def _summary(tally: ReplayCounts, calls: int, seconds: float) -> str:
    """What became of the calls, in counts that add up to all of them, and why sessions stopped."""
    refused, failed = tally.sessions_stopped.total(), tally.failures.total()
    not_sent = calls - tally.calls_answered - refused - failed
    return (
        f"{calls} calls in {seconds:.1f} s: {tally.calls_answered} answered, {refused} refused, {failed} failed, "
        f"{not_sent} not sent after {'stops and failures' if failed else 'stops'}.\n"
        f"Sessions stopped: {_counts_in_words(tally.sessions_stopped)}. Failures: {_counts_in_words(tally.failures)}. "
        f"Connections lost and calls repeated: {tally.calls_interrupted}."
    )


def _counts_in_words(counts: Counter[str]) -> str:
    """`3 by the loop guard, 1 by a budget`; codes without words of their own as they are."""
    return ", ".join(f"{count} {_CODE_WORDS.get(code, code)}" for code, count in counts.most_common()) or "none"


_CODE_WORDS = {
    "loop_stopped": "by the loop guard", "budget_exceeded": "by a budget", "cap_exceeded": "by a cap",
    "session_time_exceeded": "by the cap on minutes", "gateway_gone": "without a gateway",
}  # fmt: skip


_HEADINGS = [
    "task type", "requests", "small %", "frontier %", "USD", "all-frontier", "saved", "Wh low–mid–high",
    "gCO2e low–mid–high", "loops stopped",
]  # fmt: skip


def _table_cells(row: dict[str, int | str]) -> list[str]:
    served = max(1, int(row["small_requests"]) + int(row["frontier_requests"]))
    charge, reference = float(row["charge_usd"]), float(row["reference_usd"])
    return [
        str(row["task_type"]),
        str(row["requests"]),
        f"{100 * int(row['small_requests']) / served:.0f}",
        f"{100 * int(row['frontier_requests']) / served:.0f}",
        f"{charge:.6f}",
        f"{reference:.6f}",
        f"{100 * (1 - charge / reference) if reference else 0:.0f} %",
        "–".join(f"{float(row[f'energy_wh_{bound}']):.4g}" for bound in ("low", "mid", "high")),
        "–".join(f"{float(row[f'carbon_g_{bound}']):.4g}" for bound in ("low", "mid", "high")),
        str(row["loops_stopped"]),
    ]


def _format_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])


def _penstock_command() -> str:
    """The command as this user can type it: from the path, else from the folder of the interpreter."""
    beside = Path(sys.executable).with_name("penstock")
    return "penstock" if shutil.which("penstock") or not beside.exists() else os.path.relpath(beside)


def _print_next_steps(port: int, data: Path) -> None:
    base = f"http://127.0.0.1:{port}"
    print(
        f"""
Next steps:
  base URL   {base}/v1      (any OpenAI client, any API key, model "auto")
  metrics    {base}/metrics
  export     {base}/export?by=task_type,tier&format=csv
             PENSTOCK_DATA={data} {_penstock_command()} export --by team,day --format json
  routing    {data}/routing.yaml
Press Ctrl-C to stop.""",
        flush=True,
    )
