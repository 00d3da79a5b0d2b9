"""Adapter to Redis or Valkey: runs Lua scripts in batches, with a timeout.

Calls that arrive while a batch is in flight form the next one, so that thousands at once need only a few connections.
When a batch fails, so does everything queued behind it, so that no call waits for a dead store. In a cluster each node
has its own batches; the topology is refreshed when a node answers that a key has moved.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from importlib import resources
from typing import Any, Protocol

import redis.asyncio as redis_client
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoScriptError, RedisClusterException, RedisError

log = logging.getLogger(__name__)

# A slower store counts as down (redis-py's defaults wait 3.5 s for a dead server and 20 s for a hung one).
TIMEOUT_SECONDS = 0.05
# A timer that fires this late was delayed by this process, not by the store, and is extended.
_LOOP_LAG_SECONDS = 0.01
# A server processes the pending commands of all clients before it writes: the batches of many replicas have to fit into
# the timeout, at 0.05 to 0.3 ms per script.
_BATCH_MAX = 8
# Shortest interval between topology refreshes, in general and after a moved key.
_TOPOLOGY_REFRESH_SECONDS = 1.0
_MOVED_REFRESH_SECONDS = 0.05
# A backstop beneath our own timer, for connections that break silently.
_SOCKET_TIMEOUT_SECONDS = 1.0
_SERVER_TIME = "local t = redis.call('TIME'); return tonumber(t[1]) + tonumber(t[2]) / 1000000"
_SCRIPT_NAMES = ("reserve", "extend", "settle", "join_tenant", "restore_hold", "list_holds", "grant")

StartTask = Callable[[str, Coroutine[None, None, None], Callable[[Exception], None]], object]


class StoreUnavailable(Exception):
    """The store did not answer in time, or with an error. Never leaves `stores`."""


def log_task_failure(error: Exception) -> None:
    """Log an unhandled error of a background task, with its traceback."""
    log.error("budget_store_task_failed", exc_info=error)


class ScriptRunner(Protocol):
    """Runs a script on the node of its first key. Raises StoreUnavailable.

    `reset` is called after all tasks have ended.
    """

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[str]) -> Any: ...
    async def command(self, key: str, *parts: str) -> Any: ...
    def reset(self) -> None: ...
    async def close(self) -> None: ...


class ScriptNode:
    """One server: its connections and its queue of commands."""

    def __init__(self, url: str, start: StartTask, texts: dict[str, str], timeout: float) -> None:
        self._timeout = timeout
        pool = redis_client.BlockingConnectionPool.from_url(
            url,
            max_connections=4,
            timeout=timeout,
            socket_timeout=max(timeout, _SOCKET_TIMEOUT_SECONDS),
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._client = redis_client.Redis.from_pool(pool)
        self._start_task = start
        self._sources = texts
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in texts.items()
        }
        self._waiting: deque[tuple[tuple[str, ...], asyncio.Future[Any]]] = deque()
        self._draining = False

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[str]) -> Any:
        """The script's answer. Raises StoreUnavailable."""
        return await self.command("EVALSHA", self._digests[name], str(len(keys)), *keys, *arguments)

    async def command(self, *parts: str) -> Any:
        """The command's answer. Raises StoreUnavailable."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((parts, future))
        if not self._draining:
            self._draining = True
            self._start_task("budget-scripts", self._drain(), log_task_failure)
        return await future

    def reset(self) -> None:
        """Allow a new drain after the running one was cancelled."""
        self._draining = False

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH_MAX, len(self._waiting)))]
                try:
                    answers = await self._run_batch([parts for parts, _ in batch])
                except (RedisError, OSError, TimeoutError) as error:
                    self._waiting.extendleft(reversed(batch))
                    self._fail_waiting(error)
                    return
                except BaseException as error:
                    # Cancelled at shutdown.
                    self._waiting.extendleft(reversed(batch))
                    self._fail_waiting(StoreUnavailable(type(error).__name__))
                    raise
                for (_, future), answer in zip(batch, answers, strict=True):
                    _resolve(future, answer)
        finally:
            self._draining = False

    async def _run_batch(self, commands: list[tuple[str, ...]]) -> list[Any]:
        """The answers of a batch. Raises TimeoutError if the store is late."""
        async with asyncio.timeout(None) as limit:
            timer = _ResponseTimer(limit, self._timeout)
            try:
                answers = await self._send(commands)
                missing = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
                if missing:
                    await self._send([("SCRIPT", "LOAD", text) for text in self._sources.values()])
                    retried = await self._send([commands[index] for index in missing])
                    for index, answer in zip(missing, retried, strict=True):
                        answers[index] = answer
                return answers
            finally:
                timer.cancel()

    async def _send(self, commands: list[tuple[str, ...]]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for parts in commands:
                pipe.execute_command(*parts)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    def _fail_waiting(self, error: Exception) -> None:
        while self._waiting:
            _resolve(self._waiting.popleft()[1], StoreUnavailable(type(error).__name__))


class _ResponseTimer:
    """Ends a wait after `seconds` without an answer from the store.

    A timer that fires late because this process was busy is extended, a few times.
    """

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._extensions_left = 3
        self._loop = asyncio.get_running_loop()
        self._arm()

    def cancel(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _arm(self) -> None:
        self._due_at = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._due_at, self._on_timeout)

    def _on_timeout(self) -> None:
        if self._extensions_left and self._loop.time() - self._due_at > _LOOP_LAG_SECONDS:
            self._extensions_left -= 1
            self._arm()
        else:
            self._limit.reschedule(self._loop.time())


class SingleNode:
    """A single server."""

    def __init__(
        self, url: str, start: StartTask, *, clock: str = _SERVER_TIME, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self._node = ScriptNode(url, start, script_sources(clock), timeout)
        self.run = self._node.run
        self.reset = self._node.reset

    async def command(self, key: str, *parts: str) -> Any:
        """The command's answer; `key` selects the node. Raises StoreUnavailable."""
        return await self._node.command(*parts)

    async def close(self) -> None:
        """Close the connections."""
        await self._node.close()


class ScriptCluster:
    """The nodes of a cluster, each with its own batches.

    redis-py's client only provides the topology.

    The old topology stays in use during a refresh, so that a lost node does not stop the others.
    """

    def __init__(
        self, url: str, start: StartTask, *, clock: str = _SERVER_TIME, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        scheme, _, rest = url.partition("://")
        login, _, hosts = rest.partition("?")[0].partition("/")[0].rpartition("@")
        self._options = "?" + rest.partition("?")[2] if "?" in rest else ""
        self._scheme, self._login = scheme, f"{login}@" if login else ""
        self._seed_addresses = hosts.split(",")
        self._start = start
        self._sources = script_sources(clock)
        self._timeout = timeout
        self._nodes: dict[str, ScriptNode] = {}
        self._topology: RedisCluster | None = None
        self._refresh_lock: asyncio.Lock = asyncio.Lock()
        self._refreshed_at = float("-inf")

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[str]) -> Any:
        """The script's answer, retried if the key has moved. Raises StoreUnavailable."""
        try:
            return await (self._node_of_key(keys[0]) or await self._locate_node(keys[0])).run(name, keys, arguments)
        except StoreUnavailable as down:
            if not isinstance(down.__cause__, MovedError):
                self._schedule_refresh()
                raise
        await self._refresh_topology(moved=True)
        return await (await self._locate_node(keys[0])).run(name, keys, arguments)

    async def command(self, key: str, *parts: str) -> Any:
        """The command's answer from the node of `key`. Raises StoreUnavailable."""
        try:
            return await (self._node_of_key(key) or await self._locate_node(key)).command(*parts)
        except StoreUnavailable:
            self._schedule_refresh()
            raise

    def reset(self) -> None:
        """Reset every node."""
        for node in self._nodes.values():
            node.reset()

    async def close(self) -> None:
        """Close the connections."""
        if self._topology is not None:
            await self._topology.aclose()
        for node in self._nodes.values():
            await node.close()

    def _node_of_key(self, key: str) -> ScriptNode | None:
        """The node of `key`; never awaits, so that calls keep their order."""
        address = self._topology.get_node_from_key(key) if self._topology is not None else None
        if address is None:
            return None
        node = self._nodes.get(address.name)
        if node is None:
            url = f"{self._scheme}://{self._login}{address.host}:{address.port}/0{self._options}"
            node = self._nodes[address.name] = ScriptNode(url, self._start, self._sources, self._timeout)
        return node

    async def _locate_node(self, key: str) -> ScriptNode:
        if self._topology is None:
            await self._refresh_topology()
        node = self._node_of_key(key)
        if node is None:
            raise StoreUnavailable("no node for this key")
        return node

    def _schedule_refresh(self) -> None:
        """Refresh the topology in the background, once a second at most."""
        now = asyncio.get_running_loop().time()
        if now - self._refreshed_at >= _TOPOLOGY_REFRESH_SECONDS and not self._refresh_lock.locked():
            self._start("budget-cluster-map", self._refresh_topology(), lambda error: None)

    async def _refresh_topology(self, *, moved: bool = False) -> None:
        """Fetch the topology from a node that answers. Raises StoreUnavailable."""
        async with self._refresh_lock:
            loop = asyncio.get_running_loop()
            interval = _MOVED_REFRESH_SECONDS if moved else _TOPOLOGY_REFRESH_SECONDS
            if loop.time() - self._refreshed_at < interval:
                if self._topology is None:
                    raise StoreUnavailable("no cluster node answered a moment ago")
                return
            self._refreshed_at = loop.time()
            for address in dict.fromkeys([*self._seed_addresses, *self._nodes]):
                topology = RedisCluster.from_url(
                    f"{self._scheme}://{self._login}{address}/0{self._options}",
                    socket_timeout=self._timeout,
                    socket_connect_timeout=self._timeout,
                    retry=Retry(NoBackoff(), 0),
                    require_full_coverage=False,
                )
                try:
                    async with asyncio.timeout(self._timeout):
                        await topology.initialize()
                except (RedisError, RedisClusterException, OSError, TimeoutError):
                    await topology.aclose()
                    continue
                previous, self._topology = self._topology, topology
                if previous is not None:
                    await previous.aclose()
                return
            raise StoreUnavailable("no cluster node answers")


def script_sources(clock: str) -> dict[str, str]:
    """Script sources by name; `clock` is Lua that returns the time in seconds."""
    folder = resources.files(__package__) / "lua"
    common = (folder / "common.lua").read_text(encoding="utf-8")
    opening = f"local function NOW() {clock} end\n{common}\n"
    return {name: opening + (folder / f"{name}.lua").read_text(encoding="utf-8") for name in _SCRIPT_NAMES}


def _resolve(future: "asyncio.Future[Any]", answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, StoreUnavailable):
        future.set_exception(answer)
    elif isinstance(answer, RedisError):
        down = StoreUnavailable(f"{type(answer).__name__}: {str(answer)[:200]}")
        down.__cause__ = answer
        future.set_exception(down)
    else:
        future.set_result(answer)
