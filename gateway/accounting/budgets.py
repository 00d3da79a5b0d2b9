"""Budget accounts: hard limits, reservations and spending. Synchronous.

Every method takes `now`. A request meets several lines at once (its key's day, its team's month, its session's cap):
all are reserved together or none is. For every account spent + held <= ceiling + granted holds at every moment, except
that a settlement is what really happened: usage above its hold is booked in full, never trimmed.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence

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

# Accounts kept in this process, about 400 bytes each. Sessions' are evicted first; past it no account is opened.
ACCOUNTS_MAX = 200_000
# Expired holds that are kept, so that a late settlement corrects what was charged for them.
EXPIRED_HOLDS_MAX = 10_000
# Accounts checked per sweep: a millisecond or two.
_SWEEP_ACCOUNTS = 5_000


class _Account(msgspec.Struct, gc=False):
    is_session: bool
    spent: int = 0
    held: int = 0
    keep_until: float = 0.0
    topped_up: int = 0
    grace: int = 0
    grace_until: float = 0.0
    # Rolling accounts: [step, amount booked], oldest first; `spent` is the sum.
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
        """Drop the steps that have left the window."""
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
        """Hold the first offer that fits every line, else the first that fits shrunk.

        `lease` is in seconds. Raises Overloaded where too many accounts are open.
        """
        assert reservation_id not in self._open_reservations, "a reservation id is used once"
        first_exceeded, refused = "", []
        for index, offer in enumerate(offers):
            accounts = [self._account(line, now) for line in offer.lines]
            place = _first_exceeded(offer, accounts, offer.amounts, offer.ceilings, now)
            if place is None:
                return self._hold_offer(
                    reservation_id, index, offer, accounts, offer.amounts, now, lease, first_exceeded
                )
            first_exceeded = first_exceeded or offer.lines[place].name
            refused.append((offer, accounts))
        for index, (offer, accounts) in enumerate(refused):
            shrinkage = offer.shrinkage
            if shrinkage is None:
                continue
            output = _fitting_output_tokens(offer, shrinkage, accounts, now)
            amounts = shrinkage.amounts_at(output)
            if _first_exceeded(offer, accounts, amounts, shrinkage.ceilings, now) is None:
                reservation = self._hold_offer(
                    reservation_id, index, offer, accounts, amounts, now, lease, first_exceeded
                )
                return structs.replace(reservation, output_tokens=output)
        return _exceeded(refused, now)

    def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """Hold `more` per line for a call that continues.

        False if it does not fit or the hold is gone. The `number` of the extension, from 1 on, makes it idempotent.
        """
        open_reservation = self._open_reservations.get(reservation_id)
        if open_reservation is None:
            return False
        if number <= open_reservation.extensions:
            return True
        lines = open_reservation.reservation.lines
        for line, account, amount in zip(lines, open_reservation.accounts, more, strict=True):
            account.roll(line, now)
            over = account.spent + account.held + amount > line.ceiling + account.granted_amount(now)
            if amount and over and not line.budget.is_shadow:
                return False
        for account, amount in zip(open_reservation.accounts, more, strict=True):
            account.held += amount
        amounts = tuple(map(sum, zip(open_reservation.reservation.amounts, more, strict=True)))
        open_reservation.reservation = structs.replace(open_reservation.reservation, amounts=amounts)
        open_reservation.extensions = number
        return True

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> tuple[ThresholdCrossing, ...] | None:
        """Replace the hold by what was really spent.

        Returns the thresholds that were crossed; None if the hold was resolved before. An expired hold was charged as
        held: that is corrected.
        """
        open_reservation = self._open_reservations.pop(reservation_id, None)
        expired = open_reservation is None
        if open_reservation is None:
            open_reservation = self._expired_reservations.pop(reservation_id, None)
            if open_reservation is None:
                return None
        crossings: list[ThresholdCrossing] = []
        reservation = open_reservation.reservation
        for line, account, held in zip(reservation.lines, open_reservation.accounts, reservation.amounts, strict=True):
            if expired:
                _reverse_expired_charge(line, account, held, open_reservation.expired_at, now)
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

    def correct(self, line: BudgetLine, change: int, *, at: float, now: float) -> tuple[ThresholdCrossing, ...]:
        """Change by how much an account was charged `at` an earlier time; nothing once that has left its window.

        Returns the thresholds that were crossed.
        """
        account = self._accounts.get(line.account)
        if account is None or (line.resets_at is not None and line.resets_at <= now):
            return ()
        if line.bucket_seconds:
            account.roll(line, now)
            # A late charge was booked in the newest step, so the step of `at` may be missing.
            step = int(at) // line.bucket_seconds
            bucket = next((bucket for bucket in account.buckets or () if bucket[0] >= step), None)
            if bucket is None or step < int(now) // line.bucket_seconds - line.bucket_count + 1:
                return ()
            bucket[1] += change
        account.spent += change
        return tuple(_threshold_crossings(line, account.spent - change, account.spent, now))

    def void(self, reservation_id: str, *, now: float) -> bool:
        """Release the hold: nothing was spent. False if it was resolved before."""
        return self.settle(reservation_id, ZERO_AMOUNTS, now=now) is not None

    def expire(self, now: float) -> list[Reservation]:
        """Charge holds whose lease ran out as held, and drop accounts past `keep_until`."""
        expired = []
        while self._leases and self._leases[0][0] <= now:
            open_reservation = self._open_reservations.pop(heapq.heappop(self._leases)[1], None)
            if open_reservation is None:
                continue
            open_reservation.expired_at = now
            for line, account, held in zip(
                open_reservation.reservation.lines,
                open_reservation.accounts,
                open_reservation.reservation.amounts,
                strict=True,
            ):
                account.held -= held
                account.book(line, held, now)
            self._expired_reservations[open_reservation.reservation.id] = open_reservation
            expired.append(open_reservation.reservation)
        while len(self._expired_reservations) > EXPIRED_HOLDS_MAX:
            self._expired_reservations.popitem(last=False)
        if len(self._leases) > 1000 and len(self._leases) > 4 * len(self._open_reservations):
            # Drop the leases of calls that have ended; they would otherwise stay until they run out.
            self._leases = [lease for lease in self._leases if lease[1] in self._open_reservations]
            heapq.heapify(self._leases)
        self._sweep(now)
        return expired

    def grant(self, line: BudgetLine, grant: Grant) -> None:
        """Allow more on one account: for the rest of its window, or until a time."""
        account = self._account(line, 0.0)
        if grant.until is None:
            account.topped_up += grant.amount
        else:
            account.grace, account.grace_until = grant.amount, grant.until

    def restore(self, line: BudgetLine, spent: int, *, at: float) -> None:
        """Book what the ledger says was spent at `at` before this start; oldest first."""
        self._account(line, 0.0).book(line, spent, at)

    def balance(self, line: BudgetLine, *, now: float) -> tuple[int, int, int]:
        """(spent, held, granted) of the line's account now."""
        account = self._accounts.get(line.account)
        if account is None:
            return 0, 0, 0
        account.roll(line, now)
        return account.spent, account.held, account.granted_amount(now)

    def open_lines(self, reservation_id: str) -> tuple[BudgetLine, ...]:
        """The lines of an unresolved reservation; none of one that is resolved."""
        open_reservation = self._open_reservations.get(reservation_id)
        return () if open_reservation is None else open_reservation.reservation.lines

    @property
    def open_holds(self) -> int:
        """The number of unresolved reservations."""
        return len(self._open_reservations)

    def _hold_offer(
        self,
        reservation_id: str,
        index: int,
        offer: HoldOption,
        accounts: list[_Account],
        requested: Sequence[int | None],
        now: float,
        lease: float,
        first_exceeded: str,
    ) -> Reservation:
        """Hold what fits; long, as every argument is a part of the reservation."""
        amounts, balances = [], []
        for account, amount in zip(accounts, requested, strict=True):
            held = amount or 0
            account.held += held
            amounts.append(held)
            granted = account.topped_up if account.grace == 0 else account.granted_amount(now)
            balances.append((account.spent, account.held, granted))
        reservation = Reservation(
            id=reservation_id,
            option_index=index,
            lines=offer.lines,
            amounts=tuple(amounts),
            balances=tuple(balances),
            expires_at=now + lease,
            reserved_at=now,
            exceeded_budget=first_exceeded,
        )
        self._open_reservations[reservation_id] = _OpenReservation(reservation, accounts)
        heapq.heappush(self._leases, (reservation.expires_at, reservation_id))
        return reservation

    def _sweep(self, now: float) -> None:
        """Drop a share of the accounts past `keep_until`: all of them over a few calls."""
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
        """Bound the memory: evict the accounts of the sessions idle for longest."""
        # Sessions' accounts move to the end when they are used: the first ones have been idle for longest.
        idle = [name for name, account in self._accounts.items() if account.is_session and account.held == 0]
        if not idle:
            raise Overloaded("Too many open budget accounts (one per user?); unbudgeted calls are not allowed.")
        for name in idle[: max(1, self._accounts_max // 100)]:
            del self._accounts[name]


def _first_exceeded(
    offer: HoldOption,
    accounts: Sequence[_Account],
    requested: Sequence[int | None],
    ceilings: Sequence[int],
    now: float,
    *,
    without_holds: bool = False,
) -> int | None:
    """The place of the first line that these amounts exceed; `without_holds`: by what is spent alone."""
    for place, (line, account, amount, ceiling) in enumerate(
        zip(offer.lines, accounts, requested, ceilings, strict=True)
    ):
        booked = account.spent if without_holds else account.spent + account.held
        if amount is None or booked + amount > ceiling:
            if line.budget.is_shadow or (
                amount is not None and booked + amount <= ceiling + account.granted_amount(now)
            ):
                continue
            return place
    return None


def _exceeded(refused: Sequence[tuple[HoldOption, Sequence[_Account]]], now: float) -> BudgetExceeded:
    """The refusal of offers that do not fit: by the first that only holds keep out, else by the last with known amounts."""
    assert refused, "offers are never empty"
    for offer, accounts in refused:
        for amounts, ceilings in _possible_holds(offer):
            if _first_exceeded(offer, accounts, amounts, ceilings, now, without_holds=True) is None:
                place = _first_exceeded(offer, accounts, amounts, ceilings, now)
                assert place is not None, "an offer that fits is not refused"
                return _exceeded_line(offer, accounts, place, amounts, now, is_held=True)
    exceeded = [_exceeded_by_spending(offer, accounts, now) for offer, accounts in reversed(refused)]
    return next((found for found in exceeded if found.requested is not None), exceeded[0])


def _exceeded_by_spending(offer: HoldOption, accounts: Sequence[_Account], now: float) -> BudgetExceeded:
    *_, (amounts, ceilings) = _possible_holds(offer)
    place = _first_exceeded(offer, accounts, amounts, ceilings, now, without_holds=True)
    assert place is not None, "an offer that fits without holds is held"
    return _exceeded_line(offer, accounts, place, offer.amounts, now, is_held=False)


def _possible_holds(offer: HoldOption) -> Iterator[tuple[Sequence[int | None], Sequence[int]]]:
    """(amounts, ceilings) of the largest and the smallest hold."""
    yield offer.amounts, offer.ceilings
    if offer.shrinkage is not None:
        yield offer.shrinkage.amounts_at(offer.shrinkage.output_tokens_min), offer.shrinkage.ceilings


def _exceeded_line(
    offer: HoldOption,
    accounts: Sequence[_Account],
    place: int,
    requested: Sequence[int | None],
    now: float,
    *,
    is_held: bool,
) -> BudgetExceeded:
    account = accounts[place]
    return BudgetExceeded(
        line=offer.lines[place],
        spent=account.spent,
        held=account.held,
        granted=account.granted_amount(now),
        requested=requested[place],
        is_held=is_held,
    )


def _fitting_output_tokens(offer: HoldOption, shrinkage: Shrinkage, accounts: Sequence[_Account], now: float) -> int:
    """The most output tokens that keep every line under its threshold."""
    most = shrinkage.output_tokens_max
    for line, account, fixed, per_token, threshold in zip(
        offer.lines, accounts, shrinkage.fixed_amounts, shrinkage.amounts_per_token, shrinkage.thresholds, strict=True
    ):
        if per_token and not line.budget.is_shadow:
            capacity = threshold + account.granted_amount(now) - account.spent - account.held - fixed
            most = min(most, capacity // per_token)
    return max(most, shrinkage.output_tokens_min)


def _reverse_expired_charge(line: BudgetLine, account: _Account, held: int, expired_at: float, now: float) -> None:
    """Undo the charge of an expired hold, unless it has left a rolling window."""
    if not line.bucket_seconds:
        account.spent -= held
        return
    account.roll(line, now)
    step = int(expired_at) // line.bucket_seconds
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
