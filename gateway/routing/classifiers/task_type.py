"""What kind of work a request is: what the caller says, else what the configuration recognises, else what the kinds
look like. A book: the last of these is learnt from the first two.

The learnt part compares a prompt's numbers, as the scorer places them, with the mean of each kind, by cosine. What is near to
none, or as near to two, is `other`.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import mul

from ...values.catalog import TaskType
from ...values.plan import RequestFeatures
from ...values.quality import OTHER_TASK_TYPE

# Confidence in a task type: said by the caller, by the tools that are offered.
_CALLER_CONFIDENCE, _TOOLS_CONFIDENCE = 1.0, 0.9
# How sharply a difference of cosines tells two kinds apart, and how sure one has to be, both by hand: with eight kinds as
# near as each other each gets an eighth.
_SHARPNESS, _CONFIDENCE_MIN = 12.0, 0.5
# Prompts of a kind that have to be seen before what they look like counts.
_PROMPTS_MIN = 20
# The mean place moves by no less than this with each prompt: kinds of work change.
_STEP_MIN = 0.005
# Organisations whose kinds are told apart.
_ORGS_MAX = 1_000
Vector = Sequence[float]


class _Centroid:
    __slots__ = ("count", "mean")

    def __init__(self) -> None:
        self.mean: list[float] = []
        self.count = 0


class TaskTypeClassifier:
    """What each organisation's kinds of work look like; bounded."""

    def __init__(self) -> None:
        self._centroids_by_org: OrderedDict[str, dict[str, _Centroid]] = OrderedDict()

    def classify(
        self,
        found: TaskType | None,
        confidence: float,
        task_types: Sequence[TaskType],
        org: str,
        place: Callable[[], Vector],
        declared: str | None,
    ) -> tuple[TaskType | None, float]:
        """(the kind, None for other; confidence in [0, 1]) of what was matched so; `place` gives the prompt's."""
        if found is not None:
            if confidence >= _TOOLS_CONFIDENCE:
                self._learn(org, found.name, place())
            return found, confidence
        if declared is not None or org not in self._centroids_by_org:
            return None, confidence
        return self._nearest(org, task_types, place())

    def _learn(self, org: str, name: str, place: Vector) -> None:
        kinds = self._centroids_by_org.get(org)
        if kinds is None:
            kinds = self._centroids_by_org[org] = {}
            if len(self._centroids_by_org) > _ORGS_MAX:
                self._centroids_by_org.popitem(last=False)
        kind = kinds.get(name)
        if kind is None:
            kind = kinds[name] = _Centroid()
            kind.mean = list(place)
        kind.count += 1
        step = max(_STEP_MIN, 1 / kind.count)
        mean = kind.mean
        for axis, value in enumerate(place):
            mean[axis] += step * (value - mean[axis])

    def _nearest(self, org: str, task_types: Sequence[TaskType], place: Vector) -> tuple[TaskType | None, float]:
        kinds = self._centroids_by_org.get(org)
        if not kinds:
            return None, 0.0
        known = [
            (task, kinds[task.name])
            for task in task_types
            if task.name in kinds and kinds[task.name].count >= _PROMPTS_MIN
        ]
        if len(known) < 2:
            # With one kind alone everything is nearest to it.
            return None, 0.0
        nears = [math.exp(_SHARPNESS * _cosine(place, kind.mean)) for _, kind in known]
        best = max(range(len(known)), key=nears.__getitem__)
        confidence = nears[best] / sum(nears)
        return (known[best][0], confidence) if confidence >= _CONFIDENCE_MIN else (None, 1 - confidence)


def match_task_type(
    features: RequestFeatures, task_types: Sequence[TaskType], declared: str | None
) -> tuple[TaskType | None, float]:
    """What the caller or the configuration says: the kind and confidence in [0, 1]; unknown names are other."""
    if declared is not None:
        return next((task for task in task_types if task.name == declared), None), _CALLER_CONFIDENCE
    for task in task_types:
        if not task.tools.isdisjoint(features.tool_names):
            return task, _TOOLS_CONFIDENCE
    hits = [(len(task.words & features.words), task) for task in task_types]
    best = max(hits, key=lambda hit: hit[0], default=(0, None))
    if best[0] == 0:
        return None, 0.0
    return best[1], best[0] / sum(hit[0] for hit in hits)


def _cosine(one: Vector, other: Vector) -> float:
    dot = sum(map(mul, one, other))
    size = math.sqrt(sum(map(mul, one, one)) * sum(map(mul, other, other)))
    return dot / size if size else 0.0


def task_type_name(task: TaskType | None) -> str:
    """Its name in the ledger."""
    return task.name if task is not None else OTHER_TASK_TYPE
