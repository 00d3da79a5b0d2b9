"""The transparent classifier: a short list of signals with fixed weights, so that each verdict can be read.

The weights are a starting point set by hand, in log-odds: they are not calibrated on data, and a learned classifier
takes this one's place where labels exist. Complexity is the logistic of their sum.
"""

import math
from collections.abc import Sequence

from ...values.catalog import TaskType
from ...values.plan import Facts, Verdict

OTHER = "other"

_REASONING = frozenset(
    [
        "prove",
        "proof",
        "derive",
        "theorem",
        "why",
        "optimize",
        "optimise",
        "refactor",
        "architecture",
        "design",
        "debug",
        "diagnose",
        "tradeoffs",
        "concurrency",
        "deadlock",
        "race",
        "complexity",
        "algorithm",
        "integral",
        "equation",
        "legal",
        "clinical",
        "investigate",
        "strategy",
        "plan",
        "migrate",
        "security",
    ]
)
_ROUTINE = frozenset(
    [
        "summarize",
        "summarise",
        "translate",
        "extract",
        "classify",
        "rephrase",
        "rewrite",
        "format",
        "list",
        "convert",
        "capitalize",
        "spell",
        "greet",
        "hello",
        "hi",
        "thanks",
        "thank",
    ]
)

# Log-odds of a plain short question: most such requests are served well by a small model.
_BASE = -1.2
# (name in the reason, weight); `_values` gives each signal's value in [0, 1] in the same order.
_SIGNALS = (
    ("long-input", 1.6),
    ("long-ask", 0.8),
    ("reasoning-words", 1.8),
    ("routine-words", -1.2),
    ("code", 0.9),
    ("many-tools", 0.7),
    ("failed-tools", 1.4),
    ("long-session", 0.6),
    ("schema", -0.3),
    ("images", 0.6),
)
# A signal is named in the reason when it moves the sum by at least this.
_NAMED = 0.25
# Confidence in a task type: said by the caller, by the tools that are offered, by this many words.
_BY_CALLER, _BY_TOOLS = 1.0, 0.9


def classify(facts: Facts, task_types: Sequence[TaskType], *, declared: str | None = None) -> Verdict:
    """Complexity and task type of a request. `declared` is the caller's own task type; unknown names count as other."""
    task, confidence = _task_type(facts, task_types, declared)
    moves = [(name, weight * value) for (name, weight), value in zip(_SIGNALS, _values(facts), strict=True) if value]
    if task is not None and task.complexity_shift:
        moves.append((f"task-{task.name}", task.complexity_shift))
    log_odds = _BASE + sum(move for _, move in moves)
    named = [f"{name}{move:+.1f}" for name, move in moves if not -_NAMED < move < _NAMED]
    return Verdict(
        complexity=round(1 / (1 + math.exp(-log_odds)), 3),
        task_type=task.name if task is not None else OTHER,
        confidence=confidence,
        reason=",".join(named) or "plain",
    )


def _values(f: Facts) -> tuple[float, ...]:
    return (
        min(1.0, math.log2(1 + f.input_tokens / 1000) / 5),
        min(1.0, f.newest_chars / 2000),
        min(1.0, len(f.words & _REASONING) / 3),
        min(1.0, len(f.words & _ROUTINE) / 2),
        min(1.0, f.code_share / 0.08),
        min(1.0, len(f.tool_names) / 20),
        min(1.0, f.tool_errors / 3),
        min(1.0, f.turns / 60),
        float(f.has_schema),
        float(f.has_images),
    )


def _task_type(facts: Facts, task_types: Sequence[TaskType], declared: str | None) -> tuple[TaskType | None, float]:
    if declared is not None:
        return next((task for task in task_types if task.name == declared), None), _BY_CALLER
    for task in task_types:
        if not task.tools.isdisjoint(facts.tool_names):
            return task, _BY_TOOLS
    hits = [(len(task.words & facts.words), task) for task in task_types]
    best = max(hits, key=lambda hit: hit[0], default=(0, None))
    if best[0] == 0:
        return None, 0.0
    return best[1], best[0] / sum(hit[0] for hit in hits)
