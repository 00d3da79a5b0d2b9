"""The lowest tier that will do for a request, and on what grounds. A book, because shares and drift have a memory.

In order: a role that leaves one tier only; a share that is to be held; a quality floor, where labels carry it and nothing
has drifted since; the fallback that the floor states; the ceilings of the file. A role's bounds hold whatever comes of that.
"""

from collections.abc import Sequence

from ..values.base import Value
from ..values.catalog import Route, RoutingPolicy, Tier
from ..values.plan import Classification
from ..values.quality import FittedFloor, LabelGroup, LearnedFloors, QualityTarget, Role
from ..values.snapshot import Snapshot
from .drift import DriftDetector
from .share_controller import ShareController

# On what grounds a tier was aimed at.
BASES = ("ceiling", "floor", "fallback", "share", "role")


class TierTarget(Value, frozen=True, kw_only=True):
    """Tiers below `tier` will not do; those above `most` are not to be used (None: any). `basis` is one of BASES; `share`
    names the share that it was booked on, "" for none."""

    tier: Tier
    basis: str
    reason: str
    tier_max: Tier | None = None
    share_name: str = ""


def group_of(org: str, task_type: str, route: Route) -> LabelGroup:
    """The group that a route's requests of a kind belong to."""
    return org, task_type, *route.model_pair


class TierTargets:
    """Decides the aims of one process; knows how shares stand and what is still trusted."""

    def __init__(self) -> None:
        self.drift = DriftDetector()
        self._share_controller = ShareController()
        self.counts_by_basis: dict[tuple[str, str], int] = {}

    def choose(
        self,
        route: Route,
        classification: Classification,
        org: str,
        snapshot: Snapshot,
        role: Role | None = None,
        *,
        opens: bool = True,
        now: float = 0.0,
    ) -> TierTarget:
        """The aim of one request of an auto route; books it where a share is held. `opens`: it is its session's first;
        `now` in seconds since the epoch."""
        asked = snapshot.quality_policy.for_task_type(classification.task_type)
        tiers = route.tiers
        bound = _role_target(role, tiers) if role is not None else None
        if bound is not None:
            found = bound
        elif asked.frontier_share is not None:
            found = self._by_share(
                f"{org}/{route.name}/{classification.task_type}", asked.frontier_share, classification, tiers, "share"
            )
        elif asked.keep is not None:
            found = self._by_quality_floor(
                route, classification, org, asked, snapshot.learned_floors, tiers, opens, now
            )
        else:
            found = _by_ceiling(classification, snapshot.routing_policy, tiers)
        counted = (classification.task_type, found.basis)
        self.counts_by_basis[counted] = self.counts_by_basis.get(counted, 0) + 1
        if role is None or bound is not None:
            return found
        within = _clamp_to_role(found, role, tiers)
        if found.share_name and (found.tier == tiers[-1]) != (within.tier == tiers[-1]):
            self._share_controller.correct(found.share_name, frontier=within.tier == tiers[-1])
        return within

    def record_served(self, target: TierTarget, tier: Tier, top: Tier) -> None:
        """Where a request went in the end: what economics, a budget, a deadline or a failure gave to or took from a share
        is made good by later requests."""
        if target.share_name and (target.tier >= top) != (tier >= top):
            self._share_controller.correct(target.share_name, frontier=tier >= top)

    def trusts_floor(self, group: LabelGroup, fitted: FittedFloor | None, asked: QualityTarget) -> bool:
        """Whether what was fitted carries what is asked, and nothing has drifted since."""
        return (
            fitted is not None
            and fitted.ceiling is not None
            and asked.keep is not None
            and fitted.keep >= asked.keep
            and fitted.confidence >= asked.confidence
            and not self.drift.reason(group)
        )

    def _by_quality_floor(
        self,
        route: Route,
        classification: Classification,
        org: str,
        asked: QualityTarget,
        learnt: LearnedFloors,
        tiers: Sequence[Tier],
        opens: bool,
        now: float,
    ) -> TierTarget:
        """By the floor of the lowest tier. It is about the scores of the scorer that it was fitted with."""
        group = group_of(org, classification.task_type, route)
        fitted = learnt.floors.get(group) if classification.scorer and classification.scorer == learnt.scorer else None
        if fitted is not None and fitted.ceiling is not None and self.trusts_floor(group, fitted, asked):
            if opens:
                self.drift.record_score(group, classification.uncorrected_complexity, now=now)
            if classification.complexity <= fitted.ceiling:
                why = f"complexity {classification.complexity:.2f} within {tiers[0].name}'s floor {fitted.ceiling:.2f} ({fitted.labels} labels)"
                return TierTarget(tier=tiers[0], basis="floor", reason=why)
            return TierTarget(
                tier=tiers[-1], basis="floor", reason=f"complexity {classification.complexity:.2f} above the floor"
            )
        if asked.fallback_share is not None:
            name = f"{org}/{route.name}/{classification.task_type}"
            return self._by_share(name, asked.fallback_share, classification, tiers, "fallback")
        return TierTarget(tier=tiers[-1], basis="fallback", reason=f"the labels do not carry keep {asked.keep:g}")

    def _by_share(
        self, name: str, share: float, classification: Classification, tiers: Sequence[Tier], basis: str
    ) -> TierTarget:
        high = self._share_controller.wants_frontier(name, classification.complexity, share)
        tier = tiers[-1] if high else tiers[0]
        why = f"complexity {classification.complexity:.2f}, {share:.0%} go to {tiers[-1].name}"
        return TierTarget(tier=tier, basis=basis, reason=why, share_name=name)


def _by_ceiling(classification: Classification, policy: RoutingPolicy, tiers: Sequence[Tier]) -> TierTarget:
    for tier, ceiling in policy.tier_ceilings.items():
        if classification.complexity <= ceiling:
            fits = next((one for one in tiers if one >= tier), tiers[-1])
            return TierTarget(
                tier=fits, basis="ceiling", reason=f"complexity {classification.complexity:.2f} suits {fits.name}"
            )
    return TierTarget(
        tier=tiers[-1], basis="ceiling", reason=f"complexity {classification.complexity:.2f} suits {tiers[-1].name}"
    )


def _role_tier_bounds(role: Role, tiers: Sequence[Tier]) -> tuple[Tier, Tier]:
    """The lowest and the highest tier that a role may use; those of the route nearest to what it asks for."""
    least = tiers[0] if role.tier_min is None else next((one for one in tiers if one >= role.tier_min), tiers[-1])
    most = (
        tiers[-1] if role.tier_max is None else next((one for one in reversed(tiers) if one <= role.tier_max), tiers[0])
    )
    return least, max(least, most)


def _role_target(role: Role, tiers: Sequence[Tier]) -> TierTarget | None:
    """The aim where a role leaves one tier only; nothing is asked of it then, and no share is held with it."""
    least, most = _role_tier_bounds(role, tiers)
    if least != most or len(tiers) == 1:
        return None
    most_of = most if role.tier_max is not None else None
    return TierTarget(tier=least, basis="role", reason=f"bound by role {role.name} to {least.name}", tier_max=most_of)


def _clamp_to_role(target: TierTarget, role: Role, tiers: Sequence[Tier]) -> TierTarget:
    least, most = _role_tier_bounds(role, tiers)
    tier = min(max(target.tier, least), most)
    if tier == target.tier and role.tier_max is None:
        return target
    why = target.reason if tier == target.tier else f"{target.reason}, bound by role {role.name}"
    most_of = most if role.tier_max is not None else None
    return TierTarget(tier=tier, basis=target.basis, reason=why, tier_max=most_of, share_name=target.share_name)
