"""A request's verdict, put together: the kind of work, how hard it looks, and what moved that. Pure but for what the
kinds of work have learnt to look like.
"""

import math

from ..values.plan import Facts, Features, Verdict
from ..values.quality import Role
from ..values.snapshot import World
from .classifiers import learned, transparent
from .classifiers.learned import own_log_odds
from .classifiers.task_type import TaskTypes, matched, name_of
from .scorer import Scorer

# Complexity is told to four decimals, and never as certain.
_MOST = 0.9999
# A signal is named in the reason when it moves the log-odds by at least this.
_NAMED = 0.25


def complexity_of(log_odds: float) -> float:
    """Complexity as it is told, routed by and fitted to: four decimals, never certain."""
    return min(_MOST, max(1 - _MOST, round(1 / (1 + math.exp(-log_odds)), 4)))


class Read:
    """What a scorer has read of a prompt: its words and numbers, and what it says of them."""

    __slots__ = ("_placed", "features", "scored", "scorer")

    def __init__(self, features: Features, scorer: Scorer) -> None:
        self.features, self.scorer = features, scorer
        self.scored = scorer.score(features)
        self._placed: tuple[float, ...] | None = None

    @property
    def placed(self) -> tuple[float, ...]:
        """Its numbers as deviations from what is usual; worked out when somebody first asks."""
        if self._placed is None:
            self._placed = self.scorer.placed(self.features.dense)
        return self._placed


def opinion(
    facts: Facts,
    world: World,
    org: str,
    kinds: TaskTypes,
    *,
    declared: str | None = None,
    role: Role | None = None,
    read: Read | None = None,
    pair: tuple[str, str] = ("", ""),
) -> Verdict:
    """Complexity and task type of a request. `declared` is the caller's own task type; `read` is what the scorer says of
    it, None where it was not asked; `pair` are the models of its route's lowest and highest tier."""
    task, confidence = matched(facts, world.task_types, declared)
    if read is None:
        base, moves = transparent.log_odds(facts)
    else:
        if len(world.task_types) > 1:
            task, confidence = kinds.of(task, confidence, world.task_types, org, lambda: read.placed, declared)
        of_scorer = world.learnt.scorer == read.scorer.name
        fitted = world.learnt.fitted.get((org, name_of(task), *pair)) if of_scorer else None
        own = None
        if fitted is not None and fitted.head is not None:
            placed = read.placed if fitted.head.numbers else ()
            own = own_log_odds(fitted.head, read.scored.gain, placed, read.features.words)
        base, moves = learned.log_odds(facts, read.scored, own)
    if task is not None and task.complexity_shift:
        moves.append((f"task-{task.name}", task.complexity_shift))
    if role is not None and role.complexity_shift:
        moves.append((f"role-{role.name}", role.complexity_shift))
    log_odds = base + sum([move for _, move in moves])
    moved = sum([move for name, move in moves if name != learned.OWN])
    named = [f"{name}{move:+.1f}" for name, move in moves if not -_NAMED < move < _NAMED]
    if read is not None:
        named.insert(0, f"small {read.scored.small:.2f} frontier {read.scored.frontier:.2f}")
    return Verdict(
        complexity=complexity_of(log_odds),
        task_type=name_of(task),
        confidence=round(confidence, 3),
        reason=",".join(named) or "plain",
        role=role.name if role is not None else "",
        scorer=read.scorer.name if read is not None else "",
        features=read.features if read is not None else None,
        moved=moved,
        untaught=complexity_of(base + moved),
    )
