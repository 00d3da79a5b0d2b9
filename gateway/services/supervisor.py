"""Background tasks: started here only, kept referenced, restarted when they fail, ended together."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

log = logging.getLogger(__name__)

_RESTART_SECONDS = 5.0

Cancel = Callable[[], object]


class Supervisor:
    """Runs loops until `stop`; one that fails is logged with its traceback and started again after a pause. `sleep` is by
    whose clock they run."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()

    def run_every(self, seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` every so many seconds."""
        self._create_task(self._run_periodically(seconds, name, work), name)

    def spawn(self, name: str, work: Coroutine[None, None, None], failed: Callable[[Exception], None]) -> Cancel:
        """Do `work` once; `failed` hears of what it raised. Gives what cancels it."""
        return self._create_task(self._run_once(name, work, failed), name).cancel

    async def stop(self) -> None:
        """Cancel everything and wait for it."""
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
        self, name: str, work: Coroutine[None, None, None], failed: Callable[[Exception], None]
    ) -> None:
        try:
            await work
        except Exception as error:
            log.warning("'%s' failed: %s", name, type(error).__name__)
            failed(error)

    async def _run_periodically(self, seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._sleep(seconds)
            try:
                await work()
            except Exception:
                log.exception("background work '%s' failed; it goes on in %g s", name, _RESTART_SECONDS)
                await asyncio.sleep(_RESTART_SECONDS)
