"""What a choice costs: this call with what its cache still holds, and those that follow until the choice is a new one.

A switch reads the whole history uncached at the new deployment, and once more what was missed when it goes back; staying
pays the dearer tokens with every later call. Both are expectations over the same stretch, from this call until the
session next wants a higher tier (or ends), so that one comparison decides. Pure; nothing of it touches a charge.
"""

import math
from collections.abc import Mapping, Sequence

from ..values.base import Value
from ..values.catalog import PriceSheet
from ..values.units import TOKENS_PER_MTOK

# The shortest prefix that providers cache (OpenAI and Anthropic, docs of 2026).
CACHE_TOKENS_MIN = 1024
# A tier above the one that will do is taken only if it is expected to cost less by this share: expectations err.
HIGHER_TIER_MARGIN = 0.1


class SessionForecast(Value, frozen=True, kw_only=True):
    """What is expected of the session after this call: `turns` more calls, each with `growth_tokens` of new input, and the
    probability `climbs` that a call which is content with a lower tier is followed by one that wants a higher (`falls`: the
    other way round). `warm` are the tokens of this request's input that each deployment's cache is expected to give back (not named: none)."""

    calls_left: float = 0.0
    growth_tokens_per_call: float = 0.0
    escalation_probability: float = 0.0
    deescalation_probability: float = 0.5
    warm_tokens: Mapping[str, int] = {}


NO_FORECAST = SessionForecast()


class CostInputs(Value, frozen=True, kw_only=True):
    """One candidate in the comparison: its sheet, the usual length of its answers (tokens), the warm part of the input,
    and the share of its calls that fail and are paid for again."""

    sheet: PriceSheet
    output_tokens: int
    warm_tokens: int = 0
    failure_rate: float = 0.0


def call_cost_nusd(stake: CostInputs, input_tokens: int) -> float:
    """This call alone, in nUSD: warm input at the cached price, the rest at what it costs to read (and, where the
    provider says so, to write to the cache)."""
    rates = stake.sheet.rates_for(input_tokens)
    warm = min(stake.warm_tokens, input_tokens)
    fresh = max(rates.input, rates.cache_write)
    paid = (input_tokens - warm) * fresh + warm * rates.cached_input + stake.output_tokens * rates.output
    return paid * (1 + stake.failure_rate) / TOKENS_PER_MTOK


def expected_cost_nusd(
    stake: CostInputs, above: Sequence[CostInputs], input_tokens: int, outlook: SessionForecast
) -> float:
    """What is expected to be paid, in nUSD, from this call until the session next wants a higher tier or ends, if it stays
    here until then; and, where one of `above` will be wanted next, what it will cost more there for having been away."""
    stretch, returns = calls_until_escalation(outlook)
    now = call_cost_nusd(stake, input_tokens)
    # Half-way through the stretch the history has grown by half of its growth.
    later = round(input_tokens + outlook.growth_tokens_per_call * stretch / 2)
    total = now + (stretch - 1) * _warm_call_nusd(stake, later, outlook.growth_tokens_per_call)
    warm = [one for one in above if one.warm_tokens]
    if not warm or not returns:
        return total
    grown = outlook.growth_tokens_per_call * stretch
    # What is read here now is warm when the session comes back down: as likely as that is, it is no loss.
    comes_back = returns * (1 - math.pow(1 - outlook.deescalation_probability, max(0.0, outlook.calls_left - stretch)))
    total -= comes_back * _cache_miss_nusd(stake, input_tokens, max(0, input_tokens - stake.warm_tokens))
    # Nothing is lost by being away from where nothing is warm: a session is never begun above what will do for that.
    return total + returns * min(_cache_miss_nusd(one, input_tokens + grown, grown) for one in warm)


def calls_until_escalation(outlook: SessionForecast) -> tuple[float, float]:
    """(calls from this one on before the next that wants a higher tier, or the end; how probable that next one is)."""
    if outlook.escalation_probability <= 0:
        return 1 + outlook.calls_left, 0.0
    stays = 1 - min(0.999, outlook.escalation_probability)
    return (1.0 - stays ** (outlook.calls_left + 1)) / (1 - stays), 1 - stays**outlook.calls_left


def _cache_miss_nusd(one: CostInputs, input_tokens: float, cold: float) -> float:
    """What so many cold tokens of a history cost more there than warm ones; what is too short to be cached never is."""
    if input_tokens < CACHE_TOKENS_MIN:
        return 0.0
    rates = one.sheet.rates_for(round(input_tokens))
    return cold * max(0, max(rates.input, rates.cache_write) - rates.cached_input) / TOKENS_PER_MTOK


def _warm_call_nusd(stake: CostInputs, input_tokens: int, new_tokens: float) -> float:
    """One later call with all but the new input read from the cache."""
    rates = stake.sheet.rates_for(input_tokens)
    new = min(new_tokens, float(input_tokens)) if input_tokens >= CACHE_TOKENS_MIN else float(input_tokens)
    cached = rates.cached_input
    paid = (
        new * max(rates.input, rates.cache_write) + (input_tokens - new) * cached + stake.output_tokens * rates.output
    )
    return paid * (1 + stake.failure_rate) / TOKENS_PER_MTOK
