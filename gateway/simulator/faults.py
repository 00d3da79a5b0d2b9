"""What can be ordered to go wrong: refusals before the answer, and breaks in the middle of it.

status:NNN, retry_after:N, insufficient_quota, hang, not_json, garbage, no_usage, cut, hang_mid, flood, error_event, and
long_finish:REASON, which `script.py` obeys.
"""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from .dialects.base import Event
from .dialects.errors import Complaint, simulated

# Faults in the middle of a stream come before this token.
_BREAK_TOKEN = 3
# Those that also break an answer that is whole.
BREAKS = ("cut", "hang_mid", "flood")
_FLOOD_BYTES = 200 * 1024 * 1024
# Longer than any timeout of a caller.
_HANG_SECONDS = 3600
_RATE_LIMITED = "Rate limit reached for requests. Please try again later."
# The words of https://platform.openai.com/docs/guides/error-codes
_QUOTA = "You exceeded your current quota, please check your plan and billing details."


def refusal(fault: str) -> Complaint | None:
    """The error that is answered instead, if the fault is one."""
    if fault.startswith("status:"):
        return simulated(int(fault.removeprefix("status:")))
    if fault.startswith("retry_after:"):
        after = {"Retry-After": fault.removeprefix("retry_after:")}
        return Complaint(status=429, message=_RATE_LIMITED, kind="requests", slug="rate_limit_exceeded", headers=after)
    if fault == "insufficient_quota":
        return Complaint(status=429, message=_QUOTA, kind=fault, slug=fault)
    return None


async def hang() -> None:
    """Say nothing more."""
    await asyncio.sleep(_HANG_SECONDS)


def breaks_at(fault: str, events: Sequence[Event]) -> int | None:
    """Before which event the stream breaks: at a token if there are as many, else before the last event."""
    if fault not in (*BREAKS, "error_event"):
        return None
    tokens = (place for place, (_, token) in enumerate(events) if token)
    return next((place for count, place in enumerate(tokens) if count == _BREAK_TOKEN), len(events) - 1)


async def break_off(request: web.Request, response: web.StreamResponse, fault: str) -> None:
    """What goes wrong in the middle of an answer."""
    if fault == "hang_mid":
        await hang()
    if fault == "flood":
        for _ in range(_FLOOD_BYTES // 65_536):
            await response.write(b"x" * 65_536)
    assert request.transport is not None
    request.transport.abort()
