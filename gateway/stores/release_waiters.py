"""Requests that wait for held amounts to be released: who waits longest is woken first."""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Iterable
from itertools import count

# Requests of an account that are woken together: a settlement makes room for few, but a large request must not keep a
# small one behind it waiting.
_WOKEN_MAX = 16


class ReleaseWaiters:
    """Waiting requests by account. Every wait has an end, and the pipeline bounds how many requests wait."""

    def __init__(self) -> None:
        self._numbers = count()
        self._by_account: dict[str, list[_Waiter]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_account)

    async def wait(self, account: str, *, since: float, seconds: float, seconds_max: float) -> None:
        """Return when `wake` is called for the account, or after `seconds`; after `seconds_max` behind many others."""
        waiters = self._by_account.setdefault(account, [])
        waiter = _Waiter(since, next(self._numbers), waiters)
        insort(waiters, waiter)
        waiter.set_timer(seconds, asyncio.get_running_loop().time() + seconds_max)
        try:
            await waiter.woken
        finally:
            waiter.timer.cancel()
            del waiters[bisect_left(waiters, waiter)]
            if not waiters:
                del self._by_account[account]

    def wake(self, accounts: Iterable[str]) -> None:
        """Wake the first of those that wait for one of the accounts."""
        for account in accounts:
            waiting = [waiter for waiter in self._by_account.get(account, ()) if not waiter.woken.done()]
            for waiter in waiting[:_WOKEN_MAX]:
                waiter.wake()


class _Waiter:
    """One waiting request; `waiters`: all of its account, in order."""

    __slots__ = ("_order", "_waiters", "timer", "woken")

    timer: asyncio.TimerHandle

    def __init__(self, since: float, number: int, waiters: list["_Waiter"]) -> None:
        self._order = (since, number)
        self._waiters = waiters
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __lt__(self, other: "_Waiter") -> bool:
        return self._order < other._order

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)

    def set_timer(self, seconds: float, until: float) -> None:
        """Wake it after `seconds` if it is among the first then, else try again; wake it at `until` in any case."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_at(min(loop.time() + seconds, until), self._time_passed, seconds, until)

    def _time_passed(self, seconds: float, until: float) -> None:
        is_over = asyncio.get_running_loop().time() >= until
        if is_over or bisect_left(self._waiters, self) < _WOKEN_MAX:
            self.wake()
        else:
            self.set_timer(seconds, until)
