"""A provider's response whose first bytes were read to learn what it is."""

from collections.abc import Mapping

from ..values.errors import BrokenResponse
from .ports import UpstreamResponse

# How an event stream begins (WHATWG, Server-sent events): a field or a comment.
_STREAM_BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", b":")
_PEEKED_BYTES = 8
_PEEKED_BYTES_MAX = 4096
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ReplayedResponse:
    """Returns the bytes that were read first, then the rest of the response."""

    def __init__(self, response: UpstreamResponse, head: bytes) -> None:
        self._response = response
        self._head = head
        self.begins_stream = _text_of(head).startswith(_STREAM_BEGINNINGS)

    @classmethod
    async def peek(cls, response: UpstreamResponse) -> "ReplayedResponse":
        """Read until the kind of the body shows. Raises UpstreamError."""
        head = b""
        while len(_text_of(head)) < _PEEKED_BYTES and len(head) < _PEEKED_BYTES_MAX:
            data = await response.read_chunk()
            if not data:
                break
            head += data
        return cls(response, head)

    @property
    def status(self) -> int:
        """HTTP status of the provider."""
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the provider."""
        return self._response.headers

    async def read_chunk(self) -> bytes:
        """The bytes read first, then the response's."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return await self._response.read_chunk()

    async def read_chunk_within(self, seconds: float) -> bytes | None:
        """The same; None if nothing arrives within `seconds`."""
        return await self.read_chunk() if self._head else await self._response.read_chunk_within(seconds)

    async def read(self, limit: int) -> bytes:
        """The whole response, at most `limit` bytes. Raises UpstreamError."""
        head, self._head = self._head, b""
        rest = await self._response.read(limit)
        if len(head) + len(rest) > limit:
            raise BrokenResponse(f"Provider response larger than {limit} bytes.")
        return head + rest if rest else head

    def close(self) -> None:
        """Releases the response."""
        self._response.close()


def _text_of(head: bytes) -> bytes:
    return head.removeprefix(_BYTE_ORDER_MARK).lstrip()
