"""Price sheets and limits from litellm's price list (MIT).

Shipped as `data/prices_litellm.json`.

The list gives US dollars per token as JSON floats; their shortest decimal form is exact and becomes integer nUSD per
million tokens. Entries without a price or with a zero input price are unpriced, not free.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgspec

from ..values.catalog import PriceSheet
from .package_data import DATA_FOLDER, PRICE_LIST
from .price_entry import price_sheet, region_permille
from .price_names import listed_name
from .unit_prices import sized_models, unit_prices


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
    unit_prices: nUSD per piece by unit of catalog.BILLED_UNITS (unit_prices.py).
    provider: litellm's name of the provider.
    region_permille: price of tokens at a regional endpoint, in thousandths (price_entry.region_permille).
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
    provider: str
    region_permille: Mapping[str, int]


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
    if raw is None and name not in sized_models(price_list):
        return None
    entry: Mapping[str, Any] = {} if raw is None else msgspec.json.decode(raw)
    return ListedModel(
        price_sheet=price_sheet(entry, f"litellm:{name}"),
        context_tokens=_positive_int(entry.get("max_input_tokens")),
        output_tokens=_positive_int(entry.get("max_output_tokens")),
        supports_vision=entry.get("supports_vision"),
        supports_tools=entry.get("supports_function_calling"),
        supports_reasoning=entry.get("supports_reasoning"),
        supports_response_schema=entry.get("supports_response_schema"),
        supports_adaptive_thinking=entry.get("supports_adaptive_thinking"),
        unit_prices=unit_prices(price_list, name, entry),
        provider=entry.get("litellm_provider", ""),
        region_permille=region_permille(entry),
    )


def model_name(price_list: PriceList, model: str, base_url: str) -> str | None:
    """Returns the list's name of a model at a provider (price_names.py), None without one."""
    sized = sized_models(price_list)
    return listed_name(lambda name: name in price_list or name in sized, model, base_url)


@lru_cache(maxsize=16)
def sheets_of(provider: str, mode: str = "") -> Mapping[str, PriceSheet]:
    """Returns the price sheets of the models that the shipped list has of a provider, by name; of one mode or of all."""
    price_list, marks = load(), [f'"litellm_provider":"{provider}"'.encode()]
    marks += [f'"mode":"{mode}"'.encode()] if mode else []
    found = {
        name: listed_model(price_list, name)
        for name, raw in price_list.items()
        if all(mark in bytes(raw) for mark in marks)
    }
    return {
        name: replace(model.price_sheet, output_tokens_max=model.output_tokens or 0)
        for name, model in found.items()
        if model is not None and model.price_sheet is not None
    }


def _positive_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
