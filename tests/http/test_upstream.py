"""HttpUpstream against providers that violate HTTP or hang."""

import asyncio
import gzip
import zlib

import brotli
import pytest

from gateway.http.upstream import HttpUpstream
from gateway.providers.upstream_call import UpstreamCall
from gateway.values.errors import BrokenResponse, Unreachable, UpstreamError, UpstreamTimeout
from tests.http.raw_http import compress_zstd
from tests.snapshots import snapshot

TEXT = b'{"id":"' + b"text " * 20_000 + b'"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def dial(answer: bytes, *, hang: bool = False, small: str = "") -> bytes | UpstreamError:
    """Returns the body, or the error, for a provider that sends these raw bytes."""

    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if hang:
                await reader.read()
            writer.close()
            await writer.wait_closed()
        finally:
            served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    deployment = snapshot(near=f"http://127.0.0.1:{port}/v1", small=small).deployments["small"]
    upstream = HttpUpstream()
    try:
        response = await upstream.dial(
            UpstreamCall(
                deployment=deployment,
                upstream_dialect="chat",
                url=f"{deployment.base_url}/x",
                headers={},
                body=(b"{}",),
            )
        )
        try:
            return await response.read(1_000_000)
        finally:
            response.close()
    except UpstreamError as error:
        return error
    finally:
        await upstream.close()
        server.close()
        await served.wait()


@pytest.mark.parametrize(
    "answer, expected",
    [
        (HEAD + b"Content-Length: 2\r\n\r\n{}", b"{}"),
        (HEAD + b"Content-Length: 10\r\n\r\n{}", BrokenResponse),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", BrokenResponse),
        (b"", BrokenResponse),
        (b"\x00\x01\x02 nonsense\r\n\r\n", BrokenResponse),
        (HEAD + b"X: " + b"a" * 64_000 + b"\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
        (HEAD + b"".join(b"X-%d: %060d\r\n" % (n, n) for n in range(900)) + b"Content-Length: 2\r\n\r\n{}", b"{}"),
        (HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n", BrokenResponse),
        (HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(5000)) + b"\r\n", BrokenResponse),
        (HEAD + b"Content-Length: 2000000\r\n\r\n" + b"x" * 2_000_000, BrokenResponse),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", BrokenResponse),
        (HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(TEXT), TEXT),
        (HEAD + b"Content-Encoding: br\r\n\r\n" + brotli.compress(TEXT), TEXT),
        (HEAD + b"Content-Encoding: zstd\r\n\r\n" + compress_zstd(TEXT), TEXT),
        (HEAD + b"Content-Encoding: gzip, zstd\r\n\r\n" + compress_zstd(gzip.compress(TEXT)), TEXT),
        (HEAD + b"Content-Encoding: identity\r\n\r\n" + TEXT, TEXT),
        (HEAD + b"Content-Encoding: zstd\r\n\r\n" + compress_zstd(TEXT)[:-4], BrokenResponse),
        (HEAD + b"Content-Encoding: br\r\n\r\n" + brotli.compress(b"x" * 50_000_000), BrokenResponse),
        (HEAD + b"Content-Encoding: snappy\r\n\r\n" + TEXT, BrokenResponse),
        (HEAD + b"Content-Encoding: snappy\r\nContent-Length: 0\r\n\r\n", b""),
    ],
    ids=[
        "valid", "shorter than announced", "invalid chunk", "closed without response", "not HTTP", "a header of 64 KB",
        "64 KB of headers", "longer header", "more headers", "over the limit", "not gzip", "gzip", "br", "zstd", "two codings",
        "identity", "zstd cut short", "a bomb", "unknown coding", "unknown coding without body",
    ],
)  # fmt: skip
async def test_any_bytes_yield_a_body_or_an_upstream_error(answer, expected):
    result = await dial(answer)
    assert result == expected if isinstance(expected, bytes) else isinstance(result, expected), result


@pytest.mark.parametrize(
    "answer, timeouts",
    [
        (b"", "first_byte: 0.1"),
        (HEAD + b"Content-Length: 9\r\n\r\n{", "idle: 0.1"),
        (HEAD + b"Content-Length: 9\r\n\r\n{", "total: 0.1"),
    ],
    ids=["first byte", "idle", "total"],
)
async def test_each_timeout_ends_a_call(answer, timeouts):
    assert isinstance(await dial(answer, hang=True, small=f", timeouts: {{{timeouts}}}"), UpstreamTimeout)


async def test_a_refused_connection_is_unreachable():
    deployment = snapshot(near="http://127.0.0.1:9/v1").deployments["small"]
    upstream = HttpUpstream()
    with pytest.raises(Unreachable, match="small"):
        await upstream.dial(
            UpstreamCall(
                deployment=deployment,
                upstream_dialect="chat",
                url=f"{deployment.base_url}/x",
                headers={},
                body=(b"{}",),
            )
        )
    await upstream.close()


def _gzip_flushed(first: bytes, second: bytes) -> tuple[bytes, bytes]:
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    return compressor.compress(first) + compressor.flush(zlib.Z_SYNC_FLUSH), compressor.compress(
        second
    ) + compressor.flush()


def _brotli_flushed(first: bytes, second: bytes) -> tuple[bytes, bytes]:
    compressor = brotli.Compressor()
    return compressor.process(first) + compressor.flush(), compressor.process(second) + compressor.finish()


@pytest.mark.parametrize("coding, encode", [("gzip", _gzip_flushed), ("br", _brotli_flushed)])
async def test_an_event_of_a_compressed_stream_is_passed_on_as_it_arrives(coding, encode):
    first, second = encode(b"data: one\n\n", b"data: two\n\n")
    taken = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + f"Content-Encoding: {coding}\r\nConnection: close\r\n\r\n".encode() + first)
        await taken.wait()
        writer.write(second)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    deployment, upstream = snapshot(near=url).deployments["small"], HttpUpstream()
    response = await upstream.dial(
        UpstreamCall(deployment=deployment, upstream_dialect="chat", url=url, headers={}, body=(b"{}",))
    )
    assert await response.read_chunk() == b"data: one\n\n"
    assert await response.read_chunk_within(0.01) is None
    taken.set()
    assert await response.read(100) == b"data: two\n\n"
    response.close()
    await upstream.close()
    server.close()


async def test_the_time_after_a_bounded_read_is_not_the_provider_s_silence():
    rest = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: 6\r\n\r\nabc")
        await rest.wait()
        writer.write(b"def")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    small = ", timeouts: {idle: 0.3}"
    deployment = snapshot(near=f"http://127.0.0.1:{port}/v1", small=small).deployments["small"]
    upstream = HttpUpstream()
    call = UpstreamCall(deployment=deployment, upstream_dialect="chat", url=f"{deployment.base_url}/x", headers={}, body=(b"{}",))  # fmt: skip
    response = await upstream.dial(call)
    assert await response.read_chunk() == b"abc"
    assert await response.read_chunk_within(0.01) is None
    # Spent on a slow caller: longer than the provider may be silent.
    await asyncio.sleep(1.0)
    rest.set()
    assert await response.read_chunk() == b"def"
    response.close()
    await upstream.close()
    server.close()
