"""Reads a price sheet from one entry of litellm's price list.

A key is a kind of token, then a step (`_above_200k_tokens`), then a service tier (`_priority`). What an entry leaves out
is taken from the tier without the step, from the standard tier, or from the kind that it is a special case of.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..values.catalog import GEO_SCALE, ModalityRates, OffPeak, PriceSheet, Rates
from ..values.units import NUSD_PER_USD, TOKENS_PER_MTOK, divide_half_even
from .server_tool_prices import TOOLS_ONCE, server_tool_nusd

_INPUT, _OUTPUT = "input_cost_per_token", "output_cost_per_token"
_CACHED, _WRITE = "cache_read_input_token_cost", "cache_creation_input_token_cost"
_WRITE_LONG, _REASONING = "cache_creation_input_token_cost_above_1hr", "output_cost_per_reasoning_token"
_BATCH_SUFFIX = "_batches"
# The list's suffix of each service tier.
TIER_SUFFIXES = {
    "flex": "_flex",
    "balanced": "_balanced",
    "priority": "_priority",
    "batch": _BATCH_SUFFIX,
    "ultrafast": "_ultrafast",
}
_STEP = re.compile(
    rf"(?:{_INPUT}|{_OUTPUT}|{_CACHED}|{_WRITE})_above_(\d+)(k?)_tokens"
    rf"({'|'.join(TIER_SUFFIXES.values())})?"
)
# Providers that charge a step from its number of tokens on rather than above it: litellm 1.105.3 of xAI, whose own pages
# leave it open (docs.x.ai/developers/pricing, 2026-11-29).
_INCLUSIVE_STEP_PROVIDERS = frozenset({"xai"})
# Cached input of a Fireworks model that lists no price for it: half (docs.fireworks.ai/faq-new/billing-pricing/
# is-prompt-caching-billed-differently, read 2026-11-29).
_DEFAULT_CACHED_DIVISOR = {"fireworks_ai": 2}
# Providers whose documentation has the tier as a field of the request alone (docs.fireworks.ai/serverless/
# serverless-modes, 2026-11-29; Gemini's compatible API likewise).
_UNNAMED_TIERS = frozenset({"fireworks_ai", "gemini"})
_SEARCH_SIZES = ("low", "medium", "high")
_MINUTES_PER_DAY = 24 * 60
# A Monday, from which the minutes of a week are counted.
_MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def nusd_per_million(entry: Mapping[str, Any], key: str) -> int | None:
    """Returns a price of an entry in nUSD per million; None without one."""
    value = entry.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    return round(Decimal(repr(value)) * NUSD_PER_USD * TOKENS_PER_MTOK)


def nusd(value: Any) -> int | None:
    """Returns an amount of US dollars in nUSD; None if it is not one."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    return round(Decimal(repr(value)) * NUSD_PER_USD)


def price_sheet(entry: Mapping[str, Any], source: str) -> PriceSheet | None:
    """Returns the price sheet of an entry; None where its tokens have no price: unpriced, not free."""
    standard = _sheet(entry, source, "")
    if standard is None:
        return None
    provider = entry.get("litellm_provider", "")
    tiers = {tier: _sheet(entry, source, suffix) for tier, suffix in TIER_SUFFIXES.items() if _has_tier(entry, suffix)}
    multipliers = entry.get("provider_specific_entry") or {}
    fast, us = _permille(multipliers.get("fast")), _permille(multipliers.get("us"))
    if fast is not None:
        tiers["fast"] = scaled(standard, fast)
    elif "priority" in tiers:
        # OpenAI's `fast` is its former `priority` (litellm 1.105.3 maps them alike).
        tiers["fast"] = tiers["priority"]
    tools, once, always = _tools(entry, provider)
    return replace(
        standard,
        service_tiers={tier: sheet for tier, sheet in tiers.items() if sheet is not None},
        names_tiers=provider not in _UNNAMED_TIERS,
        off_peak=_off_peak(entry, standard),
        geo_permille={"us": us} if us is not None else {},
        tool_nusd=tools,
        tools_once=once,
        tools_always=always,
        call_nusd=nusd(entry.get("input_cost_per_request")) or 0,
    )


def scaled(sheet: PriceSheet, permille: int) -> PriceSheet:
    """Returns the sheet with every price of tokens multiplied, `permille` in thousandths."""

    def rates(old: Rates) -> Rates:
        modalities = old.modalities
        return Rates(
            input=_times(old.input, permille),
            output=_times(old.output, permille),
            cached_input=_times(old.cached_input, permille),
            cache_write=_times(old.cache_write, permille),
            cache_write_long=_times(old.cache_write_long, permille),
            reasoning=_times(old.reasoning, permille),
            modalities=None
            if modalities is None
            else ModalityRates(
                input_audio=_times(modalities.input_audio, permille),
                cached_audio=_times(modalities.cached_audio, permille),
                input_image=_times(modalities.input_image, permille),
                cached_image=_times(modalities.cached_image, permille),
                output_audio=_times(modalities.output_audio, permille),
                output_image=_times(modalities.output_image, permille),
            ),
        )

    off_peak = sheet.off_peak
    return replace(
        sheet,
        base=rates(sheet.base),
        rate_tiers=tuple((above, rates(step)) for above, step in sheet.rate_tiers),
        service_tiers={tier: scaled(tier_sheet, permille) for tier, tier_sheet in sheet.service_tiers.items()},
        off_peak=None if off_peak is None else replace(off_peak, sheet=scaled(off_peak.sheet, permille)),
    )


def region_permille(entry: Mapping[str, Any]) -> dict[str, int]:
    """Returns what the entry's tokens cost at a regional endpoint, in thousandths: `us` and `eu` of OpenAI, `vertex`."""
    keys = {
        "us": "regional_processing_uplift_multiplier_us",
        "eu": "regional_processing_uplift_multiplier_eu",
        "vertex": "regional_endpoint_uplift_multiplier",
    }
    return {
        region: permille for region, key in keys.items() if (permille := _permille(entry.get(key))) not in (None, 1000)
    }


def _has_tier(entry: Mapping[str, Any], suffix: str) -> bool:
    return any(nusd_per_million(entry, f"{key}{suffix}") is not None for key in (_INPUT, _OUTPUT))


def _sheet(entry: Mapping[str, Any], source: str, suffix: str) -> PriceSheet | None:
    """The tokens of one service tier, by the list's suffix."""
    ranges = entry.get("tiered_pricing")
    if isinstance(ranges, list) and ranges:
        return _sheet_of_ranges(entry, source, ranges)
    base = _rates(entry, suffix, [], source)
    if base is None:
        return None
    steps = _steps(entry, suffix)
    inclusive = entry.get("litellm_provider") in _INCLUSIVE_STEP_PROVIDERS
    tiers = []
    for number, (above, _) in enumerate(steps):
        rates = _rates(entry, suffix, [key for _, key in steps[: number + 1]], source)
        if rates is not None:
            tiers.append((above - 1 if inclusive else above, rates))
    return PriceSheet(base=base, source=source, rate_tiers=tuple(tiers))


def _steps(entry: Mapping[str, Any], suffix: str) -> list[tuple[int, str]]:
    """(Tokens, key of the step), ascending: those of the standard tier and of this one."""
    found = set()
    for key in entry:
        match = _STEP.fullmatch(key)
        if match and match[3] in (None, suffix or None) and nusd_per_million(entry, key) is not None:
            found.add((int(match[1]) * (1000 if match[2] else 1), f"_above_{match[1]}{match[2]}_tokens"))
    return sorted(found)


def _sheet_of_ranges(entry: Mapping[str, Any], source: str, ranges: Sequence[Mapping[str, Any]]) -> PriceSheet | None:
    """A sheet by ranges of input tokens, `from < tokens <= to`: the whole request costs what its range costs.

    Alibaba Model Studio, as litellm 1.105.3 has it of help.aliyun.com/zh/model-studio/billing-for-model-studio.
    """
    priced = [item for item in ranges if len(item.get("range", ())) == 2 and nusd_per_million(item, _INPUT)]
    ordered = sorted(priced, key=lambda item: item["range"][0])
    outputs = {key: entry[key] for key in (_OUTPUT, _REASONING) if key in entry}
    rates = []
    for item in ordered:
        own = item if _OUTPUT in item else {**outputs, **item}
        found = _rates(own, "", [])
        if found is not None:
            rates.append((int(item["range"][0]), found))
    if not rates:
        return None
    return PriceSheet(base=rates[0][1], source=source, rate_tiers=tuple(rates[1:]))


class _Reader:
    """Prices of one service tier above some steps."""

    def __init__(self, entry: Mapping[str, Any], suffix: str, steps: Sequence[str], model: str = "") -> None:
        self.entry, self.suffix, self.steps, self.model = entry, suffix, steps, model

    def price(self, key: str) -> int | None:
        """The price of a kind: the tier's, else the standard one, each replaced by that of a step.

        A step that is listed for the standard tier alone raises the tier's own price in the same proportion: so it is in
        426 of the 445 places where litellm 1.105.3 lists both.
        """
        tier, standard = self.own(key), nusd_per_million(self.entry, key)
        if tier is None and self.suffix == _BATCH_SUFFIX and standard is not None and self._is_halved(key):
            tier = standard // 2
        price = standard if tier is None else tier
        for step in self.steps:
            own, listed = self.own(f"{key}{step}"), nusd_per_million(self.entry, f"{key}{step}")
            if own is not None:
                price = own
            elif listed is not None:
                price = divide_half_even(listed * tier, standard) if self.suffix and tier and standard else listed
        return price

    def modality(self, key: str) -> int | None:
        """The price of audio, images or videos: the tier's, else the standard one; a batch costs half."""
        own, listed = self.own(key), nusd_per_million(self.entry, key)
        if own is None and self.suffix == _BATCH_SUFFIX and listed is not None and not key.startswith("cache"):
            return listed // 2
        return listed if own is None else own

    def _is_halved(self, key: str) -> bool:
        """Whether a batch costs half where the list does not say.

        Input and output do everywhere; caches of Claude do (neverpaytwice.pages.dev of Anthropic's page on batches, 2026-11-29:
        "all usage: input, output, cache writes and cache reads"), those of Gemini do not where the list has both prices.
        """
        return key in (_INPUT, _OUTPUT) or "claude" in self.model

    def own(self, key: str) -> int | None:
        """The tier's own price of a kind."""
        return nusd_per_million(self.entry, f"{key}{self.suffix}")


def _rates(entry: Mapping[str, Any], suffix: str, steps: Sequence[str], model: str = "") -> Rates | None:
    reader = _Reader(entry, suffix, steps, model)
    image_output, video_output = (reader.modality(f"output_cost_per_{kind}_token") for kind in ("image", "video"))
    input_rate, output_rate = reader.price(_INPUT), reader.price(_OUTPUT)
    if input_rate is None:
        # A model whose input is audio alone lists no price of text.
        input_rate = nusd_per_million(entry, "input_cost_per_audio_token")
    if not output_rate and image_output is not None:
        # All output of an image model is an image (litellm 1.105.3 does the same).
        output_rate = image_output
    if output_rate is None and entry.get("mode") == "embedding":
        output_rate = 0
    if not input_rate or output_rate is None:
        return None
    divisor = _DEFAULT_CACHED_DIVISOR.get(entry.get("litellm_provider", ""), 1)
    listed_cached = reader.price(_CACHED)
    cached = input_rate // divisor if listed_cached is None else listed_cached
    listed_write = reader.price(_WRITE)
    write = input_rate if listed_write is None else listed_write
    rates = Rates(
        input=input_rate,
        output=output_rate,
        cached_input=cached,
        cache_write=write,
        cache_write_long=_cache_write_long(reader, write),
        reasoning=_reasoning(reader, output_rate),
    )
    modalities = _modalities(reader, rates, has_cache=listed_cached is not None or divisor > 1)
    image_output = _first(image_output, video_output)
    if image_output is not None and image_output != output_rate:
        modalities = replace(modalities or _text_modalities(rates), output_image=image_output)
    return rates if modalities is None else replace(rates, modalities=modalities)


def _cache_write_long(reader: _Reader, write: int) -> int:
    """The price of an hour in the cache: the step's and tier's own, else in the same proportion to five minutes.

    Anthropic's multipliers of cache writes apply to whatever the input costs (platform.claude.com/docs/en/about-claude/
    pricing, read 2026-11-29).
    """
    step = reader.steps[-1] if reader.steps else ""
    entry, suffix = reader.entry, reader.suffix
    own = nusd_per_million(entry, f"{_WRITE_LONG}{step}{suffix}")
    if own is not None:
        return own
    for known_step, known_suffix in ((step, ""), ("", suffix), ("", "")):
        known = nusd_per_million(entry, f"{_WRITE_LONG}{known_step}{known_suffix}")
        if known is not None:
            reference = _Reader(entry, known_suffix, reader.steps if known_step else ()).price(_WRITE)
            return divide_half_even(known * write, reference) if reference else known
    return write


def _reasoning(reader: _Reader, output: int) -> int:
    """The price of reasoning: in the proportion to output that the tier lists, else the standard tier.

    What thinks is charged as output where output has a step (Gemini: "thinking tokens are billed at output rates",
    hivebook.wiki of ai.google.dev/gemini-api/docs/pricing, 2026-11-29).
    """
    for suffix in dict.fromkeys((reader.suffix, "")):
        listed = nusd_per_million(reader.entry, f"{_REASONING}{suffix}")
        if listed is not None:
            reference = _Reader(reader.entry, suffix, ()).price(_OUTPUT)
            return divide_half_even(listed * output, reference) if reference else listed
    return output


def _modalities(reader: _Reader, rates: Rates, *, has_cache: bool) -> ModalityRates | None:
    """Prices of audio and images; one that equals the price of text at the standard tier follows it everywhere."""
    entry = reader.entry

    def price(key: str, text: str, default: int) -> int:
        listed = nusd_per_million(entry, key)
        has_own = bool(reader.suffix) and reader.own(key) is not None
        if listed is None or (listed == nusd_per_million(entry, text) and not has_own):
            return default
        return reader.modality(key) or 0

    input_audio = price("input_cost_per_audio_token", _INPUT, rates.input)
    input_image = price("input_cost_per_image_token", _INPUT, rates.input)
    modalities = ModalityRates(
        input_audio=input_audio,
        cached_audio=price(
            "cache_read_input_audio_token_cost", _CACHED, rates.cached_input if has_cache else input_audio
        ),
        input_image=input_image,
        cached_image=price(
            "cache_read_input_image_token_cost", _CACHED, rates.cached_input if has_cache else input_image
        ),
        output_audio=price("output_cost_per_audio_token", _OUTPUT, rates.output),
        output_image=rates.output,
    )
    return None if modalities == _text_modalities(rates) else modalities


def _text_modalities(rates: Rates) -> ModalityRates:
    return ModalityRates(
        input_audio=rates.input,
        cached_audio=rates.cached_input,
        input_image=rates.input,
        cached_image=rates.cached_input,
        output_audio=rates.output,
        output_image=rates.output,
    )


def _tools(entry: Mapping[str, Any], provider: str) -> tuple[dict[str, int], frozenset[str], frozenset[str]]:
    """Fees of server tools: (by unit, billed once for a request, billed at least once)."""
    tools = dict(server_tool_nusd(provider))
    once, always = TOOLS_ONCE.get(provider, frozenset()), frozenset[str]()
    by_size = entry.get("search_context_cost_per_query")
    sizes = {size: nusd(by_size.get(f"search_context_size_{size}")) for size in _SEARCH_SIZES} if by_size else {}
    listed = {size: price for size, price in sizes.items() if price is not None}
    if listed:
        default = "low" if provider == "perplexity" else "medium"
        tools["web_search"] = listed.get(default, max(listed.values()))
        tools |= {f"web_search_{size}": price for size, price in listed.items() if price != tools["web_search"]}
    maps = nusd(entry.get("google_maps_grounding_cost_per_query"))
    if maps is not None:
        tools["maps_grounding"] = maps
    if server_tool_nusd(provider) is _GEMINI_TOOLS and entry.get("web_search_billing_unit") != "per_query":
        # Gemini 2 is billed by the grounded prompt, Gemini 3 by the query (ai.google.dev/gemini-api/docs/pricing).
        once |= {"web_search", "maps_grounding"}
    if provider == "perplexity" and listed and "citation_cost_per_token" not in entry:
        # A request of a Sonar model has a fee of its own, deep research one for each query (docs.perplexity.ai/
        # getting-started/pricing, read 2026-11-29).
        once, always = once | {"web_search"}, frozenset({"web_search"})
    return tools, once, always


_GEMINI_TOOLS = server_tool_nusd("gemini")


def _off_peak(entry: Mapping[str, Any], standard: PriceSheet) -> OffPeak | None:
    """Prices of certain hours: they replace those of any length of input."""
    block = entry.get("off_peak_pricing")
    if not isinstance(block, Mapping):
        return None
    minutes = minutes_of_week(block)
    if not minutes:
        return None
    rates = _rates(
        {**{key: entry[key] for key in (_INPUT, _OUTPUT, _CACHED, _WRITE, _REASONING) if key in entry}, **block}, "", []
    )
    return None if rates is None else OffPeak(sheet=PriceSheet(base=rates, source=standard.source), minutes=minutes)


def minutes_of_week(block: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """(First, end) in minutes of the UTC week: `hours_utc` on every day, `windows` on their weekdays."""
    try:
        calendar = ZoneInfo(block.get("weekday_timezone") or "UTC")
    except (ValueError, ZoneInfoNotFoundError):
        calendar = ZoneInfo("UTC")
    rules = [({1, 2, 3, 4, 5, 6, 7}, _as_list(block.get("hours_utc")))]
    for window in _as_list(block.get("windows")):
        days = window.get("weekdays")
        rules.append(
            (set(map(_weekday, days)) if days is not None else {1, 2, 3, 4, 5, 6, 7}, _as_list(window.get("hours_utc")))
        )
    inside = []
    for minute in range(7 * _MINUTES_PER_DAY):
        weekday = (_MONDAY + timedelta(minutes=minute)).astimezone(calendar).isoweekday()
        hours = (hour for days, windows in rules if weekday in days for hour in windows)
        inside.append(any(_is_within(hour, minute % _MINUTES_PER_DAY) for hour in hours))
    return tuple(_runs(inside))


def _runs(inside: Sequence[bool]) -> Iterable[tuple[int, int]]:
    first = None
    for minute, is_inside in enumerate([*inside, False]):
        if is_inside and first is None:
            first = minute
        elif not is_inside and first is not None:
            yield first, minute
            first = None


def _is_within(hours: str, minute: int) -> bool:
    """Whether a minute of the day is within "HH:MM-HH:MM"; equal times are the whole day."""
    first, end = (int(time[:2]) * 60 + int(time[3:5]) for time in hours.replace(" ", "").split("-"))
    return first <= minute < end if first < end else minute >= first or minute < end


def _weekday(day: Any) -> int:
    return day if isinstance(day, int) else _WEEKDAYS.index(str(day).strip().lower()[:3]) + 1


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _permille(value: Any) -> int | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        return None
    return round(Decimal(repr(value)) * GEO_SCALE)


def _times(price: int, permille: int) -> int:
    return divide_half_even(price * permille, GEO_SCALE)


def _first(*prices: int | None) -> int | None:
    """Returns the first price that is known."""
    return next((price for price in prices if price is not None), None)
