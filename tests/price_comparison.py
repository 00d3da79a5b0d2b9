"""Compares our charge with litellm's calculator, over the models of the bundled list. `make prices` runs all of it.

Both read the same list, so that a difference is one of rules. Each difference has to be explained by a row of
EXPLANATIONS: the provider's rule, its source and its date.
"""

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from gateway.accounting import pricing
from gateway.feeds import prices_litellm
from gateway.feeds.price_entry import TIER_SUFFIXES
from gateway.values.catalog import PriceSheet
from gateway.values.units import NUSD_PER_USD
from gateway.values.usage import Usage

# litellm adds floats; a difference below this many nUSD, or this share, or a nUSD for each piece, is one of rounding.
_ABSOLUTE, _RELATIVE = 1.0, 1e-6
# Moments within and outside of the cheaper hours of all listed providers: a Saturday, and a Tuesday at 02:00 UTC.
OFF_PEAK, PEAK = datetime(2026, 1, 10, 12, tzinfo=UTC), datetime(2026, 1, 6, 2, tzinfo=UTC)
# litellm's names of providers in calls, where the list has others.
_CALL_PROVIDERS = {"bedrock_converse": "bedrock"}
_SIZE = re.compile(r"\d+-x-\d+/")
# Entries that litellm looks up besides that of the model.
_SHARED_ENTRIES = ("openai/container", "azure/container")


class Case(NamedTuple):
    """One usage of one model.

    label: what it is about
    at: when the call ended
    pieces: (unit, count) where it is billed by the piece
    """

    label: str
    usage: Usage
    at: datetime = PEAK
    pieces: tuple[str, int] = ("", 0)


class Comparison(NamedTuple):
    """Our charge and litellm's, in nUSD; the name of the explanation where they differ."""

    model: str
    case: Case
    ours: float
    theirs: float
    explanation: str


class Explanation(NamedTuple):
    """Why a difference is right.

    rule: the provider's rule, or that of the list
    source: where it is published, and when it was read
    applies: whether it explains a difference of this entry and case
    """

    rule: str
    source: str
    applies: Callable[[Mapping[str, Any], Case], bool]


def load_litellm() -> Any:
    """litellm, without a look at its network."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litellm = import_module("litellm")
        import_module("litellm.cost_calculator")
    # No hints on standard output for names that litellm does not know.
    vars(litellm)["suppress_debug_info"] = True
    return litellm


def use_list(litellm: Any, models: dict[str, Any]) -> None:
    """Make litellm price by these entries."""
    litellm.model_cost = models
    import_module("litellm.utils")._invalidate_model_cost_lowercase_map()


def entries() -> dict[str, dict[str, Any]]:
    """The bundled list, decoded."""
    return {name: msgspec.json.decode(raw) for name, raw in prices_litellm.load().items()}


def cases(entry: Mapping[str, Any], sheet: PriceSheet) -> Iterator[Case]:
    """The grid of usages of a model: kinds of tokens, around each step, at each tier, region and hour."""
    sizes = {1_000}
    for above, _ in [*sheet.rate_tiers, *(step for tier in sheet.service_tiers.values() for step in tier.rate_tiers)]:
        sizes |= {above - 1, above, above + 1, above + 2}
    for size in sorted(sizes):
        yield from _kinds(f"{size} tokens", size)
        for tier in TIER_SUFFIXES:
            if tier in sheet.service_tiers:
                yield from _at_tier(_kinds(f"{size} tokens, {tier}", size), tier)
    yield from _at_tier(_kinds("priority", 1_000), "priority")
    for geo in sheet.geo_permille:
        for case in _kinds(geo, 1_000):
            yield case._replace(usage=structs.replace(case.usage, inference_geo=geo))
    if "fast" in (entry.get("provider_specific_entry") or {}):
        yield from _at_tier(_kinds("fast", 1_000), "fast")
    if sheet.off_peak is not None:
        for case in _kinds("cheaper hours", 1_000):
            yield case._replace(at=OFF_PEAK)
    if entry.get("search_context_cost_per_query"):
        yield Case("3 searches", Usage(input=1_000, output=500, server_tools=(("web_search", 3),)))
    if entry.get("google_maps_grounding_cost_per_query"):
        yield Case("2 maps", Usage(input=1_000, output=500, server_tools=(("maps_grounding", 2),)))


def _kinds(label: str, size: int) -> Iterator[Case]:
    half, fifth = size // 2, size // 5
    yield Case(f"{label}: plain", Usage(input=size, output=500))
    yield Case(f"{label}: no output", Usage(input=size, output=0))
    yield Case(f"{label}: cached", Usage(input=size, output=500, cached_input=half))
    yield Case(f"{label}: written", Usage(input=size, output=500, cache_write=half))
    yield Case(f"{label}: written for an hour", Usage(input=size, output=500, cache_write=half, cache_write_long=half))
    yield Case(
        f"{label}: cached and written",
        Usage(input=size, output=500, cached_input=half, cache_write=fifth, cache_write_long=fifth // 2, reasoning=100),
    )
    yield Case(f"{label}: reasoning", Usage(input=size, output=500, reasoning=400))
    yield Case(f"{label}: audio in", Usage(input=size, output=500, input_audio=half))
    yield Case(
        f"{label}: audio cached",
        Usage(input=size, output=500, input_audio=half, cached_input=fifth, cached_audio=fifth),
    )
    yield Case(f"{label}: images in", Usage(input=size, output=500, input_image=half))
    yield Case(f"{label}: audio out", Usage(input=size, output=500, output_audio=300))
    yield Case(f"{label}: images out", Usage(input=size, output=500, output_image=400))


def _at_tier(tier_cases: Iterator[Case], tier: str) -> Iterator[Case]:
    for case in tier_cases:
        yield case._replace(usage=structs.replace(case.usage, service_tier=tier))


def compare(litellm: Any, name: str, entry: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[Comparison]:
    """Every case of one model; nothing for a model without a price."""
    listed = prices_litellm.listed_model(prices_litellm.load(), name)
    assert listed is not None, "the model is of the list"
    # The list of this model alone: what litellm makes of a name is not compared.
    sized = [key for key in shared if key.endswith(f"/{name.rpartition('/')[2]}") and "-x-" in key]
    use_list(litellm, {name: dict(entry), **{key: shared[key] for key in (*_SHARED_ENTRIES, *sized)}})
    for case in (*(cases(entry, listed.price_sheet) if listed.price_sheet else ()), *_pieces(name, entry, listed)):
        ours = _our_nusd(listed, case)
        try:
            theirs = _litellm_nusd(litellm, name, entry, case)
        except litellm.ModelNotMappedError:
            theirs = float("nan")
        explanation = ""
        if not abs(ours - theirs) <= max(_ABSOLUTE, case.pieces[1], _RELATIVE * ours):
            explanation = next((key for key, row in EXPLANATIONS.items() if row.applies(entry, case)), UNEXPLAINED)
        yield Comparison(name, case, ours, theirs, explanation)


def _our_nusd(listed: prices_litellm.ListedModel, case: Case) -> int:
    unit, count = case.pieces
    if unit:
        price = pricing.unit_nusd(listed.unit_prices, unit)
        assert price is not None, "the case is one of the priced units"
        return price * count
    assert listed.price_sheet is not None, "the case is one of tokens"
    return pricing.charge(listed.price_sheet, case.usage, at=case.at.timestamp())


def _pieces(name: str, entry: Mapping[str, Any], listed: prices_litellm.ListedModel) -> Iterator[Case]:
    """One case for each unit that is the model's own way of billing."""
    # Entries of a size are prices of another model, compared with it.
    is_size = bool(_SIZE.search(name))
    units = () if is_size else _UNITS_BY_MODE.get(entry.get("mode", ""), ())
    for unit in listed.unit_prices:
        if unit.partition(":")[0] in units and not (unit == "image" and _has_sizes(listed)):
            yield Case(unit, Usage(input=0, output=0), pieces=(unit, 7))


def _has_sizes(listed: prices_litellm.ListedModel) -> bool:
    return any(unit.startswith("image:") for unit in listed.unit_prices)


# How models of each kind are billed where it is by the piece.
_UNITS_BY_MODE = {
    "audio_transcription": ("second",),
    "audio_speech": ("character",),
    "rerank": ("query",),
    "ocr": ("page",),
    "video_generation": ("video_second",),
    "image_generation": ("image",),
    "image_edit": ("image",),
}


def _litellm_pieces_nusd(litellm: Any, name: str, entry: Mapping[str, Any], case: Case) -> float:
    calculator = import_module("litellm.cost_calculator")
    unit, count = case.pieces
    kind, _, variant = unit.partition(":")
    quality, _, size = variant.partition(":")
    arguments = {"model": name, "custom_llm_provider": _call_provider(entry["litellm_provider"])}
    if kind == "image":
        usd = _litellm_images_usd(calculator, arguments, count, quality, size)
    elif kind == "video_second":
        usd = calculator.default_video_cost_calculator(
            **arguments, duration_seconds=float(count), video_resolution=size or None
        )
    elif kind == "page":
        ocr = import_module("litellm.llms.base_llm.ocr.transformation")
        answer = ocr.OCRResponse(pages=[], model=name, usage_info=ocr.OCRUsageInfo(pages_processed=count))
        usd = sum(calculator.ocr_cost(**arguments, response=answer))
    elif kind == "query":
        usd = sum(litellm.cost_per_token(**arguments, call_type="rerank", rerank_billed_units={"search_units": count}))
    elif kind == "second":
        usd = sum(
            litellm.cost_per_token(
                **arguments, call_type="transcription", audio_transcription_file_duration=float(count)
            )
        )
    else:
        usd = sum(litellm.cost_per_token(**arguments, call_type="speech", prompt_characters=count))
    return usd * NUSD_PER_USD


def _litellm_images_usd(calculator: Any, arguments: dict[str, str], count: int, quality: str, size: str) -> float:
    if arguments["custom_llm_provider"] not in ("gemini", "vertex_ai"):
        usd: float = calculator.default_image_cost_calculator(
            **arguments, n=count, quality=quality or None, size=size or "1024x1024"
        )
        return usd
    types = import_module("litellm.types.utils")
    answer = types.ImageResponse(data=[types.ImageObject(url="x")] * count)
    routed: float = calculator.CostCalculatorUtils.route_image_generation_cost_calculator(
        **arguments, completion_response=answer, n=count, size=size or None, quality=quality or None
    )
    return routed


def _litellm_nusd(litellm: Any, name: str, entry: Mapping[str, Any], case: Case) -> float:
    if case.pieces[0]:
        return _litellm_pieces_nusd(litellm, name, entry, case)
    types, usage = import_module("litellm.types.utils"), case.usage
    provider = _call_provider(entry["litellm_provider"])
    theirs = _litellm_usage(types, usage)
    context = import_module("litellm._internal_context")
    token = context._billing_time.set(case.at)
    try:
        arguments = {"model": name, "custom_llm_provider": provider, "usage_object": theirs}
        if usage.service_tier == "batch":
            costs = litellm.cost_per_token(**arguments, call_type="retrieve_batch")
        else:
            costs = litellm.cost_per_token(
                **arguments, service_tier=usage.service_tier or None, call_type=_call_type(entry)
            )
    finally:
        context._billing_time.reset(token)
    usd = sum(costs)
    if usage.server_tools:
        tools = import_module("litellm.litellm_core_utils.llm_cost_calc.tool_call_cost_tracking")
        usd += tools.StandardBuiltInToolCostTracking.get_cost_for_built_in_tools(
            model=name,
            response_object=_responses_answer(litellm, usage),
            usage=theirs,
            custom_llm_provider=provider,
        )
    return usd * NUSD_PER_USD


def _call_provider(provider: str) -> str:
    if provider.startswith("vertex_ai"):
        return "vertex_ai"
    return _CALL_PROVIDERS.get(provider, provider.removesuffix("-embedding-models"))


def _call_type(entry: Mapping[str, Any]) -> str:
    return {"embedding": "embedding", "audio_transcription": "transcription", "audio_speech": "speech"}.get(
        entry.get("mode", ""), "completion"
    )


def _litellm_usage(types: Any, usage: Usage) -> Any:
    """Our usage in litellm's words, the parts of the input apart from each other."""
    cached_text = usage.cached_input - usage.cached_audio - usage.cached_image
    text = usage.input - usage.input_audio - usage.input_image - cached_text - usage.cache_write
    details = {
        "cached_tokens": usage.cached_input,
        "text_tokens": text + cached_text,
        "audio_tokens": usage.input_audio,
        "image_tokens": usage.input_image,
        "cached_tokens_details": {
            "text_tokens": cached_text,
            "audio_tokens": usage.cached_audio,
            "image_tokens": usage.cached_image,
        },
    }
    if usage.cache_write:
        details["cache_creation_tokens"] = usage.cache_write
        details["cache_creation_token_details"] = types.CacheCreationTokenDetails(
            ephemeral_5m_input_tokens=usage.cache_write - usage.cache_write_long,
            ephemeral_1h_input_tokens=usage.cache_write_long,
        )
    counts = dict(usage.server_tools)
    if "maps_grounding" in counts:
        details["google_maps_grounding_requests"] = counts["maps_grounding"]
    output = types.CompletionTokensDetailsWrapper(
        reasoning_tokens=usage.reasoning,
        audio_tokens=usage.output_audio,
        image_tokens=usage.output_image,
        text_tokens=usage.output - usage.reasoning - usage.output_audio - usage.output_image,
    )
    extra: dict[str, Any] = {}
    if "web_search" in counts:
        details["web_search_requests"] = counts["web_search"]
        extra["server_tool_use"] = types.ServerToolUse(web_search_requests=counts["web_search"])
        extra["server_side_tool_usage_details"] = {"web_search_calls": counts["web_search"]}
    if usage.inference_geo:
        extra["inference_geo"] = usage.inference_geo
    if usage.service_tier == "fast":
        extra["speed"] = "fast"
    return types.Usage(
        prompt_tokens=usage.input,
        completion_tokens=usage.output,
        total_tokens=usage.input + usage.output,
        prompt_tokens_details=types.PromptTokensDetailsWrapper(**details),
        completion_tokens_details=output,
        **extra,
    )


def _responses_answer(litellm: Any, usage: Usage) -> Any:
    items = [
        {"type": f"{unit}_call", "id": f"{unit}{number}", "status": "completed"}
        for unit, count in usage.server_tools
        if unit == "web_search"
        for number in range(count)
    ]
    return litellm.ResponsesAPIResponse(id="r", created_at=0, output=items, object="response")


UNEXPLAINED = "unexplained"
_KINDS = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
)


def _is_above_a_step_of_the_standard_tier(entry: Mapping[str, Any], case: Case) -> bool:
    suffix = TIER_SUFFIXES.get(case.usage.service_tier)
    if suffix is None:
        return False
    steps = {key for key in entry if key.startswith(_KINDS) and key.endswith("_tokens") and "_above_" in key}
    return any(
        f"{key}{suffix}" not in entry and case.usage.input > 1000 * int(key.rpartition("_above_")[2].partition("k")[0])
        for key in steps
    )


def _has_cache_in_batch(entry: Mapping[str, Any], case: Case) -> bool:
    usage = case.usage
    return usage.service_tier == "batch" and bool(
        (usage.cached_input and "cache_read_input_token_cost_batches" not in entry)
        or (usage.cache_write and "cache_creation_input_token_cost_batches" not in entry)
        or usage.cache_write_long
    )


def _has_modalities(usage: Usage) -> bool:
    return bool(usage.input_audio or usage.input_image or usage.output_audio or usage.output_image)


def _has_uncached_audio(entry: Mapping[str, Any], case: Case) -> bool:
    return bool(case.usage.cached_audio) and not any("cache_read_input" in key for key in entry)


def _modality_follows_text(entry: Mapping[str, Any], case: Case) -> bool:
    usage = case.usage
    pairs = (
        ("input_cost_per_audio_token", "input_cost_per_token", usage.input_audio),
        ("input_cost_per_image_token", "input_cost_per_token", usage.input_image),
        ("output_cost_per_audio_token", "output_cost_per_token", usage.output_audio),
    )
    follows = any(count and key in entry and entry[key] == entry.get(text) for key, text, count in pairs)
    return follows and (bool(usage.service_tier) or usage.input > 1_000)


def _has_audio_price_of_the_tier(entry: Mapping[str, Any], case: Case) -> bool:
    suffix = TIER_SUFFIXES.get(case.usage.service_tier, "")
    return bool(suffix and _has_modalities(case.usage)) and any(
        key.endswith(f"_token{suffix}") and ("audio" in key or "image" in key) for key in entry
    )


EXPLANATIONS: Mapping[str, Explanation] = {
    "cache in a batch": Explanation(
        "a batch of Claude costs half of everything, caches included; elsewhere a cache costs what it costs outside of "
        "batches where the list has no other price; litellm bills both as uncached input",
        "Anthropic's page on batches, as quoted by neverpaytwice.pages.dev; prices of Gemini in the list; 2026-11-29",
        _has_cache_in_batch,
    ),
    "audio and images in a batch": Explanation(
        "a batch costs half of the price of each kind; litellm bills all output of a batch at the price of text",
        "the list itself: 42 of 43 prices of audio and images in batches are half, none is more; 2026-11-29",
        lambda entry, case: (
            case.usage.service_tier == "batch" and (_has_modalities(case.usage) or "output_cost_per_token" not in entry)
        ),
    ),
    "step of a service tier": Explanation(
        "a step raises each service tier in the proportion in which it raises the standard one; litellm takes the step's "
        "standard price, or in a batch none",
        "426 of 445 places of the list itself; hivebook.wiki of Gemini's pricing page (batch and flex half, priority 1.8 times); 2026-11-29",
        _is_above_a_step_of_the_standard_tier,
    ),
    "priority of Fireworks": Explanation(
        "the priority tier has a price of its own, which the list has; litellm's calculator of Fireworks reads no tier",
        "docs.fireworks.ai/serverless/pricing, 2026-11-29",
        lambda entry, case: entry["litellm_provider"] == "fireworks_ai" and bool(case.usage.service_tier),
    ),
    "request fee of Sonar": Explanation(
        "each request of a Sonar model costs a fee by the size of its search context, whatever it searches",
        "docs.perplexity.ai/getting-started/pricing, 2026-11-29",
        lambda entry, case: entry["litellm_provider"] == "perplexity" and "search_context_cost_per_query" in entry,
    ),
    "caches and steps at Perplexity": Explanation(
        "other makers' models have their caches and steps, which the list has; litellm's calculator of Perplexity reads "
        "neither",
        "docs.perplexity.ai/getting-started/pricing (rates of caches by model), 2026-11-29",
        lambda entry, case: (
            entry["litellm_provider"] == "perplexity"
            and (bool(case.usage.cached_input or case.usage.cache_write) or case.usage.input > 1_000)
        ),
    ),
    "cached audio without a price": Explanation(
        "where a provider has no price of cached input, cached tokens cost what they cost uncached; litellm takes the price "
        "of text for audio",
        "the list itself, which has no cached input of these models; 2026-11-29",
        _has_uncached_audio,
    ),
    "audio and images at the price of text": Explanation(
        "a kind that costs the same as text at the standard tier does so at steps and tiers; litellm keeps its standard "
        "price there",
        "docs.x.ai/developers/pricing: tokens of images are billed at the rate of the model; the list; 2026-11-29",
        _modality_follows_text,
    ),
    "audio at a tier": Explanation(
        "the list has a price of audio at the tier; litellm's calculator does not read the key",
        "the list itself, 2026-11-29",
        _has_audio_price_of_the_tier,
    ),
    "input that is audio alone": Explanation(
        "what such a model reads is audio; the list has no price of text, which litellm bills at none",
        "the list itself, 2026-11-29",
        lambda entry, case: "input_cost_per_token" not in entry and "input_cost_per_audio_token" in entry,
    ),
    "images that are drawn": Explanation(
        "an image costs what it costs to draw; litellm takes the price of an image that is read where it is listed as zero",
        "the list itself, 2026-11-29",
        lambda entry, case: case.pieces[0] == "image" and entry.get("input_cost_per_image") == 0,
    ),
    "larger videos": Explanation(
        "Sora's larger size has a price, which the list has as a model of its own; litellm's calculator reads no size",
        "replicate.com/openai/sora-2-pro: standard is 720p, high 1024p; the list; 2026-11-29",
        lambda entry, case: case.pieces[0] == "video_second::1024p",
    ),
    "videos": Explanation(
        "tokens of a video are counted with those of images, at the price of videos where the model makes no images",
        "the list itself, 2026-11-29",
        lambda entry, case: bool(case.usage.output_image) and "output_cost_per_video_token" in entry,
    ),
}


def sample() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """One model for each set of keys that a provider's prices have."""
    seen = set()
    for name, entry in entries().items():
        kind = entry["litellm_provider"], frozenset(key for key in entry if "cost" in key or "pric" in key)
        if kind not in seen:
            seen.add(kind)
            yield name, entry


def main() -> int:
    """Compare every model; print counts and what is unexplained; 1 if anything is."""
    litellm, found, compared = load_litellm(), Counter[str](), set[str]()
    samples: dict[str, list[Comparison]] = {}
    models = entries()
    for name, entry in models.items():
        for comparison in compare(litellm, name, entry, models):
            found[comparison.explanation] += 1
            compared.add(name)
            if comparison.explanation == UNEXPLAINED:
                samples.setdefault(comparison.case.label.partition(": ")[2], []).append(comparison)
    total, equal, unexplained = sum(found.values()), found[""], found[UNEXPLAINED]
    print(
        f"{len(compared)} models, {total} comparisons: {equal} equal, {total - equal - unexplained} explained, {unexplained} unexplained"
    )
    for key, row in EXPLANATIONS.items():
        print(f"  {found[key]:6} {key}: {row.rule} ({row.source})")
    for label, comparisons in samples.items():
        for one in comparisons[:5]:
            print(f"unexplained ({len(comparisons)} {label}): {one.model}, {one.case.label}: {one.ours} {one.theirs}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
