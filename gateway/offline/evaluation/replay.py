"""The replay: one recording, several rules, and when each of them spoke."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from ...values.session import LoopThresholds
from .decision_points import decision_points
from .penstock_rule import GuardCost, PenstockRule
from .published_rules import (
    CallCap,
    ConsecutiveCalls,
    Crush,
    DetectionRule,
    GeminiCli,
    Level,
    Librefang,
    MessageHash,
    OpenHands,
)
from .recordings import DEFAULT_GAP_SECONDS, Recording

RuleFactory = Callable[[], DetectionRule]
PENSTOCK = "penstock"
_PUBLISHED_RULES: dict[str, RuleFactory] = {
    "openhands": OpenHands,
    "gemini_cli": GeminiCli,
    "crush": Crush,
    "librefang": Librefang,
    "message_hash": MessageHash,
    "roo_cline": lambda: ConsecutiveCalls(4),
    "opencode": lambda: ConsecutiveCalls(3),
    "cap_25": lambda: CallCap(25),
    "cap_50": lambda: CallCap(50),
}
RULE_NAMES = (PENSTOCK, *_PUBLISHED_RULES)


class RuleLevels(msgspec.Struct, frozen=True):
    """What one rule did in one session: its level at each request, up to and including the one that it stopped."""

    levels: Sequence[Level]

    def first_reaching(self, level: Level, after: int = -1) -> int | None:
        """The first request, after the one given, at which the rule stood on this level or higher."""
        return next((n for n, one in enumerate(self.levels) if n > after and one >= level), None)


def rule_factories(names: Sequence[str], limits: LoopThresholds, meter: GuardCost) -> dict[str, RuleFactory]:
    """How to begin each of the rules, in the order of NAMES. Raises ValueError for a name that is none."""
    unknown = [name for name in names if name not in RULE_NAMES]
    if unknown:
        raise ValueError(f"unknown rule '{unknown[0]}'; there are {', '.join(RULE_NAMES)}")
    every: dict[str, RuleFactory] = {PENSTOCK: lambda: PenstockRule(limits, meter), **_PUBLISHED_RULES}
    return {name: maker for name, maker in every.items() if name in names}


def replay(recording: Recording, rules: Mapping[str, RuleFactory]) -> dict[str, RuleLevels]:
    """Ask every rule at every request of the session, each until it stops."""
    begun = {name: maker() for name, maker in rules.items()}
    levels: dict[str, list[Level]] = {name: [] for name in begun}
    asked = dict(begun)
    for moment in decision_points(recording, DEFAULT_GAP_SECONDS):
        for name, rule in list(asked.items()):
            level = rule.level_at(moment)
            levels[name].append(level)
            if level >= Level.stop:
                del asked[name]
        if not asked:
            break
    for rule in begun.values():
        rule.finish()
    return {name: RuleLevels(levels=tuple(seen)) for name, seen in levels.items()}
