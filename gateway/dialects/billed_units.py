"""What providers bill by the piece: how many pieces a request can cost, and how many an answer reports.

A unit is one of catalog.BILLED_UNITS; quality and size follow it where the price may depend on them:
`image:high:1024x1024`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from .body import check_count

# OpenAI draws 10 images at most; other providers more.
IMAGES_MAX = 128
# 8 kbit/s, the lowest rate at which speech is stored (AMR, Opus).
_AUDIO_BYTES_PER_SECOND_MIN = 1000
# A search unit of Cohere is a query with 100 documents (cohere.com/pricing, as quoted by developersdigest.tech, October
# 2026); a long document counts as several, from 510 tokens on at the least. A token has at least one byte.
_DOCUMENTS_PER_QUERY, _BYTES_PER_DOCUMENT = 100, 500
# Mistral reads 1,000 pages at most (paperless-gpt, docs/mistral_llm.md, 2026-11-29).
_PAGES_MAX = 1000
# OpenAI's videos: 4 seconds where the request names none (replicate.com/openai/sora-2-pro, PyRIT, 2026-11-29).
_VIDEO_SECONDS_DEFAULT, _VIDEO_SECONDS_MAX = 4, 3600
# Resolutions as the price list names them, by the shorter side in pixels.
_RESOLUTIONS = {480: "480p", 720: "720p", 768: "768p", 1024: "1024p", 1080: "1080p", 1440: "2k", 2160: "4k"}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_QUALITY = re.compile(r"[a-z]{1,16}")
_UNNAMED = ("", "auto")
# Fields of a request that the number or the price of its pieces depends on, in JSON or in a form.
FIELDS = ("n", "size", "quality", "seconds")


def units_max(path: str, body_bytes: int, fields: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return (unit, count at most) where a path is billed by the piece, else None. Raises BadRequest.

    fields: FIELDS, `input`, `documents` and `pages`, as far as the request has them
    """
    if path.startswith("/images/"):
        return _with_variant("image", fields), check_count("n", _whole(fields.get("n")), IMAGES_MAX) or 1
    if path.startswith("/audio/speech"):
        text = fields.get("input")
        return "character", len(text) if isinstance(text, str) else body_bytes
    if path.startswith("/audio/"):
        return "second", -(-body_bytes // _AUDIO_BYTES_PER_SECOND_MIN)
    if path.startswith("/rerank"):
        documents = fields.get("documents")
        count = (len(documents) if isinstance(documents, list) else 0) + body_bytes // _BYTES_PER_DOCUMENT
        return "query", max(1, -(-count // _DOCUMENTS_PER_QUERY))
    if path == "/ocr":
        pages = fields.get("pages")
        return "page", len(pages) if isinstance(pages, list) and pages else _PAGES_MAX
    if path == "/videos":
        seconds = _whole(fields.get("seconds"))
        most = _VIDEO_SECONDS_DEFAULT if seconds is None else min(max(seconds, 0), _VIDEO_SECONDS_MAX)
        return _with_variant("video_second", fields), most
    return None


def units_of(document: Mapping[str, Any], most: tuple[str, int] | None) -> tuple[str, int] | None:
    """Return (unit, count) of an answer; None if it does not say. What it leaves open of the unit is of the request."""
    if most is None:
        return None
    kind = most[0].partition(":")[0]
    count = _COUNTS[kind](document)
    if count is None:
        return None
    named = _variant(kind, document)
    asked = most[0].split(":")[1:]
    both = [of_answer or of_request for of_answer, of_request in zip(named, asked or ("", ""), strict=True)]
    return (":".join([kind, *both]) if any(both) else kind), count


def _with_variant(kind: str, fields: Mapping[str, Any]) -> str:
    variant = _variant(kind, fields)
    return ":".join([kind, *variant]) if any(variant) else kind


def _variant(kind: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    """Quality and size, each "" where it is not named; of a video its resolution."""
    size, quality = fields.get("size"), fields.get("quality")
    if not isinstance(quality, str) or quality in _UNNAMED or not _QUALITY.fullmatch(quality):
        quality = ""
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None or kind not in ("image", "video_second"):
        return quality if kind == "image" else "", ""
    if kind == "video_second":
        return "", _RESOLUTIONS.get(min(int(found[1]), int(found[2])), "")
    return quality, found[0]


def _images(document: Mapping[str, Any]) -> int | None:
    data = document.get("data")
    return len(data) if isinstance(data, list) and data and _is_image(data[0]) else None


def _is_image(entry: Any) -> bool:
    return isinstance(entry, dict) and ("b64_json" in entry or "url" in entry)


def _audio_seconds(document: Mapping[str, Any]) -> int | None:
    usage = document.get("usage")
    durations = [usage.get("seconds") if isinstance(usage, Mapping) else None, document.get("duration")]
    return next((count for value in durations if (count := _whole(value)) is not None), None)


def _search_units(document: Mapping[str, Any]) -> int | None:
    meta = document.get("meta")
    billed = meta.get("billed_units") if isinstance(meta, Mapping) else None
    return _whole(billed.get("search_units")) if isinstance(billed, Mapping) else None


def _pages(document: Mapping[str, Any]) -> int | None:
    usage = document.get("usage_info")
    return _whole(usage.get("pages_processed")) if isinstance(usage, Mapping) else None


def _whole(value: Any) -> int | None:
    """A count or a duration, rounded up; None if it is neither."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e9:
        return None
    return max(0, -int(-value // 1))


_COUNTS: Mapping[str, Callable[[Mapping[str, Any]], int | None]] = {
    "image": _images,
    "second": _audio_seconds,
    "query": _search_units,
    "page": _pages,
    "video_second": lambda document: _whole(document.get("seconds")),
    "character": lambda _: None,
}
