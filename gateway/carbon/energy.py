"""Energy of one request in joules, from tokens, model and machine. Method 2.

A decoding step streams the weights that its tokens need from memory, once for all sequences served together, and costs
a fixed amount a GPU; every token costs its arithmetic, its share of the collectives, and its reading of the context.
Prefill is arithmetic, with attention on top. Host, idle and PUE multiply. docs/methodology.md has the formula with
sources and error bars; `penstock eval energy` measures it.
"""

import math
from typing import NamedTuple

from ..values.catalog import EnergyModel, EnergyProfile

METHOD = "modelled-2"

# The fit (loadtest/energy/fit.py prints it): 300 text configurations of ML.ENERGY v3 (vLLM 0.11, H100 and B200) and 224
# of v2 (vLLM of 2024, A100 and H100), 26 families of models weighted alike, soft L1 of log2. In brackets: the range
# over the fits that leave one family out. J per GB of weights streamed from HBM (.156-.182; an H100 at full power: 700
# W / 3.35 TB/s = 0.21).
_JOULES_PER_GB = 0.1752
# J per step, GPU and cube root of 1e9 parameters (a proxy for layers): launches, synchronization, idle power (.35-.58).
_STEP_JOULES = 0.3952
# J per token and 1e9 active parameters at 16 bits (.0016-.0022): 0.95 pJ per FLOP.
_COMPUTE_JOULES = 0.00191
# J per token: sampling, GPUs that wait for the host (.033-.043).
_FIXED_JOULES = 0.0389
# J per token, further GPU and cube root of 1e9 parameters: collectives, imbalance (.0090-.0098).
_COLLECTIVE_JOULES = 0.00938
# J per token, sqrt(1e9 active parameters) and 1,000 tokens of context: KV-cache traffic, grouped queries (.0042-.0079).
_CONTEXT_JOULES = 0.00609
# vLLM of 2024 against 0.11 of 2025 (1.45-1.54). Every A100 of the data ran the older one.
_OLDER_ENGINE_FACTOR = 1.5
_OLD_HARDWARE = "a100"


class Hardware(NamedTuple):
    """A GPU's data.

    per_token, per_step, per_sequence: factors over the H100 on energy per token, energy per step, time per sequence
    memory_gb: GB
    bandwidth: TB/s
    """

    per_token: float
    per_step: float
    memory_gb: float
    bandwidth: float
    per_sequence: float


# Factors of the B200 over the H100: the fit; A100 and H200 count as H100, as the data do not separate them. Memory and
# bandwidth: data sheets.
HARDWARE = {
    "a100": Hardware(1.0, 1.0, 80.0, 1.555, 1.0),
    "h100": Hardware(1.0, 1.0, 80.0, 3.35, 1.0),
    "h200": Hardware(1.0, 1.0, 141.0, 4.8, 1.0),
    "b200": Hardware(0.87, 1.08, 180.0, 8.0, 0.743),
}
# Where undeclared: the middle of what is in use (a judgment; it sets how many GPUs a replica needs).
DEFAULT_HARDWARE = "h200"
# Memory of a replica over that of its weights where undeclared, low-mid-high: mid is as much again for the KV cache
# (the median of ML.ENERGY's configurations is 2.1).
_MEMORY_FACTORS = (1.2, 2.0, 3.0)
# J per prompt token and 1e9 active parameters, low-mid-high (DeepSeek and SGLang production figures, 2025); not fitted.
_PREFILL_JOULES = (0.0020, 0.0035, 0.0080)
# Attention's share of prefill: layers x width ~ 3.3e4 * A^0.7 (8B 1.3e5, 70B 6.6e5, 405B 2.1e6).
_ATTENTION_FACTOR = 3.3e4 / 1e9
# Cost of a cached prompt token over an uncached one; a judgment, discounts are not energy data.
_CACHED_COST_SHARES = (0.0, 0.10, 0.25)
# Sequences served together where undeclared: 30 T^(1/4) (8B 50, 70B 87, 671B 153), four times that at the low bound
# (eight from 200B on, where fleets serve thousands), 1/2.2 of it at the high one. Chosen on published points, and so
# not held out.
_PRIOR_BASE, _PRIOR_POWER, _PRIOR_UP_FACTOR, _PRIOR_UP_FACTOR_LARGE, _PRIOR_DOWN_FACTOR, _LARGE_PARAMS_B = (
    30.0,
    0.25,
    4.0,
    8.0,
    2.2,
    200.0,
)
# A known concurrency is off by at most this factor in either direction: it changes during a call.
_MEASURED_ERROR_FACTOR = 1.15
# One inferred from the time between tokens: with this factor 94 % of the measured points that have it are in the band.
_INFERRED_ERROR_FACTOR = 2.0
# Residual of the fit: about 92 % of the errors on families left out; more upwards where the engine is undeclared.
_RESIDUAL_FACTORS = (2**-0.70, 1.0, 2**0.65)
_RESIDUAL_HIGH_UNDECLARED = 2**0.90
# Host CPU and DRAM plus provisioned idle per unit of accelerator energy (Google, 2025: 1 + 0.43 + 0.14).
SERVER_FACTORS = (1.25, 1.57, 1.90)
# Energy per output token with image or video input whose tokens are not counted, over the same without: 5 %, median and
# 95 % of 71 and 21 configurations of ML.ENERGY v3.
MEDIA_FACTORS = {"text": (1.0, 1.0, 1.0), "image": (0.95, 1.30, 2.1), "video": (1.0, 1.45, 2.4)}

# Every number above, hashed into a data version.
COEFFICIENTS = (
    _JOULES_PER_GB, _STEP_JOULES, _COMPUTE_JOULES, _FIXED_JOULES, _COLLECTIVE_JOULES, _CONTEXT_JOULES,
    _OLDER_ENGINE_FACTOR, _OLD_HARDWARE, tuple(HARDWARE.items()), DEFAULT_HARDWARE, _MEMORY_FACTORS, _PREFILL_JOULES,
    _ATTENTION_FACTOR, _CACHED_COST_SHARES, _PRIOR_BASE, _PRIOR_POWER, _PRIOR_UP_FACTOR, _PRIOR_UP_FACTOR_LARGE,
    _PRIOR_DOWN_FACTOR, _LARGE_PARAMS_B, _MEASURED_ERROR_FACTOR, _INFERRED_ERROR_FACTOR, _RESIDUAL_FACTORS,
    _RESIDUAL_HIGH_UNDECLARED, SERVER_FACTORS, tuple(MEDIA_FACTORS.items()),
)  # fmt: skip


def energy_models(profile: EnergyProfile) -> tuple[EnergyModel, EnergyModel, EnergyModel]:
    """The formula for the low, mid and high bound, computed once per deployment."""
    low, mid, high = (_bound_model(profile, bound, max(1.0, concurrency_bounds(profile)[bound])) for bound in range(3))
    return low, mid, high


def concurrency_bounds(profile: EnergyProfile) -> tuple[float, float, float]:
    """Sequences served together at the low, mid and high bound of energy (falling)."""
    concurrency = profile.concurrency
    if concurrency is not None:
        error = _INFERRED_ERROR_FACTOR if profile.concurrency_source == "latency" else _MEASURED_ERROR_FACTOR
        return concurrency * error, concurrency, concurrency / error
    mid = prior_concurrency(profile)
    up = _PRIOR_UP_FACTOR_LARGE if profile.total_params_b >= _LARGE_PARAMS_B else _PRIOR_UP_FACTOR
    return mid * up, mid, mid / _PRIOR_DOWN_FACTOR


def prior_concurrency(profile: EnergyProfile) -> float:
    """Sequences served together where undeclared."""
    return _PRIOR_BASE * math.pow(profile.total_params_b, _PRIOR_POWER)


def step_terms(profile: EnergyProfile, sequences: float, bound: int = 1) -> tuple[float, float]:
    """(J per decoding step, J per token beside it), without context.

    `sequences`: how many are served together; `bound`: 0 low, 1 mid, 2 high.
    """
    hardware = HARDWARE[profile.hardware]
    layers, gpus = layer_proxy(profile), gpu_count(profile, bound)
    step = (
        _JOULES_PER_GB * streamed_params_b(profile, sequences) * profile.bytes_per_param + _STEP_JOULES * gpus * layers
    )
    token = (
        _COMPUTE_JOULES * profile.active_params_b * math.sqrt(profile.bytes_per_param / 2)
        + _FIXED_JOULES
        + _COLLECTIVE_JOULES * max(gpus - 1, 0) * layers
    )
    return hardware.per_step * step, hardware.per_token * token


def layer_proxy(profile: EnergyProfile) -> float:
    """A proxy for the number of layers: about the cube root of the parameters."""
    return math.cbrt(profile.total_params_b)


def streamed_params_b(profile: EnergyProfile, sequences: float) -> float:
    """Parameters (1e9) that a step reads, each token picking its own experts.

    Dense models read all of them.
    """
    active, total = profile.active_params_b, profile.total_params_b
    return active + (total - active) * (1 - math.pow(1 - active / total, max(sequences - 1, 0)))


def gpu_count(profile: EnergyProfile, bound: int = 1) -> float:
    """GPUs of a replica: as declared, else enough for the weights and their cache.

    Not a whole number where undeclared: it is a mean.
    """
    if profile.gpus is not None:
        return float(profile.gpus)
    needed = _MEMORY_FACTORS[bound] * profile.total_params_b * profile.bytes_per_param
    return max(1.0, needed / HARDWARE[profile.hardware].memory_gb)


def engine_factor(profile: EnergyProfile) -> float:
    """The energy factor of the serving software's generation."""
    return _OLDER_ENGINE_FACTOR if _is_older_engine(profile) else 1.0


def _is_older_engine(profile: EnergyProfile) -> bool:
    return profile.engine == "2024" or (not profile.engine and profile.hardware == _OLD_HARDWARE)


def _bound_model(profile: EnergyProfile, bound: int, sequences: float) -> EnergyModel:
    active = profile.active_params_b
    step, token = step_terms(profile, sequences, bound)
    factor = profile.hardware_factor * profile.meter_scale * engine_factor(profile) * _residual_factor(profile, bound)
    per_token = HARDWARE[profile.hardware].per_token
    prefill = per_token * _PREFILL_JOULES[bound] * active * factor
    return EnergyModel(
        per_output=(step / sequences + token) * factor,
        per_output_context=per_token * _CONTEXT_JOULES * math.sqrt(active) / 1000 * factor,
        per_input=prefill,
        per_input_squared=prefill * _ATTENTION_FACTOR * math.pow(active, 0.7) / active,
        cached_input_share=_CACHED_COST_SHARES[bound],
        facility_factor=SERVER_FACTORS[bound] * profile.pue[bound],
    )


def _residual_factor(profile: EnergyProfile, bound: int) -> float:
    if bound == 2 and not profile.engine and not _is_older_engine(profile):
        return _RESIDUAL_HIGH_UNDECLARED
    return _RESIDUAL_FACTORS[bound]
