"""Load of each deployment: latency, failures, open calls, remaining rate limit.

State; at most one entry for each configured deployment.
"""

from collections.abc import Mapping

from ..values.base import Value

# Weight of the newest call in the moving averages.
_EWMA_WEIGHT = 0.2
# Rate-limit headers older than this are ignored: providers' windows are a minute.
_RATE_LIMIT_WINDOW_SECONDS = 60.0
# Headers with the remaining rate limit (OpenAI and Anthropic docs, 2026); lookups ignore case.
_REMAINING_REQUESTS_HEADERS = ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining")
_REMAINING_TOKENS_HEADERS = (
    "x-ratelimit-remaining-tokens", "anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-tokens-remaining",
)  # fmt: skip
# Failure rates are capped here: effective latency divides by 1 - rate.
_FAILURE_RATE_MAX = 0.9


class DeploymentLoad(Value, frozen=True, kw_only=True):
    """Load of a deployment as one more request would meet it.

    first_byte_ms: expected time to first byte, ms, scaled by the open calls; 0 if unknown
    failure_rate: share of calls that fail, in [0, 0.9]
    rate_limited: the provider's headers leave no capacity for this request
    """

    first_byte_ms: float = 0.0
    failure_rate: float = 0.0
    rate_limited: bool = False

    @property
    def effective_ms(self) -> float:
        """Time to first byte with failed calls counted in, ms; lower is better."""
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
    """Load by deployment since the start."""

    def __init__(self) -> None:
        self._states: dict[str, _LoadState] = {}

    def call_started(self, deployment: str) -> None:
        """Count an open call."""
        self._states.setdefault(deployment, _LoadState()).open_calls += 1

    def call_ended(self, deployment: str, first_byte_ms: float | None, *, failed: bool) -> None:
        """Count a call's end; `first_byte_ms` is None where no byte arrived."""
        state = self._states[deployment]
        state.open_calls -= 1
        state.failure_rate += _EWMA_WEIGHT * (failed - state.failure_rate)
        if first_byte_ms is not None:
            before = state.first_byte_ms
            state.first_byte_ms = before + _EWMA_WEIGHT * (first_byte_ms - before) if before else first_byte_ms

    def record_rate_limit_headers(self, deployment: str, headers: Mapping[str, str], *, now: float) -> None:
        """Record the remaining rate limit from a response's headers; `now` in seconds."""
        requests, tokens = (
            _remaining(headers, _REMAINING_REQUESTS_HEADERS),
            _remaining(headers, _REMAINING_TOKENS_HEADERS),
        )
        if requests is None and tokens is None:
            return
        state = self._states.setdefault(deployment, _LoadState())
        state.requests_remaining, state.tokens_remaining, state.remaining_at = requests, tokens, now

    def load(self, deployment: str, tokens: int, *, now: float) -> DeploymentLoad:
        """The load that one more request of `tokens` input tokens would meet."""
        state = self._states.get(deployment)
        if state is None:
            return IDLE
        rate_limited = False
        if now - state.remaining_at < _RATE_LIMIT_WINDOW_SECONDS:
            # The headers may not have counted the open calls yet.
            rate_limited = (state.requests_remaining is not None and state.requests_remaining <= state.open_calls) or (
                state.tokens_remaining is not None and state.tokens_remaining < tokens
            )
        return DeploymentLoad(
            first_byte_ms=state.first_byte_ms * (1 + state.open_calls),
            failure_rate=min(_FAILURE_RATE_MAX, state.failure_rate),
            rate_limited=rate_limited,
        )


def _remaining(headers: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = headers.get(name)
        if value is not None and value.isdecimal() and len(value) < 16:
            return int(value)
    return None
