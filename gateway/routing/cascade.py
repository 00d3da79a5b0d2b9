"""Small first and the next tier if the answer is doubtful: when that pays, learnt from how often it was. A book."""

from collections import OrderedDict
from collections.abc import Sequence

from ..values.catalog import Tier
from ..values.plan import Attempt

# Worth so many answers that were looked at.
_PRIOR_WEIGHT = 10.0
# Complexity is told apart in so many bands.
_COMPLEXITY_BANDS = 5
_GROUPS_MAX = 2_000
# Answers after which old ones count half.
_HALVE_AT_ANSWERS = 200.0
# Of the requests that go above at once one in so many begins with the small tier all the same.
_EXPLORE_EVERY = 20


class CascadeStats:
    """How often small answers were doubtful, by task type and band of complexity; bounded."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[str, int], list[float]] = OrderedDict()
        self._skipped = 0

    def record_verified(self, task_type: str, complexity: float, *, doubtful: bool) -> None:
        """A small answer was looked at."""
        counts = self._groups.setdefault(_group_key(task_type, complexity), [0.0, 0.0])
        counts[0] += 1
        counts[1] += doubtful
        if counts[0] > _HALVE_AT_ANSWERS:
            counts[0], counts[1] = counts[0] / 2, counts[1] / 2
        if len(self._groups) > _GROUPS_MAX:
            self._groups.popitem(last=False)

    def doubtful_share(self, task_type: str, complexity: float, prior: float) -> float:
        """The share of such answers that will be doubtful, in [0, 1]."""
        looked, doubtful = self._groups.get(_group_key(task_type, complexity), (0.0, 0.0))
        return (doubtful + prior * _PRIOR_WEIGHT) / (looked + _PRIOR_WEIGHT)

    def should_explore(self) -> bool:
        """Once in a while small answers are looked at although they do not pay: models get better."""
        self._skipped += 1
        return self._skipped % _EXPLORE_EVERY == 0


def _group_key(task_type: str, complexity: float) -> tuple[str, int]:
    return task_type, min(_COMPLEXITY_BANDS - 1, int(complexity * _COMPLEXITY_BANDS))


def cascade_pays(first: Attempt, above: Attempt, escalates: float) -> bool:
    """Whether asking small first is expected to cost less than asking above at once: by worst cases, which stand to each
    other as the prices do. Where a price is unknown nothing is gained by going above at once."""
    if first.hold_nusd is None or above.hold_nusd is None:
        return True
    return first.hold_nusd + escalates * above.hold_nusd <= above.hold_nusd


def next_higher_tier(attempts: Sequence[Attempt], place: int) -> int | None:
    """The place of the nearest more capable attempt behind this one, None where there is none."""
    tier = attempts[place].deployment.tier
    higher = [at for at in range(place + 1, len(attempts)) if attempts[at].deployment.tier > tier]
    return min(higher, key=lambda at: (attempts[at].deployment.tier, at), default=None)


def higher_tier_attempts(attempts: Sequence[Attempt], tier: Tier) -> list[Attempt]:
    """The attempts that are more capable than a tier, the nearest first."""
    return sorted([one for one in attempts if one.deployment.tier > tier], key=lambda one: one.deployment.tier)
