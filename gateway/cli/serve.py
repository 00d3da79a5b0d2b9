"""`penstock serve`: run the gateway until SIGTERM or Ctrl-C."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

try:
    from uvloop import run as run_loop
except ImportError:  # not on every platform; asyncio's own loop does the same, a tenth slower
    from asyncio import run as run_loop  # type: ignore[assignment]

from ..app import App
from ..config.load import load, parse
from ..config.settings import Settings, read_settings
from ..values.snapshot import Snapshot

# Net new containers between young collections: a few long histories, some tens of MB at worst.
_GC_THRESHOLD = 50_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The routing file may be named here instead of in PENSTOCK_CONFIG."""
    parser.add_argument(
        "config", nargs="?", type=Path, help="routing file (default: PENSTOCK_CONFIG or config/routing.yaml)"
    )


def run(chosen: argparse.Namespace) -> int:
    """Start, serve, drain."""
    settings = read_settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    path = chosen.config or settings.config
    snapshot, notes = load(path, os.environ)
    for note in notes:
        logging.getLogger(__name__).warning(note)
    try:
        text = path.read_text(encoding="utf-8")
        # The text that was started with, not the file: what changes with time is prices, and nothing else.
        run_loop(
            _serve(settings, snapshot, lambda now: parse(text, str(path), os.environ, now=now)[0], lambda: _refit(path))
        )
    except OSError as error:
        print(f"penstock: cannot start: {error}", file=sys.stderr)
        return 1
    return 0


async def _refit(path: Path) -> None:
    """Fit what is learnt anew in a process of its own: the arithmetic would hold up every call here."""
    fitting = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli.main", "learn", "fit", str(path), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        status = await fitting.wait()
    except asyncio.CancelledError:
        fitting.kill()
        raise
    if status:
        logging.getLogger(__name__).error("penstock learn fit ended with status %d; what was learnt stays", status)


async def _serve(
    settings: Settings, snapshot: Snapshot, reload: Callable[[float], Snapshot], refit: Callable[[], Awaitable[None]]
) -> None:
    app = App(settings, snapshot, reload, refit)
    await app.start()
    _tune_gc()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    admin = f"http://{host}:{app.admin_port or app.port}"
    print(f"penstock serves http://{host}:{app.port}/v1 (models: {', '.join(snapshot.routes)})", flush=True)
    print(f"metrics {admin}/metrics, export {admin}/export?by=task_type", flush=True)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    print(f"penstock drains: open streams may end within {settings.drain_seconds:g} s", flush=True)
    await app.stop()


def _tune_gc() -> None:
    """Garbage that is a cycle is rare here, parsed histories are many: collect seldom, and never what start-up built.

    The default (700 allocations) runs a dozen collections inside the parse of one long history.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
