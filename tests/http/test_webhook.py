"""The webhook against a real receiver on loopback; time passes at once wherever it would wait for a next try."""

import asyncio
import hmac
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from gateway.http.webhook import DeliveryPolicy, WebhookSender
from gateway.services.supervisor import Supervisor
from gateway.simulator.playbook import FakeClock
from gateway.values.errors import ConfigError

SECRET = "whsec-of-a-test"
START = FakeClock().seconds


class Receiver:
    """Answers with the statuses it is given, then with 204.

    "hang" says nothing, "asked" waits for `go`, "late" sends its body after its head, "endless" never stops.
    """

    def __init__(self, clock: FakeClock, *answers: int | str) -> None:
        self.clock, self.answers = clock, list(answers)
        self.got: list[tuple[float, web.Request, bytes]] = []
        self.go = asyncio.Event()

    @property
    def ids(self) -> list[str]:
        return [request.headers["x-penstock-delivery"] for _, request, _ in self.got]

    @property
    def seconds(self) -> list[float]:
        """When each try came, since the clock began."""
        return [at - START for at, _, _ in self.got]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.got.append((self.clock.seconds, request, await request.read()))
        answer = self.answers.pop(0) if self.answers else 204
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "asked":
            await self.go.wait()
        if answer in ("late", "endless"):
            return await self._stream(request, endless=answer == "endless")
        return web.Response(
            status=answer if isinstance(answer, int) else 200, text="no" * 10, headers={"Location": "/elsewhere"}
        )

    async def _stream(self, request: web.Request, *, endless: bool) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10):
            await asyncio.sleep(0)
        await response.write(b"late")
        while endless:
            await response.write(b"x" * 65536)
        return response


class Halted(FakeClock):
    """A clock that stands still until `go` is set; `sleeping` tells that somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping, self.go = asyncio.Event(), asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.sleeping.set()
        await self.go.wait()
        await super().sleep(seconds)


class Stage:
    """A webhook, started by a supervisor unless said otherwise, and its receiver."""

    def __init__(
        self, webhook: WebhookSender, receiver: Receiver, supervisor: Supervisor, failures: list[Exception]
    ) -> None:
        self.webhook, self.receiver, self.supervisor, self.failures = webhook, receiver, supervisor, failures
        self.ended = asyncio.Event()

    def run(self) -> None:
        self.supervisor.spawn("webhook", self._run(), self.failures.append)

    async def _run(self) -> None:
        try:
            await self.webhook.run()
        finally:
            self.ended.set()

    def offer(self, *names: str) -> None:
        for name in names:
            self.webhook.enqueue(event(name))

    @property
    def counts(self) -> tuple[int, int, int]:
        """Delivered, failed, dropped."""
        return self.webhook.delivered, self.webhook.failed, self.webhook.dropped

    async def settled(self, number: int) -> tuple[int, int, int]:
        """The counts, once so many events have come to their end."""
        await until(lambda: sum(self.counts) >= number)
        return self.counts


def event(name: str) -> dict[str, object]:
    return {"id": name, "kind": "budget.exceeded", "note": "bødy-text"}


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - the webhook tells nobody but its counters
            await asyncio.sleep(0)


@asynccontextmanager
async def stage(
    *answers: int | str,
    secret: str | None = SECRET,
    pace: DeliveryPolicy | None = None,
    clock: FakeClock | None = None,
    run: bool = True,
    port: int = 0,
) -> AsyncIterator[Stage]:
    clock, supervisor, failures = clock or FakeClock(), Supervisor(), []
    receiver = Receiver(clock, *answers)
    app = web.Application()
    app.router.add_post("/{anything}", receiver.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    webhook = WebhookSender(
        f"http://user:pa55word@127.0.0.1:{port or runner.addresses[0][1]}/hook?key=qu3ry",
        secret,
        pace=pace,
        sleep=clock.sleep,
        now=clock.now,
        monotonic=clock.monotonic,
        jitter=lambda: 0.5,
    )
    it = Stage(webhook, receiver, supervisor, failures)
    if run:
        it.run()
    try:
        yield it
        assert failures == []
    finally:
        await webhook.close()
        await supervisor.stop()
        await runner.cleanup()


async def test_an_event_arrives_as_json_with_its_kind_and_id():
    async with stage() as it:
        it.offer("e1")
        assert await it.settled(1) == (1, 0, 0)
        _, request, body = it.receiver.got[0]
        assert orjson.loads(body) == event("e1")
        assert request.content_type == "application/json"
        assert request.headers["x-penstock-event"] == "budget.exceeded"
        assert request.headers["x-penstock-delivery"] == "e1"
        assert request.query == {"key": "qu3ry"} and request.headers["Authorization"].startswith("Basic ")


async def test_the_signature_verifies_as_the_docstring_says_and_is_new_on_every_try():
    async with stage(500) as it:
        it.offer("e1")
        await it.settled(1)
        stamps = []
        for _, request, body in it.receiver.got:
            parts = dict(part.split("=") for part in request.headers["x-penstock-signature"].split(","))
            expected = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + body, "sha256").hexdigest()
            assert hmac.compare_digest(expected, parts["v1"])
            stamps.append(int(parts["t"]) - START)
        assert stamps == [0, 1]


async def test_without_a_secret_there_is_no_signature():
    async with stage(secret=None) as it:
        it.offer("e1")
        await it.settled(1)
        assert "x-penstock-signature" not in it.receiver.got[0][1].headers


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_failure_that_may_pass_is_tried_again_under_the_same_id(status):
    async with stage(status, status, 200) as it:
        it.offer("e1")
        assert await it.settled(1) == (1, 0, 0)
        assert it.receiver.ids == ["e1"] * 3
        assert it.receiver.seconds == [0, 1, 5]
        assert len({body for _, _, body in it.receiver.got}) == 1


async def test_after_five_tries_an_event_has_failed(caplog):
    async with stage(*[500] * 9) as it:
        it.offer("e1")
        assert await it.settled(1) == (0, 1, 0)
        assert it.receiver.seconds == [0, 1, 5, 20, 80]
    assert "event 'e1' failed at http://127.0.0.1: 500, try 5 was the last" in caplog.text


@pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 410])
async def test_refusals_and_redirects_fail_at_once(status):
    async with stage(status) as it:
        it.offer("e1")
        assert await it.settled(1) == (0, 1, 0)
        assert [request.path for _, request, _ in it.receiver.got] == ["/hook"]


async def test_what_waits_for_its_next_try_holds_up_nobody():
    async with stage(500, run=False) as it:
        it.offer("e1", "e2", "e3")
        it.run()
        assert await it.settled(3) == (3, 0, 0)
        assert it.receiver.ids == ["e1", "e2", "e3", "e1"]


async def test_a_receiver_that_hangs_is_left_after_the_timeout_and_tried_again():
    async with stage("hang", pace=DeliveryPolicy(attempt_timeout_seconds=0.05)) as it:
        it.offer("e1")
        assert await it.settled(1) == (1, 0, 0)
        assert it.receiver.ids == ["e1", "e1"]


async def test_an_answer_without_end_is_not_read_to_it():
    async with stage("endless", pace=DeliveryPolicy(attempt_timeout_seconds=60)) as it:
        it.offer("e1", "e2")
        assert await it.settled(2) == (2, 0, 0)
        assert it.receiver.ids == ["e1", "e2"]


async def test_one_connection_serves_event_after_event():
    async with stage(200, "late", 500, 400) as it:
        it.offer("e1", "e2", "e3", "e4")
        await it.settled(4)
        assert len({id(request.protocol) for _, request, _ in it.receiver.got}) == 1


async def test_nobody_at_the_port_is_a_failure_that_may_pass_and_no_log_tells_secrets(caplog):
    caplog.set_level(logging.DEBUG)
    with socket.socket() as taken:
        # Bound and not listening: nobody else gets the port, and it refuses.
        taken.bind(("127.0.0.1", 0))
        async with stage(port=taken.getsockname()[1]) as it:
            it.offer("e1")
            assert await it.settled(1) == (0, 1, 0)
    assert caplog.text.count("'e1' failed at http://127.0.0.1: ClientConnectorError") == 5
    for secret in ("pa55word", "qu3ry", "user", "/hook", SECRET, "bødy"):
        assert secret not in caplog.text


async def test_when_the_queue_is_full_the_oldest_goes_and_it_is_said_once(caplog):
    async with stage(pace=DeliveryPolicy(queue_max=3), run=False) as it:
        it.offer("e1", "e2", "e3", "e4", "e5")
        assert it.counts == (0, 0, 2)
        it.run()
        assert await it.settled(5) == (3, 0, 2)
        assert it.receiver.ids == ["e3", "e4", "e5"]
    assert caplog.text.count("is full") == 1


async def test_the_side_where_events_wait_is_bounded_too():
    clock = Halted()
    async with stage(500, 500, 500, pace=DeliveryPolicy(queue_max=2), clock=clock) as it:
        it.offer("e1", "e2")
        await clock.sleeping.wait()
        it.offer("e3")
        clock.go.set()
        assert await it.settled(3) == (2, 0, 1)
        assert it.receiver.ids == ["e1", "e2", "e3", "e1", "e2"]


@pytest.mark.parametrize(
    "bad",
    [{}, {"id": "e1"}, {"id": 1, "kind": "x"}, {"id": "e1", "kind": "a\r\nb: c"}, {"id": "e", "kind": "x", "v": object()}, 7],
    ids=["empty", "no kind", "id no text", "header injected", "no JSON", "no mapping"],
)  # fmt: skip
async def test_an_event_that_cannot_be_sent_fails_alone(bad):
    async with stage() as it:
        it.webhook.enqueue(bad)
        it.offer("e1")
        assert await it.settled(2) == (1, 1, 0)
        assert it.receiver.ids == ["e1"]


async def test_closing_delivers_what_is_queued_even_if_it_never_ran():
    async with stage(run=False) as it:
        it.offer("e1", "e2", "e3")
        await it.webhook.close()
        assert it.counts == (3, 0, 0)
        it.offer("e4")
        assert it.counts == (3, 0, 1)


async def test_closing_lets_the_try_at_hand_end():
    async with stage("asked") as it:
        it.offer("e1")
        await until(lambda: it.receiver.got)
        it.supervisor.spawn("close", it.webhook.close(), it.failures.append)
        await asyncio.sleep(0)
        it.receiver.go.set()
        assert await it.settled(1) == (1, 0, 0)
        await it.ended.wait()


async def test_closing_gives_what_waits_one_last_try():
    clock = Halted()
    async with stage(500, 500, 200, 500, clock=clock) as it:
        it.offer("e1", "e2")
        await clock.sleeping.wait()
        await it.webhook.close()
        assert it.counts == (1, 1, 0)
        assert it.receiver.ids == ["e1", "e2"] * 2 and it.receiver.seconds == [0] * 4


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "after it was cancelled"])
async def test_closing_waits_no_longer_than_said_and_tells_how_many_are_left(running, caplog):
    async with stage("hang", "hang", pace=DeliveryPolicy(close_timeout_seconds=0.05)) as it:
        it.offer("e1", "e2", "e3")
        await until(lambda: it.receiver.got)
        if not running:
            await it.supervisor.stop()
        await it.webhook.close()
        assert it.counts == (0, 0, 3)
        await it.ended.wait()
        assert it.counts == (0, 0, 3)
        await it.webhook.close()
    assert caplog.text.count("closed with 3 events not delivered to http://127.0.0.1") == 1


async def test_a_cancelled_try_is_made_again():
    async with stage("hang") as it:
        it.offer("e1", "e2")
        await until(lambda: it.receiver.got)
        await it.supervisor.stop()
        it.run()
        assert await it.settled(2) == (2, 0, 0)
        assert it.receiver.ids == ["e1", "e1", "e2"]


@pytest.mark.parametrize("url", ["", "host/path", "ftp://host", "http://", "http://user:pa55/word@host", "http://[::1"])
def test_a_url_that_is_none_is_refused_without_being_repeated(url):
    with pytest.raises(ConfigError, match="webhook's URL") as raised:
        WebhookSender(url, None)
    assert "pa55" not in str(raised.value) and raised.value.__cause__ is None


def test_an_empty_secret_is_refused():
    with pytest.raises(ConfigError, match="secret is empty"):
        WebhookSender("https://host/", "")
