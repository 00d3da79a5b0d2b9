"""Waiting for held amounts: who waits longest is woken first, and every wait ends."""

import asyncio

import pytest

from gateway.stores.release_waiters import ReleaseWaiters

LONG = 60.0


async def waiting(waiters: ReleaseWaiters, *since: float, account: str = "a") -> tuple[list[float], list[asyncio.Task]]:
    """(the times since which woken requests wait, in the order in which they woke; the tasks that wait)."""
    woken: list[float] = []

    async def wait(at: float) -> None:
        await waiters.wait(account, since=at, seconds=LONG, seconds_max=LONG)
        woken.append(at)

    tasks = [asyncio.ensure_future(wait(at)) for at in since]
    await asyncio.sleep(0)
    return woken, tasks


async def test_a_release_wakes_who_waits_for_its_account_longest_first():
    waiters = ReleaseWaiters()
    woken, tasks = await waiting(waiters, 3.0, 1.0, 2.0)
    others, other_tasks = await waiting(waiters, 0.0, account="b")
    waiters.wake(["a", "unknown"])
    await asyncio.gather(*tasks)
    assert woken == [1.0, 2.0, 3.0] and others == []
    waiters.wake(["b"])
    await asyncio.gather(*other_tasks)
    assert not waiters, "no request waits any more"


async def test_one_release_wakes_a_few_and_the_next_one_the_following():
    waiters = ReleaseWaiters()
    woken, tasks = await waiting(waiters, *range(40))
    waiters.wake(["a"])
    waiters.wake(["a"])
    await asyncio.sleep(0)
    assert woken == list(range(32))
    waiters.wake(["a"])
    await asyncio.gather(*tasks)
    assert woken == list(range(40))


async def test_behind_many_others_only_the_longer_time_ends_a_wait():
    waiters = ReleaseWaiters()
    _, tasks = await waiting(waiters, *range(16))
    late = asyncio.ensure_future(waiters.wait("a", since=99.0, seconds=0.0, seconds_max=LONG))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not late.done()
    await waiters.wait("a", since=99.5, seconds=0.0, seconds_max=0.0)
    waiters.wake(["a"])
    await asyncio.gather(*tasks, late)
    assert not waiters


async def test_a_wait_ends_at_its_time():
    waiters = ReleaseWaiters()
    await waiters.wait("a", since=0.0, seconds=0.0, seconds_max=LONG)
    assert not waiters


async def test_a_caller_that_hangs_up_leaves_its_place():
    waiters = ReleaseWaiters()
    woken, (first, second) = await waiting(waiters, 1.0, 2.0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    waiters.wake(["a"])
    await second
    assert woken == [2.0] and not waiters
