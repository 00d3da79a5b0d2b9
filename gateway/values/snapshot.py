"""The Snapshot: everything that a request may look up, frozen, one generation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .budget import Budget, SessionCaps
from .catalog import Deployment, Route, RoutingPolicy, TaskType
from .energy_policy import NO_ENERGY_POLICY, EnergyPolicy
from .grid_feeds import NO_GRID_FEEDS, GridFeeds
from .quality import (
    NO_CASCADE,
    NO_LEARNED_FLOORS,
    NO_LEARNING,
    NO_QUALITY,
    SHADOW_KEY,
    Cascade,
    LearnedFloors,
    Learning,
    QualityPolicy,
    Role,
    meets_shadow_calls,
)
from .request import Caller
from .service_tiers import NO_TIER_POLICY, TierPolicy
from .session import LoopPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where budget notices are sent.

    secret: signs them; None: unsigned
    """

    url: str = field(repr=False)
    secret: str | None = field(repr=False)


def _with_deployments(route: Route, deployments: Mapping[str, Deployment]) -> Route:
    return replace(
        route,
        candidates=tuple(deployments.get(candidate.name, candidate) for candidate in route.candidates),
        reference=deployments.get(route.reference.name, route.reference),
    )


def all_callers(snapshot: "Snapshot") -> list[Caller]:
    """Everyone who may call."""
    return [*snapshot.callers.values(), *([snapshot.anonymous_caller] if snapshot.anonymous_caller is not None else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One generation of configuration, prices, intensities and rules.

    Published as a whole; a request keeps the one that it began with.

    generation: short hash of the configuration, carried by decisions and ledger entries
    route_patterns: names of routes that end in *, the longest first
    shadow_budgets: budgets that apply to shadow calls
    has_queueing_budget: some budget lets calls wait
    has_user_budget: some budget has users in its scope
    default_caps, key_caps: session caps, by key where set
    key_tier_policies: what keys are allowed of service tiers, where set
    learned_floors: learned from own traffic; changes without the file
    grid_feeds: where carbon intensities are read
    callers: sha256(secret) -> caller. Empty together with `anonymous_caller` None: nothing may be called
    session_headers, agent_headers, parent_headers, root_headers, user_headers: names that are read, first match wins
    session_fields: (field of the body that may name a session, whether only a UUID counts)
    next_price_change_at: when a configured price sheet begins or ends and a new snapshot is due, seconds since the
        epoch
    """

    generation: str
    deployments: Mapping[str, Deployment]
    routes: Mapping[str, Route]
    route_patterns: tuple[str, ...] = field(init=False)
    shadow_budgets: tuple[Budget, ...] = field(init=False)
    has_queueing_budget: bool = field(init=False)
    has_user_budget: bool = field(init=False)
    task_types: tuple[TaskType, ...]
    budgets: tuple[Budget, ...]
    default_caps: SessionCaps
    key_caps: Mapping[str, SessionCaps] = field(default_factory=dict)
    key_tier_policies: Mapping[str, TierPolicy] = field(default_factory=dict)
    loop_policy: LoopPolicy
    routing_policy: RoutingPolicy
    energy_policy: EnergyPolicy = NO_ENERGY_POLICY
    grid_feeds: GridFeeds = NO_GRID_FEEDS
    quality_policy: QualityPolicy = NO_QUALITY
    classifier: str = "learned"
    cascade: Cascade = NO_CASCADE
    learning: Learning = NO_LEARNING
    roles: tuple[Role, ...] = ()
    learned_floors: LearnedFloors = NO_LEARNED_FLOORS
    callers: Mapping[bytes, Caller] = field(repr=False)
    anonymous_caller: Caller | None
    session_headers: tuple[str, ...]
    session_fields: tuple[tuple[str, bool], ...] = ()
    agent_headers: tuple[str, ...] = ()
    parent_headers: tuple[str, ...] = ()
    root_headers: tuple[str, ...] = ()
    user_headers: tuple[str, ...] = ()
    webhook: Webhook | None = None
    next_price_change_at: float | None = None

    def __post_init__(self) -> None:
        budgets = self.budgets
        shadow = tuple(budget for budget in budgets if meets_shadow_calls(budget.scope))
        object.__setattr__(self, "shadow_budgets", shadow)
        object.__setattr__(
            self, "has_queueing_budget", any(budget.thresholds.queue_above is not None for budget in budgets)
        )
        object.__setattr__(self, "has_user_budget", any("user" in budget.scope for budget in budgets))
        patterns = sorted((name for name in self.routes if name.endswith("*")), key=len, reverse=True)
        object.__setattr__(self, "route_patterns", tuple(patterns))

    def with_deployments(self, changed: Mapping[str, Deployment]) -> "Snapshot":
        """The same generation with these deployments replaced."""
        if not changed:
            return self
        deployments = {name: changed.get(name, deployment) for name, deployment in self.deployments.items()}
        routes = {name: _with_deployments(route, deployments) for name, route in self.routes.items()}
        return replace(self, deployments=deployments, routes=routes)

    def with_current_deployments(self, route: Route) -> Route:
        """A route of an earlier snapshot with this one's deployments.

        It need not be one of the configured routes.
        """
        return _with_deployments(route, self.deployments)

    @property
    def cap_budgets(self) -> tuple[Budget, ...]:
        """Every budget that caps some session, one per name; without sub-agent counts."""
        caps_budgets = [
            budget
            for caps in (self.default_caps, *self.key_caps.values())
            for budget in (*caps.tree_budgets, *caps.session_budgets)
        ]
        return tuple({budget.name: budget for budget in reversed(caps_budgets)}.values())

    def budgets_for_key(self, key: str) -> tuple[Budget, ...]:
        """The budgets that apply to a key's calls.

        Shadow calls only meet those of their own team, so that learning never causes a refusal of a caller.
        """
        return self.shadow_budgets if key == SHADOW_KEY else self.budgets

    def caps_for_key(self, key: str) -> SessionCaps:
        """The caps of a key's sessions."""
        return self.key_caps.get(key, self.default_caps)

    def tier_policies(self, route: Route, key: str) -> tuple[TierPolicy, ...]:
        """What the route and the key allow of service tiers and regions."""
        return route.tier_policy, self.key_tier_policies.get(key, NO_TIER_POLICY)

    def find_route(self, name: str) -> Route | None:
        """The route of that name, else the longest matching pattern (a name with *)."""
        route = self.routes.get(name)
        if route is None:
            for pattern in self.route_patterns:
                if name.startswith(pattern[:-1]):
                    return self.routes[pattern]
        return route
