"""Requests as exact bytes on a socket, where a client library would normalize them, and providers that answer so."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

if sys.version_info >= (3, 14):
    from compression.zstd import compress as compress_zstd
else:
    from backports.zstd import compress as compress_zstd

__all__ = ["CHAT_BODY", "RawAnswer", "compress_zstd", "exchange", "raw_server", "request_bytes"]

CHAT_BODY = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
_ANSWER_SECONDS = 10.0


class RawAnswer:
    """An answer: status, headers (lower-case name -> last value), body."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.status_line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(self.status_line.split(" ")[1])
        self.headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}


def request_bytes(
    path: str,
    body: bytes = CHAT_BODY,
    *,
    method: str = "POST",
    headers: tuple[tuple[str, str], ...] = (("Authorization", "Bearer secret-one"),),
) -> bytes:
    """A request whose connection closes after the answer."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def exchange(port: int, data: bytes) -> RawAnswer:
    """Sends bytes and returns the answer, read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return RawAnswer(await asyncio.wait_for(reader.read(), _ANSWER_SECONDS))
    finally:
        writer.close()


@asynccontextmanager
async def raw_server(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Runs a server that answers each request by its bytes; yields its port and the requests that it got.

    answer: called with the head and the body of a request
    """
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                request = head + await reader.readexactly(length)
                requests.append(request)
                data = answer(request)
                writer.write(data)
                await writer.drain()
                if b"connection: close" in data.partition(b"\r\n\r\n")[0].lower():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()
