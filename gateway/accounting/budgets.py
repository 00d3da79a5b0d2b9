"""The book of budgets: hard limits, reservations and what was spent. Synchronous; every method takes `now`.

A request meets several lines at once (its key's day, its team's month, its session's cap): all are reserved together
or none is. For every account spent + held <= ceiling + what was granted holds at every moment, except that a
settlement is what really happened: usage above its hold is booked in full, never trimmed.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import structs

from ..values.budget import (
    ZERO_AMOUNTS,
    Amounts,
    BudgetExceeded,
    BudgetLine,
    Grant,
    HoldOption,
    Reservation,
    Shrinkage,
    ThresholdCrossing,
)
from ..values.errors import Overloaded

# Accounts kept in this process, about 400 bytes each. Sessions' give way; past it no new one is opened.
ACCOUNTS_MAX = 200_000
# Expired holds that are remembered, so that a late settlement puts right what was charged for them.
EXPIRED_HOLDS_MAX = 10_000
# Accounts looked at in one sweep: a millisecond or two.
_SWEEP_ACCOUNTS = 5_000


class _Account(msgspec.Struct, gc=False):
    is_session: bool
    spent: int = 0
    held: int = 0
    keep_until: float = 0.0
    topped_up: int = 0
    grace: int = 0
    grace_until: float = 0.0
    # Rolling accounts: what was booked in each step, oldest first; `spent` is their sum.
    buckets: deque[list[int]] | None = None

    def granted_amount(self, now: float) -> int:
        return self.topped_up + (self.grace if now < self.grace_until else 0)

    def book(self, line: BudgetLine, amount: int, now: float) -> None:
        """Add to what was spent, in the step of `now`."""
        self.spent += amount
        if line.bucket_seconds:
            step = int(now) // line.bucket_seconds
            if self.buckets is None:
                self.buckets = deque()
            if self.buckets and self.buckets[-1][0] >= step:
                self.buckets[-1][1] += amount
            else:
                self.buckets.append([step, amount])

    def roll(self, line: BudgetLine, now: float) -> None:
        """Let go of what lies further back than the window."""
        if self.buckets:
            oldest = int(now) // line.bucket_seconds - line.bucket_count + 1
            while self.buckets and self.buckets[0][0] < oldest:
                self.spent -= self.buckets.popleft()[1]


class _OpenReservation(msgspec.Struct, gc=False):
    reservation: Reservation
    accounts: list[_Account]
    extensions: int = 0
    expired_at: float = 0.0


class BudgetAccounts:
    """Accounts and open reservations in this process."""

    def __init__(self, accounts_max: int = ACCOUNTS_MAX) -> None:
        self._accounts_max = accounts_max
        self._accounts: dict[str, _Account] = {}
        self._open_reservations: dict[str, _OpenReservation] = {}
        self._expired_reservations: OrderedDict[str, _OpenReservation] = OrderedDict()
        self._leases: list[tuple[float, str]] = []
        self._sweep_queue: list[str] = []

    def reserve(
        self, reservation_id: str, offers: Iterable[HoldOption], *, now: float, lease: float
    ) -> Reservation | BudgetExceeded:
        """Set aside the first of `offers` that fits every line, else the first that fits when shrunk; `lease` is in
        seconds. Raises Overloaded where too many accounts are open."""
        assert reservation_id not in self._open_reservations, "a reservation id is used once"
        exceeded: BudgetExceeded | None = None
        passed_over, tried = "", []
        for choice, offer in enumerate(offers):
            accounts = [self._account(line, now) for line in offer.lines]
            broken = _first_exceeded(offer, accounts, offer.amounts, offer.ceilings, now)
            if broken is None:
                return self._hold_offer(reservation_id, choice, offer, accounts, offer.amounts, now, lease, passed_over)
            exceeded, passed_over = broken, passed_over or broken.line.name
            if offer.shrinkage is not None:
                tried.append((choice, offer, offer.shrinkage, accounts))
        for choice, offer, smaller, accounts in tried:
            output = _fitting_output_tokens(offer, smaller, accounts, now)
            amounts = [
                fixed + each * output
                for fixed, each in zip(smaller.fixed_amounts, smaller.amounts_per_token, strict=True)
            ]
            if _first_exceeded(offer, accounts, amounts, smaller.ceilings, now) is None:
                taken = self._hold_offer(reservation_id, choice, offer, accounts, amounts, now, lease, passed_over)
                return structs.replace(taken, output_tokens=output)
        assert exceeded is not None, "offers are never empty"
        return exceeded

    def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """Hold more, per line, for a call that goes on; False if it does not fit, or the hold is gone. The `number` of
        the extension, from 1 on, makes it idempotent."""
        found = self._open_reservations.get(reservation_id)
        if found is None:
            return False
        if number <= found.extensions:
            return True
        lines = found.reservation.lines
        for line, account, amount in zip(lines, found.accounts, more, strict=True):
            account.roll(line, now)
            over = account.spent + account.held + amount > line.ceiling + account.granted_amount(now)
            if amount and over and not line.budget.is_shadow:
                return False
        for account, amount in zip(found.accounts, more, strict=True):
            account.held += amount
        amounts = tuple(map(sum, zip(found.reservation.amounts, more, strict=True)))
        found.reservation = structs.replace(found.reservation, amounts=amounts)
        found.extensions = number
        return True

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> tuple[ThresholdCrossing, ...] | None:
        """Replace the hold by what was really spent; gives the notices that are due. None if it was resolved before.

        What had expired was charged as held: that is put right.
        """
        found = self._open_reservations.pop(reservation_id, None)
        late = found is None
        if found is None:
            found = self._expired_reservations.pop(reservation_id, None)
            if found is None:
                return None
        crossings: list[ThresholdCrossing] = []
        reservation = found.reservation
        for line, account, held in zip(reservation.lines, found.accounts, reservation.amounts, strict=True):
            if late:
                _reverse_expired_charge(line, account, held, found.expired_at, now)
            else:
                account.held -= held
            budget = line.budget
            amount = spent[budget.measure] or 0
            if line.bucket_seconds:
                account.roll(line, now)
                account.book(line, amount, now)
            else:
                account.spent += amount
            if budget.thresholds.notify_at:
                crossings += _threshold_crossings(line, account.spent - amount, account.spent, now)
        return tuple(crossings)

    def void(self, reservation_id: str, *, now: float) -> bool:
        """Give the hold back: nothing was spent. False if it was resolved before."""
        return self.settle(reservation_id, ZERO_AMOUNTS, now=now) is not None

    def expire(self, now: float) -> list[Reservation]:
        """Resolve holds whose lease ran out, charged as held, and forget accounts whose time is over."""
        late = []
        while self._leases and self._leases[0][0] <= now:
            found = self._open_reservations.pop(heapq.heappop(self._leases)[1], None)
            if found is None:
                continue
            found.expired_at = now
            for line, account, held in zip(
                found.reservation.lines, found.accounts, found.reservation.amounts, strict=True
            ):
                account.held -= held
                account.book(line, held, now)
            self._expired_reservations[found.reservation.id] = found
            late.append(found.reservation)
        while len(self._expired_reservations) > EXPIRED_HOLDS_MAX:
            self._expired_reservations.popitem(last=False)
        if len(self._leases) > 1000 and len(self._leases) > 4 * len(self._open_reservations):
            # Calls that ended long ago; their leases would otherwise wait for their time.
            self._leases = [lease for lease in self._leases if lease[1] in self._open_reservations]
            heapq.heapify(self._leases)
        self._sweep(now)
        return late

    def grant(self, line: BudgetLine, grant: Grant) -> None:
        """Allow more on one account: for the rest of its window, or until a time."""
        account = self._account(line, 0.0)
        if grant.until is None:
            account.topped_up += grant.amount
        else:
            account.grace, account.grace_until = grant.amount, grant.until

    def restore(self, line: BudgetLine, spent: int, *, at: float) -> None:
        """Book what the ledger says was spent at `at`, before this process began; oldest first."""
        self._account(line, 0.0).book(line, spent, at)

    def balance(self, line: BudgetLine, *, now: float) -> tuple[int, int, int]:
        """(spent, held, granted) of the line's account now."""
        account = self._accounts.get(line.account)
        if account is None:
            return 0, 0, 0
        account.roll(line, now)
        return account.spent, account.held, account.granted_amount(now)

    @property
    def open_holds(self) -> int:
        """How many reservations wait for their resolution."""
        return len(self._open_reservations)

    def _hold_offer(
        self,
        reservation_id: str,
        choice: int,
        offer: HoldOption,
        accounts: list[_Account],
        wanted: Sequence[int | None],
        now: float,
        lease: float,
        passed_over: str,
    ) -> Reservation:
        """Hold what fits; one piece, for every argument is a part of the reservation."""
        amounts, standings = [], []
        for account, amount in zip(accounts, wanted, strict=True):
            held = amount or 0
            account.held += held
            amounts.append(held)
            extra = account.topped_up if account.grace == 0 else account.granted_amount(now)
            standings.append((account.spent, account.held, extra))
        reservation = Reservation(
            id=reservation_id,
            option_index=choice,
            lines=offer.lines,
            amounts=tuple(amounts),
            balances=tuple(standings),
            expires_at=now + lease,
            reserved_at=now,
            exceeded_budget=passed_over,
        )
        self._open_reservations[reservation_id] = _OpenReservation(reservation, accounts)
        heapq.heappush(self._leases, (reservation.expires_at, reservation_id))
        return reservation

    def _sweep(self, now: float) -> None:
        """Forget a share of the accounts whose time is over: all of them over a few calls, none of which takes long."""
        if not self._sweep_queue:
            self._sweep_queue = list(self._accounts)
        for name in self._sweep_queue[-_SWEEP_ACCOUNTS:]:
            account = self._accounts.get(name)
            if account is not None and account.keep_until <= now and account.held == 0:
                del self._accounts[name]
        del self._sweep_queue[-_SWEEP_ACCOUNTS:]

    def _account(self, line: BudgetLine, now: float) -> _Account:
        account = self._accounts.get(line.account)
        if account is None:
            if len(self._accounts) >= self._accounts_max:
                self._evict_idle_sessions()
            account = self._accounts[line.account] = _Account(is_session=line.is_session_account)
        elif account.buckets:
            account.roll(line, now)
        elif account.is_session:
            self._accounts[line.account] = self._accounts.pop(line.account)
        if account.keep_until < line.keep_until:
            account.keep_until = line.keep_until
        return account

    def _evict_idle_sessions(self) -> None:
        """Bound the memory: sessions' accounts that have gone longest without a call give way, budgets' never."""
        # Sessions' accounts move to the end when they are used: what comes first has gone longest without a call.
        idle = [name for name, account in self._accounts.items() if account.is_session and account.held == 0]
        if not idle:
            raise Overloaded("Too many budget accounts are open (one for each user?); no call is made unbudgeted.")
        for name in idle[: max(1, self._accounts_max // 100)]:
            del self._accounts[name]


def _first_exceeded(
    offer: HoldOption, accounts: Sequence[_Account], wanted: Sequence[int | None], ceilings: Sequence[int], now: float
) -> BudgetExceeded | None:
    for line, account, amount, ceiling in zip(offer.lines, accounts, wanted, ceilings, strict=True):
        if amount is None or account.spent + account.held + amount > ceiling:
            extra = account.granted_amount(now)
            if line.budget.is_shadow or (
                amount is not None and account.spent + account.held + amount <= ceiling + extra
            ):
                continue
            return BudgetExceeded(line=line, spent=account.spent, held=account.held, granted=extra, requested=amount)
    return None


def _fitting_output_tokens(offer: HoldOption, smaller: Shrinkage, accounts: Sequence[_Account], now: float) -> int:
    """The most output tokens with which every line stays under its threshold, between `least` and `most`."""
    most = smaller.output_tokens_max
    for line, account, fixed, each, threshold in zip(
        offer.lines, accounts, smaller.fixed_amounts, smaller.amounts_per_token, smaller.thresholds, strict=True
    ):
        if each and not line.budget.is_shadow:
            room = threshold + account.granted_amount(now) - account.spent - account.held - fixed
            most = min(most, room // each)
    return max(most, smaller.output_tokens_min)


def _reverse_expired_charge(line: BudgetLine, account: _Account, held: int, then: float, now: float) -> None:
    """Take back what an expired hold was charged; what has left a rolling window is gone already."""
    if not line.bucket_seconds:
        account.spent -= held
        return
    account.roll(line, now)
    step = int(then) // line.bucket_seconds
    for bucket in account.buckets or ():
        if bucket[0] == step:
            bucket[1] -= held
            account.spent -= held


def _threshold_crossings(line: BudgetLine, before: int, after: int, now: float) -> list[ThresholdCrossing]:
    return [
        ThresholdCrossing(line=line, percent=percent, spent=after, crossed_at=now)
        for percent, amount in line.budget.thresholds.notify_at
        if before < amount <= after
    ]
