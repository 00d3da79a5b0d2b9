"""The door to providers: one aiohttp client for all of them.

Four clocks watch a call: connecting, the first byte, silence between bytes, and the whole. Bytes pass as they come;
compressed answers are decoded by aiohttp, and we ask for none.
"""

import asyncio
from collections.abc import Mapping

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from yarl import URL

from ..providers.upstream_call import UpstreamCall
from ..values.catalog import Timeouts
from ..values.errors import BrokenResponse, Unreachable, UpstreamError, UpstreamTimeout

# What aiohttp would add by itself; providers get what we say and nothing else.
_NO_AUTO_HEADERS = frozenset({"User-Agent", "Accept"})
# Idle connections are dropped by us before providers do (theirs are 60 s and more), else a request meets a closed one.
_KEEPALIVE_SECONDS = 15.0
_READ_BUFFER = 256 * 1024
_JOINED_BYTES_MAX = 128 * 1024


class HttpResponse:
    """A provider's answer that has begun; closes itself when it stays silent or lasts too long."""

    def __init__(self, response: aiohttp.ClientResponse, timeouts: Timeouts, started: float) -> None:
        self._response = response
        self._content = response.content
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_message = ""
        self._timeouts = timeouts
        self._waiting_since: float | None = None
        # A whole answer often comes with its head: then there is nothing left to watch.
        if not self._content.is_eof():
            self._start_watchdog(started)

    @property
    def status(self) -> int:
        """HTTP status of the provider."""
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the provider; names are case-insensitive."""
        return self._response.headers

    async def read_chunk(self) -> bytes:
        """What has arrived, b"" at the end. Raises UpstreamTimeout or BrokenAnswer."""
        if self._timer is not None:
            self._waiting_since = self._loop.time()
        try:
            data = await self._content.readany()
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise self._to_upstream_error(error) from error
        # From here on it is the caller whom we may wait for, and the provider is not to blame.
        self._waiting_since, self._silence_seconds_max = None, self._timeouts.idle
        return data

    async def read(self, limit: int) -> bytes:
        """The whole answer, at most `limit` bytes. Raises UpstreamTimeout or BrokenAnswer."""
        parts, size = [], 0
        while data := await self.read_chunk():
            size += len(data)
            if size > limit:
                raise BrokenResponse("The provider's answer is larger than any answer.")
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give the connection back, or end it if the answer was not read to its end."""
        if self._timer is not None:
            self._timer.cancel()
        if self._content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def _start_watchdog(self, started: float) -> None:
        """Our own clock takes over from aiohttp's, which would be set anew at every chunk."""
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = None
        self._loop = asyncio.get_running_loop()
        self._deadline = started + self._timeouts.total
        self._silence_seconds_max = self._timeouts.first_byte
        self._waiting_since = self._loop.time()
        self._check_timeouts()

    def _check_timeouts(self) -> None:
        now, since = self._loop.time(), self._waiting_since
        if now >= self._deadline:
            self._timeout_message = "The provider's answer took longer than the deployment's total timeout."
        elif since is not None and now >= since + self._silence_seconds_max:
            self._timeout_message = "The provider stayed silent longer than the deployment's timeout."
        else:
            # Patience shrinks from first_byte to idle once bytes have come, so look again no later than idle from now.
            due = min((since if since is not None else now) + self._silence_seconds_max, now + self._timeouts.idle)
            self._timer = self._loop.call_at(min(due, self._deadline), self._check_timeouts)
            return
        self._response.close()

    def _to_upstream_error(self, error: Exception) -> UpstreamError:
        if self._timeout_message or isinstance(error, TimeoutError):
            return UpstreamTimeout(self._timeout_message or "The provider sent no first byte in time.")
        return BrokenResponse(f"The provider broke off its answer ({type(error).__name__}).")


class _SegmentedPayload(Payload):
    """A request body in pieces, of known length: no piece is copied to be joined with the others."""

    def __init__(self, pieces: tuple[bytes | memoryview, ...]) -> None:
        super().__init__(pieces, content_type="application/json")
        self._size = sum(map(len, pieces))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole as text; aiohttp asks for it in its own debugging only."""
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it."""
        for piece in self._value:
            if piece:
                await writer.write(piece)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send it; the length is ours to know."""
        await self.write(writer)


def _payload(pieces: tuple[bytes | memoryview, ...]) -> bytes | Payload | None:
    """Short bodies are joined, which is cheaper than several writes; long ones are not. None where there is none."""
    if not any(pieces):
        return None
    return b"".join(pieces) if sum(map(len, pieces)) < _JOINED_BYTES_MAX else _SegmentedPayload(pieces)


class HttpUpstream:
    """Dials. Close it when the process ends."""

    def __init__(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
        self._client = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NO_AUTO_HEADERS,
            read_bufsize=_READ_BUFFER,
        )
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[tuple[float, float], aiohttp.ClientTimeout] = {}

    async def dial(self, call: UpstreamCall) -> HttpResponse:
        """Send the request and wait for the status line. Raises Unreachable, UpstreamTimeout or BrokenAnswer."""
        timeouts = call.deployment.timeouts
        started = asyncio.get_running_loop().time()
        try:
            response = await self._client.request(
                call.method,
                self._url(call),
                data=_payload(call.body),
                headers=call.headers,
                allow_redirects=False,
                timeout=self._timeout(timeouts),
            )
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise Unreachable(f"No connection to the provider of '{call.deployment.name}'.") from error
        except TimeoutError as error:
            raise UpstreamTimeout(f"No answer from '{call.deployment.name}' within its first-byte timeout.") from error
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            broken = BrokenResponse(f"The provider of '{call.deployment.name}' broke off ({type(error).__name__}).")
            broken.retryable = True
            raise broken from error
        return HttpResponse(response, timeouts, started)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    def _url(self, call: UpstreamCall) -> URL:
        """Parsed once per deployment and dialect, whose number the configuration bounds; other paths each time."""
        if call.upstream_dialect == "passage":
            return URL(call.url, encoded=True)
        parsed = self._urls.get(call.url)
        if parsed is None:
            parsed = self._urls[call.url] = URL(call.url)
        return parsed

    def _timeout(self, timeouts: Timeouts) -> aiohttp.ClientTimeout:
        """aiohttp's own clocks watch the connection and the first byte: of the headers, then of the body."""
        key = (timeouts.connect, timeouts.first_byte)
        timeout = self._timeouts.get(key)
        if timeout is None:
            timeout = self._timeouts[key] = aiohttp.ClientTimeout(
                total=None, sock_connect=timeouts.connect, sock_read=timeouts.first_byte
            )
        return timeout
