"""Cascade: the small tier first, the next one if its response is doubtful.

State: how often it was, by task type and band of complexity; that decides whether a cascade pays.
"""

from collections import OrderedDict
from collections.abc import Sequence

from ..values.catalog import Tier
from ..values.plan import Attempt

# The prior counts as this many verified responses.
_PRIOR_WEIGHT = 10.0
# Bands of complexity with statistics of their own.
_COMPLEXITY_BANDS = 5
_GROUPS_MAX = 2_000
# Verified responses after which older ones count half.
_HALVE_AT_ANSWERS = 200.0
# One in this many requests that would skip the small tier tries it all the same.
_EXPLORE_EVERY = 20


class CascadeStats:
    """Doubtful small-tier responses by task type and complexity band; bounded."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[str, int], list[float]] = OrderedDict()
        self._skipped = 0

    def record_verified(self, task_type: str, complexity: float, *, doubtful: bool) -> None:
        """Record the verification of a small-tier response."""
        counts = self._groups.setdefault(_group_key(task_type, complexity), [0.0, 0.0])
        counts[0] += 1
        counts[1] += doubtful
        if counts[0] > _HALVE_AT_ANSWERS:
            counts[0], counts[1] = counts[0] / 2, counts[1] / 2
        if len(self._groups) > _GROUPS_MAX:
            self._groups.popitem(last=False)

    def doubtful_share(self, task_type: str, complexity: float, prior: float) -> float:
        """Expected share of doubtful responses, in [0, 1]; starts at `prior`."""
        verified, doubtful = self._groups.get(_group_key(task_type, complexity), (0.0, 0.0))
        return (doubtful + prior * _PRIOR_WEIGHT) / (verified + _PRIOR_WEIGHT)

    def should_explore(self) -> bool:
        """Whether to try the small tier although it does not pay: models improve."""
        self._skipped += 1
        return self._skipped % _EXPLORE_EVERY == 0


def _group_key(task_type: str, complexity: float) -> tuple[str, int]:
    return task_type, min(_COMPLEXITY_BANDS - 1, int(complexity * _COMPLEXITY_BANDS))


def cascade_pays(first: Attempt, above: Attempt, escalation_share: float) -> bool:
    """Whether trying the small tier first costs no more than the tier above at once.

    Worst-case holds are compared: their ratio is that of the prices. True where a price is unknown.
    """
    if first.hold_nusd is None or above.hold_nusd is None:
        return True
    return first.hold_nusd + escalation_share * above.hold_nusd <= above.hold_nusd


def next_higher_tier(attempts: Sequence[Attempt], place: int) -> int | None:
    """Index of the nearest higher-tier attempt after `place`, None without one."""
    tier = attempts[place].deployment.tier
    higher = [index for index in range(place + 1, len(attempts)) if attempts[index].deployment.tier > tier]
    return min(higher, key=lambda index: (attempts[index].deployment.tier, index), default=None)


def higher_tier_attempts(attempts: Sequence[Attempt], tier: Tier) -> list[Attempt]:
    """The attempts above a tier, the nearest tier first."""
    return sorted(
        [attempt for attempt in attempts if attempt.deployment.tier > tier], key=lambda attempt: attempt.deployment.tier
    )
