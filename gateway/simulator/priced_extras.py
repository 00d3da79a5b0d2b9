"""What an answer costs beyond its tokens, as asked for: service tier, web searches, compaction.

A directive decides what the provider does of it: `tier` (the tier that serves, if not the one asked for), `searches`
(how often the offered search is called) and `compacts` (whether the conversation is summarized before the answer).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .directives import Directive
from .usage import SimulatedUsage

# Tiers by the word that asks for them; any other is served at the standard one.
_SERVED_TIERS = {"flex": "flex", "priority": "priority", "fast": "priority"}
# Tokens of a search's results, and of a summary, unless the request limits them.
_RESULT_TOKENS, _SUMMARY_TOKENS = 2_000, 60
_SEARCHES_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedExtras:
    """What was asked for and happened.

    service_tier: the tier that served; "": the request named none
    searches: web searches
    compaction: (input, output) tokens of the call that summarized; None: there was none
    """

    service_tier: str = ""
    searches: int = 0
    compaction: tuple[int, int] | None = None


NO_EXTRAS = PricedExtras()


def extras_of(
    body: Mapping[str, Any], directive: Directive, usage: SimulatedUsage
) -> tuple[PricedExtras, SimulatedUsage]:
    """The extras of an answer, and its usage with them: results of searches are input, a summary replaces it."""
    tools = list(_search_tools(body))
    allowed = sum(tool.get("max_uses") or _SEARCHES_MAX for tool in tools)
    searches = min(int(directive.get("searches") or 0), body.get("max_tool_calls") or _SEARCHES_MAX, allowed)
    if searches:
        result_tokens = min(tool.get("max_content_tokens") or _RESULT_TOKENS for tool in tools)
        usage = replace(usage, input_tokens=usage.input_tokens + searches * result_tokens)
    compaction = None
    if directive.get("compacts") and _may_compact(body):
        summary = min(_SUMMARY_TOKENS, body.get("max_tokens") or _SUMMARY_TOKENS)
        compaction = (usage.input_tokens, summary)
        usage = replace(usage, input_tokens=summary + 1, cached_tokens=0, cache_write_tokens=0)
    asked = body.get("service_tier")
    tier = str(directive.get("tier") or _SERVED_TIERS.get(asked, "default")) if asked else ""
    return PricedExtras(service_tier=tier, searches=searches, compaction=compaction), usage


def _search_tools(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for tool in body.get("tools") or ():
        if isinstance(tool, dict) and str(tool.get("type")).startswith("web_search"):
            yield tool


def _may_compact(body: Mapping[str, Any]) -> bool:
    edits = (body.get("context_management") or {}).get("edits") or ()
    return any(str(edit.get("type")).startswith("compact") for edit in edits)
