"""How many sequences a replica serves together, inferred from the time between its tokens: a book for one deployment.

Valid for GPU serving of the common kind: where tokens are drafted ahead, or the machine is no GPU, the time between tokens
says nothing of it. The operator turns it on.
"""

from collections import deque

from ..values.catalog import EnergyProfile

# Streams of late whose median counts; fewer than the least say nothing. Short answers are mostly first byte.
_STREAMS, _STREAMS_MIN, _TOKENS_MIN = 64, 8, 32


class LatencyBook:
    """Times between tokens of one deployment's streams, newest last."""

    def __init__(self) -> None:
        self._heard: deque[float] = deque(maxlen=_STREAMS)

    def heard(self, output_tokens: int, milliseconds: float) -> None:
        """A stream has ended: so many tokens came within so many ms of its first byte."""
        if output_tokens >= _TOKENS_MIN and milliseconds > 0:
            self._heard.append(milliseconds / (output_tokens - 1))

    def concurrency(self, profile: EnergyProfile) -> float | None:
        """What the median time between tokens says; None as long as too few streams were heard."""
        if len(self._heard) < _STREAMS_MIN:
            return None
        ordered = sorted(self._heard)
        return inferred(profile, ordered[len(ordered) // 2])


def inferred(profile: EnergyProfile, milliseconds: float) -> float:
    """Sequences served together at this time between tokens."""
    raise NotImplementedError
