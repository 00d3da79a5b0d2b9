"""What an answer names that is billed beside tokens: service tier, region, tools, the provider's own cost. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from .usage_spellings import token_count

# Providers' names of service tiers; all others (default, auto, standard, on_demand, scale, ...) are the standard tier.
# OpenAI, Anthropic, Groq, Gemini and Bedrock documentation, 2026-08.
_SERVICE_TIERS = {
    "flex": "flex", "balanced": "balanced", "priority": "priority", "fast": "priority", "ultrafast": "ultrafast", "batch": "batch",
    "on_demand_flex": "flex", "on_demand_priority": "priority",
}  # fmt: skip
# Anthropic's words for no region, and for any.
_NO_GEOS = ("", "global", "not_available")
# Counts of tool calls by their names in the groups of usage below, and in the details of the input.
_TOOL_COUNTS = {
    "web_search_requests": "web_search",  # Anthropic, OpenRouter; litellm for Gemini
    "web_fetch_requests": "web_fetch",
    "code_execution_requests": "code_execution",
    "google_maps_grounding_requests": "maps_grounding",  # litellm for Gemini
    "web_search_calls": "web_search",  # xAI, docs.x.ai, 2026-08
    "x_search_calls": "x_search",
    "code_interpreter_calls": "code_execution",
    "file_search_calls": "file_search",
    "document_search_calls": "collections_search",
    "image_generation_calls": "image_generation",
    "web_search": "web_search",  # Volcengine; with a group of its own: OpenAI
    "search": "web_search",  # Alibaba
    "search_web": "web_search",  # Perplexity's agents
    "fetch_url": "web_fetch",
}
_TOOL_GROUPS = (
    "server_tool_use", "server_tool_use_details", "server_side_tool_usage_details", "tool_usage", "tool_calls_details",
    "plugins",
)  # fmt: skip
# The count of calls, where a tool has a group of its own.
_CALL_COUNTS = ("num_requests", "invocation", "count")
# Names within usage one of which is there where anything but tokens and the tier is.
_EXTRA_NAMES = frozenset(
    {
        *_TOOL_GROUPS, "inference_geo", "cost", "estimated_cost", "cost_in_usd_ticks", "num_search_queries",
        "num_sources_used", "search_context_size",
    }
)  # fmt: skip
# Items of a Responses answer by the tool that they are a call of.
_TOOL_ITEMS = {
    "web_search_call": "web_search", "file_search_call": "file_search", "image_generation_call": "image_generation",
    "code_interpreter_call": "code_execution", "shell_call": "code_execution", "computer_call": "computer_use", "x_search_call": "x_search", "collections_search_call": "collections_search",
}  # fmt: skip
# Groq's tools by their type in `executed_tools` (console.groq.com, built-in tools, 2026-08).
_EXECUTED_TOOLS = {
    "search": "web_search", "browser_search": "web_search", "visit": "web_fetch", "browser": "web_fetch",
    "python": "code_execution", "code_execution": "code_execution",
}  # fmt: skip
# Models of chat completions that search the web in every call (platform.openai.com, web search guide, 2026-08).
_SEARCH_MODELS = ("-search-preview", "-search-api")
_PICTURE = re.compile(r"[a-z]{1,16}:\d{1,5}x\d{1,5}")
_LIST_MAX = 4096
# xAI reports cost in ticks of 10^-10 USD.
_TICKS_PER_NUSD = 10
# Above a million USD (in ticks) nothing is a cost; characters of one that is sent as text, and of a region.
_AMOUNT_MAX, _COST_NUSD_MAX = 10**16, 10**15
_AMOUNT_CHARS_MAX, _GEO_CHARS_MAX = 32, 64


def extras_beside_tokens(answer: Mapping[str, Any], usage: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Usage beside tokens that an answer sets; `usage` is its usage object."""
    extras: dict[str, Any] = {}
    tier = _service_tier(answer, usage)
    if tier:
        extras["service_tier"] = tier
    tools = _calls_of_items(answer) if "output" in answer else _calls_of_choices(answer)
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and not _TOOL_COUNTS.keys().isdisjoint(details):
        _add_counts(tools, details)
    if not _EXTRA_NAMES.isdisjoint(usage):
        geo, cost = usage.get("inference_geo"), _reported_cost_nusd(usage)
        if isinstance(geo, str) and geo not in _NO_GEOS:
            extras["inference_geo"] = geo[:_GEO_CHARS_MAX]
        if cost is not None:
            extras["reported_cost_nusd"] = cost
        _add_counted_calls(tools, usage)
    if tools:
        extras["server_tools"] = tuple(sorted(tools.items()))
    return extras


def _service_tier(answer: Mapping[str, Any], usage: Mapping[str, Any]) -> str:
    if usage.get("speed") == "fast":
        return "fast"
    name = usage.get("service_tier") or answer.get("service_tier")
    if "extra_properties" in usage:
        # Vertex AI's compatible API.
        google = usage["extra_properties"].get("google") if isinstance(usage["extra_properties"], dict) else None
        name = google.get("traffic_type") if isinstance(google, dict) else name
    return _SERVICE_TIERS.get(name.lower(), "") if isinstance(name, str) else ""


def _add_counted_calls(tools: dict[str, int], usage: Mapping[str, Any]) -> None:
    """Add calls that usage counts; of two places that name the same tool the larger count is taken."""
    for group in _TOOL_GROUPS:
        details = usage.get(group)
        if isinstance(details, dict):
            _add_counts(tools, details)
    # xAI bills sources read by its search, Perplexity each query, or each request of a search model.
    searches = token_count(usage.get("num_search_queries")) or token_count(usage.get("num_sources_used"))
    if searches or "search_context_size" in usage:
        tools["web_search"] = max(tools.get("web_search", 0), searches or 1)


def _add_counts(tools: dict[str, int], details: Mapping[str, Any]) -> None:
    for name, value in details.items():
        unit = _TOOL_COUNTS.get(name)
        count = _call_count(value) if unit is not None else 0
        if unit is not None and count:
            tools[unit] = max(tools.get(unit, 0), count)


def _call_count(value: Any) -> int:
    if isinstance(value, dict):
        value = next((value[name] for name in _CALL_COUNTS if name in value), None)
    return token_count(value) or 0


def _calls_of_items(answer: Mapping[str, Any]) -> dict[str, int]:
    """Tool calls among the items of a Responses answer.

    OpenAI bills a search, not the opening of a page; containers by their id (platform.openai.com, pricing, 2026-08).
    `tool_usage` names the billed searches where it is present.
    """
    tools: dict[str, int] = {}
    containers: set[str] = set()
    output = answer["output"]
    for item in output[:_LIST_MAX] if isinstance(output, list) else ():
        kind = item.get("type") if isinstance(item, dict) else None
        unit = _TOOL_ITEMS.get(kind) if isinstance(kind, str) else None
        if unit is not None and _is_billed(item, unit, containers):
            unit = _picture_unit(item) if unit == "image_generation" else unit
            tools[unit] = tools.get(unit, 0) + 1
    reported = answer.get("tool_usage")
    searches = _call_count(reported.get("web_search")) if isinstance(reported, dict) else 0
    return {**tools, "web_search": searches} if searches else tools


def _picture_unit(item: Mapping[str, Any]) -> str:
    """The unit of a picture, with its quality and size where it names both."""
    quality, size = item.get("quality"), item.get("size")
    if isinstance(quality, str) and isinstance(size, str) and _PICTURE.fullmatch(f"{quality}:{size}"):
        return f"image_generation:{quality}:{size}"
    return "image_generation"


def _is_billed(item: Mapping[str, Any], unit: str, containers: set[str]) -> bool:
    """Whether an item is billed; of those that run in one container, the first."""
    if unit == "web_search":
        action = item.get("action")
        return not isinstance(action, dict) or action.get("type", "search") == "search"
    if unit != "code_execution":
        return True
    environment = item.get("environment")
    container = (environment if isinstance(environment, dict) else item).get("container_id")
    if not isinstance(container, str):
        # xAI names no container and bills each call; a shell without one is the caller's.
        return item.get("type") != "shell_call"
    is_new = container not in containers
    containers.add(container)
    return is_new


def _calls_of_choices(answer: Mapping[str, Any]) -> dict[str, int]:
    """Tool calls of a chat answer: citations of a search, the calls that Groq lists."""
    tools: dict[str, int] = {}
    model = answer.get("model")
    if isinstance(model, str) and "-search-" in model and any(name in model for name in _SEARCH_MODELS):
        tools["web_search"] = 1
    choices = answer.get("choices")
    for choice in choices[:_LIST_MAX] if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            continue
        annotations, executed = message.get("annotations"), message.get("executed_tools")
        if annotations and _cites_pages(annotations):
            tools["web_search"] = max(1, tools.get("web_search", 0))
        if isinstance(executed, list):
            for unit, count in _executed_tools(executed).items():
                tools[unit] = max(count, tools.get(unit, 0))
    return tools


def _executed_tools(executed: list[Any]) -> dict[str, int]:
    """Calls by unit; a stream lists a call again when its output is there."""
    indexes: dict[str, set[str]] = {}
    for position, call in enumerate(executed[:_LIST_MAX]):
        kind = call.get("type") if isinstance(call, dict) else None
        unit = _EXECUTED_TOOLS.get(kind) if isinstance(kind, str) else None
        if unit is not None:
            indexes.setdefault(unit, set()).add(str(call.get("index", position)))
    return {unit: len(found) for unit, found in indexes.items()}


def _cites_pages(annotations: Any) -> bool:
    return isinstance(annotations, list) and any(
        isinstance(annotation, dict) and annotation.get("type") == "url_citation"
        for annotation in annotations[:_LIST_MAX]
    )


def _reported_cost_nusd(usage: Mapping[str, Any]) -> int | None:
    """The cost that the answer names, in nUSD.

    OpenRouter's `cost` leaves out what the provider bills to a key of one's own; Perplexity's is a group; DeepInfra
    calls it `estimated_cost`.
    """
    ticks = _amount(usage.get("cost_in_usd_ticks"))
    if ticks is not None:
        return round(ticks / _TICKS_PER_NUSD)
    cost = usage.get("cost", usage.get("estimated_cost"))
    amount = _amount(cost.get("total_cost") if isinstance(cost, dict) else cost)
    if amount is None:
        return None
    details = usage.get("cost_details")
    if usage.get("is_byok") is True and isinstance(details, dict):
        amount += _amount(details.get("upstream_inference_cost")) or 0.0
    return min(round(amount * 1e9), _COST_NUSD_MAX)


def _amount(value: Any) -> float | None:
    """A cost that is a number or holds one as text; None for anything else."""
    if isinstance(value, str) and len(value) <= _AMOUNT_CHARS_MAX:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= _AMOUNT_MAX else None
