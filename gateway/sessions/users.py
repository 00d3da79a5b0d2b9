"""Who the end user is, as far as a caller says: a name that budgets may be kept for. Pure."""

import hashlib

import orjson

_CHARS_MAX = 128
# Claude Code writes the session behind the account in one string, new in every run (clients of 2025), or a JSON text.
_SESSION_MARK = "_session_"
_JSON_NAMES = ("account_uuid", "device_id")


def user_of(told: str) -> str:
    """The user within what was told, "" for nobody. Long names are replaced by a digest, so that none passes for
    another by being cut."""
    name = told.strip()
    if name.startswith("{"):
        name = _of_json(name)
    name = name.partition(_SESSION_MARK)[0]
    if len(name) > _CHARS_MAX:
        name = f"sha256:{hashlib.sha256(name.encode(errors='replace')).hexdigest()}"
    return name


def _of_json(text: str) -> str:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    names = (document.get(name) for name in _JSON_NAMES) if isinstance(document, dict) else ()
    return next((name for name in names if isinstance(name, str) and name), text)
