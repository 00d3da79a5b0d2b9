"""The budget desk: how accounts stand, for those they concern; and more for one of them, by an operator, audited."""

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

# A grace may last so long; what is needed for longer is another limit.
_GRACE_MINUTES_MAX = 7 * 24 * 60
_NOTE_CHARS_MAX = 500
_MS_PER_SECOND = 1000


class BudgetBalances(Protocol):
    """Where budgets' accounts are; both may ask a shared store and raise Overloaded. `fresh`: the audit did not know the
    grant."""

    async def balance(self, tenant: str, line: BudgetLine, *, now: float) -> tuple[int, int, int]: ...
    async def grant(self, tenant: str, line: BudgetLine, grant: Grant, *, fresh: bool) -> bool: ...


class GrantAudit(Protocol):
    """Where grants are written down before they are made; False for an id that is known. Blocks."""

    def record_grant(self, *, id: str, at_ms: int, kind: str, line: BudgetLine, details: Mapping[str, Any]) -> bool: ...


class BudgetAdmin:
    """Answers about budgets. Knows the world and the accounts, and nothing about HTTP."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], accounts: BudgetBalances, audit: GrantAudit, now: Callable[[], float]
    ) -> None:
        self._world = snapshot
        self._accounts = accounts
        self._audit = audit
        self._now = now

    async def budgets_of(self, caller: Caller, asked: Mapping[str, str]) -> dict[str, Any]:
        """The budgets that meet a key: those that its organisation, team and key decide, and those that also need what
        `asked` names (user, session, task_type, route, deployment, model, tier, provider)."""
        scope = {**asked, "org": caller.org, "team": caller.team, "key": caller.key}
        found, more = [], []
        for budget in (*self._world().budgets, *self._world().caps_for_key(caller.key).all_budgets):
            open_dimensions = [dimension for dimension in budget.scope if dimension not in scope]
            known = {dimension: value for dimension, value in scope.items() if dimension in budget.scope}
            if not all(want in ("*", known.get(name, want)) for name, want in budget.scope.items()):
                continue
            if open_dimensions:
                more.append({"budget": budget.name, "depends_on": open_dimensions})
            else:
                found.append(await self._describe(budget, scope, caller.org))
        return {"object": "list", "key": caller.key, "team": caller.team, "data": found, "dependent": more}

    async def list_budgets(self) -> dict[str, Any]:
        """Every budget whose accounts the configuration bounds."""
        found = []
        for budget in self._world().budgets:
            if "*" not in budget.scope.values():
                found.append(await self._describe(budget, dict(budget.scope), tenant_of(self._world(), budget.scope)))
        return {"object": "list", "data": found}

    async def grant(self, name: str, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        """Allow more on one account of a budget: `amount` in its unit, for `minutes` or for the rest of its window.
        Raises NotFound, BadRequest, Overloaded."""
        snapshot, given = self._world(), asked.get("scope")
        key = given.get("key", "") if isinstance(given, dict) else ""
        budget = next(
            (one for one in (*snapshot.budgets, *snapshot.caps_for_key(key).all_budgets) if one.name == name), None
        )
        if budget is None:
            raise NotFound(f"There is no budget '{name[:100]}'.", param="budget")
        scope = _parse_scope(budget, asked.get("scope"))
        amount, minutes, note = (
            _parse_amount(budget, asked),
            _parse_minutes(asked.get("minutes")),
            asked.get("note", ""),
        )
        if not isinstance(note, str) or len(note) > _NOTE_CHARS_MAX:
            raise BadRequest(f"'note' must be text of at most {_NOTE_CHARS_MAX} characters.", param="note")
        grant_id = asked.get("id", "")
        if not isinstance(grant_id, str) or len(grant_id) > 100:
            raise BadRequest("'id' must be text of at most 100 characters.", param="id")
        now, tenant = self._now(), tenant_of(self._world(), scope)
        line = line_of(budget, scope, now=now)
        grant = Grant(
            id=grant_id or secrets.token_hex(12),
            account=line.account,
            amount=amount,
            until=None if minutes is None else now + minutes * 60,
        )
        details = {
            "amount": amount, "unit": MEASURE_UNITS[budget.measure][0], "until": grant.until, "who": who, "note": note,
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
        # A shared store is asked even when the audit knows the id: it may not have taken it then.
        fresh = await self._accounts.grant(tenant, line, grant, fresh=fresh)
        return {**await self._describe(budget, scope, tenant), "grant": grant.id, "granted_now": fresh}

    async def _describe(self, budget: Budget, scope: Mapping[str, str], tenant: str) -> dict[str, Any]:
        now = self._now()
        line = line_of(budget, scope, now=now)
        spent, held, extra = await self._accounts.balance(tenant, line, now=now)
        unit, scale = MEASURE_UNITS[budget.measure]
        limit = line.ceiling + extra
        told: dict[str, Any] = {
            "budget": budget.name, "scope": {name: scope[name] for name in budget.scope}, "unit": unit,
            "window": budget.window.kind, "limit": limit / scale, "granted": extra / scale, "used": spent / scale,
            "held": held / scale, "remaining": max(0, limit - spent - held) / scale,
        }  # fmt: skip
        if line.resets_at is not None:
            told["resets_at"] = datetime.fromtimestamp(line.resets_at, UTC).isoformat().replace("+00:00", "Z")
        if line.bucket_seconds:
            told["window_seconds"] = budget.window.seconds
        if budget.contact:
            told["ask"] = budget.contact
        return told


def tenant_of(snapshot: Snapshot, scope: Mapping[str, str]) -> str:
    """The organisation that these scope values lie in; the only one where they name none."""
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


def _parse_scope(budget: Budget, asked: Any) -> dict[str, str]:
    """The scope values of one account. Raises BadRequest."""
    given = asked if asked is not None else {}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise BadRequest('\'scope\' must be an object of texts, like {"key": "my-agent"}.', param="scope")
    scope = {name: given.get(name, value) for name, value in budget.scope.items()}
    missing = [name for name, value in scope.items() if value == "*"]
    if missing or not applies(budget, scope):
        wanted = ", ".join(missing or budget.scope)
        raise BadRequest(f"'scope' must say which account of '{budget.name}' is meant: {wanted}.", param="scope")
    return scope


def _parse_amount(budget: Budget, asked: Mapping[str, Any]) -> int:
    """The amount in the budget's integer unit. Raises BadRequest."""
    unit, scale = MEASURE_UNITS[budget.measure]
    value = asked.get("amount")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadRequest(f"'amount' must be a number above 0, in {unit}.", param="amount")
    # The shortest text of a float is what was written: 0.1 is a tenth.
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
