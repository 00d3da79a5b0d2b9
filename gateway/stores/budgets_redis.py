"""Budgets shared by replicas, on Redis or Valkey: one script, one round trip, for each transition.

Reserving awaits the store; resolving only queues, and is delivered behind the request until the store has taken it.
A replica reports what it has spent on an account as one total that only grows: delivering it twice, late, or to a
server that has lost its newest writes changes nothing, and what is spent always comes to the sum of the ledgers.
A hold that nobody resolves is charged in full when its lease runs out, by the server's clock. All keys of a tenant
share one hash tag. docs/adr/0009 has the protocol and its bounds; `lua/` the transitions.
"""

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ..values.base import Value
from ..values.budget import Amounts, Crossing, Exceeded, Grant, Line, Offer, Reservation
from ..values.errors import Overloaded
from .budget_messages import account_key, kept_seconds, key_of, own_totals, question, reservation_of, totals_name
from .local_allowance import Pots
from .redis_scripts import TIMEOUT_SECONDS, Scripts, Start, StoreDown, unforeseen
from .replica_totals import Told, TotalsBook

log = logging.getLogger(__name__)

# Resolutions that wait for the store. Beyond it new calls are refused: their holds could not be resolved either.
PENDING_MAX = 20_000
_DELIVERED_AT_ONCE = 128
# A store that comes back without its data is not trusted before every replica has had the time to bring its own.
QUARANTINE_SECONDS = 3
# How often a window may end between asking and reserving before something is wrong with the clocks.
_STALE_MAX = 3
# What a stop waits for what is left to be delivered.
_CLOSE_SECONDS = 3.0
# Holds of an earlier process that are closed in one step.
_ADOPTED_AT_ONCE = 200
# After so many misses in a row calls are decided without asking, but for one in so many seconds.
_MISSES_MAX = 3
_ONE_MISS_SECONDS = 0.02
_ASK_AGAIN_SECONDS = 0.2
# A grant's id is remembered so long, and not made twice.
_GRANTS_KEPT_SECONDS = 40 * 86_400


class _Open(msgspec.Struct, gc=False):
    tenant: str
    lines: tuple[Line, ...]
    amounts: list[int]
    expires_at: float
    # False: the store knows nothing of it (it was down, and the budgets allow that).
    stored: bool = True


class _Resolution(Value, frozen=True, kw_only=True):
    """Holds to close, and the totals to report."""

    ids: tuple[str, ...]
    tenant: str
    totals: tuple[Told, ...]
    bury: bool = False


class RedisBudgets:
    """The exchange's Budgets on a shared store. `replica` names this process's ledger: the same after every restart.

    `notify` hears what was crossed, `start` runs a task behind the requests. `recall` asks the ledger what was spent on an
    account that was not told of at the start: (line, amount, when); `grants` tells what operators granted. A call waits
    `patience` seconds at most for its tenant's books to be entered.
    """

    def __init__(
        self,
        scripts: Scripts,
        replica: str,
        *,
        start: Start,
        notify: Callable[[Crossing], None] = lambda crossing: None,
        recall: Callable[[str, float], Iterable[tuple[Line, int, float]]] = lambda account, now: (),
        grants: Callable[[], Iterable[tuple[str, Line, Grant]]] = lambda: (),
        quarantine: int = QUARANTINE_SECONDS,
        patience: float = TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scripts = scripts
        self._replica = replica
        self._start = start
        self._notify = notify
        self._recall = recall
        self._grants = grants
        self._entering: dict[str, asyncio.Future[None]] = {}
        self._quarantine = quarantine
        self._patience = patience
        self._monotonic = monotonic
        self._open: dict[str, _Open] = {}
        # By tenant: what one node does not take must not keep the others waiting.
        self._pending: dict[str, deque[_Resolution]] = {}
        self._flushing: set[str] = set()
        self._delivering = False
        self._totals = TotalsBook()
        self._tenants: set[str] = set()
        self._epochs: dict[str, str] = {}
        self._changes: dict[str, int] = {}
        # Tenants where the store has lost writes of ours.
        self._suspect: set[str] = set()
        # Accounts that were charged without a hold.
        self._dirty: dict[str, set[tuple[str, str]]] = {}
        self._offset = 0.0
        self._pots = Pots()
        # By tenant: how often in a row the store has not answered.
        self._down: dict[str, int] = {}
        self._ask_again_at: dict[str, float] = {}
        self._missed_at: dict[str, float] = {}
        self.failures = 0
        self.unbudgeted = 0

    async def reserve(
        self,
        reservation_id: str,
        offers_at: Callable[[float], Iterable[Offer]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | Exceeded:
        """Set aside the first offer that fits, as the store's clock has it. If the store does not answer in time the
        budgets say what happens; raises Overloaded where one of them is closed."""
        if self.backlog >= PENDING_MAX:
            raise Overloaded("The shared budget store is too far behind; no call is made unbudgeted.")
        offers = list(offers_at(now + self._offset))
        if not any(offer.lines for offer in offers):
            return self._taken(reservation_id, tenant, _free(reservation_id, offers[0], now + lease))
        if self._is_silent(tenant):
            return self._without_store(reservation_id, offers, tenant, now, lease)
        try:
            reserved = await self._reserved(reservation_id, offers, offers_at, tenant, now, lease)
        except StoreDown as error:
            self._give_back(reservation_id, tenant)
            self._failed(tenant, error)
            return self._without_store(reservation_id, list(offers_at(now + self._offset)), tenant, now, lease)
        except BaseException:
            # The caller hung up while we waited.
            self._give_back(reservation_id, tenant)
            raise
        self._answered(tenant)
        return reserved if isinstance(reserved, Exceeded) else self._taken(reservation_id, tenant, reserved)

    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """Hold more for a call that goes on; False if it does not fit, or the store does not answer in time and one of the
        call's budgets is closed."""
        found = self._open.get(reservation_id)
        if found is None:
            return False
        if not found.stored:
            return True
        if found.lines:
            arguments = [str(number)]
            for line, amount in zip(found.lines, more, strict=True):
                ceiling = 2**53 if line.budget.shadow else line.ceiling
                arguments += [str(amount), str(ceiling), str(line.bucket_seconds), str(line.buckets)]
            keys = [
                key_of(found.tenant, f"hold:{reservation_id}"),
                *[account_key(found.tenant, one) for one in found.lines],
            ]
            try:
                if not await self._scripts.run("extend", keys, arguments):
                    return False
            except StoreDown as error:
                self._failed(found.tenant, error)
                return all(line.budget.fail != "closed" for line in found.lines)
        found.amounts = [held + amount for held, amount in zip(found.amounts, more, strict=True)]
        return True

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool:
        """Queue the resolution; False if it was resolved before."""
        found = self._open.pop(reservation_id, None)
        if found is None:
            return False
        amounts = [(line, spent[line.budget.measure]) for line in found.lines]
        totals = tuple([self._totals.add(found.tenant, line, amount, now) for line, amount in amounts if amount])
        if not found.stored:
            self._pots.settle(reservation_id, spent, now=now)
            # Told together when the store is back: however many calls there were, an account has one total.
            places = {(found.tenant, totals_name(line, at)) for line, _, at in totals}
            self._dirty.setdefault(found.tenant, set()).update(places)
        elif found.lines:
            self._queue(_Resolution(ids=(reservation_id,), tenant=found.tenant, totals=totals))
            self._deliver()
        return True

    def spent_before(self, tenant: str, line: Line, amount: int, *, at: float) -> None:
        """What the ledger says this replica has spent on an account; told to the store when its tenant is entered."""
        self._totals.add(tenant, line, amount, at)

    def opened(self, tenants: Iterable[str]) -> None:
        """These tenants will call: connect before they do."""
        self._tenants.update(tenants)

    async def enter(self, tenant: str, *, now: float, patient: bool = False) -> None:
        """Join a tenant's books, and bring what this replica has spent and holds there. Raises StoreDown.

        One enters for all who wait; they wait no longer than for any answer, unless they are `patient`.
        """
        self._tenants.add(tenant)
        entered = self._entering.get(tenant)
        if entered is None:
            entered = self._entering[tenant] = asyncio.get_running_loop().create_future()
            self._start("budget-tenant", self._enter(tenant, entered, now), unforeseen)
        try:
            async with asyncio.timeout(None if patient else self._patience):
                await asyncio.shield(entered)
        except TimeoutError as error:
            raise StoreDown("entering takes longer than a call may wait") from error

    async def _enter(self, tenant: str, entered: "asyncio.Future[None]", now: float) -> None:
        """`entered` hears how it went."""
        try:
            await self._joined(tenant, now)
            entered.set_result(None)
        except StoreDown as error:
            entered.set_exception(error)
            # Nobody may be left to hear it.
            entered.exception()
        finally:
            del self._entering[tenant]
            if not entered.done():
                # A bug, or the end: whoever waits is not to take it for its own caller's hang-up.
                entered.set_exception(StoreDown("entering was broken off"))
                entered.exception()

    async def _joined(self, tenant: str, now: float) -> None:
        began, known = self._monotonic(), self._epochs.get(tenant, "")
        changes, suspect = self._changes.get(tenant, 0), tenant in self._suspect
        spent = bool(known) or any(amount for _, amount, _ in self._totals.of(tenant))
        keys = [key_of(tenant, "epoch"), key_of(tenant, "opens"), key_of(tenant, "leases")]
        arguments = [
            secrets.token_hex(8),
            known,
            str(self._quarantine),
            key_of(tenant, ""),
            self._replica,
            str(int(spent)),
        ]
        answer = await self._scripts.run("join", keys, arguments)
        # By this the server's windows are told, whatever the clock here says.
        self._offset = int(answer[1]) / 1000 - (now + self._monotonic() - began)
        epoch = answer[0].decode()
        # Newest writes may be lost without the epoch: a node that took over, a file that was written late.
        if epoch != known or suspect or int(answer[2]) < changes:
            self._changes[tenant] = int(answer[2])
            self._suspect.discard(tenant)
            await self._bring(tenant, first=not known, now=now)
            self._epochs[tenant] = epoch

    async def _bring(self, tenant: str, *, first: bool, now: float) -> None:
        """What this replica has spent, and its holds: those of an earlier process are closed, ours are made anew."""
        if first:
            await self._adopt(tenant, now)
        else:
            log.error("the shared budget store has lost writes; this replica brings back what it knows")
        told = self._totals.of(tenant)
        for start in range(0, len(told), _DELIVERED_AT_ONCE):
            batch = tuple(told[start : start + _DELIVERED_AT_ONCE])
            await self._told(_Resolution(ids=(), tenant=tenant, totals=batch))
        for reservation_id in [name for name, found in self._open.items() if found.tenant == tenant]:
            # Looked up when its turn comes: it may have ended meanwhile, and must not come back then.
            found = self._open.get(reservation_id)
            if found is not None and found.stored and found.lines:
                await self._rehold(reservation_id, found)
        for place, line, grant in self._grants():
            if place == tenant:
                await self._granted(tenant, line, grant)

    async def _adopt(self, tenant: str, now: float) -> None:
        """Close what an earlier process on this ledger held, in one step with what the ledger says of these accounts:
        what was open there stands in the ledger, charged as held or as it ended."""
        keys = [key_of(tenant, f"open:{self._replica}")]
        while True:
            owned = await self._scripts.run("owned", keys, [key_of(tenant, ""), str(_ADOPTED_AT_ONCE)])
            old = [one for one in owned if one[0].decode() not in self._open]
            if not old:
                return
            prefix = key_of(tenant, "account:")
            touched = {account.decode().removeprefix(prefix) for one in old for account in one[1:]}
            told = [one for one in self._totals.of(tenant) if one[0].account in touched]
            for account in touched - {one[0].account for one in told}:
                # A session that nobody names is not looked for until it is asked for.
                for line, amount, at in await asyncio.to_thread(self._recall, account, now):
                    told.append(self._totals.add(tenant, line, amount, at))
            ids = tuple([one[0].decode() for one in old])
            log.warning("%d holds of an earlier process are closed as the ledger has them", len(ids))
            await self._told(_Resolution(ids=ids, tenant=tenant, totals=tuple(told), bury=True))
            if len(owned) < _ADOPTED_AT_ONCE:
                return

    async def look_after(self, now: float) -> None:
        """Now and then: see whether the store answers and still has its data, expire leases, renew local shares."""
        for tenant in list(self._tenants):
            try:
                await self.enter(tenant, now=now, patient=True)
                self._answered(tenant)
                if not self._pending.get(tenant) and not self._dirty.get(tenant):
                    # What was spent from the pots has been told.
                    await self._renew_pots(tenant, now)
            except StoreDown as error:
                self._failed(tenant, error)
        self._deliver()
        self._totals.forget(now=now + self._offset)

    async def flush(self) -> None:
        """Deliver what is queued; what the store does not take stays queued."""
        tenants = [tenant for tenant in {*self._pending, *self._dirty} if tenant not in self._flushing]
        self._flushing.update(tenants)
        try:
            await asyncio.gather(*[self._flush(tenant) for tenant in tenants])
            await asyncio.gather(*[self._flush_dirty(tenant) for tenant in tenants])
        finally:
            self._flushing.difference_update(tenants)

    async def _flush(self, tenant: str) -> None:
        pending = self._pending.get(tenant)
        while pending:
            batch = [pending[place] for place in range(min(_DELIVERED_AT_ONCE, len(pending)))]
            told = await asyncio.gather(*[self._told(resolution) for resolution in batch], return_exceptions=True)
            wrong = next((one for one in told if isinstance(one, BaseException)), None)
            if isinstance(wrong, StoreDown):
                # All of it is told again: totals do not mind.
                self._failed(tenant, wrong)
                return
            if wrong is not None:
                raise wrong
            for _ in batch:
                pending.popleft()
            self._answered(tenant)
        self._pending.pop(tenant, None)

    async def _flush_dirty(self, tenant: str) -> None:
        dirty = self._dirty.get(tenant, set())
        while dirty:
            places = list(dirty)[:_DELIVERED_AT_ONCE]
            told = tuple(self._totals.at(places))
            try:
                await self._told(_Resolution(ids=(), tenant=tenant, totals=told))
            except StoreDown as error:
                self._failed(tenant, error)
                return
            dirty.difference_update(places)
        self._dirty.pop(tenant, None)

    async def grant(self, tenant: str, line: Line, grant: Grant, *, fresh: bool) -> bool:
        """Allow more on one account; False if this grant was made before. Raises Overloaded."""
        try:
            return await self._granted(tenant, line, grant)
        except StoreDown as error:
            self._failed(tenant, error)
            raise Overloaded("The shared budget store does not answer; ask again with the same id.") from error

    async def _granted(self, tenant: str, line: Line, grant: Grant) -> bool:
        until = "" if grant.until is None else str(int(grant.until + self._offset))
        keep = (
            kept_seconds(line, self._offset + line.starts_at)
            if line.resets_at is None
            else kept_seconds(line, line.resets_at)
        )
        arguments = [str(grant.amount), until, str(_GRANTS_KEPT_SECONDS), str(keep and keep + _GRANTS_KEPT_SECONDS)]
        keys = [account_key(tenant, line), key_of(tenant, f"grant:{grant.id}")]
        return bool(await self._scripts.run("grant", keys, arguments))

    async def standing(self, tenant: str, line: Line, *, now: float) -> tuple[int, int, int]:
        """(spent, held, granted) of the line's account now. Raises Overloaded."""
        key = account_key(tenant, line)
        try:
            flat = await self._scripts.command(key, "HGETALL", key)
        except StoreDown as error:
            self._failed(tenant, error)
            raise Overloaded("The shared budget store does not answer.") from error
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        fields = {name.decode(): int(value) for name, value in pairs}
        at, spent = now + self._offset, fields.get("spent", 0)
        if line.bucket_seconds:
            oldest = int(at) // line.bucket_seconds - line.buckets + 1
            old = [amount for name, amount in fields.items() if name.startswith("b:") and int(name[2:]) < oldest]
            spent -= sum(old)
        grace = fields.get("grace", 0) if at < fields.get("grace_until", 0) else 0
        return spent, fields.get("held", 0), fields.get("extra", 0) + grace

    @property
    def failing(self) -> bool:
        """Whether the store, or the node of some tenant, does not answer."""
        return bool(self._down)

    @property
    def backlog(self) -> int:
        """Resolutions that the store has not yet taken."""
        return sum(map(len, self._pending.values())) + sum(map(len, self._dirty.values()))

    @property
    def open_holds(self) -> int:
        """Reservations of this process that wait for their resolution."""
        return len(self._open)

    async def close(self) -> None:
        """Deliver what can be delivered and hang up. The tasks that ran behind requests have been stopped by now."""
        for tenant, pot_id in self._pots.given_up():
            self._queue(_Resolution(ids=(pot_id,), tenant=tenant, totals=()))
        self._scripts.reset()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()
        except TimeoutError:
            log.error("the shared budget store does not take what is left")
        if self.backlog:
            log.error("%d resolutions were not delivered; they are at the next start", self.backlog)
        await self._scripts.close()

    async def _reserved(
        self,
        reservation_id: str,
        offers: list[Offer],
        offers_at: Callable[[float], Iterable[Offer]],
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | Exceeded:
        for _ in range(_STALE_MAX):
            if tenant not in self._epochs or tenant in self._suspect:
                await self.enter(tenant, now=now)
            lines = list({line.account: line for offer in offers for line in offer.lines}.values())
            asked = question(
                reservation_id,
                offers,
                lines,
                replica=self._replica,
                epoch=self._epochs.get(tenant, ""),
                lease=lease,
                at=now + self._offset,
                unknown=lambda line: self._totals.is_unknown(tenant, line),
            )
            fixed = ("leases", "epoch", "opens", f"hold:{reservation_id}", f"tomb:{reservation_id}")
            keys = [*[key_of(tenant, name) for name in fixed], *[account_key(tenant, line) for line in lines]]
            answer = await self._scripts.run("reserve", keys, [asked, key_of(tenant, "")])
            kind = answer[0]
            if kind == b"yes":
                self._changed(tenant, int(answer[4]))
                for line, total in own_totals(offers[int(answer[1])], answer):
                    self._totals.base(tenant, line, total, now)
                return reservation_of(reservation_id, offers, lines, answer, now + lease)
            if kind == b"no":
                offer, place = offers[int(answer[1])], int(answer[2])
                wanted = offer.wanted[place]
                spent, held, extra = int(answer[3]), int(answer[4]), int(answer[5])
                return Exceeded(line=offer.lines[place], spent=spent, held=held, extra=extra, wanted=wanted)
            if kind == b"stale":
                # A window has ended, or this machine's clock is off: by the server's time these are other lines.
                self._offset = int(answer[1]) / 1000 - now
                offers = list(offers_at(now + self._offset))
            elif kind == b"epoch":
                await self.enter(tenant, now=now)
            else:
                raise StoreDown("the store has lost its data and waits for its replicas")
        raise StoreDown("the store's clock and this machine's do not agree")

    def _taken(self, reservation_id: str, tenant: str, reserved: Reservation, *, stored: bool = True) -> Reservation:
        self._open[reservation_id] = _Open(tenant, reserved.lines, list(reserved.amounts), reserved.expires_at, stored)
        if stored:
            self._pots.saw(tenant, reserved.lines)
        return reserved

    def _without_store(
        self, reservation_id: str, offers: Sequence[Offer], tenant: str, now: float, lease: float
    ) -> Reservation:
        """What the budgets allow while the store is down: nothing, anything, or this replica's own share."""
        for choice, offer in enumerate(offers):
            modes = {line.budget.fail for line in offer.lines if not line.budget.shadow}
            if "closed" in modes:
                continue
            if "local" in modes and not self._pots.take(reservation_id, tenant, offer, now=now, lease=lease):
                continue
            self.unbudgeted += 1
            reserved = Reservation(
                id=reservation_id,
                choice=choice,
                lines=offer.lines,
                amounts=tuple([amount or 0 for amount in offer.wanted]),
                standings=(),
                expires_at=now + lease,
            )
            return self._taken(reservation_id, tenant, reserved, stored=False)
        raise Overloaded("The shared budget store does not answer; no call is made unbudgeted.")

    def _give_back(self, reservation_id: str, tenant: str) -> None:
        """The hold may have been taken all the same: undo it, whenever the store hears of it."""
        self._queue(_Resolution(ids=(reservation_id,), tenant=tenant, totals=(), bury=True))
        self._deliver()

    def _deliver(self) -> None:
        if (self._pending or self._dirty) and not self._delivering:
            self._delivering = True
            self._start("budget-resolutions", self._delivered(), unforeseen)

    async def _delivered(self) -> None:
        try:
            await self.flush()
        finally:
            self._delivering = False

    async def _told(self, resolution: _Resolution) -> None:
        tenant, ids = resolution.tenant, resolution.ids
        keys = [key_of(tenant, "leases")]
        arguments = [self._replica, key_of(tenant, ""), str(int(resolution.bury)), str(len(ids)), *ids]
        for line, total, at in resolution.totals:
            # Totals by this replica's own clock, as its ledger has them; booked by the server's.
            keys += [account_key(tenant, line), key_of(tenant, f"totals:{totals_name(line, at)}")]
            then = at + self._offset
            keep = kept_seconds(line, then)
            # Rounded up (the server does not book beyond its own time): nothing leaves a rolling window early.
            arguments += [str(total), str(math.ceil(then)), str(line.bucket_seconds), str(line.buckets), str(keep)]
        answer = await self._scripts.run("settle", keys, arguments)
        self._changed(tenant, int(answer[0]))
        for (line, _, at), before, after in zip(resolution.totals, answer[1::2], answer[2::2], strict=True):
            for percent, amount in line.budget.stages.notify:
                if int(before) < amount <= int(after):
                    self._notify(Crossing(line=line, percent=percent, spent=int(after), at=at + self._offset))

    async def _rehold(self, reservation_id: str, found: _Open) -> None:
        tenant = found.tenant
        keys = [key_of(tenant, name) for name in ("leases", f"hold:{reservation_id}", f"open:{self._replica}")]
        arguments = [reservation_id, "900", self._replica]
        for line, amount in zip(found.lines, found.amounts, strict=True):
            keys.append(account_key(tenant, line))
            arguments += [str(amount), str(line.bucket_seconds)]
        await self._scripts.run("rehold", keys, arguments)

    async def _renew_pots(self, tenant: str, now: float) -> None:
        for old, fresh in self._pots.due(tenant, self._replica, now=now, server=now + self._offset):
            if old is not None:
                await self._told(_Resolution(ids=(old[1],), tenant=old[0], totals=()))
            if fresh is not None:
                if now + self._offset >= (fresh.line.resets_at or float("inf")):
                    # Its window has just ended.
                    self._pots.filled(fresh, taken=False, now=now)
                    continue
                reserved = await self._reserved(fresh.id, [fresh.offer], fresh.offers_at, tenant, now, fresh.lease)
                self._pots.filled(fresh, taken=isinstance(reserved, Reservation), now=now)

    def _queue(self, resolution: _Resolution) -> None:
        self._pending.setdefault(resolution.tenant, deque()).append(resolution)

    def _changed(self, tenant: str, changes: int) -> None:
        """The store has counted so many changes of ours. Answers of a node come in order: fewer than before means that
        it has lost some."""
        if changes < self._changes.get(tenant, 0):
            self._suspect.add(tenant)
        else:
            self._changes[tenant] = changes

    def _is_silent(self, tenant: str) -> bool:
        """Whether the store has not answered for a while, so that this call need not find out once more; now and then one
        does."""
        if self._down.get(tenant, 0) < _MISSES_MAX:
            return False
        now = asyncio.get_running_loop().time()
        if now < self._ask_again_at.get(tenant, 0.0):
            return True
        self._ask_again_at[tenant] = now + _ASK_AGAIN_SECONDS
        return False

    def _answered(self, tenant: str) -> None:
        if self._down.pop(tenant, None):
            log.warning("the shared budget store answers again")

    def _failed(self, tenant: str, error: StoreDown) -> None:
        self.failures += 1
        if tenant not in self._down:
            log.error("the shared budget store does not answer: %s", error)
        now = asyncio.get_running_loop().time()
        if now - self._missed_at.get(tenant, float("-inf")) > _ONE_MISS_SECONDS:
            # Calls that fail together have missed one answer.
            self._missed_at[tenant] = now
            self._down[tenant] = self._down.get(tenant, 0) + 1


def _free(reservation_id: str, offer: Offer, expires_at: float) -> Reservation:
    """No budget meets the request."""
    return Reservation(id=reservation_id, choice=0, lines=(), amounts=(), standings=(), expires_at=expires_at)
