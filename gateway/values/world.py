"""The world: everything a request may look up, frozen, published as a whole and kept from its start to its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .catalog import Budget, Deployment, LoopLimits, Policy, Route, SessionCaps, TaskType
from .request import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One generation of the configuration. `generation` is a short hash that decisions and ledger entries carry.

    `callers` maps sha256(secret) to who shows it; empty together with `open_caller` None means that nobody may call.
    """

    generation: str
    deployments: Mapping[str, Deployment]
    routes: Mapping[str, Route]
    task_types: tuple[TaskType, ...]
    budgets: tuple[Budget, ...]
    caps: SessionCaps
    loops: LoopLimits
    policy: Policy
    callers: Mapping[bytes, Caller] = field(repr=False)
    open_caller: Caller | None
    session_headers: tuple[str, ...]
