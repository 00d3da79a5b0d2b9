"""Budgets shared by replicas on Redis or Valkey, one script per transition.

Reserving awaits the store. Resolving only queues; the resolution is delivered in the background until the store accepts
it. A replica reports its spend on an account as one growing total, so that delivering it twice, late, or to a server
that lost its newest writes changes nothing, and the spend always equals the sum of the ledgers. An unresolved hold is
charged in full when its lease expires by the server's clock. All keys of a tenant share one hash tag. docs/adr/0009
describes the protocol and its bounds; `lua/` holds the transitions.
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
    parse_exceeded,
    parse_own_totals,
    parse_reservation,
    reserve_request,
    retention_seconds,
    tenant_key,
    total_name,
)
from .local_allowance import LocalAllowances
from .redis_scripts import TIMEOUT_SECONDS, ScriptRunner, StartTask, StoreUnavailable, log_task_failure
from .release_waiters import ReleaseWaiters
from .replica_totals import ReplicaTotals, TotalReport

log = logging.getLogger(__name__)

# Resolutions queued for the store. Beyond it new calls are refused: their holds could not be resolved either.
PENDING_MAX = 20_000
_DELIVERY_BATCH_MAX = 128
# After losing its data the store accepts no reservations until every replica has had time to restore its own.
QUARANTINE_SECONDS = 3
# Retries for windows that end while reserving; more than that means that the clocks disagree.
_STALE_RETRIES_MAX = 3
# Time for the final delivery at shutdown.
_CLOSE_SECONDS = 3.0
# Holds of an earlier process that are released in one step.
_ADOPTION_BATCH_MAX = 200
# After this many failures in a row the store is bypassed, except for one probe per _PROBE_SECONDS.
_FAILURES_BEFORE_OPEN = 3
_FAILURE_MERGE_SECONDS = 0.02
_PROBE_SECONDS = 0.2
# A grant id is remembered this long, so that a grant is applied once.
_GRANT_RETENTION_SECONDS = 40 * 86_400


class _UnresolvedHold(msgspec.Struct, gc=False):
    tenant: str
    lines: tuple[BudgetLine, ...]
    amounts: list[int]
    expires_at: float
    # False: held without the store, which was down.
    stored: bool = True


class _Resolution(Value, frozen=True, kw_only=True):
    """Holds to release and totals to report.

    ids: reservation ids.
    tenant: tenant of the holds and totals.
    totals: this replica's totals.
    tombstone: reject a reservation with one of the ids that arrives later.
    lines: lines on which something is released.
    """

    ids: tuple[str, ...]
    tenant: str
    totals: tuple[TotalReport, ...]
    tombstone: bool = False
    lines: tuple[BudgetLine, ...] = ()


class RedisBudgets:
    """The pipeline's budgets on a shared budget store.

    replica: id of this process's ledger, the same after every restart.
    start: runs a background task.
    notify: receives threshold crossings.
    spent_of_account: queries the ledger for the spend of an account: (line, amount, seconds since the epoch).
    grants: the active grants of operators: (tenant, line, grant).
    quarantine: seconds without reservations after the store lost its data.
    timeout_seconds: seconds that a call waits at most to join its tenant.
    """

    def __init__(  # noqa: PLR0913 - wired once, in services/budgets.py
        self,
        scripts: ScriptRunner,
        replica: str,
        *,
        start: StartTask,
        notify: Callable[[ThresholdCrossing], None] = lambda crossing: None,
        spent_of_account: Callable[[str, float], Iterable[tuple[BudgetLine, int, float]]] = lambda account, now: (),
        grants: Callable[[], Iterable[tuple[str, BudgetLine, Grant]]] = lambda: (),
        quarantine: int = QUARANTINE_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scripts = scripts
        self._replica_id = replica
        self._start_task = start
        self._notify = notify
        self._query_ledger = spent_of_account
        self._known_grants = grants
        self._joins: dict[str, asyncio.Future[None]] = {}
        self._quarantine_seconds = quarantine
        self._join_timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._holds: dict[str, _UnresolvedHold] = {}
        # By tenant, so that one failing node does not block the others.
        self._pending_resolutions: dict[str, deque[_Resolution]] = {}
        self._flushing_tenants: set[str] = set()
        self._delivery_running = False
        self._totals = ReplicaTotals()
        self._tenants: set[str] = set()
        self._epochs: dict[str, str] = {}
        self._change_counts: dict[str, int] = {}
        # Tenants whose store lost writes of this replica.
        self._tenants_with_lost_writes: set[str] = set()
        # Accounts charged without the store, by tenant.
        self._unreported: dict[str, set[tuple[str, str]]] = {}
        self._clock_offset_seconds = 0.0
        self._local_allowances = LocalAllowances()
        self._release_waiters = ReleaseWaiters()
        # Failures in a row, by tenant.
        self._failures_in_a_row: dict[str, int] = {}
        self._probe_at: dict[str, float] = {}
        self._last_failure_at: dict[str, float] = {}
        self.failures = 0
        self.unbudgeted_calls = 0

    async def reserve(
        self,
        reservation_id: str,
        options_at: Callable[[float], Iterable[HoldOption]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | BudgetExceeded:
        """Reserve the first offer that fits, by the store's clock.

        If the store does not answer in time, each budget's `on_store_failure` decides. Raises Overloaded where one is
        closed.
        """
        if self.backlog >= PENDING_MAX:
            raise Overloaded("Budget store backlog is full; no unbudgeted call is made.")
        offers = list(options_at(now + self._clock_offset_seconds))
        if not any(offer.lines for offer in offers):
            return self._add_hold(reservation_id, tenant, _unbudgeted_reservation(reservation_id, now + lease))
        if self._breaker_is_open(tenant):
            return self._reserve_without_store(reservation_id, offers, tenant, now, lease)
        try:
            reserved = await self._reserve(reservation_id, offers, options_at, tenant, now, lease)
        except StoreUnavailable as error:
            self._release(reservation_id, tenant)
            self._record_failure(tenant, error)
            return self._reserve_without_store(
                reservation_id, list(options_at(now + self._clock_offset_seconds)), tenant, now, lease
            )
        except BaseException:
            # The caller disconnected meanwhile.
            self._release(reservation_id, tenant)
            raise
        self._record_success(tenant)
        return reserved if isinstance(reserved, BudgetExceeded) else self._add_hold(reservation_id, tenant, reserved)

    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """Extend a running call's hold; False if it does not fit.

        Also False if the store does not answer in time and one of the call's budgets is closed.
        """
        hold = self._holds.get(reservation_id)
        if hold is None:
            return False
        if not hold.stored:
            return True
        if hold.lines:
            arguments = [str(number)]
            for line, amount in zip(hold.lines, more, strict=True):
                ceiling = 2**53 if line.budget.is_shadow else line.ceiling
                arguments += [str(amount), str(ceiling), str(line.bucket_seconds), str(line.bucket_count)]
            keys = [
                tenant_key(hold.tenant, f"hold:{reservation_id}"),
                *[account_key(hold.tenant, line) for line in hold.lines],
            ]
            try:
                if not await self._scripts.run("extend", keys, arguments):
                    return False
            except StoreUnavailable as error:
                self._record_failure(hold.tenant, error)
                return all(line.budget.store_failure_mode != "closed" for line in hold.lines)
        hold.amounts = [held + amount for held, amount in zip(hold.amounts, more, strict=True)]
        return True

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool:
        """Queue the resolution; False if already resolved."""
        hold = self._holds.pop(reservation_id, None)
        if hold is None:
            return False
        amounts = [(line, spent[line.budget.measure]) for line in hold.lines]
        totals = tuple([self._totals.add(hold.tenant, line, amount, now) for line, amount in amounts if amount])
        if not hold.stored:
            self._local_allowances.settle(reservation_id, spent, now=now)
            # Reported together once the store is back: an account has one total, however many calls there were.
            total_keys = {(hold.tenant, total_name(line, at)) for line, _, at in totals}
            self._unreported.setdefault(hold.tenant, set()).update(total_keys)
        elif hold.lines:
            self._queue(_Resolution(ids=(reservation_id,), tenant=hold.tenant, totals=totals, lines=hold.lines))
            self._start_delivery()
        return True

    async def wait_for_release(
        self, line: BudgetLine, *, tenant: str, since: float, seconds: float, seconds_max: float
    ) -> None:
        """Wait until this replica has delivered a settlement on the line's account; other replicas' wake nothing."""
        account = account_key(tenant, line)
        await self._release_waiters.wait(account, since=since, seconds=seconds, seconds_max=seconds_max)

    def correct(self, changes: Sequence[tuple[BudgetLine, int]], *, tenant: str, at: float, now: float) -> None:
        """Queue changes of what accounts were charged `at` an earlier time; none once that has left its window."""
        server_now = now + self._clock_offset_seconds
        totals = tuple(
            [
                self._totals.add(tenant, line, change, at)
                for line, change in changes
                if (line.resets_at is None or line.resets_at > server_now) and line.keep_until > server_now
            ]
        )
        if totals:
            # Maintained from now on: the store may lose its data.
            self._tenants.add(tenant)
            self._queue(_Resolution(ids=(), tenant=tenant, totals=totals))
            self._start_delivery()

    def restore_spent(self, tenant: str, line: BudgetLine, amount: int, *, at: float) -> None:
        """Add the ledger's spend on an account; reported when its tenant is joined."""
        self._totals.add(tenant, line, amount, at)

    def expect_tenants(self, tenants: Iterable[str]) -> None:
        """Connect to these tenants ahead of their first call."""
        self._tenants.update(tenants)

    async def join(self, tenant: str, *, now: float, patient: bool = False) -> None:
        """Join a tenant and restore this replica's state. Raises StoreUnavailable.

        Concurrent callers share one join and wait for it no longer than `patience`, unless `patient`.
        """
        self._tenants.add(tenant)
        joined = self._joins.get(tenant)
        if joined is None:
            joined = self._joins[tenant] = asyncio.get_running_loop().create_future()
            self._start_task("budget-tenant", self._run_join(tenant, joined, now), log_task_failure)
        try:
            async with asyncio.timeout(None if patient else self._join_timeout_seconds):
                await asyncio.shield(joined)
        except TimeoutError as error:
            raise StoreUnavailable("joining the tenant timed out") from error

    async def _run_join(self, tenant: str, joined: "asyncio.Future[None]", now: float) -> None:
        """Join the tenant and resolve the future."""
        try:
            await self._join_tenant(tenant, now)
            joined.set_result(None)
        except StoreUnavailable as error:
            joined.set_exception(error)
            # Mark it as retrieved: there may be no waiter left.
            joined.exception()
        finally:
            del self._joins[tenant]
            if not joined.done():
                # A bug or the shutdown: waiters must not take it for their own cancellation.
                joined.set_exception(StoreUnavailable("joining the tenant was cancelled"))
                joined.exception()

    async def _join_tenant(self, tenant: str, now: float) -> None:
        started, known_epoch = self._monotonic(), self._epochs.get(tenant, "")
        change_count, has_lost_writes = self._change_counts.get(tenant, 0), tenant in self._tenants_with_lost_writes
        has_spend = bool(known_epoch) or any(amount for _, amount, _ in self._totals.of_tenant(tenant))
        keys = [tenant_key(tenant, "epoch"), tenant_key(tenant, "opens"), tenant_key(tenant, "leases")]
        arguments = [
            secrets.token_hex(8),
            known_epoch,
            str(self._quarantine_seconds),
            tenant_key(tenant, ""),
            self._replica_id,
            str(int(has_spend)),
        ]
        answer = await self._scripts.run("join_tenant", keys, arguments)
        # Budget windows follow the server's clock.
        self._clock_offset_seconds = int(answer[1]) / 1000 - (now + self._monotonic() - started)
        epoch = answer[0].decode()
        # Newest writes can be lost while the epoch survives: a failover, a late append-only file.
        if epoch != known_epoch or has_lost_writes or int(answer[2]) < change_count:
            self._change_counts[tenant] = int(answer[2])
            self._tenants_with_lost_writes.discard(tenant)
            await self._restore_store(tenant, first=not known_epoch, now=now)
            self._epochs[tenant] = epoch

    async def _restore_store(self, tenant: str, *, first: bool, now: float) -> None:
        """Report this replica's spend and restore its holds.

        Holds of an earlier process are released.
        """
        if first:
            await self._release_earlier_holds(tenant, now)
        else:
            log.error("budget_store_writes_lost tenant=%s action=restore_from_replica", tenant)
        totals = self._totals.of_tenant(tenant)
        for start in range(0, len(totals), _DELIVERY_BATCH_MAX):
            batch = tuple(totals[start : start + _DELIVERY_BATCH_MAX])
            await self._report(_Resolution(ids=(), tenant=tenant, totals=batch))
        for reservation_id in [name for name, hold in self._holds.items() if hold.tenant == tenant]:
            # Looked up again here: it may have ended meanwhile and must not be restored then.
            hold = self._holds.get(reservation_id)
            if hold is not None and hold.stored and hold.lines:
                await self._restore_hold(reservation_id, hold)
        for grant_tenant, line, grant in self._known_grants():
            if grant_tenant == tenant:
                await self._apply_grant(tenant, line, grant)

    async def _release_earlier_holds(self, tenant: str, now: float) -> None:
        """Release holds of an earlier process, in one step with the ledger's totals.

        The ledger has those calls already, charged as held or as they ended.
        """
        keys = [tenant_key(tenant, f"open:{self._replica_id}")]
        while True:
            listed = await self._scripts.run("list_holds", keys, [tenant_key(tenant, ""), str(_ADOPTION_BATCH_MAX)])
            earlier = [hold for hold in listed if hold[0].decode() not in self._holds]
            if not earlier:
                return
            prefix = tenant_key(tenant, "account:")
            accounts = {account.decode().removeprefix(prefix) for hold in earlier for account in hold[1:]}
            totals = [total for total in self._totals.of_tenant(tenant) if total[0].account in accounts]
            for account in accounts - {total[0].account for total in totals}:
                # Sessions without a caller's id are not restored at the start.
                for line, amount, at in await asyncio.to_thread(self._query_ledger, account, now):
                    totals.append(self._totals.add(tenant, line, amount, at))
            ids = tuple([hold[0].decode() for hold in earlier])
            log.warning("earlier_holds_released tenant=%s count=%d", tenant, len(ids))
            await self._report(_Resolution(ids=ids, tenant=tenant, totals=tuple(totals), tombstone=True))
            if len(listed) < _ADOPTION_BATCH_MAX:
                return

    async def maintain(self, now: float) -> None:
        """Check the store and its data, expire leases, renew local allowances."""
        for tenant in list(self._tenants):
            try:
                await self.join(tenant, now=now, patient=True)
                self._record_success(tenant)
                if not self._pending_resolutions.get(tenant) and not self._unreported.get(tenant):
                    # All spend from the allowances is reported.
                    await self._renew_allowances(tenant, now)
            except StoreUnavailable as error:
                self._record_failure(tenant, error)
        self._start_delivery()
        self._totals.prune(now=now + self._clock_offset_seconds)

    async def flush(self) -> None:
        """Deliver what is queued; what the store does not accept stays queued."""
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
            batch = [pending[index] for index in range(min(_DELIVERY_BATCH_MAX, len(pending)))]
            results = await asyncio.gather(*[self._report(resolution) for resolution in batch], return_exceptions=True)
            error = next((result for result in results if isinstance(result, BaseException)), None)
            if isinstance(error, StoreUnavailable):
                # The whole batch is repeated; growing totals make that harmless.
                self._record_failure(tenant, error)
                return
            if error is not None:
                raise error
            for _ in batch:
                pending.popleft()
            self._record_success(tenant)
            if self._release_waiters:
                lines = [line for resolution in batch for line in resolution.lines]
                self._release_waiters.wake([account_key(tenant, line) for line in lines])
        self._pending_resolutions.pop(tenant, None)

    async def _flush_unreported(self, tenant: str) -> None:
        unreported = self._unreported.get(tenant, set())
        while unreported:
            total_keys = list(unreported)[:_DELIVERY_BATCH_MAX]
            totals = tuple(self._totals.get_many(total_keys))
            try:
                await self._report(_Resolution(ids=(), tenant=tenant, totals=totals))
            except StoreUnavailable as error:
                self._record_failure(tenant, error)
                return
            unreported.difference_update(total_keys)
        self._unreported.pop(tenant, None)

    async def grant(self, tenant: str, line: BudgetLine, grant: Grant, *, fresh: bool) -> bool:
        """Grant more on one account; False if applied before. Raises Overloaded."""
        try:
            return await self._apply_grant(tenant, line, grant)
        except StoreUnavailable as error:
            self._record_failure(tenant, error)
            raise Overloaded("Budget store unavailable; retry with the same id.") from error

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
            raise Overloaded("Budget store unavailable.") from error
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        fields = {name.decode(): int(value) for name, value in pairs}
        at, spent = now + self._clock_offset_seconds, fields.get("spent", 0)
        if line.bucket_seconds:
            oldest = int(at) // line.bucket_seconds - line.bucket_count + 1
            expired = [amount for name, amount in fields.items() if name.startswith("b:") and int(name[2:]) < oldest]
            spent -= sum(expired)
        grace = fields.get("grace", 0) if at < fields.get("grace_until", 0) else 0
        return spent, fields.get("held", 0), fields.get("extra", 0) + grace

    @property
    def is_failing(self) -> bool:
        """Whether the store, or the node of a tenant, does not answer."""
        return bool(self._failures_in_a_row)

    @property
    def backlog(self) -> int:
        """Resolutions that the store has not yet accepted."""
        return sum(map(len, self._pending_resolutions.values())) + sum(map(len, self._unreported.values()))

    @property
    def open_holds(self) -> int:
        """Unresolved reservations of this process."""
        return len(self._holds)

    async def close(self) -> None:
        """Deliver what is queued and disconnect, after background tasks stopped."""
        for tenant, pot_id in self._local_allowances.release_all():
            self._queue(_Resolution(ids=(pot_id,), tenant=tenant, totals=()))
        self._scripts.reset()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()
        except TimeoutError:
            log.error("budget_store_final_delivery_timeout seconds=%s", _CLOSE_SECONDS)
        if self.backlog:
            log.error("budget_resolutions_undelivered count=%d retry=next_start", self.backlog)
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
            request = reserve_request(
                reservation_id,
                offers,
                lines,
                replica=self._replica_id,
                epoch=self._epochs.get(tenant, ""),
                lease=lease,
                at=now + self._clock_offset_seconds,
                needs_total=lambda line: self._totals.needs_sync(tenant, line),
            )
            fixed = ("leases", "epoch", "opens", f"hold:{reservation_id}", f"tomb:{reservation_id}")
            keys = [*[tenant_key(tenant, name) for name in fixed], *[account_key(tenant, line) for line in lines]]
            answer = await self._scripts.run("reserve", keys, [request, tenant_key(tenant, "")])
            kind = answer[0]
            if kind == b"yes":
                self._check_change_count(tenant, int(answer[4]))
                for line, total in parse_own_totals(offers[int(answer[1])], answer):
                    self._totals.raise_to_store(tenant, line, total, now)
                return parse_reservation(reservation_id, offers, lines, answer, now + lease)
            if kind == b"no":
                return parse_exceeded(offers, answer)
            if kind == b"stale":
                # A window ended or the local clock is off: other lines apply by the server's time.
                self._clock_offset_seconds = int(answer[1]) / 1000 - now
                offers = list(offers_at(now + self._clock_offset_seconds))
            elif kind == b"epoch":
                await self.join(tenant, now=now)
            else:
                raise StoreUnavailable("store lost its data and waits for its replicas")
        raise StoreUnavailable("store clock and local clock disagree")

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
        """Reserve by each budget's `on_store_failure`. Raises Overloaded."""
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
        raise Overloaded("Budget store unavailable; no unbudgeted call is made.")

    def _release(self, reservation_id: str, tenant: str) -> None:
        """Release a hold that the store may have taken, or may still take."""
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
            # Totals are keyed by this replica's clock, like its ledger, and charged by the server's.
            keys += [account_key(tenant, line), tenant_key(tenant, f"totals:{total_name(line, at)}")]
            server_time = at + self._clock_offset_seconds
            keep = retention_seconds(line, server_time)
            # Rounded up, so that nothing leaves a rolling window early; the server caps it at its own time.
            arguments += [
                str(total),
                str(math.ceil(server_time)),
                str(line.bucket_seconds),
                str(line.bucket_count),
                str(keep),
            ]
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

    async def _restore_hold(self, reservation_id: str, hold: _UnresolvedHold) -> None:
        tenant = hold.tenant
        keys = [tenant_key(tenant, name) for name in ("leases", f"hold:{reservation_id}", f"open:{self._replica_id}")]
        arguments = [reservation_id, "900", self._replica_id]
        for line, amount in zip(hold.lines, hold.amounts, strict=True):
            keys.append(account_key(tenant, line))
            arguments += [str(amount), str(line.bucket_seconds)]
        await self._scripts.run("restore_hold", keys, arguments)

    async def _renew_allowances(self, tenant: str, now: float) -> None:
        for released, fresh in self._local_allowances.plan_renewals(
            tenant, self._replica_id, now=now, server=now + self._clock_offset_seconds
        ):
            if released is not None:
                await self._report(_Resolution(ids=(released[1],), tenant=released[0], totals=()))
            if fresh is not None:
                if now + self._clock_offset_seconds >= (fresh.line.resets_at or float("inf")):
                    # Its window has ended.
                    self._local_allowances.record_renewal(fresh, is_reserved=False, now=now)
                    continue
                reserved = await self._reserve(fresh.id, [fresh.offer], fresh.offers_at, tenant, now, fresh.lease)
                self._local_allowances.record_renewal(fresh, is_reserved=isinstance(reserved, Reservation), now=now)

    def _queue(self, resolution: _Resolution) -> None:
        self._pending_resolutions.setdefault(resolution.tenant, deque()).append(resolution)

    def _check_change_count(self, tenant: str, change_count: int) -> None:
        """Detect lost writes: the store's change count fell below the known one.

        Answers of one node arrive in order.
        """
        if change_count < self._change_counts.get(tenant, 0):
            self._tenants_with_lost_writes.add(tenant)
        else:
            self._change_counts[tenant] = change_count

    def _breaker_is_open(self, tenant: str) -> bool:
        """Whether the store is bypassed after repeated failures.

        One call per _PROBE_SECONDS probes it.
        """
        if self._failures_in_a_row.get(tenant, 0) < _FAILURES_BEFORE_OPEN:
            return False
        now = asyncio.get_running_loop().time()
        if now < self._probe_at.get(tenant, 0.0):
            return True
        self._probe_at[tenant] = now + _PROBE_SECONDS
        return False

    def _record_success(self, tenant: str) -> None:
        if self._failures_in_a_row.pop(tenant, None):
            log.warning("budget_store_available tenant=%s", tenant)

    def _record_failure(self, tenant: str, error: StoreUnavailable) -> None:
        self.failures += 1
        if tenant not in self._failures_in_a_row:
            log.error("budget_store_unavailable tenant=%s error=%s", tenant, error)
        now = asyncio.get_running_loop().time()
        if now - self._last_failure_at.get(tenant, float("-inf")) > _FAILURE_MERGE_SECONDS:
            # Calls that fail together count as one failure.
            self._last_failure_at[tenant] = now
            self._failures_in_a_row[tenant] = self._failures_in_a_row.get(tenant, 0) + 1


def _unbudgeted_reservation(reservation_id: str, expires_at: float) -> Reservation:
    """The reservation of a request without budgets."""
    return Reservation(id=reservation_id, option_index=0, lines=(), amounts=(), balances=(), expires_at=expires_at)
