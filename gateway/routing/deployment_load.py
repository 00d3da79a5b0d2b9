"""How busy and how quick each deployment is: moving averages of latency and failures, calls open, and the room that its
provider's rate-limit headers leave. A book; one entry for each configured deployment.
"""

from collections.abc import Mapping

from ..values.base import Value

# Weight of the newest call in the moving averages.
_NEWEST = 0.2
# Room that was told longer ago than this says nothing: the windows of the field are a minute.
_ROOM_SECONDS = 60.0
# Under these names providers tell what is left (OpenAI's and Anthropic's docs, 2026); names in any case.
_REQUESTS_LEFT = ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining")
_TOKENS_LEFT = (
    "x-ratelimit-remaining-tokens", "anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-tokens-remaining",
)  # fmt: skip
# Nothing fails always: a share beyond this would make a deployment look endlessly dear.
_FAILING_MAX = 0.9


class Load(Value, frozen=True, kw_only=True):
    """How a deployment stands for one more request. `wait_ms` is what its first byte usually takes, by how many calls
    are open there; `failing` the share of calls that fail, in [0, 1]; `tight`: its provider has said that there is no
    room for this one."""

    wait_ms: float = 0.0
    failing: float = 0.0
    tight: bool = False

    @property
    def score(self) -> float:
        """What two deployments of a tier are compared by; lower is better."""
        return self.wait_ms / (1 - self.failing)


IDLE = Load()


class _State:
    __slots__ = ("failing", "first_byte_ms", "open", "requests_left", "tokens_left", "told_at")

    def __init__(self) -> None:
        self.open = 0
        self.first_byte_ms = 0.0
        self.failing = 0.0
        self.requests_left: int | None = None
        self.tokens_left: int | None = None
        self.told_at = 0.0


class LoadBook:
    """Deployments that were called since the start."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    def began(self, deployment: str) -> None:
        """A call is dialled."""
        self._states.setdefault(deployment, _State()).open += 1

    def ended(self, deployment: str, first_byte_ms: float | None, *, failed: bool) -> None:
        """It is over; None where no first byte came."""
        state = self._states[deployment]
        state.open -= 1
        state.failing += _NEWEST * (failed - state.failing)
        if first_byte_ms is not None:
            before = state.first_byte_ms
            state.first_byte_ms = before + _NEWEST * (first_byte_ms - before) if before else first_byte_ms

    def told(self, deployment: str, headers: Mapping[str, str], *, now: float) -> None:
        """The room that an answer's headers leave; `now` in seconds from anywhere. Most servers say nothing."""
        requests, tokens = _left(headers, _REQUESTS_LEFT), _left(headers, _TOKENS_LEFT)
        if requests is None and tokens is None:
            return
        state = self._states.setdefault(deployment, _State())
        state.requests_left, state.tokens_left, state.told_at = requests, tokens, now

    def load(self, deployment: str, tokens: int, *, now: float) -> Load:
        """How it stands for one more request of so many input tokens."""
        state = self._states.get(deployment)
        if state is None:
            return IDLE
        tight = False
        if now - state.told_at < _ROOM_SECONDS:
            # Calls that are open may not have been counted when it was told.
            tight = (state.requests_left is not None and state.requests_left <= state.open) or (
                state.tokens_left is not None and state.tokens_left < tokens
            )
        return Load(
            wait_ms=state.first_byte_ms * (1 + state.open), failing=min(_FAILING_MAX, state.failing), tight=tight
        )


def _left(headers: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = headers.get(name)
        if value is not None and value.isdecimal() and len(value) < 16:
            return int(value)
    return None
