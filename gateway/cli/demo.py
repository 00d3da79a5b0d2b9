"""`penstock demo`: the gateway in front of two simulated providers, with agents running through it."""

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
from collections.abc import Sequence
from pathlib import Path

from ..app import export_ledger
from ..simulator import agent_sessions
from ..simulator.session_replay import ReplayCounts, replay

_CONFIG = Path(__file__).parent.parent / "simulator" / "demo.yaml"
# (first token in seconds, tokens a second): about what small and frontier models of 2026 do.
_SPEEDS = {"normal": ("0.08:180", "0.25:90"), "max": ("0:0", "0:0")}
_CONCURRENCY = {"normal": 16, "max": 8}
_BAR_CHARS = 30
# Says that a folder is a demo's and may be emptied.
_MARKER = ".penstock-demo"
_START_SECONDS_MAX = 20.0
_RESTARTS_MAX = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Without --sessions a few dozen made-up sessions are replayed."""
    parser.add_argument(
        "--sessions", nargs="+", type=Path, metavar="FILE", help="recorded trajectories, JSON Lines, .gz or not"
    )
    parser.add_argument("--speed", choices=tuple(_SPEEDS), help="max: no pauses, providers answer at once")
    parser.add_argument("--data", type=Path, default=Path("var/demo"), help="folder for the ledger, emptied first")
    parser.add_argument("--port", type=int, default=8080, help="the gateway's port, another if it is taken")
    parser.add_argument("--infer", action="store_true", help="send no session header: the gateway infers sessions")
    parser.add_argument("--exit", action="store_true", help="end after the table instead of staying up")


def run(chosen: argparse.Namespace) -> int:
    """Set up, replay, print, stay."""
    chosen.speed = chosen.speed or ("max" if chosen.sessions else "normal")
    missing = [str(path) for path in chosen.sessions or () if not path.is_file()]
    if missing:
        print(f"penstock: no such file: {', '.join(missing)}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_demo(chosen))
    except KeyboardInterrupt:
        return 0
    except ValueError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1


async def _demo(chosen: argparse.Namespace) -> int:
    data: Path = chosen.data
    _reset_data_folder(data)
    runs = list(agent_sessions.load_sessions(chosen.sessions)) if chosen.sessions else agent_sessions.demo_sessions()
    calls = sum(one.call_count for one in runs)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    port = _find_free_port(chosen.port)
    async with contextlib.AsyncExitStack() as stack:
        bases = await _start_providers(stack, _SPEEDS[chosen.speed])
        config = _write_config(data, bases)
        gateway = DemoGateway(config, data, port)
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        print(f"penstock demo: {len(runs)} sessions, {calls} calls, http://127.0.0.1:{port}/v1", flush=True)
        started = time.monotonic()
        replaying = asyncio.ensure_future(
            replay(
                runs,
                base_url=f"http://127.0.0.1:{port}/v1",
                api_key="demo",
                model="auto",
                at_once=_CONCURRENCY[chosen.speed],
                pauses=chosen.speed != "max",
                named=not chosen.infer,
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
        _print_report(data, tally, time.monotonic() - started)
        if not chosen.exit:
            _print_next_steps(port, data)
            await stopping
        stopping.cancel()
    return 1 if tally.failures else 0


class DemoGateway:
    """The gateway as a process of its own, started again when it dies: kill it and see what the ledger keeps."""

    def __init__(self, config: Path, data: Path, port: int) -> None:
        self._config = config
        self._data = data
        self._port = port
        self._process: asyncio.subprocess.Process | None = None
        self._restart_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start and wait until it is ready. Raises ValueError if it does not come up."""
        await self._spawn()
        self._restart_task = asyncio.ensure_future(self._restart_on_exit())

    async def stop(self) -> None:
        """End it as an operator would."""
        if self._restart_task is not None:
            self._restart_task.cancel()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def _restart_on_exit(self) -> None:
        for _ in range(_RESTARTS_MAX):
            assert self._process is not None
            code = await self._process.wait()
            print(f"\nthe gateway ended ({code}); starting it again on the same ledger", flush=True)
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
                raise ValueError("the gateway did not start; see above")
            await asyncio.sleep(0.02)


class ProgressBar:
    """A progress bar on a terminal, a line every tenth elsewhere."""

    def __init__(self, calls: int) -> None:
        self._calls = max(1, calls)
        self._last_step = -1
        self._steps = 200 if sys.stdout.isatty() else 10

    def show(self, tally: ReplayCounts) -> None:
        """Redraw if something changed that can be seen."""
        done = min(1.0, tally.calls_answered / self._calls)
        step = int(done * self._steps)
        if step == self._last_step:
            return
        self._last_step = step
        filled = int(done * _BAR_CHARS)
        line = f"[{'#' * filled}{'.' * (_BAR_CHARS - filled)}] {tally.calls_answered}/{self._calls} calls, {sum(tally.sessions_stopped.values())} sessions stopped"
        print(f"\r{line}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


async def _start_providers(stack: contextlib.AsyncExitStack, speeds: Sequence[str]) -> list[str]:
    """Both simulated providers in a process of their own; gives their base URLs."""
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


def _write_config(data: Path, bases: Sequence[str]) -> Path:
    """The demo's routing file with the providers' ports in it, left beside the ledger to be looked at."""
    text = _CONFIG.read_text(encoding="utf-8")
    for place, base in enumerate(bases, 1):
        text = text.replace(f"http://127.0.0.1:{place}/v1", base)
    path = data / "routing.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _reset_data_folder(data: Path) -> None:
    """Forget an earlier demo. Raises ValueError if the folder holds something else: a ledger is not a demo's to delete."""
    data.mkdir(parents=True, exist_ok=True)
    if not (data / _MARKER).exists() and any(data.iterdir()):
        raise ValueError(f"{data} is not empty and not an earlier demo's; name another folder with --data")
    (data / _MARKER).touch()
    shutil.rmtree(data / "journal", ignore_errors=True)
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "routing.yaml"):
        (data / name).unlink(missing_ok=True)


def _find_free_port(wanted: int) -> int:
    """The wanted port, or any other if it is taken."""
    for port in (wanted, 0):
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


def _print_report(data: Path, tally: ReplayCounts, seconds: float) -> None:
    """The table per task type, from the same export that finance pulls."""
    text, _ = export_ledger(data, {"by": "task_type", "format": "json"}, now=time.time())
    total, _ = export_ledger(data, {"by": "", "format": "json"}, now=time.time())
    rows = [*json.loads(text)["rows"], {"task_type": "TOTAL", **json.loads(total)["rows"][0]}]
    table = [_HEADINGS, *(_table_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    print("\n")
    for cells in table:
        print(_format_row(cells, widths))
    print("\nWh and gCO2e are modelled, low–mid–high; all-frontier assumes the same tokens.")
    print(
        f"{tally.calls_answered} calls answered in {seconds:.1f} s; sessions stopped: {dict(tally.sessions_stopped) or 'none'}",
        end="",
    )
    print(
        f"; failed: {dict(tally.failures) or 'none'}; interrupted and repeated: {tally.calls_interrupted}", flush=True
    )


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
    """`penstock` as this user can type it: beside the interpreter, unless it is on the path anyway."""
    beside = Path(sys.executable).with_name("penstock")
    return "penstock" if shutil.which("penstock") or not beside.exists() else os.path.relpath(beside)


def _print_next_steps(port: int, data: Path) -> None:
    base = f"http://127.0.0.1:{port}"
    print(
        f"""
What to open next:
  base URL   {base}/v1      (any OpenAI client, any key, model "auto")
  metrics    {base}/metrics
  export     {base}/export?by=task_type,tier&format=csv
             PENSTOCK_DATA={data} {_penstock_command()} export --by team,day --format json
  routing    {data}/routing.yaml
Ctrl-C ends it.""",
        flush=True,
    )
