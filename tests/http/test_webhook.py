"""The webhook with a real receiver on loopback; retry delays pass instantly."""

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
    """Answers with the given statuses, then with 204.

    "hang" never answers, "wait" waits for `go`, "late" sends its body after its headers, "endless" never ends.
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
        """Seconds from the start of the clock to each attempt."""
        return [at - START for at, _, _ in self.got]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.got.append((self.clock.seconds, request, await request.read()))
        answer = self.answers.pop(0) if self.answers else 204
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "wait":
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


class PausedClock(FakeClock):
    """A clock whose sleep blocks until `go` is set; `sleeping` marks its start."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping, self.go = asyncio.Event(), asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.sleeping.set()
        await self.go.wait()
        await super().sleep(seconds)


class RunningWebhook:
    """A webhook run by a supervisor, and its receiver."""

    def __init__(
        self, sender: WebhookSender, receiver: Receiver, supervisor: Supervisor, failures: list[Exception]
    ) -> None:
        self.sender, self.receiver, self.supervisor, self.failures = sender, receiver, supervisor, failures
        self.ended = asyncio.Event()

    def run(self) -> None:
        self.supervisor.spawn("webhook", self._run(), self.failures.append)

    async def _run(self) -> None:
        try:
            await self.sender.run()
        finally:
            self.ended.set()

    def enqueue(self, *names: str) -> None:
        for name in names:
            self.sender.enqueue(event(name))

    @property
    def counts(self) -> tuple[int, int, int]:
        """Delivered, failed, dropped."""
        return self.sender.delivered, self.sender.failed, self.sender.dropped

    async def settled(self, number: int) -> tuple[int, int, int]:
        """Returns the counts once so many events are delivered, failed or dropped."""
        await until(lambda: sum(self.counts) >= number)
        return self.counts


def event(name: str) -> dict[str, object]:
    return {"id": name, "kind": "budget.exceeded", "note": "bødy-text"}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the webhook has counters only, no event to wait for
            await asyncio.sleep(0)


@asynccontextmanager
async def running_webhook(
    *answers: int | str,
    secret: str | None = SECRET,
    policy: DeliveryPolicy | None = None,
    clock: FakeClock | None = None,
    run: bool = True,
    port: int = 0,
) -> AsyncIterator[RunningWebhook]:
    clock, supervisor = clock or FakeClock(), Supervisor()
    failures: list[Exception] = []
    receiver = Receiver(clock, *answers)
    app = web.Application()
    app.router.add_post("/{anything}", receiver.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sender = WebhookSender(
        f"http://user:pa55word@127.0.0.1:{port or runner.addresses[0][1]}/hook?key=qu3ry",
        secret,
        policy=policy,
        sleep=clock.sleep,
        now=clock.now,
        monotonic=clock.monotonic,
        jitter=lambda: 0.5,
    )
    webhook = RunningWebhook(sender, receiver, supervisor, failures)
    if run:
        webhook.run()
    try:
        yield webhook
        assert failures == []
    finally:
        await sender.close()
        await supervisor.stop()
        await runner.cleanup()


async def test_an_event_arrives_as_json_with_its_kind_and_id():
    async with running_webhook() as webhook:
        webhook.enqueue("e1")
        assert await webhook.settled(1) == (1, 0, 0)
        _, request, body = webhook.receiver.got[0]
        assert orjson.loads(body) == event("e1")
        assert request.content_type == "application/json"
        assert request.headers["x-penstock-event"] == "budget.exceeded"
        assert request.headers["x-penstock-delivery"] == "e1"
        assert request.query == {"key": "qu3ry"} and request.headers["Authorization"].startswith("Basic ")


async def test_the_signature_verifies_as_documented_and_is_new_at_every_attempt():
    async with running_webhook(500) as webhook:
        webhook.enqueue("e1")
        await webhook.settled(1)
        stamps = []
        for _, request, body in webhook.receiver.got:
            parts = dict(part.split("=") for part in request.headers["x-penstock-signature"].split(","))
            expected = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + body, "sha256").hexdigest()
            assert hmac.compare_digest(expected, parts["v1"])
            stamps.append(int(parts["t"]) - START)
        assert stamps == [0, 1]


async def test_without_a_secret_there_is_no_signature():
    async with running_webhook(secret=None) as webhook:
        webhook.enqueue("e1")
        await webhook.settled(1)
        assert "x-penstock-signature" not in webhook.receiver.got[0][1].headers


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_retryable_failure_is_retried_under_the_same_id(status):
    async with running_webhook(status, status, 200) as webhook:
        webhook.enqueue("e1")
        assert await webhook.settled(1) == (1, 0, 0)
        assert webhook.receiver.ids == ["e1"] * 3
        assert webhook.receiver.seconds == [0, 1, 5]
        assert len({body for _, _, body in webhook.receiver.got}) == 1


async def test_an_event_fails_after_five_attempts(caplog):
    async with running_webhook(*[500] * 9) as webhook:
        webhook.enqueue("e1")
        assert await webhook.settled(1) == (0, 1, 0)
        assert webhook.receiver.seconds == [0, 1, 5, 20, 80]
    assert "webhook_delivery_failed event=e1 receiver=http://127.0.0.1 outcome=500 attempts=5" in caplog.text


@pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 410])
async def test_client_errors_and_redirects_are_not_retried(status):
    async with running_webhook(status) as webhook:
        webhook.enqueue("e1")
        assert await webhook.settled(1) == (0, 1, 0)
        assert [request.path for _, request, _ in webhook.receiver.got] == ["/hook"]


async def test_a_pending_retry_does_not_delay_other_events():
    async with running_webhook(500, run=False) as webhook:
        webhook.enqueue("e1", "e2", "e3")
        webhook.run()
        assert await webhook.settled(3) == (3, 0, 0)
        assert webhook.receiver.ids == ["e1", "e2", "e3", "e1"]


async def test_a_receiver_that_hangs_times_out_and_is_retried():
    async with running_webhook("hang", policy=DeliveryPolicy(attempt_timeout_seconds=0.05)) as webhook:
        webhook.enqueue("e1")
        assert await webhook.settled(1) == (1, 0, 0)
        assert webhook.receiver.ids == ["e1", "e1"]


async def test_an_endless_response_is_not_read_to_its_end():
    async with running_webhook("endless", policy=DeliveryPolicy(attempt_timeout_seconds=60)) as webhook:
        webhook.enqueue("e1", "e2")
        assert await webhook.settled(2) == (2, 0, 0)
        assert webhook.receiver.ids == ["e1", "e2"]


async def test_the_connection_is_reused():
    async with running_webhook(200, "late", 500, 400) as webhook:
        webhook.enqueue("e1", "e2", "e3", "e4")
        await webhook.settled(4)
        assert len({id(request.protocol) for _, request, _ in webhook.receiver.got}) == 1


async def test_a_refused_connection_is_retried_and_logs_contain_no_secrets(caplog):
    caplog.set_level(logging.DEBUG)
    with socket.socket() as unused:
        # Bound and not listening: connections to the port are refused.
        unused.bind(("127.0.0.1", 0))
        async with running_webhook(port=unused.getsockname()[1]) as webhook:
            webhook.enqueue("e1")
            assert await webhook.settled(1) == (0, 1, 0)
    assert caplog.text.count("event=e1 receiver=http://127.0.0.1 outcome=ClientConnectorError") == 5
    for secret in ("pa55word", "qu3ry", "user", "/hook", SECRET, "bødy"):
        assert secret not in caplog.text


async def test_a_full_queue_drops_its_oldest_events_and_is_logged_once(caplog):
    async with running_webhook(policy=DeliveryPolicy(queue_max=3), run=False) as webhook:
        webhook.enqueue("e1", "e2", "e3", "e4", "e5")
        assert webhook.counts == (0, 0, 2)
        webhook.run()
        assert await webhook.settled(5) == (3, 0, 2)
        assert webhook.receiver.ids == ["e3", "e4", "e5"]
    assert caplog.text.count("webhook_queue_full") == 1


async def test_the_retry_queue_is_bounded():
    clock = PausedClock()
    async with running_webhook(500, 500, 500, policy=DeliveryPolicy(queue_max=2), clock=clock) as webhook:
        webhook.enqueue("e1", "e2")
        await clock.sleeping.wait()
        webhook.enqueue("e3")
        clock.go.set()
        assert await webhook.settled(3) == (2, 0, 1)
        assert webhook.receiver.ids == ["e1", "e2", "e3", "e1", "e2"]


@pytest.mark.parametrize(
    "bad",
    [{}, {"id": "e1"}, {"id": 1, "kind": "x"}, {"id": "e1", "kind": "a\r\nb: c"}, {"id": "e", "kind": "x", "v": object()}, 7],
    ids=["empty", "no kind", "id is not text", "header injection", "not JSON", "not a mapping"],
)  # fmt: skip
async def test_an_invalid_event_fails_alone(bad):
    async with running_webhook() as webhook:
        webhook.sender.enqueue(bad)
        webhook.enqueue("e1")
        assert await webhook.settled(2) == (1, 1, 0)
        assert webhook.receiver.ids == ["e1"]


async def test_close_delivers_queued_events_even_if_it_never_ran():
    async with running_webhook(run=False) as webhook:
        webhook.enqueue("e1", "e2", "e3")
        await webhook.sender.close()
        assert webhook.counts == (3, 0, 0)
        webhook.enqueue("e4")
        assert webhook.counts == (3, 0, 1)


async def test_close_lets_the_current_attempt_finish():
    async with running_webhook("wait") as webhook:
        webhook.enqueue("e1")
        await until(lambda: webhook.receiver.got)
        webhook.supervisor.spawn("close", webhook.sender.close(), webhook.failures.append)
        await asyncio.sleep(0)
        webhook.receiver.go.set()
        assert await webhook.settled(1) == (1, 0, 0)
        await webhook.ended.wait()


async def test_close_attempts_pending_retries_once_more():
    clock = PausedClock()
    async with running_webhook(500, 500, 200, 500, clock=clock) as webhook:
        webhook.enqueue("e1", "e2")
        await clock.sleeping.wait()
        await webhook.sender.close()
        assert webhook.counts == (1, 1, 0)
        assert webhook.receiver.ids == ["e1", "e2"] * 2 and webhook.receiver.seconds == [0] * 4


@pytest.mark.parametrize("running", [True, False], ids=["while running", "after cancellation"])
async def test_close_stops_at_its_timeout_and_logs_the_undelivered_count(running, caplog):
    async with running_webhook("hang", "hang", policy=DeliveryPolicy(close_timeout_seconds=0.05)) as webhook:
        webhook.enqueue("e1", "e2", "e3")
        await until(lambda: webhook.receiver.got)
        if not running:
            await webhook.supervisor.stop()
        await webhook.sender.close()
        assert webhook.counts == (0, 0, 3)
        await webhook.ended.wait()
        assert webhook.counts == (0, 0, 3)
        await webhook.sender.close()
    assert caplog.text.count("webhook_events_undelivered count=3 receiver=http://127.0.0.1") == 1


async def test_a_cancelled_attempt_is_repeated():
    async with running_webhook("hang") as webhook:
        webhook.enqueue("e1", "e2")
        await until(lambda: webhook.receiver.got)
        await webhook.supervisor.stop()
        webhook.run()
        assert await webhook.settled(2) == (2, 0, 0)
        assert webhook.receiver.ids == ["e1", "e1", "e2"]


@pytest.mark.parametrize("url", ["", "host/path", "ftp://host", "http://", "http://user:pa55/word@host", "http://[::1"])
def test_an_invalid_url_is_refused_without_being_repeated(url):
    with pytest.raises(ConfigError, match="webhook's URL") as raised:
        WebhookSender(url, None)
    assert "pa55" not in str(raised.value) and raised.value.__cause__ is None


def test_an_empty_secret_is_refused():
    with pytest.raises(ConfigError, match="secret is empty"):
        WebhookSender("https://host/", "")
