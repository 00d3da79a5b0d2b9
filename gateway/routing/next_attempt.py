"""What follows a failed attempt: another deployment, a retry, or the end. Pure."""

from ..values.base import Value

# Backoff before retrying the same deployment, times a jitter in [0.5, 1): short, because the caller is waiting.
_BACKOFF_SECONDS = (0.1, 0.4, 1.0)
# A longer Retry-After than this is not waited for: it is passed to the caller.
_RETRY_AFTER_SECONDS_MAX = 2.0


class NextAttempt(Value, frozen=True, kw_only=True):
    """The attempt to make next.

    index: its index in the plan
    wait_seconds: backoff before it
    """

    index: int
    wait_seconds: float


def next_attempt(
    *,
    index: int,
    next_index: int | None,
    calls_made: int,
    max_retries: int,
    retry_same: bool,
    retry_other: bool,
    retry_after: float | None,
    jitter: float,
) -> NextAttempt | None:
    """The next attempt, None to give up. Another deployment is preferred to waiting.

    index, next_index: index of the failed attempt; of the next one at another deployment, None if there is none
    calls_made, max_retries: calls made to this deployment; retries allowed
    retry_same, retry_other: whether the failure may be cured by a retry, or by another deployment
    retry_after: seconds asked for by the provider, None if it did not ask
    jitter: uniform in [0, 1)
    """
    if retry_other and next_index is not None:
        return NextAttempt(index=next_index, wait_seconds=0.0)
    if not retry_same or calls_made > max_retries:
        return None
    if retry_after is not None:
        return NextAttempt(index=index, wait_seconds=retry_after) if retry_after <= _RETRY_AFTER_SECONDS_MAX else None
    backoff = _BACKOFF_SECONDS[min(calls_made - 1, len(_BACKOFF_SECONDS) - 1)]
    return NextAttempt(index=index, wait_seconds=backoff * (0.5 + jitter / 2))
