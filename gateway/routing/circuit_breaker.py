"""The book of health: a deployment that keeps failing is left alone for a while and then tried by one request.

Synchronous; every method takes `now` in seconds.
"""

from dataclasses import dataclass

from ..values.base import Value

# Failures in a row before a circuit opens, and for how long; doubled at each failed probe up to the longest.
FAILURES = 5
REST_SECONDS = 5.0
REST_SECONDS_MAX = 60.0
# A probe that says nothing for so long has failed: the next request may try.
_PROBE_SECONDS = 30.0
# How long a dialect counts as missing: servers are upgraded.
_MISSING_SECONDS = 600.0
_NOTHING_MISSING: tuple[frozenset[str], float] = (frozenset(), 0.0)


class Standing(Value, frozen=True, kw_only=True):
    """How a deployment stands. `resting`: tried after the others. `open_seconds` > 0: not dialled for so long.
    `missing`: dialects that it turned out not to speak."""

    resting: bool = False
    open_seconds: float = 0.0
    missing: frozenset[str] = frozenset()


UP = Standing()


@dataclass(slots=True)
class _State:
    failures: int = 0
    rest_seconds: float = REST_SECONDS
    rests_until: float = 0.0
    open_until: float = 0.0
    probing: bool = False


class HealthBook:
    """Failures in a row per deployment; at most one entry for each configured deployment."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}
        self._missing: dict[str, tuple[frozenset[str], float]] = {}
        self._spoken: set[tuple[str, str]] = set()

    def succeeded(self, deployment: str) -> None:
        """An answer came: all is forgiven."""
        if deployment in self._states:
            del self._states[deployment]

    def failed(self, deployment: str, *, now: float) -> None:
        """A failure that another try may cure; the circuit opens after a few in a row."""
        state = self._states.setdefault(deployment, _State())
        state.failures += 1
        if state.failures >= FAILURES and (state.open_until <= now or state.probing):
            state.probing = False
            state.open_until = now + state.rest_seconds
            state.rest_seconds = min(REST_SECONDS_MAX, state.rest_seconds * 2)

    def limited(self, deployment: str, *, now: float, retry_after: float | None) -> None:
        """It asked for fewer requests; `retry_after` is its wish in seconds. Others come first until then."""
        if retry_after is not None:
            state = self._states.setdefault(deployment, _State())
            state.rests_until = max(state.rests_until, now + min(retry_after, REST_SECONDS_MAX))

    def dialled(self, deployment: str, *, now: float) -> bool:
        """It is tried. True while a circuit is half open: this one request is the probe, and the others wait for its
        end."""
        state = self._states.get(deployment) if self._states else None
        if state is None or state.failures < FAILURES or state.open_until > now:
            return False
        state.open_until, state.probing = now + _PROBE_SECONDS, True
        return True

    def released(self, deployment: str, *, now: float) -> None:
        """A probe ended without saying anything about the deployment: the next request may try."""
        state = self._states.get(deployment)
        if state is not None and state.open_until > now:
            state.open_until, state.probing = now, False

    def spoke(self, deployment: str, dialect: str) -> None:
        """It answered in a dialect that it might have lacked."""
        self._spoken.add((deployment, dialect))

    def lacks(self, deployment: str, dialect: str, *, now: float) -> None:
        """It has no such path, and answered the same request in another dialect: remembered for a while, unless it ever
        answered in this one."""
        if (deployment, dialect) not in self._spoken:
            self._missing[deployment] = (frozenset({dialect}), now + _MISSING_SECONDS)

    def standing(self, deployment: str, *, now: float) -> Standing:
        """How it stands now."""
        if not self._states and not self._missing:
            return UP
        state = self._states.get(deployment)
        missing, until = self._missing.get(deployment, _NOTHING_MISSING)
        if until <= now:
            missing = frozenset()
        if state is None:
            return Standing(missing=missing) if missing else UP
        return Standing(
            resting=state.rests_until > now or state.failures >= FAILURES,
            open_seconds=max(0.0, state.open_until - now),
            missing=missing,
        )

    def healthy(self, deployment: str, *, now: float) -> bool:
        """Whether it stands like any other, for the metrics."""
        standing = self.standing(deployment, now=now)
        return not standing.resting and not standing.open_seconds
