"""Circuit breakers: a deployment that keeps failing is not dialed.

After a while one request probes it. Synchronous; every method takes `now` in seconds.
"""

from dataclasses import dataclass

from ..values.base import Value

# Consecutive failures that open a circuit breaker, and for how long: doubled at each failed probe up to the maximum.
FAILURES_TO_OPEN = 5
OPEN_SECONDS = 5.0
OPEN_SECONDS_MAX = 60.0
# A probe without a result for this long counts as failed: the next request may probe.
_PROBE_TIMEOUT_SECONDS = 30.0
# How long a dialect counts as missing; servers get upgraded.
_MISSING_DIALECT_SECONDS = 600.0
# The same for the request of usage in streams.
_REFUSED_USAGE_SECONDS = 600.0
_NO_MISSING_DIALECTS: tuple[frozenset[str], float] = (frozenset(), 0.0)


class BreakerState(Value, frozen=True, kw_only=True):
    """State of one deployment's circuit breaker.

    deprioritized: tried after the others (rate limited, or half-open)
    open_seconds: seconds for which it is not dialed, 0 if it may be
    missing_dialects: dialects that it does not support, as observed
    """

    deprioritized: bool = False
    open_seconds: float = 0.0
    missing_dialects: frozenset[str] = frozenset()


CLOSED = BreakerState()


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    next_open_seconds: float = OPEN_SECONDS
    cooldown_until: float = 0.0
    open_until: float = 0.0
    probing: bool = False


class CircuitBreakers:
    """Breakers by deployment; at most one for each configured deployment."""

    def __init__(self) -> None:
        self._breakers: dict[str, _Breaker] = {}
        self._missing_dialects: dict[str, tuple[frozenset[str], float]] = {}
        self._confirmed_dialects: set[tuple[str, str]] = set()
        self._usage_refused_until: dict[str, float] = {}

    def record_success(self, deployment: str) -> None:
        """Close the breaker."""
        if deployment in self._breakers:
            del self._breakers[deployment]

    def record_failure(self, deployment: str, *, now: float) -> None:
        """Record a retryable failure; opens the breaker after FAILURES_TO_OPEN in a row."""
        state = self._breakers.setdefault(deployment, _Breaker())
        state.failures += 1
        if state.failures >= FAILURES_TO_OPEN and (state.open_until <= now or state.probing):
            state.probing = False
            state.open_until = now + state.next_open_seconds
            state.next_open_seconds = min(OPEN_SECONDS_MAX, state.next_open_seconds * 2)

    def record_rate_limit(self, deployment: str, *, now: float, retry_after: float | None) -> None:
        """Deprioritize a rate-limited deployment for `retry_after` seconds, capped."""
        if retry_after is not None:
            state = self._breakers.setdefault(deployment, _Breaker())
            state.cooldown_until = max(state.cooldown_until, now + min(retry_after, OPEN_SECONDS_MAX))

    def start_probe(self, deployment: str, *, now: float) -> bool:
        """Called before dialing: True if this request becomes the half-open probe."""
        state = self._breakers.get(deployment) if self._breakers else None
        if state is None or state.failures < FAILURES_TO_OPEN or state.open_until > now:
            return False
        state.open_until, state.probing = now + _PROBE_TIMEOUT_SECONDS, True
        return True

    def cancel_probe(self, deployment: str, *, now: float) -> None:
        """End a probe without a result: the next request may probe."""
        state = self._breakers.get(deployment)
        if state is not None and state.open_until > now:
            state.open_until, state.probing = now, False

    def record_dialect(self, deployment: str, dialect: str) -> None:
        """Record that the deployment supports a dialect."""
        self._confirmed_dialects.add((deployment, dialect))

    def record_missing_dialect(self, deployment: str, dialect: str, *, now: float) -> None:
        """Record that the path does not exist there while another dialect worked.

        Expires after ten minutes; ignored if the deployment ever answered in this dialect.
        """
        if (deployment, dialect) not in self._confirmed_dialects:
            self._missing_dialects[deployment] = (frozenset({dialect}), now + _MISSING_DIALECT_SECONDS)

    def record_refused_usage_request(self, deployment: str, *, now: float) -> None:
        """Record that it served a stream only without the request of usage; expires after ten minutes."""
        self._usage_refused_until[deployment] = now + _REFUSED_USAGE_SECONDS

    def refuses_usage_request(self, deployment: str, *, now: float) -> bool:
        """Whether it is known to refuse streams that are asked to report their usage."""
        return bool(self._usage_refused_until) and self._usage_refused_until.get(deployment, 0.0) > now

    def state(self, deployment: str, *, now: float) -> BreakerState:
        """The breaker's state now."""
        if not self._breakers and not self._missing_dialects:
            return CLOSED
        state = self._breakers.get(deployment)
        missing, until = self._missing_dialects.get(deployment, _NO_MISSING_DIALECTS)
        if until <= now:
            missing = frozenset()
        if state is None:
            return BreakerState(missing_dialects=missing) if missing else CLOSED
        return BreakerState(
            deprioritized=state.cooldown_until > now or state.failures >= FAILURES_TO_OPEN,
            open_seconds=max(0.0, state.open_until - now),
            missing_dialects=missing,
        )

    def is_open(self, deployment: str) -> bool:
        """Whether the breaker is open or half-open: its deployment has not answered since the failures."""
        state = self._breakers.get(deployment)
        return state is not None and state.failures >= FAILURES_TO_OPEN

    def is_healthy(self, deployment: str, *, now: float) -> bool:
        """Whether the deployment is neither open nor deprioritized, for the metrics."""
        state = self.state(deployment, now=now)
        return not state.deprioritized and not state.open_seconds
