"""Energy of one request from its tokens and what is known about the model; facility boundary, in joules.

Method version 1 (docs/methodology.md): decode streams the active weights once per step shared by the sequences served
together; prefill is compute-bound; host, idle and PUE multiply. EnergyModel were fitted to ML.ENERGY v3 (H100/B200,
vLLM 0.11, 515 configurations, median |log2 error| 0.31 with concurrency known, 0.69 unknown).
"""

from ..values.catalog import EnergyModel, EnergyProfile

METHOD = "modelled-1"

# J per GB of weights streamed from HBM (fit; an H100 at full power is 700 W / 3.35 TB/s = 0.21).
_JOULES_PER_GB = 0.264
# J per token and 1e9 active parameters: 1.5 pJ per FLOP (fit).
_COMPUTE_JOULES = 0.0029
# J per token, sqrt(1e9 active parameters) and 1,000 tokens of context: KV-cache traffic (fit).
_CONTEXT_JOULES = 0.0095
# J per token, fixed (fit).
_FIXED_JOULES = 0.030
# J per prompt token and 1e9 active parameters, low-mid-high (DeepSeek and SGLang production figures, 2025).
_PREFILL_JOULES = (0.0020, 0.0040, 0.0080)
# Attention's share of prefill: layers x width ~ 3.3e4 * A^0.7 (8B 1.3e5, 70B 6.6e5, 405B 2.1e6).
_ATTENTION = 3.3e4 / 1e9
# What a cached prompt token costs beside an uncached one; a judgement, discounts are not energy data.
_CACHED_SHARE = (0.0, 0.10, 0.25)
# Sequences served together when the operator does not say; (low energy, mid, high energy). Larger models batch less.
_CONCURRENCY_PRIOR = (512.0, 128.0, 32.0)
_CONCURRENCY_PRIOR_LARGE = (1024.0, 160.0, 32.0)
_LARGE_TOTAL_B = 200.0
# Residual of the fit, in factors of two: 2^-0.7 .. 2^0.7.
_RESIDUAL = (2**-0.7, 1.0, 2**0.7)
# Host CPU and DRAM plus provisioned idle per unit of accelerator energy (Google, 2025: 1 + 0.43 + 0.14).
_SERVER = (1.25, 1.57, 1.90)


def model_of(profile: EnergyProfile) -> tuple[EnergyModel, EnergyModel, EnergyModel]:
    """The formula for low, mid and high bound, worked out once per deployment."""
    prior = _CONCURRENCY_PRIOR_LARGE if profile.total_params_b >= _LARGE_TOTAL_B else _CONCURRENCY_PRIOR
    low, mid, high = (_bound(profile, bound, prior[bound]) for bound in range(3))
    return low, mid, high


def _bound(profile: EnergyProfile, bound: int, concurrency_prior: float) -> EnergyModel:
    active, total = profile.active_params_b, profile.total_params_b
    together = profile.concurrency if profile.concurrency is not None else concurrency_prior
    # Share of the experts that a step touches when `together` tokens each pick their own; dense: all of them.
    streamed = active + (total - active) * (1 - (1 - active / total) ** max(together - 1, 0))
    residual, hardware = _RESIDUAL[bound], profile.hardware_factor
    weights = _JOULES_PER_GB * streamed * profile.bytes_per_param / together
    compute = hardware * (_COMPUTE_JOULES * active * (profile.bytes_per_param / 2) ** 0.5 + _FIXED_JOULES)
    prefill = hardware * _PREFILL_JOULES[bound] * active * residual
    return EnergyModel(
        per_output=(weights + compute) * residual,
        per_output_context=hardware * _CONTEXT_JOULES * active**0.5 / 1000 * residual,
        per_input=prefill,
        per_input_squared=prefill * _ATTENTION * active**0.7 / active,
        cached_share=_CACHED_SHARE[bound],
        facility=_SERVER[bound] * profile.pue[bound],
    )
