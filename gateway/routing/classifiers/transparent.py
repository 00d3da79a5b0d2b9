"""The transparent classifier: a short list of signals with fixed weights, so that each verdict can be read.

The weights are a starting point set by hand, in log-odds: they are not calibrated on data, and a learned classifier
takes this one's place where labels exist. Complexity is the logistic of their sum.
"""

import math

from ...values.plan import RequestFeatures

_REASONING_WORDS = frozenset(
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
_ROUTINE_WORDS = frozenset(
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
_BASE_LOG_ODDS = -1.2
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


def log_odds(features: RequestFeatures) -> tuple[float, list[tuple[str, float]]]:
    """The base, and each signal's name with what it moves the log-odds by."""
    moves = [
        (name, weight * value)
        for (name, weight), value in zip(_SIGNALS, _signal_values(features), strict=True)
        if value
    ]
    return _BASE_LOG_ODDS, moves


def _signal_values(f: RequestFeatures) -> tuple[float, ...]:
    return (
        min(1.0, math.log2(1 + f.input_tokens / 1000) / 5),
        min(1.0, f.newest_chars / 2000),
        min(1.0, len(f.words & _REASONING_WORDS) / 3),
        min(1.0, len(f.words & _ROUTINE_WORDS) / 2),
        min(1.0, f.code_share / 0.08),
        min(1.0, len(f.tool_names) / 20),
        min(1.0, f.tool_errors / 3),
        min(1.0, f.turns / 60),
        float(f.has_schema),
        float(f.has_images),
    )
