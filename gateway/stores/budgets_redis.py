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
from ..values.budget import Amounts, BudgetExceeded, BudgetLine, Grant, HoldOption, Reservation, ThresholdCrossing
from ..values.errors import Overloaded
from .budget_messages import (
    account_key,
    parse_own_totals,
    parse_reservation,
    reserve_request,
    retention_seconds,
    tenant_key,
    total_name,
)
from .local_allowance import LocalAllowances
from .redis_scripts import TIMEOUT_SECONDS, ScriptRunner, StartTask, StoreUnavailable, log_task_failure
from .replica_totals import ReplicaTotals, TotalReport

log = logging.getLogger(__name__)

# Resolutions that wait for the store. Beyond it new calls are refused: their holds could not be resolved either.
PENDING_MAX = 20_000
_DELIVERY_BATCH_MAX = 128
# A store that comes back without its data is not trusted before every replica has had the time to bring its own.
QUARANTINE_SECONDS = 3
# How often a window may end between asking and reserving before something is wrong with the clocks.
_STALE_RETRIES_MAX = 3
# What a stop waits for what is left to be delivered.
_CLOSE_SECONDS = 3.0
# Holds of an earlier process that are closed in one step.
_ADOPTION_BATCH_MAX = 200
# After so many misses in a row calls are decided without asking, but for one in so many seconds.
_FAILURES_BEFORE_OPEN = 3
_FAILURE_MERGE_SECONDS = 0.02
_PROBE_SECONDS = 0.2
# A grant's id is remembered so long, and not made twice.
_GRANT_RETENTION_SECONDS = 40 * 86_400


class _UnresolvedHold(msgspec.Struct, gc=False):
    tenant: str
    lines: tuple[BudgetLine, ...]
    amounts: list[int]
    expires_at: float
    # False: the store knows nothing of it (it was down, and the budgets allow that).
    stored: bool = True


class _Resolution(Value, frozen=True, kw_only=True):
    """Holds to close, and the totals to report."""

    ids: tuple[str, ...]
    tenant: str
    totals: tuple[TotalReport, ...]
    tombstone: bool = False


class RedisBudgets:
    """The exchange's Budgets on a shared store. `replica` names this process's ledger: the same after every restart.

    `notify` hears what was crossed, `start` runs a task behind the requests. `recall` asks the ledger what was spent on an
    account that was not told of at the start: (line, amount, when); `grants` tells what operators granted. A call waits
    `patience` seconds at most for its tenant's books to be entered.
    """

    def __init__(
        self,
        scripts: ScriptRunner,
        replica: str,
        *,
        start: StartTask,
        notify: Callable[[ThresholdCrossing], None] = lambda crossing: None,
        recall: Callable[[str, float], Iterable[tuple[BudgetLine, int, float]]] = lambda account, now: (),
        grants: Callable[[], Iterable[tuple[str, BudgetLine, Grant]]] = lambda: (),
        quarantine: int = QUARANTINE_SECONDS,
        patience: float = TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scripts = scripts
        self._replica_id = replica
        self._start_task = start
        self._notify = notify
        self._query_ledger = recall
        self._known_grants = grants
        self._joins: dict[str, asyncio.Future[None]] = {}
        self._quarantine_seconds = quarantine
        self._join_timeout_seconds = patience
        self._monotonic = monotonic
        self._holds: dict[str, _UnresolvedHold] = {}
        # By tenant: what one node does not take must not keep the others waiting.
        self._pending_resolutions: dict[str, deque[_Resolution]] = {}
        self._flushing_tenants: set[str] = set()
        self._delivery_running = False
        self._totals = ReplicaTotals()
        self._tenants: set[str] = set()
        self._epochs: dict[str, str] = {}
        self._change_counts: dict[str, int] = {}
        # Tenants where the store has lost writes of ours.
        self._tenants_with_lost_writes: set[str] = set()
        # Accounts that were charged without a hold.
        self._unreported: dict[str, set[tuple[str, str]]] = {}
        self._clock_offset_seconds = 0.0
        self._local_allowances = LocalAllowances()
        # By tenant: how often in a row the store has not answered.
        self._failures_in_a_row: dict[str, int] = {}
        self._probe_at: dict[str, float] = {}
        self._last_failure_at: dict[str, float] = {}
        self.failures = 0
        self.unbudgeted_calls = 0

    async def reserve(
        self,
        reservation_id: str,
        offers_at: Callable[[float], Iterable[HoldOption]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | BudgetExceeded:
        """Set aside the first offer that fits, as the store's clock has it. If the store does not answer in time the
        budgets say what happens; raises Overloaded where one of them is closed."""
        if self.backlog >= PENDING_MAX:
            raise Overloaded("The shared budget store is too far behind; no call is made unbudgeted.")
        offers = list(offers_at(now + self._clock_offset_seconds))
        if not any(offer.lines for offer in offers):
            return self._add_hold(
                reservation_id, tenant, _unbudgeted_reservation(reservation_id, offers[0], now + lease)
            )
        if self._breaker_is_open(tenant):
            return self._reserve_without_store(reservation_id, offers, tenant, now, lease)
        try:
            reserved = await self._reserve(reservation_id, offers, offers_at, tenant, now, lease)
        except StoreUnavailable as error:
            self._release(reservation_id, tenant)
            self._record_failure(tenant, error)
            return self._reserve_without_store(
                reservation_id, list(offers_at(now + self._clock_offset_seconds)), tenant, now, lease
            )
        except BaseException:
            # The caller hung up while we waited.
            self._release(reservation_id, tenant)
            raise
        self._record_success(tenant)
        return reserved if isinstance(reserved, BudgetExceeded) else self._add_hold(reservation_id, tenant, reserved)

    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """Hold more for a call that goes on; False if it does not fit, or the store does not answer in time and one of the
        call's budgets is closed."""
        found = self._holds.get(reservation_id)
        if found is None:
            return False
        if not found.stored:
            return True
        if found.lines:
            arguments = [str(number)]
            for line, amount in zip(found.lines, more, strict=True):
                ceiling = 2**53 if line.budget.is_shadow else line.ceiling
                arguments += [str(amount), str(ceiling), str(line.bucket_seconds), str(line.bucket_count)]
            keys = [
                tenant_key(found.tenant, f"hold:{reservation_id}"),
                *[account_key(found.tenant, one) for one in found.lines],
            ]
            try:
                if not await self._scripts.run("extend", keys, arguments):
                    return False
            except StoreUnavailable as error:
                self._record_failure(found.tenant, error)
                return all(line.budget.store_failure_mode != "closed" for line in found.lines)
        found.amounts = [held + amount for held, amount in zip(found.amounts, more, strict=True)]
        return True

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool:
        """Queue the resolution; False if it was resolved before."""
        found = self._holds.pop(reservation_id, None)
        if found is None:
            return False
        amounts = [(line, spent[line.budget.measure]) for line in found.lines]
        totals = tuple([self._totals.add(found.tenant, line, amount, now) for line, amount in amounts if amount])
        if not found.stored:
            self._local_allowances.settle(reservation_id, spent, now=now)
            # Told together when the store is back: however many calls there were, an account has one total.
            places = {(found.tenant, total_name(line, at)) for line, _, at in totals}
            self._unreported.setdefault(found.tenant, set()).update(places)
        elif found.lines:
            self._queue(_Resolution(ids=(reservation_id,), tenant=found.tenant, totals=totals))
            self._start_delivery()
        return True

    def restore_spent(self, tenant: str, line: BudgetLine, amount: int, *, at: float) -> None:
        """What the ledger says this replica has spent on an account; told to the store when its tenant is entered."""
        self._totals.add(tenant, line, amount, at)

    def expect_tenants(self, tenants: Iterable[str]) -> None:
        """These tenants will call: connect before they do."""
        self._tenants.update(tenants)

    async def join(self, tenant: str, *, now: float, patient: bool = False) -> None:
        """Join a tenant's books, and bring what this replica has spent and holds there. Raises StoreDown.

        One enters for all who wait; they wait no longer than for any answer, unless they are `patient`.
        """
        self._tenants.add(tenant)
        entered = self._joins.get(tenant)
        if entered is None:
            entered = self._joins[tenant] = asyncio.get_running_loop().create_future()
            self._start_task("budget-tenant", self._run_join(tenant, entered, now), log_task_failure)
        try:
            async with asyncio.timeout(None if patient else self._join_timeout_seconds):
                await asyncio.shield(entered)
        except TimeoutError as error:
            raise StoreUnavailable("entering takes longer than a call may wait") from error

    async def _run_join(self, tenant: str, entered: "asyncio.Future[None]", now: float) -> None:
        """`entered` hears how it went."""
        try:
            await self._join_tenant(tenant, now)
            entered.set_result(None)
        except StoreUnavailable as error:
            entered.set_exception(error)
            # Nobody may be left to hear it.
            entered.exception()
        finally:
            del self._joins[tenant]
            if not entered.done():
                # A bug, or the end: whoever waits is not to take it for its own caller's hang-up.
                entered.set_exception(StoreUnavailable("entering was broken off"))
                entered.exception()

    async def _join_tenant(self, tenant: str, now: float) -> None:
        began, known = self._monotonic(), self._epochs.get(tenant, "")
        changes, suspect = self._change_counts.get(tenant, 0), tenant in self._tenants_with_lost_writes
        spent = bool(known) or any(amount for _, amount, _ in self._totals.of_tenant(tenant))
        keys = [tenant_key(tenant, "epoch"), tenant_key(tenant, "opens"), tenant_key(tenant, "leases")]
        arguments = [
            secrets.token_hex(8),
            known,
            str(self._quarantine_seconds),
            tenant_key(tenant, ""),
            self._replica_id,
            str(int(spent)),
        ]
        answer = await self._scripts.run("join", keys, arguments)
        # By this the server's windows are told, whatever the clock here says.
        self._clock_offset_seconds = int(answer[1]) / 1000 - (now + self._monotonic() - began)
        epoch = answer[0].decode()
        # Newest writes may be lost without the epoch: a node that took over, a file that was written late.
        if epoch != known or suspect or int(answer[2]) < changes:
            self._change_counts[tenant] = int(answer[2])
            self._tenants_with_lost_writes.discard(tenant)
            await self._restore_store(tenant, first=not known, now=now)
            self._epochs[tenant] = epoch

    async def _restore_store(self, tenant: str, *, first: bool, now: float) -> None:
        """What this replica has spent, and its holds: those of an earlier process are closed, ours are made anew."""
        if first:
            await self._close_earlier_holds(tenant, now)
        else:
            log.error("the shared budget store has lost writes; this replica brings back what it knows")
        told = self._totals.of_tenant(tenant)
        for start in range(0, len(told), _DELIVERY_BATCH_MAX):
            batch = tuple(told[start : start + _DELIVERY_BATCH_MAX])
            await self._report(_Resolution(ids=(), tenant=tenant, totals=batch))
        for reservation_id in [name for name, found in self._holds.items() if found.tenant == tenant]:
            # Looked up when its turn comes: it may have ended meanwhile, and must not come back then.
            found = self._holds.get(reservation_id)
            if found is not None and found.stored and found.lines:
                await self._restore_hold(reservation_id, found)
        for place, line, grant in self._known_grants():
            if place == tenant:
                await self._apply_grant(tenant, line, grant)

    async def _close_earlier_holds(self, tenant: str, now: float) -> None:
        """Close what an earlier process on this ledger held, in one step with what the ledger says of these accounts:
        what was open there stands in the ledger, charged as held or as it ended."""
        keys = [tenant_key(tenant, f"open:{self._replica_id}")]
        while True:
            owned = await self._scripts.run("owned", keys, [tenant_key(tenant, ""), str(_ADOPTION_BATCH_MAX)])
            old = [one for one in owned if one[0].decode() not in self._holds]
            if not old:
                return
            prefix = tenant_key(tenant, "account:")
            touched = {account.decode().removeprefix(prefix) for one in old for account in one[1:]}
            told = [one for one in self._totals.of_tenant(tenant) if one[0].account in touched]
            for account in touched - {one[0].account for one in told}:
                # A session that nobody names is not looked for until it is asked for.
                for line, amount, at in await asyncio.to_thread(self._query_ledger, account, now):
                    told.append(self._totals.add(tenant, line, amount, at))
            ids = tuple([one[0].decode() for one in old])
            log.warning("%d holds of an earlier process are closed as the ledger has them", len(ids))
            await self._report(_Resolution(ids=ids, tenant=tenant, totals=tuple(told), tombstone=True))
            if len(owned) < _ADOPTION_BATCH_MAX:
                return

    async def maintain(self, now: float) -> None:
        """Now and then: see whether the store answers and still has its data, expire leases, renew local shares."""
        for tenant in list(self._tenants):
            try:
                await self.join(tenant, now=now, patient=True)
                self._record_success(tenant)
                if not self._pending_resolutions.get(tenant) and not self._unreported.get(tenant):
                    # What was spent from the pots has been told.
                    await self._renew_allowances(tenant, now)
            except StoreUnavailable as error:
                self._record_failure(tenant, error)
        self._start_delivery()
        self._totals.prune(now=now + self._clock_offset_seconds)

    async def flush(self) -> None:
        """Deliver what is queued; what the store does not take stays queued."""
        tenants = [
            tenant for tenant in {*self._pending_resolutions, *self._unreported} if tenant not in self._flushing_tenants
        ]
        self._flushing_tenants.update(tenants)
        try:
            await asyncio.gather(*[self._flush(tenant) for tenant in tenants])
            await asyncio.gather(*[self._flush_unreported(tenant) for tenant in tenants])
        finally:
            self._flushing_tenants.difference_update(tenants)

    async def _flush(self, tenant: str) -> None:
        pending = self._pending_resolutions.get(tenant)
        while pending:
            batch = [pending[place] for place in range(min(_DELIVERY_BATCH_MAX, len(pending)))]
            told = await asyncio.gather(*[self._report(resolution) for resolution in batch], return_exceptions=True)
            wrong = next((one for one in told if isinstance(one, BaseException)), None)
            if isinstance(wrong, StoreUnavailable):
                # All of it is told again: totals do not mind.
                self._record_failure(tenant, wrong)
                return
            if wrong is not None:
                raise wrong
            for _ in batch:
                pending.popleft()
            self._record_success(tenant)
        self._pending_resolutions.pop(tenant, None)

    async def _flush_unreported(self, tenant: str) -> None:
        dirty = self._unreported.get(tenant, set())
        while dirty:
            places = list(dirty)[:_DELIVERY_BATCH_MAX]
            told = tuple(self._totals.get_many(places))
            try:
                await self._report(_Resolution(ids=(), tenant=tenant, totals=told))
            except StoreUnavailable as error:
                self._record_failure(tenant, error)
                return
            dirty.difference_update(places)
        self._unreported.pop(tenant, None)

    async def grant(self, tenant: str, line: BudgetLine, grant: Grant, *, fresh: bool) -> bool:
        """Allow more on one account; False if this grant was made before. Raises Overloaded."""
        try:
            return await self._apply_grant(tenant, line, grant)
        except StoreUnavailable as error:
            self._record_failure(tenant, error)
            raise Overloaded("The shared budget store does not answer; ask again with the same id.") from error

    async def _apply_grant(self, tenant: str, line: BudgetLine, grant: Grant) -> bool:
        until = "" if grant.until is None else str(int(grant.until + self._clock_offset_seconds))
        keep = (
            retention_seconds(line, self._clock_offset_seconds + line.starts_at)
            if line.resets_at is None
            else retention_seconds(line, line.resets_at)
        )
        arguments = [
            str(grant.amount),
            until,
            str(_GRANT_RETENTION_SECONDS),
            str(keep and keep + _GRANT_RETENTION_SECONDS),
        ]
        keys = [account_key(tenant, line), tenant_key(tenant, f"grant:{grant.id}")]
        return bool(await self._scripts.run("grant", keys, arguments))

    async def balance(self, tenant: str, line: BudgetLine, *, now: float) -> tuple[int, int, int]:
        """(spent, held, granted) of the line's account now. Raises Overloaded."""
        key = account_key(tenant, line)
        try:
            flat = await self._scripts.command(key, "HGETALL", key)
        except StoreUnavailable as error:
            self._record_failure(tenant, error)
            raise Overloaded("The shared budget store does not answer.") from error
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        fields = {name.decode(): int(value) for name, value in pairs}
        at, spent = now + self._clock_offset_seconds, fields.get("spent", 0)
        if line.bucket_seconds:
            oldest = int(at) // line.bucket_seconds - line.bucket_count + 1
            old = [amount for name, amount in fields.items() if name.startswith("b:") and int(name[2:]) < oldest]
            spent -= sum(old)
        grace = fields.get("grace", 0) if at < fields.get("grace_until", 0) else 0
        return spent, fields.get("held", 0), fields.get("extra", 0) + grace

    @property
    def is_failing(self) -> bool:
        """Whether the store, or the node of some tenant, does not answer."""
        return bool(self._failures_in_a_row)

    @property
    def backlog(self) -> int:
        """Resolutions that the store has not yet taken."""
        return sum(map(len, self._pending_resolutions.values())) + sum(map(len, self._unreported.values()))

    @property
    def open_holds(self) -> int:
        """Reservations of this process that wait for their resolution."""
        return len(self._holds)

    async def close(self) -> None:
        """Deliver what can be delivered and hang up. The tasks that ran behind requests have been stopped by now."""
        for tenant, pot_id in self._local_allowances.release_all():
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

    async def _reserve(
        self,
        reservation_id: str,
        offers: list[HoldOption],
        offers_at: Callable[[float], Iterable[HoldOption]],
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | BudgetExceeded:
        for _ in range(_STALE_RETRIES_MAX):
            if tenant not in self._epochs or tenant in self._tenants_with_lost_writes:
                await self.join(tenant, now=now)
            lines = list({line.account: line for offer in offers for line in offer.lines}.values())
            asked = reserve_request(
                reservation_id,
                offers,
                lines,
                replica=self._replica_id,
                epoch=self._epochs.get(tenant, ""),
                lease=lease,
                at=now + self._clock_offset_seconds,
                unknown=lambda line: self._totals.needs_sync(tenant, line),
            )
            fixed = ("leases", "epoch", "opens", f"hold:{reservation_id}", f"tomb:{reservation_id}")
            keys = [*[tenant_key(tenant, name) for name in fixed], *[account_key(tenant, line) for line in lines]]
            answer = await self._scripts.run("reserve", keys, [asked, tenant_key(tenant, "")])
            kind = answer[0]
            if kind == b"yes":
                self._check_change_count(tenant, int(answer[4]))
                for line, total in parse_own_totals(offers[int(answer[1])], answer):
                    self._totals.raise_to_store(tenant, line, total, now)
                return parse_reservation(reservation_id, offers, lines, answer, now + lease)
            if kind == b"no":
                offer, place = offers[int(answer[1])], int(answer[2])
                wanted = offer.amounts[place]
                spent, held, extra = int(answer[3]), int(answer[4]), int(answer[5])
                return BudgetExceeded(line=offer.lines[place], spent=spent, held=held, granted=extra, requested=wanted)
            if kind == b"stale":
                # A window has ended, or this machine's clock is off: by the server's time these are other lines.
                self._clock_offset_seconds = int(answer[1]) / 1000 - now
                offers = list(offers_at(now + self._clock_offset_seconds))
            elif kind == b"epoch":
                await self.join(tenant, now=now)
            else:
                raise StoreUnavailable("the store has lost its data and waits for its replicas")
        raise StoreUnavailable("the store's clock and this machine's do not agree")

    def _add_hold(self, reservation_id: str, tenant: str, reserved: Reservation, *, stored: bool = True) -> Reservation:
        self._holds[reservation_id] = _UnresolvedHold(
            tenant, reserved.lines, list(reserved.amounts), reserved.expires_at, stored
        )
        if stored:
            self._local_allowances.mark_used(tenant, reserved.lines)
        return reserved

    def _reserve_without_store(
        self, reservation_id: str, offers: Sequence[HoldOption], tenant: str, now: float, lease: float
    ) -> Reservation:
        """What the budgets allow while the store is down: nothing, anything, or this replica's own share."""
        for choice, offer in enumerate(offers):
            modes = {line.budget.store_failure_mode for line in offer.lines if not line.budget.is_shadow}
            if "closed" in modes:
                continue
            if "local" in modes and not self._local_allowances.reserve(
                reservation_id, tenant, offer, now=now, lease=lease
            ):
                continue
            self.unbudgeted_calls += 1
            reserved = Reservation(
                id=reservation_id,
                option_index=choice,
                lines=offer.lines,
                amounts=tuple([amount or 0 for amount in offer.amounts]),
                balances=(),
                expires_at=now + lease,
            )
            return self._add_hold(reservation_id, tenant, reserved, stored=False)
        raise Overloaded("The shared budget store does not answer; no call is made unbudgeted.")

    def _release(self, reservation_id: str, tenant: str) -> None:
        """The hold may have been taken all the same: undo it, whenever the store hears of it."""
        self._queue(_Resolution(ids=(reservation_id,), tenant=tenant, totals=(), tombstone=True))
        self._start_delivery()

    def _start_delivery(self) -> None:
        if (self._pending_resolutions or self._unreported) and not self._delivery_running:
            self._delivery_running = True
            self._start_task("budget-resolutions", self._run_delivery(), log_task_failure)

    async def _run_delivery(self) -> None:
        try:
            await self.flush()
        finally:
            self._delivery_running = False

    async def _report(self, resolution: _Resolution) -> None:
        tenant, ids = resolution.tenant, resolution.ids
        keys = [tenant_key(tenant, "leases")]
        arguments = [self._replica_id, tenant_key(tenant, ""), str(int(resolution.tombstone)), str(len(ids)), *ids]
        for line, total, at in resolution.totals:
            # Totals by this replica's own clock, as its ledger has them; booked by the server's.
            keys += [account_key(tenant, line), tenant_key(tenant, f"totals:{total_name(line, at)}")]
            then = at + self._clock_offset_seconds
            keep = retention_seconds(line, then)
            # Rounded up (the server does not book beyond its own time): nothing leaves a rolling window early.
            arguments += [str(total), str(math.ceil(then)), str(line.bucket_seconds), str(line.bucket_count), str(keep)]
        answer = await self._scripts.run("settle", keys, arguments)
        self._check_change_count(tenant, int(answer[0]))
        for (line, _, at), before, after in zip(resolution.totals, answer[1::2], answer[2::2], strict=True):
            for percent, amount in line.budget.thresholds.notify_at:
                if int(before) < amount <= int(after):
                    self._notify(
                        ThresholdCrossing(
                            line=line, percent=percent, spent=int(after), crossed_at=at + self._clock_offset_seconds
                        )
                    )

    async def _restore_hold(self, reservation_id: str, found: _UnresolvedHold) -> None:
        tenant = found.tenant
        keys = [tenant_key(tenant, name) for name in ("leases", f"hold:{reservation_id}", f"open:{self._replica_id}")]
        arguments = [reservation_id, "900", self._replica_id]
        for line, amount in zip(found.lines, found.amounts, strict=True):
            keys.append(account_key(tenant, line))
            arguments += [str(amount), str(line.bucket_seconds)]
        await self._scripts.run("rehold", keys, arguments)

    async def _renew_allowances(self, tenant: str, now: float) -> None:
        for old, fresh in self._local_allowances.plan_renewals(
            tenant, self._replica_id, now=now, server=now + self._clock_offset_seconds
        ):
            if old is not None:
                await self._report(_Resolution(ids=(old[1],), tenant=old[0], totals=()))
            if fresh is not None:
                if now + self._clock_offset_seconds >= (fresh.line.resets_at or float("inf")):
                    # Its window has just ended.
                    self._local_allowances.record_renewal(fresh, taken=False, now=now)
                    continue
                reserved = await self._reserve(fresh.id, [fresh.offer], fresh.offers_at, tenant, now, fresh.lease)
                self._local_allowances.record_renewal(fresh, taken=isinstance(reserved, Reservation), now=now)

    def _queue(self, resolution: _Resolution) -> None:
        self._pending_resolutions.setdefault(resolution.tenant, deque()).append(resolution)

    def _check_change_count(self, tenant: str, changes: int) -> None:
        """The store has counted so many changes of ours. Answers of a node come in order: fewer than before means that
        it has lost some."""
        if changes < self._change_counts.get(tenant, 0):
            self._tenants_with_lost_writes.add(tenant)
        else:
            self._change_counts[tenant] = changes

    def _breaker_is_open(self, tenant: str) -> bool:
        """Whether the store has not answered for a while, so that this call need not find out once more; now and then one
        does."""
        if self._failures_in_a_row.get(tenant, 0) < _FAILURES_BEFORE_OPEN:
            return False
        now = asyncio.get_running_loop().time()
        if now < self._probe_at.get(tenant, 0.0):
            return True
        self._probe_at[tenant] = now + _PROBE_SECONDS
        return False

    def _record_success(self, tenant: str) -> None:
        if self._failures_in_a_row.pop(tenant, None):
            log.warning("the shared budget store answers again")

    def _record_failure(self, tenant: str, error: StoreUnavailable) -> None:
        self.failures += 1
        if tenant not in self._failures_in_a_row:
            log.error("the shared budget store does not answer: %s", error)
        now = asyncio.get_running_loop().time()
        if now - self._last_failure_at.get(tenant, float("-inf")) > _FAILURE_MERGE_SECONDS:
            # Calls that fail together have missed one answer.
            self._last_failure_at[tenant] = now
            self._failures_in_a_row[tenant] = self._failures_in_a_row.get(tenant, 0) + 1


def _unbudgeted_reservation(reservation_id: str, offer: HoldOption, expires_at: float) -> Reservation:
    """No budget meets the request."""
    return Reservation(id=reservation_id, option_index=0, lines=(), amounts=(), balances=(), expires_at=expires_at)
