"""Background tasks: started here only, kept referenced, restarted after failures, canceled together."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

log = logging.getLogger(__name__)

_RESTART_SECONDS = 5.0

Cancel = Callable[[], object]


class Supervisor:
    """Runs background tasks until `stop`; periodic ones that fail are logged and retried after a pause.

    sleep: waits so many seconds by the clock of the process
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()

    def run_every(self, seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` periodically, first after `seconds`."""
        self._create_task(self._run_periodically(seconds, name, work), name)

    def spawn(self, name: str, work: Coroutine[None, None, None], on_failure: Callable[[Exception], None]) -> Cancel:
        """Run `work` once; `on_failure` is called with what it raised. Returns a function that cancels it."""
        task = self._create_task(self._run_once(name, work, on_failure), name)
        # A task that is cancelled before its first step never awaits the work.
        task.add_done_callback(lambda _: work.close())
        return task.cancel

    async def stop(self) -> None:
        """Cancel every task and wait for its end."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _create_task(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run_once(
        self, name: str, work: Coroutine[None, None, None], on_failure: Callable[[Exception], None]
    ) -> None:
        try:
            await work
        except Exception as error:
            log.warning("background_task_failed task=%s error=%s", name, type(error).__name__)
            on_failure(error)

    async def _run_periodically(self, seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._sleep(seconds)
            try:
                await work()
            except Exception:
                log.exception("background_task_failed task=%s retry_seconds=%g", name, _RESTART_SECONDS)
                await self._sleep(_RESTART_SECONDS)
