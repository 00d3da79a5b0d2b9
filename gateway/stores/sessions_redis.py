"""Sessions shared by replicas on Redis or Valkey: lineage, stops and caps; and where providers' objects are.

Read only for what this process does not know; written in the background. While the store does not answer, each replica
uses its own sessions: one session may then split into several, but never merge with another.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from ..dialects.answer_fingerprint import AnswerFingerprint
from ..values.stored_object import StoredObject
from .budget_messages import tenant_key
from .redis_scripts import ScriptRunner, StartTask, StoreUnavailable, log_task_failure

log = logging.getLogger(__name__)

# As long as session accounts are kept.
_RETENTION_SECONDS = 24 * 3600
# Objects that providers keep for long: files, batches, background responses whose usage is not booked. OpenAI keeps
# responses for 30 days (platform.openai.com, data controls, July 2026).
_OBJECT_RETENTION_SECONDS = 30 * 24 * 3600
# How long changes stay listed; replicas poll every second.
_CHANGES_SECONDS = 600.0
# Pause after a failure during which the store is not contacted.
_BACKOFF_SECONDS = 1.0
_QUEUE_MAX = 10_000
_BATCH_MAX = 64
# Sessions kept per history digest.
_SESSIONS_PER_DIGEST_MAX = 16
_OBJECT_DECODER = msgspec.json.Decoder(StoredObject)


class SharedSessions:
    """The sessions of all replicas; `dropped_writes` counts lost commands."""

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
        """Whether the store failed a moment ago."""
        return self._monotonic() < self._backoff_until

    async def read_record(self, org: str, key: str, name: str) -> dict[str, Any] | None:
        """The session's shared record; None without one or without an answer."""
        (record,) = await self._read_hashes([_session_key(org, key, name)])
        return record

    async def flush(self) -> bool:
        """Wait until queued writes are delivered; False if some were not."""
        before = self.dropped_writes
        if self._queue or self._sending:
            flushed = asyncio.get_running_loop().create_future()
            self._flush_waiters.append(flushed)
            await flushed
        return self.dropped_writes == before and not self.is_failing

    async def sessions_at_history(self, org: str, digests: Sequence[int]) -> dict[int, dict[str, AnswerFingerprint]]:
        """By history digest, the answers of the sessions with a request of that history."""
        answers = await self._query([("HGETALL", _node_key(org, digest)) for digest in digests])
        by_digest = {}
        for digest, answer in zip(digests, answers, strict=True):
            fingerprints = {
                name.decode(): AnswerFingerprint(*orjson.loads(raw)) for name, raw in (answer or {}).items()
            }
            if fingerprints:
                by_digest[digest] = fingerprints
        return by_digest

    async def sessions_with_answer(self, org: str, digests: Sequence[int]) -> dict[int, list[str]]:
        """By answer digest, the sessions that received that answer."""
        answers = await self._query([("SMEMBERS", _answer_key(org, digest)) for digest in digests])
        return {
            digest: [name.decode() for name in answer]
            for digest, answer in zip(digests, answers, strict=True)
            if answer
        }

    def publish_answer(
        self, org: str, digest: int, name: str, fingerprint: AnswerFingerprint, answer_keys: Sequence[int]
    ) -> None:
        """Publish the session's answer to the request with this history digest."""
        node = _node_key(org, digest)
        self._enqueue("HSET", node, name, orjson.dumps(list(fingerprint)).decode())
        self._enqueue("EXPIRE", node, str(_RETENTION_SECONDS))
        for answer in answer_keys[:1]:
            self._enqueue("SADD", _answer_key(org, answer), name)
            self._enqueue("EXPIRE", _answer_key(org, answer), str(_RETENTION_SECONDS))

    def publish_record(
        self, org: str, key: str, name: str, record: Mapping[str, Any], *, now: float, lists_change: bool = True
    ) -> None:
        """Publish fields of a session's record.

        `publish`: also list it as changed, for replicas that have the session.
        """
        session_key = _session_key(org, key, name)
        fields = [
            text for field, value in {"at": now, **record}.items() for text in (field, orjson.dumps(value).decode())
        ]
        self._enqueue("HSET", session_key, *fields)
        self._enqueue("EXPIRE", session_key, str(_RETENTION_SECONDS))
        if not lists_change:
            return
        self._enqueue("ZADD", _changes_key(org), f"{now:.3f}", orjson.dumps([key, name]).decode())
        self._enqueue("ZREMRANGEBYSCORE", _changes_key(org), "-inf", f"{now - _CHANGES_SECONDS:.3f}")

    async def read_changes(
        self, org: str, since: float, is_known: Callable[[str, str], bool]
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """(key, session, record) of known sessions that changed since then."""
        (answer,) = await self._query([("ZRANGEBYSCORE", _changes_key(org), f"{since:.3f}", "+inf")])
        changed = [tuple(orjson.loads(member)) for member in answer or ()]
        names = [(key, name) for key, name in changed if is_known(key, name)]
        records = await self._read_hashes([_session_key(org, key, name) for key, name in names])
        return [(key, name, record) for (key, name), record in zip(names, records, strict=True) if record is not None]

    def publish_object(self, name: str, stored: StoredObject, *, is_lasting: bool, is_new: bool) -> None:
        """Publish where an object is; `is_new`: unless its id is known."""
        seconds = _OBJECT_RETENTION_SECONDS if is_lasting else _RETENTION_SECONDS
        value = msgspec.json.encode(stored).decode()
        self._enqueue("SET", _object_key(name), value, "EX", str(seconds), *(["NX"] if is_new else []))

    async def read_objects(self, names: Sequence[str]) -> dict[str, StoredObject]:
        """The known ones of these objects; none while the store does not answer."""
        answers = await self._query([("GET", _object_key(name)) for name in names])
        objects = {}
        for name, answer in zip(names, answers, strict=True):
            try:
                if answer is not None:
                    objects[name] = _OBJECT_DECODER.decode(answer)
            except msgspec.DecodeError:
                log.warning("shared_object_unreadable action=ignored")
        return objects

    async def claim_booking(self, name: str, replica: str) -> str | None:
        """The replica that books the usage of this response: the first that claimed it. None without an answer."""
        key = _booking_key(name)
        answers = await self._query([("SET", key, replica, "EX", str(_OBJECT_RETENTION_SECONDS), "NX"), ("GET", key)])
        return answers[1].decode() if isinstance(answers[1], bytes) else None

    async def _read_hashes(self, keys: Sequence[str]) -> list[dict[str, Any] | None]:
        answers = await self._query([("HGETALL", key) for key in keys])
        return [
            {field.decode(): orjson.loads(value) for field, value in answer.items()} if answer else None
            for answer in answers
        ]

    async def _query(self, commands: Sequence[tuple[str, str, *tuple[str, ...]]]) -> list[Any]:
        """The answers; all None while the store does not answer."""
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
            waiters, self._flush_waiters = self._flush_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _record_failure(self) -> None:
        if not self.is_failing:
            log.warning("session_store_unavailable sessions=local_only backoff_seconds=%s", _BACKOFF_SECONDS)
        self._backoff_until = self._monotonic() + _BACKOFF_SECONDS


# Objects of all tenants, so that an id leads to its owner whoever asks. Callers choose what they ask for: ids become
# digests.
def _object_key(name: str) -> str:
    return f"penstock:object:{_digest(name)}"


def _booking_key(name: str) -> str:
    return f"penstock:booking:{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(errors="replace"), digest_size=16).hexdigest()


def _session_key(org: str, key: str, name: str) -> str:
    return tenant_key(org, f"session:{orjson.dumps([key, name]).decode()}")


def _node_key(org: str, digest: int) -> str:
    return tenant_key(org, f"node:{digest:016x}")


def _answer_key(org: str, digest: int) -> str:
    return tenant_key(org, f"answer:{digest:016x}")


def _changes_key(org: str) -> str:
    return tenant_key(org, "session-changes")
