"""Prices usage: integer nUSD, rounded once; holds round up, charges half to even."""

from collections.abc import Iterable, Mapping

from ..values.catalog import GEO_SCALE, PriceSheet, Rates
from ..values.units import TOKENS_PER_MTOK, divide_ceil, divide_half_even
from ..values.usage import COUNTS, STANDARD_TERMS, PriceTerms, Usage

_SCALE = TOKENS_PER_MTOK * GEO_SCALE
_MINUTES_PER_WEEK, _MINUTES_TO_MONDAY = 7 * 24 * 60, 3 * 24 * 60
# The unit of a web search; a size of its context is appended where it has a price of its own.
_WEB_SEARCH = "web_search"
# Tiers that cost no more than the standard one.
_NO_DEARER_TIERS = frozenset({"", "flex", "balanced", "batch"})
# Regions that cost as much as none (platform.claude.com, data residency, 2026-11).
_NO_DEARER_GEOS = frozenset({"", "global", "not_available"})


def charge(
    price_sheet: PriceSheet, usage: Usage, *, terms: PriceTerms = STANDARD_TERMS, at: float | None = None
) -> int:
    """The cost of `usage` in nUSD, each call at the rates for its own input length.

    terms: what the request asked for, where the answer does not name it
    at: when the call ended, seconds since the epoch; None: outside of cheaper hours
    """
    if _is_plain(usage) and not price_sheet.has_standing_axes and (price_sheet.names_tiers or terms is STANDARD_TERMS):
        return divide_half_even(_text_scaled(price_sheet.rates_for(usage.input), usage), TOKENS_PER_MTOK)
    tiers = (usage.service_tier,) if usage.service_tier or price_sheet.names_tiers else terms.service_tiers
    fees = _fees(price_sheet, usage.server_tools, terms)
    return fees + divide_half_even(max(_calls_scaled(price_sheet, usage, tier, at) for tier in tiers), _SCALE)


def unpriced_parts(price_sheet: PriceSheet, usage: Usage) -> tuple[str, ...]:
    """What of `usage` has no price and is not part of its charge: tier, region, server tools and further models, by name."""
    if _is_plain(usage):
        return ()
    return _without_price(
        price_sheet,
        [usage.service_tier] if usage.service_tier else [],
        [unit for unit, count in usage.server_tools if count],
        [call.model for call in usage.further_calls],
        usage.inference_geo,
    )


def unpriced_terms(price_sheet: PriceSheet, terms: PriceTerms) -> tuple[str, ...]:
    """What a request asks for that has no price, so that no hold covers it: tiers, region, server tools and further models."""
    return _without_price(
        price_sheet,
        terms.service_tiers,
        [unit for unit, most in terms.server_tools if most],
        [call.model for call in terms.further_calls],
        terms.inference_geo,
    )


def worst_case(
    price_sheet: PriceSheet,
    input_tokens_max: int,
    output_tokens_max: int,
    *,
    long_cache: bool = False,
    terms: PriceTerms = STANDARD_TERMS,
) -> int:
    """The most that a request can cost in nUSD: dearest input, all output, the dearest tier that may serve it.

    long_cache: the request may write to the one-hour cache
    terms: what it asks for besides; a further call without a bound reads all input and output
    """
    if terms is STANDARD_TERMS and not price_sheet.has_standing_axes:
        return divide_ceil(_dearest_text(price_sheet, input_tokens_max, output_tokens_max, long_cache), TOKENS_PER_MTOK)
    scaled = _dearest_tier(price_sheet, input_tokens_max, output_tokens_max, long_cache, terms)
    scaled += _further_calls_max(price_sheet, input_tokens_max, output_tokens_max, long_cache, terms)
    return _fees(price_sheet, terms.server_tools, terms) + divide_ceil(scaled, _SCALE)


def usual_case(
    price_sheet: PriceSheet,
    input_tokens: int,
    cached_tokens: int,
    output_tokens: int,
    *,
    long_cache: bool = False,
    terms: PriceTerms = STANDARD_TERMS,
) -> int:
    """The hold of a usual call in nUSD, at the dearest tier that may serve it.

    `cached_tokens` of the input are read from a cache, the rest is priced at the dearest kind.
    """
    if terms is STANDARD_TERMS and not price_sheet.has_standing_axes:
        rates = price_sheet.rates_for(input_tokens)
        dearest = rates.input_max_long_cache if long_cache else rates.input_max
        tokens = (input_tokens - cached_tokens) * dearest
        tokens += cached_tokens * rates.cached_input + output_tokens * rates.output_max
        return divide_ceil(tokens, TOKENS_PER_MTOK)
    scaled = 0
    for tier in terms.service_tiers:
        sheet = price_sheet.service_tiers.get(tier, price_sheet)
        rates = sheet.rates_for(input_tokens)
        input_max, output_max = _dearest_rates(rates, long_cache, terms)
        fresh = input_tokens - cached_tokens
        tokens = fresh * input_max + cached_tokens * rates.cached_input + output_tokens * output_max
        scaled = max(scaled, tokens * _geo_permille(price_sheet, terms.inference_geo))
    scaled += _further_calls_max(price_sheet, input_tokens, output_tokens, long_cache, terms)
    return _fees(price_sheet, terms.server_tools, terms) + divide_ceil(scaled, _SCALE)


def unit_nusd(unit_prices: Mapping[str, int], unit: str) -> int | None:
    """The price of a piece in nUSD: of its quality and size (`unit:quality:size`), of either, else of any."""
    kind, _, variant = unit.partition(":")
    if not variant or not unit_prices:
        return unit_prices.get(kind)
    quality, _, size = variant.partition(":")
    keys = (unit, f"{kind}::{size}", f"{kind}:{quality}:", kind)
    return next((unit_prices[key] for key in keys if key in unit_prices), None)


def unit_nusd_max(unit_prices: Mapping[str, int], unit: str) -> int | None:
    """The most that a piece can cost in nUSD, of any quality or size that `unit` leaves open."""
    kind, _, variant = unit.partition(":")
    quality, _, size = variant.partition(":")
    price = unit_nusd(unit_prices, unit)
    if price is None or (quality and size):
        return price
    parts = ((key.split(":"), value) for key, value in unit_prices.items() if key.startswith(f"{kind}:"))
    open_prices = [
        value for (_, its_quality, its_size), value in parts if quality in ("", its_quality) and size in ("", its_size)
    ]
    return max([price, *open_prices])


def _is_plain(usage: Usage) -> bool:
    """Whether an answer names nothing that is priced beside its own tokens."""
    return not (usage.service_tier or usage.server_tools or usage.further_calls or usage.inference_geo)


def _text_scaled(rates: Rates, usage: Usage) -> int:
    """The cost of tokens that are all text, in millionths of a nUSD."""
    return (
        (usage.input - usage.cached_input - usage.cache_write) * rates.input
        + usage.cached_input * rates.cached_input
        + (usage.cache_write - usage.cache_write_long) * rates.cache_write
        + usage.cache_write_long * rates.cache_write_long
        + (usage.output - usage.reasoning) * rates.output
        + usage.reasoning * rates.reasoning
    )


def _calls_scaled(price_sheet: PriceSheet, usage: Usage, tier: str, at: float | None) -> int:
    """The cost of the tokens of a call and of those within it, in thousandths of `_text_scaled`."""
    geo = usage.inference_geo
    if not usage.further_calls:
        return _tokens_scaled(price_sheet, usage, tier, geo, at)
    scaled = _tokens_scaled(price_sheet, _without_further_calls(usage), tier, geo, at)
    for call in usage.further_calls:
        sheet = _sheet_of(price_sheet, call.model)
        if sheet is not None:
            scaled += _tokens_scaled(sheet, call.usage, tier, geo, at)
    return scaled


def _tokens_scaled(price_sheet: PriceSheet, call: Usage, tier: str, geo: str, at: float | None) -> int:
    """The cost of one call's tokens in thousandths of `_text_scaled`, at a tier, region and hour."""
    sheet = price_sheet.service_tiers.get(tier, price_sheet)
    if sheet.off_peak is not None and at is not None and _is_off_peak(sheet.off_peak.minutes, at):
        sheet = sheet.off_peak.sheet
    rates = sheet.rates_for(call.input)
    scaled = _text_scaled(rates, call)
    if rates.modalities is not None:
        scaled += _modality_difference(rates, call)
    return scaled * _geo_permille(price_sheet, geo)


def _modality_difference(rates: Rates, usage: Usage) -> int:
    """What audio and images cost above the same tokens of text.

    A cache's tokens cost what the cache costs: of audio and images only what it does not cover is charged as such, and
    nothing is charged twice where a provider counts both (litellm 1.105.3 does the same).
    """
    modalities = rates.modalities
    assert modalities is not None, "only rates of audio and images differ from those of text"
    fresh = usage.input - usage.cached_input - usage.cache_write
    audio = min(usage.input_audio - usage.cached_audio, fresh)
    images = min(usage.input_image - usage.cached_image, fresh - audio)
    output_audio = min(usage.output_audio, usage.output - usage.reasoning)
    output_images = min(usage.output_image, usage.output - usage.reasoning - output_audio)
    return (
        audio * (modalities.input_audio - rates.input)
        + images * (modalities.input_image - rates.input)
        + usage.cached_audio * (modalities.cached_audio - rates.cached_input)
        + usage.cached_image * (modalities.cached_image - rates.cached_input)
        + output_audio * (modalities.output_audio - rates.output)
        + output_images * (modalities.output_image - rates.output)
    )


def _without_further_calls(usage: Usage) -> Usage:
    """The call itself: the totals less the further calls of the same model."""
    own = [call.usage for call in usage.further_calls if not call.model]
    rest = {name: max(0, getattr(usage, name) - sum(getattr(call, name) for call in own)) for name in COUNTS}
    # Counts that do not add up are the provider's; they are charged as far as they make sense.
    rest["input"] = max(
        rest["input"], rest["cached_input"] + rest["cache_write"], rest["input_audio"] + rest["input_image"]
    )
    rest["output"] = max(rest["output"], rest["reasoning"], rest["output_audio"] + rest["output_image"])
    rest["cache_write_long"] = min(rest["cache_write_long"], rest["cache_write"])
    rest["cached_audio"] = min(rest["cached_audio"], rest["input_audio"], rest["cached_input"])
    rest["cached_image"] = min(rest["cached_image"], rest["input_image"], rest["cached_input"] - rest["cached_audio"])
    return Usage(**rest)


def _without_price(
    price_sheet: PriceSheet, tiers: Iterable[str], units: Iterable[str], models: Iterable[str], geo: str
) -> tuple[str, ...]:
    # At a cheaper tier without a price of its own the charge is the standard one, which is no less.
    names = [tier for tier in tiers if tier not in _NO_DEARER_TIERS and tier not in price_sheet.service_tiers]
    names += [unit.partition(":")[0] for unit in units if _tool_nusd(price_sheet, unit, "") is None]
    names += [geo] if geo not in _NO_DEARER_GEOS and geo not in price_sheet.geo_permille else []
    names += [model for model in models if _sheet_of(price_sheet, model) is None]
    return tuple(dict.fromkeys(names))


def _further_calls_max(
    price_sheet: PriceSheet, input_tokens: int, output_tokens: int, long_cache: bool, terms: PriceTerms
) -> int:
    scaled = 0
    for call in terms.further_calls:
        sheet = _sheet_of(price_sheet, call.model)
        if sheet is not None:
            output = call.output_tokens_max or sheet.output_tokens_max or output_tokens
            read = call.input_tokens_max or input_tokens + output_tokens
            scaled += call.calls_max * _dearest_tier(sheet, read, output, long_cache, terms)
    return scaled


def _sheet_of(price_sheet: PriceSheet, model: str) -> PriceSheet | None:
    return price_sheet.further_models.get(model) if model else price_sheet


def _tool_nusd(price_sheet: PriceSheet, unit: str, search_context_size: str) -> int | None:
    if unit == _WEB_SEARCH and search_context_size:
        price = price_sheet.tool_nusd.get(f"{unit}_{search_context_size}")
        if price is not None:
            return price
    return unit_nusd(price_sheet.tool_nusd, unit)


def _fees(price_sheet: PriceSheet, server_tools: Iterable[tuple[str, int]], terms: PriceTerms) -> int:
    """The fees of a call and of the tools that it ran."""
    fees = price_sheet.call_nusd
    if not price_sheet.tool_nusd:
        return fees
    counts = dict.fromkeys(price_sheet.tools_always, 1)
    for unit, count in server_tools:
        most = min(count, 1) if unit in price_sheet.tools_once else count
        counts[unit] = max(most, counts.get(unit, 0))
    return fees + sum(
        count * (_tool_nusd(price_sheet, unit, terms.search_context_size) or 0) for unit, count in counts.items()
    )


def _dearest_tier(
    price_sheet: PriceSheet, input_tokens: int, output_tokens: int, long_cache: bool, terms: PriceTerms
) -> int:
    """The most that the tokens of one call cost at any tier that may serve it, in the unit of `_tokens_scaled`."""
    sheets = [price_sheet.service_tiers.get(tier, price_sheet) for tier in terms.service_tiers]
    sheets += [sheet.off_peak.sheet for sheet in sheets if sheet.off_peak is not None]
    dearest = max(_dearest_step(sheet, input_tokens, output_tokens, long_cache, terms) for sheet in sheets)
    return dearest * _geo_permille(price_sheet, terms.inference_geo)


def _dearest_text(price_sheet: PriceSheet, input_tokens: int, output_tokens: int, long_cache: bool) -> int:
    """`_dearest_step` of a request that asks for nothing beyond text."""
    rates = price_sheet.base
    dearest = rates.input_max_long_cache if long_cache else rates.input_max
    scaled = input_tokens * dearest + output_tokens * rates.output_max
    for above, step in price_sheet.rate_tiers:
        if input_tokens > above:
            dearest = step.input_max_long_cache if long_cache else step.input_max
            scaled = max(scaled, input_tokens * dearest + output_tokens * step.output_max)
    return scaled


def _dearest_step(
    price_sheet: PriceSheet, input_tokens: int, output_tokens: int, long_cache: bool, terms: PriceTerms
) -> int:
    """The most that the tokens of one call cost at any length up to its own: a step may be cheaper than one before."""
    steps = [rates for above, rates in price_sheet.rate_tiers if input_tokens > above]
    dearest = 0
    for rates in (price_sheet.base, *steps):
        input_max, output_max = _dearest_rates(rates, long_cache, terms)
        dearest = max(dearest, input_tokens * input_max + output_tokens * output_max)
    return dearest


def _dearest_rates(rates: Rates, long_cache: bool, terms: PriceTerms) -> tuple[int, int]:
    """The dearest kinds of input and output token that a request can have."""
    input_max = rates.input_max_long_cache if long_cache else rates.input_max
    output_max = rates.output_max
    modalities = rates.modalities
    if modalities is not None:
        if terms.has_audio_input:
            input_max = max(input_max, modalities.input_audio, modalities.cached_audio)
        if terms.has_audio_output:
            output_max = max(output_max, modalities.output_audio)
        if terms.has_image_output:
            output_max = max(output_max, modalities.output_image)
    return input_max, output_max


def _geo_permille(price_sheet: PriceSheet, geo: str) -> int:
    return price_sheet.geo_permille.get(geo, GEO_SCALE) if geo else GEO_SCALE


def _is_off_peak(minutes: tuple[tuple[int, int], ...], at: float) -> bool:
    # The epoch began on a Thursday.
    minute = (int(at // 60) + _MINUTES_TO_MONDAY) % _MINUTES_PER_WEEK
    return any(first <= minute < end for first, end in minutes)
