"""The lowest tier that will do for a request, and on what grounds. A book, because shares and drift have a memory.

In order: a share that is to be held; a quality floor, where labels carry it and nothing has drifted since; the
fallback that the floor states; the ceilings of the file. A role's bounds come last and always hold.
"""

from collections.abc import Sequence

from ..values.base import Value
from ..values.catalog import Policy, Route, Tier
from ..values.plan import Verdict
from ..values.quality import Fitted, Group, Learnt, Quality, Role
from ..values.world import World
from .contract import ShareBook
from .drift import DriftBook

# On what grounds a tier was aimed at.
BASES = ("ceiling", "floor", "fallback", "share")


class Aim(Value, frozen=True, kw_only=True):
    """Tiers below `tier` will not do; those above `most` are not to be used (None: any). `basis` is one of BASES."""

    tier: Tier
    basis: str
    why: str
    most: Tier | None = None


class Aims:
    """Decides the aims of one process; knows how shares stand and what is still trusted."""

    def __init__(self) -> None:
        self.drift = DriftBook()
        self._shares = ShareBook()
        self.counts: dict[tuple[str, str], int] = {}

    def aim(
        self, route: Route, verdict: Verdict, org: str, world: World, role: Role | None = None, *, now: float = 0.0
    ) -> Aim:
        """The aim of one request of an auto route; books it where a share is held. `now` in seconds since the epoch."""
        asked = world.quality.of(verdict.task_type)
        tiers = sorted({candidate.tier for candidate in route.candidates})
        if asked.frontier_share is not None:
            found = self._shared(
                f"{org}/{route.name}/{verdict.task_type}", asked.frontier_share, verdict, tiers, "share"
            )
        elif asked.keep is not None:
            found = self._floored(route, verdict, org, asked, world.learnt, tiers, now)
        else:
            found = _ceiled(verdict, world.policy, tiers)
        counted = (verdict.task_type, found.basis)
        self.counts[counted] = self.counts.get(counted, 0) + 1
        return _bounded(found, role, tiers) if role is not None else found

    def trusts(self, group: Group, fitted: Fitted | None, asked: Quality) -> bool:
        """Whether what was fitted carries what is asked, and nothing has drifted since."""
        return (
            fitted is not None
            and fitted.ceiling is not None
            and asked.keep is not None
            and fitted.keep >= asked.keep
            and fitted.confidence >= asked.confidence
            and not self.drift.watched(group).why
        )

    def _floored(
        self,
        route: Route,
        verdict: Verdict,
        org: str,
        asked: Quality,
        learnt: Learnt,
        tiers: Sequence[Tier],
        now: float,
    ) -> Aim:
        carried = False
        for tier in tiers[:-1]:
            group = (org, verdict.task_type, tier.name)
            fitted = learnt.fitted.get(group)
            if fitted is None or fitted.ceiling is None or not self.trusts(group, fitted, asked):
                continue
            carried = True
            self.drift.served(group, verdict.complexity, now=now)
            if verdict.complexity <= fitted.ceiling:
                why = f"complexity {verdict.complexity:.2f} within {tier.name}'s floor {fitted.ceiling:.2f} ({fitted.labels} labels)"
                return Aim(tier=tier, basis="floor", why=why)
        if carried:
            return Aim(tier=tiers[-1], basis="floor", why=f"complexity {verdict.complexity:.2f} above the floor")
        if asked.fallback_share is not None:
            name = f"{org}/{route.name}/{verdict.task_type}"
            return self._shared(name, asked.fallback_share, verdict, tiers, "fallback")
        return Aim(tier=tiers[-1], basis="fallback", why=f"the labels do not carry keep {asked.keep:g}")

    def _shared(self, name: str, share: float, verdict: Verdict, tiers: Sequence[Tier], basis: str) -> Aim:
        high = self._shares.wants_frontier(name, verdict.complexity, share)
        tier = tiers[-1] if high else tiers[0]
        return Aim(
            tier=tier, basis=basis, why=f"complexity {verdict.complexity:.2f}, {share:.0%} go to {tiers[-1].name}"
        )


def _ceiled(verdict: Verdict, policy: Policy, tiers: Sequence[Tier]) -> Aim:
    for tier, ceiling in policy.tier_ceilings.items():
        if verdict.complexity <= ceiling:
            fits = next((one for one in tiers if one >= tier), tiers[-1])
            return Aim(tier=fits, basis="ceiling", why=f"complexity {verdict.complexity:.2f} suits {fits.name}")
    return Aim(tier=tiers[-1], basis="ceiling", why=f"complexity {verdict.complexity:.2f} suits {tiers[-1].name}")


def _bounded(aim: Aim, role: Role, tiers: Sequence[Tier]) -> Aim:
    tier, most = aim.tier, role.tier_max
    if role.tier_min is not None and tier < role.tier_min:
        tier = next((one for one in tiers if one >= role.tier_min), tiers[-1])
    if most is not None and tier > most:
        tier = next((one for one in reversed(tiers) if one <= most), tiers[0])
    if tier == aim.tier and most is None:
        return aim
    why = aim.why if tier == aim.tier else f"{aim.why}, bound by role {role.name}"
    return Aim(tier=tier, basis=aim.basis, why=why, most=most)
