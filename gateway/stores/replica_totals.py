"""One replica's spend on shared accounts, as growing totals. State machine.

Totals are kept by tenant and account, of rolling accounts by bucket.

The store receives totals, never amounts, so that repeated, late or reordered reports change nothing. What corrections
take back is a total of its own, which grows, too; it is reported as a negative number.
"""

from collections.abc import Iterator

import msgspec

from ..values.budget import BudgetLine
from .budget_messages import total_name

# Totals kept before expired ones are pruned.
_PRUNE_TOTALS_MIN = 400_000

# Ends the names of totals that were taken back; no name of an account does.
_TAKEN_BACK = "|taken back"

# Report of an account: its line, this replica's total (negative: of what was taken back), and the time of the newest
# charge by the local clock.
TotalReport = tuple[BudgetLine, int, float]


class _Total(msgspec.Struct, gc=False):
    line: BudgetLine
    amount: int
    charged_at: float
    keep_until: float


class ReplicaTotals:
    """The totals of this replica, by tenant and name.

    prune_above: number of totals above which expired ones are dropped
    """

    def __init__(self, prune_above: int = _PRUNE_TOTALS_MIN) -> None:
        self._totals: dict[tuple[str, str], _Total] = {}
        self._prune_above = self._prune_above_min = prune_above
        # Accounts whose total at the store was read.
        self._synced: set[tuple[str, str]] = set()

    def add(self, tenant: str, line: BudgetLine, amount: int, at: float) -> TotalReport:
        """Add spend on an account (rolling: in the bucket of `at`); returns its report.

        A negative amount is taken back.
        """
        key = (tenant, total_name(line, at) + _TAKEN_BACK * (amount < 0))
        total = self._totals.get(key)
        if total is None:
            keep_until = at + line.bucket_seconds * (line.bucket_count + 1) if line.bucket_seconds else line.keep_until
            total = self._totals[key] = _Total(line, 0, at, keep_until)
        total.amount += amount
        return line, total.amount, at

    def raise_to_store(self, tenant: str, line: BudgetLine, amount: int, at: float) -> None:
        """Raise the total to the store's figure, once per account.

        The store may know more than this process: an earlier one reported it, and the ledger dates windows differently.
        """
        key = (tenant, line.account)
        if line.bucket_seconds or key in self._synced:
            return
        self._synced.add(key)
        total = self._totals.get(key)
        missing = amount - (total.amount if total is not None else 0)
        if missing > 0:
            self.add(tenant, line, missing, at)

    def needs_sync(self, tenant: str, line: BudgetLine) -> bool:
        """Whether the store's total of this replica is still to be read."""
        return not line.bucket_seconds and (tenant, line.account) not in self._synced

    def of_tenant(self, tenant: str) -> list[TotalReport]:
        """The totals within a tenant."""
        return [(total.line, total.amount, total.charged_at) for key, total in self._totals.items() if key[0] == tenant]

    def get_many(self, keys: list[tuple[str, str]]) -> Iterator[TotalReport]:
        """The totals of these (tenant, name) pairs that are still kept."""
        for key in keys:
            total = self._totals.get(key)
            if total is not None:
                yield total.line, total.amount, total.charged_at

    def prune(self, *, now: float) -> None:
        """Drop totals that have expired, once there are many."""
        if len(self._totals) > self._prune_above:
            self._totals = {key: total for key, total in self._totals.items() if total.keep_until > now}
            self._synced.intersection_update(self._totals)
            # Avoids scanning the remaining ones every second.
            self._prune_above = max(self._prune_above_min, 2 * len(self._totals))
