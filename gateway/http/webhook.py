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
_ANSWER_BYTES_MAX = 4096
# While something waits for its next try the worker looks this often, seconds: at new events too, and at closing.
_LOOK_SECONDS = 0.5
# A delay is stretched or shortened by up to this share, so that gateways that failed together do not return together.
_JITTER_SHARE = 0.25
# Answers below 500 after which another try makes sense: Request Timeout and Too Many Requests (RFC 9110, RFC 6585).
_PASSING = frozenset({408, 429})
_NO_AUTO_HEADERS = frozenset({"Accept", "Accept-Encoding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long, how often and how much, in seconds and events; `queue_max` bounds those ready and those waiting, each."""

    try_seconds: float = 5.0
    retry_seconds: tuple[float, ...] = (1.0, 4.0, 15.0, 60.0)
    close_seconds: float = 2.0
    queue_max: int = 1000

    def __post_init__(self) -> None:
        assert self.try_seconds > 0 and self.close_seconds >= 0 and self.queue_max > 0
        assert all(seconds >= 0 for seconds in self.retry_seconds)


@dataclass(frozen=True, slots=True)
class _Parcel:
    """An event and how often it was tried."""

    event: Mapping[str, Any]
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Letter:
    """An event as it is sent."""

    id: str
    kind: str
    body: bytes


class Webhook:
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
        pace: Pace | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.delivered = self.failed = self.dropped = 0
        self._url = _parsed(url)
        # All that logs may say of the URL: the rest may hold secrets.
        self._receiver = f"{self._url.scheme}://{self._url.host}"
        if secret == "":
            raise ConfigError(["The webhook's secret is empty; leave it out to send unsigned events."])
        self._secret = secret
        self._pace = pace or Pace()
        self._sleep, self._now, self._monotonic, self._jitter = sleep, now, monotonic, jitter
        self._ready: deque[_Parcel] = deque()
        # By due time; the number keeps the order of those due together.
        self._waiting: list[tuple[float, int, _Parcel]] = []
        self._number = 0
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._overflowing = self._closing = self._closed = False
        self._http_client: aiohttp.ClientSession | None = None

    def offer(self, event: Mapping[str, Any]) -> None:
        """Take an event with text under `id` and `kind`, to be changed by nobody from now on. Never waits or raises.

        When the queue is full the oldest gives way: what happens now is more worth knowing.
        """
        if self._closing:
            self.dropped += 1
            return
        self._enqueue(_Parcel(event))
        self._wake.set()

    async def run(self) -> None:
        """Deliver until `close`; may be cancelled at any time and run again, without losing an event."""
        while not self._closing:
            self._promote()
            if self._ready:
                await self._deliver_next()
            elif self._waiting:
                await self._sleep(max(0.0, min(self._waiting[0][0] - self._monotonic(), _LOOK_SECONDS)))
            else:
                self._wake.clear()
                await self._wake.wait()

    async def close(self) -> None:
        """Give everything queued one more try, for `close_seconds` in all, and close; what is left is dropped."""
        self._closing = True
        self._wake.set()
        try:
            await self._drain()
        finally:
            await self._shut()

    async def _drain(self) -> None:
        while self._waiting:
            self._ready.append(heappop(self._waiting)[2])
        try:
            async with asyncio.timeout(self._pace.close_seconds):
                while self._ready or self._turn.locked():
                    await self._deliver_next()
        except TimeoutError:
            log.info("webhook: %g s did not suffice to deliver what was queued", self._pace.close_seconds)

    async def _shut(self) -> None:
        """Count what is left, the event in the hands of `run` included, whose connection ends here."""
        left = 0 if self._closed else len(self._ready) + len(self._waiting) + self._turn.locked()
        self._closed = True
        self._ready.clear()
        self._waiting.clear()
        self.dropped += left
        if left:
            log.warning("webhook: closed with %d events not delivered to %s", left, self._receiver)
        http_client, self._http_client = self._http_client, None
        if http_client is not None:
            await http_client.close()

    def _enqueue(self, parcel: _Parcel) -> None:
        """Put it last; said once, not at each drop, when the queue overflows."""
        if len(self._ready) >= self._pace.queue_max:
            self._ready.popleft()
            self.dropped += 1
            if not self._overflowing:
                log.warning("webhook: the queue for %s is full; its oldest events are dropped", self._receiver)
            self._overflowing = True
        self._ready.append(parcel)

    def _promote(self) -> None:
        """What is due joins the queue at its end, so that neither new events nor second tries starve the others."""
        now = self._monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._enqueue(heappop(self._waiting)[2])

    async def _deliver_next(self) -> None:
        """One try for the first in the queue. Locked, because `run` may still be at work when `close` joins in."""
        async with self._turn:
            if not self._ready:
                return
            parcel = self._ready.popleft()
            self._overflowing = self._overflowing and bool(self._ready)
            try:
                letter = _letter(parcel.event)
            except (KeyError, TypeError, ValueError) as error:
                self.failed += 1
                log.error("webhook: event %.80r cannot be sent: %s", _id(parcel.event), error)
                return
            try:
                outcome = await self._send(letter)
            except asyncio.CancelledError:
                self._put_back(parcel)
                raise
            self._settle(parcel, letter, outcome)

    async def _send(self, letter: _Letter) -> int | str:
        """The receiver's status, or what kept it from giving one. One that breaks off after its status has given it."""
        status: int | None = None
        try:
            async with (
                asyncio.timeout(self._pace.try_seconds),
                self._session().post(
                    self._url, data=letter.body, headers=self._headers(letter), allow_redirects=False
                ) as response,
            ):
                status = response.status
                await _skim(response.content)
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
                read_bufsize=_ANSWER_BYTES_MAX,
                # A few compressed bytes may stand for gigabytes.
                auto_decompress=False,
            )
        return self._http_client

    def _headers(self, letter: _Letter) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "x-penstock-event": letter.kind,
            "x-penstock-delivery": letter.id,
        }
        if self._secret is not None:
            headers["x-penstock-signature"] = _signature(self._secret, int(self._now()), letter.body)
        return headers

    def _put_back(self, parcel: _Parcel) -> None:
        """A cancelled try is none: first in the queue again, unless that has filled up meanwhile."""
        if len(self._ready) >= self._pace.queue_max:
            self.dropped += 1
        else:
            self._ready.appendleft(parcel)

    def _settle(self, parcel: _Parcel, letter: _Letter, outcome: int | str) -> None:
        if self._closed:
            # `close` has counted it among those left.
            return
        tries, where = parcel.tries + 1, f"at {self._receiver}"
        if isinstance(outcome, int) and 200 <= outcome < 300:
            self.delivered += 1
        elif self._closing or tries > len(self._pace.retry_seconds) or not _may_pass(outcome):
            self.failed += 1
            log.warning("webhook: event '%s' failed %s: %s, try %d was the last", letter.id, where, outcome, tries)
        elif len(self._waiting) >= self._pace.queue_max:
            # Those before it have their turn: to let one of them go would only mean that none is tried to its end.
            self.dropped += 1
            log.warning("webhook: event '%s' dropped %s: %s, and too many wait", letter.id, where, outcome)
        else:
            seconds = self._put_aside(_Parcel(parcel.event, tries))
            log.info("webhook: event '%s' failed %s: %s, next try in %.1f s", letter.id, where, outcome, seconds)

    def _put_aside(self, parcel: _Parcel) -> float:
        """Let it wait for its next try; gives the seconds until then."""
        spread = 1 + _JITTER_SHARE * (2 * self._jitter() - 1)
        seconds = self._pace.retry_seconds[parcel.tries - 1] * spread
        self._number += 1
        heappush(self._waiting, (self._monotonic() + seconds, self._number, parcel))
        return seconds


def _parsed(url: str) -> URL:
    """The URL, or ConfigError, which does not repeat it."""
    try:
        parsed = URL(url)
    except ValueError:
        # yarl's words may quote a password, so they do not come along.
        raise ConfigError(["The webhook's URL cannot be parsed."]) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(["The webhook's URL must begin with http:// or https:// and name a host."])
    return parsed


def _letter(event: Mapping[str, Any]) -> _Letter:
    """The event as bytes and headers. Raises KeyError, TypeError or ValueError where it has no such form."""
    name, kind = event["id"], event["kind"]
    for text in (name, kind):
        if not (isinstance(text, str) and text and text.isascii() and text.isprintable()):
            raise ValueError("'id' and 'kind' must be printable ASCII text")
    return _Letter(id=name, kind=kind, body=orjson.dumps(dict(event)))


def _id(event: object) -> object:
    """What the log calls an event that may have no id, or be none at all."""
    return event.get("id") if isinstance(event, Mapping) else type(event).__name__


def _signature(secret: str, stamp: int, body: bytes) -> str:
    """HMAC-SHA256 over the time and the body, as the module's docstring tells receivers."""
    digest = hmac.new(secret.encode(), b"%d." % stamp + body, "sha256").hexdigest()
    return f"t={stamp},v1={digest}"


async def _skim(content: aiohttp.StreamReader) -> None:
    """Read an answer to its end if that is near; leaving it otherwise makes aiohttp end the connection."""
    left = _ANSWER_BYTES_MAX
    while left > 0 and (data := await content.read(left)):
        left -= len(data)


def _may_pass(outcome: int | str) -> bool:
    """Whether another try makes sense: not after redirects, which are not followed, nor other refusals."""
    return isinstance(outcome, str) or outcome >= 500 or outcome in _PASSING
