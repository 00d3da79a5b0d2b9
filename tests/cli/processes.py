"""The commands as separate processes."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

from tests.snapshots import ENV


def query(data: Path, statement: str) -> list[tuple]:
    """Rows of the ledger in a data folder."""
    with closing(sqlite3.connect(data / "ledger.sqlite")) as db:
        return db.execute(statement).fetchall()


ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}


def penstock(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", *arguments],
        env=ENVIRONMENT | env, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip


class Serving:
    """`penstock serve` as a process.

    arguments: further ones of the command
    """

    def __init__(self, config: Path, data: Path, port: int, *arguments: str) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli.main", "serve", str(config), *arguments],
            env=ENVIRONMENT | ENV | {"PENSTOCK_DATA": str(data), "PENSTOCK_PORT": str(port)}, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.wait()

    def wait(self) -> None:
        for _ in range(500):
            try:
                urllib.request.urlopen(f"{self.base}/livez", timeout=1).read()
                return
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, self.process.communicate()[0]
                time.sleep(0.02)
        raise AssertionError("the gateway did not start")

    def get(self, path: str) -> tuple[int, str]:
        """(status, text) of a path that needs no key."""
        try:
            with urllib.request.urlopen(f"{self.base}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def post(self, **body: object) -> dict:
        document = {"model": "small", "messages": [{"role": "user", "content": "hi"}], **body}
        request = urllib.request.Request(
            f"{self.base}/v1/chat/completions", json.dumps(document).encode(), {"Authorization": "Bearer secret-one"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read())

    def end(self, number: int) -> str:
        self.process.send_signal(number)
        text, _ = self.process.communicate(timeout=20)
        return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
