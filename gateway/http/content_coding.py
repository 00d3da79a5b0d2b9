"""Decodes HTTP content codings (gzip, deflate, br, zstd) in pieces of bounded size. Pure.

The caller counts the bytes that it takes and stops when they are too many: nothing is decoded ahead of it.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

# Codings that are decoded, as `Accept-Encoding` lists them.
ACCEPTED_CODINGS = "zstd, br, gzip, deflate"
# About the bytes that one step decodes.
PIECE_BYTES = 256 * 1024
# Codings that one body may have been given, one after the other: a second serves proxies, more only bombs.
_CODINGS_MAX = 2
# Concatenated members (gzip) or frames (zstd) in one body: each costs more than its bytes.
_MEMBERS_MAX = 100
# A member hands back what follows it: slices keep that copy short.
_SLICE_BYTES = 64 * 1024
# Window of 8 MB, the most that a zstd content coding may need (RFC 9659, section 3).
_ZSTD_OPTIONS: dict[int, int] = {DecompressionParameter.window_log_max: 23}
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class UnknownCoding(ValueError):
    """A coding that is not decoded; the text is its name."""


class CorruptContent(ValueError):
    """Bytes that are not what their coding says, or that end early; the text is the coding."""


class _Coding(Protocol):
    """One coding: bytes in, decoded pieces out."""

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]: ...
    def is_complete(self) -> bool: ...


def codings_of(header: str) -> tuple[str, ...]:
    """Returns the codings of a Content-Encoding header in the order in which they were applied. Raises UnknownCoding."""
    names = [name.strip().lower() for name in header.split(",")]
    codings = tuple(name.removeprefix("x-") for name in names if name not in ("", "identity"))
    for name in codings:
        if name not in _CODINGS:
            raise UnknownCoding(name[:40] if name.isascii() and name.isprintable() else "?")
    if len(codings) > _CODINGS_MAX:
        raise UnknownCoding(", ".join(codings)[:40])
    return codings


class ContentDecoder:
    """Decodes one body.

    codings: as of `codings_of`
    """

    def __init__(self, codings: tuple[str, ...]) -> None:
        self._stages = [(name, _CODINGS[name]()) for name in reversed(codings)]
        self._has_begun = False

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Decodes further bytes; exhaust it before the next call. Raises CorruptContent."""
        self._has_begun = self._has_begun or bool(data)
        return self._decode(data, 0)

    def finish(self) -> None:
        """Raises CorruptContent if the content is incomplete; a body without a byte is complete."""
        for name, stage in self._stages:
            if self._has_begun and not stage.is_complete():
                raise CorruptContent(name)

    def _decode(self, data: bytes | bytearray, index: int) -> Iterator[bytes]:
        if index == len(self._stages):
            yield bytes(data)
            return
        name, stage = self._stages[index]
        try:
            for piece in stage.feed(data):
                yield from self._decode(piece, index + 1)
        except (zlib.error, brotli.error, ZstdError, EOFError) as error:
            raise CorruptContent(name) from error


class _Gzip:
    """gzip, of one or more members."""

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(_GZIP_BITS)
        self._members = 1

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        for start in range(0, len(data), _SLICE_BYTES):
            rest = bytes(data[start : start + _SLICE_BYTES])
            while rest:
                if self._decompressor.eof:
                    self._decompressor, self._members = zlib.decompressobj(_GZIP_BITS), self._members + 1
                    if self._members > _MEMBERS_MAX:
                        raise zlib.error("too many members")
                yield from _inflate(self._decompressor, rest)
                rest = self._decompressor.unused_data

    def is_complete(self) -> bool:
        return self._decompressor.eof


class _Deflate:
    """deflate: zlib's format (RFC 9110, 8.4.1.2), or without its header, as some senders understand the name."""

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(_ZLIB_BITS)
        self._head = b""

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        if len(self._head) < 2:
            data = self._head = self._head + bytes(data)
            if len(data) < 2:
                return
            # RFC 1950, 2.2: method 8, and a check that makes the two bytes a multiple of 31.
            if data[0] & 0xF != 8 or (data[0] << 8 | data[1]) % 31:
                self._decompressor = zlib.decompressobj(_RAW_BITS)
            self._head = data[:2]
        yield from _inflate(self._decompressor, bytes(data))
        if self._decompressor.unused_data:
            raise zlib.error("data after the end")

    def is_complete(self) -> bool:
        return self._decompressor.eof


class _Brotli:
    """br."""

    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        rest = bytes(data)
        while True:
            if piece := self._decompressor.process(rest, output_buffer_limit=PIECE_BYTES):
                yield piece
            if self._decompressor.is_finished() or self._decompressor.can_accept_more_data():
                return
            rest = b""

    def is_complete(self) -> bool:
        return bool(self._decompressor.is_finished())


class _Zstd:
    """zstd, of one or more frames."""

    def __init__(self) -> None:
        self._decompressor = ZstdDecompressor(options=_ZSTD_OPTIONS)
        self._frames = 1

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        for start in range(0, len(data), _SLICE_BYTES):
            yield from self._feed_slice(bytes(data[start : start + _SLICE_BYTES]))

    def _feed_slice(self, rest: bytes) -> Iterator[bytes]:
        while rest:
            if self._decompressor.eof:
                self._decompressor, self._frames = ZstdDecompressor(options=_ZSTD_OPTIONS), self._frames + 1
                if self._frames > _MEMBERS_MAX:
                    raise ZstdError("too many frames")
            while True:
                if piece := self._decompressor.decompress(rest, PIECE_BYTES):
                    yield piece
                rest = b""
                if self._decompressor.eof or self._decompressor.needs_input:
                    break
            rest = self._decompressor.unused_data if self._decompressor.eof else b""

    def is_complete(self) -> bool:
        return self._decompressor.eof


def _inflate(decompressor: Any, data: bytes) -> Iterator[bytes]:
    """Decodes until the input is used up or the stream ends; what follows the end is in `unused_data`."""
    while True:
        piece = decompressor.decompress(data, PIECE_BYTES)
        if piece:
            yield piece
        data = decompressor.unconsumed_tail
        # A full piece may leave output inside zlib although no input is left.
        if decompressor.eof or (not data and len(piece) < PIECE_BYTES):
            return


_CODINGS: dict[str, Callable[[], _Coding]] = {"gzip": _Gzip, "deflate": _Deflate, "br": _Brotli, "zstd": _Zstd}
