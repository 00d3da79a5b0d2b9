"""Budget shares reserved for outages of the budget store. State machine.

An allowance is an ordinary reservation at the store, renewed before its lease ends. While the store is down, calls are
held against it in this process. An allowance whose lease may have expired is void, because the store has charged it by
then. Only budgets with `on_store_failure: local` have allowances.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import structs

from ..accounting.budgets import BudgetAccounts
from ..values.base import Value
from ..values.budget import Amounts, BudgetLine, HoldOption, Reservation

# Percent of the limit for each replica: twenty replicas may reserve a whole budget.
ALLOWANCE_PERCENT = 5
# Lease of an allowance, and age at which it is renewed; the margin covers differing clocks.
LEASE_SECONDS = 120.0
_RENEW_SECONDS, _MARGIN_SECONDS = 60.0, 10.0
# Accounts idle for this long release their allowance.
_IDLE_SECONDS = 600.0
_ALLOWANCES_MAX = 1_000


class AllowanceRequest(Value, frozen=True, kw_only=True):
    """An allowance to reserve at the store."""

    id: str
    tenant: str
    line: BudgetLine
    offer: HoldOption
    lease: float

    def offers_at(self, now: float) -> list[HoldOption]:
        """The same offer at any time: an ended account gets no allowance."""
        return [self.offer]


class _Allowance(msgspec.Struct, gc=False):
    tenant: str
    line: BudgetLine
    last_used_at: float
    id: str = ""
    amount: int = 0
    taken_at: float = 0.0
    # Numbers the local account that holds against this allowance use; each allowance has its own.
    generation: int = 0


class LocalAllowances:
    """The allowances of this replica."""

    def __init__(self) -> None:
        self._allowances: dict[tuple[str, str], _Allowance] = {}
        self._accounts = BudgetAccounts()
        self._request_count = 0
        self._last_now = 0.0

    def mark_used(self, tenant: str, lines: Iterable[BudgetLine]) -> None:
        """Mark the lines' accounts as in use."""
        for line in lines:
            if line.budget.store_failure_mode == "local":
                allowance = self._allowances.get((tenant, line.account))
                if allowance is not None:
                    allowance.last_used_at = self._last_now
                elif len(self._allowances) < _ALLOWANCES_MAX:
                    self._allowances[(tenant, line.account)] = _Allowance(tenant, line, self._last_now)

    def plan_renewals(
        self, tenant: str, replica: str, *, now: float, server: float
    ) -> Iterator[tuple[tuple[str, str] | None, AllowanceRequest | None]]:
        """(allowance to release, allowance to reserve) for each that is due.

        The former is (tenant, id).

        `server`: time by the store's clock, which determines windows.
        """
        self._last_now = now
        for account_key, allowance in list(self._allowances.items()):
            if allowance.tenant != tenant:
                continue
            # Marked before the first call here, so without a time.
            allowance.last_used_at = allowance.last_used_at or now
            is_over = allowance.line.keep_until <= server or now - allowance.last_used_at > _IDLE_SECONDS
            if not is_over and allowance.id and now - allowance.taken_at < _RENEW_SECONDS:
                continue
            if allowance.id and self._in_use(allowance):
                # Calls still hold against it.
                continue
            released = (allowance.tenant, allowance.id) if allowance.id else None
            allowance.id, allowance.amount = "", 0
            if is_over:
                del self._allowances[account_key]
                if released is not None:
                    yield released, None
                continue
            self._request_count += 1
            amount = allowance.line.ceiling * ALLOWANCE_PERCENT // 100
            offer = HoldOption(lines=(allowance.line,), amounts=(amount,), ceilings=(allowance.line.ceiling,))
            yield (
                released,
                AllowanceRequest(
                    id=f"pot-{replica}-{now:.0f}-{self._request_count}",
                    tenant=allowance.tenant,
                    line=allowance.line,
                    offer=offer,
                    lease=LEASE_SECONDS,
                ),
            )

    def record_renewal(self, fresh: AllowanceRequest, *, is_reserved: bool, now: float) -> None:
        """Record whether an allowance was reserved; `now` is from before the request."""
        allowance = self._allowances.get((fresh.tenant, fresh.line.account))
        if allowance is not None:
            allowance.taken_at = now
            allowance.generation += 1
            allowance.id, allowance.amount = (fresh.id, fresh.offer.amounts[0] or 0) if is_reserved else ("", 0)

    def reserve(self, reservation_id: str, tenant: str, offer: HoldOption, *, now: float, lease: float) -> bool:
        """Hold an offer against local allowances; False if one is small or expired."""
        lines, amounts = [], []
        for line, amount in zip(offer.lines, offer.amounts, strict=True):
            if line.budget.store_failure_mode != "local" or line.budget.is_shadow:
                continue
            allowance = self._allowances.get((tenant, line.account))
            if allowance is None or not allowance.id or now > allowance.taken_at + LEASE_SECONDS - _MARGIN_SECONDS:
                return False
            lines.append(structs.replace(line, account=_allowance_account(allowance), ceiling=allowance.amount))
            amounts.append(amount)
        local = HoldOption(lines=tuple(lines), amounts=tuple(amounts), ceilings=tuple([line.ceiling for line in lines]))
        return isinstance(self._accounts.reserve(reservation_id, [local], now=now, lease=lease), Reservation)

    def _in_use(self, allowance: _Allowance) -> bool:
        line = structs.replace(allowance.line, account=_allowance_account(allowance))
        return self._accounts.balance(line, now=self._last_now)[1] > 0

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> None:
        """Settle a call that was held against allowances."""
        self._accounts.settle(reservation_id, spent, now=now)

    def release_all(self) -> Sequence[tuple[str, str]]:
        """Remove every allowance at shutdown; returns them as (tenant, id)."""
        held = [(allowance.tenant, allowance.id) for allowance in self._allowances.values() if allowance.id]
        self._allowances.clear()
        return held


def _allowance_account(allowance: _Allowance) -> str:
    return f"{allowance.tenant}|{allowance.line.account}|{allowance.generation}"
