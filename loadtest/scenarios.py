"""Failures of gateways and stores that the overspend test injects while its calls run."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from processes import GatewayProcess, ValkeyServer


@dataclass
class ScenarioRun:
    """The processes of one run, and what its scenario did to them.

    randomness: source of random choices
    killed_replicas: replica names of killed gateways
    after_calls: actions to take when all calls have ended
    pace: scales the wait for the start; below 1 for few calls
    """

    gateways: list[GatewayProcess]
    stores: list[ValkeyServer]
    randomness: random.Random
    killed_replicas: set[str] = field(default_factory=set)
    after_calls: list[Callable[[], None]] = field(default_factory=list)
    pace: float = 1.0

    async def wait_for_start(self) -> None:
        """Wait until a random moment while conversations begin."""
        await asyncio.sleep(self.randomness.uniform(1, 7) * self.pace)

    async def wait_between(self, low: float, high: float) -> None:
        """Wait for a random time between `low` and `high` seconds."""
        await asyncio.sleep(self.randomness.uniform(low, high))


async def plain(run: ScenarioRun) -> None:
    """No failure."""


async def kill_gateway(run: ScenarioRun) -> None:
    """Kill a gateway; restart it after a second, or after all calls."""
    gateway = run.randomness.choice(run.gateways)
    await run.wait_for_start()
    run.killed_replicas.add(gateway.replica_name)
    gateway.kill()
    if run.randomness.random() < 0.5:
        await run.wait_between(0.5, 1.5)
        gateway.start()
    else:
        run.after_calls.append(gateway.start)


async def restart_store(run: ScenarioRun) -> None:
    """Kill the store and restart it with its append-only file."""
    await run.wait_for_start()
    run.stores[0].kill()
    await run.wait_between(0.2, 1.5)
    await asyncio.to_thread(run.stores[0].start)


async def restart_store_empty(run: ScenarioRun) -> None:
    """Kill the store and restart it empty."""
    await run.wait_for_start()
    run.stores[0].kill()
    await run.wait_between(0.2, 1)
    await asyncio.to_thread(lambda: run.stores[0].start(empty=True))


async def pause_store(run: ScenarioRun) -> None:
    """Pause the store for a while."""
    await run.wait_for_start()
    run.stores[0].pause()
    await run.wait_between(1, 2)
    run.stores[0].resume()


async def restart_cluster_node(run: ScenarioRun) -> None:
    """Kill one of three masters and restart it with its append-only file."""
    store = run.randomness.choice(run.stores)
    await run.wait_for_start()
    store.kill()
    await run.wait_between(1, 2.5)
    await asyncio.to_thread(store.start)


async def kill_gateway_while_store_paused(run: ScenarioRun) -> None:
    """Kill a gateway while the store is paused: its settlements were not delivered."""
    await run.wait_for_start()
    run.stores[0].pause()
    await run.wait_between(0.3, 0.8)
    gateway = run.randomness.choice(run.gateways)
    run.killed_replicas.add(gateway.replica_name)
    gateway.kill()
    run.stores[0].resume()
    await run.wait_between(0.3, 1)
    gateway.start()


# Failure, and seconds over which the conversations begin.
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
