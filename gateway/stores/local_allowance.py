"""Pots: the share of a budget that a replica keeps aside for the time when the shared store does not answer.

A pot is an ordinary reservation at the store, renewed before its lease ends. While the store is down calls are held
against it in a book of this process; a pot whose lease may have run out is worth nothing, for the store has charged it
by then. A book; only budgets with `fail: local` have pots.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import structs

from ..accounting.budgets import BudgetBook
from ..values.base import Value
from ..values.budget import Amounts, Line, Offer, Reservation

# Of the limit, for each replica: twenty replicas may set a whole budget aside.
SHARE_PERCENT = 5
# How long a pot is good for, and when it is renewed; the margin covers clocks that do not run alike.
LEASE_SECONDS = 120.0
_RENEW_SECONDS, _MARGIN_SECONDS = 60.0, 10.0
# Accounts that nobody asked for lately give their pot back.
_IDLE_SECONDS = 600.0
_POTS_MAX = 1_000


class Fresh(Value, frozen=True, kw_only=True):
    """A pot to be asked for."""

    id: str
    tenant: str
    line: Line
    offer: Offer
    lease: float

    def offers_at(self, now: float) -> list[Offer]:
        """The same at any time: an account that has ended meanwhile gets no pot."""
        return [self.offer]


class _Pot(msgspec.Struct, gc=False):
    tenant: str
    line: Line
    seen_at: float
    id: str = ""
    amount: int = 0
    taken_at: float = 0.0
    # What was held against this pot, under an account of its own: each pot begins anew.
    number: int = 0


class Pots:
    """The pots of this replica."""

    def __init__(self) -> None:
        self._pots: dict[tuple[str, str], _Pot] = {}
        self._book = BudgetBook()
        self._count = 0
        self._latest = 0.0

    def saw(self, tenant: str, lines: Iterable[Line]) -> None:
        """These accounts are in use."""
        for line in lines:
            if line.budget.fail == "local":
                pot = self._pots.get((tenant, line.account))
                if pot is not None:
                    pot.seen_at = self._latest
                elif len(self._pots) < _POTS_MAX:
                    self._pots[(tenant, line.account)] = _Pot(tenant, line, self._latest)

    def due(
        self, tenant: str, replica: str, *, now: float, server: float
    ) -> Iterator[tuple[tuple[str, str] | None, Fresh | None]]:
        """Of a tenant: what is to be given back, as (tenant, id), and what is to be asked for. `server` is the time by
        which windows end."""
        self._latest = now
        for place, pot in list(self._pots.items()):
            if pot.tenant != tenant:
                continue
            # Seen before the first look: as of now.
            pot.seen_at = pot.seen_at or now
            over = pot.line.keep_until <= server or now - pot.seen_at > _IDLE_SECONDS
            if not over and pot.id and now - pot.taken_at < _RENEW_SECONDS:
                continue
            if pot.id and self._in_use(pot):
                # Calls are still held against it.
                continue
            old = (pot.tenant, pot.id) if pot.id else None
            pot.id, pot.amount = "", 0
            if over:
                del self._pots[place]
                if old is not None:
                    yield old, None
                continue
            self._count += 1
            amount = pot.line.ceiling * SHARE_PERCENT // 100
            offer = Offer(lines=(pot.line,), wanted=(amount,), ceilings=(pot.line.ceiling,))
            yield (
                old,
                Fresh(
                    id=f"pot-{replica}-{now:.0f}-{self._count}",
                    tenant=pot.tenant,
                    line=pot.line,
                    offer=offer,
                    lease=LEASE_SECONDS,
                ),
            )

    def filled(self, fresh: Fresh, *, taken: bool, now: float) -> None:
        """What became of a pot that was asked for; `now` is before it was asked."""
        pot = self._pots.get((fresh.tenant, fresh.line.account))
        if pot is not None:
            pot.taken_at = now
            pot.number += 1
            pot.id, pot.amount = (fresh.id, fresh.offer.wanted[0] or 0) if taken else ("", 0)

    def take(self, reservation_id: str, tenant: str, offer: Offer, *, now: float, lease: float) -> bool:
        """Hold an offer against the pots of its local lines; False where one is too small or too old."""
        lines, wanted = [], []
        for line, amount in zip(offer.lines, offer.wanted, strict=True):
            if line.budget.fail != "local" or line.budget.shadow:
                continue
            pot = self._pots.get((tenant, line.account))
            if pot is None or not pot.id or now > pot.taken_at + LEASE_SECONDS - _MARGIN_SECONDS:
                return False
            lines.append(structs.replace(line, account=_name(pot), ceiling=pot.amount))
            wanted.append(amount)
        local = Offer(lines=tuple(lines), wanted=tuple(wanted), ceilings=tuple([line.ceiling for line in lines]))
        return isinstance(self._book.reserve(reservation_id, [local], now=now, lease=lease), Reservation)

    def _in_use(self, pot: _Pot) -> bool:
        line = structs.replace(pot.line, account=_name(pot))
        return self._book.standing(line, now=self._latest)[1] > 0

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> None:
        """What a call that was held against pots took."""
        self._book.settle(reservation_id, spent, now=now)

    def given_up(self) -> Sequence[tuple[str, str]]:
        """Every pot, as (tenant, id): this replica stops."""
        held = [(pot.tenant, pot.id) for pot in self._pots.values() if pot.id]
        self._pots.clear()
        return held


def _name(pot: _Pot) -> str:
    return f"{pot.tenant}|{pot.line.account}|{pot.number}"
