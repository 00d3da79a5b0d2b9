"""The replay: one recording, several rules, and when each of them spoke."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from ...values.session import LoopLimits
from .decision_points import moments
from .penstock_rule import Meter, Penstock
from .published_rules import Cap, Consecutive, Crush, GeminiCli, Level, Librefang, MessageHash, OpenHands, Rule
from .recordings import GAP_SECONDS, Recording

Maker = Callable[[], Rule]
OURS = "penstock"
_PUBLISHED: dict[str, Maker] = {
    "openhands": OpenHands,
    "gemini_cli": GeminiCli,
    "crush": Crush,
    "librefang": Librefang,
    "message_hash": MessageHash,
    "roo_cline": lambda: Consecutive(4),
    "opencode": lambda: Consecutive(3),
    "cap_25": lambda: Cap(25),
    "cap_50": lambda: Cap(50),
}
NAMES = (OURS, *_PUBLISHED)


class Verdict(msgspec.Struct, frozen=True):
    """What one rule did in one session: its level at each request, up to and including the one that it stopped."""

    levels: Sequence[Level]

    def first(self, level: Level, after: int = -1) -> int | None:
        """The first request, after the one given, at which the rule stood on this level or higher."""
        return next((n for n, one in enumerate(self.levels) if n > after and one >= level), None)


def makers(names: Sequence[str], limits: LoopLimits, meter: Meter) -> dict[str, Maker]:
    """How to begin each of the rules, in the order of NAMES. Raises ValueError for a name that is none."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ValueError(f"unknown rule '{unknown[0]}'; there are {', '.join(NAMES)}")
    every: dict[str, Maker] = {OURS: lambda: Penstock(limits, meter), **_PUBLISHED}
    return {name: maker for name, maker in every.items() if name in names}


def replay(recording: Recording, rules: Mapping[str, Maker]) -> dict[str, Verdict]:
    """Ask every rule at every request of the session, each until it stops."""
    begun = {name: maker() for name, maker in rules.items()}
    levels: dict[str, list[Level]] = {name: [] for name in begun}
    asked = dict(begun)
    for moment in moments(recording, GAP_SECONDS):
        for name, rule in list(asked.items()):
            level = rule.at(moment)
            levels[name].append(level)
            if level >= Level.stop:
                del asked[name]
        if not asked:
            break
    for rule in begun.values():
        rule.end()
    return {name: Verdict(levels=tuple(seen)) for name, seen in levels.items()}
