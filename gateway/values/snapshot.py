"""The world: everything a request may look up, frozen, published as a whole and kept from its start to its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .budget import Budget, SessionCaps
from .catalog import Deployment, Policy, Route, TaskType
from .energy_policy import NO_GREEN, GreenPolicy
from .grid_feeds import NO_FEEDS, Feeds
from .quality import (
    NO_CASCADE,
    NO_LEARNING,
    NO_QUALITY,
    NOTHING_LEARNT,
    SHADOW,
    Cascade,
    Learning,
    Learnt,
    QualityPolicy,
    Role,
    bounds_shadows,
)
from .request import Caller
from .session import LoopPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where budget notices are sent, and what they are signed with."""

    url: str = field(repr=False)
    secret: str | None = field(repr=False)


def _with(route: Route, deployments: Mapping[str, Deployment]) -> Route:
    return replace(
        route,
        candidates=tuple(deployments.get(one.name, one) for one in route.candidates),
        reference=deployments.get(route.reference.name, route.reference),
    )


def callers_of(world: "World") -> list[Caller]:
    """Everybody who may call."""
    return [*world.callers.values(), *([world.open_caller] if world.open_caller is not None else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
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
    patterns: tuple[str, ...] = field(init=False)
    shadow_budgets: tuple[Budget, ...] = field(init=False)
    queues: bool = field(init=False)
    counts_users: bool = field(init=False)
    task_types: tuple[TaskType, ...]
    budgets: tuple[Budget, ...]
    caps: SessionCaps
    key_caps: Mapping[str, SessionCaps] = field(default_factory=dict)
    loops: LoopPolicy
    policy: Policy
    green: GreenPolicy = NO_GREEN
    feeds: Feeds = NO_FEEDS
    quality: QualityPolicy = NO_QUALITY
    classifier: str = "learned"
    cascade: Cascade = NO_CASCADE
    learning: Learning = NO_LEARNING
    roles: tuple[Role, ...] = ()
    learnt: Learnt = NOTHING_LEARNT
    callers: Mapping[bytes, Caller] = field(repr=False)
    open_caller: Caller | None
    session_headers: tuple[str, ...]
    session_fields: tuple[tuple[str, bool], ...] = ()
    agent_headers: tuple[str, ...] = ()
    parent_headers: tuple[str, ...] = ()
    root_headers: tuple[str, ...] = ()
    user_headers: tuple[str, ...] = ()
    webhook: Webhook | None = None
    changes_at: float | None = None

    def __post_init__(self) -> None:
        budgets = self.budgets
        shadow = tuple(one for one in budgets if bounds_shadows(one.scope))
        object.__setattr__(self, "shadow_budgets", shadow)
        object.__setattr__(self, "queues", any(budget.stages.queue is not None for budget in budgets))
        object.__setattr__(self, "counts_users", any("user" in budget.scope for budget in budgets))
        patterns = sorted((name for name in self.routes if name.endswith("*")), key=len, reverse=True)
        object.__setattr__(self, "patterns", tuple(patterns))

    def informed(self, changed: Mapping[str, Deployment]) -> "World":
        """The same configuration with these deployments as they are known now: its generation stays."""
        if not changed:
            return self
        deployments = {name: changed.get(name, one) for name, one in self.deployments.items()}
        routes = {name: _with(route, deployments) for name, route in self.routes.items()}
        return replace(self, deployments=deployments, routes=routes)

    def current(self, route: Route) -> Route:
        """A route of an earlier world with its deployments as they are known in this one; it need not be one of the file's."""
        return _with(route, self.deployments)

    @property
    def cap_budgets(self) -> tuple[Budget, ...]:
        """Every budget that is a cap for some session, one of each name; without those that count sub-agents."""
        every = [budget for caps in (self.caps, *self.key_caps.values()) for budget in (*caps.budgets, *caps.each)]
        return tuple({budget.name: budget for budget in reversed(every)}.values())

    def budgets_of(self, key: str) -> tuple[Budget, ...]:
        """The budgets that a key's calls meet: shadow calls only those of their own team, so that no caller is refused for
        what is learnt."""
        return self.shadow_budgets if key == SHADOW else self.budgets

    def caps_of(self, key: str) -> SessionCaps:
        """What the sessions of a key may take."""
        return self.key_caps.get(key, self.caps)

    def route(self, name: str) -> Route | None:
        """The route of that name, else the longest pattern (a name that ends in *) that fits."""
        found = self.routes.get(name)
        if found is None:
            for pattern in self.patterns:
                if name.startswith(pattern[:-1]):
                    return self.routes[pattern]
        return found
