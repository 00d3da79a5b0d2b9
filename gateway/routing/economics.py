"""What a choice will have cost by the session's end: this call with what its cache still holds, and the calls to come.

A switch throws the old deployment's prompt cache away and reads the whole history uncached at the new one; staying
pays the dearer output again with every later call. Both are expectations over the session's remaining turns, so that
one comparison decides. Pure; nothing of it touches a charge.
"""

from collections.abc import Mapping, Sequence

from ..values.base import Value
from ..values.catalog import PriceSheet
from ..values.units import TOKENS_PER_MTOK


class Outlook(Value, frozen=True, kw_only=True):
    """What is expected of the session after this call: `turns` more calls, each with `growth_tokens` of new input, of
    which the part `climbs` (in [0, 1]) will want a higher tier. `warm` are the tokens of this request's input that each
    deployment's cache is expected to hold (those not named: none); `served_by` who served last, "" for nobody."""

    turns: float = 0.0
    growth_tokens: float = 0.0
    climbs: float = 0.0
    warm: Mapping[str, int] = {}
    served_by: str = ""


NOTHING_EXPECTED = Outlook()


class Stake(Value, frozen=True, kw_only=True):
    """One candidate in the comparison: its sheet, the usual length of its answers (tokens), the warm part of the input,
    and the share of its calls that fail and are paid for again."""

    sheet: PriceSheet
    output_tokens: int
    warm_tokens: int = 0
    failing: float = 0.0


def call_nusd(stake: Stake, input_tokens: int) -> float:
    """This call alone, in nUSD: warm input at the cached price, the rest at what it costs to read (and, where the
    provider says so, to write to the cache)."""
    rates = stake.sheet.rates(input_tokens)
    warm = min(stake.warm_tokens, input_tokens)
    fresh = max(rates.input, rates.cache_write)
    paid = (input_tokens - warm) * fresh + warm * rates.cached_input + stake.output_tokens * rates.output
    return paid * (1 + stake.failing) / TOKENS_PER_MTOK


def total_nusd(stake: Stake, above: Sequence[Stake], input_tokens: int, outlook: Outlook) -> float:
    """This call and those that are expected to follow, in nUSD, if the session stays here but for the calls that will
    want a higher tier, which go to the cheapest of `above`."""
    now = call_nusd(stake, input_tokens)
    turns = outlook.turns
    if turns <= 0:
        return now
    # Half-way through what is to come the history has grown by half of its growth; all of it is warm by then.
    later = round(input_tokens + outlook.growth_tokens * (turns + 1) / 2)
    here = _warm_turn(stake, later, outlook.growth_tokens)
    climbs = outlook.climbs if above else 0.0
    if not climbs:
        return now + turns * here
    there, opening = min((_visits(one, input_tokens, later, turns, outlook) for one in above), key=sum)
    return now + turns * (1 - climbs) * here + there + opening


def _visits(one: Stake, input_tokens: int, later: int, turns: float, outlook: Outlook) -> tuple[float, float]:
    """(what the calls that climb cost there, what it costs to have the history read there for the first time)."""
    rates, climbs = one.sheet.rates(later), outlook.climbs
    visits = turns * climbs
    # Between two visits the history grows by the turns that were spent elsewhere.
    apart = min(float(later), outlook.growth_tokens / climbs)
    each = _warm_turn(one, later, apart)
    cold = max(0, input_tokens - one.warm_tokens)
    once = min(1.0, visits)
    return visits * each, once * cold * max(0, rates.input - rates.cached_input) / TOKENS_PER_MTOK


def _warm_turn(stake: Stake, input_tokens: int, new_tokens: float) -> float:
    """One later call with all but the new input read from the cache."""
    rates = stake.sheet.rates(input_tokens)
    new = min(new_tokens, float(input_tokens))
    cached = rates.cached_input
    paid = (
        new * max(rates.input, rates.cache_write) + (input_tokens - new) * cached + stake.output_tokens * rates.output
    )
    return paid * (1 + stake.failing) / TOKENS_PER_MTOK
