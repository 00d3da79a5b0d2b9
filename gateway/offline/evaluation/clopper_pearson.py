"""Clopper-Pearson: the exact interval of a proportion, from the binomial distribution and nothing else."""

import math

# Halvings of [0, 1]: 2**-40 is far below any digit that is printed.
_HALVINGS = 40


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound of the proportion, each in [0, 1]; (0, 1) without trials.

    Clopper and Pearson, Biometrika 26 (1934): the proportions at which so many or more, or so few or fewer, successes
    would have been seen with half of the remaining probability.
    """
    assert 0 <= successes <= trials, "no more successes than trials"
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    # So many or more of n at p is so few or fewer failures at 1 - p.
    low = 0.0 if successes == 0 else 1 - _proportion_at_tail(trials - successes, trials, tail)
    high = 1.0 if successes == trials else _proportion_at_tail(successes, trials, tail)
    return low, high


def _proportion_at_tail(most: int, trials: int, tail: float) -> float:
    """The p at which `most` or fewer of the trials succeed with probability `tail`: the probability falls with p."""
    below, above = 0.0, 1.0
    ways = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(most + 1)]
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        yes, no = math.log(middle), math.log1p(-middle)
        reached = math.fsum(math.exp(way + k * yes + (trials - k) * no) for k, way in enumerate(ways))
        below, above = (middle, above) if reached > tail else (below, middle)
    return (below + above) / 2
