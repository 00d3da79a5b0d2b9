"""Task types: declared by the caller, matched by configuration, or learned.

The learned part, trained on the other two, compares a prompt's standardized features with the mean of each task type,
by cosine. What is near to none, or equally near to two, is `other`.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import mul

from ...values.catalog import TaskType
from ...values.plan import RequestFeatures
from ...values.quality import OTHER_TASK_TYPE

# Confidence in a task type that the caller declared, and in one matched by its tools.
_CALLER_CONFIDENCE, _TOOLS_CONFIDENCE = 1.0, 0.9
# Softmax factor on cosines, and the confidence required, both set by hand: eight equally near types get an eighth each.
_SHARPNESS, _CONFIDENCE_MIN = 12.0, 0.5
# Prompts of a task type before its mean is used.
_PROMPTS_MIN = 20
# Least weight of the newest prompt in a mean: task types drift.
_STEP_MIN = 0.005
# Organizations kept.
_ORGS_MAX = 1_000
Vector = Sequence[float]


class _Centroid:
    __slots__ = ("count", "mean")

    def __init__(self) -> None:
        self.mean: list[float] = []
        self.count = 0


class TaskTypeClassifier:
    """Mean prompt features of each organization's task types; bounded."""

    def __init__(self) -> None:
        self._centroids_by_org: OrderedDict[str, dict[str, _Centroid]] = OrderedDict()

    def classify(
        self,
        matched: TaskType | None,
        confidence: float,
        task_types: Sequence[TaskType],
        org: str,
        standardized: Callable[[], Vector],
        declared: str | None,
    ) -> tuple[TaskType | None, float]:
        """(task type, None for other; confidence in [0, 1]).

        matched, confidence: result of match_task_type
        standardized: gives the prompt's features in standard deviations; called only when needed
        """
        if matched is not None:
            if confidence >= _TOOLS_CONFIDENCE:
                self._learn(org, matched.name, standardized())
            return matched, confidence
        if declared is not None or org not in self._centroids_by_org:
            return None, confidence
        return self._nearest(org, task_types, standardized())

    def _learn(self, org: str, name: str, vector: Vector) -> None:
        centroids = self._centroids_by_org.get(org)
        if centroids is None:
            centroids = self._centroids_by_org[org] = {}
            if len(self._centroids_by_org) > _ORGS_MAX:
                self._centroids_by_org.popitem(last=False)
        centroid = centroids.get(name)
        if centroid is None:
            centroid = centroids[name] = _Centroid()
            centroid.mean = list(vector)
        centroid.count += 1
        step = max(_STEP_MIN, 1 / centroid.count)
        mean = centroid.mean
        for axis, value in enumerate(vector):
            mean[axis] += step * (value - mean[axis])

    def _nearest(self, org: str, task_types: Sequence[TaskType], vector: Vector) -> tuple[TaskType | None, float]:
        centroids = self._centroids_by_org.get(org)
        if not centroids:
            return None, 0.0
        learned = [
            (task, centroids[task.name])
            for task in task_types
            if task.name in centroids and centroids[task.name].count >= _PROMPTS_MIN
        ]
        if len(learned) < 2:
            # With a single task type everything is nearest to it.
            return None, 0.0
        weights = [math.exp(_SHARPNESS * _cosine(vector, centroid.mean)) for _, centroid in learned]
        best = max(range(len(learned)), key=weights.__getitem__)
        confidence = weights[best] / sum(weights)
        return (learned[best][0], confidence) if confidence >= _CONFIDENCE_MIN else (None, 1 - confidence)


def match_task_type(
    features: RequestFeatures, task_types: Sequence[TaskType], declared: str | None
) -> tuple[TaskType | None, float]:
    """(task type or None, confidence in [0, 1]) by declaration, tools or words."""
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
    """The task type's name in the ledger."""
    return task.name if task is not None else OTHER_TASK_TYPE
