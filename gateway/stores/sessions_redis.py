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

from ..dialects.answer_fingerprint import Beginning
from .budget_messages import key_of
from .redis_scripts import Scripts, Start, StoreDown, unforeseen

log = logging.getLogger(__name__)

# As long as the accounts of sessions are kept.
_KEEP_SECONDS = 24 * 3600
# What happened to a session is told to the others for so long; they ask every second.
_CHANGES_SECONDS = 600.0
# After the store has not answered it is left alone for so long.
_REST_SECONDS = 1.0
_WAITING_MAX = 10_000
_AT_ONCE = 64
# Sessions that were given the same history, as many as a process keeps apart.
_ALIKE_MAX = 16


class SharedSessions:
    """The sessions of all replicas. `failing` while the store does not answer; `dropped` counts what was not told."""

    def __init__(self, scripts: Scripts, start: Start, monotonic: Callable[[], float]) -> None:
        self._scripts = scripts
        self._start = start
        self._monotonic = monotonic
        self._rests_until = float("-inf")
        self._waiting: deque[tuple[str, ...]] = deque()
        self._telling = False
        self._flushed: list[asyncio.Future[None]] = []
        self.dropped = 0

    @property
    def failing(self) -> bool:
        """Whether it did not answer a moment ago."""
        return self._monotonic() < self._rests_until

    async def session(self, org: str, key: str, name: str) -> dict[str, Any] | None:
        """What the others know of a session; None if nothing, or if they cannot be asked."""
        (found,) = await self._read([_session_key(org, key, name)])
        return found

    async def flush(self) -> bool:
        """Wait until what was told has arrived; False if the store did not take it."""
        before = self.dropped
        if self._waiting or self._telling:
            told = asyncio.get_running_loop().create_future()
            self._flushed.append(told)
            await told
        return self.dropped == before and not self.failing

    async def waiting_at(self, org: str, digests: Sequence[int]) -> dict[int, dict[str, Beginning]]:
        """By the digest of a history, the sessions whose request had it, and how each was answered."""
        answers = await self._asked([("HGETALL", _node_key(org, digest)) for digest in digests])
        found = {}
        for digest, answer in zip(digests, answers, strict=True):
            named = {name.decode(): Beginning(*orjson.loads(told)) for name, told in (answer or {}).items()}
            if named:
                found[digest] = named
        return found

    async def answered_with(self, org: str, digests: Sequence[int]) -> dict[int, list[str]]:
        """By the digest of an answer, the sessions that were given it."""
        answers = await self._asked([("SMEMBERS", _answer_key(org, digest)) for digest in digests])
        return {
            digest: [name.decode() for name in answer]
            for digest, answer in zip(digests, answers, strict=True)
            if answer
        }

    def answered(self, org: str, digest: int, name: str, heard: Beginning, answer_keys: Sequence[int]) -> None:
        """A request with this history was answered so, in this session."""
        node = _node_key(org, digest)
        self._tell("HSET", node, name, orjson.dumps(list(heard)).decode())
        self._tell("EXPIRE", node, str(_KEEP_SECONDS))
        for answer in answer_keys[:1]:
            self._tell("SADD", _answer_key(org, answer), name)
            self._tell("EXPIRE", _answer_key(org, answer), str(_KEEP_SECONDS))

    def changed(self, org: str, key: str, name: str, told: Mapping[str, Any], *, now: float, news: bool = True) -> None:
        """Something was done to a session that the others have to know; `news`: also those who know it already."""
        place = _session_key(org, key, name)
        fields = [
            text for field, value in {"at": now, **told}.items() for text in (field, orjson.dumps(value).decode())
        ]
        self._tell("HSET", place, *fields)
        self._tell("EXPIRE", place, str(_KEEP_SECONDS))
        if not news:
            return
        self._tell("ZADD", _changes_key(org), f"{now:.3f}", orjson.dumps([key, name]).decode())
        self._tell("ZREMRANGEBYSCORE", _changes_key(org), "-inf", f"{now - _CHANGES_SECONDS:.3f}")

    async def changes(
        self, org: str, since: float, known: Callable[[str, str], bool]
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """(key, session, what is known) of those that are `known` here and to which something was done since then."""
        (answer,) = await self._asked([("ZRANGEBYSCORE", _changes_key(org), f"{since:.3f}", "+inf")])
        every = [tuple(orjson.loads(member)) for member in answer or ()]
        names = [(key, name) for key, name in every if known(key, name)]
        found = await self._read([_session_key(org, key, name) for key, name in names])
        return [(key, name, told) for (key, name), told in zip(names, found, strict=True) if told is not None]

    async def _read(self, keys: Sequence[str]) -> list[dict[str, Any] | None]:
        answers = await self._asked([("HGETALL", key) for key in keys])
        return [
            {field.decode(): orjson.loads(value) for field, value in answer.items()} if answer else None
            for answer in answers
        ]

    async def _asked(self, commands: Sequence[tuple[str, str, *tuple[str, ...]]]) -> list[Any]:
        """The answers; None for each while the store does not answer."""
        if not commands or self.failing:
            return [None] * len(commands)
        try:
            return await asyncio.gather(*[self._scripts.command(command[1], *command) for command in commands])
        except StoreDown:
            self._failed()
            return [None] * len(commands)

    def _tell(self, *command: str) -> None:
        if len(self._waiting) >= _WAITING_MAX or self.failing:
            self.dropped += 1
            return
        self._waiting.append(command)
        if not self._telling:
            self._telling = True
            self._start("shared-sessions", self._told(), unforeseen)

    async def _told(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                try:
                    await asyncio.gather(*[self._scripts.command(command[1], *command) for command in batch])
                except StoreDown:
                    self.dropped += len(batch)
                    self._failed()
        finally:
            self._telling = False
            flushed, self._flushed = self._flushed, []
            for one in flushed:
                if not one.done():
                    one.set_result(None)

    def _failed(self) -> None:
        if not self.failing:
            log.warning("the shared store does not answer: sessions are known to this replica only")
        self._rests_until = self._monotonic() + _REST_SECONDS


def _session_key(org: str, key: str, name: str) -> str:
    return key_of(org, f"session:{orjson.dumps([key, name]).decode()}")


def _node_key(org: str, digest: int) -> str:
    return key_of(org, f"node:{digest:016x}")


def _answer_key(org: str, digest: int) -> str:
    return key_of(org, f"answer:{digest:016x}")


def _changes_key(org: str) -> str:
    return key_of(org, "session-changes")
