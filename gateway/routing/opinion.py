"""A request's verdict, put together: the kind of work, how hard it looks, and what moved that. Pure but for what the
kinds of work have learnt to look like.
"""

import math

from ..values.plan import Facts, Verdict
from ..values.quality import Role
from ..values.world import World
from .classifiers import learned, transparent
from .classifiers.task_type import TaskTypes, name_of
from .scorer import Scored

# A signal is named in the reason when it moves the log-odds by at least this.
_NAMED = 0.25


def opinion(
    facts: Facts,
    world: World,
    org: str,
    kinds: TaskTypes,
    *,
    declared: str | None = None,
    role: Role | None = None,
    scored: Scored | None = None,
    scorer: str = "",
    tier: str = "small",
) -> Verdict:
    """Complexity and task type of a request. `declared` is the caller's own task type; `scored` is what the scorer of
    that name says of it, None where it was not asked; `tier` is the smallest that its route has."""
    place = scored.lanes if scored is not None else ()
    task, confidence = kinds.of(facts, world.task_types, org, place, declared)
    if scored is None:
        base, moves = transparent.log_odds(facts)
    else:
        fitted = world.learnt.fitted.get((org, name_of(task), tier)) if world.learnt.scorer == scorer else None
        base, moves = learned.log_odds(facts, scored, fitted.head if fitted is not None else ())
    if task is not None and task.complexity_shift:
        moves.append((f"task-{task.name}", task.complexity_shift))
    if role is not None and role.complexity_shift:
        moves.append((f"role-{role.name}", role.complexity_shift))
    log_odds = base + sum([move for _, move in moves])
    named = [f"{name}{move:+.1f}" for name, move in moves if not -_NAMED < move < _NAMED]
    if scored is not None:
        named.insert(0, f"small {scored.small:.2f} frontier {scored.frontier:.2f}")
    return Verdict(
        complexity=round(1 / (1 + math.exp(-log_odds)), 4),
        task_type=name_of(task),
        confidence=round(confidence, 3),
        reason=",".join(named) or "plain",
        role=role.name if role is not None else "",
        scorer=scorer if scored is not None else "",
        features=place,
    )
