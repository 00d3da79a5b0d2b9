"""Clopper-Pearson: the exact confidence interval of a proportion."""

import math

# Bisections of [0, 1]: 2**-40 is far below any printed digit.
_HALVINGS = 40


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound of the proportion, each in [0, 1]; (0, 1) without trials.

    Clopper and Pearson, Biometrika 26 (1934): the proportions at which this many successes or more, or this many or
    fewer, have half of the remaining probability.
    """
    assert 0 <= successes <= trials, "no more successes than trials"
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    # k or more successes of n at p are n - k or fewer failures at 1 - p.
    low = 0.0 if successes == 0 else 1 - _proportion_at_tail(trials - successes, trials, tail)
    high = 1.0 if successes == trials else _proportion_at_tail(successes, trials, tail)
    return low, high


def _proportion_at_tail(most: int, trials: int, tail: float) -> float:
    """The p at which `most` or fewer successes have probability `tail`."""
    low, high = 0.0, 1.0
    log_combinations = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(most + 1)
    ]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        log_success, log_failure = math.log(middle), math.log1p(-middle)
        probability = math.fsum(
            math.exp(log_ways + k * log_success + (trials - k) * log_failure)
            for k, log_ways in enumerate(log_combinations)
        )
        low, high = (middle, high) if probability > tail else (low, middle)
    return (low + high) / 2
