"""Features of a request: counts and flags in one pass over the parsed messages.

Text is read only in the newest turns and the head of the system prompt, each up to a fixed number of characters: long
histories are not scanned.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Any

from ..accounting import token_estimate
from ..values.plan import Affinity, RequestFeatures
from ..values.request import PARTS_SIZE, Message, Request

# Characters read of the newest user text (half from its head, half from its tail) and of the system prompt.
_PROMPT_CHARS_MAX = 2000
_SYSTEM_CHARS_MAX = 600
# Messages searched for the newest user text, from the end and from the start: agents take many steps after their task.
_RECENT_TURNS, _OPENING_TURNS = 64, 4
# Newest messages searched for failed tool calls, and characters read of each.
_TOOL_ERROR_MESSAGES = 8
_TOOL_ERROR_CHARS = 200
# How a one-hour cache is requested from Anthropic (docs.anthropic.com, prompt caching, 2026).
_CACHE_MARK, _LONG_TTL_SPELLINGS = b"cache_control", (b'"1h"', b"\\u0031", b"\\u0068")
_SYSTEM_ROLES = ("system", "developer")
# Everything but letters, digits and _ separates words.
_SEPARATORS = str.maketrans({chr(code): " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")})
_TOOL_ERROR_PATTERN = re.compile(
    r"\b(?:error|exception|traceback|failed|failure|not found|denied|invalid)\b", re.IGNORECASE
)


def request_features(request: Request, affinities: tuple[Affinity, ...] = ()) -> RequestFeatures:
    """The features of one request; `affinities` bind its history."""
    messages = request.messages
    has_parts = PARTS_SIZE in request.sizes
    images, media_bytes = _count_media(messages) if has_parts else (0, 0)
    prompt = _newest_user_text(request)
    half = _PROMPT_CHARS_MAX // 2
    newest = prompt if len(prompt) <= _PROMPT_CHARS_MAX else f"{prompt[:half]} {prompt[-half:]}"
    system = text_of(messages[0].content)[:_SYSTEM_CHARS_MAX] if messages[0].role in _SYSTEM_ROLES else ""
    system_words = frozenset(system.lower().translate(_SEPARATORS).split())
    tokens = token_estimate.input_tokens(request.body, skip_bytes=media_bytes) + images * token_estimate.IMAGE_TOKENS
    tokens_max = len(request.body) - media_bytes + images * token_estimate.IMAGE_TOKENS_MAX
    return RequestFeatures(
        input_tokens=tokens,
        input_tokens_max=tokens_max + (token_estimate.TOOL_PREAMBLE_TOKENS if request.tool_names else 0),
        turns=len(messages),
        tool_names=request.tool_names,
        tool_errors=_tool_errors(messages[-_TOOL_ERROR_MESSAGES:]),
        has_images=images > 0,
        has_schema=request.has_schema,
        code_share=_code_share(newest),
        words=system_words.union(newest.lower().translate(_SEPARATORS).split()),
        newest_chars=len(newest),
        system_words=system_words,
        agent_fingerprint=zlib.crc32(request.tools_head, zlib.crc32(system.encode(errors="surrogatepass")))
        if system or request.tools_head
        else 0,
        newest_user_text=prompt,
        tools_head=request.tools_head,
        writes_long_cache=_has_long_cache_mark(request, has_parts),
        affinities=affinities,
    )


def _has_long_cache_mark(request: Request, has_parts: bool) -> bool:
    """Whether the body may request a one-hour cache.

    Chat completions allow marks on parts and tools only.
    """
    may_mark = request.dialect == "messages" or (request.dialect == "chat" and (has_parts or bool(request.tool_names)))
    if not may_mark or _CACHE_MARK not in request.body:
        return False
    return any(spelling in request.body for spelling in _LONG_TTL_SPELLINGS)


def _newest_user_text(request: Request) -> str:
    """The newest user text, else the task at the start of the conversation."""
    messages = request.messages
    recent, opening = messages[-_RECENT_TURNS:], messages[:_OPENING_TURNS]
    newest = next(
        (message for message in (*reversed(recent), *reversed(opening)) if message.role == "user"), messages[-1]
    )
    return text_of(newest.content)


def text_of(content: Any) -> str:
    """The text parts of a message's content, joined by spaces."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return ""


def _count_media(messages: Sequence[Message]) -> tuple[int, int]:
    """(images, bytes of inline media in the body)."""
    images = size = 0
    for message in messages:
        content = message.content
        if not isinstance(content, list):
            continue
        for part in content:
            if not isinstance(part, dict):
                continue
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            if "media_bytes" in part:
                images += 1
                size += part["media_bytes"]
            elif isinstance(url, str):
                images += 1
                size += len(url) if url.startswith("data:") and url.isascii() else 0
    return images, size


def _tool_errors(messages: Sequence[Message]) -> int:
    return sum(
        1
        for m in messages
        if m.role == "tool" and _TOOL_ERROR_PATTERN.search(text_of(m.content)[:_TOOL_ERROR_CHARS]) is not None
    )


def _code_share(text: str) -> float:
    """Share of characters typical of code, in [0, 1]."""
    if not text:
        return 0.0
    return sum(map(text.count, "{}();=")) / len(text)
