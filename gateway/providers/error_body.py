"""Reads the provider's own words and code from an error body, in the shapes that providers send. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

# Where providers put the error object, or its text (error pages and recorded answers, 2025-2026): OpenAI, Anthropic,
# Google `error`; Cloudflare `errors`; FastAPI `detail`; Apigee `fault`; others.
_ERROR_FIELDS = ("error", "errors", "detail", "fault", "Error")
# Where they put the words: OpenAI, vLLM, Cohere, AWS `message`; Pydantic `msg`; RFC 9457 `title`; others.
_TEXT_FIELDS = (
    "message", "Message", "msg", "detail", "error_message", "errorMessage", "error_description", "faultstring", "description",
    "reason", "title",
)  # fmt: skip
# Nesting that is read, entries of a list, and characters of words.
_DEPTH_MAX, _ENTRIES_MAX, _TEXT_CHARS_MAX = 6, 8, 4000


def error_object(body: bytes) -> dict[str, Any]:
    """Return the error of an error body, its words as the text `message`; {} where there is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _plain_text(body)
    return _error_of(document, _DEPTH_MAX)


def words_of(error: Any) -> str:
    """Return the words of an error that was part of an answer, "" without any."""
    return _words(_error_of(error, _DEPTH_MAX))


def _plain_text(body: bytes) -> dict[str, Any]:
    """The error of a body that is no JSON: its text, unless that is a page."""
    text = body[:_TEXT_CHARS_MAX].decode(errors="replace").strip()
    return {} if not text or text[0] in "<{[" else {"message": text}


def _error_of(value: Any, depth: int) -> dict[str, Any]:
    """The error that a value holds: itself, or the first one within it."""
    if isinstance(value, str):
        return {"message": value} if value else {}
    if depth and isinstance(value, list):
        # Google's list of one error; a list of several is one text.
        errors = [error for entry in value[:_ENTRIES_MAX] if (error := _error_of(entry, depth - 1))]
        return errors[0] if len(errors) == 1 else {"message": "; ".join(map(_words, errors))} if errors else {}
    if not depth or not isinstance(value, dict):
        return {}
    for name in _ERROR_FIELDS:
        inner = _error_of(value[name], depth - 1) if value.get(name) else {}
        if inner:
            # What is beside the error (a code, the words of an error that is only named) completes it.
            beside = {field: value[field] for field in ("code", "type", "param", "status") if field in value}
            words = _own_words(value) if isinstance(value[name], str) and name != "detail" else ""
            return {**_scalars(beside), **inner, **({"message": words} if words else {})}
    words = _own_words(value)
    text = f"{_place(value)}{words}{_upstream_words(value, depth)}" if words else _first_text(value, depth)
    return {**value, "message": text} if text else dict(value) if value.get("code") or value.get("type") else {}


def _own_words(value: Mapping[str, Any]) -> str:
    """The words that an object has itself."""
    return next((text for name in _TEXT_FIELDS if isinstance(text := value.get(name), str) and text), "")[
        :_TEXT_CHARS_MAX
    ]


def _first_text(value: Mapping[str, Any], depth: int) -> str:
    """The words within an object's own words, where those are an object or a list."""
    inner = (_error_of(value[name], depth - 1) for name in _TEXT_FIELDS if isinstance(value.get(name), dict | list))
    return next((words for error in inner if (words := _words(error))), "")


def _upstream_words(value: Mapping[str, Any], depth: int) -> str:
    """What the provider behind an intermediary said (OpenRouter, errors, `metadata.raw`, 2026)."""
    metadata = value.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if not isinstance(raw, str) or not raw:
        return ""
    try:
        words = _words(_error_of(orjson.loads(raw), depth - 1))
    except orjson.JSONDecodeError:
        words = raw
    return f": {words[:_TEXT_CHARS_MAX]}" if words else ""


def _place(value: Mapping[str, Any]) -> str:
    """Where in the request a mistake is, as FastAPI names it."""
    location = value.get("loc")
    return f"{'.'.join(map(str, location[:_ENTRIES_MAX]))}: " if isinstance(location, list) and location else ""


def _words(error: Mapping[str, Any]) -> str:
    return str(error.get("message") or "")


def _scalars(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in value.items() if isinstance(entry, str | int) or entry is None}
