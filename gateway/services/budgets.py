"""The treasury of one process: its budgets, in a book of its own or on a shared store, and all that belongs to them.

Built by app.py, which knows no more of it than `start`, `stop`, what is wrong, and the gauges.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..accounting.budget_lines import line_of
from ..accounting.budgets import BudgetAccounts
from ..accounting.output_estimate import OutputEstimates
from ..exporters.budget_notices import BudgetNotifier
from ..http.webhook import WebhookSender
from ..stores.events_sqlite import AuditEvent, SqliteAuditEvents
from ..stores.ledger_sqlite import SqliteLedger
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
from ..values.snapshot import Snapshot
from .budget_admin import BudgetAdmin, tenant_of
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..stores.budgets_redis import RedisBudgets
    from ..stores.sessions_redis import SharedSessions

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
# Named budgets whose standing is asked of the shared store at one look, for the metrics.
_BALANCES_PER_POLL = 50
_PENDING_EVENTS_MAX = 1_000

# What runs may have for caps of their own, to recognise their accounts by.
_SESSION_CAP_BUDGETS = tuple(cap_budget("run", unit, 0) for unit in CAP_MEASURES)

Gauge = tuple[str, str, list[str], list[tuple[list[str], float]]]


class LocalBudgets:
    """The budget book of this process behind the exchange's Protocol."""

    def __init__(self, book: BudgetAccounts, notify: Callable[[ThresholdCrossing], None]) -> None:
        self.book = book
        self._notify = notify

    async def reserve(
        self,
        reservation_id: str,
        offers_at: Callable[[float], Iterable[HoldOption]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | BudgetExceeded:
        """Awaits nothing: in process the book answers at once."""
        return self.book.reserve(reservation_id, offers_at(now), now=now, lease=lease)

    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """Awaits nothing."""
        return self.book.extend(reservation_id, number, more, now=now)

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool:
        """False if it was resolved before."""
        crossings = self.book.settle(reservation_id, spent, now=now)
        for crossing in crossings or ():
            self._notify(crossing)
        return crossings is not None

    async def balance(self, tenant: str, line: BudgetLine, *, now: float) -> tuple[int, int, int]:
        """(spent, held, granted) of the line's account."""
        return self.book.balance(line, now=now)

    async def grant(self, tenant: str, line: BudgetLine, grant: Grant, *, fresh: bool) -> bool:
        """Allow more on one account; what was granted before is known from the audit."""
        if fresh:
            self.book.grant(line, grant)
        return fresh


class BudgetService:
    """Budgets, their notices, the desk. `world` is asked for the current one; `redis` is where the shared store is, and how
    many seconds it may take to answer."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        folder: Path,
        redis: tuple[str, float] | None,
        supervisor: Supervisor,
        now: Callable[[], float],
    ) -> None:
        self._world = snapshot
        self._folder = folder
        self._redis = redis
        self._supervisor = supervisor
        self._now = now
        self.book = BudgetAccounts()
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
        """Bring the budgets up to the ledger."""
        snapshot, now = self._world(), self._now()
        self._events = SqliteAuditEvents(self._folder / "ledger.sqlite")
        restore_outputs(self.output_estimates, ledger)
        if snapshot.webhook is not None:
            self._webhook = WebhookSender(snapshot.webhook.url, snapshot.webhook.secret)
            self._supervisor.spawn("webhook", self._webhook.run(), lambda error: log.error("no webhooks: %s", error))
        spent = iter_spent(snapshot, ledger, now=now)
        if self._redis is None:
            for line, amount, at in spent:
                self.book.restore(line, amount, at=at)
            for _, line, grant in self._active_grants():
                self.book.grant(line, grant)
            self.budgets = LocalBudgets(self.book, self._notifier.notify)
        else:
            self.budgets = self.shared_budgets = self._connect_redis(*self._redis)
            for line, amount, at in spent:
                self.shared_budgets.restore_spent(tenant_of(snapshot, parse_scope(line.account)), line, amount, at=at)
            callers = [
                *snapshot.callers.values(),
                *([snapshot.anonymous_caller] if snapshot.anonymous_caller is not None else []),
            ]
            self.shared_budgets.expect_tenants({caller.org for caller in callers})
            self._supervisor.spawn("budget-store", self._poll_shared_store(), lambda error: log.error("%s", error))
        self.admin = BudgetAdmin(self._world, self.budgets, _SqliteAudit(self._events), self._now)
        self._supervisor.run_every(_POLL_SECONDS, "budgets", self._poll_shared_store)

    async def stop(self) -> None:
        """Deliver what can be delivered; after the supervisor has stopped."""
        if self.shared_budgets is not None:
            await self.shared_budgets.close()
        if self._webhook is not None:
            await self._webhook.close()

    def expire_holds(self) -> None:
        """Charge holds whose lease is over."""
        late = self.book.expire(self._now())
        if late:
            log.error("%d holds expired and were charged in full", len(late))

    def restore(self, lines: Iterable[BudgetLine]) -> None:
        """Bring accounts up to the ledger that the configuration does not name: those of runs with caps of their own."""
        now = self._now()
        for line in lines if self.shared_budgets is None else ():
            for found, amount, at in self._spend_from_ledger(line.account, now):
                self.book.restore(found, amount, at=at)

    def not_ready_reasons(self) -> list[str]:
        """Why this process should get no more requests: a store that is down closes only budgets that say so."""
        if self.shared_budgets is None or not self.shared_budgets.is_failing:
            return []
        snapshot = self._world()
        closed = [
            one
            for one in (*snapshot.budgets, *snapshot.cap_budgets)
            if one.store_failure_mode == "closed" and not one.is_shadow
        ]
        return ["budgets: the shared store does not answer"] if closed else []

    def gauges(self) -> Iterator[Gauge]:
        """What is read when metrics are scraped."""
        holds = self.shared_budgets.open_holds if self.shared_budgets is not None else self.book.open_holds
        yield "penstock_holds_open", "Reservations not yet resolved.", [], [([], float(holds))]
        if self.shared_budgets is not None:
            store = self.shared_budgets
            figures = (
                float(store.is_failing),
                float(store.backlog),
                float(store.failures),
                float(store.unbudgeted_calls),
            )
        else:
            figures = (0.0, 0.0, 0.0, 0.0)
        texts = (
            ("penstock_budget_store_failing", "1 while the shared budget store does not answer."),
            ("penstock_budget_store_backlog", "Resolutions that the shared store has not yet taken."),
            ("penstock_budget_store_failures", "Times that the shared store did not answer, since the start."),
            ("penstock_budget_unbudgeted_calls", "Calls admitted while the store was down (fail: open or local)."),
        )
        for (name, text), figure in zip(texts, figures, strict=True):
            yield name, text, [], [([], figure)]
        named = [(line, self._balance(line)) for _, line in self._concrete_lines()]
        for place, name in enumerate(("spent", "held")):
            yield (
                f"penstock_budget_{name}_ratio",
                f"Share of the limit that is {name}.",
                ["budget"],
                [([line.name], standing[place] / line.budget.limit) for line, standing in named if line.budget.limit],
            )
        notices = [([*labels], float(count)) for labels, count in self._notifier.counts.items()]
        yield "penstock_budget_notices", "Budget thresholds reached, since the start.", ["budget", "percent"], notices
        hook = self._webhook
        outcomes = (("delivered", hook.delivered), ("failed", hook.failed), ("dropped", hook.dropped)) if hook else ()
        yield (
            "penstock_webhook_events",
            "Events for the webhook by what became of them, since the start.",
            ["outcome"],
            [([outcome], float(count)) for outcome, count in outcomes],
        )

    def _connect_redis(self, url: str, patience: float) -> "RedisBudgets":
        # Lazy door: redis-py takes a third of the start-up time, and most gateways stand alone.
        from ..stores.budgets_redis import RedisBudgets  # noqa: PLC0415
        from ..stores.redis_scripts import ScriptCluster, SingleNode  # noqa: PLC0415
        from ..stores.sessions_redis import SharedSessions  # noqa: PLC0415

        clustered = url.startswith(("redis+cluster://", "rediss+cluster://"))
        plain = url.replace("+cluster", "", 1) if clustered else url
        scripts = (ScriptCluster if clustered else SingleNode)(plain, self._supervisor.spawn, timeout=patience)
        self.shared_sessions = SharedSessions(scripts, self._supervisor.spawn, time.monotonic)
        replica = _replica_id(self._folder / "replica")
        return RedisBudgets(
            scripts,
            replica,
            start=self._supervisor.spawn,
            notify=self._notifier.notify,
            recall=self._spend_from_ledger,
            grants=self._active_grants,
            patience=patience,
        )

    def _active_grants(self) -> list[tuple[str, BudgetLine, Grant]]:
        """(tenant, line, grant) of what operators granted: it holds for the rest of its window, restart or not."""
        snapshot, now, found = self._world(), self._now(), []
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
                    found.append((tenant_of(snapshot, scope), line, grant))
        return found

    async def _poll_shared_store(self) -> None:
        """See to the shared store, and ask it how named budgets stand, a few at a time."""
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
                    # It has just gone; the next look says so.
                    return

    def _spend_from_ledger(self, account: str, now: float) -> list[tuple[BudgetLine, int, float]]:
        """What the ledger says was spent on an account, by its name; nothing if its window is over."""
        snapshot = self._world()
        budget = next(
            (
                one
                for one in (*snapshot.budgets, *snapshot.cap_budgets, *_SESSION_CAP_BUDGETS)
                if account.startswith(f"{one.name}|")
            ),
            None,
        )
        if budget is None:
            return []
        # A connection of its own: the ledger's belongs to its writer.
        ledger = SqliteLedger(self._folder / "ledger.sqlite")
        try:
            return list(iter_spent_of_account(budget, account, ledger, now=now))
        finally:
            ledger.close()

    def _concrete_lines(self) -> list[tuple[str, BudgetLine]]:
        """(tenant, current line) of the budgets whose accounts the configuration bounds; told anew when one has ended."""
        snapshot, now = self._world(), self._now()
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
            return self.book.balance(line, now=self._now())
        return self._balances.get(line.account, (0, 0, 0))

    def send_to_webhook(self, event: Mapping[str, Any]) -> None:
        """To the webhook, if there is one."""
        if self._webhook is not None:
            self._webhook.enqueue(event)

    def _emit_notice(self, event: Mapping[str, Any]) -> None:
        """A notice: to the webhook, and into the audit behind the request."""
        self.send_to_webhook(event)
        if self._pending_events < _PENDING_EVENTS_MAX:
            self._pending_events += 1
            self._supervisor.spawn(
                "budget-event", self._store_event(event), lambda error: log.error("an event was not kept: %s", error)
            )

    async def _store_event(self, event: Mapping[str, Any]) -> None:
        try:
            kept = AuditEvent(
                id=event["id"],
                at_ms=int(event["at"] * 1000),
                kind=event["kind"],
                budget=event["budget"],
                account=event["account"],
                details={name: event[name] for name in ("percent", "unit", "spent", "limit")},
            )
            await asyncio.to_thread(self._events.append, kept)
        finally:
            self._pending_events -= 1

    def audit_events(self, since_ms: int) -> list[dict[str, Any]]:
        """The audit trail, for operators. Blocks."""
        return [
            {
                **one.details,
                "id": one.id,
                "at_ms": one.at_ms,
                "kind": one.kind,
                "budget": one.budget,
                "account": one.account,
            }
            for one in self._events.since(since_ms)
        ]


class _SqliteAudit:
    """Grants are written down before they are made."""

    def __init__(self, events: SqliteAuditEvents) -> None:
        self._events = events

    def record_grant(self, *, id: str, at_ms: int, kind: str, line: BudgetLine, details: Mapping[str, Any]) -> bool:
        """False for an id that is known."""
        event = AuditEvent(id=id, at_ms=at_ms, kind=kind, budget=line.name, account=line.account, details=details)
        return self._events.append(event)


def _is_concrete(budget: Budget) -> bool:
    return "*" not in budget.scope.values()


def _replica_id(path: Path) -> str:
    """The name of this data folder among those that share a store: made once, kept with the ledger that it stands for."""
    try:
        found = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        found = secrets.token_hex(8)
        path.write_text(found + "\n", encoding="ascii")
    return found
