"""The world: everything a request may look up, frozen, published as a whole and kept from its start to its end."""

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
from .session import LoopPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where budget notices are sent, and what they are signed with."""

    url: str = field(repr=False)
    secret: str | None = field(repr=False)


def _with_deployments(route: Route, deployments: Mapping[str, Deployment]) -> Route:
    return replace(
        route,
        candidates=tuple(deployments.get(one.name, one) for one in route.candidates),
        reference=deployments.get(route.reference.name, route.reference),
    )


def all_callers(snapshot: "Snapshot") -> list[Caller]:
    """Everybody who may call."""
    return [*snapshot.callers.values(), *([snapshot.anonymous_caller] if snapshot.anonymous_caller is not None else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One generation of the configuration. `generation` is a short hash that decisions and ledger entries carry.

    `queues`: some budget lets calls
    wait; `counts_users`: some budget has users in its scope. `changes_at` (seconds since the epoch) is when a price
    sheet of the configuration takes effect or ends: a new world is due then. `callers` maps sha256(secret) to who shows
    it; empty together with `open_caller` None means that nobody may call. `learnt` is what own traffic has taught, which
    changes without the file. `feeds` says where news of the grids come from.
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
        shadow = tuple(one for one in budgets if meets_shadow_calls(one.scope))
        object.__setattr__(self, "shadow_budgets", shadow)
        object.__setattr__(
            self, "has_queueing_budget", any(budget.thresholds.queue_above is not None for budget in budgets)
        )
        object.__setattr__(self, "has_user_budget", any("user" in budget.scope for budget in budgets))
        patterns = sorted((name for name in self.routes if name.endswith("*")), key=len, reverse=True)
        object.__setattr__(self, "route_patterns", tuple(patterns))

    def with_deployments(self, changed: Mapping[str, Deployment]) -> "Snapshot":
        """The same configuration with these deployments as they are known now: its generation stays."""
        if not changed:
            return self
        deployments = {name: changed.get(name, one) for name, one in self.deployments.items()}
        routes = {name: _with_deployments(route, deployments) for name, route in self.routes.items()}
        return replace(self, deployments=deployments, routes=routes)

    def with_current_deployments(self, route: Route) -> Route:
        """A route of an earlier world with its deployments as they are known in this one; it need not be one of the file's."""
        return _with_deployments(route, self.deployments)

    @property
    def cap_budgets(self) -> tuple[Budget, ...]:
        """Every budget that is a cap for some session, one of each name; without those that count sub-agents."""
        every = [
            budget
            for caps in (self.default_caps, *self.key_caps.values())
            for budget in (*caps.tree_budgets, *caps.session_budgets)
        ]
        return tuple({budget.name: budget for budget in reversed(every)}.values())

    def budgets_for_key(self, key: str) -> tuple[Budget, ...]:
        """The budgets that a key's calls meet: shadow calls only those of their own team, so that no caller is refused for
        what is learnt."""
        return self.shadow_budgets if key == SHADOW_KEY else self.budgets

    def caps_for_key(self, key: str) -> SessionCaps:
        """What the sessions of a key may take."""
        return self.key_caps.get(key, self.default_caps)

    def find_route(self, name: str) -> Route | None:
        """The route of that name, else the longest pattern (a name that ends in *) that fits."""
        found = self.routes.get(name)
        if found is None:
            for pattern in self.route_patterns:
                if name.startswith(pattern[:-1]):
                    return self.routes[pattern]
        return found
