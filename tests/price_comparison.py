"""Compares our charge with litellm's calculator, over the models of the bundled list. `make prices` runs all of it.

Both read the same list, so that a difference is one of rules. Each difference has to be explained by a row of
EXPLANATIONS: the provider's rule, its source and its date.
"""

import os
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

# litellm adds floats; a difference below this many nUSD, or this share, is one of rounding.
_ABSOLUTE, _RELATIVE = 1.0, 1e-6
# Moments within and outside of the cheaper hours of all listed providers: a Saturday, and a Tuesday at 02:00 UTC.
OFF_PEAK, PEAK = datetime(2026, 1, 10, 12, tzinfo=UTC), datetime(2026, 1, 6, 2, tzinfo=UTC)
# litellm's names of providers in calls, where the list has others.
_CALL_PROVIDERS = {"bedrock_converse": "bedrock", "text-completion-openai": "openai", "azure_text": "azure"}


class Case(NamedTuple):
    """One usage of one model.

    label: what it is about
    at: when the call ended
    """

    label: str
    usage: Usage
    at: datetime = PEAK


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
    """litellm, with the bundled list as its price list."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litellm = import_module("litellm")
        import_module("litellm.cost_calculator")
    litellm.suppress_debug_info = True
    litellm.model_cost = entries()
    import_module("litellm.utils")._invalidate_model_cost_lowercase_map()
    return litellm


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
        f"{label}: audio cached", Usage(input=size, output=500, input_audio=half, cached_input=fifth, cached_audio=fifth)
    )
    yield Case(f"{label}: images in", Usage(input=size, output=500, input_image=half))
    yield Case(f"{label}: audio out", Usage(input=size, output=500, output_audio=300))
    yield Case(f"{label}: images out", Usage(input=size, output=500, output_image=400))


def _at_tier(tier_cases: Iterator[Case], tier: str) -> Iterator[Case]:
    for case in tier_cases:
        yield case._replace(usage=structs.replace(case.usage, service_tier=tier))


def compare(litellm: Any, name: str, entry: Mapping[str, Any]) -> Iterator[Comparison]:
    """Every case of one model; nothing for a model without a price of tokens."""
    listed = prices_litellm.listed_model(prices_litellm.load(), name)
    assert listed is not None, "the model is of the list"
    if listed.price_sheet is None:
        return
    for case in cases(entry, listed.price_sheet):
        ours = pricing.charge(listed.price_sheet, case.usage, at=case.at.timestamp())
        theirs = _litellm_nusd(litellm, name, entry, case)
        explanation = ""
        if abs(ours - theirs) > max(_ABSOLUTE, _RELATIVE * ours):
            explanation = next((key for key, row in EXPLANATIONS.items() if row.applies(entry, case)), UNEXPLAINED)
        yield Comparison(name, case, ours, theirs, explanation)


def _litellm_nusd(litellm: Any, name: str, entry: Mapping[str, Any], case: Case) -> float:
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
EXPLANATIONS: Mapping[str, Explanation] = {}


def main() -> int:
    """Compare every model; print counts and what is unexplained; 1 if anything is."""
    litellm, found = load_litellm(), Counter[str]()
    samples: dict[str, list[Comparison]] = {}
    for name, entry in entries().items():
        for comparison in compare(litellm, name, entry):
            found[comparison.explanation] += 1
            if comparison.explanation == UNEXPLAINED:
                samples.setdefault(comparison.case.label.partition(": ")[2], []).append(comparison)
    total, equal, unexplained = sum(found.values()), found[""], found[UNEXPLAINED]
    print(f"{total} comparisons: {equal} equal, {total - equal - unexplained} explained, {unexplained} unexplained")
    for key, row in EXPLANATIONS.items():
        print(f"  {found[key]:6} {key}: {row.rule} ({row.source})")
    for label, comparisons in samples.items():
        for one in comparisons[:5]:
            print(f"unexplained ({len(comparisons)} {label}): {one.model}, {one.case.label}: {one.ours} {one.theirs}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
