"""From usage to money: integer nUSD, rounded once; holds round up, charges half to even."""

from ..values.catalog import PriceSheet
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
        + usage.cache_write * rates.cache_write
        + plain_output * rates.output
        + usage.reasoning * rates.reasoning
    )
    return divide_half_even(scaled, TOKENS_PER_MTOK)


def worst_case(sheet: PriceSheet, input_tokens_max: int, output_tokens_max: int) -> int:
    """The most that a request can cost in nUSD: every input token at the dearest kind, no cache hit, all output."""
    reachable = [sheet.base, *(rates for above, rates in sheet.steps if input_tokens_max > above)]
    return max(
        divide_up(
            input_tokens_max * max(rate.input, rate.cached_input, rate.cache_write)
            + output_tokens_max * max(rate.output, rate.reasoning),
            TOKENS_PER_MTOK,
        )
        for rate in reachable
    )

