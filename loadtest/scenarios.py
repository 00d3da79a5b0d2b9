"""What happens to the overspend test's gateways and stores while the calls are under way."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from processes import Gateway, Store


@dataclass
class Run:
    """One run's stage, and what happens on it. `killed`: replicas of gateways that were, `later`: what is done when all calls
    have ended, `pace`: below 1 where few calls are soon over."""

    gateways: list[Gateway]
    stores: list[Store]
    chance: random.Random
    killed: set[str] = field(default_factory=set)
    later: list[Callable[[], None]] = field(default_factory=list)

    pace: float = 1.0

    async def begin(self) -> None:
        """Some moment while the conversations begin."""
        await asyncio.sleep(self.chance.uniform(1, 7) * self.pace)

    async def wait(self, low: float, high: float) -> None:
        """Some time between."""
        await asyncio.sleep(self.chance.uniform(low, high))


async def plain(run: Run) -> None:
    """Nothing happens."""


async def kill(run: Run) -> None:
    """A gateway dies; it comes back after a second, or when all is over."""
    gateway = run.chance.choice(run.gateways)
    await run.begin()
    run.killed.add(gateway.replica)
    gateway.kill()
    if run.chance.random() < 0.5:
        await run.wait(0.5, 1.5)
        gateway.start()
    else:
        run.later.append(gateway.start)


async def restart(run: Run) -> None:
    """The store dies and comes back with its append-only file."""
    await run.begin()
    run.stores[0].kill()
    await run.wait(0.2, 1.5)
    await asyncio.to_thread(run.stores[0].start)


async def amnesia(run: Run) -> None:
    """The store dies and comes back with nothing."""
    await run.begin()
    run.stores[0].kill()
    await run.wait(0.2, 1)
    await asyncio.to_thread(lambda: run.stores[0].start(empty=True))


async def pause(run: Run) -> None:
    """The store says nothing for a while."""
    await run.begin()
    run.stores[0].pause()
    await run.wait(1, 2)
    run.stores[0].go_on()


async def node(run: Run) -> None:
    """One of three masters dies and comes back with its append-only file."""
    store = run.chance.choice(run.stores)
    await run.begin()
    store.kill()
    await run.wait(1, 2.5)
    await asyncio.to_thread(store.start)


async def both(run: Run) -> None:
    """A gateway dies while the store says nothing: what it had settled was not delivered."""
    await run.begin()
    run.stores[0].pause()
    await run.wait(0.3, 0.8)
    gateway = run.chance.choice(run.gateways)
    run.killed.add(gateway.replica)
    gateway.kill()
    run.stores[0].go_on()
    await run.wait(0.3, 1)
    gateway.start()


# What happens, and over how many seconds the conversations begin.
SCENARIOS = {
    "plain": (plain, 8.0),
    "burst": (plain, 0.5),
    "kill": (kill, 8.0),
    "restart": (restart, 8.0),
    "amnesia": (amnesia, 8.0),
    "pause": (pause, 8.0),
    "cluster": (node, 8.0),
    "skew": (plain, 8.0),
    "both": (both, 8.0),
}
