"""Counts tokens with a real vocabulary to see if a history fits a context window.

The vocabulary (o200k_base) is shipped in `feeds/data`. Counting runs in a thread at 3 to 18 MB/s; the loaded
vocabulary takes 80 MB.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..values.request import Message

log = logging.getLogger(__name__)

_VOCABULARY = "o200k_base"
# tiktoken's cache file name: SHA-1 of the vocabulary's URL.
VOCABULARY_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"
# Longer histories would occupy a thread for seconds; the estimate is used for them.
_CHARS_MAX = 4_000_000
# Role and separators around each message (OpenAI cookbook, 2024).
_TOKENS_PER_MESSAGE = 4


class TokenCounter:
    """Counts tokens; loads the vocabulary from `folder` at the first count."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._encoding: Any = None
        self._is_unavailable = False

    async def count(self, messages: Sequence[Message]) -> int | None:
        """Returns the tokens of text and tool calls; None if they cannot be counted."""
        texts = [text for message in messages for text in _texts(message)]
        if self._is_unavailable or sum(map(len, texts)) > _CHARS_MAX:
            return None
        return await asyncio.to_thread(self._count, texts, len(messages))

    def _count(self, texts: Sequence[str], messages: int) -> int | None:
        encoding = self._encoding or self._load()
        if encoding is None:
            return None
        # encode_ordinary treats text that looks like a control token as text.
        return sum(len(encoding.encode_ordinary(text)) for text in texts) + messages * _TOKENS_PER_MESSAGE

    def _load(self) -> Any:
        if not (self._folder / VOCABULARY_FILE).is_file():
            self._is_unavailable = True
            return None
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(self._folder))
        # Lazy import: most gateways never need a count.
        import tiktoken  # noqa: PLC0415

        self._encoding = tiktoken.get_encoding(_VOCABULARY)
        return self._encoding


def _texts(message: Message) -> list[str]:
    content = message.content
    parts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else [content]
    return [*(part for part in parts if isinstance(part, str)), bytes(message.tool_calls).decode(errors="replace")]
