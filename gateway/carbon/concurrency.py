"""Infers a replica's concurrency from the time between its tokens.

Valid for common GPU serving: with speculative decoding, or on other hardware, the time between tokens says nothing of
it. The operator turns it on.
"""

import math
from collections import deque

from ..values.catalog import EnergyProfile
from .energy import HARDWARE, gpu_count, layer_proxy, prior_concurrency, streamed_params_b

# ms, fitted to 300 text configurations of ML.ENERGY v3 (loadtest/energy/fit.py): per cube root of 1e9 parameters, over
# the time to read the weights, and per sequence: 1e9 active parameters and GPU, its root (the context) and GPU, fixed,
# further GPU and cube root. With families left out the time is off by 0.21 (median log2), the energy estimated from it
# by 0.43, or 0.48 where the number of GPUs is not declared either.
_LAYER_MS, _STREAM_MS, _FLOP_MS, _CONTEXT_MS, _SEQUENCE_MS, _SYNCHRONISATION_MS = (
    1.843,
    1.135,
    1.08e-4,
    0.0214,
    0.0412,
    7.57e-4,
)
# Weight of the inferred log concurrency, the rest is the prior's: chosen, not fitted.
_LATENCY_WEIGHT = 0.7
_CONCURRENCY_MIN, _CONCURRENCY_MAX, _BISECTION_STEPS = 4.0, 2048.0, 40
# Part of a data version.
COEFFICIENTS = (_LAYER_MS, _STREAM_MS, _FLOP_MS, _CONTEXT_MS, _SEQUENCE_MS, _SYNCHRONISATION_MS, _LATENCY_WEIGHT)
# Recent streams whose median is used, and how many it needs. Shorter answers are mostly first byte.
_STREAMS_MAX, _STREAMS_MIN, _TOKENS_MIN = 64, 8, 32


class ConcurrencyEstimator:
    """Times between tokens of one deployment's recent streams."""

    def __init__(self) -> None:
        self._ms_per_token: deque[float] = deque(maxlen=_STREAMS_MAX)

    def record_stream(self, output_tokens: int, milliseconds: float) -> None:
        """Record a finished stream: tokens, and ms from its first byte to its last."""
        if output_tokens >= _TOKENS_MIN and milliseconds > 0:
            self._ms_per_token.append(milliseconds / (output_tokens - 1))

    def estimate(self, profile: EnergyProfile) -> float | None:
        """The concurrency at the median time between tokens; None with too few streams."""
        if len(self._ms_per_token) < _STREAMS_MIN:
            return None
        ordered = sorted(self._ms_per_token)
        return infer_concurrency(profile, ordered[len(ordered) // 2])


def infer_concurrency(profile: EnergyProfile, milliseconds: float) -> float:
    """Sequences served together at this time between tokens, drawn towards the prior."""
    low, high = math.log(_CONCURRENCY_MIN), math.log(_CONCURRENCY_MAX)
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        if step_milliseconds(profile, math.exp(middle)) < milliseconds:
            low = middle
        else:
            high = middle
    return math.exp(_LATENCY_WEIGHT * low + (1 - _LATENCY_WEIGHT) * math.log(prior_concurrency(profile)))


def step_milliseconds(profile: EnergyProfile, sequences: float) -> float:
    """The median time between tokens in ms, at contexts of about 1,000 tokens.

    `sequences`: how many are served together.
    """
    hardware, gpus, layers = HARDWARE[profile.hardware], gpu_count(profile), layer_proxy(profile)
    active, size = profile.active_params_b, profile.bytes_per_param
    per_sequence = (_FLOP_MS * active * math.sqrt(size / 2) + _CONTEXT_MS * math.sqrt(active)) / gpus + _SEQUENCE_MS
    per_sequence = per_sequence * hardware.per_sequence + _SYNCHRONISATION_MS * max(gpus - 1, 0) * layers
    weights = streamed_params_b(profile, sequences) * size / (gpus * hardware.bandwidth)
    return _LAYER_MS * layers + _STREAM_MS * weights + sequences * per_sequence
