"""Contract: the local and the shared budget store agree after every step.

The shared store is a real Valkey whose clock is a key that the test sets; a failing seed replays.
"""

import asyncio

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.accounting.budgets import BudgetAccounts
from gateway.stores.budgets_redis import RedisBudgets
from gateway.stores.redis_scripts import SingleNode
from gateway.values.budget import BudgetExceeded, Grant, HoldOption, Measure, Reservation, Shrinkage
from tests.budget_lines import NOW, amounts, line, offer
from tests.stores.servers import Server, Tasks

TENANT = "acme"
CLOCK = "return tonumber(redis.call('GET', 'penstock:{acme}:clock'))"
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
def offers(draw):
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

    @initialize()
    def begin(self):
        self.client = self.server.client()
        self.client.flushall()
        self.now, self.count = NOW, 0
        self.accounts, self.tasks = BudgetAccounts(), Tasks()
        self.local_crossings, self.shared_crossings = [], []
        self.store = RedisBudgets(
            SingleNode(self.server.url, self.tasks.start, clock=CLOCK, timeout=5.0),
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

    def _set_server_time(self):
        self.client.set("penstock:{acme}:clock", repr(self.now))

    def _run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    async def _settle_twice(self, name, amounts):
        once = self.store.settle(name, amounts, now=self.now)
        twice = self.store.settle(name, amounts, now=self.now)
        await self.store.flush()
        return once, twice

    def _open_reservation(self, number):
        return sorted(self.open)[number % len(self.open)] if self.open else None

    @rule(offered=st.lists(offers(), min_size=1, max_size=3), lease=st.sampled_from([20, 200, 2000]))
    def reserve(self, offered: list[HoldOption], lease: int):
        self.count += 1
        name = f"r{self.count}"
        local = self.accounts.reserve(name, offered, now=self.now, lease=lease)
        shared = self._run(self.store.reserve(name, lambda at: offered, tenant=TENANT, now=self.now, lease=lease))
        assert local == shared
        if isinstance(local, BudgetExceeded):
            return
        self.open[name] = local
        for reserved, amount in zip(local.lines, local.amounts, strict=True):
            spent, held, granted = self.accounts.balance(reserved, now=self.now)
            assert reserved.budget.is_shadow or amount == 0 or spent + held <= reserved.ceiling + granted

    @rule(which=st.integers(0, 100), more=st.integers(0, 60), again=st.booleans())
    def extend(self, which, more, again):
        name = self._open_reservation(which)
        if name is None:
            return
        number = self.extended.get(name, 0) + (0 if again and name in self.extended else 1)
        amounts = [more for _ in self.open[name].lines]
        local = self.accounts.extend(name, number, amounts, now=self.now)
        assert self._run(self.store.extend(name, number, amounts, now=self.now)) == local
        if local:
            self.extended[name] = number

    @rule(which=st.integers(0, 100), amounts=AMOUNTS)
    def settle(self, which, amounts):
        name = self._open_reservation(which)
        if name is None:
            return
        reservation = self.open.pop(name)
        crossings = self.accounts.settle(name, amounts, now=self.now)
        self.local_crossings += crossings or ()
        assert self._run(self._settle_twice(name, amounts)) == (True, False)
        assert reservation.id == name

    @rule(seconds=st.sampled_from([1, 7, 30, 61, 700]))
    def time_passes(self, seconds):
        self.now += seconds
        self._set_server_time()
        self.accounts.expire(self.now)
        self._run(self.store.maintain(self.now))

    @rule(place=st.integers(0, 4), amount=st.integers(1, 200), seconds=st.sampled_from([None, 30]))
    def grant(self, place, amount, seconds):
        self.count += 1
        until = None if seconds is None else self.now + seconds
        granted = Grant(id=f"g{self.count}", account=LINES[place].account, amount=amount, until=until)
        self.accounts.grant(LINES[place], granted)
        assert self._run(self.store.grant(TENANT, LINES[place], granted, fresh=True))
        assert not self._run(self.store.grant(TENANT, LINES[place], granted, fresh=True)), "applied once"

    @invariant()
    def both_balances_are_equal(self):
        for checked in LINES:
            expected = self.accounts.balance(checked, now=self.now)
            assert self._run(self.store.balance(TENANT, checked, now=self.now)) == expected, checked.name
        assert self.store.backlog == 0
        local = [(crossing.line, crossing.percent) for crossing in self.local_crossings]
        assert local == [(crossing.line, crossing.percent) for crossing in self.shared_crossings]

    def teardown(self):
        if hasattr(self, "store"):
            self._run(self.store.close())
            self._run(self.tasks.stop())
            self.client.close()


def test_the_local_and_the_shared_store_agree_after_every_step(tmp_path):
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
