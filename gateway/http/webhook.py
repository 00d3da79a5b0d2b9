"""The door that tells an operator's URL what happened: JSON events, delivered behind the requests.

An event is a POST of its JSON with the headers `x-penstock-event` (its kind) and `x-penstock-delivery` (its id). The id
is the same on every try, so that a receiver can drop what it has seen: an answer lost on the way is tried again. Any
2xx within five seconds is a receipt. Where there is a secret, `x-penstock-signature: t=<unix seconds>,v1=<hex>` says
who sent it. To verify: take `t` and the body's bytes as they came, before any parsing, and compare in constant time

    expected = hmac.new(secret.encode(), t.encode() + b"." + body, "sha256").hexdigest()
    genuine = hmac.compare_digest(expected, v1) and abs(time.time() - int(t)) < 300

The second half refuses replays; every try is signed anew. Unknown parts beside `t` and `v1` are to be ignored.
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

log = logging.getLogger(__name__)

# An answer's body says nothing to us; a short one is read so that its connection can be used again.
_RESPONSE_BYTES_MAX = 4096
# While something waits for its next try the worker looks this often, seconds: at new events too, and at closing.
_POLL_SECONDS = 0.5
# A delay is stretched or shortened by up to this share, so that gateways that failed together do not return together.
_JITTER_SHARE = 0.25
# Answers below 500 after which another try makes sense: Request Timeout and Too Many Requests (RFC 9110, RFC 6585).
_RETRYABLE_STATUSES = frozenset({408, 429})
_NO_AUTO_HEADERS = frozenset({"Accept", "Accept-Encoding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPolicy:
    """How long, how often and how much, in seconds and events; `queue_max` bounds those ready and those waiting, each."""

    attempt_timeout_seconds: float = 5.0
    retry_delays_seconds: tuple[float, ...] = (1.0, 4.0, 15.0, 60.0)
    close_timeout_seconds: float = 2.0
    queue_max: int = 1000

    def __post_init__(self) -> None:
        assert self.attempt_timeout_seconds > 0 and self.close_timeout_seconds >= 0 and self.queue_max > 0
        assert all(seconds >= 0 for seconds in self.retry_delays_seconds)


@dataclass(frozen=True, slots=True)
class _QueuedEvent:
    """An event and how often it was tried."""

    event: Mapping[str, Any]
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivery:
    """An event as it is sent."""

    id: str
    kind: str
    body: bytes


class WebhookSender:
    """Delivers events to one URL, one at a time; one that failed waits aside for its next try and holds up no other.

    Every event offered ends in exactly one of `delivered`, `failed` (refused, or out of tries) and `dropped` (no room,
    or no time left at closing). All of it belongs to one event loop. `jitter` gives [0, 1). Raises ConfigError for a
    URL that is none, or an empty secret: anybody could sign with that.
    """

    def __init__(
        self,
        url: str,
        secret: str | None,
        *,
        pace: DeliveryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.delivered = self.failed = self.dropped = 0
        self._url = _parse_url(url)
        # All that logs may say of the URL: the rest may hold secrets.
        self._receiver = f"{self._url.scheme}://{self._url.host}"
        if secret == "":
            raise ConfigError(["The webhook's secret is empty; leave it out to send unsigned events."])
        self._secret = secret
        self._policy = pace or DeliveryPolicy()
        self._sleep, self._now, self._monotonic, self._jitter = sleep, now, monotonic, jitter
        self._ready: deque[_QueuedEvent] = deque()
        # By due time; the number keeps the order of those due together.
        self._retries: list[tuple[float, int, _QueuedEvent]] = []
        self._sequence = 0
        self._wake = asyncio.Event()
        self._delivery_lock = asyncio.Lock()
        self._is_overflowing = self._is_closing = self._is_closed = False
        self._http_client: aiohttp.ClientSession | None = None

    def enqueue(self, event: Mapping[str, Any]) -> None:
        """Take an event with text under `id` and `kind`, to be changed by nobody from now on. Never waits or raises.

        When the queue is full the oldest gives way: what happens now is more worth knowing.
        """
        if self._is_closing:
            self.dropped += 1
            return
        self._append_ready(_QueuedEvent(event))
        self._wake.set()

    async def run(self) -> None:
        """Deliver until `close`; may be cancelled at any time and run again, without losing an event."""
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
        """Give everything queued one more try, for `close_seconds` in all, and close; what is left is dropped."""
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
            log.info("webhook: %g s did not suffice to deliver what was queued", self._policy.close_timeout_seconds)

    async def _shutdown(self) -> None:
        """Count what is left, the event in the hands of `run` included, whose connection ends here."""
        left = 0 if self._is_closed else len(self._ready) + len(self._retries) + self._delivery_lock.locked()
        self._is_closed = True
        self._ready.clear()
        self._retries.clear()
        self.dropped += left
        if left:
            log.warning("webhook: closed with %d events not delivered to %s", left, self._receiver)
        http_client, self._http_client = self._http_client, None
        if http_client is not None:
            await http_client.close()

    def _append_ready(self, parcel: _QueuedEvent) -> None:
        """Put it last; said once, not at each drop, when the queue overflows."""
        if len(self._ready) >= self._policy.queue_max:
            self._ready.popleft()
            self.dropped += 1
            if not self._is_overflowing:
                log.warning("webhook: the queue for %s is full; its oldest events are dropped", self._receiver)
            self._is_overflowing = True
        self._ready.append(parcel)

    def _move_due_retries(self) -> None:
        """What is due joins the queue at its end, so that neither new events nor second tries starve the others."""
        now = self._monotonic()
        while self._retries and self._retries[0][0] <= now:
            self._append_ready(heappop(self._retries)[2])

    async def _deliver_next(self) -> None:
        """One try for the first in the queue. Locked, because `run` may still be at work when `close` joins in."""
        async with self._delivery_lock:
            if not self._ready:
                return
            parcel = self._ready.popleft()
            self._is_overflowing = self._is_overflowing and bool(self._ready)
            try:
                letter = _encode(parcel.event)
            except (KeyError, TypeError, ValueError) as error:
                self.failed += 1
                log.error("webhook: event %.80r cannot be sent: %s", _event_id(parcel.event), error)
                return
            try:
                outcome = await self._send(letter)
            except asyncio.CancelledError:
                self._requeue(parcel)
                raise
            self._handle_outcome(parcel, letter, outcome)

    async def _send(self, letter: _Delivery) -> int | str:
        """The receiver's status, or what kept it from giving one. One that breaks off after its status has given it."""
        status: int | None = None
        try:
            async with (
                asyncio.timeout(self._policy.attempt_timeout_seconds),
                self._session().post(
                    self._url, data=letter.body, headers=self._headers(letter), allow_redirects=False
                ) as response,
            ):
                status = response.status
                await _drain_response(response.content)
        # TimeoutError is an OSError; a ValueError is a host name that cannot be encoded.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return status or type(error).__name__
        return status

    def _session(self) -> aiohttp.ClientSession:
        """aiohttp's, made when first needed: it wants a running loop. The clock of each try is ours."""
        if self._http_client is None:
            self._http_client = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "penstock"},
                skip_auto_headers=_NO_AUTO_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                read_bufsize=_RESPONSE_BYTES_MAX,
                # A few compressed bytes may stand for gigabytes.
                auto_decompress=False,
            )
        return self._http_client

    def _headers(self, letter: _Delivery) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "x-penstock-event": letter.kind,
            "x-penstock-delivery": letter.id,
        }
        if self._secret is not None:
            headers["x-penstock-signature"] = _signature(self._secret, int(self._now()), letter.body)
        return headers

    def _requeue(self, parcel: _QueuedEvent) -> None:
        """A cancelled try is none: first in the queue again, unless that has filled up meanwhile."""
        if len(self._ready) >= self._policy.queue_max:
            self.dropped += 1
        else:
            self._ready.appendleft(parcel)

    def _handle_outcome(self, parcel: _QueuedEvent, letter: _Delivery, outcome: int | str) -> None:
        if self._is_closed:
            # `close` has counted it among those left.
            return
        tries, where = parcel.attempts + 1, f"at {self._receiver}"
        if isinstance(outcome, int) and 200 <= outcome < 300:
            self.delivered += 1
        elif self._is_closing or tries > len(self._policy.retry_delays_seconds) or not _is_retryable(outcome):
            self.failed += 1
            log.warning("webhook: event '%s' failed %s: %s, try %d was the last", letter.id, where, outcome, tries)
        elif len(self._retries) >= self._policy.queue_max:
            # Those before it have their turn: to let one of them go would only mean that none is tried to its end.
            self.dropped += 1
            log.warning("webhook: event '%s' dropped %s: %s, and too many wait", letter.id, where, outcome)
        else:
            seconds = self._schedule_retry(_QueuedEvent(parcel.event, tries))
            log.info("webhook: event '%s' failed %s: %s, next try in %.1f s", letter.id, where, outcome, seconds)

    def _schedule_retry(self, parcel: _QueuedEvent) -> float:
        """Let it wait for its next try; gives the seconds until then."""
        spread = 1 + _JITTER_SHARE * (2 * self._jitter() - 1)
        seconds = self._policy.retry_delays_seconds[parcel.attempts - 1] * spread
        self._sequence += 1
        heappush(self._retries, (self._monotonic() + seconds, self._sequence, parcel))
        return seconds


def _parse_url(url: str) -> URL:
    """The URL, or ConfigError, which does not repeat it."""
    try:
        parsed = URL(url)
    except ValueError:
        # yarl's words may quote a password, so they do not come along.
        raise ConfigError(["The webhook's URL cannot be parsed."]) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(["The webhook's URL must begin with http:// or https:// and name a host."])
    return parsed


def _encode(event: Mapping[str, Any]) -> _Delivery:
    """The event as bytes and headers. Raises KeyError, TypeError or ValueError where it has no such form."""
    name, kind = event["id"], event["kind"]
    for text in (name, kind):
        if not (isinstance(text, str) and text and text.isascii() and text.isprintable()):
            raise ValueError("'id' and 'kind' must be printable ASCII text")
    return _Delivery(id=name, kind=kind, body=orjson.dumps(dict(event)))


def _event_id(event: object) -> object:
    """What the log calls an event that may have no id, or be none at all."""
    return event.get("id") if isinstance(event, Mapping) else type(event).__name__


def _signature(secret: str, stamp: int, body: bytes) -> str:
    """HMAC-SHA256 over the time and the body, as the module's docstring tells receivers."""
    digest = hmac.new(secret.encode(), b"%d." % stamp + body, "sha256").hexdigest()
    return f"t={stamp},v1={digest}"


async def _drain_response(content: aiohttp.StreamReader) -> None:
    """Read an answer to its end if that is near; leaving it otherwise makes aiohttp end the connection."""
    left = _RESPONSE_BYTES_MAX
    while left > 0 and (data := await content.read(left)):
        left -= len(data)


def _is_retryable(outcome: int | str) -> bool:
    """Whether another try makes sense: not after redirects, which are not followed, nor other refusals."""
    return isinstance(outcome, str) or outcome >= 500 or outcome in _RETRYABLE_STATUSES
