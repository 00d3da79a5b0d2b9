"""The lowest tier that will do for a request, and on what grounds. A book, because shares and drift have a memory.

In order: a role that leaves one tier only; a share that is to be held; a quality floor, where labels carry it and nothing
has drifted since; the fallback that the floor states; the ceilings of the file. A role's bounds hold whatever comes of that.
"""

from collections.abc import Sequence

from ..values.base import Value
from ..values.catalog import Policy, Route, Tier
from ..values.plan import Verdict
from ..values.quality import Fitted, Group, Learnt, Quality, Role
from ..values.snapshot import World
from .drift import DriftBook
from .share_controller import ShareBook

# On what grounds a tier was aimed at.
BASES = ("ceiling", "floor", "fallback", "share", "role")


class Aim(Value, frozen=True, kw_only=True):
    """Tiers below `tier` will not do; those above `most` are not to be used (None: any). `basis` is one of BASES; `share`
    names the share that it was booked on, "" for none."""

    tier: Tier
    basis: str
    why: str
    most: Tier | None = None
    share: str = ""


def group_of(org: str, task_type: str, route: Route) -> Group:
    """The group that a route's requests of a kind belong to."""
    return org, task_type, *route.pair


class Aims:
    """Decides the aims of one process; knows how shares stand and what is still trusted."""

    def __init__(self) -> None:
        self.drift = DriftBook()
        self._shares = ShareBook()
        self.counts: dict[tuple[str, str], int] = {}

    def aim(
        self,
        route: Route,
        verdict: Verdict,
        org: str,
        world: World,
        role: Role | None = None,
        *,
        opens: bool = True,
        now: float = 0.0,
    ) -> Aim:
        """The aim of one request of an auto route; books it where a share is held. `opens`: it is its session's first;
        `now` in seconds since the epoch."""
        asked = world.quality.of(verdict.task_type)
        tiers = route.tiers
        bound = _bound(role, tiers) if role is not None else None
        if bound is not None:
            found = bound
        elif asked.frontier_share is not None:
            found = self._shared(
                f"{org}/{route.name}/{verdict.task_type}", asked.frontier_share, verdict, tiers, "share"
            )
        elif asked.keep is not None:
            found = self._floored(route, verdict, org, asked, world.learnt, tiers, opens, now)
        else:
            found = _ceiled(verdict, world.policy, tiers)
        counted = (verdict.task_type, found.basis)
        self.counts[counted] = self.counts.get(counted, 0) + 1
        if role is None or bound is not None:
            return found
        within = _within(found, role, tiers)
        if found.share and (found.tier == tiers[-1]) != (within.tier == tiers[-1]):
            self._shares.corrected(found.share, frontier=within.tier == tiers[-1])
        return within

    def served(self, aim: Aim, tier: Tier, top: Tier) -> None:
        """Where a request went in the end: what economics, a budget, a deadline or a failure gave to or took from a share
        is made good by later requests."""
        if aim.share and (aim.tier >= top) != (tier >= top):
            self._shares.corrected(aim.share, frontier=tier >= top)

    def trusts(self, group: Group, fitted: Fitted | None, asked: Quality) -> bool:
        """Whether what was fitted carries what is asked, and nothing has drifted since."""
        return (
            fitted is not None
            and fitted.ceiling is not None
            and asked.keep is not None
            and fitted.keep >= asked.keep
            and fitted.confidence >= asked.confidence
            and not self.drift.why(group)
        )

    def _floored(
        self,
        route: Route,
        verdict: Verdict,
        org: str,
        asked: Quality,
        learnt: Learnt,
        tiers: Sequence[Tier],
        opens: bool,
        now: float,
    ) -> Aim:
        """By the floor of the lowest tier. It is about the scores of the scorer that it was fitted with."""
        group = group_of(org, verdict.task_type, route)
        fitted = learnt.fitted.get(group) if verdict.scorer and verdict.scorer == learnt.scorer else None
        if fitted is not None and fitted.ceiling is not None and self.trusts(group, fitted, asked):
            if opens:
                self.drift.served(group, verdict.untaught, now=now)
            if verdict.complexity <= fitted.ceiling:
                why = f"complexity {verdict.complexity:.2f} within {tiers[0].name}'s floor {fitted.ceiling:.2f} ({fitted.labels} labels)"
                return Aim(tier=tiers[0], basis="floor", why=why)
            return Aim(tier=tiers[-1], basis="floor", why=f"complexity {verdict.complexity:.2f} above the floor")
        if asked.fallback_share is not None:
            name = f"{org}/{route.name}/{verdict.task_type}"
            return self._shared(name, asked.fallback_share, verdict, tiers, "fallback")
        return Aim(tier=tiers[-1], basis="fallback", why=f"the labels do not carry keep {asked.keep:g}")

    def _shared(self, name: str, share: float, verdict: Verdict, tiers: Sequence[Tier], basis: str) -> Aim:
        high = self._shares.wants_frontier(name, verdict.complexity, share)
        tier = tiers[-1] if high else tiers[0]
        why = f"complexity {verdict.complexity:.2f}, {share:.0%} go to {tiers[-1].name}"
        return Aim(tier=tier, basis=basis, why=why, share=name)


def _ceiled(verdict: Verdict, policy: Policy, tiers: Sequence[Tier]) -> Aim:
    for tier, ceiling in policy.tier_ceilings.items():
        if verdict.complexity <= ceiling:
            fits = next((one for one in tiers if one >= tier), tiers[-1])
            return Aim(tier=fits, basis="ceiling", why=f"complexity {verdict.complexity:.2f} suits {fits.name}")
    return Aim(tier=tiers[-1], basis="ceiling", why=f"complexity {verdict.complexity:.2f} suits {tiers[-1].name}")


def _bounds(role: Role, tiers: Sequence[Tier]) -> tuple[Tier, Tier]:
    """The lowest and the highest tier that a role may use; those of the route nearest to what it asks for."""
    least = tiers[0] if role.tier_min is None else next((one for one in tiers if one >= role.tier_min), tiers[-1])
    most = (
        tiers[-1] if role.tier_max is None else next((one for one in reversed(tiers) if one <= role.tier_max), tiers[0])
    )
    return least, max(least, most)


def _bound(role: Role, tiers: Sequence[Tier]) -> Aim | None:
    """The aim where a role leaves one tier only; nothing is asked of it then, and no share is held with it."""
    least, most = _bounds(role, tiers)
    if least != most or len(tiers) == 1:
        return None
    most_of = most if role.tier_max is not None else None
    return Aim(tier=least, basis="role", why=f"bound by role {role.name} to {least.name}", most=most_of)


def _within(aim: Aim, role: Role, tiers: Sequence[Tier]) -> Aim:
    least, most = _bounds(role, tiers)
    tier = min(max(aim.tier, least), most)
    if tier == aim.tier and role.tier_max is None:
        return aim
    why = aim.why if tier == aim.tier else f"{aim.why}, bound by role {role.name}"
    most_of = most if role.tier_max is not None else None
    return Aim(tier=tier, basis=aim.basis, why=why, most=most_of, share=aim.share)
