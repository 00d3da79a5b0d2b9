"""Budgets of one process: accounts in memory or on a shared store, notices, audit and admin API."""

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..accounting.budget_lines import line_of
from ..accounting.budgets import BudgetAccounts
from ..accounting.output_estimate import OutputEstimates
from ..exporters.budget_notices import BudgetNotifier
from ..http.proxies import NO_PROXIES, Proxies
from ..http.webhook import DeliveryPolicy, WebhookSender
from ..stores.events_sqlite import AuditEvent, SqliteAuditEvents
from ..stores.ledger_sqlite import SqliteLedger
from ..stores.release_waiters import ReleaseWaiters
from ..stores.restore_budgets import iter_spent, iter_spent_of_account, parse_scope, restore_outputs
from ..values.budget import (
    CAP_MEASURES,
    Amounts,
    Budget,
    BudgetExceeded,
    BudgetLine,
    Grant,
    HoldOption,
    Reservation,
    ThresholdCrossing,
    cap_budget,
)
from ..values.errors import Overloaded
from ..values.metric import MetricFamily, counter, gauge
from ..values.snapshot import Snapshot
from .budget_admin import BudgetAdmin, tenant_of
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..stores.budgets_redis import RedisBudgets
    from ..stores.sessions_redis import SharedSessions

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
# Balances read from the shared store at one poll, for the metrics.
_BALANCES_PER_POLL = 50
_PENDING_EVENTS_MAX = 1_000

# Budgets behind the caps that sessions set for themselves; they identify such accounts in the ledger.
_SESSION_CAP_BUDGETS = tuple(cap_budget("run", unit, 0) for unit in CAP_MEASURES)


class LocalBudgets:
    """In-memory budget accounts behind the pipeline's BudgetStore Protocol."""

    def __init__(self, accounts: BudgetAccounts, notify: Callable[[ThresholdCrossing], None]) -> None:
        self._accounts = accounts
        self._notify = notify
        self._waiters = ReleaseWaiters()

    async def reserve(
        self,
        reservation_id: str,
        options_at: Callable[[float], Iterable[HoldOption]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | BudgetExceeded:
        """Hold an amount on every account, or on none; never suspends."""
        return self._accounts.reserve(reservation_id, options_at(now), now=now, lease=lease)

    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """Extend a hold; never suspends. False where a budget does not allow it."""
        return self._accounts.extend(reservation_id, number, more, now=now)

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool:
        """Replace a hold by what was spent; False if it was resolved before."""
        released = self._accounts.open_lines(reservation_id) if self._waiters else ()
        crossings = self._accounts.settle(reservation_id, spent, now=now)
        for crossing in crossings or ():
            self._notify(crossing)
        if released:
            self._waiters.wake([line.account for line in released])
        return crossings is not None

    async def wait_for_release(
        self, line: BudgetLine, *, tenant: str, since: float, seconds: float, seconds_max: float
    ) -> None:
        """Wait until a hold on the line's account is settled."""
        await self._waiters.wait(line.account, since=since, seconds=seconds, seconds_max=seconds_max)

    def correct(self, changes: Sequence[tuple[BudgetLine, int]], *, tenant: str, at: float, now: float) -> None:
        """Change by how much accounts were charged `at` an earlier time."""
        for line, change in changes:
            for crossing in self._accounts.correct(line, change, at=at, now=now):
                self._notify(crossing)
        if self._waiters:
            self._waiters.wake([line.account for line, change in changes if change < 0])

    async def balance(self, tenant: str, line: BudgetLine, *, now: float) -> tuple[int, int, int]:
        """(spent, held, granted) of the line's account, in its integer unit."""
        return self._accounts.balance(line, now=now)

    async def grant(self, tenant: str, line: BudgetLine, grant: Grant, *, fresh: bool) -> bool:
        """Raise the limit of one account; a grant already in the audit (`fresh` False) is not applied twice."""
        if fresh:
            self._accounts.grant(line, grant)
        return fresh


class BudgetService:
    """Budgets with their notices, audit trail and admin API.

    snapshot: returns the current snapshot
    folder: data folder that holds the ledger
    redis: URL of the shared store and its timeout in seconds, None for accounts in memory
    proxies: of the webhook
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        folder: Path,
        redis: tuple[str, float] | None,
        supervisor: Supervisor,
        now: Callable[[], float],
        proxies: Proxies = NO_PROXIES,
    ) -> None:
        self._snapshot = snapshot
        self._proxies = proxies
        self._folder = folder
        self._redis = redis
        self._supervisor = supervisor
        self._now = now
        self.accounts = BudgetAccounts()
        self.output_estimates = OutputEstimates()
        self.shared_budgets: RedisBudgets | None = None
        self.budgets: LocalBudgets | RedisBudgets
        self.shared_sessions: SharedSessions | None = None
        self._notifier = BudgetNotifier(self._emit_notice)
        self._webhook: WebhookSender | None = None
        self._balances: dict[str, tuple[int, int, int]] = {}
        self._balance_index = 0
        self._concrete_lines_snapshot: Snapshot | None = None
        self._concrete_lines_valid_until = 0.0
        self._concrete_lines_cache: list[tuple[str, BudgetLine]] = []
        self._pending_events = 0

    def start(self, ledger: SqliteLedger) -> None:
        """Restore the accounts from the ledger and start the background tasks."""
        snapshot, now = self._snapshot(), self._now()
        self._events = SqliteAuditEvents(self._folder / "ledger.sqlite")
        restore_outputs(self.output_estimates, ledger)
        if snapshot.webhook is not None:
            policy = DeliveryPolicy(proxies=self._proxies)
            self._webhook = WebhookSender(snapshot.webhook.url, snapshot.webhook.secret, policy=policy)
            self._supervisor.spawn("webhook", self._webhook.run(), _log_error("webhook_stopped"))
        spent = iter_spent(snapshot, ledger, now=now)
        if self._redis is None:
            for line, amount, at in spent:
                self.accounts.restore(line, amount, at=at)
            for _, line, grant in self._active_grants():
                self.accounts.grant(line, grant)
            self.budgets = LocalBudgets(self.accounts, self._notifier.notify)
        else:
            self.budgets = self.shared_budgets = self._connect_redis(*self._redis)
            for line, amount, at in spent:
                self.shared_budgets.restore_spent(tenant_of(snapshot, parse_scope(line.account)), line, amount, at=at)
            callers = [
                *snapshot.callers.values(),
                *([snapshot.anonymous_caller] if snapshot.anonymous_caller is not None else []),
            ]
            self.shared_budgets.expect_tenants({caller.org for caller in callers})
            self._supervisor.spawn("budget-store", self._poll_shared_store(), _log_error("budget_store_unavailable"))
        self.admin = BudgetAdmin(self._snapshot, self.budgets, _SqliteAudit(self._events), self._now)
        self._supervisor.run_every(_POLL_SECONDS, "budgets", self._poll_shared_store)

    async def stop(self) -> None:
        """Deliver queued resolutions and webhook events; call after the supervisor has stopped."""
        if self.shared_budgets is not None:
            await self.shared_budgets.close()
        if self._webhook is not None:
            await self._webhook.close()

    def expire_holds(self) -> None:
        """Charge holds whose lease has expired."""
        expired = self.accounts.expire(self._now())
        if expired:
            log.error("holds_expired count=%d charged=full", len(expired))

    def restore(self, lines: Iterable[BudgetLine]) -> None:
        """Restore accounts that the configuration does not name: those of sessions with caps of their own."""
        now = self._now()
        for cap_line in lines if self.shared_budgets is None else ():
            for line, amount, at in self._spend_from_ledger(cap_line.account, now):
                self.accounts.restore(line, amount, at=at)

    def not_ready_reasons(self) -> list[str]:
        """Reasons for failing the readiness probe: the store is down and a budget is `on_store_failure: closed`."""
        if self.shared_budgets is None or not self.shared_budgets.is_failing:
            return []
        snapshot = self._snapshot()
        closed = any(
            budget.store_failure_mode == "closed" and not budget.is_shadow
            for budget in (*snapshot.budgets, *snapshot.cap_budgets)
        )
        return ["budgets: shared store unavailable"] if closed else []

    def metrics(self) -> Iterator[MetricFamily]:
        """Metrics of budgets, the shared store and the webhook, read at a scrape."""
        store = self.shared_budgets
        yield gauge(
            "penstock_open_holds",
            "Holds not yet settled.",
            store.open_holds if store is not None else self.accounts.open_holds,
        )
        yield gauge(
            "penstock_budget_store_failing",
            "1 while the shared budget store does not answer.",
            store is not None and store.is_failing,
        )
        yield gauge(
            "penstock_budget_store_backlog",
            "Settlements not yet written to the shared budget store.",
            store.backlog if store is not None else 0,
        )
        yield counter(
            "penstock_budget_store_failures_total",
            "Failed requests to the shared budget store.",
            store.failures if store is not None else 0,
        )
        yield counter(
            "penstock_unbudgeted_requests_total",
            "Requests admitted without a budget check while the shared store was down.",
            store.unbudgeted_calls if store is not None else 0,
        )
        yield from self._balance_metrics()
        yield counter(
            "penstock_budget_notices_total",
            "Budget thresholds crossed.",
            self._notifier.counts.items(),
            ("budget", "percent"),
        )
        hook = self._webhook
        outcomes = (("delivered", hook.delivered), ("failed", hook.failed), ("dropped", hook.dropped)) if hook else ()
        yield counter(
            "penstock_webhook_events_total",
            "Webhook events by outcome: delivered, failed, dropped.",
            [([outcome], count) for outcome, count in outcomes],
            ("outcome",),
        )

    def _balance_metrics(self) -> Iterator[MetricFamily]:
        lines = [(line, self._balance(line)) for _, line in self._concrete_lines() if line.budget.limit]
        for index, name in enumerate(("spent", "held")):
            yield gauge(
                f"penstock_budget_{name}_ratio",
                f"Share of the budget's limit that is {name}.",
                [([line.name], balance[index] / line.budget.limit) for line, balance in lines],
                ("budget",),
            )

    def _connect_redis(self, url: str, timeout_seconds: float) -> "RedisBudgets":
        # Imported lazily: redis-py takes a third of the start-up time, and most gateways run without it.
        from ..stores.budgets_redis import RedisBudgets  # noqa: PLC0415
        from ..stores.redis_scripts import ScriptCluster, SingleNode  # noqa: PLC0415
        from ..stores.sessions_redis import SharedSessions  # noqa: PLC0415

        clustered = url.startswith(("redis+cluster://", "rediss+cluster://"))
        plain_url = url.replace("+cluster", "", 1) if clustered else url
        runner = ScriptCluster if clustered else SingleNode
        scripts = runner(plain_url, self._supervisor.spawn, timeout=timeout_seconds)
        self.shared_sessions = SharedSessions(scripts, self._supervisor.spawn, time.monotonic)
        replica = replica_id(self._folder / "replica")
        return RedisBudgets(
            scripts,
            replica,
            start=self._supervisor.spawn,
            notify=self._notifier.notify,
            spent_of_account=self._spend_from_ledger,
            grants=self._active_grants,
            timeout_seconds=timeout_seconds,
        )

    def _active_grants(self) -> list[tuple[str, BudgetLine, Grant]]:
        """(tenant, line, grant) of the grants in windows that have not ended; from the audit, so restarts keep them."""
        snapshot, now = self._snapshot(), self._now()
        grants: list[tuple[str, BudgetLine, Grant]] = []
        budgets = {budget.name: budget for budget in (*snapshot.budgets, *snapshot.cap_budgets)}
        for account, name, scope in self._events.granted_accounts():
            budget = budgets.get(name)
            if budget is None or set(budget.scope) != set(scope):
                continue
            line = line_of(budget, scope, now=now)
            if line.account == account:
                for event in self._events.grants(account):
                    amount, until = event.details["amount"], event.details["until"]
                    grant = Grant(id=event.id, account=account, amount=amount, until=until)
                    grants.append((tenant_of(snapshot, scope), line, grant))
        return grants

    async def _poll_shared_store(self) -> None:
        """Maintain the shared store and read balances of named budgets from it, a few at a time."""
        if self.shared_budgets is None:
            return
        await self.shared_budgets.maintain(self._now())
        named = self._concrete_lines()
        if named and not self.shared_budgets.is_failing:
            start = self._balance_index % len(named)
            self._balance_index = start + _BALANCES_PER_POLL
            for tenant, line in named[start : start + _BALANCES_PER_POLL]:
                try:
                    self._balances[line.account] = await self.shared_budgets.balance(tenant, line, now=self._now())
                except Overloaded:
                    # The store has just failed; the next poll sees that.
                    return

    def _spend_from_ledger(self, account: str, now: float) -> list[tuple[BudgetLine, int, float]]:
        """What the ledger has spent on an account, by the account's name; empty once its window has ended."""
        snapshot = self._snapshot()
        budget = next(
            (
                budget
                for budget in (*snapshot.budgets, *snapshot.cap_budgets, *_SESSION_CAP_BUDGETS)
                if account.startswith(f"{budget.name}|")
            ),
            None,
        )
        if budget is None:
            return []
        # A separate connection: the ledger's own is used by its writer only.
        ledger = SqliteLedger(self._folder / "ledger.sqlite", must_exist=True)
        try:
            return list(iter_spent_of_account(budget, account, ledger, now=now))
        finally:
            ledger.close()

    def _concrete_lines(self) -> list[tuple[str, BudgetLine]]:
        """(tenant, current line) of budgets without a wildcard; computed again when a window has ended."""
        snapshot, now = self._snapshot(), self._now()
        if snapshot is not self._concrete_lines_snapshot or now >= self._concrete_lines_valid_until:
            self._concrete_lines_cache = self._compute_concrete_lines(snapshot, now)
            ends = [line.resets_at for _, line in self._concrete_lines_cache if line.resets_at is not None]
            self._concrete_lines_snapshot, self._concrete_lines_valid_until = snapshot, min(ends, default=float("inf"))
        return self._concrete_lines_cache

    @staticmethod
    def _compute_concrete_lines(snapshot: Snapshot, now: float) -> list[tuple[str, BudgetLine]]:
        return [
            (tenant_of(snapshot, budget.scope), line_of(budget, budget.scope, now=now))
            for budget in snapshot.budgets
            if _is_concrete(budget)
        ]

    def _balance(self, line: BudgetLine) -> tuple[int, int, int]:
        if self.shared_budgets is None:
            return self.accounts.balance(line, now=self._now())
        return self._balances.get(line.account, (0, 0, 0))

    def send_to_webhook(self, event: Mapping[str, Any]) -> None:
        """Queue an event for the webhook, if one is configured."""
        if self._webhook is not None:
            self._webhook.enqueue(event)

    def _emit_notice(self, event: Mapping[str, Any]) -> None:
        """Send a notice to the webhook and store it in the audit, outside the request."""
        self.send_to_webhook(event)
        if self._pending_events < _PENDING_EVENTS_MAX:
            self._pending_events += 1
            self._supervisor.spawn("budget-event", self._store_event(event), _log_error("budget_event_not_stored"))

    async def _store_event(self, event: Mapping[str, Any]) -> None:
        try:
            audit_event = AuditEvent(
                id=event["id"],
                at_ms=int(event["at"] * 1000),
                kind=event["kind"],
                budget=event["budget"],
                account=event["account"],
                details={name: event[name] for name in ("percent", "unit", "spent", "limit")},
            )
            await asyncio.to_thread(self._events.append, audit_event)
        finally:
            self._pending_events -= 1

    def audit_events(self, since_ms: int) -> list[dict[str, Any]]:
        """The newest audit events since then (milliseconds since the epoch), for operators. Blocks; raises Overloaded."""
        try:
            events = self._events.since(since_ms)
        except sqlite3.Error as error:
            raise Overloaded(f"Audit not readable: {error}.") from error
        return [
            {
                **event.details,
                "id": event.id,
                "at_ms": event.at_ms,
                "kind": event.kind,
                "budget": event.budget,
                "account": event.account,
            }
            for event in events
        ]


class _SqliteAudit:
    """Records grants in the audit before they take effect."""

    def __init__(self, events: SqliteAuditEvents) -> None:
        self._events = events

    def record_grant(self, *, id: str, at_ms: int, kind: str, line: BudgetLine, details: Mapping[str, Any]) -> bool:
        """Store the grant; False if its id was recorded before. Raises Overloaded."""
        event = AuditEvent(id=id, at_ms=at_ms, kind=kind, budget=line.name, account=line.account, details=details)
        try:
            return self._events.append(event)
        except sqlite3.Error as error:
            raise Overloaded(f"Audit not writable: {error}. No grant was made.") from error


def _is_concrete(budget: Budget) -> bool:
    return "*" not in budget.scope.values()


def replica_id(path: Path) -> str:
    """The id of this data folder among those that share a store; created once and kept beside the ledger."""
    try:
        identifier = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        identifier = secrets.token_hex(8)
        path.write_text(identifier + "\n", encoding="ascii")
    return identifier


def _log_error(event: str) -> Callable[[Exception], None]:
    """What to call with the exception that ended a background task."""
    return lambda error: log.error("%s error=%s", event, error)
