"""Receives the body of a request within limits of size and time, and decodes its content coding."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from ..values.errors import BadRequest, BodyTooLarge, UnsupportedEncoding
from .content_coding import ACCEPTED_CODINGS, ContentDecoder, CorruptContent, UnknownCoding, codings_of

# Decoded bytes after which other requests are served.
_TURN_BYTES = 1024 * 1024


async def read_body(
    request: web.BaseRequest, headers: Mapping[str, str], *, bytes_max: int, seconds_max: float
) -> bytes | bytearray:
    """Returns the whole body, decoded. Raises BodyTooLarge, UnsupportedEncoding and BadRequest.

    headers: the request's, names in lower case
    bytes_max: limit of the body as sent, and as decoded
    """
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    codings: tuple[str, ...] = ()
    if "content-encoding" in headers:
        try:
            codings = codings_of(headers["content-encoding"])
        except UnknownCoding as error:
            raise UnsupportedEncoding(str(error), ACCEPTED_CODINGS) from None
    if "expect" in headers:
        _send_continue(request, headers["expect"])
    body = await _receive(request, bytes_max, seconds_max)
    return await _decoded(body, codings, bytes_max) if codings else body


async def _receive(request: web.BaseRequest, bytes_max: int, seconds_max: float) -> bytes | bytearray:
    content = request.content
    if content.is_eof():
        received = content.read_nowait(-1)
        if len(received) > bytes_max:
            raise _too_large(bytes_max)
        return received
    # Allocated once if the length is known, rather than growing and copying.
    body = bytearray(request.content_length or 0)
    size = 0
    try:
        async with asyncio.timeout(seconds_max):
            while data := await content.readany():
                end = size + len(data)
                if end > bytes_max:
                    raise _too_large(bytes_max)
                body[size:end] = data
                size = end
    except TimeoutError as error:
        raise BadRequest(f"Request body not received within {seconds_max:g} seconds.", code="body_timeout") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise BadRequest("Incomplete request body.", code="incomplete_body") from error
    del body[size:]
    return body


async def _decoded(data: bytes | bytearray, codings: tuple[str, ...], bytes_max: int) -> bytearray:
    """Decodes a body; it is never larger than the limit in memory, whatever its ratio."""
    decoder, body, turn_ends = ContentDecoder(codings), bytearray(), _TURN_BYTES
    try:
        for piece in decoder.feed(data):
            if len(body) + len(piece) > bytes_max:
                raise _too_large(bytes_max)
            body += piece
            if len(body) > turn_ends:
                turn_ends += _TURN_BYTES
                await asyncio.sleep(0)
        decoder.finish()
    except CorruptContent as error:
        message = f"Request body is not valid {error}, as its Content-Encoding says, or ends early."
        raise BadRequest(message, code="invalid_encoding", param="content-encoding") from error
    return body


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(f"Request body too large: the limit is {bytes_max} bytes.")


def _send_continue(request: web.BaseRequest, expectation: str) -> None:
    """Sends `100 Continue` to a caller that waits for it before it sends its body."""
    if expectation.lower() == "100-continue" and request.transport is not None and not request.content.is_eof():
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
