"""Prices usage: integer nUSD, rounded once; holds round up, charges half to even."""

from ..values.catalog import PriceSheet, Rates
from ..values.units import TOKENS_PER_MTOK, divide_ceil, divide_half_even
from ..values.usage import Usage


def charge(price_sheet: PriceSheet, usage: Usage) -> int:
    """The cost of `usage` in nUSD, all of it at the rates for its input length."""
    rates = price_sheet.rates_for(usage.input)
    plain_input = usage.input - usage.cached_input - usage.cache_write
    plain_output = usage.output - usage.reasoning
    scaled = (
        plain_input * rates.input
        + usage.cached_input * rates.cached_input
        + (usage.cache_write - usage.cache_write_long) * rates.cache_write
        + usage.cache_write_long * rates.cache_write_long
        + plain_output * rates.output
        + usage.reasoning * rates.reasoning
    )
    return divide_half_even(scaled, TOKENS_PER_MTOK)


def worst_case(
    price_sheet: PriceSheet, input_tokens_max: int, output_tokens_max: int, *, long_cache: bool = False
) -> int:
    """The most that a request can cost in nUSD: dearest input, all output.

    `long_cache`: the request may write to the one-hour cache.
    """
    scaled = _dearest(price_sheet.base, input_tokens_max, output_tokens_max, long_cache)
    for above, rates in price_sheet.rate_tiers:
        if input_tokens_max > above:
            # A tier may be cheaper than the one before; which one applies depends on the real count.
            scaled = max(scaled, _dearest(rates, input_tokens_max, output_tokens_max, long_cache))
    return divide_ceil(scaled, TOKENS_PER_MTOK)


def usual_case(
    price_sheet: PriceSheet, input_tokens: int, cached_tokens: int, output_tokens: int, *, long_cache: bool = False
) -> int:
    """The hold of a usual call in nUSD.

    `cached_tokens` of the input are read from a cache, the rest is priced at the dearest kind.
    """
    rates = price_sheet.rates_for(input_tokens)
    dearest = rates.input_max_long_cache if long_cache else rates.input_max
    fresh = input_tokens - cached_tokens
    scaled = fresh * dearest + cached_tokens * rates.cached_input + output_tokens * rates.output_max
    return divide_ceil(scaled, TOKENS_PER_MTOK)


def _dearest(rates: Rates, input_tokens: int, output_tokens: int, long_cache: bool) -> int:
    dearest = rates.input_max_long_cache if long_cache else rates.input_max
    return input_tokens * dearest + output_tokens * rates.output_max
