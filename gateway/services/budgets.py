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
from ..accounting.budgets import BudgetBook
from ..accounting.output_estimate import OutputBook
from ..exporters.budget_notices import Notices
from ..http.webhook import Webhook
from ..stores.events_sqlite import Event, SqliteEvents
from ..stores.ledger_sqlite import SqliteLedger
from ..stores.restore_budgets import learn_outputs, restored, restored_account, scope_in
from ..values.budget import CAP_MEASURES, Amounts, Budget, Crossing, Exceeded, Grant, Line, Offer, Reservation, cap
from ..values.errors import Overloaded
from ..values.snapshot import World
from .budget_admin import Desk, tenant_of
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..stores.budgets_redis import RedisBudgets
    from ..stores.sessions_redis import SharedSessions

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
# Named budgets whose standing is asked of the shared store at one look, for the metrics.
_STANDINGS_AT_ONCE = 50
_EVENTS_WAITING_MAX = 1_000

# What runs may have for caps of their own, to recognise their accounts by.
_RUN_BUDGETS = tuple(cap("run", unit, 0) for unit in CAP_MEASURES)

Gauge = tuple[str, str, list[str], list[tuple[list[str], float]]]


class LocalBudgets:
    """The budget book of this process behind the exchange's Protocol."""

    def __init__(self, book: BudgetBook, notify: Callable[[Crossing], None]) -> None:
        self.book = book
        self._notify = notify

    async def reserve(
        self,
        reservation_id: str,
        offers_at: Callable[[float], Iterable[Offer]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | Exceeded:
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

    async def standing(self, tenant: str, line: Line, *, now: float) -> tuple[int, int, int]:
        """(spent, held, granted) of the line's account."""
        return self.book.standing(line, now=now)

    async def grant(self, tenant: str, line: Line, grant: Grant, *, fresh: bool) -> bool:
        """Allow more on one account; what was granted before is known from the audit."""
        if fresh:
            self.book.grant(line, grant)
        return fresh


class Treasury:
    """Budgets, their notices, the desk. `world` is asked for the current one; `redis` is where the shared store is, and how
    many seconds it may take to answer."""

    def __init__(
        self,
        world: Callable[[], World],
        folder: Path,
        redis: tuple[str, float] | None,
        supervisor: Supervisor,
        now: Callable[[], float],
    ) -> None:
        self._world = world
        self._folder = folder
        self._redis = redis
        self._supervisor = supervisor
        self._now = now
        self.book = BudgetBook()
        self.outputs = OutputBook()
        self.shared: RedisBudgets | None = None
        self.budgets: LocalBudgets | RedisBudgets
        self.sessions: SharedSessions | None = None
        self._notices = Notices(self._send)
        self._webhook: Webhook | None = None
        self._standings: dict[str, tuple[int, int, int]] = {}
        self._looked = 0
        self._named_of: World | None = None
        self._named_until = 0.0
        self._named_lines: list[tuple[str, Line]] = []
        self._events_waiting = 0

    def start(self, ledger: SqliteLedger) -> None:
        """Bring the budgets up to the ledger."""
        world, now = self._world(), self._now()
        self._events = SqliteEvents(self._folder / "ledger.sqlite")
        learn_outputs(self.outputs, ledger)
        if world.webhook is not None:
            self._webhook = Webhook(world.webhook.url, world.webhook.secret)
            self._supervisor.start("webhook", self._webhook.run(), lambda error: log.error("no webhooks: %s", error))
        spent = restored(world, ledger, now=now)
        if self._redis is None:
            for line, amount, at in spent:
                self.book.restore(line, amount, at=at)
            for _, line, grant in self._granted():
                self.book.grant(line, grant)
            self.budgets = LocalBudgets(self.book, self._notices.crossed)
        else:
            self.budgets = self.shared = self._on_redis(*self._redis)
            for line, amount, at in spent:
                self.shared.spent_before(tenant_of(world, scope_in(line.account)), line, amount, at=at)
            callers = [*world.callers.values(), *([world.open_caller] if world.open_caller is not None else [])]
            self.shared.opened({caller.org for caller in callers})
            self._supervisor.start("budget-store", self._look(), lambda error: log.error("%s", error))
        self.desk = Desk(self._world, self.budgets, _Audit(self._events), self._now)
        self._supervisor.every(_LOOK_SECONDS, "budgets", self._look)

    async def stop(self) -> None:
        """Deliver what can be delivered; after the supervisor has stopped."""
        if self.shared is not None:
            await self.shared.close()
        if self._webhook is not None:
            await self._webhook.close()

    def housekeeping(self) -> None:
        """Charge holds whose lease is over."""
        late = self.book.expire(self._now())
        if late:
            log.error("%d holds expired and were charged in full", len(late))

    def restore(self, lines: Iterable[Line]) -> None:
        """Bring accounts up to the ledger that the configuration does not name: those of runs with caps of their own."""
        now = self._now()
        for line in lines if self.shared is None else ():
            for found, amount, at in self._recall(line.account, now):
                self.book.restore(found, amount, at=at)

    def wrong(self) -> list[str]:
        """Why this process should get no more requests: a store that is down closes only budgets that say so."""
        if self.shared is None or not self.shared.failing:
            return []
        world = self._world()
        closed = [one for one in (*world.budgets, *world.cap_budgets) if one.fail == "closed" and not one.shadow]
        return ["budgets: the shared store does not answer"] if closed else []

    def gauges(self) -> Iterator[Gauge]:
        """What is read when metrics are scraped."""
        holds = self.shared.open_holds if self.shared is not None else self.book.open_holds
        yield "penstock_holds_open", "Reservations not yet resolved.", [], [([], float(holds))]
        if self.shared is not None:
            store = self.shared
            figures = (float(store.failing), float(store.backlog), float(store.failures), float(store.unbudgeted))
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
        named = [(line, self._standing(line)) for _, line in self._named()]
        for place, name in enumerate(("spent", "held")):
            yield (
                f"penstock_budget_{name}_ratio",
                f"Share of the limit that is {name}.",
                ["budget"],
                [([line.name], standing[place] / line.budget.limit) for line, standing in named if line.budget.limit],
            )
        notices = [([*labels], float(count)) for labels, count in self._notices.counts.items()]
        yield "penstock_budget_notices", "Budget thresholds reached, since the start.", ["budget", "percent"], notices
        hook = self._webhook
        outcomes = (("delivered", hook.delivered), ("failed", hook.failed), ("dropped", hook.dropped)) if hook else ()
        yield (
            "penstock_webhook_events",
            "Events for the webhook by what became of them, since the start.",
            ["outcome"],
            [([outcome], float(count)) for outcome, count in outcomes],
        )

    def _on_redis(self, url: str, patience: float) -> "RedisBudgets":
        # Lazy door: redis-py takes a third of the start-up time, and most gateways stand alone.
        from ..stores.budgets_redis import RedisBudgets  # noqa: PLC0415
        from ..stores.redis_scripts import Cluster, OneNode  # noqa: PLC0415
        from ..stores.sessions_redis import SharedSessions  # noqa: PLC0415

        clustered = url.startswith(("redis+cluster://", "rediss+cluster://"))
        plain = url.replace("+cluster", "", 1) if clustered else url
        scripts = (Cluster if clustered else OneNode)(plain, self._supervisor.start, timeout=patience)
        self.sessions = SharedSessions(scripts, self._supervisor.start, time.monotonic)
        replica = _replica(self._folder / "replica")
        return RedisBudgets(
            scripts,
            replica,
            start=self._supervisor.start,
            notify=self._notices.crossed,
            recall=self._recall,
            grants=self._granted,
            patience=patience,
        )

    def _granted(self) -> list[tuple[str, Line, Grant]]:
        """(tenant, line, grant) of what operators granted: it holds for the rest of its window, restart or not."""
        world, now, found = self._world(), self._now(), []
        budgets = {budget.name: budget for budget in (*world.budgets, *world.cap_budgets)}
        for account, name, scope in self._events.granted_accounts():
            budget = budgets.get(name)
            if budget is None or set(budget.scope) != set(scope):
                continue
            line = line_of(budget, scope, now=now)
            if line.account == account:
                for event in self._events.grants(account):
                    amount, until = event.details["amount"], event.details["until"]
                    grant = Grant(id=event.id, account=account, amount=amount, until=until)
                    found.append((tenant_of(world, scope), line, grant))
        return found

    async def _look(self) -> None:
        """See to the shared store, and ask it how named budgets stand, a few at a time."""
        if self.shared is None:
            return
        await self.shared.look_after(self._now())
        named = self._named()
        if named and not self.shared.failing:
            start = self._looked % len(named)
            self._looked = start + _STANDINGS_AT_ONCE
            for tenant, line in named[start : start + _STANDINGS_AT_ONCE]:
                try:
                    self._standings[line.account] = await self.shared.standing(tenant, line, now=self._now())
                except Overloaded:
                    # It has just gone; the next look says so.
                    return

    def _recall(self, account: str, now: float) -> list[tuple[Line, int, float]]:
        """What the ledger says was spent on an account, by its name; nothing if its window is over."""
        world = self._world()
        budget = next(
            (one for one in (*world.budgets, *world.cap_budgets, *_RUN_BUDGETS) if account.startswith(f"{one.name}|")),
            None,
        )
        if budget is None:
            return []
        # A connection of its own: the ledger's belongs to its writer.
        ledger = SqliteLedger(self._folder / "ledger.sqlite")
        try:
            return list(restored_account(budget, account, ledger, now=now))
        finally:
            ledger.close()

    def _named(self) -> list[tuple[str, Line]]:
        """(tenant, current line) of the budgets whose accounts the configuration bounds; told anew when one has ended."""
        world, now = self._world(), self._now()
        if world is not self._named_of or now >= self._named_until:
            self._named_lines = self._named_now(world, now)
            ends = [line.resets_at for _, line in self._named_lines if line.resets_at is not None]
            self._named_of, self._named_until = world, min(ends, default=float("inf"))
        return self._named_lines

    @staticmethod
    def _named_now(world: World, now: float) -> list[tuple[str, Line]]:
        return [
            (tenant_of(world, budget.scope), line_of(budget, budget.scope, now=now))
            for budget in world.budgets
            if _is_named(budget)
        ]

    def _standing(self, line: Line) -> tuple[int, int, int]:
        if self.shared is None:
            return self.book.standing(line, now=self._now())
        return self._standings.get(line.account, (0, 0, 0))

    def announce(self, event: Mapping[str, Any]) -> None:
        """To the webhook, if there is one."""
        if self._webhook is not None:
            self._webhook.offer(event)

    def _send(self, event: Mapping[str, Any]) -> None:
        """A notice: to the webhook, and into the audit behind the request."""
        self.announce(event)
        if self._events_waiting < _EVENTS_WAITING_MAX:
            self._events_waiting += 1
            self._supervisor.start(
                "budget-event", self._kept(event), lambda error: log.error("an event was not kept: %s", error)
            )

    async def _kept(self, event: Mapping[str, Any]) -> None:
        try:
            kept = Event(
                id=event["id"],
                at_ms=int(event["at"] * 1000),
                kind=event["kind"],
                budget=event["budget"],
                account=event["account"],
                details={name: event[name] for name in ("percent", "unit", "spent", "limit")},
            )
            await asyncio.to_thread(self._events.append, kept)
        finally:
            self._events_waiting -= 1

    def events(self, since_ms: int) -> list[dict[str, Any]]:
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


class _Audit:
    """Grants are written down before they are made."""

    def __init__(self, events: SqliteEvents) -> None:
        self._events = events

    def granted(self, *, id: str, at_ms: int, kind: str, line: Line, details: Mapping[str, Any]) -> bool:
        """False for an id that is known."""
        event = Event(id=id, at_ms=at_ms, kind=kind, budget=line.name, account=line.account, details=details)
        return self._events.append(event)


def _is_named(budget: Budget) -> bool:
    return "*" not in budget.scope.values()


def _replica(path: Path) -> str:
    """The name of this data folder among those that share a store: made once, kept with the ledger that it stands for."""
    try:
        found = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        found = secrets.token_hex(8)
        path.write_text(found + "\n", encoding="ascii")
    return found
