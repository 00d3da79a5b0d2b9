"""Prices by the piece from litellm's list: images, audio, queries, characters, pages, videos.

A price that depends on quality and size has both in its key (`image:high:1024x1024`). The list names such a price as a
model of its own (`high/1024-x-1024/gpt-image-1`), by the picture or by its pixels.
"""

import re
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ..values.units import TOKENS_PER_MTOK, divide_half_even
from .price_entry import nusd, nusd_per_million

_SIZE = re.compile(r"(\d+)-x-(\d+)")
_QUALITIES = frozenset({"hd", "standard", "low", "medium", "high", "xhigh", "max", "auto"})
_IMAGE_MODES = frozenset({"image_generation", "image_edit"})
# Per second of video by its resolution, after the general price.
_VIDEO_KEY = "output_cost_per_second"
# What an image or video costs that says nothing of quality and size: OpenAI's defaults.
_DEFAULT_IMAGES = ("image:standard:1024x1024", "image::1024x1024", "image:medium:1024x1024")


def unit_prices(price_list: Mapping[str, msgspec.Raw], name: str, entry: Mapping[str, Any]) -> dict[str, int]:
    """Returns nUSD per piece by unit (catalog.BILLED_UNITS), those of qualities and sizes with both in the key."""
    prices: dict[str, int | None] = {
        "query": nusd(entry.get("input_cost_per_query")),
        "character": nusd(entry.get("input_cost_per_character")),
        "page": nusd(entry.get("ocr_cost_per_page")),
        "image": _image_nusd(entry),
    }
    if entry.get("mode") == "video_generation":
        prices |= _video_prices(entry)
        high = price_list.get(f"{name}-high-res")
        if high is not None:
            # Sora's larger size (replicate.com/openai/sora-2-pro, 2026-11-29: standard is 720p, high 1024p).
            prices["video_second::1024p"] = _video_prices(msgspec.json.decode(high))["video_second"]
    else:
        # Transcription has one fee, which the list names as input, output or both.
        seconds = [nusd(entry.get(key)) for key in ("input_cost_per_second", _VIDEO_KEY)]
        prices["second"] = max((price for price in seconds if price is not None), default=None)
    for key, variant in _variants(price_list, name):
        prices[key] = _image_nusd(variant, _pixels(key))
    known = {unit: price for unit, price in prices.items() if price}
    if "image" not in known:
        images = [price for unit, price in known.items() if unit.startswith("image:")]
        default = next((known[key] for key in _DEFAULT_IMAGES if key in known), max(images, default=None))
        known |= {} if default is None else {"image": default}
    return known


def sized_models(price_list: Mapping[str, msgspec.Raw]) -> Container[str]:
    """Returns the models that the list has by size, whether or not it has them by their name alone."""
    return _variant_names(tuple(price_list))


def _image_nusd(entry: Mapping[str, Any], pixels: int = 0) -> int | None:
    """NUSD of an image; the list names most as output, those of OpenAI as input."""
    price = nusd(entry.get("output_cost_per_image"))
    if price is None and entry.get("mode") in _IMAGE_MODES:
        price = nusd(entry.get("input_cost_per_image"))
    if price is None and pixels:
        per_pixel = nusd_per_million(entry, "input_cost_per_pixel")
        price = None if per_pixel is None else divide_half_even(per_pixel * pixels, TOKENS_PER_MTOK)
    return price


def _video_prices(entry: Mapping[str, Any]) -> dict[str, int | None]:
    general = nusd(entry.get("output_cost_per_video_per_second"))
    prices = {"video_second": nusd(entry.get(_VIDEO_KEY)) if general is None else general}
    for key in entry:
        resolution = key.removeprefix(f"{_VIDEO_KEY}_")
        if resolution != key:
            prices[f"video_second::{resolution}"] = nusd(entry[key])
    return prices


def _variants(price_list: Mapping[str, msgspec.Raw], name: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
    found = _variant_names(tuple(price_list)).get(name, ())
    return [(key, msgspec.json.decode(price_list[variant])) for key, variant in found]


@lru_cache(maxsize=4)
def _variant_names(names: tuple[str, ...]) -> Mapping[str, Sequence[tuple[str, str]]]:
    """By model, (key, name in the list) of its qualities and sizes."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        parts = name.split("/")
        place = next((index for index, part in enumerate(parts[:-1]) if _SIZE.fullmatch(part)), None)
        if place is None or parts[place + 1].endswith("-steps"):
            continue
        start = place - 1 if place and parts[place - 1] in _QUALITIES else place
        quality, size = "/".join(parts[start:place]), parts[place].replace("-x-", "x")
        model = "/".join([*parts[:start], *parts[place + 1 :]])
        found.setdefault(model, []).append((f"image:{quality}:{size}", name))
    return found


def _pixels(key: str) -> int:
    width, _, height = key.rpartition(":")[2].partition("x")
    return int(width) * int(height)
