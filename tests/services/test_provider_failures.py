"""Log lines about failing providers: each names its deployment, and none repeats within a minute."""

from collections.abc import Callable

import pytest

from gateway.routing.circuit_breaker import FAILURES_TO_OPEN, OPEN_SECONDS
from gateway.services.provider_failures import ProviderFailureLog
from gateway.simulator.playbook import UpstreamAnswer
from gateway.values.errors import Unreachable, UpstreamError, UpstreamTimeout
from gateway.values.snapshot import Snapshot
from tests.services.observed_calls import EndOfCall, ObservedPlaybook, answer, request_body
from tests.snapshots import BASE_CONFIG, snapshot

REQUEST = request_body(model="small")
PROMPT = "the merger is code-named Ostrich"


class LoggedPlaybook(ObservedPlaybook):
    """A playbook with a failure log; `fail_until_open` opens the breaker of `small`."""

    def __init__(self, configured: Snapshot) -> None:
        super().__init__(configured, [], on_end=self._log_end)
        self._failure_log: EndOfCall = ProviderFailureLog(self.circuit_breakers, self.clock.monotonic).call_ended

    def _log_end(self, *call: object) -> None:
        self._failure_log(*call)  # type: ignore[arg-type]

    async def call_with(self, *answers: UpstreamAnswer | UpstreamError, body: bytes = REQUEST) -> None:
        """One request that meets these answers."""
        self.upstream_script = [*answers]
        await self.call(body)

    async def fail_until_open(self) -> None:
        for _ in range(FAILURES_TO_OPEN):
            await self.call_with(Unreachable("Connection failed."))


@pytest.fixture
def playbook() -> LoggedPlaybook:
    return LoggedPlaybook(snapshot(config=BASE_CONFIG.replace("same_deployment: 1", "same_deployment: 0")))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines since the last reading."""

    def read() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if record.name.endswith("provider_failures")]
        caplog.clear()
        return messages

    return read


def error(status: int, text: str = PROMPT) -> UpstreamAnswer:
    return UpstreamAnswer(status=status, body=[b'{"error": {"message": "%s"}}' % text.encode()])


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (Unreachable("no"), "provider_call_failed deployment=small provider=near model=sim-small reason=upstream_unreachable status=0"),
        (UpstreamTimeout("no"), "provider_call_failed deployment=small provider=near model=sim-small reason=upstream_timeout status=0"),
        (error(503), "provider_call_failed deployment=small provider=near model=sim-small reason=upstream_error status=503"),
        (error(529), "provider_call_failed deployment=small provider=near model=sim-small reason=upstream_error status=529"),
        (UpstreamAnswer(body=[b"<html>"]), "provider_call_failed deployment=small provider=near model=sim-small reason=upstream_invalid_response status=200"),
        (error(401), "provider_key_refused deployment=small provider=near model=sim-small reason=provider_account status=401"),
        (error(403), "provider_key_refused deployment=small provider=near model=sim-small reason=provider_account status=403"),
        (UpstreamAnswer(body=[b'{"error": {"code": 401, "message": "key"}}']), "provider_key_refused deployment=small provider=near model=sim-small reason=provider_account status=401"),
        (error(404), "provider_model_not_found deployment=small provider=near model=sim-small reason=provider_model_not_found status=404"),
        (error(402), "provider_account_refused deployment=small provider=near model=sim-small reason=provider_account status=402"),
    ],
    ids=["no connection", "no answer in time", "503", "Anthropic's 529", "not JSON", "401", "403", "401 under status 200", "404", "402"],
)  # fmt: skip
async def test_a_failed_attempt_is_logged_without_the_provider_s_text(playbook, lines, failure, line):
    await playbook.call_with(failure)
    (written,) = lines()
    assert written.startswith(line) and " request=" in written and PROMPT not in written


@pytest.mark.parametrize(
    "harmless",
    [answer(), error(400), error(422), error(429)],
    ids=["an answer", "the caller's 400", "422", "a rate limit"],
)
async def test_what_is_no_failure_of_the_provider_is_not_logged(playbook, lines, harmless):
    await playbook.call_with(harmless)
    assert lines() == []


async def test_a_line_is_written_once_a_minute_and_counts_the_others(playbook, lines):
    for _ in range(2):
        await playbook.call_with(error(401))
    playbook.clock.seconds += 59
    await playbook.call_with(error(401))
    assert len(lines()) == 1
    playbook.clock.seconds += 1
    await playbook.call_with(error(401))
    (written,) = lines()
    assert " repeats=2 " in written


async def test_the_way_of_a_circuit_breaker_through_an_outage_is_logged(playbook, lines):
    await playbook.fail_until_open()
    failed, opened = lines()
    assert failed.startswith("provider_call_failed ")
    assert opened.startswith(
        "circuit_breaker_opened deployment=small provider=near model=sim-small reason=upstream_unreachable"
    )
    assert " open_seconds=5 " in opened

    await playbook.call_with(answer())
    assert lines() == [], "refused without a call while the breaker is open"

    playbook.clock.seconds += OPEN_SECONDS
    await playbook.call_with(error(500))
    (reopened,) = lines()
    assert reopened.startswith("circuit_breaker_reopened deployment=small")
    assert "reason=upstream_error status=500 open_seconds=10 outage_seconds=5" in reopened

    playbook.clock.seconds += 2 * OPEN_SECONDS
    await playbook.call_with(answer())
    (closed,) = lines()
    assert closed.startswith("circuit_breaker_closed deployment=small provider=near outage_seconds=15 request=")

    await playbook.call_with(answer())
    assert lines() == []
