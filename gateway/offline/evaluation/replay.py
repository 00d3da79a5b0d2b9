"""Replays a recording with several rules and records each one's levels."""

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
    """One rule's level at each request of a session, up to the one that it stopped."""

    levels: Sequence[Level]

    def first_reaching(self, level: Level, after: int = -1) -> int | None:
        """The first request after the given one with this level or a higher one."""
        return next((number for number, reached in enumerate(self.levels) if number > after and reached >= level), None)


def rule_factories(names: Sequence[str], limits: LoopThresholds, cost: GuardCost) -> dict[str, RuleFactory]:
    """A factory for each of the rules, in the order of RULE_NAMES.

    Raises ValueError for an unknown name.
    """
    unknown = [name for name in names if name not in RULE_NAMES]
    if unknown:
        raise ValueError(f"unknown rule '{unknown[0]}'; known: {', '.join(RULE_NAMES)}")
    factories: dict[str, RuleFactory] = {PENSTOCK: lambda: PenstockRule(limits, cost), **_PUBLISHED_RULES}
    return {name: factory for name, factory in factories.items() if name in names}


def replay(recording: Recording, rules: Mapping[str, RuleFactory]) -> dict[str, RuleLevels]:
    """Evaluate every rule at every request of the session, each until it stops."""
    detectors = {name: factory() for name, factory in rules.items()}
    levels: dict[str, list[Level]] = {name: [] for name in detectors}
    active = dict(detectors)
    for moment in decision_points(recording, DEFAULT_GAP_SECONDS):
        for name, rule in list(active.items()):
            level = rule.level_at(moment)
            levels[name].append(level)
            if level >= Level.stop:
                del active[name]
        if not active:
            break
    for rule in detectors.values():
        rule.finish()
    return {name: RuleLevels(levels=tuple(reached)) for name, reached in levels.items()}
