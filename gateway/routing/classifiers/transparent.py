"""The transparent classifier: a few signals with fixed, readable weights.

The weights are log-odds set by hand, not calibrated on data; the learned classifier is. Complexity is the logistic of
their sum.
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

# Log-odds of a short question without signals: a small model serves most of them well.
_BASE_LOG_ODDS = -1.2
# (name in the reason, weight); `_signal_values` gives each signal's value in [0, 1] in the same order.
_SIGNALS = (
    ("long-input", 1.6),
    ("long-prompt", 0.8),
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
    """(base log-odds, named shifts to add)."""
    shifts = [
        (name, weight * value)
        for (name, weight), value in zip(_SIGNALS, _signal_values(features), strict=True)
        if value
    ]
    return _BASE_LOG_ODDS, shifts


def _signal_values(features: RequestFeatures) -> tuple[float, ...]:
    return (
        min(1.0, math.log2(1 + features.input_tokens / 1000) / 5),
        min(1.0, features.newest_chars / 2000),
        min(1.0, len(features.words & _REASONING_WORDS) / 3),
        min(1.0, len(features.words & _ROUTINE_WORDS) / 2),
        min(1.0, features.code_share / 0.08),
        min(1.0, len(features.tool_names) / 20),
        min(1.0, features.tool_errors / 3),
        min(1.0, features.turns / 60),
        float(features.has_schema),
        float(features.has_images),
    )
