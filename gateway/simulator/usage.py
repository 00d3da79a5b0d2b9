"""Usage that the simulated provider reports, and its prompt cache."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from .directives import CHARS_PER_TOKEN, SimulatedReply

# OpenAI's prompt cache: https://platform.openai.com/docs/guides/prompt-caching (blocks of 128 from 1024 tokens on).
_CACHE_BLOCK_TOKENS, _CACHE_MIN_TOKENS, _CACHE_ENTRIES = 128, 1024, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedUsage:
    """Token counts.

    cached_tokens, cache_write_tokens: part of input_tokens
    reasoning_tokens: part of output_tokens
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """A block of an Anthropic prompt.

    is_breakpoint: the caller asks to cache everything up to it
    """

    content: bytes
    is_breakpoint: bool = False


class PromptCache:
    """Remembers which prompts were seen."""

    def __init__(self) -> None:
        self._openai_prompts: OrderedDict[int, int] = OrderedDict()
        self._anthropic_prefixes: OrderedDict[int, None] = OrderedDict()

    def openai_cached_tokens(self, opening: Any, input_tokens: int) -> int:
        """Cached tokens as OpenAI counts them.

        The known prefix in whole blocks, from a minimum on.
        """
        key = hash(orjson.dumps(opening))
        seen_tokens = self._openai_prompts.get(key, 0)
        _store_bounded(self._openai_prompts, key, input_tokens)
        prefix = min(seen_tokens, input_tokens)
        return prefix // _CACHE_BLOCK_TOKENS * _CACHE_BLOCK_TOKENS if prefix >= _CACHE_MIN_TOKENS else 0

    def anthropic_cache_tokens(self, blocks: Sequence[PromptBlock]) -> tuple[int, int]:
        """(tokens read, tokens written) up to the last breakpoint, as Anthropic counts."""
        last = max((index for index, block in enumerate(blocks) if block.is_breakpoint), default=-1)
        prefix_hash, size, read, breakpoints = 0, 0, 0, []
        for block in blocks[: last + 1]:
            prefix_hash, size = hash((prefix_hash, block.content)), size + len(block.content)
            if size < _CACHE_MIN_TOKENS * CHARS_PER_TOKEN:
                continue
            if prefix_hash in self._anthropic_prefixes:
                read = size
            if block.is_breakpoint:
                breakpoints.append((prefix_hash, size))
        for breakpoint_hash, _ in breakpoints:
            _store_bounded(self._anthropic_prefixes, breakpoint_hash, None)
        total = breakpoints[-1][1] if breakpoints else read
        return read // CHARS_PER_TOKEN, total // CHARS_PER_TOKEN - read // CHARS_PER_TOKEN


def text_tokens(texts: Iterable[str]) -> int:
    """About how many tokens these texts are; at least one."""
    return sum(map(len, texts)) // CHARS_PER_TOKEN + 1


def json_tokens(value: Any) -> int:
    """About how many tokens the JSON of a value is."""
    return len(orjson.dumps(value)) // CHARS_PER_TOKEN


def output_token_counts(reply: SimulatedReply, directed: Any, limit: int | None) -> tuple[int, int]:
    """(output tokens, reasoning tokens among them).

    As directed, else by the reply's length; never above the caller's limit.
    """
    reasoning = text_tokens([reply.thinking]) if reply.thinking else 0
    calls = (call.name + call.arguments for call in reply.tool_calls)
    count = int(directed or text_tokens([reply.text, *calls]) + reasoning)
    count = count if limit is None else min(count, limit)
    return count, min(reasoning, count)


def _store_bounded(entries: OrderedDict[int, Any], key: int, value: Any) -> None:
    entries[key] = value
    if len(entries) > _CACHE_ENTRIES:
        entries.popitem(last=False)
