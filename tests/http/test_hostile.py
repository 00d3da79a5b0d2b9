"""A hostile provider costs bounded memory and yields a clean error."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.app import App
from gateway.config.load import parse
from gateway.config.settings import Settings
from tests.dialects.translation.dialect_clients import CLIENTS, sse_payloads

CONFIG = """
version: 1
access: open
providers:
  openai: {{base_url: "{base}/v1", speaks: [chat, responses]}}
  anthropic: {{dialect: anthropic, base_url: "{base}"}}
deployments:
  openai: {{provider: openai, model: m, tier: small, price: {{input: 1, output: 2}}, timeouts: {timeouts}}}
  anthropic: {{provider: anthropic, model: m, tier: small, price: {{input: 1, output: 2}}, timeouts: {timeouts}}}
routes:
  openai: {{candidates: [openai]}}
  anthropic: {{candidates: [anthropic]}}
retries: {{same_deployment: 0}}
"""
TIMEOUTS = "{connect: 1, first_byte: 1, idle: 0.5, total: 1.5}"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
JSON = OK.replace(b"text/event-stream", b"application/json")
# 200 MB compressed to 200 kB.
BOMB = gzip.compress(b"data: " + b"a" * 200_000_000, 6)
MEGABYTE = b"x" * 1_000_000


async def send(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()


async def not_utf8(writer):
    await send(writer, OK, b'data: {"choices":[{"delta":{"content":"\xff\xfe\xc3"}}]}\n\n' * 5)


async def line_without_end(writer):
    await send(writer, OK, b"data: ", *[MEGABYTE] * 100)


async def header_bomb(writer):
    await send(
        writer, b"HTTP/1.1 200 OK\r\n", *[b"X-%d: %s\r\n" % (number, b"y" * 4000) for number in range(10_000)], b"\r\n"
    )


async def one_header_without_end(writer):
    await send(writer, b"HTTP/1.1 200 OK\r\nX: ", *[MEGABYTE] * 20)


async def gzip_bomb(writer):
    head = JSON.replace(b"Connection", b"Content-Encoding: gzip\r\nConnection")
    await send(writer, head, BOMB)


async def gzip_bomb_as_stream(writer):
    await send(writer, OK.replace(b"Connection", b"Content-Encoding: gzip\r\nConnection"), BOMB)


async def slow_drip(writer):
    await send(writer, OK)
    for _ in range(400):
        await send(writer, b"x")
        await asyncio.sleep(0.02)


async def wrong_content_type(writer):
    await send(writer, JSON.replace(b"application/json", b"image/png"), b"\x89PNG\r\n" + b"\0" * 1000)


async def html_page(writer):
    await send(writer, JSON.replace(b"application/json", b"text/html"), b"<html>ok</html>")


async def json_that_is_not_an_object(writer):
    await send(writer, JSON, b'[1, 2, "three"]')


async def deep_json(writer):
    await send(writer, JSON, b"[" * 100_000)


async def wrong_shapes(writer):
    wrong = {"choices": [7], "content": "text", "output": {"a": 1}, "usage": [], "type": 9}
    await send(writer, JSON, json.dumps(wrong).encode())


async def wrong_shapes_streamed(writer):
    events = [
        {"choices": [{"delta": 7}]},
        {"type": "content_block_delta", "delta": "x", "index": {}},
        {"type": 5, "response": 7},
    ]
    await send(writer, OK, *[b"data: " + json.dumps(event).encode() + b"\n\n" for event in events])


async def endless_response(writer):
    await send(writer, JSON, *[MEGABYTE] * 100)


async def empty_stream(writer):
    await send(writer, OK)


HOSTILE = [
    not_utf8, line_without_end, header_bomb, one_header_without_end, gzip_bomb, gzip_bomb_as_stream, slow_drip,
    wrong_content_type, html_page, json_that_is_not_an_object, deep_json, wrong_shapes, wrong_shapes_streamed,
    endless_response, empty_stream,
]  # fmt: skip


def memory_kb(*, peak: bool = False) -> int:
    """Returns this process's memory in kB, resetting its peak, or the peak (proc(5))."""
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@asynccontextmanager
async def gateway_for(
    hostile, data: Path, *, timeouts: str = TIMEOUTS
) -> AsyncIterator[tuple[App, aiohttp.ClientSession]]:
    """Runs a gateway whose provider answers every request with `hostile`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await hostile(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    snapshot = parse(CONFIG.format(base=base, timeouts=timeouts), "hostile.yaml", {})[0]
    app = App(Settings(data=data, port=0, drain_seconds=1.0), snapshot)
    await app.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield app, client
    finally:
        await app.stop()
        server.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.__name__)
async def test_a_hostile_provider_yields_a_clean_error(hostile, stream, tmp_path):
    memory_before_kb = memory_kb()
    async with gateway_for(hostile, tmp_path) as (app, client):

        async def post(name: str, model: str) -> None:
            dialect_client = CLIENTS[name]
            request = dialect_client.request_body(model, [dialect_client.user_message("hi")], stream=stream)
            async with client.post(f"http://127.0.0.1:{app.port}{dialect_client.path}", json=request) as answer:
                body = await answer.read()
                if answer.status == 200 and hostile.__name__ not in (
                    "wrong_shapes",
                    "not_utf8",
                    "wrong_shapes_streamed",
                ):
                    assert [event for event in sse_payloads(body) if event.get("error")], (name, model, body[:300])
                elif answer.status != 200:
                    assert answer.status in (502, 503, 504), (name, model, answer.status, body[:300])
                    assert json.loads(body)["error"]["message"]
                assert b"Traceback" not in body and b"xxxx" not in body

        await asyncio.gather(*(post(name, model) for name in CLIENTS for model in ("openai", "anthropic")))
    growth_kb = memory_kb(peak=True) - memory_before_kb
    # Six concurrent requests; the largest response allowed is 64 MB.
    assert growth_kb < 6 * 80_000, f"{growth_kb // 1000} MB more at the peak"


async def overloaded(writer):
    event = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    await send(writer, OK, b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n")


@pytest.mark.parametrize("name", CLIENTS)
async def test_an_error_event_before_any_output_is_an_upstream_failure(name, tmp_path):
    """Anthropic reports overload this way; the response has an error status."""
    dialect_client = CLIENTS[name]
    async with gateway_for(overloaded, tmp_path) as (app, client):
        for model in ("openai", "anthropic"):
            request = dialect_client.request_body(model, [dialect_client.user_message("hi")], stream=True)
            async with client.post(f"http://127.0.0.1:{app.port}{dialect_client.path}", json=request) as answer:
                assert answer.status == 502
                assert "Overloaded" in (await answer.json())["error"]["message"]
