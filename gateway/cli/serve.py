"""`penstock serve`: run the gateway until SIGTERM or Ctrl-C."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sqlite3
import sys
from pathlib import Path

try:
    from uvloop import run as run_loop
except ImportError:  # not on every platform; the loop of asyncio is a tenth slower
    from asyncio import run as run_loop  # type: ignore[assignment]

from ..app import App
from ..config.load import load, parse
from ..config.settings import Settings, read_settings, require_extras, require_proxies, weak_setting_notes
from ..values.snapshot import Snapshot

log = logging.getLogger(__name__)

# Net new containers between two young collections: a few long histories, tens of MB at worst.
_GC_THRESHOLD = 50_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The routing file, if not that of PENSTOCK_CONFIG, and whether to begin a new ledger."""
    parser.add_argument(
        "config",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="routing file (default: PENSTOCK_CONFIG, else config/routing.yaml)",
    )
    parser.add_argument(
        "--new-ledger",
        action="store_true",
        help="begin a new ledger where the data folder has had one that is lost; budgets forget what was spent",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal arrives, then drain; 1 if the gateway cannot start."""
    # Ends a process by default; `_serve` answers it once the event loop runs.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = read_settings()
    require_extras(settings)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    path = args.config or settings.config
    snapshot, notes = load(path, os.environ, weak_secrets="note")
    require_proxies(settings, (deployment.base_url for deployment in snapshot.deployments.values()), os.environ)
    for note in [*notes, *weak_setting_notes(os.environ)]:
        log.warning("config_note %s", note)
    try:
        text = path.read_text(encoding="utf-8")
        # Parsed again at every price change: the text read at start, so that nothing but prices changes.
        run_loop(
            _serve(
                App(
                    settings,
                    snapshot,
                    lambda now: parse(text, str(path), os.environ, now=now)[0],
                    lambda: _refit(path),
                    begins_ledger=args.new_ledger,
                ),
                settings,
                snapshot,
            )
        )
    except (OSError, sqlite3.Error) as error:
        print(f"penstock: cannot start: {_cause(error)}", file=sys.stderr)
        return 1
    return 0


def _cause(error: OSError | sqlite3.Error) -> str:
    """The cause in words, without the error number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


async def _refit(path: Path) -> None:
    """Fit the quality floors in a separate process: the arithmetic would delay every request here."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli.main", "learn", "fit", str(path), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
    if status:
        log.error("floor_refit_failed exit_status=%d floors=unchanged", status)


async def _serve(app: App, settings: Settings, snapshot: Snapshot) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, _log_hangup, snapshot.generation)
    await app.start()
    _tune_gc()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    admin = f"http://{host}:{app.admin_port or app.port}"
    print(f"penstock: serving http://{host}:{app.port}/v1 (models: {', '.join(snapshot.routes)})", flush=True)
    print(f"penstock: metrics {admin}/metrics, export {admin}/export?by=task_type", flush=True)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    print(f"penstock: draining, open streams have {settings.drain_seconds:g} s to end", flush=True)
    await app.stop()


def _log_hangup(config_hash: str) -> None:
    """Log that SIGHUP, which makes other servers read their files again, changes nothing here."""
    log.warning("config_not_reloaded signal=SIGHUP config_hash=%s action=restart_to_apply_changes", config_hash)


def _tune_gc() -> None:
    """Collect cyclic garbage seldom, and never what start-up built.

    Cycles are rare here and parsed histories many: the default (700 allocations) runs a dozen collections inside the parse
    of one long history.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
