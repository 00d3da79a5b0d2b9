"""From usage to money: integer nUSD, rounded once; holds round up, charges half to even."""

from ..values.catalog import PriceSheet, Rates
from ..values.units import TOKENS_PER_MTOK, divide_half_even, divide_up
from ..values.usage import Usage


def charge(sheet: PriceSheet, usage: Usage) -> int:
    """What `usage` costs in nUSD. The whole request is charged at the rates of its input length."""
    rates = sheet.rates(usage.input)
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


def worst_case(sheet: PriceSheet, input_tokens_max: int, output_tokens_max: int, *, long_cache: bool = False) -> int:
    """The most that a request can cost in nUSD: every input token at the dearest kind, no cache hit, all output.

    `long_cache`: the request may write to the cache that is kept for an hour.
    """
    scaled = _dearest(sheet.base, input_tokens_max, output_tokens_max, long_cache)
    for above, rates in sheet.steps:
        if input_tokens_max > above:
            # A step may be cheaper than the one before; which one it will be depends on the real count.
            scaled = max(scaled, _dearest(rates, input_tokens_max, output_tokens_max, long_cache))
    return divide_up(scaled, TOKENS_PER_MTOK)


def usual_case(
    sheet: PriceSheet, input_tokens: int, cached_tokens: int, output_tokens: int, *, long_cache: bool = False
) -> int:
    """What a usual call holds in nUSD: so much of the input read from a cache, the rest at the dearest kind."""
    rates = sheet.rates(input_tokens)
    dearest = rates.dearest_long if long_cache else rates.dearest_input
    fresh = input_tokens - cached_tokens
    scaled = fresh * dearest + cached_tokens * rates.cached_input + output_tokens * rates.dearest_output
    return divide_up(scaled, TOKENS_PER_MTOK)


def _dearest(rates: Rates, input_tokens: int, output_tokens: int, long_cache: bool) -> int:
    dearest = rates.dearest_long if long_cache else rates.dearest_input
    return input_tokens * dearest + output_tokens * rates.dearest_output
