"""Names and ids that another provider accepts: unchanged where they fit, else shortened, and never two alike.

Deterministic: a name is shortened in the same way in every turn of a conversation, whatever else is offered.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

_INVALID_CHARS = re.compile(r"[^a-zA-Z0-9_-]")
# Tool names: OpenAI (API reference, function name, 2026-11) and Anthropic's tool references allow 64 characters, Gemini
# requires a letter or underscore first (Vertex AI, FunctionDeclaration, 2026-11).
_TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}", re.ASCII)
# Characters kept of the beginning and of the end of a name that is shortened, around eight of its digest.
_HEAD_CHARS, _TAIL_CHARS = 30, 23
_DIGEST_CHARS = 8
# Ids of calls: OpenAI's chat completions allow 40 characters ("string too long. Expected a string with maximum length
# 40", 2026-11), Anthropic 64 of a pattern (API reference, tool_use, 2026-11).
_CHAT_CALL_ID = re.compile(r".{1,40}", re.DOTALL)
_MESSAGES_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)

Key = TypeVar("Key", bound=Hashable)


def tool_names(keys: Iterable[Key], text_of: Callable[[Key], str]) -> dict[Key, str]:
    """Return a name for each tool; `text_of` is the one that it should have."""
    return _distinct(keys, text_of, _TOOL_NAME, _short_tool_name)


def fit_chat_call_ids(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return chat messages with call ids that OpenAI accepts."""
    return fit_call_ids(messages, _CHAT_CALL_ID, _short_call_id)


def fit_call_ids(
    messages: list[dict[str, Any]], valid: re.Pattern[str], short_of: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Return chat messages with call ids that match `valid`, in calls and results; `short_of` makes one of a digest."""
    ids = {str(call.get("id")) for message in messages for call in message.get("tool_calls") or ()}
    ids |= {str(message["tool_call_id"]) for message in messages if "tool_call_id" in message}
    if all(valid.fullmatch(id_) for id_ in ids):
        return messages
    short = call_ids(ids, valid, short_of)
    return [_with_call_ids(message, short) for message in messages]


def _with_call_ids(message: dict[str, Any], short: Mapping[str, str]) -> dict[str, Any]:
    if "tool_call_id" in message:
        return {**message, "tool_call_id": short[str(message["tool_call_id"])]}
    if calls := message.get("tool_calls"):
        return {**message, "tool_calls": [{**call, "id": short[str(call.get("id"))]} for call in calls]}
    return message


def fit_messages_call_ids(messages: list[dict[str, Any]]) -> None:
    """Replace the call ids in new Messages blocks that Anthropic does not accept."""
    blocks = [block for message in messages for block in message["content"]]
    places = [(block, "id") for block in blocks if block.get("type") == "tool_use"]
    places += [(block, "tool_use_id") for block in blocks if block.get("type") == "tool_result"]
    short = call_ids({holder[name] for holder, name in places}, _MESSAGES_CALL_ID, _short_call_id)
    for holder, name in places:
        holder[name] = short[holder[name]]


def call_ids(ids: Iterable[str], valid: re.Pattern[str], short_of: Callable[[str], str]) -> Mapping[str, str]:
    """Return an id that matches `valid` for each; `short_of` makes one of a digest."""
    return _distinct(ids, str, valid, lambda _, digest: short_of(digest))


def _short_call_id(digest: str) -> str:
    return f"call_{digest[:24]}"


def _distinct(
    keys: Iterable[Key], text_of: Callable[[Key], str], valid: re.Pattern[str], short_of: Callable[[str, str], str]
) -> dict[Key, str]:
    """Valid texts are kept, and have the first claim; of two keys with one text the second is shortened."""
    texts = {key: text_of(key) for key in keys}
    if len(set(texts.values())) == len(texts) and all(map(valid.fullmatch, texts.values())):
        return texts
    found: dict[Key, str] = {}
    taken: set[str] = set()
    rest: list[tuple[str, Key]] = []
    for text, key in sorted(((text, key) for key, text in texts.items()), key=repr):
        if text not in taken and valid.fullmatch(text):
            found[key] = text
            taken.add(text)
        else:
            rest.append((text, key))
    for text, key in rest:
        digests = (_digest(f"{key!r}{salt or ''}") for salt in itertools.count())
        found[key] = next(short for digest in digests if (short := short_of(text, digest)) not in taken)
        taken.add(found[key])
    return found


def _short_tool_name(text: str, digest: str) -> str:
    """`head_digest_tail`: what the model can still read of a name, and what makes it distinct."""
    clean = _INVALID_CHARS.sub("_", text)
    if not clean[:1].isalpha():
        clean = f"_{clean}"
    if len(clean) <= _HEAD_CHARS + _TAIL_CHARS:
        return f"{clean}_{digest[:_DIGEST_CHARS]}"
    return f"{clean[:_HEAD_CHARS]}_{digest[:_DIGEST_CHARS]}_{clean[-_TAIL_CHARS:]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
