"""Reads what a request asks for that changes its price: service tier, region, tools of the provider, further calls.

Most requests ask for none of it: their parsers return STANDARD_TERMS and look no closer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ..values.usage import STANDARD_TERMS, FurtherCallTerms, PriceTerms
from .body import DECODE_ERRORS, BodyFields

# Words of providers -> tiers that such a request may be served at: where a dearer one is full, the standard one.
# `auto`, and an absent field: the tier that the provider's project is set to, see docs/budgets.md.
# OpenAI: auto default flex priority fast ultrafast scale (developers.openai.com, fast mode and ultrafast mode, 2026-11);
# fast is priority's name since 2026-07-30, scale is prepaid. Anthropic: auto standard_only (platform.claude.com, service
# tiers, 2026-11); its Priority Tier is capacity under contract and has no rates. Gemini: standard flex priority
# (ai.google.dev, priority inference, 2026-11). Groq: on_demand (console.groq.com, service tiers, 2026-11).
_TIERS_BY_WORD: Mapping[str, tuple[str, ...]] = {
    "": ("",), "auto": ("",), "default": ("",), "standard": ("",), "standard_only": ("",), "on_demand": ("",),
    "scale": ("",), "flex": ("flex", ""), "priority": ("priority", ""), "fast": ("priority", ""),
    "ultrafast": ("ultrafast", ""),
}  # fmt: skip
_GEMINI_TIER_PREFIX = "service_tier_"
_WORD_CHARS_MAX = 64
_UNPRINTABLE = re.compile(r"[^!-~]")

# Types of tools that run at the caller, or at the provider without a fee and without content of their own.
_CALLER_TOOLS = frozenset({None, "", "function", "custom", "namespace", "local_shell", "apply_patch", "tool_search"})
_CALLER_TOOL_PREFIXES = ("bash_", "text_editor_", "memory_", "computer", "tool_search_tool", "openrouter:datetime")


# Calls of a tool without a limit of its own. Anthropic ends a loop of its tools after ten rounds (platform.claude.com,
# server tools, 2026-11); OpenAI names no limit, its longest recorded answer had nine searches.
TOOL_CALLS_MAX = 10


class _ToolFacts(NamedTuple):
    """A tool that runs at the provider.

    unit: what is billed by the call, "" for nothing
    result_tokens: input tokens of one result
    calls_max: calls where the request sets no limit
    """

    unit: str
    result_tokens: int
    calls_max: int = TOOL_CALLS_MAX


# Tokens of a result. Web search: 3,000 to 11,500, on average 6,600; code execution under 1,000, pictures and MCP calls
# under 2,000 (38 calls of Anthropic and OpenAI that pydantic-ai recorded, 2025-10 to 2026-09). Web fetch: a long page of
# documentation (platform.claude.com, web fetch, 2026-11). File search: 20 chunks of 800 tokens (platform.openai.com, file
# search, 2026-11). The others are judgments.
_WEB_SEARCH = _ToolFacts("web_search", 8_000)
_WEB_FETCH = _ToolFacts("web_fetch", 25_000)
_CODE_EXECUTION = _ToolFacts("code_execution", 4_000)
# By the beginning of the tool's type.
_TOOL_FACTS: tuple[tuple[str, _ToolFacts], ...] = (
    ("web_search", _WEB_SEARCH),
    ("openrouter:web_search", _WEB_SEARCH),
    ("google_search", _WEB_SEARCH),
    ("browser_search", _WEB_SEARCH),
    ("web_fetch", _WEB_FETCH),
    ("openrouter:web_fetch", _WEB_FETCH),
    ("url_context", _WEB_FETCH),
    ("file_search", _ToolFacts("file_search", 16_000)),
    ("code_execution", _CODE_EXECUTION),
    ("code_interpreter", _CODE_EXECUTION),
    ("shell", _CODE_EXECUTION),
    # No recorded answer had more than one picture; four are a judgment.
    ("image_generation", _ToolFacts("", 4_000, calls_max=4)),
    ("x_search", _ToolFacts("x_search", 8_000)),
    ("collections_search", _ToolFacts("collections_search", 16_000)),
    ("google_maps", _ToolFacts("maps_grounding", 2_000)),
    ("mcp", _ToolFacts("", 4_000)),
)
# Of a tool that is not in the table: its own type is the unit, for which a price sheet may have a price.
_UNKNOWN_RESULT_TOKENS = 8_000
_VERSION = re.compile(r"[_-](?:\d{8}|preview|\d{4}[_-]\d{2}[_-]\d{2})+$")
# Instructions that a provider adds for each of its tools: Anthropic's web search took 2,200 tokens, its code execution
# 2,300, its advisor 1,100 (recorded by pydantic-ai, as above).
_INSTRUCTION_TOKENS = 2_500
# A larger limit bounds nothing.
_COUNT_MAX = 10_000
_ADVISOR_PREFIXES = ("advisor", "openrouter:advisor")
_IMAGE_TOOL = "image_generation"
# Its model where the request names none, and the tokens of its largest picture with three previews
# (platform.openai.com, image generation, 2026-08). The tokens of its prompt and of pictures to edit are a judgment.
_IMAGE_TOOL_MODEL, _IMAGE_INPUT_TOKENS, _IMAGE_OUTPUT_TOKENS = "gpt-image-1", 10_000, 6_240 + 3 * 100
# Of an advisor without `max_tokens`: 1,400 to 1,800 are typical (platform.claude.com, advisor tool, 2026-11). Its calls
# without `max_uses` are a judgment; recorded answers had one.
_ADVISOR_OUTPUT_TOKENS, _ADVISOR_CALLS_MAX = 2_048, 4
_SEARCH_SIZES = ("low", "medium", "high")
# Models beside the request's own that are read; a request with more of them is refused by every provider.
_FURTHER_MODELS_MAX = 16


class _Tool(msgspec.Struct, gc=False):
    """What of a tool matters for its price."""

    type: Any = None
    max_uses: Any = None
    max_content_tokens: Any = None
    search_context_size: Any = None
    model: Any = None
    max_tokens: Any = None
    environment: Any = None
    parameters: msgspec.Raw = msgspec.Raw()
    tools: list["_Tool"] | None = None


_TOOLS = msgspec.json.Decoder(list[_Tool])


class OtherModels(NamedTuple):
    """Fields by which a request names models that may serve it besides its own.

    models: OpenRouter's list
    fallbacks: Anthropic's list of {model}, or names
    """

    models: Any
    fallbacks: Any


def runs_at_provider(tool_type: Any) -> bool:
    """Whether a tool of this type runs at the provider, which may bill it by the call or read its results."""
    if tool_type is None or not isinstance(tool_type, str):
        return False
    return tool_type not in _CALLER_TOOLS and not tool_type.startswith(_CALLER_TOOL_PREFIXES)


def price_terms(
    document: BodyFields,
    *,
    tools: Iterable[msgspec.Raw] = (),
    tool_calls_max: Any = None,
    searches: Iterable[Any] = (),
    summarizes: bool = False,
    others: OtherModels | None = None,
    modalities: Any = None,
    has_audio_input: bool = False,
) -> PriceTerms:
    """Return the terms of a request; STANDARD_TERMS itself where it asks for nothing.

    tools: raw lists of tool definitions
    tool_calls_max: most calls of all tools of the provider together
    searches: options of searches that run once each
    summarizes: whether the provider may summarize the conversation in a call of its own
    modalities: kinds of output
    """
    bounds = _Bounds(_count(tool_calls_max, _COUNT_MAX))
    for raw in tools:
        for tool in _decoded_tools(raw):
            bounds.add_tool(tool)
    for options in searches:
        bounds.add_search(options)
    further = [FurtherCallTerms(model="", kind="compaction")] if summarizes else []
    further += bounds.further_calls
    further += _fallback_calls(others) if others is not None else ()
    kinds = modalities if isinstance(modalities, list) else ()
    terms = PriceTerms(
        service_tiers=service_tiers(document),
        inference_geo=_word(document.inference_geo),
        server_tools=tuple(bounds.calls.items()),
        search_context_size=bounds.search_size,
        tool_tokens_max=bounds.added_tokens,
        has_audio_input=has_audio_input,
        has_audio_output="audio" in kinds,
        has_image_output=bounds.has_images or "image" in kinds,
        further_calls=tuple(further),
    )
    return STANDARD_TERMS if terms == STANDARD_TERMS else terms


def tier_terms(document: BodyFields) -> PriceTerms:
    """Return the terms of a request that can ask for a tier and a region only."""
    if document.service_tier is None and document.speed is None and document.inference_geo is None:
        return STANDARD_TERMS
    return price_terms(document)


def service_tiers(document: BodyFields) -> tuple[str, ...]:
    """Return the tiers that a request may be served at, the standard one always among them."""
    asked = document.service_tier
    # Amazon Bedrock has the word in an object (docs.aws.amazon.com, ServiceTier, 2026-11).
    word = _word(asked.get("type") if isinstance(asked, dict) else asked).lower().removeprefix(_GEMINI_TIER_PREFIX)
    tiers = _TIERS_BY_WORD.get(word) or (word, "")
    # Anthropic's fast mode (platform.claude.com, fast mode, 2026-11).
    speed = _word(document.speed).lower()
    return tiers if speed in ("", "standard") else (speed, *tiers)


def may_summarize(context_management: Any, compaction: Any = None) -> bool:
    """Whether the provider may summarize the conversation: by an edit of it, or by Anthropic's `compaction`."""
    edits = context_management
    if isinstance(edits, dict):
        edits = edits.get("edits")
    types = [edit.get("type") for edit in edits if isinstance(edit, dict)] if isinstance(edits, list) else []
    return bool(compaction) or any(isinstance(kind, str) and kind.startswith("compact") for kind in types)


class _Bounds:
    """Sums up what the provider's tools may be called for."""

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self.calls: dict[str, int] = {}
        self.added_tokens = 0
        self.search_size = ""
        self.further_calls: list[FurtherCallTerms] = []
        self.has_images = False

    def add_tool(self, tool: _Tool) -> None:
        """Count a tool, and those in its namespace."""
        for inner in tool.tools or ():
            self.add_tool(inner)
        if not runs_at_provider(tool.type) or (tool.type == "shell" and not _runs_in_container(tool.environment)):
            return
        parameters = _parameters(tool)
        is_advisor, facts = tool.type.startswith(_ADVISOR_PREFIXES), _facts_of(tool.type)
        asked, unlimited = (
            tool.max_uses or parameters.get("max_uses"),
            _ADVISOR_CALLS_MAX if is_advisor else facts.calls_max,
        )
        calls = min(self._calls_max, _count(asked, unlimited))
        self.added_tokens += _INSTRUCTION_TOKENS
        if is_advisor:
            self._add_further(_advisor(tool, parameters, calls))
            return
        if tool.type == _IMAGE_TOOL:
            self.has_images = True
            self._add_further(
                FurtherCallTerms(
                    model=_word(tool.model) or _IMAGE_TOOL_MODEL,
                    kind=_IMAGE_TOOL,
                    calls_max=calls,
                    input_tokens_max=_IMAGE_INPUT_TOKENS,
                    output_tokens_max=_IMAGE_OUTPUT_TOKENS,
                )
            )
        self._add(facts.unit, _count(tool.max_content_tokens, facts.result_tokens), calls=calls)
        self._set_search_size(tool.search_context_size)

    def add_search(self, options: Any) -> None:
        """Count a search that runs once."""
        most = options.get("max_search_results", 1) if isinstance(options, dict) else 1
        self._add(_WEB_SEARCH.unit, _WEB_SEARCH.result_tokens, calls=_count(most, 1))
        if isinstance(options, dict):
            self._set_search_size(options.get("search_context_size"))

    def _add_further(self, call: FurtherCallTerms) -> None:
        if len(self.further_calls) < _FURTHER_MODELS_MAX:
            self.further_calls.append(call)

    def _add(self, unit: str, result_tokens: int, *, calls: int) -> None:
        if unit:
            self.calls[unit] = self.calls.get(unit, 0) + calls
        self.added_tokens += calls * result_tokens

    def _set_search_size(self, size: Any) -> None:
        if size in _SEARCH_SIZES:
            self.search_size = max(self.search_size or _SEARCH_SIZES[0], size, key=_SEARCH_SIZES.index)


def _decoded_tools(raw: msgspec.Raw) -> Iterator[_Tool]:
    """The tools of a raw list; of another value none, and of a list with other values its objects."""
    try:
        yield from _TOOLS.decode(raw)
    except DECODE_ERRORS:
        values = _decoded(raw)
        for value in values if isinstance(values, list) else ():
            if isinstance(value, dict):
                yield _Tool(**{name: value[name] for name in _PLAIN_FIELDS if name in value})


_PLAIN_FIELDS = (
    "type",
    "max_uses",
    "max_content_tokens",
    "search_context_size",
    "model",
    "max_tokens",
    "environment",
)


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw) if memoryview(raw).nbytes else None
    except (*DECODE_ERRORS, RecursionError):
        return None


def _parameters(tool: _Tool) -> dict[str, Any]:
    """OpenRouter's place for the options of its tools."""
    parameters = _decoded(tool.parameters)
    return parameters if isinstance(parameters, dict) else {}


def _runs_in_container(environment: Any) -> bool:
    """Whether OpenAI's shell runs in a container of the provider rather than at the caller."""
    kind = environment.get("type") if isinstance(environment, dict) else None
    return isinstance(kind, str) and kind.startswith("container")


def _facts_of(tool_type: str) -> _ToolFacts:
    for prefix, facts in _TOOL_FACTS:
        if tool_type.startswith(prefix):
            return facts
    return _ToolFacts(_VERSION.sub("", _word(tool_type)) or "tool", _UNKNOWN_RESULT_TOKENS)


def _advisor(tool: _Tool, parameters: Mapping[str, Any], calls: int) -> FurtherCallTerms:
    most = tool.max_tokens or parameters.get("max_completion_tokens")
    return FurtherCallTerms(
        model=_word(tool.model or parameters.get("model")),
        kind="advisor",
        calls_max=calls,
        output_tokens_max=_count(most, _ADVISOR_OUTPUT_TOKENS, maximum=10_000_000),
    )


def _fallback_calls(others: OtherModels) -> list[FurtherCallTerms]:
    calls = []
    for names in others:
        for name in names[:_FURTHER_MODELS_MAX] if isinstance(names, list) else ():
            model = _word(name.get("model") if isinstance(name, dict) else name)
            if model:
                calls.append(FurtherCallTerms(model=model, kind="fallback"))
    return calls


def _count(value: Any, default: int, *, maximum: int = _COUNT_MAX) -> int:
    """A limit as the caller gives it; the default where it bounds nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= maximum:
        return default
    return int(value)


def _word(value: Any) -> str:
    """A caller's word in characters that fit a message, "" for another value."""
    return _UNPRINTABLE.sub("", value)[:_WORD_CHARS_MAX] if isinstance(value, str) else ""
