"""A clock that the test advances, and waiting for threads and other processes."""

import asyncio
import heapq
import time
from collections.abc import Callable

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC, a Monday
DEADLINE_SECONDS = 60.0
# Task switches after which the work of a woken task is done, where it waits for nothing else.
_SWITCHES = 20


class ManualClock:
    """A wall clock, a monotonic clock, and sleeps that end when the test advances the time."""

    def __init__(self, seconds: float = NOW) -> None:
        self.seconds = seconds
        self._count = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.seconds

    def monotonic(self) -> float:
        """The same."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Waits until the test has advanced the time by that much."""
        self._count += 1
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.seconds + seconds, self._count, woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Advances the time and runs what is due, in order of time."""
        end = self.seconds + seconds
        await _run_ready_tasks()
        while self._sleepers and self._sleepers[0][0] <= end:
            due_at, _, woken = heapq.heappop(self._sleepers)
            self.seconds = max(self.seconds, due_at)
            if not woken.done():
                woken.set_result(None)
            await _run_ready_tasks()
        self.seconds = end


async def _run_ready_tasks() -> None:
    for _ in range(_SWITCHES):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Waits for a thread or another process: repeats the condition until it holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.002)
