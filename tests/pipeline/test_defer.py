"""Deferral: waits for lower carbon intensity, and never misses a deadline."""

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.carbon.footprint import with_footprint_model
from gateway.dialects import chat
from gateway.http.request_headers import parse_hints
from gateway.pipeline.settle import amounts_of
from gateway.sessions import ladder
from gateway.simulator.playbook import Playbook, UpstreamAnswer
from gateway.values.budget import ZERO_AMOUNTS
from gateway.values.errors import BadRequest
from gateway.values.grid import IntensitySample
from gateway.values.quality import SHADOW_KEY
from gateway.values.request import Caller, HeaderHints
from gateway.values.session import SessionStop
from gateway.values.snapshot import Snapshot
from tests.snapshots import snapshot

BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}).encode()
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
WHOLE = json.dumps({"choices": [{"message": {"content": "hello there"}}], "usage": USAGE}).encode()
HOUR = 3600.0
# The start of FakeClock.
NOW = 1_790_000_000.0


def with_grid(base: Snapshot, grams: float, *forecast: float, start: float = NOW) -> Snapshot:
    """A snapshot with `small` on a grid of this gCO2e/kWh and hourly forecast."""
    small = base.deployments["small"]
    samples = tuple(IntensitySample(start + hour * HOUR, value) for hour, value in enumerate(forecast))
    grid = replace(small.intensity, grams_per_kwh=grams, method="live", feed="uk", forecast=samples)
    return base.with_deployments({"small": with_footprint_model(small, small.energy_profile, grid)})


def playbook(start: Snapshot, answers: int = 1) -> Playbook:
    return Playbook(start, [UpstreamAnswer(body=[WHOLE]) for _ in range(answers)])


async def test_a_request_waits_for_the_hour_of_lowest_intensity_before_its_deadline():
    book = playbook(with_grid(snapshot(), 300, 300, 250, 100, 200))
    # The forecast comes true.
    later = with_grid(snapshot(), 100, 100, 200, start=NOW + 2 * HOUR)

    async def hours_pass(seconds: float) -> None:
        book.clock.seconds += seconds
        if book.clock.seconds >= NOW + 2 * HOUR:
            # The feed publishes the new slot at its start, for all requests that wait for it.
            book.snapshot = later

    book.clock.on_sleep = hours_pass
    await book.ask(BODY, defer_seconds=4 * HOUR)
    # The slot, plus this request's share of the minute over which starts are spread.
    assert book.clock.seconds == NOW + 2 * HOUR + 30
    (entry,) = book.ledger_entries
    assert (entry.deferred_ms, entry.grid_grams_per_kwh) == ((2 * 3600 + 30) * 1000, 100.0)
    assert entry.at_ms == int((NOW + 2 * HOUR + 30) * 1000)
    operational = entry.energy_mj_mid / 1000 / 3.6e6
    saved = operational * (300 - 100) * 1e6
    assert entry.undeferred_carbon_ug - entry.carbon_ug_mid == pytest.approx(saved, abs=1)
    assert book.events == ["reserve", "hold", "dial small", "settle", "entry completed"]


@pytest.mark.parametrize(
    "hints, more",
    [({}, ""), ({"defer_seconds": 0.0}, "energy: {defer: {hours: 4}}"), ({"defer_seconds": 20.0}, "")],
    ids=["not requested", "declined by the request", "too little time"],
)
async def test_requests_that_do_not_wait(hints, more):
    book = playbook(with_grid(snapshot(more=more), 300, 300, 100))
    await book.ask(BODY, **hints)
    assert book.clock.seconds == NOW
    assert book.ledger_entries[0].deferred_ms == 0
    assert book.ledger_entries[0].undeferred_carbon_ug == book.ledger_entries[0].carbon_ug_mid


async def test_a_task_type_may_wait_by_configuration():
    book = playbook(with_grid(snapshot(more="energy: {rules: [{task_type: other, defer: {hours: 4}}]}"), 300, 300, 100))
    await book.ask(BODY)
    # An hour, plus its share of the minute over which starts are spread.
    assert book.ledger_entries[0].deferred_ms == (3600 + 30) * 1000


async def test_a_wrong_forecast_never_costs_the_deadline():
    base = snapshot()
    book = playbook(with_grid(base, 300, 300, 200, 100))

    async def always_later(seconds: float) -> None:
        """The hour of lowest intensity is always forecast for two hours later."""
        book.clock.seconds += seconds
        book.snapshot = with_grid(base, 300, 300, 200, 100, start=book.clock.seconds)

    book.clock.on_sleep = always_later
    await book.ask(BODY, defer_seconds=4 * HOUR)
    (entry,) = book.ledger_entries
    assert entry.outcome == "completed"
    assert book.clock.seconds <= NOW + 4 * HOUR - 600, "its own timeout fits before the deadline"


async def test_a_wait_ends_when_the_present_intensity_is_as_low():
    book = playbook(with_grid(snapshot(), 300, 300, 250, 100))

    async def wind_rises(seconds: float) -> None:
        book.clock.seconds += seconds
        book.snapshot = with_grid(snapshot(), 50, 50, 60, start=book.clock.seconds)

    book.clock.on_sleep = wind_rises
    await book.ask(BODY, defer_seconds=4 * HOUR)
    assert book.clock.seconds - NOW <= 5 + 30
    assert book.ledger_entries[0].grid_grams_per_kwh == 50.0


async def test_a_caller_that_disconnects_while_waiting_leaves_an_entry_and_no_hold():
    book = playbook(with_grid(snapshot(), 300, 300, 100))
    sleeping = asyncio.Event()

    async def long_sleep(seconds: float) -> None:
        sleeping.set()
        await asyncio.Event().wait()

    book.clock.on_sleep = long_sleep
    task = asyncio.ensure_future(book.ask(BODY, defer_seconds=4 * HOUR))
    await sleeping.wait()
    assert book.pipeline.deferrer.waiting_requests == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (entry,) = book.ledger_entries
    assert (entry.outcome, entry.usage_basis, amounts_of(entry)) == ("cancelled", "none", ZERO_AMOUNTS)
    assert (book.pipeline.deferrer.waiting_requests, book.budget_accounts.open_holds) == (0, 0)


async def test_shutdown_ends_every_wait():
    book = playbook(with_grid(snapshot(), 300, 300, 100))

    async def shutdown(seconds: float) -> None:
        book.clock.seconds += seconds
        book.pipeline.deferrer.release()

    book.clock.on_sleep = shutdown
    await book.ask(BODY, defer_seconds=4 * HOUR)
    assert book.clock.seconds - NOW <= 5
    assert book.ledger_entries[0].outcome == "completed"


async def test_a_budget_used_up_during_the_wait_refuses():
    more = "budgets: {small: {limit: {calls: 1}, window: total}}"
    book = playbook(with_grid(snapshot(more=more), 300, 300, 100), answers=2)

    async def another_request(seconds: float) -> None:
        book.clock.seconds += seconds
        if len(book.ledger_entries) == 0:
            await book.ask(BODY)

    book.clock.on_sleep = another_request
    answer = await book.ask(BODY, defer_seconds=4 * HOUR)
    assert answer.status == 400
    assert [entry.outcome for entry in book.ledger_entries] == ["completed", "refused"]


@pytest.mark.parametrize("is_loop", [False, True], ids=["killed", "stopped for a loop"])
async def test_a_session_stopped_during_the_wait_is_not_served_and_stays_stopped(is_loop):
    book = playbook(with_grid(snapshot(), 300, 300, 100))

    async def stopped(seconds: float) -> None:
        book.clock.seconds += 2 * HOUR if is_loop else seconds
        session = book.sessions.get("k1", "s1")
        assert session is not None
        if is_loop:
            session.stop = SessionStop(
                id="x", stopped_at=book.clock.seconds, code="loop_stopped", message="It repeats itself.", details={}
            )
            session.refused_at = book.clock.seconds
        else:
            ladder.kill_session(session, id="x", at=book.clock.seconds, note="enough")

    book.clock.on_sleep = stopped
    answer = await book.ask(BODY, defer_seconds=4 * HOUR, session="s1", session_source="header")
    assert answer.status == 400
    assert book.events == ["entry refused"]
    session = book.sessions.get("k1", "s1")
    assert session is not None
    assert (session.refusals_since_stop, book.pipeline.stopped_session_requests) == (0, 0), (
        "no further request was made"
    )
    assert session.stop is not None
    assert not is_loop or session.refused_at == book.clock.seconds, "when it was stopped, not when it arrived"


async def test_a_plan_that_now_takes_longer_starts_earlier():
    book = playbook(with_grid(snapshot(), 300, 300, 250, 200, 100))
    slower = with_grid(snapshot(small=", timeouts: {total: 7200}"), 299, 299, 250, 200, 100)

    async def other_timeouts(seconds: float) -> None:
        book.clock.seconds += seconds
        book.snapshot = slower

    book.clock.on_sleep = other_timeouts
    await book.ask(BODY, defer_seconds=4 * HOUR)
    assert book.clock.seconds <= NOW + 2 * HOUR


async def test_a_request_waits_no_longer_than_its_session_may_run():
    book = playbook(with_grid(snapshot(more="sessions: {caps: {minutes: 90}}"), 300, 300, 250, 50))
    answer = await book.ask(BODY, defer_seconds=4 * HOUR, session="s1", session_source="header")
    assert answer.status == 200
    assert book.ledger_entries[0].deferred_ms == 0, "the lowest hour is after the cap, and the other saves too little"


async def test_an_outage_during_the_wait_does_not_end_it():
    book = playbook(with_grid(snapshot(), 300, 300, 250, 100))

    async def outage(seconds: float) -> None:
        book.clock.seconds += seconds
        if book.clock.seconds - NOW < 60:
            for _ in range(10):
                book.circuit_breakers.record_failure("small", now=book.clock.seconds)
            book.snapshot = with_grid(snapshot(), 290, 290, 250, 100)

    book.clock.on_sleep = outage
    answer = await book.ask(BODY, defer_seconds=4 * HOUR)
    assert answer.status == 200
    assert book.ledger_entries[0].deferred_ms >= 2 * 3600 * 1000


async def test_a_wall_clock_set_back_does_not_move_the_deadline():
    book = playbook(with_grid(snapshot(), 300, 300, 250, 100))
    book.clock.monotonic_seconds = waited = 0.0

    async def set_back(seconds: float) -> None:
        nonlocal waited
        book.clock.monotonic_seconds = waited = waited + seconds
        book.clock.seconds = NOW - 10 * HOUR

    book.clock.on_sleep = set_back
    await book.ask(BODY, defer_seconds=4 * HOUR)
    assert waited <= 4 * HOUR - 600


async def test_shadow_calls_do_not_wait():
    start = with_grid(snapshot(more="energy: {defer: {hours: 4}}"), 300, 300, 100)
    book = playbook(start)
    route = replace(start.routes["small"], is_auto=False)
    shadow = Caller(key=SHADOW_KEY, team=SHADOW_KEY)
    await book.pipeline.serve_route(route, chat.parse(BODY), shadow, HeaderHints(), book.caller_stream)
    assert book.clock.seconds == NOW


def test_a_route_outside_the_configuration_keeps_its_candidates_in_a_new_snapshot():
    base = snapshot()
    custom = replace(base.routes["auto"], candidates=(base.deployments["frontier"],), is_auto=False)
    fresh = with_grid(snapshot(), 100)
    current = fresh.with_current_deployments(custom)
    assert [deployment.name for deployment in current.candidates] == ["frontier"]
    assert current.candidates[0] is fresh.deployments["frontier"]


@pytest.mark.parametrize(
    "text, seconds",
    [("4h", 14400), ("30m", 1800), ("90s", 90), ("3600", 3600), ("no", 0), ("0", 0), (" 4H ", 14400), ("48h", 172_800)],
)
def test_the_defer_header_is_a_duration(text, seconds):
    assert parse_hints({"x-penstock-defer": text}, snapshot()).defer_seconds == seconds


@pytest.mark.parametrize("text", ["", "h", "-4h", "49h", "4d", "1e3", "4.5h", "٤h", "9" * 30, "nan"])
def test_an_invalid_defer_header_is_a_bad_request(text):
    with pytest.raises(BadRequest, match="x-penstock-defer"):
        parse_hints({"x-penstock-defer": text}, snapshot())
