"""Budget API: balances for callers and operators, and audited grants by operators."""

import asyncio
import math
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from ..accounting.budget_lines import applies, line_of
from ..values.budget import MEASURE_UNITS, Budget, BudgetLine, Grant
from ..values.errors import BadRequest, NotFound
from ..values.request import Caller
from ..values.snapshot import Snapshot

# Longest grace period; whatever is needed for longer belongs in the configured limit.
_GRACE_MINUTES_MAX = 7 * 24 * 60
_NOTE_CHARS_MAX, _GRANT_ID_CHARS_MAX = 500, 100
_MS_PER_SECOND = 1000


class BudgetBalances(Protocol):
    """Accounts of budgets; both methods may use a shared store and raise Overloaded.

    fresh: whether the grant was not in the audit before
    """

    async def balance(self, tenant: str, line: BudgetLine, *, now: float) -> tuple[int, int, int]: ...
    async def grant(self, tenant: str, line: BudgetLine, grant: Grant, *, fresh: bool) -> bool: ...


class GrantAudit(Protocol):
    """Records grants before they take effect; False for an id recorded before. Blocks."""

    def record_grant(self, *, id: str, at_ms: int, kind: str, line: BudgetLine, details: Mapping[str, Any]) -> bool: ...


class BudgetAdmin:
    """Answers queries about budgets and makes grants; independent of HTTP."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], accounts: BudgetBalances, audit: GrantAudit, now: Callable[[], float]
    ) -> None:
        self._snapshot = snapshot
        self._accounts = accounts
        self._audit = audit
        self._now = now

    async def budgets_of(self, caller: Caller, query: Mapping[str, str]) -> dict[str, Any]:
        """The budgets that apply to a key, with their balances.

        `data` has those that organization, team, key and `query` decide; `dependent` those that need more dimensions
        (user, session, task_type, route, deployment, model, tier, provider).
        """
        scope = {**query, "org": caller.org, "team": caller.team, "key": caller.key}
        described, dependent = [], []
        for budget in (*self._snapshot().budgets, *self._snapshot().caps_for_key(caller.key).all_budgets):
            open_dimensions = [dimension for dimension in budget.scope if dimension not in scope]
            if not all(value in ("*", scope.get(dimension, value)) for dimension, value in budget.scope.items()):
                continue
            if open_dimensions:
                dependent.append({"budget": budget.name, "depends_on": open_dimensions})
            else:
                described.append(await self._describe(budget, scope, caller.org))
        return {"object": "list", "key": caller.key, "team": caller.team, "data": described, "dependent": dependent}

    async def list_budgets(self) -> dict[str, Any]:
        """Every budget without a wildcard in its scope, with its balance."""
        described = []
        for budget in self._snapshot().budgets:
            if "*" not in budget.scope.values():
                tenant = tenant_of(self._snapshot(), budget.scope)
                described.append(await self._describe(budget, dict(budget.scope), tenant))
        return {"object": "list", "data": described}

    async def grant(self, name: str, body: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        """Raise the limit of one account of a budget.

        The body has `amount` in the budget's unit, `minutes` (default: the rest of the window), `scope`, `note`, `id`.
        Raises NotFound, BadRequest, Overloaded.
        """
        budget = self._find_budget(name, body.get("scope"))
        scope = _parse_scope(budget, body.get("scope"))
        amount, minutes = _parse_amount(budget, body), _parse_minutes(body.get("minutes"))
        note = _parse_text(body, "note", chars_max=_NOTE_CHARS_MAX)
        grant_id = _parse_text(body, "id", chars_max=_GRANT_ID_CHARS_MAX)
        now, tenant = self._now(), tenant_of(self._snapshot(), scope)
        line = line_of(budget, scope, now=now)
        grant = Grant(
            id=grant_id or secrets.token_hex(12),
            account=line.account,
            amount=amount,
            until=None if minutes is None else now + minutes * 60,
        )
        details = {
            "amount": amount, "unit": MEASURE_UNITS[budget.measure][0], "until": grant.until, "actor": actor, "note": note,
            "scope": scope, "tenant": tenant,
        }  # fmt: skip
        kind = "budget_top_up" if minutes is None else "budget_grace"
        fresh = await asyncio.to_thread(
            self._audit.record_grant,
            id=grant.id,
            at_ms=int(now * _MS_PER_SECOND),
            kind=kind,
            line=line,
            details=details,
        )
        # Sent to a shared store even if the audit has the id: the store may have been down at the first try.
        fresh = await self._accounts.grant(tenant, line, grant, fresh=fresh)
        return {**await self._describe(budget, scope, tenant), "grant": grant.id, "created": fresh}

    def _find_budget(self, name: str, scope: Any) -> Budget:
        """The budget or cap of that name. Raises NotFound."""
        snapshot, key = self._snapshot(), scope.get("key", "") if isinstance(scope, dict) else ""
        for budget in (*snapshot.budgets, *snapshot.caps_for_key(key).all_budgets):
            if budget.name == name:
                return budget
        raise NotFound(f"No such budget: '{name[:100]}'.", param="budget")

    async def _describe(self, budget: Budget, scope: Mapping[str, str], tenant: str) -> dict[str, Any]:
        now = self._now()
        line = line_of(budget, scope, now=now)
        spent, held, extra = await self._accounts.balance(tenant, line, now=now)
        unit, scale = MEASURE_UNITS[budget.measure]
        limit = line.ceiling + extra
        document: dict[str, Any] = {
            "budget": budget.name, "scope": {name: scope[name] for name in budget.scope}, "unit": unit,
            "window": budget.window.kind, "limit": limit / scale, "granted": extra / scale, "used": spent / scale,
            "held": held / scale, "remaining": max(0, limit - spent - held) / scale,
        }  # fmt: skip
        if line.resets_at is not None:
            document["resets_at"] = datetime.fromtimestamp(line.resets_at, UTC).isoformat().replace("+00:00", "Z")
        if line.bucket_seconds:
            document["window_seconds"] = budget.window.seconds
        if budget.contact:
            document["contact"] = budget.contact
        return document


def tenant_of(snapshot: Snapshot, scope: Mapping[str, str]) -> str:
    """The organization of these scope values; the first one configured where they name none."""
    callers = [
        *snapshot.callers.values(),
        *([snapshot.anonymous_caller] if snapshot.anonymous_caller is not None else []),
    ]
    if scope.get("org", "*") != "*":
        return scope["org"]
    for caller in callers:
        if caller.key == scope.get("key") or caller.team == scope.get("team"):
            return caller.org
    return callers[0].org if callers else "default"


def _parse_scope(budget: Budget, given: Any) -> dict[str, str]:
    """The scope values of one account. Raises BadRequest."""
    values = given if given is not None else {}
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise BadRequest('\'scope\' must be an object of strings, like {"key": "my-agent"}.', param="scope")
    scope = {name: values.get(name, value) for name, value in budget.scope.items()}
    missing = [name for name, value in scope.items() if value == "*"]
    if missing or not applies(budget, scope):
        required = ", ".join(missing or budget.scope)
        raise BadRequest(f"'scope' must select one account of '{budget.name}': {required}.", param="scope")
    return scope


def _parse_text(body: Mapping[str, Any], field: str, *, chars_max: int) -> str:
    text = body.get(field, "")
    if not isinstance(text, str) or len(text) > chars_max:
        raise BadRequest(f"'{field}' must be a string of at most {chars_max} characters.", param=field)
    return text


def _parse_amount(budget: Budget, body: Mapping[str, Any]) -> int:
    """The amount in the budget's integer unit. Raises BadRequest."""
    unit, scale = MEASURE_UNITS[budget.measure]
    value = body.get("amount")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadRequest(f"'amount' must be a number above 0, in {unit}.", param="amount")
    # Through the shortest decimal text, so that 0.1 is exactly a tenth.
    amount = int(Decimal(str(value)) * scale)
    if not 0 < amount <= 2**52:
        raise BadRequest(f"'amount' is out of range, in {unit}.", param="amount")
    return amount


def _parse_minutes(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _GRACE_MINUTES_MAX:
        raise BadRequest(f"'minutes' must be a whole number from 1 to {_GRACE_MINUTES_MAX}.", param="minutes")
    return value
