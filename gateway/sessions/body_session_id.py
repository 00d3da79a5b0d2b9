"""Session ids that agents write into a field of the request body. Pure."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

# A longer field is not an id.
_BYTES_MAX = 4096
_CHARS_MAX = 128
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
# Claude Code puts user and session into one string: joined by this mark (2025), or as JSON.
_SESSION_MARK, _JSON_NAME = "_session_", "session_id"
_DECODER = msgspec.json.Decoder()
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError)


def session_in_body(parts: Mapping[str, msgspec.Raw], fields: Sequence[tuple[str, bool]]) -> tuple[str, str] | None:
    """(session, field) of the first field with a session id, else None.

    `fields`: (name, accept UUIDs only) in order.
    """
    for field, uuid_only in fields:
        top, _, below = field.partition(".")
        raw = parts.get(top)
        if raw is None or memoryview(raw).nbytes > _BYTES_MAX:
            continue
        value = _decode(raw)
        if below:
            value = value.get(below) if isinstance(value, dict) else None
        name = _session_id(value, of_user=below == "user_id")
        if name and (not uuid_only or _UUID.fullmatch(name)):
            return name, field
    return None


def safe_session_id(name: str) -> str:
    """The session id, or its digest where it is unfit for headers, logs and labels."""
    short = name[:_CHARS_MAX]
    if short.isascii() and short.isprintable():
        return short
    return hashlib.sha256(short.encode(errors="surrogateescape")).hexdigest()[:32]


def _session_id(value: Any, *, of_user: bool) -> str:
    if not isinstance(value, str):
        return ""
    if not of_user:
        return value
    if value.startswith("{"):
        document = _decode(value.encode(errors="replace"))
        name = document.get(_JSON_NAME) if isinstance(document, dict) else None
        return name if isinstance(name, str) else ""
    # A user without a session part is not a session.
    return value.partition(_SESSION_MARK)[2]


def _decode(raw: msgspec.Raw | bytes) -> Any:
    try:
        return _DECODER.decode(raw)
    except _DECODE_ERRORS:
        return None
