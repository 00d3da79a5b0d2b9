"""The book of health: a deployment that keeps failing is left alone for a while and then tried by one request.

Synchronous; every method takes `now` in seconds.
"""

from dataclasses import dataclass

from ..values.base import Value

# Failures in a row before a circuit opens, and for how long; doubled at each failed probe up to the longest.
FAILURES_TO_OPEN = 5
OPEN_SECONDS = 5.0
OPEN_SECONDS_MAX = 60.0
# A probe that says nothing for so long has failed: the next request may try.
_PROBE_TIMEOUT_SECONDS = 30.0
# How long a dialect counts as missing: servers are upgraded.
_MISSING_DIALECT_SECONDS = 600.0
_NO_MISSING_DIALECTS: tuple[frozenset[str], float] = (frozenset(), 0.0)


class BreakerState(Value, frozen=True, kw_only=True):
    """How a deployment stands. `resting`: tried after the others. `open_seconds` > 0: not dialled for so long.
    `missing`: dialects that it turned out not to speak."""

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
    """Failures in a row per deployment; at most one entry for each configured deployment."""

    def __init__(self) -> None:
        self._breakers: dict[str, _Breaker] = {}
        self._missing_dialects: dict[str, tuple[frozenset[str], float]] = {}
        self._confirmed_dialects: set[tuple[str, str]] = set()

    def record_success(self, deployment: str) -> None:
        """An answer came: all is forgiven."""
        if deployment in self._breakers:
            del self._breakers[deployment]

    def record_failure(self, deployment: str, *, now: float) -> None:
        """A failure that another try may cure; the circuit opens after a few in a row."""
        state = self._breakers.setdefault(deployment, _Breaker())
        state.failures += 1
        if state.failures >= FAILURES_TO_OPEN and (state.open_until <= now or state.probing):
            state.probing = False
            state.open_until = now + state.next_open_seconds
            state.next_open_seconds = min(OPEN_SECONDS_MAX, state.next_open_seconds * 2)

    def record_rate_limit(self, deployment: str, *, now: float, retry_after: float | None) -> None:
        """It asked for fewer requests; `retry_after` is its wish in seconds. Others come first until then."""
        if retry_after is not None:
            state = self._breakers.setdefault(deployment, _Breaker())
            state.cooldown_until = max(state.cooldown_until, now + min(retry_after, OPEN_SECONDS_MAX))

    def start_probe(self, deployment: str, *, now: float) -> bool:
        """It is tried. True while a circuit is half open: this one request is the probe, and the others wait for its
        end."""
        state = self._breakers.get(deployment) if self._breakers else None
        if state is None or state.failures < FAILURES_TO_OPEN or state.open_until > now:
            return False
        state.open_until, state.probing = now + _PROBE_TIMEOUT_SECONDS, True
        return True

    def cancel_probe(self, deployment: str, *, now: float) -> None:
        """A probe ended without saying anything about the deployment: the next request may try."""
        state = self._breakers.get(deployment)
        if state is not None and state.open_until > now:
            state.open_until, state.probing = now, False

    def record_dialect(self, deployment: str, dialect: str) -> None:
        """It answered in a dialect that it might have lacked."""
        self._confirmed_dialects.add((deployment, dialect))

    def record_missing_dialect(self, deployment: str, dialect: str, *, now: float) -> None:
        """It has no such path, and answered the same request in another dialect: remembered for a while, unless it ever
        answered in this one."""
        if (deployment, dialect) not in self._confirmed_dialects:
            self._missing_dialects[deployment] = (frozenset({dialect}), now + _MISSING_DIALECT_SECONDS)

    def state(self, deployment: str, *, now: float) -> BreakerState:
        """How it stands now."""
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

    def is_healthy(self, deployment: str, *, now: float) -> bool:
        """Whether it stands like any other, for the metrics."""
        standing = self.state(deployment, now=now)
        return not standing.deprioritized and not standing.open_seconds
