"""End users as callers name them; budgets can be scoped to them."""

import hashlib

import orjson

_USER_CHARS_MAX = 128
# Users of one key in one UTC day that get accounts of their own.
USERS_MAX = 10_000
OVERFLOW_USER = "~others"
_DAY_SECONDS = 86_400
# Claude Code appends the session to the account in one string, new in every run (clients of 2025), or sends JSON.
_SESSION_MARK = "_session_"
_JSON_NAMES = ("account_uuid", "device_id")


class UserLimiter:
    """Bounds the end users of each key and day.

    Callers may invent names, and each name gets accounts.

    Beyond the limit a key's further users share `OVERFLOW_USER`.
    """

    def __init__(self, most: int = USERS_MAX) -> None:
        self._users_max = most
        self._day = -1
        self._users_by_key: dict[str, set[str]] = {}

    def admit(self, key: str, user: str, *, now: float) -> str:
        """The user, or OVERFLOW_USER once the key has reached its limit for the day."""
        day = int(now) // _DAY_SECONDS
        if day != self._day:
            self._day, self._users_by_key = day, {}
        users = self._users_by_key.setdefault(key, set())
        if user in users or not user:
            return user
        if len(users) >= self._users_max:
            return OVERFLOW_USER
        users.add(user)
        return user


def parse_user(text: str) -> str:
    """The end user in a body field or header, "" if there is none.

    Long names become a digest, so that truncation cannot merge two users.
    """
    name = text.strip()
    if name.startswith("{"):
        name = _user_in_json(name)
    name = name.partition(_SESSION_MARK)[0]
    if len(name) > _USER_CHARS_MAX:
        name = f"sha256:{hashlib.sha256(name.encode(errors='replace')).hexdigest()}"
    return name


def _user_in_json(text: str) -> str:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    names = (document.get(name) for name in _JSON_NAMES) if isinstance(document, dict) else ()
    return next((name for name in names if isinstance(name, str) and name), text)
