"""Delivers events as JSON to an operator's URL, off the request path.

An event is a POST of its JSON with the headers `x-penstock-event` (its kind) and `x-penstock-delivery` (its id). The id
is the same at every attempt, so that a receiver can drop duplicates: an event whose response was lost is sent again.
Any 2xx within five seconds acknowledges it. With a secret, `x-penstock-signature: t=<unix seconds>,v1=<hex>` proves the
sender. To verify it, take `t` and the raw bytes of the body, before any parsing, and compare in constant time

    expected = hmac.new(secret.encode(), t.encode() + b"." + body, "sha256").hexdigest()
    genuine = hmac.compare_digest(expected, v1) and abs(time.time() - int(t)) < 300

The second half rejects replays; every attempt has a new signature. Ignore unknown parts beside `t` and `v1`.
"""

import asyncio
import hmac
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import aiohttp
import orjson
from yarl import URL

from ..values.errors import ConfigError
from .proxies import NO_PROXIES, Proxies

log = logging.getLogger(__name__)

# Response bodies are ignored; a short one is read so that its connection can be reused.
_RESPONSE_BYTES_MAX = 4096
# Interval in seconds at which the worker checks for new events and for closing while a retry is pending.
_POLL_SECONDS = 0.5
# Delays vary by up to this share, so that gateways that failed together do not retry together.
_JITTER_SHARE = 0.25
# Retryable statuses below 500: Request Timeout (RFC 9110) and Too Many Requests (RFC 6585).
_RETRYABLE_STATUSES = frozenset({408, 429})
_NO_AUTO_HEADERS = frozenset({"Accept", "Accept-Encoding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPolicy:
    """Timeouts, retries, queue size and proxies of a webhook.

    attempt_timeout_seconds: limit of one attempt.
    retry_delays_seconds: delay before each retry; their number is the number of retries.
    close_timeout_seconds: limit for delivering queued events at close.
    queue_max: most events ready for delivery, and most events waiting for a retry.
    proxies: forward proxies of this process.
    """

    attempt_timeout_seconds: float = 5.0
    retry_delays_seconds: tuple[float, ...] = (1.0, 4.0, 15.0, 60.0)
    close_timeout_seconds: float = 2.0
    queue_max: int = 1000
    proxies: Proxies = NO_PROXIES

    def __post_init__(self) -> None:
        assert self.attempt_timeout_seconds > 0 and self.close_timeout_seconds >= 0 and self.queue_max > 0
        assert all(seconds >= 0 for seconds in self.retry_delays_seconds)


@dataclass(frozen=True, slots=True)
class _QueuedEvent:
    """An event and the number of attempts so far."""

    event: Mapping[str, Any]
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivery:
    """An event as sent: id, kind and JSON body."""

    id: str
    kind: str
    body: bytes


class WebhookSender:
    """Delivers events to one URL, one at a time.

    An event that waits for a retry delays no other.

    Every event is counted exactly once:
    delivered: acknowledged by the receiver.
    failed: rejected by the receiver, or out of attempts.
    dropped: the queue was full, or not delivered before the close timeout.

    Belongs to one event loop. `jitter` draws from [0, 1). Raises ConfigError for an invalid URL or an empty secret.
    """

    def __init__(
        self,
        url: str,
        secret: str | None,
        *,
        policy: DeliveryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.delivered = self.failed = self.dropped = 0
        self._url = _parse_url(url)
        # The only part of the URL that may be logged: the rest may contain secrets.
        self._receiver = f"{self._url.scheme}://{self._url.host}"
        if secret == "":
            raise ConfigError(["The webhook's secret is empty; omit it to send unsigned events."])
        self._secret = secret
        self._policy = policy or DeliveryPolicy()
        self._sleep, self._now, self._monotonic, self._jitter = sleep, now, monotonic, jitter
        self._ready: deque[_QueuedEvent] = deque()
        # A heap of (due time, sequence number, event); the number keeps the order of equal due times.
        self._retries: list[tuple[float, int, _QueuedEvent]] = []
        self._sequence = 0
        self._wake = asyncio.Event()
        self._delivery_lock = asyncio.Lock()
        self._is_overflowing = self._is_closing = self._is_closed = False
        self._http_client: aiohttp.ClientSession | None = None

    def enqueue(self, event: Mapping[str, Any]) -> None:
        """Queues an event; never waits or raises.

        The event has text under `id` and `kind` and must not change afterwards.

        A full queue drops its oldest event.
        """
        if self._is_closing:
            self.dropped += 1
            return
        self._append_ready(_QueuedEvent(event))
        self._wake.set()

    async def run(self) -> None:
        """Delivers until `close`; may be cancelled and run again without losing an event."""
        while not self._is_closing:
            self._move_due_retries()
            if self._ready:
                await self._deliver_next()
            elif self._retries:
                await self._sleep(max(0.0, min(self._retries[0][0] - self._monotonic(), _POLL_SECONDS)))
            else:
                self._wake.clear()
                await self._wake.wait()

    async def close(self) -> None:
        """Attempts queued events once more within the close timeout and drops the rest."""
        self._is_closing = True
        self._wake.set()
        try:
            await self._drain()
        finally:
            await self._shutdown()

    async def _drain(self) -> None:
        while self._retries:
            self._ready.append(heappop(self._retries)[2])
        try:
            async with asyncio.timeout(self._policy.close_timeout_seconds):
                while self._ready or self._delivery_lock.locked():
                    await self._deliver_next()
        except TimeoutError:
            log.info("webhook_close_timed_out seconds=%g", self._policy.close_timeout_seconds)

    async def _shutdown(self) -> None:
        """Counts undelivered events as dropped and closes the connection."""
        undelivered = 0 if self._is_closed else len(self._ready) + len(self._retries) + self._delivery_lock.locked()
        self._is_closed = True
        self._ready.clear()
        self._retries.clear()
        self.dropped += undelivered
        if undelivered:
            log.warning("webhook_events_undelivered count=%d receiver=%s", undelivered, self._receiver)
        http_client, self._http_client = self._http_client, None
        if http_client is not None:
            await http_client.close()

    def _append_ready(self, queued: _QueuedEvent) -> None:
        """Appends the event; logs an overflow once, not at each drop."""
        if len(self._ready) >= self._policy.queue_max:
            self._ready.popleft()
            self.dropped += 1
            if not self._is_overflowing:
                log.warning("webhook_queue_full receiver=%s dropping=oldest", self._receiver)
            self._is_overflowing = True
        self._ready.append(queued)

    def _move_due_retries(self) -> None:
        """Moves due retries to the end of the queue, so that new events do not starve."""
        now = self._monotonic()
        while self._retries and self._retries[0][0] <= now:
            self._append_ready(heappop(self._retries)[2])

    async def _deliver_next(self) -> None:
        """Attempts the first event of the queue; locked, since `run` and `close` deliver."""
        async with self._delivery_lock:
            if not self._ready:
                return
            queued = self._ready.popleft()
            self._is_overflowing = self._is_overflowing and bool(self._ready)
            try:
                delivery = _encode(queued.event)
            except (KeyError, TypeError, ValueError) as error:
                self.failed += 1
                log.error("webhook_event_invalid event=%.80r error=%s", _event_id(queued.event), error)
                return
            try:
                outcome = await self._send(delivery)
            except asyncio.CancelledError:
                self._requeue(queued)
                raise
            self._handle_outcome(queued, delivery, outcome)

    async def _send(self, delivery: _Delivery) -> int | str:
        """Returns the receiver's status, or the name of the error before one arrived."""
        status: int | None = None
        try:
            async with (
                asyncio.timeout(self._policy.attempt_timeout_seconds),
                self._session().post(
                    self._url,
                    data=delivery.body,
                    headers=self._headers(delivery),
                    allow_redirects=False,
                    proxy=self._policy.proxies.proxy_of(str(self._url)),
                ) as response,
            ):
                status = response.status
                await _drain_response(response.content)
        # TimeoutError is an OSError; a ValueError is a host name that cannot be encoded.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return status or type(error).__name__
        return status

    def _session(self) -> aiohttp.ClientSession:
        """Returns the aiohttp session; created lazily because it needs a running loop."""
        if self._http_client is None:
            self._http_client = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "penstock"},
                skip_auto_headers=_NO_AUTO_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                read_bufsize=_RESPONSE_BYTES_MAX,
                # Decompression could expand a few bytes to gigabytes.
                auto_decompress=False,
            )
        return self._http_client

    def _headers(self, delivery: _Delivery) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "x-penstock-event": delivery.kind,
            "x-penstock-delivery": delivery.id,
        }
        if self._secret is not None:
            headers["x-penstock-signature"] = _signature(self._secret, int(self._now()), delivery.body)
        return headers

    def _requeue(self, queued: _QueuedEvent) -> None:
        """Puts the event of a cancelled attempt first again, unless the queue is full."""
        if len(self._ready) >= self._policy.queue_max:
            self.dropped += 1
        else:
            self._ready.appendleft(queued)

    def _handle_outcome(self, queued: _QueuedEvent, delivery: _Delivery, outcome: int | str) -> None:
        if self._is_closed:
            # `close` has counted it as dropped.
            return
        attempts = queued.attempts + 1
        if isinstance(outcome, int) and 200 <= outcome < 300:
            self.delivered += 1
        elif self._is_closing or attempts > len(self._policy.retry_delays_seconds) or not _is_retryable(outcome):
            self.failed += 1
            log.warning(
                "webhook_delivery_failed event=%s receiver=%s outcome=%s attempts=%d",
                delivery.id,
                self._receiver,
                outcome,
                attempts,
            )
        elif len(self._retries) >= self._policy.queue_max:
            # Dropping an earlier retry instead would mean that none is retried to the end.
            self.dropped += 1
            log.warning(
                "webhook_event_dropped event=%s receiver=%s outcome=%s reason=retry_queue_full",
                delivery.id,
                self._receiver,
                outcome,
            )
        else:
            seconds = self._schedule_retry(_QueuedEvent(queued.event, attempts))
            log.info(
                "webhook_delivery_retried event=%s receiver=%s outcome=%s retry_seconds=%.1f",
                delivery.id,
                self._receiver,
                outcome,
                seconds,
            )

    def _schedule_retry(self, queued: _QueuedEvent) -> float:
        """Schedules the next attempt; returns the seconds until then."""
        factor = 1 + _JITTER_SHARE * (2 * self._jitter() - 1)
        seconds = self._policy.retry_delays_seconds[queued.attempts - 1] * factor
        self._sequence += 1
        heappush(self._retries, (self._monotonic() + seconds, self._sequence, queued))
        return seconds


def _parse_url(url: str) -> URL:
    """Parses the URL. Raises ConfigError, which does not repeat it."""
    try:
        parsed = URL(url)
    except ValueError:
        # Not chained: yarl's text may quote a password.
        raise ConfigError(["The webhook's URL is not valid."]) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(["The webhook's URL must begin with http:// or https:// and name a host."])
    return parsed


def _encode(event: Mapping[str, Any]) -> _Delivery:
    """Encodes an event. Raises KeyError, TypeError or ValueError for an invalid one."""
    name, kind = event["id"], event["kind"]
    for text in (name, kind):
        if not (isinstance(text, str) and text and text.isascii() and text.isprintable()):
            raise ValueError("'id' and 'kind' must be printable ASCII text")
    return _Delivery(id=name, kind=kind, body=orjson.dumps(dict(event)))


def _event_id(event: object) -> object:
    """Returns the id of an event for the log, its type's name if it is not a mapping."""
    return event.get("id") if isinstance(event, Mapping) else type(event).__name__


def _signature(secret: str, stamp: int, body: bytes) -> str:
    """Returns the signature header: HMAC-SHA256 over the time and the body."""
    digest = hmac.new(secret.encode(), b"%d." % stamp + body, "sha256").hexdigest()
    return f"t={stamp},v1={digest}"


async def _drain_response(content: aiohttp.StreamReader) -> None:
    """Reads a short response to its end so that aiohttp keeps the connection."""
    remaining = _RESPONSE_BYTES_MAX
    while remaining > 0 and (data := await content.read(remaining)):
        remaining -= len(data)


def _is_retryable(outcome: int | str) -> bool:
    """Returns whether to retry: not after redirects and other client errors."""
    return isinstance(outcome, str) or outcome >= 500 or outcome in _RETRYABLE_STATUSES
