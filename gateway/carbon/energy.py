"""Energy of one request from its tokens and what is known about the model and the machine, in joules. Method version 2.

A decoding step streams the weights that its tokens need from memory, once for all sequences served together, and costs a
fixed amount a GPU; every token costs its arithmetic, its share of the collectives, and its reading of the context. Prefill
is arithmetic, with attention on top. Host, idle and PUE multiply. docs/methodology.md has the formula with sources and
error bars; `penstock eval energy` the measure of it.
"""

import math

from ..values.catalog import EnergyModel, EnergyProfile

METHOD = "modelled-2"

# J per GB of weights streamed from HBM on an H100 (fit; at full power 700 W / 3.35 TB/s = 0.21).
_JOULES_PER_GB = 0.175
# J per step, GPU and cube root of 1e9 parameters, which stands for layers: launches, synchronisation, idle power (fit).
_STEP_JOULES = 0.395
# J per token and 1e9 active parameters at 16 bits: 0.95 pJ per FLOP (fit).
_COMPUTE_JOULES = 0.0019
# J per token, fixed: sampling, GPUs that wait for the host (fit).
_FIXED_JOULES = 0.0389
# J per token, further GPU and cube root of 1e9 parameters: collectives, imbalance (fit).
_COLLECTIVE_JOULES = 0.0094
# J per token, sqrt(1e9 active parameters) and 1,000 tokens of context: KV-cache traffic under grouped queries (fit).
_CONTEXT_JOULES = 0.0061
# What the machine makes of it: (factor on what is per token, on what is per step, GB of memory a GPU). B200 against H100:
# fit; A100 and H200: as H100, for want of data that tells them apart; memory: data sheets.
HARDWARE = {
    "a100": (1.0, 1.0, 80.0),
    "h100": (1.0, 1.0, 80.0),
    "h200": (1.0, 1.0, 141.0),
    "b200": (0.87, 1.08, 180.0),
}
# GPUs of a replica where nobody says: memory for the weights, and as much again for the KV cache (ML.ENERGY's median: 2.1).
_MEMORY_PER_WEIGHT = 2.0
# vLLM of 2024 against 0.11 of 2025 (fit: ML.ENERGY v2 against v3).
_OLDER_ENGINE = 1.5
# J per prompt token and 1e9 active parameters, low-mid-high (DeepSeek and SGLang production figures, 2025).
_PREFILL_JOULES = (0.0020, 0.0035, 0.0080)
# Attention's share of prefill: layers x width ~ 3.3e4 * A^0.7 (8B 1.3e5, 70B 6.6e5, 405B 2.1e6).
_ATTENTION = 3.3e4 / 1e9
# What a cached prompt token costs beside an uncached one; a judgement, discounts are not energy data.
_CACHED_SHARE = (0.0, 0.10, 0.25)
# Sequences served together when nobody says; (low energy, mid, high energy): what fits ML.ENERGY's serving-like rows.
_CONCURRENCY_PRIOR = (512.0, 110.0, 24.0)
# A concurrency that is known is off by at most this factor, one way or the other: it moves during a call.
_CONCURRENCY_ERROR = 1.25
# Residual of the fit; upwards more where the engine's generation is not declared, for it may be the older.
_RESIDUAL = (2**-0.7, 1.0, 2**0.7)
_RESIDUAL_HIGH_UNDECLARED = 2.0
# Host CPU and DRAM plus provisioned idle per unit of accelerator energy (Google, 2025: 1 + 0.43 + 0.14).
SERVER = (1.25, 1.57, 1.90)

# Every number above: what a data version is made of.
COEFFICIENTS = (
    _JOULES_PER_GB, _STEP_JOULES, _COMPUTE_JOULES, _FIXED_JOULES, _COLLECTIVE_JOULES, _CONTEXT_JOULES,
    tuple(HARDWARE.items()), _MEMORY_PER_WEIGHT, _OLDER_ENGINE, _PREFILL_JOULES, _ATTENTION, _CACHED_SHARE,
    _CONCURRENCY_PRIOR, _CONCURRENCY_ERROR, _RESIDUAL, _RESIDUAL_HIGH_UNDECLARED, SERVER,
)  # fmt: skip


def model_of(profile: EnergyProfile) -> tuple[EnergyModel, EnergyModel, EnergyModel]:
    """The formula for low, mid and high bound, worked out once per deployment."""
    known = profile.concurrency
    together = (
        (known * _CONCURRENCY_ERROR, known, known / _CONCURRENCY_ERROR) if known is not None else _CONCURRENCY_PRIOR
    )
    low, mid, high = (_bound(profile, bound, max(1.0, together[bound])) for bound in range(3))
    return low, mid, high


def step_terms(profile: EnergyProfile, together: float) -> tuple[float, float]:
    """(J per step, J per token beside it) of decoding with so many sequences together, without context; mid."""
    per_token, per_step, _ = HARDWARE[profile.hardware]
    layers, gpus = profile.total_params_b ** (1 / 3), gpus_of(profile)
    step = _JOULES_PER_GB * streamed(profile, together) * profile.bytes_per_param + _STEP_JOULES * gpus * layers
    token = (
        _COMPUTE_JOULES * profile.active_params_b * (profile.bytes_per_param / 2) ** 0.5
        + _FIXED_JOULES
        + _COLLECTIVE_JOULES * max(gpus - 1, 0) * layers
    )
    return per_step * step, per_token * token


def streamed(profile: EnergyProfile, together: float) -> float:
    """1e9 parameters that a step reads when each of `together` tokens picks its own experts; dense: all of them."""
    active, total = profile.active_params_b, profile.total_params_b
    return active + (total - active) * (1 - math.pow(1 - active / total, max(together - 1, 0)))


def gpus_of(profile: EnergyProfile) -> float:
    """GPUs of a replica: as declared, else as many as the weights and their cache need (not whole ones: it is a mean)."""
    if profile.gpus is not None:
        return float(profile.gpus)
    memory = HARDWARE[profile.hardware][2]
    return max(1.0, _MEMORY_PER_WEIGHT * profile.total_params_b * profile.bytes_per_param / memory)


def _bound(profile: EnergyProfile, bound: int, together: float) -> EnergyModel:
    active = profile.active_params_b
    step, token = step_terms(profile, together)
    factor = profile.hardware_factor * profile.scale * _residual(profile, bound)
    if profile.engine == "2024":
        factor *= _OLDER_ENGINE
    per_token = HARDWARE[profile.hardware][0]
    prefill = per_token * _PREFILL_JOULES[bound] * active * factor
    return EnergyModel(
        per_output=(step / together + token) * factor,
        per_output_context=per_token * _CONTEXT_JOULES * active**0.5 / 1000 * factor,
        per_input=prefill,
        per_input_squared=prefill * _ATTENTION * active**0.7 / active,
        cached_share=_CACHED_SHARE[bound],
        facility=SERVER[bound] * profile.pue[bound],
    )


def _residual(profile: EnergyProfile, bound: int) -> float:
    if bound == 2 and profile.engine == "":
        return _RESIDUAL_HIGH_UNDECLARED
    return _RESIDUAL[bound]
