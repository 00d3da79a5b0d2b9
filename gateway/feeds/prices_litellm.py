"""Price sheets and limits from litellm's price list (MIT).

Shipped as `data/prices_litellm.json`.

The list gives US dollars per token as JSON floats; their shortest decimal form is exact and becomes integer nUSD per
million tokens. Entries without a price or with a zero input price are unpriced, not free.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from ..values.catalog import PriceSheet, Rates
from ..values.units import NUSD_PER_USD, TOKENS_PER_MTOK
from .package_data import DATA_FOLDER, PRICE_LIST

_UNIT_KEYS = {
    "image": ("output_cost_per_image",),
    "second": ("input_cost_per_second", "output_cost_per_second"),
    "query": ("input_cost_per_query",),
    "character": ("input_cost_per_character",),
}
_THRESHOLD_KEY = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """The list's data on one model; None where the list has no value.

    price_sheet: price sheet, None if unpriced.
    context_tokens: longest input, tokens.
    output_tokens: longest output, tokens.
    supports_vision: whether it accepts images.
    supports_tools: whether it supports function calling.
    supports_reasoning: whether it supports reasoning.
    supports_response_schema: whether it supports response schemas.
    supports_adaptive_thinking: whether it supports adaptive thinking.
    unit_prices: unit of catalog.UNITS -> nUSD per piece.
    """

    price_sheet: PriceSheet | None
    context_tokens: int | None
    output_tokens: int | None
    supports_vision: bool | None
    supports_tools: bool | None
    supports_reasoning: bool | None
    supports_response_schema: bool | None
    supports_adaptive_thinking: bool | None
    unit_prices: Mapping[str, int]


PriceList = Mapping[str, msgspec.Raw]


class _PriceListFile(msgspec.Struct):
    models: dict[str, msgspec.Raw]


_file_decoder = msgspec.json.Decoder(_PriceListFile)


@lru_cache(maxsize=1)
def load() -> PriceList:
    """Returns the shipped list, cached; an entry stays encoded until it is looked up."""
    return _file_decoder.decode((DATA_FOLDER / PRICE_LIST).read_bytes()).models


def listed_model(price_list: PriceList, name: str) -> ListedModel | None:
    """Returns one model of the list by its exact name; never by similarity."""
    raw = price_list.get(name)
    if raw is None:
        return None
    entry: Mapping[str, Any] = msgspec.json.decode(raw)
    return ListedModel(
        price_sheet=_price_sheet(entry, f"litellm:{name}"),
        context_tokens=_positive_int(entry.get("max_input_tokens")),
        output_tokens=_positive_int(entry.get("max_output_tokens")),
        supports_vision=entry.get("supports_vision"),
        supports_tools=entry.get("supports_function_calling"),
        supports_reasoning=entry.get("supports_reasoning"),
        supports_response_schema=entry.get("supports_response_schema"),
        supports_adaptive_thinking=entry.get("supports_adaptive_thinking"),
        unit_prices=_unit_prices(entry),
    )


def _price_sheet(entry: Mapping[str, Any], source: str) -> PriceSheet | None:
    base = _rates(entry, "")
    if base is None:
        return None
    thresholds = sorted(int(match[1]) for key in entry if (match := _THRESHOLD_KEY.fullmatch(key)))
    tiers = [(above * 1000, rates) for above in thresholds if (rates := _rates(entry, f"_above_{above}k_tokens"))]
    return PriceSheet(base=base, source=source, rate_tiers=tuple(tiers))


def _rates(entry: Mapping[str, Any], suffix: str) -> Rates | None:
    input_rate = _nusd_per_mtok(entry, f"input_cost_per_token{suffix}")
    output_rate = _nusd_per_mtok(entry, f"output_cost_per_token{suffix}")
    if suffix:
        input_rate = _nusd_per_mtok(entry, "input_cost_per_token") if input_rate is None else input_rate
        output_rate = _nusd_per_mtok(entry, "output_cost_per_token") if output_rate is None else output_rate
    if not input_rate or output_rate is None:
        return None
    cache_write_rate = _default_to(_nusd_per_mtok(entry, f"cache_creation_input_token_cost{suffix}"), input_rate)
    return Rates(
        input=input_rate,
        output=output_rate,
        cached_input=_default_to(_nusd_per_mtok(entry, f"cache_read_input_token_cost{suffix}"), input_rate),
        cache_write=cache_write_rate,
        reasoning=_default_to(_nusd_per_mtok(entry, f"output_cost_per_reasoning_token{suffix}"), output_rate),
        cache_write_long=_default_to(
            _nusd_per_mtok(entry, "cache_creation_input_token_cost_above_1hr"), cache_write_rate
        ),
    )


def _unit_prices(entry: Mapping[str, Any]) -> dict[str, int]:
    """Returns unit of catalog.UNITS -> nUSD per piece."""
    unit_prices = {}
    for unit, keys in _UNIT_KEYS.items():
        prices = [price for key in keys if (price := _nusd_per_mtok(entry, key))]
        if prices:
            unit_prices[unit] = round(sum(prices) / TOKENS_PER_MTOK)
    return unit_prices


def _nusd_per_mtok(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    return round(Decimal(repr(value)) * NUSD_PER_USD * TOKENS_PER_MTOK)


def _default_to(price: int | None, default: int) -> int:
    return default if price is None else price


def _positive_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
