"""Fees of tools that run at a provider, in nUSD per call, where litellm's list has none.

A tool that costs nothing beyond its tokens has the price 0; one that is missing has no known price.
"""

from collections.abc import Mapping

# By litellm's name of the provider. Sources, read 2026-11-29:
# openai: platform.openai.com/docs/pricing (web search 10 USD and file search 2.50 USD per thousand calls, code
#   interpreter 0.03 USD per container, computer use by tokens); the fee of a web search is the list's where it has one.
#   A picture whose tokens are not reported costs what gpt-image-1 charges for its quality and size, else the dearest.
# azure: azure.microsoft.com/pricing/details/azure-openai (code interpreter 0.033 USD per session, in the list as
#   `azure/container`; file search 2.50 USD per thousand calls).
# anthropic: platform.claude.com/docs/en/about-claude/pricing (web search 10 USD per thousand; web fetch by tokens; code
#   execution 0.05 USD per hour of a container, at least five minutes).
# xai: docs.x.ai/developers/pricing (web search, X search and code execution 5 USD, collections 2.50 USD per thousand).
# gemini: ai.google.dev/gemini-api/docs/pricing (search 35 USD per thousand prompts, 14 USD per thousand queries from
#   Gemini 3 on, maps 25 USD; code execution, URL context, file search and computer use by tokens).
# groq: groq.com/pricing (search 5 USD, visits 1 USD per thousand; code execution is billed by the hour).
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
