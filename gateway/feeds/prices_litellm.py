"""Price sheets and limits from the price list that litellm ships (MIT), read without importing litellm.

The list gives US dollars per token as JSON floats; their shortest decimal form is exact and becomes integer nUSD per
million tokens. Entries without a price, or with a zero input price, are unpriced: they are not free.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from ..values.catalog import PriceSheet, Rates
from ..values.units import NUSD_PER_USD, TOKENS_PER_MTOK
from .package_data import data_file

_UNIT_KEYS = {
    "image": ("output_cost_per_image",),
    "second": ("input_cost_per_second", "output_cost_per_second"),
    "query": ("input_cost_per_query",),
    "character": ("input_cost_per_character",),
}
_THRESHOLD_KEY = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
# Keys of the list that are not models.
_NON_MODEL_KEYS = frozenset({"sample_spec", "fallback_generalizations"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """What the list knows of one model."""

    sheet: PriceSheet | None
    context_tokens: int | None
    output_tokens: int | None
    vision: bool | None
    tools: bool | None
    reasons: bool | None
    structured: bool | None
    adaptive: bool | None
    unit_prices: Mapping[str, int]


def load() -> Mapping[str, Mapping[str, Any]]:
    """The whole list; empty where litellm is not installed."""
    path = data_file("litellm", "model_prices_and_context_window_backup.json")
    if path is None:
        return {}
    listed: dict[str, Mapping[str, Any]] = orjson.loads(path.read_bytes())
    return {name: entry for name, entry in listed.items() if name not in _NON_MODEL_KEYS}


def listed_model(listed: Mapping[str, Mapping[str, Any]], name: str) -> ListedModel | None:
    """One model of the list under its exact name; no guessing by similarity."""
    entry = listed.get(name)
    if entry is None:
        return None
    return ListedModel(
        sheet=_price_sheet(entry, f"litellm:{name}"),
        context_tokens=_positive_int(entry.get("max_input_tokens")),
        output_tokens=_positive_int(entry.get("max_output_tokens")),
        vision=entry.get("supports_vision"),
        tools=entry.get("supports_function_calling"),
        reasons=entry.get("supports_reasoning"),
        structured=entry.get("supports_response_schema"),
        adaptive=entry.get("supports_adaptive_thinking"),
        unit_prices=_unit_prices(entry),
    )


def _price_sheet(entry: Mapping[str, Any], source: str) -> PriceSheet | None:
    base = _rates(entry, "")
    if base is None:
        return None
    limits = sorted(int(found[1]) for key in entry if (found := _THRESHOLD_KEY.fullmatch(key)))
    steps = [(limit * 1000, rates) for limit in limits if (rates := _rates(entry, f"_above_{limit}k_tokens"))]
    return PriceSheet(base=base, source=source, rate_tiers=tuple(steps))


def _rates(entry: Mapping[str, Any], suffix: str) -> Rates | None:
    given = _nusd_per_mtok(entry, f"input_cost_per_token{suffix}")
    written = _nusd_per_mtok(entry, f"output_cost_per_token{suffix}")
    if suffix:
        given = _nusd_per_mtok(entry, "input_cost_per_token") if given is None else given
        written = _nusd_per_mtok(entry, "output_cost_per_token") if written is None else written
    if not given or written is None:
        return None
    stored = _default_to(_nusd_per_mtok(entry, f"cache_creation_input_token_cost{suffix}"), given)
    return Rates(
        input=given,
        output=written,
        cached_input=_default_to(_nusd_per_mtok(entry, f"cache_read_input_token_cost{suffix}"), given),
        cache_write=stored,
        reasoning=_default_to(_nusd_per_mtok(entry, f"output_cost_per_reasoning_token{suffix}"), written),
        cache_write_long=_default_to(_nusd_per_mtok(entry, "cache_creation_input_token_cost_above_1hr"), stored),
    )


def _unit_prices(entry: Mapping[str, Any]) -> dict[str, int]:
    """nUSD a piece, under the names of catalog.UNITS."""
    found = {}
    for unit, keys in _UNIT_KEYS.items():
        prices = [price for key in keys if (price := _nusd_per_mtok(entry, key))]
        if prices:
            found[unit] = round(sum(prices) / TOKENS_PER_MTOK)
    return found


def _nusd_per_mtok(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    return round(Decimal(repr(value)) * NUSD_PER_USD * TOKENS_PER_MTOK)


def _default_to(price: int | None, other: int) -> int:
    return other if price is None else price


def _positive_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
