"""Faults on request: refusals before the answer, interruptions within it.

status:NNN, retry_after:N, insufficient_quota, hang, not_json, garbage, no_usage, cut, hang_mid, flood, error_event, and
long_finish:REASON, which `directives.py` handles.
"""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from .dialects.base import PacedEvent
from .dialects.errors import ApiError, simulated_status_error

# Interruptions of a stream come before this token.
_INTERRUPTION_TOKEN = 3
# Those that also interrupt an answer that is not streamed.
INTERRUPTING_FAULTS = ("cut", "hang_mid", "flood")
_FLOOD_BYTES = 200 * 1024 * 1024
# Longer than any timeout of a caller.
_HANG_SECONDS = 3600
_RATE_LIMIT_MESSAGE = "Rate limit reached for requests. Please try again later."
# Wording of https://platform.openai.com/docs/guides/error-codes
_QUOTA_MESSAGE = "You exceeded your current quota, please check your plan and billing details."


def error_for(fault: str) -> ApiError | None:
    """The error that is returned instead of an answer, if the fault is one."""
    if fault.startswith("status:"):
        return simulated_status_error(int(fault.removeprefix("status:")))
    if fault.startswith("retry_after:"):
        after = {"Retry-After": fault.removeprefix("retry_after:")}
        return ApiError(
            status=429,
            message=_RATE_LIMIT_MESSAGE,
            error_type="requests",
            openai_code="rate_limit_exceeded",
            headers=after,
        )
    if fault == "insufficient_quota":
        return ApiError(status=429, message=_QUOTA_MESSAGE, error_type=fault, openai_code=fault)
    return None


async def hang() -> None:
    """Send nothing more."""
    await asyncio.sleep(_HANG_SECONDS)


def interruption_index(fault: str, events: Sequence[PacedEvent]) -> int | None:
    """Before which event the stream breaks: at a token, else before the last event."""
    if fault not in (*INTERRUPTING_FAULTS, "error_event"):
        return None
    tokens = (index for index, (_, token) in enumerate(events) if token)
    return next((index for count, index in enumerate(tokens) if count == _INTERRUPTION_TOKEN), len(events) - 1)


async def interrupt(request: web.Request, response: web.StreamResponse, fault: str) -> None:
    """Interrupt an answer in the middle."""
    if fault == "hang_mid":
        await hang()
    if fault == "flood":
        for _ in range(_FLOOD_BYTES // 65_536):
            await response.write(b"x" * 65_536)
    assert request.transport is not None
    request.transport.abort()
