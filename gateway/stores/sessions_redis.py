"""Sessions on a shared store, so that replicas know the same ones: who continues whose history, and what was done to whom.

Asked only for what this process does not know; told behind the requests. A store that does not answer leaves each
replica with what it knows: sessions may then fall apart into several, never together.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from ..dialects.answer_fingerprint import AnswerFingerprint
from .budget_messages import tenant_key
from .redis_scripts import ScriptRunner, StartTask, StoreUnavailable, log_task_failure

log = logging.getLogger(__name__)

# As long as the accounts of sessions are kept.
_RETENTION_SECONDS = 24 * 3600
# What happened to a session is told to the others for so long; they ask every second.
_CHANGES_SECONDS = 600.0
# After the store has not answered it is left alone for so long.
_BACKOFF_SECONDS = 1.0
_QUEUE_MAX = 10_000
_BATCH_MAX = 64
# Sessions that were given the same history, as many as a process keeps apart.
_SESSIONS_PER_DIGEST_MAX = 16


class SharedSessions:
    """The sessions of all replicas. `failing` while the store does not answer; `dropped` counts what was not told."""

    def __init__(self, scripts: ScriptRunner, start: StartTask, monotonic: Callable[[], float]) -> None:
        self._scripts = scripts
        self._start_task = start
        self._monotonic = monotonic
        self._backoff_until = float("-inf")
        self._queue: deque[tuple[str, ...]] = deque()
        self._sending = False
        self._flush_waiters: list[asyncio.Future[None]] = []
        self.dropped_writes = 0

    @property
    def is_failing(self) -> bool:
        """Whether it did not answer a moment ago."""
        return self._monotonic() < self._backoff_until

    async def read_record(self, org: str, key: str, name: str) -> dict[str, Any] | None:
        """What the others know of a session; None if nothing, or if they cannot be asked."""
        (found,) = await self._read_hashes([_session_key(org, key, name)])
        return found

    async def flush(self) -> bool:
        """Wait until what was told has arrived; False if the store did not take it."""
        before = self.dropped_writes
        if self._queue or self._sending:
            told = asyncio.get_running_loop().create_future()
            self._flush_waiters.append(told)
            await told
        return self.dropped_writes == before and not self.is_failing

    async def sessions_at_history(self, org: str, digests: Sequence[int]) -> dict[int, dict[str, AnswerFingerprint]]:
        """By the digest of a history, the sessions whose request had it, and how each was answered."""
        answers = await self._query([("HGETALL", _node_key(org, digest)) for digest in digests])
        found = {}
        for digest, answer in zip(digests, answers, strict=True):
            named = {name.decode(): AnswerFingerprint(*orjson.loads(told)) for name, told in (answer or {}).items()}
            if named:
                found[digest] = named
        return found

    async def sessions_with_answer(self, org: str, digests: Sequence[int]) -> dict[int, list[str]]:
        """By the digest of an answer, the sessions that were given it."""
        answers = await self._query([("SMEMBERS", _answer_key(org, digest)) for digest in digests])
        return {
            digest: [name.decode() for name in answer]
            for digest, answer in zip(digests, answers, strict=True)
            if answer
        }

    def publish_answer(
        self, org: str, digest: int, name: str, heard: AnswerFingerprint, answer_keys: Sequence[int]
    ) -> None:
        """A request with this history was answered so, in this session."""
        node = _node_key(org, digest)
        self._enqueue("HSET", node, name, orjson.dumps(list(heard)).decode())
        self._enqueue("EXPIRE", node, str(_RETENTION_SECONDS))
        for answer in answer_keys[:1]:
            self._enqueue("SADD", _answer_key(org, answer), name)
            self._enqueue("EXPIRE", _answer_key(org, answer), str(_RETENTION_SECONDS))

    def publish_record(
        self, org: str, key: str, name: str, told: Mapping[str, Any], *, now: float, publish: bool = True
    ) -> None:
        """Something was done to a session that the others have to know; `news`: also those who know it already."""
        place = _session_key(org, key, name)
        fields = [
            text for field, value in {"at": now, **told}.items() for text in (field, orjson.dumps(value).decode())
        ]
        self._enqueue("HSET", place, *fields)
        self._enqueue("EXPIRE", place, str(_RETENTION_SECONDS))
        if not publish:
            return
        self._enqueue("ZADD", _changes_key(org), f"{now:.3f}", orjson.dumps([key, name]).decode())
        self._enqueue("ZREMRANGEBYSCORE", _changes_key(org), "-inf", f"{now - _CHANGES_SECONDS:.3f}")

    async def read_changes(
        self, org: str, since: float, known: Callable[[str, str], bool]
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """(key, session, what is known) of those that are `known` here and to which something was done since then."""
        (answer,) = await self._query([("ZRANGEBYSCORE", _changes_key(org), f"{since:.3f}", "+inf")])
        every = [tuple(orjson.loads(member)) for member in answer or ()]
        names = [(key, name) for key, name in every if known(key, name)]
        found = await self._read_hashes([_session_key(org, key, name) for key, name in names])
        return [(key, name, told) for (key, name), told in zip(names, found, strict=True) if told is not None]

    async def _read_hashes(self, keys: Sequence[str]) -> list[dict[str, Any] | None]:
        answers = await self._query([("HGETALL", key) for key in keys])
        return [
            {field.decode(): orjson.loads(value) for field, value in answer.items()} if answer else None
            for answer in answers
        ]

    async def _query(self, commands: Sequence[tuple[str, str, *tuple[str, ...]]]) -> list[Any]:
        """The answers; None for each while the store does not answer."""
        if not commands or self.is_failing:
            return [None] * len(commands)
        try:
            return await asyncio.gather(*[self._scripts.command(command[1], *command) for command in commands])
        except StoreUnavailable:
            self._record_failure()
            return [None] * len(commands)

    def _enqueue(self, *command: str) -> None:
        if len(self._queue) >= _QUEUE_MAX or self.is_failing:
            self.dropped_writes += 1
            return
        self._queue.append(command)
        if not self._sending:
            self._sending = True
            self._start_task("shared-sessions", self._send_queued(), log_task_failure)

    async def _send_queued(self) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(_BATCH_MAX, len(self._queue)))]
                try:
                    await asyncio.gather(*[self._scripts.command(command[1], *command) for command in batch])
                except StoreUnavailable:
                    self.dropped_writes += len(batch)
                    self._record_failure()
        finally:
            self._sending = False
            flushed, self._flush_waiters = self._flush_waiters, []
            for one in flushed:
                if not one.done():
                    one.set_result(None)

    def _record_failure(self) -> None:
        if not self.is_failing:
            log.warning("the shared store does not answer: sessions are known to this replica only")
        self._backoff_until = self._monotonic() + _BACKOFF_SECONDS


def _session_key(org: str, key: str, name: str) -> str:
    return tenant_key(org, f"session:{orjson.dumps([key, name]).decode()}")


def _node_key(org: str, digest: int) -> str:
    return tenant_key(org, f"node:{digest:016x}")


def _answer_key(org: str, digest: int) -> str:
    return tenant_key(org, f"answer:{digest:016x}")


def _changes_key(org: str) -> str:
    return tenant_key(org, "session-changes")
