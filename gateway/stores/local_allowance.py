"""Pots: the share of a budget that a replica keeps aside for the time when the shared store does not answer.

A pot is an ordinary reservation at the store, renewed before its lease ends. While the store is down calls are held
against it in a book of this process; a pot whose lease may have run out is worth nothing, for the store has charged it
by then. A book; only budgets with `fail: local` have pots.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import structs

from ..accounting.budgets import BudgetAccounts
from ..values.base import Value
from ..values.budget import Amounts, BudgetLine, HoldOption, Reservation

# Of the limit, for each replica: twenty replicas may set a whole budget aside.
ALLOWANCE_PERCENT = 5
# How long a pot is good for, and when it is renewed; the margin covers clocks that do not run alike.
LEASE_SECONDS = 120.0
_RENEW_SECONDS, _MARGIN_SECONDS = 60.0, 10.0
# Accounts that nobody asked for lately give their pot back.
_IDLE_SECONDS = 600.0
_ALLOWANCES_MAX = 1_000


class AllowanceRequest(Value, frozen=True, kw_only=True):
    """A pot to be asked for."""

    id: str
    tenant: str
    line: BudgetLine
    offer: HoldOption
    lease: float

    def offers_at(self, now: float) -> list[HoldOption]:
        """The same at any time: an account that has ended meanwhile gets no pot."""
        return [self.offer]


class _Allowance(msgspec.Struct, gc=False):
    tenant: str
    line: BudgetLine
    last_used_at: float
    id: str = ""
    amount: int = 0
    taken_at: float = 0.0
    # What was held against this pot, under an account of its own: each pot begins anew.
    generation: int = 0


class LocalAllowances:
    """The pots of this replica."""

    def __init__(self) -> None:
        self._allowances: dict[tuple[str, str], _Allowance] = {}
        self._book = BudgetAccounts()
        self._request_count = 0
        self._last_now = 0.0

    def mark_used(self, tenant: str, lines: Iterable[BudgetLine]) -> None:
        """These accounts are in use."""
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
        """Of a tenant: what is to be given back, as (tenant, id), and what is to be asked for. `server` is the time by
        which windows end."""
        self._last_now = now
        for place, allowance in list(self._allowances.items()):
            if allowance.tenant != tenant:
                continue
            # Seen before the first look: as of now.
            allowance.last_used_at = allowance.last_used_at or now
            over = allowance.line.keep_until <= server or now - allowance.last_used_at > _IDLE_SECONDS
            if not over and allowance.id and now - allowance.taken_at < _RENEW_SECONDS:
                continue
            if allowance.id and self._in_use(allowance):
                # Calls are still held against it.
                continue
            old = (allowance.tenant, allowance.id) if allowance.id else None
            allowance.id, allowance.amount = "", 0
            if over:
                del self._allowances[place]
                if old is not None:
                    yield old, None
                continue
            self._request_count += 1
            amount = allowance.line.ceiling * ALLOWANCE_PERCENT // 100
            offer = HoldOption(lines=(allowance.line,), amounts=(amount,), ceilings=(allowance.line.ceiling,))
            yield (
                old,
                AllowanceRequest(
                    id=f"pot-{replica}-{now:.0f}-{self._request_count}",
                    tenant=allowance.tenant,
                    line=allowance.line,
                    offer=offer,
                    lease=LEASE_SECONDS,
                ),
            )

    def record_renewal(self, fresh: AllowanceRequest, *, taken: bool, now: float) -> None:
        """What became of a pot that was asked for; `now` is before it was asked."""
        allowance = self._allowances.get((fresh.tenant, fresh.line.account))
        if allowance is not None:
            allowance.taken_at = now
            allowance.generation += 1
            allowance.id, allowance.amount = (fresh.id, fresh.offer.amounts[0] or 0) if taken else ("", 0)

    def reserve(self, reservation_id: str, tenant: str, offer: HoldOption, *, now: float, lease: float) -> bool:
        """Hold an offer against the pots of its local lines; False where one is too small or too old."""
        lines, wanted = [], []
        for line, amount in zip(offer.lines, offer.amounts, strict=True):
            if line.budget.store_failure_mode != "local" or line.budget.is_shadow:
                continue
            allowance = self._allowances.get((tenant, line.account))
            if allowance is None or not allowance.id or now > allowance.taken_at + LEASE_SECONDS - _MARGIN_SECONDS:
                return False
            lines.append(structs.replace(line, account=_allowance_account(allowance), ceiling=allowance.amount))
            wanted.append(amount)
        local = HoldOption(lines=tuple(lines), amounts=tuple(wanted), ceilings=tuple([line.ceiling for line in lines]))
        return isinstance(self._book.reserve(reservation_id, [local], now=now, lease=lease), Reservation)

    def _in_use(self, allowance: _Allowance) -> bool:
        line = structs.replace(allowance.line, account=_allowance_account(allowance))
        return self._book.balance(line, now=self._last_now)[1] > 0

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> None:
        """What a call that was held against pots took."""
        self._book.settle(reservation_id, spent, now=now)

    def release_all(self) -> Sequence[tuple[str, str]]:
        """Every pot, as (tenant, id): this replica stops."""
        held = [(allowance.tenant, allowance.id) for allowance in self._allowances.values() if allowance.id]
        self._allowances.clear()
        return held


def _allowance_account(allowance: _Allowance) -> str:
    return f"{allowance.tenant}|{allowance.line.account}|{allowance.generation}"
