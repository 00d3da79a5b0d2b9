"""Content codings, decoded in bounded pieces."""

import gzip
import sys
import zlib

import brotli
import pytest

from gateway.http.content_coding import PIECE_BYTES, ContentDecoder, CorruptContent, UnknownCoding, codings_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b'{"model":"auto","input":"' + b"plain text and \xc3\xa9 " * 5000 + b'"}'


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


ENCODERS = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd.compress}


def decode(header: str, *parts: bytes) -> bytes:
    decoder = ContentDecoder(codings_of(header))
    pieces = [piece for part in parts for piece in decoder.feed(part)]
    decoder.finish()
    assert all(len(piece) <= 2 * PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_body_is_decoded_whole_and_byte_by_byte(name):
    encoded = ENCODERS[name](TEXT)
    assert decode(name, encoded) == TEXT
    assert decode(name, *(encoded[index : index + 1] for index in range(len(encoded)))) == TEXT


@pytest.mark.parametrize(
    "header, encoded",
    [
        ("GZIP", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("identity", TEXT),
        ("", TEXT),
        ("identity, zstd", zstd.compress(TEXT)),
        ("gzip, zstd", zstd.compress(gzip.compress(TEXT))),
        ("zstd,br", brotli.compress(zstd.compress(TEXT))),
        ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ("zstd", zstd.compress(TEXT[:100]) + zstd.compress(TEXT[100:])),
        # A skippable frame (RFC 8878, 3.1.2).
        ("zstd", b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstd.compress(TEXT)),
    ],
    ids=[
        "upper case", "gzip's old name", "deflate without header", "identity", "empty", "identity besides",
        "two codings", "two more codings", "two gzip members", "two zstd frames", "a skippable frame",
    ],
)  # fmt: skip
def test_any_legal_form_is_decoded(header, encoded):
    assert decode(header, encoded) == TEXT


@pytest.mark.parametrize("header", ["compress", "dcb", "gzip;q=1", "zstd, snappy", "gzip, gzip, gzip", "caf\u00e9"])
def test_other_codings_are_named(header):
    with pytest.raises(UnknownCoding):
        codings_of(header)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "change", [lambda data: data[:-5], lambda data: b"nonsense" + data], ids=["cut short", "not the coding"]
)
def test_corrupt_content_is_an_error(name, change):
    with pytest.raises(CorruptContent, match=name):
        decode(name, change(ENCODERS[name](TEXT)))


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_wrong_checksum_is_an_error(name):
    encoded = ENCODERS[name](TEXT)
    with pytest.raises(CorruptContent, match=name):
        decode(name, encoded[:-8] + bytes(8))


@pytest.mark.parametrize("name", ENCODERS)
def test_no_more_is_decoded_than_is_taken(name):
    encoded = ENCODERS[name](b"\0" * 100_000_000)
    taken = 0
    for piece in ContentDecoder((name,)).feed(encoded):
        taken += len(piece)
        if taken > 1_000_000:
            break
    assert taken < 1_000_000 + 2 * PIECE_BYTES


@pytest.mark.parametrize("name, encode", [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_thousands_of_empty_members_are_refused(name, encode):
    with pytest.raises(CorruptContent):
        decode(name, encode(b"") * 20_000)


def test_a_zstd_window_beyond_that_of_http_is_refused():
    """RFC 9659 limits it to 8 MB; the format allows terabytes."""
    window: dict[int, int] = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=window)
    encoded = compressor.compress(b"x" * 1000) + compressor.flush()
    with pytest.raises(CorruptContent):
        decode("zstd", encoded)


@pytest.mark.parametrize("name", [*ENCODERS, "gzip, zstd"])
def test_a_body_without_a_byte_is_complete(name):
    assert decode(name, b"") == b""
