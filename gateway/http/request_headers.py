"""What a caller's headers say: whose key it is, and hints beyond the body (session, task type, deadline, how long it may wait).
Names are in lower case here.
"""

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatchcase

from ..sessions.body_session_id import clean_name
from ..values.errors import BadRequest, Unauthenticated
from ..values.request import Caller, Hints
from ..values.snapshot import World

_SESSION_CHARS_MAX = 128
# What SDKs count their retries in (OpenAI's and Anthropic's alike).
_RETRY_HEADER, _CAPS_HEADER = "x-stainless-retry-count", "x-penstock-session-caps"
_TASK_HEADER, _ROUTE_HEADER = "x-penstock-task-type", "x-penstock-route"
_ROLE_HEADER, _DEADLINE_HEADER = "x-penstock-role", "x-penstock-deadline-ms"
# Two days: as far as forecasts reach (UK 96 h, Electricity Maps 72 h), less what nobody would wait.
_UNITS, _DEFER_SECONDS_MAX = {"s": 1, "m": 60, "h": 3600}, 172_800
_DEFER_HEADER = "x-penstock-defer"


def authenticate(headers: Mapping[str, str], world: World) -> Caller:
    """Whose key this is; header names are in lower case. Raises Unauthenticated."""
    given = headers.get("authorization", "")
    scheme, _, token = given.partition(" ")
    secret = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key") or headers.get("api-key") or ""
    if secret and world.callers:
        # Headers are bytes: what is no UTF-8 arrives as lone surrogates and must not break anything.
        caller = world.callers.get(hashlib.sha256(secret.encode(errors="surrogateescape")).digest())
        if caller is not None:
            return caller
    if world.open_caller is not None:
        return world.open_caller
    if not secret:
        raise Unauthenticated("No key was given; send it as 'Authorization: Bearer ...'.", code="missing_api_key")
    raise Unauthenticated("This key is not known here.")


def hints_of(headers: Mapping[str, str], world: World) -> Hints:
    """What headers (names in lower case) say beyond the request itself."""
    session, source = _session_of(headers, world.session_headers)
    return Hints(
        session=session,
        session_source=source,
        parent=_named(headers, world.parent_headers),
        root=_named(headers, world.root_headers),
        agent=_named(headers, world.agent_headers),
        caps=headers.get(_CAPS_HEADER),
        repeated=headers.get(_RETRY_HEADER, "0") != "0",
        user=_named(headers, world.user_headers),
        task_type=headers.get(_TASK_HEADER),
        role=headers.get(_ROLE_HEADER),
        deadline_ms=_deadline(headers[_DEADLINE_HEADER]) if _DEADLINE_HEADER in headers else None,
        defer_seconds=_deferral(headers[_DEFER_HEADER]) if _DEFER_HEADER in headers else None,
        route=clean_name(headers[_ROUTE_HEADER]) if _ROUTE_HEADER in headers else None,
        headers=headers,
    )


def _deadline(value: str) -> float:
    """Milliseconds. Raises BadRequest."""
    if not value.isascii() or not value.isdecimal() or len(value) > 10 or int(value) == 0:
        raise BadRequest(f"'{_DEADLINE_HEADER}' must be a whole number of milliseconds above 0.")
    return float(value)


def _deferral(value: str) -> float:
    """`4h`, `30m`, `90s` or seconds, two days at most; `0` or `no`: not at all. Raises BadRequest."""
    text = value.strip().lower()
    unit = _UNITS.get(text[-1:], 0)
    number = text[:-1] if unit else text
    if text == "no":
        return 0.0
    if number.isascii() and number.isdecimal() and len(number) <= 6 and int(number) * (unit or 1) <= _DEFER_SECONDS_MAX:
        return float(int(number) * (unit or 1))
    raise BadRequest(f"'{_DEFER_HEADER}' must be like 4h, 30m, 90s or no, and two days at most.")


def _named(headers: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """The first of these headers that says something."""
    for name in names:
        if name in headers:
            value = clean_name(headers[name])[:_SESSION_CHARS_MAX]
            if value:
                return value
    return None


def _session_of(headers: Mapping[str, str], names: tuple[str, ...]) -> tuple[str | None, str]:
    for name in names:
        value = headers.get(name)
        if value:
            return clean_name(_trace_of(value) if name == "traceparent" else value), name
        if "*" in name:
            found = next((other for other in headers if fnmatchcase(other, name) and headers[other]), None)
            if found is not None:
                return clean_name(headers[found]), found
    return None, ""


def _trace_of(traceparent: str) -> str:
    """The trace's id alone: every request has a span of its own."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 else traceparent
