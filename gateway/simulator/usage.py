"""What the simulated provider claims to have read and written, and its prompt cache."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from .directives import CHARS_PER_TOKEN, Reply

# OpenAI's prompt cache: https://platform.openai.com/docs/guides/prompt-caching (blocks of 128 from 1024 tokens on).
_CACHE_BLOCK_TOKENS, _CACHE_MIN_TOKENS, _CACHE_ENTRIES = 128, 1024, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts; `cached` and `cache_write` lie within `given`, `reasoning` within `written`."""

    given: int
    written: int
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of an Anthropic prompt, and whether the caller asks to cache everything up to it."""

    content: bytes
    breakpoint: bool = False


class Meter:
    """Remembers which prompts were seen."""

    def __init__(self) -> None:
        self._openings: OrderedDict[int, int] = OrderedDict()
        self._prefixes: OrderedDict[int, None] = OrderedDict()

    def cached(self, opening: Any, given: int) -> int:
        """Like OpenAI's prompt cache: the prefix seen before, in whole blocks, from a minimum on."""
        key = hash(orjson.dumps(opening))
        before = self._openings.get(key, 0)
        _keep(self._openings, key, given)
        shared = min(before, given)
        return shared // _CACHE_BLOCK_TOKENS * _CACHE_BLOCK_TOKENS if shared >= _CACHE_MIN_TOKENS else 0

    def prefixes(self, blocks: Sequence[Block]) -> tuple[int, int]:
        """Like Anthropic's: (tokens read, tokens written) of what lies before the last breakpoint."""
        last = max((place for place, block in enumerate(blocks) if block.breakpoint), default=-1)
        running, size, read, marks = 0, 0, 0, []
        for block in blocks[: last + 1]:
            running, size = hash((running, block.content)), size + len(block.content)
            if size < _CACHE_MIN_TOKENS * CHARS_PER_TOKEN:
                continue
            if running in self._prefixes:
                read = size
            if block.breakpoint:
                marks.append((running, size))
        for mark, _ in marks:
            _keep(self._prefixes, mark, None)
        total = marks[-1][1] if marks else read
        return read // CHARS_PER_TOKEN, total // CHARS_PER_TOKEN - read // CHARS_PER_TOKEN


def tokens(texts: Iterable[str]) -> int:
    """About how many tokens these texts are; at least one."""
    return sum(map(len, texts)) // CHARS_PER_TOKEN + 1


def size(value: Any) -> int:
    """About how many tokens the JSON of a value is."""
    return len(orjson.dumps(value)) // CHARS_PER_TOKEN


def written(reply: Reply, ordered: Any, limit: int | None) -> tuple[int, int]:
    """(output tokens, of them reasoning): as ordered, else as long as the reply is; never beyond the caller's limit."""
    reasoning = tokens([reply.thinking]) if reply.thinking else 0
    calls = (call.name + call.arguments for call in reply.calls)
    count = int(ordered or tokens([reply.text, *calls]) + reasoning)
    count = min(count, limit) if limit else count
    return count, min(reasoning, count)


def _keep(book: OrderedDict[int, Any], key: int, value: Any) -> None:
    book[key] = value
    if len(book) > _CACHE_ENTRIES:
        book.popitem(last=False)
