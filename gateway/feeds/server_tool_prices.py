"""Fees of tools that run at a provider, in nUSD per call, where litellm's list has none.

A tool that costs nothing beyond its tokens has the price 0; one that is missing has no known price.
"""

from collections.abc import Mapping

# By litellm's name of the provider. Where each is from, 2026-11-29:
# openai: web search and its tokens, modelcostwatch.com/openai/tool-costs/web-search (of platform.openai.com/docs/pricing,
#   March 2026), else the list; file search, litellm 1.105.3; container, the list's `openai/container`; computer use is
#   tokens. A picture whose tokens are not reported costs what the list's gpt-image-1 does at its quality and size, else
#   the dearest of these.
# azure: as openai; container, the list's `azure/container`.
# anthropic: web search, the list; web fetch is tokens; code execution, the least time that is billed, five minutes of
#   0.05 USD an hour (platform.claude.com/docs/en/about-claude/pricing). Hours that are free are not taken off.
# xai: docs.x.ai/developers/pricing, as read.
# gemini: search and maps, litellm 1.105.3 where the list has none; code execution, URLs, files and computer use are tokens.
# groq: search and visits, litellm 1.105.3 (of groq.com/pricing); code execution is billed by the hour and has no price.
# perplexity: docs.perplexity.ai/getting-started/pricing, as read: tools of other makers' models.
_OPENAI = {
    "web_search": 10_000_000, "file_search": 2_500_000, "code_execution": 30_000_000, "computer_use": 0,
    "image_generation": 250_000_000,
    "image_generation:low:1024x1024": 11_000_000, "image_generation:medium:1024x1024": 42_000_000,
    "image_generation:high:1024x1024": 167_000_000, "image_generation:low:1024x1536": 16_000_000,
    "image_generation:medium:1024x1536": 63_000_000, "image_generation:high:1024x1536": 250_000_000,
    "image_generation:low:1536x1024": 16_000_000, "image_generation:medium:1536x1024": 63_000_000,
    "image_generation:high:1536x1024": 250_000_000,
}  # fmt: skip
_ANTHROPIC = {"web_search": 10_000_000, "web_fetch": 0, "code_execution": 4_166_667, "computer_use": 0}
_GEMINI = {
    "web_search": 35_000_000, "maps_grounding": 25_000_000, "code_execution": 0, "web_fetch": 0, "file_search": 0,
    "computer_use": 0,
}  # fmt: skip
_XAI = {
    "web_search": 5_000_000, "x_search": 5_000_000, "code_execution": 5_000_000, "collections_search": 2_500_000,
    "file_search": 2_500_000,
}  # fmt: skip
_NONE: Mapping[str, int] = {}
SERVER_TOOL_NUSD: Mapping[str, Mapping[str, int]] = {
    "openai": _OPENAI,
    "azure": {**_OPENAI, "code_execution": 33_000_000},
    "anthropic": _ANTHROPIC,
    "vertex_ai-anthropic_models": _ANTHROPIC,
    "gemini": _GEMINI,
    "vertex_ai": _GEMINI,
    "vertex_ai-language-models": _GEMINI,
    "xai": _XAI,
    "perplexity": {"web_search": 5_000_000, "web_fetch": 500_000},
    "groq": {"web_search": 5_000_000, "web_fetch": 1_000_000},
}
# Tools of which all calls within one request are one fee: a container serves them all.
TOOLS_ONCE: Mapping[str, frozenset[str]] = {
    "anthropic": frozenset({"code_execution"}),
    "vertex_ai-anthropic_models": frozenset({"code_execution"}),
}


def server_tool_nusd(provider: str) -> Mapping[str, int]:
    """Returns the fees of a provider's tools, by unit."""
    return SERVER_TOOL_NUSD.get(provider, _NONE)
