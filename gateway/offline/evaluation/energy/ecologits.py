"""EcoLogits 0.11.3's estimate, for comparison: its method for language models.

In closed form. Only output tokens count. GPUs come in powers of two of 80 GB cards, weights at 16 bits, 64 concurrent
requests. Source: EcoLogits' documentation of its methodology and constants (ecologits.ai, 0.11);
`tests/offline/evaluation/test_energy.py` checks it against figures of the package itself.
"""

import math

# Wh per output token of a GPU: alpha e^(beta B) A + gamma (B = 64 sequences, A in 1e9 active parameters).
_ALPHA, _BETA, _GAMMA = 1.1665273170451914e-06, -0.011205921025579175, 4.052928146734005e-05
# Seconds per output token: alpha A + beta B + gamma.
_LATENCY_COEFFICIENTS = (0.0006785088094353663, 0.0003119310311688259, 0.019473717579473387)
_BATCH_SIZE, _WEIGHT_BITS, _GPU_GB, _MEMORY_FACTOR = 64, 16, 80, 1.2
_SERVER_WATTS, _SERVER_GPUS = 1200.0, 8
# The mean of the providers.
_PUE = 1.15


def energy_joules(active_b: float, total_b: float, output_tokens: float, boundary: str) -> float:
    """J per request at the boundary (gpu, it, facility)."""
    cards = math.ceil(_MEMORY_FACTOR * total_b * _WEIGHT_BITS / 8 / _GPU_GB)
    gpus = math.exp2(math.ceil(math.log2(cards)))
    gpu = gpus * output_tokens * (_ALPHA * math.exp(_BETA * _BATCH_SIZE) * active_b + _GAMMA) * 3600
    seconds = output_tokens * (
        _LATENCY_COEFFICIENTS[0] * active_b + _LATENCY_COEFFICIENTS[1] * _BATCH_SIZE + _LATENCY_COEFFICIENTS[2]
    )
    server = seconds * _SERVER_WATTS * gpus / _SERVER_GPUS / _BATCH_SIZE
    return {"gpu": gpu, "it": gpu + server, "facility": (gpu + server) * _PUE}[boundary]
