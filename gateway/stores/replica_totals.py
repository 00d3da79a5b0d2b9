"""What one replica has spent on shared accounts: totals that only grow, by tenant and account (of rolling ones: by step).

A book. The store is told totals, never amounts, so that telling one twice, late or in another order changes nothing.
"""

from collections.abc import Iterator

import msgspec

from ..values.budget import BudgetLine
from .budget_messages import total_name

# Totals that are remembered before those whose time is over are looked for.
_PRUNE_TOTALS_MIN = 400_000

# What is told of an account: its line, this replica's total, the time of the newest charge by this machine's clock.
TotalReport = tuple[BudgetLine, int, float]


class _Total(msgspec.Struct, gc=False):
    line: BudgetLine
    amount: int
    charged_at: float
    keep_until: float


class ReplicaTotals:
    """The totals of this replica."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], _Total] = {}
        self._prune_above = _PRUNE_TOTALS_MIN
        # Accounts whose total at the store is known.
        self._synced: set[tuple[str, str]] = set()

    def add(self, tenant: str, line: BudgetLine, amount: int, at: float) -> TotalReport:
        """So much more was spent on an account (of a rolling one: in the step of `at`)."""
        place = (tenant, total_name(line, at))
        total = self._totals.get(place)
        if total is None:
            keep_until = at + line.bucket_seconds * (line.bucket_count + 1) if line.bucket_seconds else line.keep_until
            total = self._totals[place] = _Total(line, 0, at, keep_until)
        total.amount += amount
        return line, total.amount, at

    def raise_to_store(self, tenant: str, line: BudgetLine, amount: int, at: float) -> None:
        """The store's own figure may be higher than this process knows: an earlier one has told it, and the ledger counts
        windows by other times. What is booked next comes on top."""
        place = (tenant, line.account)
        if line.bucket_seconds or place in self._synced:
            return
        self._synced.add(place)
        known = self._totals.get(place)
        more = amount - (known.amount if known is not None else 0)
        if more > 0:
            self.add(tenant, line, more, at)

    def needs_sync(self, tenant: str, line: BudgetLine) -> bool:
        """Whether the store has not yet said what it has of this replica there."""
        return not line.bucket_seconds and (tenant, line.account) not in self._synced

    def of_tenant(self, tenant: str) -> list[TotalReport]:
        """Everything that was spent within a tenant."""
        return [(one.line, one.amount, one.charged_at) for place, one in self._totals.items() if place[0] == tenant]

    def get_many(self, places: list[tuple[str, str]]) -> Iterator[TotalReport]:
        """The totals of these (tenant, name), as far as they are remembered."""
        for place in places:
            one = self._totals.get(place)
            if one is not None:
                yield one.line, one.amount, one.charged_at

    def prune(self, *, now: float) -> None:
        """Bound the memory: accounts whose time is over give way."""
        if len(self._totals) > self._prune_above:
            self._totals = {place: total for place, total in self._totals.items() if total.keep_until > now}
            self._synced.intersection_update(self._totals)
            # Those that have to stay are not looked through every second.
            self._prune_above = max(_PRUNE_TOTALS_MIN, 2 * len(self._totals))
