"""The scripts of the shared budget store, on a real Valkey whose clock is a key that the test sets.

Contract: the local and the shared budget store agree after every step of random operations; a failing seed replays.
"""

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec import structs

from gateway.accounting.budgets import BudgetAccounts
from gateway.stores.budget_messages import account_key, reserve_request, tenant_key
from gateway.stores.budgets_redis import RedisBudgets
from gateway.stores.redis_scripts import SingleNode
from gateway.values.budget import (
    Amounts,
    BudgetExceeded,
    BudgetLine,
    Grant,
    HoldOption,
    Measure,
    Reservation,
    Shrinkage,
    ThresholdCrossing,
)
from tests.budget_lines import NOW, amounts, line, offer
from tests.stores.servers import SET_CLOCK, Server, Tasks

Answer = TypeVar("Answer")
TENANT = "acme"
LINES = (
    line("money", Measure.nusd, 1000, notify=(50, 90)),
    line("tokens", Measure.tokens, 900),
    line("calls", Measure.calls, 9),
    line("energy", Measure.millijoules, 300, rolling=60),
    line("carbon", Measure.micrograms, 500, rolling=600),
    line("seen", Measure.nusd, 400, shadow=True, notify=(100,)),
)
SOME_LINES = st.lists(st.sampled_from(LINES), unique_by=lambda line: line.account, min_size=1, max_size=4).map(tuple)


@st.composite
def offers(draw: Callable[[st.SearchStrategy[Any]], Any]) -> HoldOption:
    lines = draw(SOME_LINES)
    wanted_amounts = tuple(
        draw(st.integers(0, each.ceiling * 2 // 3)) if draw(st.integers(0, 19)) else None for each in lines
    )
    ceilings = tuple(each.ceiling - draw(st.sampled_from([0, 0, 0, 100])) for each in lines)
    shrinkage = None
    if None not in wanted_amounts and draw(st.booleans()):
        shrinkage = Shrinkage(
            fixed_amounts=tuple(draw(st.integers(0, 50)) for _ in lines),
            amounts_per_token=tuple(draw(st.integers(0, 5)) for _ in lines),
            output_tokens_max=draw(st.integers(20, 200)),
            output_tokens_min=draw(st.integers(1, 20)),
            thresholds=tuple(ceiling - draw(st.sampled_from([0, 0, 50])) for ceiling in ceilings),
            ceilings=ceilings,
        )
    return offer(lines, wanted_amounts, ceilings=ceilings, shrinkage=shrinkage)


AMOUNTS = st.builds(
    amounts, nusd=st.integers(0, 300), tokens=st.integers(0, 300), calls=st.integers(0, 1),
    millijoules=st.integers(0, 90), micrograms=st.integers(0, 150),
)  # fmt: skip


class Stores(RuleBasedStateMachine):
    """Random reservations, extensions, settlements, grants and time, on both stores."""

    server: Server
    loop: asyncio.AbstractEventLoop
    store: RedisBudgets | None = None

    @initialize()
    def begin(self) -> None:
        self.client = self.server.client()
        self.client.flushall()
        self.now, self.count = NOW, 0
        self.accounts, self.tasks = BudgetAccounts(), Tasks()
        self.local_crossings: list[ThresholdCrossing] = []
        self.shared_crossings: list[ThresholdCrossing] = []
        self.store = RedisBudgets(
            SingleNode(self.server.url, self.tasks.start, clock=SET_CLOCK, timeout=5.0),
            "one",
            start=self.tasks.start,
            notify=self.shared_crossings.append,
            timeout_seconds=5.0,
            # The server's clock does not advance during a call.
            monotonic=lambda: 0.0,
        )
        self.open: dict[str, Reservation] = {}
        self.extended: dict[str, int] = {}
        self._set_server_time()

    def _set_server_time(self) -> None:
        self.client.set("penstock:{acme}:clock", repr(self.now))

    @property
    def shared(self) -> RedisBudgets:
        assert self.store is not None, "the first step begins"
        return self.store

    def _run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self.loop.run_until_complete(coroutine)

    async def _settle_twice(self, name: str, amounts: Amounts) -> tuple[bool, bool]:
        once = self.shared.settle(name, amounts, now=self.now)
        twice = self.shared.settle(name, amounts, now=self.now)
        await self.shared.flush()
        return once, twice

    def _open_reservation(self, number: int) -> str | None:
        return sorted(self.open)[number % len(self.open)] if self.open else None

    @rule(offered=st.lists(offers(), min_size=1, max_size=3), lease=st.sampled_from([20, 200, 2000]))
    def reserve(self, offered: list[HoldOption], lease: int) -> None:
        self.count += 1
        name = f"r{self.count}"
        local = self.accounts.reserve(name, offered, now=self.now, lease=lease)
        shared = self._run(self.shared.reserve(name, lambda at: offered, tenant=TENANT, now=self.now, lease=lease))
        assert local == shared
        if isinstance(local, BudgetExceeded):
            self._check_that_held_is_not_spent(offered, local)
            return
        self.open[name] = local
        for reserved, amount in zip(local.lines, local.amounts, strict=True):
            spent, held, granted = self.accounts.balance(reserved, now=self.now)
            assert reserved.budget.is_shadow or amount == 0 or spent + held <= reserved.ceiling + granted

    def _check_that_held_is_not_spent(self, offered: list[HoldOption], exceeded: BudgetExceeded) -> None:
        """A call that is refused for holds alone fits once they are released; any other does not fit even then."""
        accounts = copy.deepcopy(self.accounts)
        for name in self.open:
            # An expired hold is charged, which a late settlement would correct.
            if accounts.open_lines(name):
                accounts.void(name, now=self.now)
        released = accounts.reserve("again", offered, now=self.now, lease=20)
        assert isinstance(released, Reservation) is exceeded.is_held

    @rule(which=st.integers(0, 100), more=st.integers(0, 60), again=st.booleans())
    def extend(self, which: int, more: int, again: bool) -> None:
        name = self._open_reservation(which)
        if name is None:
            return
        number = self.extended.get(name, 0) + (0 if again and name in self.extended else 1)
        amounts = [more for _ in self.open[name].lines]
        local = self.accounts.extend(name, number, amounts, now=self.now)
        assert self._run(self.shared.extend(name, number, amounts, now=self.now)) == local
        if local:
            self.extended[name] = number

    @rule(which=st.integers(0, 100), amounts=AMOUNTS)
    def settle(self, which: int, amounts: Amounts) -> None:
        name = self._open_reservation(which)
        if name is None:
            return
        reservation = self.open.pop(name)
        crossings = self.accounts.settle(name, amounts, now=self.now)
        self.local_crossings += crossings or ()
        assert self._run(self._settle_twice(name, amounts)) == (True, False)
        assert reservation.id == name

    @rule(seconds=st.sampled_from([1, 7, 30, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self._set_server_time()
        self.accounts.expire(self.now)
        self._run(self.shared.maintain(self.now))

    @rule(place=st.integers(0, 4), amount=st.integers(1, 200), seconds=st.sampled_from([None, 30]))
    def grant(self, place: int, amount: int, seconds: int | None) -> None:
        self.count += 1
        until = None if seconds is None else self.now + seconds
        granted = Grant(id=f"g{self.count}", account=LINES[place].account, amount=amount, until=until)
        self.accounts.grant(LINES[place], granted)
        assert self._run(self.shared.grant(TENANT, LINES[place], granted, fresh=True))
        assert not self._run(self.shared.grant(TENANT, LINES[place], granted, fresh=True)), "applied once"

    @invariant()
    def both_balances_are_equal(self) -> None:
        for checked in LINES:
            expected = self.accounts.balance(checked, now=self.now)
            assert self._run(self.shared.balance(TENANT, checked, now=self.now)) == expected, checked.name
        assert self.shared.backlog == 0
        local = [(crossing.line, crossing.percent) for crossing in self.local_crossings]
        assert local == [(crossing.line, crossing.percent) for crossing in self.shared_crossings]

    def teardown(self) -> None:
        if self.store is not None:
            self._run(self.store.close())
            self._run(self.tasks.stop())
            self.client.close()


def test_the_local_and_the_shared_store_agree_after_every_step(tmp_path: Path):
    server = Server(tmp_path / "valkey")
    loop = asyncio.new_event_loop()
    try:
        machine = type("Machine", (Stores,), {"server": server, "loop": loop})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                # A failing run prints its seed; shrinking it against a server takes minutes.
                phases=(Phase.explicit, Phase.reuse, Phase.generate),
                print_blob=True,
            ),
        )
    finally:
        loop.close()
        server.kill()


# --- each script by itself


MONEY, ROLLING = line("money", Measure.nusd, 1000), line("rolling", Measure.calls, 5, rolling=60)
LEASES, EPOCH, OPENS = (tenant_key(TENANT, name) for name in ("leases", "epoch", "opens"))
PREFIX = tenant_key(TENANT, "")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "valkey")
    running.set_time(NOW)
    yield running
    running.kill()


class Scripts:
    """Runs scripts of one replica as the store does, without its queues and totals."""

    def __init__(self, node: SingleNode) -> None:
        self.node = node

    async def join(self, *, fresh: str = "e1", known: str = "", has_spend: bool = False, quarantine: int = 3) -> str:
        """The tenant's epoch."""
        arguments = [fresh, known, str(quarantine), PREFIX, "one", str(int(has_spend))]
        epoch, at_ms, _ = await self.node.run("join_tenant", [EPOCH, OPENS, LEASES], arguments)
        assert int(at_ms) >= NOW * 1000
        return str(epoch.decode())

    async def reserve(
        self, name: str, offers: Sequence[HoldOption], *, epoch: str = "e1", lease: float = 60.0
    ) -> list[Any]:
        lines = list({each.account: each for offered in offers for each in offered.lines}.values())
        request = reserve_request(
            name, offers, lines, replica="one", epoch=epoch, lease=lease, at=NOW, needs_total=lambda each: True
        )
        fixed = [LEASES, EPOCH, OPENS, tenant_key(TENANT, f"hold:{name}"), tenant_key(TENANT, f"tomb:{name}")]
        answer: list[Any] = await self.node.run(
            "reserve", [*fixed, *[account_key(TENANT, each) for each in lines]], [request, PREFIX]
        )
        return answer

    async def settle(
        self, ids: Sequence[str] = (), totals: Sequence[tuple[BudgetLine, int, float]] = (), *, tombstone: bool = False
    ) -> list[int]:
        """The change count, then (spent before, after) of each total."""
        keys, arguments = [LEASES], ["one", PREFIX, str(int(tombstone)), str(len(ids)), *ids]
        for each, total, at in totals:
            keys += [account_key(TENANT, each), tenant_key(TENANT, f"totals:{each.account}")]
            arguments += [str(total), str(int(at)), str(each.bucket_seconds), str(each.bucket_count), "0"]
        return [int(figure) for figure in await self.node.run("settle", keys, arguments)]

    async def extend(self, name: str, number: int, amount: int, ceiling: int = 1000) -> int:
        arguments = [str(number), str(amount), str(ceiling), "0", "0"]
        return int(
            await self.node.run("extend", [tenant_key(TENANT, f"hold:{name}"), account_key(TENANT, MONEY)], arguments)
        )

    async def restore_hold(self, name: str, amount: int) -> int:
        keys = [LEASES, tenant_key(TENANT, f"hold:{name}"), tenant_key(TENANT, "open:one"), account_key(TENANT, MONEY)]
        return int(await self.node.run("restore_hold", keys, [name, "900", "one", str(amount), "0"]))

    async def list_holds(self, count: int) -> list[list[bytes]]:
        holds: list[list[bytes]] = await self.node.run(
            "list_holds", [tenant_key(TENANT, "open:one")], [PREFIX, str(count)]
        )
        return holds

    async def balance(self, of: BudgetLine = MONEY) -> tuple[int, int]:
        """(spent, held) as the account records them."""
        spent, held = await self.node.command("k", "HMGET", account_key(TENANT, of), "spent", "held")
        return int(spent or 0), int(held or 0)


@contextlib.asynccontextmanager
async def running_scripts(server: Server) -> AsyncIterator[Scripts]:
    """Scripts of a replica that has joined its tenant."""
    tasks = Tasks()
    node = SingleNode(server.url, tasks.start, clock=SET_CLOCK, timeout=5.0)
    try:
        scripts = Scripts(node)
        await scripts.join()
        yield scripts
    finally:
        await tasks.stop()
        await node.close()


def hold_of(amount: int) -> list[HoldOption]:
    return [offer((MONEY,), (amount,))]


async def test_replicas_join_one_epoch(server: Server):
    async with running_scripts(server) as scripts:
        assert await scripts.join(fresh="e2") == "e1"
        assert (await scripts.reserve("r1", hold_of(10)))[0] == b"yes"
        assert await scripts.reserve("r2", hold_of(10), epoch="e2") == [b"epoch"]
        assert await scripts.balance() == (0, 10)


@pytest.mark.parametrize(
    "known, has_spend, opens",
    [("", False, True), ("", True, False), ("e1", False, False)],
    ids=["a new replica", "a replica with calls in its ledger", "a replica that knows another epoch"],
)
async def test_a_store_without_an_epoch_is_quarantined_if_a_replica_remembers_data(
    server: Server, known: str, has_spend: bool, opens: bool
):
    async with running_scripts(server) as scripts:
        server.lose_data()
        server.set_time(NOW)
        assert await scripts.join(fresh="e2", known=known, has_spend=has_spend) == "e2"
        assert (await scripts.reserve("r1", hold_of(10), epoch="e2"))[0] == (b"yes" if opens else b"opens")
        server.set_time(NOW + 3)
        assert (await scripts.reserve("r2", hold_of(10), epoch="e2"))[0] == b"yes"


async def test_joining_expires_leases(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.reserve("r1", hold_of(10), lease=30)
        server.set_time(NOW + 29)
        await scripts.join()
        assert await scripts.balance() == (0, 10)
        server.set_time(NOW + 30)
        await scripts.join()
        assert await scripts.balance() == (10, 0)


async def test_a_line_outside_its_window_is_stale(server: Server):
    early, late = structs.replace(MONEY, starts_at=NOW + 1), structs.replace(MONEY, resets_at=NOW)
    async with running_scripts(server) as scripts:
        for stale in (early, late):
            answer = await scripts.reserve("r1", [offer((stale,), (10,))])
            assert answer == [b"stale", str(round(NOW * 1000)).encode()]
        assert await scripts.balance() == (0, 0)


async def test_a_refusal_names_the_line_that_the_last_offer_exceeds(server: Server):
    async with running_scripts(server) as scripts:
        offers = [offer((MONEY, ROLLING), (1001, 1)), offer((MONEY, ROLLING), (10, 6))]
        assert await scripts.reserve("r1", offers) == [b"no", 1, 1, b"0", b"0", b"0", 0, b"6"]
        assert await scripts.balance() == (0, 0)


async def test_a_refusal_says_whether_holds_alone_are_in_the_way(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.settle(totals=[(MONEY, 100, NOW)])
        await scripts.reserve("r1", hold_of(800))
        assert await scripts.reserve("r2", hold_of(200)) == [b"no", 0, 0, b"100", b"800", b"0", 1, b"200"]
        assert await scripts.reserve("r3", hold_of(901)) == [b"no", 0, 0, b"100", b"800", b"0", 0, b"901"]
        shrinkage = Shrinkage(
            fixed_amounts=(100,),
            amounts_per_token=(1,),
            output_tokens_max=900,
            output_tokens_min=20,
            thresholds=(1000,),
            ceilings=(1000,),
        )
        answer = await scripts.reserve("r4", [offer((MONEY,), (1000,), shrinkage=shrinkage)])
        assert answer == [b"no", 0, 0, b"100", b"800", b"0", 1, b"120"], (
            "its smallest hold of 120 fits once r1 has ended"
        )


async def test_a_hold_on_very_many_lines_is_released_whole(server: Server):
    lines = tuple(line(f"b{number}", Measure.calls, 5) for number in range(700))
    async with running_scripts(server) as scripts:
        assert (await scripts.reserve("r1", [offer(lines, (1,) * len(lines))]))[0] == b"yes"
        assert await scripts.balance(lines[-1]) == (0, 1)
        await scripts.settle(["r1"])
        assert {await scripts.balance(each) for each in (lines[0], lines[350], lines[-1])} == {(0, 0)}


async def test_totals_only_grow_whatever_order_they_arrive_in(server: Server):
    async with running_scripts(server) as scripts:
        spent = [await scripts.settle(totals=[(MONEY, total, NOW)]) for total in (40, 100, 100, 40)]
        assert [figures[1:] for figures in spent] == [[0, 40], [40, 100], [100, 100], [100, 100]]
        assert [figures[0] for figures in spent] == [1, 2, 3, 4], "every change of this replica is counted"
        assert await scripts.balance() == (100, 0)


async def test_a_charge_that_has_left_its_rolling_window_is_not_booked(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.settle(totals=[(ROLLING, 2, NOW - 100)])
        assert await scripts.balance(ROLLING) == (0, 0)
        await scripts.settle(totals=[(ROLLING, 5, NOW - 30)])
        assert await scripts.balance(ROLLING) == (3, 0)


async def test_a_charge_dated_by_a_fast_clock_is_booked_at_the_servers_time(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.settle(totals=[(ROLLING, 2, NOW + 3600)])
        server.set_time(NOW + 62)
        await scripts.settle(totals=[(ROLLING, 3, NOW + 62)])
        assert await scripts.balance(ROLLING) == (1, 0)


async def test_a_tombstoned_reservation_that_arrives_late_is_rejected(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.settle(["r1"], tombstone=True)
        assert await scripts.reserve("r1", hold_of(10)) == [b"dead"]
        assert await scripts.balance() == (0, 0)


async def test_a_reservation_that_is_repeated_holds_once(server: Server):
    async with running_scripts(server) as scripts:
        assert (await scripts.reserve("r1", hold_of(10)))[0] == b"yes"
        assert await scripts.reserve("r1", hold_of(10)) == [b"dead"]
        assert await scripts.balance() == (0, 10)


async def test_releasing_a_hold_twice_releases_it_once(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.reserve("r1", hold_of(10))
        await scripts.reserve("r2", hold_of(20))
        for _ in range(2):
            await scripts.settle(["r1", "unknown"])
        assert await scripts.balance() == (0, 20)


async def test_an_extension_is_applied_once_and_within_the_ceiling(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.reserve("r1", hold_of(900))
        assert [await scripts.extend("r1", number, 40) for number in (1, 1, 2, 3)] == [1, 1, 1, 0]
        assert await scripts.balance() == (0, 980)
        await scripts.settle(["r1"])
        assert await scripts.balance() == (0, 0), "the extensions are released with their hold"
        assert await scripts.extend("r1", 4, 1) == 0


async def test_an_expired_hold_is_not_extended(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.reserve("r1", hold_of(10), lease=30)
        server.set_time(NOW + 30)
        await scripts.join()
        assert await scripts.extend("r1", 1, 1) == 0
        await scripts.settle(["r1"], [(MONEY, 4, NOW)])
        assert await scripts.balance() == (4, 0), "a late settlement corrects the charge of the expiry"


async def test_a_lost_hold_is_restored_once(server: Server):
    async with running_scripts(server) as scripts:
        assert [await scripts.restore_hold("r1", 50) for _ in range(2)] == [1, 0]
        assert await scripts.balance() == (0, 50)
        server.set_time(NOW + 900)
        await scripts.join()
        assert await scripts.balance() == (50, 0), "a restored hold expires as well"


async def test_open_holds_are_listed_with_their_accounts(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.reserve("r1", [offer((MONEY, ROLLING), (10, 1))])
        await scripts.reserve("r2", hold_of(10))
        money, rolling = (account_key(TENANT, each).encode() for each in (MONEY, ROLLING))
        assert sorted(await scripts.list_holds(5)) == [[b"r1", money, rolling], [b"r2", money]]
        assert len(await scripts.list_holds(1)) == 1
        await scripts.settle(["r1"])
        assert await scripts.list_holds(5) == [[b"r2", money]]


async def test_a_reservation_reports_the_replicas_own_total(server: Server):
    async with running_scripts(server) as scripts:
        await scripts.settle(totals=[(MONEY, 40, NOW)])
        answer = await scripts.reserve("r1", hold_of(10))
        assert answer[6:] == [b"40", b"10", b"0", b"40"], "spent, held and granted, then the total"
