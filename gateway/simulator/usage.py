"""What the simulated provider claims to have read and written, and its prompt cache."""

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
    """Token counts; `cached` and `cache_write` lie within `given`, `reasoning` within `written`."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """A piece of an Anthropic prompt, and whether the caller asks to cache everything up to it."""

    content: bytes
    is_breakpoint: bool = False


class PromptCache:
    """Remembers which prompts were seen."""

    def __init__(self) -> None:
        self._openai_prompts: OrderedDict[int, int] = OrderedDict()
        self._anthropic_prefixes: OrderedDict[int, None] = OrderedDict()

    def openai_cached_tokens(self, opening: Any, given: int) -> int:
        """Like OpenAI's prompt cache: the prefix seen before, in whole blocks, from a minimum on."""
        key = hash(orjson.dumps(opening))
        before = self._openai_prompts.get(key, 0)
        _store_bounded(self._openai_prompts, key, given)
        shared = min(before, given)
        return shared // _CACHE_BLOCK_TOKENS * _CACHE_BLOCK_TOKENS if shared >= _CACHE_MIN_TOKENS else 0

    def anthropic_cache_tokens(self, blocks: Sequence[PromptBlock]) -> tuple[int, int]:
        """Like Anthropic's: (tokens read, tokens written) of what lies before the last breakpoint."""
        last = max((place for place, block in enumerate(blocks) if block.is_breakpoint), default=-1)
        running, size, read, marks = 0, 0, 0, []
        for block in blocks[: last + 1]:
            running, size = hash((running, block.content)), size + len(block.content)
            if size < _CACHE_MIN_TOKENS * CHARS_PER_TOKEN:
                continue
            if running in self._anthropic_prefixes:
                read = size
            if block.is_breakpoint:
                marks.append((running, size))
        for mark, _ in marks:
            _store_bounded(self._anthropic_prefixes, mark, None)
        total = marks[-1][1] if marks else read
        return read // CHARS_PER_TOKEN, total // CHARS_PER_TOKEN - read // CHARS_PER_TOKEN


def text_tokens(texts: Iterable[str]) -> int:
    """About how many tokens these texts are; at least one."""
    return sum(map(len, texts)) // CHARS_PER_TOKEN + 1


def json_tokens(value: Any) -> int:
    """About how many tokens the JSON of a value is."""
    return len(orjson.dumps(value)) // CHARS_PER_TOKEN


def output_token_counts(reply: SimulatedReply, ordered: Any, limit: int | None) -> tuple[int, int]:
    """(output tokens, of them reasoning): as ordered, else as long as the reply is; never beyond the caller's limit."""
    reasoning = text_tokens([reply.thinking]) if reply.thinking else 0
    calls = (call.name + call.arguments for call in reply.tool_calls)
    count = int(ordered or text_tokens([reply.text, *calls]) + reasoning)
    count = min(count, limit) if limit else count
    return count, min(reasoning, count)


def _store_bounded(book: OrderedDict[int, Any], key: int, value: Any) -> None:
    book[key] = value
    if len(book) > _CACHE_ENTRIES:
        book.popitem(last=False)
