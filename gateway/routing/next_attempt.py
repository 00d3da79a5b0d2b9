"""What follows a failed attempt: the same deployment once more, another one, or the end. Pure."""

from ..values.base import Value

# Waits before trying the same deployment again: short, because the caller waits too; with jitter in [0.5, 1).
_BACKOFF_SECONDS = (0.1, 0.4, 1.0)
# A provider that asks for a longer pause than this is left for another one, or its wish is handed to the caller.
_RETRY_AFTER_SECONDS_MAX = 2.0


class NextAttempt(Value, frozen=True, kw_only=True):
    """Try attempt number `place` of the plan after `wait_seconds`."""

    index: int
    wait_seconds: float


def next_attempt(
    *,
    place: int,
    places: int,
    tries_here: int,
    max_retries: int,
    retry_same: bool,
    try_other: bool,
    retry_after: float | None,
    jitter: float,
) -> NextAttempt | None:
    """None means give up. Another deployment is preferred to waiting; `jitter` is uniform in [0, 1)."""
    if try_other and place + 1 < places:
        return NextAttempt(index=place + 1, wait_seconds=0.0)
    if not retry_same or tries_here > max_retries:
        return None
    if retry_after is not None:
        return NextAttempt(index=place, wait_seconds=retry_after) if retry_after <= _RETRY_AFTER_SECONDS_MAX else None
    backoff = _BACKOFF_SECONDS[min(tries_here - 1, len(_BACKOFF_SECONDS) - 1)]
    return NextAttempt(index=place, wait_seconds=backoff * (0.5 + jitter / 2))
