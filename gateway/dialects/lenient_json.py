"""Reads and writes JSON that providers send although the standard forbids it.

That is NaN and Infinity (log-probabilities of vLLM), lone surrogates and cut UTF-8 (a character split between two
events). The strict reader comes first; what it accepts costs nothing more.
"""

import codecs
import json
import re
from typing import Any

import orjson

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# Lone surrogates that stand for no byte. U+DC80 to U+DCFF stand for bytes that are not UTF-8 (PEP 383).
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_LONE_OR_BYTE = re.compile("[\ud800-\udfff]")
# What may begin a text whose first character began in the text before: low surrogates, continuation bytes.
_CONTINUATIONS = "".join(map(chr, range(0xDC00, 0xE000)))
_REPLACEMENT = "\ufffd"


def loads(data: bytes | bytearray | str) -> Any:
    """Parse a JSON document. Raises ValueError.

    A text that begins or ends within a character keeps the part as surrogates, for `TextJoiner`.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _loads_what_is_forbidden(data)


def dumps(value: Any) -> bytes:
    """Encode a JSON document; surrogates become U+FFFD. Raises TypeError on what is no JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_without_surrogates(value))


class TextJoiner:
    """Joins characters that were split between the pieces of one text."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = ""

    def join(self, piece: str) -> str:
        """Return the whole characters of what is pending and `piece`."""
        if not self._pending and (piece.isascii() or not _is_cut(piece)):
            return piece
        whole, self._pending = _split_whole(self._pending + piece)
        return whole

    def end(self) -> str:
        """Return what stands for a character that was never completed."""
        pending, self._pending = self._pending, ""
        return _REPLACEMENT if pending else ""


def _loads_what_is_forbidden(data: bytes | bytearray | str) -> Any:
    text = data if isinstance(data, str) else data.decode(errors="surrogateescape")
    try:
        return _mended(json.loads(text, parse_int=_number))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _number(digits: str) -> int | float:
    """An integer of 64 bits, else a float, as the strict reader has it."""
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else float(value)


def _is_cut(piece: str) -> bool:
    """Whether a text begins or ends within a character."""
    return "\ud800" <= piece[0] <= "\udfff" or "\ud800" <= piece[-1] <= "\udfff"


def _split_whole(text: str) -> tuple[str, str]:
    """(the text's whole characters, the beginning of a character at its end)."""
    text = _PAIR.sub(_pair_character, text)
    pending = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
    text = _LONE.sub(_REPLACEMENT, text.removesuffix(pending))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    whole = decoder.decode(text.encode(errors="surrogateescape"), final=bool(pending))
    cut_bytes, _ = decoder.getstate()
    return whole, pending or cut_bytes.decode(errors="surrogateescape")


def _pair_character(pair: re.Match[str]) -> str:
    return pair.group().encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _mended(value: Any) -> Any:
    """The value with whole characters; parts of one remain only at the ends of texts."""
    if isinstance(value, str):
        return value if value.isascii() or not _LONE_OR_BYTE.search(value) else _mended_text(value)
    if isinstance(value, list):
        return [_mended(entry) for entry in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _mended(entry) for name, entry in value.items()}
    return value


def _mended_text(text: str) -> str:
    begin = len(text) - len(text.lstrip(_CONTINUATIONS))
    whole, pending = _split_whole(text[begin:])
    return text[:begin] + whole + pending


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE_OR_BYTE.sub(_REPLACEMENT, value)
    if isinstance(value, list):
        return [_without_surrogates(entry) for entry in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(entry) for name, entry in value.items()}
    return value
