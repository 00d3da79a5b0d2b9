"""Expected cost of a choice: this call and those until the next choice. Pure.

A switch reads the whole history uncached at the new deployment, and again what was missed when it switches back;
staying pays the higher prices with every later call. Both are expectations over the same stretch, from this call until
the session next needs a higher tier or ends, so that a single comparison decides. No charge depends on it.
"""

import math
from collections.abc import Mapping, Sequence

from ..values.base import Value
from ..values.catalog import PriceSheet
from ..values.units import TOKENS_PER_MTOK

# Shortest prefix that providers cache, in tokens (OpenAI and Anthropic docs, 2026).
CACHE_TOKENS_MIN = 1024
# A tier above the target must be cheaper by this share: expectations err.
HIGHER_TIER_MARGIN = 0.1


class SessionForecast(Value, frozen=True, kw_only=True):
    """What is expected of a session after this call.

    calls_left: calls that follow
    growth_tokens_per_call: new input of each, tokens
    escalation_probability: that a call of the lowest tier is followed by one that needs a higher tier
    deescalation_probability: the reverse
    warm_tokens: by deployment, input tokens that its cache is expected to serve; none if absent
    """

    calls_left: float = 0.0
    growth_tokens_per_call: float = 0.0
    escalation_probability: float = 0.0
    deescalation_probability: float = 0.5
    warm_tokens: Mapping[str, int] = {}


NO_FORECAST = SessionForecast()


class CostInputs(Value, frozen=True, kw_only=True):
    """One candidate in the comparison.

    sheet: its prices
    output_tokens: usual length of its responses
    warm_tokens: part of the input in its cache
    failure_rate: share of its calls that fail and are paid again
    """

    sheet: PriceSheet
    output_tokens: int
    warm_tokens: int = 0
    failure_rate: float = 0.0


def call_cost_nusd(candidate: CostInputs, input_tokens: int) -> float:
    """Cost of this call alone, nUSD; warm input at the cached price."""
    rates = candidate.sheet.rates_for(input_tokens)
    warm = min(candidate.warm_tokens, input_tokens)
    uncached = max(rates.input, rates.cache_write)
    price = (input_tokens - warm) * uncached + warm * rates.cached_input + candidate.output_tokens * rates.output
    return price * (1 + candidate.failure_rate) / TOKENS_PER_MTOK


def expected_cost_nusd(
    candidate: CostInputs, above: Sequence[CostInputs], input_tokens: int, forecast: SessionForecast
) -> float:
    """Expected cost in nUSD until the session next needs a higher tier or ends.

    The session stays with `candidate` until then; the cache misses of having been away from `above` are added.
    """
    stretch, returns = calls_until_escalation(forecast)
    now = call_cost_nusd(candidate, input_tokens)
    # The mean input over the stretch: half of its growth.
    later = round(input_tokens + forecast.growth_tokens_per_call * stretch / 2)
    total = now + (stretch - 1) * _warm_call_nusd(candidate, later, forecast.growth_tokens_per_call)
    warm = [higher for higher in above if higher.warm_tokens]
    if not warm or not returns:
        return total
    grown = forecast.growth_tokens_per_call * stretch
    # What is read here now is warm when the session comes back down: not a loss, with that probability.
    comes_back = returns * (
        1 - math.pow(1 - forecast.deescalation_probability, max(0.0, forecast.calls_left - stretch))
    )
    total -= comes_back * _cache_miss_nusd(candidate, input_tokens, max(0, input_tokens - candidate.warm_tokens))
    # Only warm caches above count: no session starts above its target for the sake of a cache.
    return total + returns * min(_cache_miss_nusd(higher, input_tokens + grown, grown) for higher in warm)


def calls_until_escalation(forecast: SessionForecast) -> tuple[float, float]:
    """(expected calls until one needs a higher tier or the end, its probability)."""
    if forecast.escalation_probability <= 0:
        return 1 + forecast.calls_left, 0.0
    stays = 1 - min(0.999, forecast.escalation_probability)
    return (1.0 - stays ** (forecast.calls_left + 1)) / (1 - stays), 1 - stays**forecast.calls_left


def _cache_miss_nusd(candidate: CostInputs, input_tokens: float, cold: float) -> float:
    """Extra cost of `cold` over cached tokens, nUSD; 0 below the cacheable length."""
    if input_tokens < CACHE_TOKENS_MIN:
        return 0.0
    rates = candidate.sheet.rates_for(round(input_tokens))
    return cold * max(0, max(rates.input, rates.cache_write) - rates.cached_input) / TOKENS_PER_MTOK


def _warm_call_nusd(candidate: CostInputs, input_tokens: int, new_tokens: float) -> float:
    """Cost of one later call with all but its new input cached, nUSD."""
    rates = candidate.sheet.rates_for(input_tokens)
    new = min(new_tokens, float(input_tokens)) if input_tokens >= CACHE_TOKENS_MIN else float(input_tokens)
    uncached = max(rates.input, rates.cache_write)
    price = new * uncached + (input_tokens - new) * rates.cached_input + candidate.output_tokens * rates.output
    return price * (1 + candidate.failure_rate) / TOKENS_PER_MTOK
