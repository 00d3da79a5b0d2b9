"""Measures the gateway's CPU time per request and per streamed chunk, next to a bare proxy.

    python loadtest/bench.py [--quick] [--out bench.json]

Rounds are interleaved (bare, penstock, bare, ...), so that a drift of the machine's speed affects both equally; the
ratios are the result. CPU time is the process's own, read from the operating system before and after a round. All
traffic is on loopback and bounded in requests. Where there are two cores, the targets are pinned to one and load and
upstream to the other.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES = {"1k": 1_000, "32k": 32_000, "256k": 256_000, "1m": 1_000_000}
# Requests of one round, by size; one round takes about a second.
REQUESTS = {"1k": 3000, "32k": 2000, "256k": 800, "1m": 240}
STREAMS, STREAM_CONCURRENCY = 60, 20
EVENTS = 100
CONCURRENCY = 16
OPEN_STREAMS = 1000
KEY = "bench-key"


def request_body(size: int, *, stream: bool = False) -> bytes:
    """A chat request of about `size` bytes: an agent's history with tool calls."""
    text = "the quick agent reads a file and reports what it found there before the next step is planned"
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are an agent with a shell."},
        {"role": "user", "content": f"Summarize what the code in this repository does. {text}"},
    ]
    turn = 0
    while len(json.dumps(messages)) < size - 1800 if size > 4000 else False:
        for _ in range(max(1, size // 40_000)):
            call = {
                "id": f"call_{turn}",
                "type": "function",
                "function": {"name": "bash", "arguments": json.dumps({"cmd": f"cat file{turn}.py"})},
            }
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append(
                {"role": "tool", "tool_call_id": f"call_{turn}", "content": f"file {turn}\n" + f"{text}\n" * 16}
            )
            turn += 1
    document: dict[str, Any] = {"model": "auto", "messages": messages, "temperature": 0.2}
    if stream:
        document["stream"] = True
    missing = size - len(json.dumps(document))
    if missing > 0:
        messages[1]["content"] += "x" * missing
    return json.dumps(document, separators=(",", ":") if stream else None).encode()


class Target:
    """One process under test, started and ready."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], port: int) -> None:
        self.name = name
        self.port = port
        started = time.perf_counter()
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, preexec_fn=_pin(0))
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert self.process.poll() is None, f"{name} did not start"
            assert time.perf_counter() - started < 30, f"{name} did not start"
            time.sleep(0.005)
        asyncio.run(send_one(port, request_body(1000)))
        self.start_seconds = time.perf_counter() - started

    def cpu(self) -> float:
        """CPU seconds used by the process's threads, to the nanosecond (Linux schedstat)."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def rss_mb(self) -> float:
        """Resident memory in MB (1e6 bytes)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024 / 1e6
        return 0.0


def _pin(core: int):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    return lambda: os.sched_setaffinity(0, {cores[core % len(cores)]})


def _request_head(payload: bytes) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    ).encode()


async def send_one(port: int, payload: bytes) -> None:
    """Send one request and wait for its answer."""
    client = await _RawClient.connect(port)
    await client.request(_request_head(payload) + payload, stream=False)
    client.close()


class _RawClient(asyncio.Protocol):
    """A cheap client: writes a request and waits for the end of the answer."""

    @classmethod
    async def connect(cls, port: int) -> "_RawClient":
        _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return client

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.buffer = bytearray()
        self.waiting: asyncio.Future[bytes] | None = None
        self.stream = False

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.stream:
            done = self.buffer.endswith(b"0\r\n\r\n")
        else:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).lower()
            start = head.find(b"content-length:")
            done = start >= 0 and len(self.buffer) >= end + 4 + int(head[start + 15 :].split(b"\r\n", 1)[0])
        if done and self.waiting is not None:
            answer, self.buffer = bytes(self.buffer), bytearray()
            self.waiting.set_result(answer)
            self.waiting = None

    def connection_lost(self, exc) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(ConnectionError("the target closed the connection"))

    async def request(self, data: bytes, *, stream: bool) -> bytes:
        self.stream = stream
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        answer = await self.waiting
        assert answer.startswith(b"HTTP/1.1 200"), answer[:600]
        return answer

    def close(self) -> None:
        self.transport.close()


async def send_load(port: int, payload: bytes, requests: int, concurrency: int, *, stream: bool = False) -> None:
    """Send `requests` requests over `concurrency` connections."""
    left = requests
    data = _request_head(payload) + payload

    async def worker() -> None:
        nonlocal left
        client = await _RawClient.connect(port)
        while left > 0:
            left -= 1
            await client.request(data, stream=stream)
        client.close()

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def cpu_us_per_request(
    target: Target, payload: bytes, requests: int, concurrency: int, *, stream: bool = False
) -> float:
    """CPU microseconds per request in one round."""
    before = target.cpu()
    asyncio.run(send_load(target.port, payload, requests, concurrency, stream=stream))
    # The ledger writer finishes within this time; its work belongs to these requests.
    time.sleep(0.3)
    return (target.cpu() - before) / requests * 1e6


async def peak_rss_mb(port: int, count: int, read_rss) -> float:
    """Opens `count` streams at once and returns the highest resident memory while they run, in MB."""
    payload = request_body(1000, stream=True)
    data = _request_head(payload) + payload
    clients = []
    for start in range(0, count, 100):
        clients += await asyncio.gather(*(_RawClient.connect(port) for _ in range(min(100, count - start))))
    streams = [asyncio.ensure_future(client.request(data, stream=True)) for client in clients]
    peak = 0.0
    while not all(stream.done() for stream in streams):
        peak = max(peak, read_rss())
        await asyncio.sleep(0.1)
    await asyncio.gather(*streams)
    for client in clients:
        client.close()
    return peak


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Run the rounds, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests and rounds")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per target (default: 7)")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON file to write")
    args = parser.parse_args()
    rounds, divisor = (3, 4) if args.quick else (args.rounds, 1)
    pin = _pin(1)
    if pin is not None:
        pin()
    upstream_port = free_port()
    upstream = subprocess.Popen(
        [sys.executable, str(HERE / "stub_upstream.py"), str(upstream_port)], preexec_fn=_pin(1)
    )
    targets: list[Target] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            time.sleep(0.5)
            targets = start_targets(folder, upstream_port)
            results = run_rounds(targets, rounds, divisor)
        finally:
            for target in targets:
                target.process.kill()
            upstream.kill()
    report(results, args.out)


def start_targets(folder: str, upstream_port: int) -> list[Target]:
    """Start the bare proxy and the gateway, and wait until both answer."""
    base = f"http://127.0.0.1:{upstream_port}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    bare_port, port = free_port(), free_port()
    bare = Target("bare", [sys.executable, str(HERE / "bare_proxy.py"), str(bare_port), base], env, bare_port)
    config = Path(folder) / "routing.yaml"
    config.write_text((HERE / "routing.yaml").read_text().replace("http://127.0.0.1:1", base))
    env |= {"PENSTOCK_DATA": folder, "PENSTOCK_PORT": str(port), "BENCH_KEY": KEY}
    command = [sys.executable, "-m", "gateway.cli.main", "serve", str(config)]
    return [bare, Target("penstock", command, env, port)]


def run_rounds(targets: list[Target], rounds: int, divisor: int) -> dict:
    """Figures of interleaved rounds, per target; `divisor` reduces the requests of a round."""
    figures: dict = {target.name: {name: [] for name in (*SIZES, "stream", "rss")} for target in targets}
    for target in targets:
        figures[target.name]["rss"].append(asyncio.run(peak_rss_mb(target.port, OPEN_STREAMS, target.rss_mb)))
        figures[target.name]["start"] = [target.start_seconds]
        asyncio.run(send_load(target.port, request_body(1000), 500, CONCURRENCY))
    for _ in range(rounds):
        for name, size in SIZES.items():
            payload = request_body(size)
            for target in targets:
                figures[target.name][name].append(
                    cpu_us_per_request(target, payload, REQUESTS[name] // divisor, CONCURRENCY)
                )
        payload = request_body(1000, stream=True)
        for target in targets:
            cost = cpu_us_per_request(target, payload, STREAMS, STREAM_CONCURRENCY, stream=True)
            figures[target.name]["stream"].append(cost)
    return figures


def report(figures: dict, out: Path) -> None:
    """Prints the table and writes the JSON file."""
    targets = {}
    for name, values in figures.items():
        per_request = {size: round(statistics.median(values[size]), 1) for size in SIZES}
        # Cost of a stream beyond an unstreamed answer, divided by its events.
        per_chunk = (statistics.median(values["stream"]) - per_request["1k"]) / EVENTS
        targets[name] = {
            "cpu_us_per_request": per_request,
            "cpu_us_per_chunk": round(per_chunk, 2),
            "rss_mb_1000_streams": round(values["rss"][0], 1),
            "start_to_first_answer_seconds": round(values["start"][0], 2),
        }
    bare, ours = targets["bare"], targets["penstock"]
    ratios = {size: round(ours["cpu_us_per_request"][size] / bare["cpu_us_per_request"][size], 2) for size in SIZES}
    ratios["chunk"] = round(ours["cpu_us_per_chunk"] / bare["cpu_us_per_chunk"], 2)
    out.write_text(json.dumps({"targets": targets, "ratios": ratios}, indent=2) + "\n")
    print(
        f"{'CPU us per':<12}"
        + "".join(f"{size:>10}" for size in SIZES)
        + f"{'chunk':>10}{'RSS MB*':>10}{'start s':>10}"
    )
    for name, values in targets.items():
        cells = [*(f"{values['cpu_us_per_request'][size]:.0f}" for size in SIZES), f"{values['cpu_us_per_chunk']:.1f}"]
        cells += [f"{values['rss_mb_1000_streams']:.0f}", f"{values['start_to_first_answer_seconds']:.2f}"]
        print(f"{name:<12}" + "".join(f"{cell:>10}" for cell in cells))
    print(f"{'ratio':<12}" + "".join(f"{ratios[size]:>10.2f}" for size in (*SIZES, "chunk")))
    print(f"* with {OPEN_STREAMS} streams open")


if __name__ == "__main__":
    main()
