"""HTTP client for providers: one aiohttp session for all of them.

Four timeouts apply to a call: connect, first byte, idle between bytes, and total. Bytes pass as they arrive; no
compression is requested, and a response that is compressed all the same is decoded in bounded pieces.
"""

import asyncio
from collections.abc import Iterator, Mapping

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from yarl import URL

from ..providers.upstream_call import UpstreamCall
from ..values.catalog import Timeouts
from ..values.errors import BrokenResponse, Unreachable, UpstreamError, UpstreamTimeout
from .content_coding import ContentDecoder, CorruptContent, UnknownCoding, codings_of
from .proxies import NO_PROXIES, InvalidProxy, Proxies
from .response_reader import ResponseReader

# aiohttp's default headers; providers get the call's headers only.
_NO_AUTO_HEADERS = frozenset({"User-Agent", "Accept"})
# Shorter than providers' keep-alive (60 s and more), so that no request meets a connection they have closed.
_KEEPALIVE_SECONDS = 15.0
_READ_BUFFER = 256 * 1024
_JOINED_BYTES_MAX = 128 * 1024
# Limits of a response's headers: bytes of a line, and lines. Providers behind several CDNs and policies send more than
# aiohttp's 8190 bytes (Envoy's own limit for all of them is 60 KiB, Go's 1 MB).
_HEADER_LINE_MAX, _HEADERS_MAX = 64 * 1024, 1000
_PROXY_LOGIN_REQUIRED = 407


class HttpResponse(ResponseReader):
    """A provider's response whose headers have arrived; closes itself at a timeout."""

    def __init__(self, response: aiohttp.ClientResponse, timeouts: Timeouts, started: float) -> None:
        self._response = response
        self._content = response.content
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_message = ""
        self._timeouts = timeouts
        self._waiting_since: float | None = None
        self._coding = response.headers.get("Content-Encoding", "")
        self._decoder: ContentDecoder | None = None
        self._pieces: Iterator[bytes] = iter(())
        # A whole response often arrives with its headers: then no timeout is needed.
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
        """Returns the bytes that have arrived, decoded, b"" at the end. Raises UpstreamError."""
        while True:
            if self._coding and (piece := self._decoded_piece()):
                return piece
            if self._timer is not None:
                self._waiting_since = self._loop.time()
            try:
                data = await self._content.readany()
            except asyncio.CancelledError:
                # A bounded read gave up: what follows is not the provider's silence.
                self._waiting_since = None
                raise
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                raise self._to_upstream_error(error) from error
            # Time until the next read is spent on the caller and does not count as provider silence.
            self._waiting_since, self._silence_seconds_max = None, self._timeouts.idle
            if not self._coding:
                return data
            self._feed_decoder(data)
            if not data:
                return b""

    def close(self) -> None:
        """Releases the connection, or closes it if the response was not read to its end."""
        if self._timer is not None:
            self._timer.cancel()
        if self._content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def _decoded_piece(self) -> bytes:
        """Returns the next piece of what arrived of a compressed response, b"" if it is used up."""
        try:
            return next(self._pieces, b"")
        except CorruptContent as error:
            raise BrokenResponse(f"Provider response is not valid {error}, as its Content-Encoding says.") from error

    def _feed_decoder(self, data: bytes) -> None:
        """Takes further bytes of a compressed response, b"" at its end."""
        try:
            if self._decoder is None:
                # Only now: a response without a body may name any coding.
                self._decoder = ContentDecoder(codings_of(self._coding) if data else ())
            if data:
                self._pieces = self._decoder.feed(data)
            else:
                self._decoder.finish()
        except UnknownCoding as error:
            raise BrokenResponse(f"Provider response has Content-Encoding '{error}'; none was accepted.") from error
        except CorruptContent as error:
            raise BrokenResponse(f"Provider response ends early within its {error} coding.") from error

    def _start_watchdog(self, started: float) -> None:
        """Starts our own timer instead of aiohttp's, which would be reset at every chunk."""
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
            self._timeout_message = "Total timeout: the provider's response took longer than the deployment allows."
        elif since is not None and now >= since + self._silence_seconds_max:
            self._timeout_message = "Read timeout: the provider sent nothing for longer than the deployment allows."
        else:
            # The limit drops from first_byte to idle once bytes have arrived, so check again within the idle time.
            due = min((since if since is not None else now) + self._silence_seconds_max, now + self._timeouts.idle)
            self._timer = self._loop.call_at(min(due, self._deadline), self._check_timeouts)
            return
        self._response.close()

    def _to_upstream_error(self, error: Exception) -> UpstreamError:
        if self._timeout_message or isinstance(error, TimeoutError):
            return UpstreamTimeout(self._timeout_message or "First-byte timeout: the provider sent no body in time.")
        return BrokenResponse(
            f"The provider closed the connection before the response was complete ({type(error).__name__})."
        )


class _SegmentedPayload(Payload):
    """A request body of known length, sent in segments without joining them."""

    def __init__(self, segments: tuple[bytes | memoryview, ...]) -> None:
        super().__init__(segments, content_type="application/json")
        self._size = sum(map(len, segments))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Returns the body as text; aiohttp calls it for debugging only."""
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Writes the segments."""
        for segment in self._value:
            if segment:
                await writer.write(segment)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Writes the segments; their length is known, so `content_length` is ignored."""
        await self.write(writer)


def _payload(segments: tuple[bytes | memoryview, ...]) -> bytes | Payload | None:
    """Joins short bodies, cheaper than several writes; None for an empty body."""
    if not any(segments):
        return None
    return b"".join(segments) if sum(map(len, segments)) < _JOINED_BYTES_MAX else _SegmentedPayload(segments)


class HttpUpstream:
    """Sends calls to providers over pooled connections, directly or through a proxy.

    proxies: looked up once for each URL
    """

    def __init__(self, proxies: Proxies = NO_PROXIES) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
        self._client = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NO_AUTO_HEADERS,
            read_bufsize=_READ_BUFFER,
            max_line_size=_HEADER_LINE_MAX,
            max_field_size=_HEADER_LINE_MAX,
            max_headers=_HEADERS_MAX,
            auto_decompress=False,
        )
        self._proxies = proxies
        # URL of a call -> the same parsed, and its proxy.
        self._targets: dict[str, tuple[URL, URL | None]] = {}
        self._timeouts: dict[tuple[float, float], aiohttp.ClientTimeout] = {}

    async def dial(self, call: UpstreamCall) -> HttpResponse:
        """Sends the request and waits for the headers. Raises UpstreamError."""
        timeouts = call.deployment.timeouts
        url, proxy = self._target(call)
        started = asyncio.get_running_loop().time()
        try:
            response = await self._client.request(
                call.method,
                url,
                data=_payload(call.body),
                headers=call.headers,
                allow_redirects=False,
                timeout=self._timeout(timeouts),
                proxy=proxy,
            )
        except aiohttp.ClientProxyConnectionError as error:
            raise Unreachable(f"Connection failed: the proxy of '{call.deployment.name}' is unreachable.") from error
        except aiohttp.ClientHttpProxyError as error:
            raise _refused_by_proxy(call, error.status) from error
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise Unreachable(f"Connection failed: the provider of '{call.deployment.name}' is unreachable.") from error
        except TimeoutError as error:
            raise UpstreamTimeout(f"First-byte timeout: no response from '{call.deployment.name}'.") from error
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            broken = BrokenResponse(f"Connection to '{call.deployment.name}' closed early ({type(error).__name__}).")
            broken.retryable = True
            raise broken from error
        if proxy is not None and response.status == _PROXY_LOGIN_REQUIRED:
            response.close()
            raise _refused_by_proxy(call, response.status)
        return HttpResponse(response, timeouts, started)

    async def close(self) -> None:
        """Closes every connection."""
        await self._client.close()

    def _target(self, call: UpstreamCall) -> tuple[URL, URL | None]:
        """Returns the URL and the proxy of a call. Raises Unreachable.

        Both are kept per deployment and dialect; of pass-through only the proxy.
        """
        if call.upstream_dialect == "passthrough":
            return URL(call.url, encoded=True), self._known_target(call, call.deployment.base_url)[1]
        return self._targets.get(call.url) or self._known_target(call, call.url)

    def _known_target(self, call: UpstreamCall, url: str) -> tuple[URL, URL | None]:
        target = self._targets.get(url)
        if target is None:
            try:
                proxy = self._proxies.proxy_of(url)
            except InvalidProxy as error:
                raise Unreachable(f"Connection to '{call.deployment.name}' failed: {error}.") from error
            target = self._targets[url] = URL(url), URL(proxy) if proxy else None
        return target

    def _timeout(self, timeouts: Timeouts) -> aiohttp.ClientTimeout:
        """Returns aiohttp's timeouts: connecting, first byte of headers and of body."""
        key = (timeouts.connect, timeouts.first_byte)
        timeout = self._timeouts.get(key)
        if timeout is None:
            timeout = self._timeouts[key] = aiohttp.ClientTimeout(
                total=None, sock_connect=timeouts.connect, sock_read=timeouts.first_byte
            )
        return timeout


def _refused_by_proxy(call: UpstreamCall, status: int) -> Unreachable:
    return Unreachable(f"Connection failed: the proxy of '{call.deployment.name}' refused it with status {status}.")
