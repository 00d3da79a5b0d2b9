"""How busy and how quick each deployment is: moving averages of latency and failures, calls open, and the room that its
provider's rate-limit headers leave. A book; one entry for each configured deployment.
"""

from collections.abc import Mapping

from ..values.base import Value

# Weight of the newest call in the moving averages.
_EWMA_WEIGHT = 0.2
# Room that was told longer ago than this says nothing: the windows of the field are a minute.
_RATE_LIMIT_WINDOW_SECONDS = 60.0
# Under these names providers tell what is left (OpenAI's and Anthropic's docs, 2026); names in any case.
_REMAINING_REQUESTS_HEADERS = ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining")
_REMAINING_TOKENS_HEADERS = (
    "x-ratelimit-remaining-tokens", "anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-tokens-remaining",
)  # fmt: skip
# Nothing fails always: a share beyond this would make a deployment look endlessly dear.
_FAILURE_RATE_MAX = 0.9


class DeploymentLoad(Value, frozen=True, kw_only=True):
    """How a deployment stands for one more request. `wait_ms` is what its first byte usually takes, by how many calls
    are open there; `failing` the share of calls that fail, in [0, 1]; `tight`: its provider has said that there is no
    room for this one."""

    first_byte_ms: float = 0.0
    failure_rate: float = 0.0
    rate_limited: bool = False

    @property
    def effective_ms(self) -> float:
        """What two deployments of a tier are compared by; lower is better."""
        return self.first_byte_ms / (1 - self.failure_rate)


IDLE = DeploymentLoad()


class _LoadState:
    __slots__ = (
        "failure_rate",
        "first_byte_ms",
        "open_calls",
        "remaining_at",
        "requests_remaining",
        "tokens_remaining",
    )

    def __init__(self) -> None:
        self.open_calls = 0
        self.first_byte_ms = 0.0
        self.failure_rate = 0.0
        self.requests_remaining: int | None = None
        self.tokens_remaining: int | None = None
        self.remaining_at = 0.0


class DeploymentLoads:
    """Deployments that were called since the start."""

    def __init__(self) -> None:
        self._states: dict[str, _LoadState] = {}

    def call_started(self, deployment: str) -> None:
        """A call is dialled."""
        self._states.setdefault(deployment, _LoadState()).open_calls += 1

    def call_ended(self, deployment: str, first_byte_ms: float | None, *, failed: bool) -> None:
        """It is over; None where no first byte came."""
        state = self._states[deployment]
        state.open_calls -= 1
        state.failure_rate += _EWMA_WEIGHT * (failed - state.failure_rate)
        if first_byte_ms is not None:
            before = state.first_byte_ms
            state.first_byte_ms = before + _EWMA_WEIGHT * (first_byte_ms - before) if before else first_byte_ms

    def record_rate_limit_headers(self, deployment: str, headers: Mapping[str, str], *, now: float) -> None:
        """The room that an answer's headers leave; `now` in seconds from anywhere. Most servers say nothing."""
        requests, tokens = (
            _remaining(headers, _REMAINING_REQUESTS_HEADERS),
            _remaining(headers, _REMAINING_TOKENS_HEADERS),
        )
        if requests is None and tokens is None:
            return
        state = self._states.setdefault(deployment, _LoadState())
        state.requests_remaining, state.tokens_remaining, state.remaining_at = requests, tokens, now

    def load(self, deployment: str, tokens: int, *, now: float) -> DeploymentLoad:
        """How it stands for one more request of so many input tokens."""
        state = self._states.get(deployment)
        if state is None:
            return IDLE
        tight = False
        if now - state.remaining_at < _RATE_LIMIT_WINDOW_SECONDS:
            # Calls that are open may not have been counted when it was told.
            tight = (state.requests_remaining is not None and state.requests_remaining <= state.open_calls) or (
                state.tokens_remaining is not None and state.tokens_remaining < tokens
            )
        return DeploymentLoad(
            first_byte_ms=state.first_byte_ms * (1 + state.open_calls),
            failure_rate=min(_FAILURE_RATE_MAX, state.failure_rate),
            rate_limited=tight,
        )


def _remaining(headers: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = headers.get(name)
        if value is not None and value.isdecimal() and len(value) < 16:
            return int(value)
    return None
