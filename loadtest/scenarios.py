"""What happens to the overspend test's gateways and stores while the calls are under way."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from processes import GatewayProcess, ValkeyServer


@dataclass
class ScenarioRun:
    """One run's stage, and what happens on it. `killed`: replicas of gateways that were, `later`: what is done when all calls
    have ended, `pace`: below 1 where few calls are soon over."""

    gateways: list[GatewayProcess]
    stores: list[ValkeyServer]
    chance: random.Random
    killed_replicas: set[str] = field(default_factory=set)
    after_calls: list[Callable[[], None]] = field(default_factory=list)

    pace: float = 1.0

    async def wait_for_start(self) -> None:
        """Some moment while the conversations begin."""
        await asyncio.sleep(self.chance.uniform(1, 7) * self.pace)

    async def wait_between(self, low: float, high: float) -> None:
        """Some time between."""
        await asyncio.sleep(self.chance.uniform(low, high))


async def plain(run: ScenarioRun) -> None:
    """Nothing happens."""


async def kill_gateway(run: ScenarioRun) -> None:
    """A gateway dies; it comes back after a second, or when all is over."""
    gateway = run.chance.choice(run.gateways)
    await run.wait_for_start()
    run.killed_replicas.add(gateway.replica_name)
    gateway.kill()
    if run.chance.random() < 0.5:
        await run.wait_between(0.5, 1.5)
        gateway.start()
    else:
        run.after_calls.append(gateway.start)


async def restart_store(run: ScenarioRun) -> None:
    """The store dies and comes back with its append-only file."""
    await run.wait_for_start()
    run.stores[0].kill()
    await run.wait_between(0.2, 1.5)
    await asyncio.to_thread(run.stores[0].start)


async def restart_store_empty(run: ScenarioRun) -> None:
    """The store dies and comes back with nothing."""
    await run.wait_for_start()
    run.stores[0].kill()
    await run.wait_between(0.2, 1)
    await asyncio.to_thread(lambda: run.stores[0].start(empty=True))


async def pause_store(run: ScenarioRun) -> None:
    """The store says nothing for a while."""
    await run.wait_for_start()
    run.stores[0].pause()
    await run.wait_between(1, 2)
    run.stores[0].resume()


async def restart_cluster_node(run: ScenarioRun) -> None:
    """One of three masters dies and comes back with its append-only file."""
    store = run.chance.choice(run.stores)
    await run.wait_for_start()
    store.kill()
    await run.wait_between(1, 2.5)
    await asyncio.to_thread(store.start)


async def kill_gateway_while_store_paused(run: ScenarioRun) -> None:
    """A gateway dies while the store says nothing: what it had settled was not delivered."""
    await run.wait_for_start()
    run.stores[0].pause()
    await run.wait_between(0.3, 0.8)
    gateway = run.chance.choice(run.gateways)
    run.killed_replicas.add(gateway.replica_name)
    gateway.kill()
    run.stores[0].resume()
    await run.wait_between(0.3, 1)
    gateway.start()


# What happens, and over how many seconds the conversations begin.
SCENARIOS = {
    "plain": (plain, 8.0),
    "burst": (plain, 0.5),
    "kill": (kill_gateway, 8.0),
    "restart": (restart_store, 8.0),
    "amnesia": (restart_store_empty, 8.0),
    "pause": (pause_store, 8.0),
    "cluster": (restart_cluster_node, 8.0),
    "skew": (plain, 8.0),
    "both": (kill_gateway_while_store_paused, 8.0),
}
