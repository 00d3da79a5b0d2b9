"""Bodies of requests over real sockets: codings, limits, `Expect: 100-continue`."""

import asyncio
import gzip
import json
import zlib
from pathlib import Path

import brotli
import pytest

from tests.gateways import StartGateway, metric_sum
from tests.http.raw_http import CHAT_BODY, compress_zstd, exchange, request_bytes

KEY = ("Authorization", "Bearer secret-one")
BOMB_BYTES = 200_000_000


@pytest.mark.parametrize(
    "codings, body",
    [
        (("zstd",), compress_zstd(CHAT_BODY)), (("br",), brotli.compress(CHAT_BODY)), (("gzip",), gzip.compress(CHAT_BODY)),
        (("deflate",), zlib.compress(CHAT_BODY)), (("identity",), CHAT_BODY),
        (("gzip, zstd",), compress_zstd(gzip.compress(CHAT_BODY))),
        (("gzip", "zstd"), compress_zstd(gzip.compress(CHAT_BODY))),
    ],
    ids=["zstd, as Codex sends it", "br", "gzip", "deflate", "identity", "a list of codings", "two headers"],
)  # fmt: skip
async def test_a_compressed_body_reaches_the_provider_decoded(start_gateway: StartGateway, codings, body):
    headers = (KEY, *(("Content-Encoding", coding) for coding in codings))
    async with start_gateway() as gateway:
        answer = await exchange(gateway.app.port, request_bytes("/v1/chat/completions", body, headers=headers))
        assert answer.status == 200, answer.body
        (sent,), (sent_headers,) = gateway.small_provider.request_bodies, gateway.small_provider.request_headers
    assert sent == CHAT_BODY.replace(b"small", b"sim-small")
    assert "content-encoding" not in {name.lower() for name in sent_headers}


async def test_a_compressed_body_may_be_chunked(start_gateway: StartGateway):
    body = compress_zstd(CHAT_BODY)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nConnection: close\r\nAuthorization: Bearer secret-one\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with start_gateway() as gateway:
        data = head + b"Content-Encoding: zstd\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        assert (await exchange(gateway.app.port, data)).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/images/generations"])
@pytest.mark.parametrize(
    "coding, body, status, code",
    [
        ("compress", CHAT_BODY, 415, "unsupported_encoding"),
        ("gzip, dcz", CHAT_BODY, 415, "unsupported_encoding"),
        ("zstd", CHAT_BODY, 400, "invalid_encoding"),
        ("gzip", gzip.compress(CHAT_BODY)[:-6], 400, "invalid_encoding"),
        ("br", b"", 400, "invalid_json"),
    ],
    ids=["unknown", "unknown among known", "another format", "cut short", "empty"],
)
async def test_other_codings_get_an_error_in_the_callers_dialect(
    start_gateway: StartGateway, path, coding, body, status, code
):
    if not body and path.startswith("/v1/images"):
        pytest.skip("pass-through needs no body")
    async with start_gateway() as gateway:
        answer = await exchange(
            gateway.app.port, request_bytes(path, body, headers=(KEY, ("Content-Encoding", coding)))
        )
        error = json.loads(answer.body)["error"]
        counted = metric_sum(await gateway.metrics(), "penstock_errors_total")
        assert not gateway.small_provider.request_bodies
    assert (answer.status, error["code"], counted) == (status, code, 1)
    assert ("type" in json.loads(answer.body)) is (path == "/v1/messages")
    if status == 415:
        assert coding.split(", ")[-1] in error["message"]
        assert answer.headers["accept-encoding"] == "zstd, br, gzip, deflate"


@pytest.mark.parametrize(
    "coding, encode",
    [("zstd", compress_zstd), ("br", brotli.compress), ("gzip", gzip.compress), ("deflate", zlib.compress),
     ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data)))],
)  # fmt: skip
async def test_a_bomb_is_refused_without_its_memory(start_gateway: StartGateway, coding, encode):
    body = encode(b" " * BOMB_BYTES)
    async with start_gateway(body_bytes_max=1_000_000) as gateway:
        await gateway.metrics()
        before = _reset_peak_kb()
        answer = await exchange(
            gateway.app.port,
            request_bytes("/v1/chat/completions", body, headers=(KEY, ("Content-Encoding", coding))),
        )
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (413, "body_too_large")
    assert _memory_kb("VmHWM") - before < 50_000


def _reset_peak_kb() -> int:
    """Resets the peak of this process's memory (proc(5)) and returns the memory now, in kB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_kb("VmRSS")


def _memory_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


async def test_admin_bodies_are_decoded_as_well(start_gateway: StartGateway):
    async with start_gateway(admin_token="let-me-in") as gateway:
        headers = (("Authorization", "Bearer let-me-in"), ("Content-Encoding", "zstd"))
        body = compress_zstd(b'{"usd": 1, "note": "more"}')
        answer = await exchange(gateway.app.port, request_bytes("/admin/budgets/none/grants", body, headers=headers))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "not_found")


async def _interim(port: int, *headers: str, body: bytes = CHAT_BODY) -> tuple[bytes, bytes]:
    """What arrives before the body is sent, and after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: g", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    rest = b""
    if first.startswith(b"HTTP/1.1 100"):
        writer.write(body)
        rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return first, rest


async def test_a_caller_that_expects_it_is_asked_to_go_on(start_gateway: StartGateway):
    length = f"Content-Length: {len(CHAT_BODY)}"
    async with start_gateway() as gateway:
        first, rest = await _interim(gateway.app.port, f"{KEY[0]}: {KEY[1]}", "Expect: 100-Continue", length)
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n" and rest.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "headers, status",
    [
        (("Authorization: Bearer wrong", "Content-Length: 60"), b"401"),
        (("Authorization: Bearer secret-one", "Content-Length: 99999999"), b"413"),
        (("Authorization: Bearer secret-one", "Content-Length: 60", "Content-Encoding: lzma"), b"415"),
    ],
    ids=["unknown key", "too large", "unknown coding"],
)
async def test_a_body_that_would_be_refused_is_not_asked_for(start_gateway: StartGateway, headers, status):
    async with start_gateway() as gateway:
        first, _ = await _interim(gateway.app.port, "Expect: 100-continue", *headers)
    assert first.split(b" ")[1] == status
