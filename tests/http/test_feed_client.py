"""The HTTP client of feeds, against servers on loopback."""

import asyncio
import socket

import pytest
from aiohttp import web

from gateway.http.feed_client import FeedClient
from tests.feeds.simulated_feed import serving

MEGABYTE = 1024 * 1024


async def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    client = FeedClient()
    try:
        return await client.get(url, headers)
    finally:
        await client.close()


async def echo(request: web.BaseRequest) -> web.Response:
    """Answers with the key and the agent that it received; a path is the status."""
    text = f"{request.headers.get('auth-token')} {request.headers['User-Agent']}"
    return web.Response(status=int(request.path[1:] or 200), text=text, headers={"Location": "/200"})


@pytest.mark.parametrize("status", [200, 401, 404, 500])
async def test_any_status_is_returned_with_its_body(status):
    async with serving(echo) as base_url:
        assert await fetch(f"{base_url}/{status}", **{"auth-token": "k"}) == (status, b"k penstock")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed_so_that_the_key_stays(status):
    async with serving(echo) as base_url:
        assert (await fetch(f"{base_url}/{status}", **{"auth-token": "k"}))[0] == status


async def test_requests_share_a_connection():
    peers = set()

    async def handle(request: web.BaseRequest) -> web.Response:
        peers.add(request.transport.get_extra_info("peername") if request.transport is not None else None)
        return web.Response(text="x")

    client = FeedClient()
    async with serving(handle) as base_url:
        for _ in range(3):
            assert await client.get(base_url, {}) == (200, b"x")
        await client.close()
    assert len(peers) == 1


@pytest.mark.parametrize("size, is_accepted", [(4 * MEGABYTE, True), (4 * MEGABYTE + 1, False)])
async def test_a_body_has_at_most_four_megabytes(size, is_accepted):
    async def handle(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * size)

    async with serving(handle) as base_url:
        if is_accepted:
            assert len((await fetch(base_url))[1]) == size
        else:
            with pytest.raises(OSError, match="response too large"):
                await fetch(base_url)


async def test_a_refused_connection_is_an_os_error_without_the_url():
    with socket.socket() as unused:
        # Bound and not listening: connections to the port are refused.
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="connection failed") as raised:
            await fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/?token=secret", **{"auth-token": "secret"})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "answer, problem",
    [
        (b"nonsense\r\n\r\n", "invalid response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "invalid response"),
        (b"", "connection failed"),
    ],
    ids=["not HTTP", "shorter than announced", "closed at once"],
)
async def test_a_broken_answer_is_an_os_error(answer, problem):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises(OSError, match=problem):
            await fetch(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


async def test_an_invalid_url_is_an_os_error():
    with pytest.raises(OSError, match="invalid response"):
        await fetch("http://")


async def test_a_client_that_was_never_used_can_be_closed():
    await FeedClient().close()
