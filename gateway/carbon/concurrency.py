"""How many sequences a replica serves together, inferred from the time between its tokens: a book for one deployment.

Valid for GPU serving of the common kind: where tokens are drafted ahead, or the machine is no GPU, the time between tokens
says nothing of it. The operator turns it on.
"""

import math
from collections import deque

from ..values.catalog import EnergyProfile
from .energy import HARDWARE, gpus_of, layers_of, prior, streamed

# ms, fitted to 300 text configurations of ML.ENERGY v3 (loadtest/energy/fit.py): per cube root of 1e9 parameters, over the time that
# reading the weights takes, and per sequence: 1e9 active parameters and GPU, its root (the context) and GPU, fixed, further
# GPU and cube root. With families left out the time is off by 0.21 (median log2), the energy
# with what it says by 0.43, or 0.48 where the number of GPUs is not declared either.
_LAYER, _STREAM, _FLOP, _CONTEXT, _SEQUENCE, _SYNCHRONISING = 1.843, 1.135, 1.08e-4, 0.0214, 0.0412, 7.57e-4
# Of log B so much is trusted, the rest is the prior's: picked, not fitted.
_TRUST = 0.7
_FEWEST, _MOST, _HALVINGS = 4.0, 2048.0, 40
# The numbers above: part of a data version.
COEFFICIENTS = (_LAYER, _STREAM, _FLOP, _CONTEXT, _SEQUENCE, _SYNCHRONISING, _TRUST)
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
    """Sequences served together at this time between tokens, drawn towards the prior: of what the time says, so much is
    trusted."""
    fewest, most = math.log(_FEWEST), math.log(_MOST)
    for _ in range(_HALVINGS):
        between = (fewest + most) / 2
        if step_milliseconds(profile, math.exp(between)) < milliseconds:
            fewest = between
        else:
            most = between
    return math.exp(_TRUST * fewest + (1 - _TRUST) * math.log(prior(profile)))


def step_milliseconds(profile: EnergyProfile, sequences: float) -> float:
    """The median time between tokens, in ms, with so many sequences together and contexts of about 1,000 tokens."""
    hardware, gpus, layers = HARDWARE[profile.hardware], gpus_of(profile), layers_of(profile)
    active, size = profile.active_params_b, profile.bytes_per_param
    sequence = (_FLOP * active * math.sqrt(size / 2) + _CONTEXT * math.sqrt(active)) / gpus + _SEQUENCE
    sequence = sequence * hardware.per_sequence + _SYNCHRONISING * max(gpus - 1, 0) * layers
    weights = streamed(profile, sequences) * size / (gpus * hardware.bandwidth)
    return _LAYER * layers + _STREAM * weights + sequences * sequence
