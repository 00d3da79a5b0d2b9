"""Background tasks: started here only, kept referenced, restarted when they fail, ended together."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_RESTART_SECONDS = 5.0


class Supervisor:
    """Runs loops until `stop`; one that fails is logged with its traceback and started again after a pause."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def every(self, seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` every so many seconds."""
        task = asyncio.get_running_loop().create_task(self._run(seconds, name, work), name=name)
        self._tasks.add(task)

    async def stop(self) -> None:
        """Cancel everything and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _run(self, seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception:
                log.exception("background work '%s' failed; it goes on in %g s", name, _RESTART_SECONDS)
                await asyncio.sleep(_RESTART_SECONDS)
