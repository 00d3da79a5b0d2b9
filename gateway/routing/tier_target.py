"""Tier target: the lowest tier that suffices for a request, and its basis.

In order: a role that allows one tier only; a requested share; a quality floor that labels support and that has not
drifted; the floor's fallback; the configured ceilings. A role's bounds apply to the result. State: shares and drift.
"""

from collections.abc import Sequence

from ..values.base import Value
from ..values.catalog import Route, RoutingPolicy, Tier
from ..values.plan import Classification
from ..values.quality import FittedFloor, LabelGroup, LearnedFloors, QualityTarget, Role
from ..values.snapshot import Snapshot
from .drift import DriftDetector
from .share_controller import ShareController

# What a tier target was decided by.
BASES = ("ceiling", "floor", "fallback", "share", "role")


class TierTarget(Value, frozen=True, kw_only=True):
    """The target of one request.

    tier: lowest tier that suffices
    basis: one of BASES
    reason: why, for operators
    tier_max: highest tier that may be used, None for any
    share_name: share that the request was counted on, "" for none
    """

    tier: Tier
    basis: str
    reason: str
    tier_max: Tier | None = None
    share_name: str = ""


def group_of(org: str, task_type: str, route: Route) -> LabelGroup:
    """The label group of a route's requests of a task type."""
    return org, task_type, *route.model_pair


class TierTargets:
    """Chooses tier targets; keeps the state of shares and drift."""

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
        first_in_session: bool = True,
        now: float = 0.0,
    ) -> TierTarget:
        """The target of one request of an auto route; counts it where a share is held.

        first_in_session: whether it is its session's first request
        now: seconds since the epoch
        """
        quality = snapshot.quality_policy.for_task_type(classification.task_type)
        tiers = route.tiers
        role_target = _role_target(role, tiers) if role is not None else None
        if role_target is not None:
            target = role_target
        elif quality.frontier_share is not None:
            target = self._by_share(
                f"{org}/{route.name}/{classification.task_type}", quality.frontier_share, classification, tiers, "share"
            )
        elif quality.keep is not None:
            target = self._by_quality_floor(
                route, classification, org, quality, snapshot.learned_floors, tiers, first_in_session, now
            )
        else:
            target = _by_ceiling(classification, snapshot.routing_policy, tiers)
        group = (classification.task_type, target.basis)
        self.counts_by_basis[group] = self.counts_by_basis.get(group, 0) + 1
        if role is None or role_target is not None:
            return target
        clamped = _clamp_to_role(target, role, tiers)
        if target.share_name and (target.tier == tiers[-1]) != (clamped.tier == tiers[-1]):
            self._share_controller.correct(target.share_name, frontier=clamped.tier == tiers[-1])
        return clamped

    def record_served(self, target: TierTarget, tier: Tier, top: Tier) -> None:
        """Record the tier that served a request, so that shares stay correct.

        Cost, budgets, deadlines and failures move requests off their target. `top` is the route's highest tier.
        """
        if target.share_name and (target.tier >= top) != (tier >= top):
            self._share_controller.correct(target.share_name, frontier=tier >= top)

    def trusts_floor(self, group: LabelGroup, fitted: FittedFloor | None, quality: QualityTarget) -> bool:
        """Whether the fitted floor supports the requested one and has not drifted."""
        return (
            fitted is not None
            and fitted.ceiling is not None
            and quality.keep is not None
            and fitted.keep >= quality.keep
            and fitted.confidence >= quality.confidence
            and not self.drift.reason(group)
        )

    def _by_quality_floor(
        self,
        route: Route,
        classification: Classification,
        org: str,
        quality: QualityTarget,
        learned: LearnedFloors,
        tiers: Sequence[Tier],
        opens: bool,
        now: float,
    ) -> TierTarget:
        """By the lowest tier's floor, valid only for the scorer it was fitted with."""
        group = group_of(org, classification.task_type, route)
        same_scorer = classification.scorer and classification.scorer == learned.scorer
        fitted = learned.floors.get(group) if same_scorer else None
        if fitted is not None and fitted.ceiling is not None and self.trusts_floor(group, fitted, quality):
            if opens:
                self.drift.record_score(group, classification.uncorrected_complexity, now=now)
            if classification.complexity <= fitted.ceiling:
                reason = (
                    f"complexity {classification.complexity:.2f} within quality floor {fitted.ceiling:.2f} "
                    f"of {tiers[0].name} ({fitted.labels} labels)"
                )
                return TierTarget(tier=tiers[0], basis="floor", reason=reason)
            return TierTarget(
                tier=tiers[-1], basis="floor", reason=f"complexity {classification.complexity:.2f} above quality floor"
            )
        if quality.fallback_share is not None:
            name = f"{org}/{route.name}/{classification.task_type}"
            return self._by_share(name, quality.fallback_share, classification, tiers, "fallback")
        return TierTarget(
            tier=tiers[-1], basis="fallback", reason=f"no trusted quality floor for keep {quality.keep:g}"
        )

    def _by_share(
        self, name: str, share: float, classification: Classification, tiers: Sequence[Tier], basis: str
    ) -> TierTarget:
        high = self._share_controller.wants_frontier(name, classification.complexity, share)
        tier = tiers[-1] if high else tiers[0]
        reason = f"complexity {classification.complexity:.2f}, {tiers[-1].name} share {share:.0%}"
        return TierTarget(tier=tier, basis=basis, reason=reason, share_name=name)


def _by_ceiling(classification: Classification, policy: RoutingPolicy, tiers: Sequence[Tier]) -> TierTarget:
    for tier, ceiling in policy.tier_ceilings.items():
        if classification.complexity <= ceiling:
            lowest = next((candidate for candidate in tiers if candidate >= tier), tiers[-1])
            return TierTarget(
                tier=lowest, basis="ceiling", reason=f"complexity {classification.complexity:.2f} suits {lowest.name}"
            )
    return TierTarget(
        tier=tiers[-1], basis="ceiling", reason=f"complexity {classification.complexity:.2f} suits {tiers[-1].name}"
    )


def _role_tier_bounds(role: Role, tiers: Sequence[Tier]) -> tuple[Tier, Tier]:
    """(lowest, highest) tier of the route that a role may use."""
    least = tiers[0] if role.tier_min is None else next((tier for tier in tiers if tier >= role.tier_min), tiers[-1])
    most = (
        tiers[-1]
        if role.tier_max is None
        else next((tier for tier in reversed(tiers) if tier <= role.tier_max), tiers[0])
    )
    return least, max(least, most)


def _role_target(role: Role, tiers: Sequence[Tier]) -> TierTarget | None:
    """The target of a role with one tier only, else None; it counts on no share."""
    least, most = _role_tier_bounds(role, tiers)
    if least != most or len(tiers) == 1:
        return None
    tier_max = most if role.tier_max is not None else None
    return TierTarget(tier=least, basis="role", reason=f"bound by role {role.name} to {least.name}", tier_max=tier_max)


def _clamp_to_role(target: TierTarget, role: Role, tiers: Sequence[Tier]) -> TierTarget:
    least, most = _role_tier_bounds(role, tiers)
    tier = min(max(target.tier, least), most)
    if tier == target.tier and role.tier_max is None:
        return target
    reason = target.reason if tier == target.tier else f"{target.reason}, bound by role {role.name}"
    tier_max = most if role.tier_max is not None else None
    return TierTarget(tier=tier, basis=target.basis, reason=reason, tier_max=tier_max, share_name=target.share_name)
