"""The book of health: a deployment that keeps failing rests for a while and is then tried again by one request.

Synchronous; every method takes `now` in seconds.
"""

from dataclasses import dataclass

# Failures in a row before a deployment rests, and for how long; doubled at each failed probe up to the longest rest.
FAILURES = 5
REST_SECONDS = 5.0
REST_SECONDS_MAX = 60.0


@dataclass(slots=True)
class _State:
    failures: int = 0
    rest_seconds: float = REST_SECONDS
    rests_until: float = 0.0


class HealthBook:
    """Failures in a row per deployment; at most one entry for each configured deployment."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    def succeeded(self, deployment: str) -> None:
        """An answer came: all is forgiven."""
        if deployment in self._states:
            del self._states[deployment]

    def failed(self, deployment: str, *, now: float, retry_after: float | None = None) -> None:
        """A retryable failure; `retry_after` is the provider's own wish in seconds."""
        state = self._states.setdefault(deployment, _State())
        state.failures += 1
        if state.failures >= FAILURES:
            state.rests_until = now + state.rest_seconds
            state.rest_seconds = min(REST_SECONDS_MAX, state.rest_seconds * 2)
        if retry_after is not None:
            state.rests_until = max(state.rests_until, now + min(retry_after, REST_SECONDS_MAX))

    def healthy(self, deployment: str, *, now: float) -> bool:
        """Whether it may be tried first; a resting one is still tried when nothing else is left."""
        state = self._states.get(deployment)
        return state is None or state.rests_until <= now
