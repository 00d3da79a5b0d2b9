"""Work that can wait: it waits for the greener hour, is planned anew then, keeps its deadline, and is accounted for."""

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
# FakeClock's beginning.
NOW = 1_790_000_000.0


def on_grid(at: Snapshot, grams: float, *forecast: float, start: float = NOW) -> Snapshot:
    """The world with `small` on a grid of this intensity, and an hourly forecast."""
    small = at.deployments["small"]
    samples = tuple(IntensitySample(start + hour * HOUR, value) for hour, value in enumerate(forecast))
    grid = replace(small.intensity, grams_per_kwh=grams, method="live", feed="uk", forecast=samples)
    return at.with_deployments({"small": with_footprint_model(small, small.energy_profile, grid)})


def playbook(at: Snapshot, answers: int = 1) -> Playbook:
    return Playbook(at, [UpstreamAnswer(body=[WHOLE]) for _ in range(answers)])


async def test_it_waits_for_the_greenest_hour_before_its_deadline():
    book = playbook(on_grid(snapshot(), 300, 300, 250, 100, 200))
    # What the grid is by then, a feed tells: here the forecast comes true.
    later = on_grid(snapshot(), 100, 100, 200, start=NOW + 2 * HOUR)

    async def hours_pass(seconds: float) -> None:
        book.clock.seconds += seconds
        if book.clock.seconds >= NOW + 2 * HOUR:
            # The feed tells of the new slot at its beginning: those who wait for it see that together.
            book.snapshot = later

    book.clock.sleep = hours_pass
    await book.ask(BODY, defer_seconds=4 * HOUR)
    # The slot, and this request's place within the minute over which those who wait for it are spread.
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
    ids=["not asked for", "the request says no", "no time for it"],
)
async def test_what_does_not_wait(hints, more):
    book = playbook(on_grid(snapshot(more=more), 300, 300, 100))
    await book.ask(BODY, **hints)
    assert book.clock.seconds == NOW
    assert book.ledger_entries[0].deferred_ms == 0
    assert book.ledger_entries[0].undeferred_carbon_ug == book.ledger_entries[0].carbon_ug_mid


async def test_a_kind_of_work_can_wait_by_the_file():
    book = playbook(on_grid(snapshot(more="energy: {rules: [{task_type: other, defer: {hours: 4}}]}"), 300, 300, 100))
    await book.ask(BODY)
    # An hour, and its place within the minute over which those who wait for it are spread.
    assert book.ledger_entries[0].deferred_ms == (3600 + 30) * 1000


async def test_a_forecast_that_lies_costs_grams_and_never_the_deadline():
    book = playbook(on_grid(snapshot(), 300, 300, 200, 100))

    async def always_later(seconds: float) -> None:
        """Every hour the green hour is said to be two hours off."""
        book.clock.seconds += seconds
        book.snapshot = on_grid(snapshot(), 300, 300, 200, 100, start=book.clock.seconds)

    book.clock.sleep = always_later
    await book.ask(BODY, defer_seconds=4 * HOUR)
    (entry,) = book.ledger_entries
    assert entry.outcome == "completed"
    assert book.clock.seconds <= NOW + 4 * HOUR - 600, "its own timeout fits before the deadline"


async def test_news_that_the_present_is_as_green_end_the_wait():
    book = playbook(on_grid(snapshot(), 300, 300, 250, 100))

    async def wind_rises(seconds: float) -> None:
        book.clock.seconds += seconds
        book.snapshot = on_grid(snapshot(), 50, 50, 60, start=book.clock.seconds)

    book.clock.sleep = wind_rises
    await book.ask(BODY, defer_seconds=4 * HOUR)
    assert book.clock.seconds - NOW <= 5 + 30
    assert book.ledger_entries[0].grid_grams_per_kwh == 50.0


async def test_who_hangs_up_while_waiting_has_an_entry_and_holds_nothing():
    book = playbook(on_grid(snapshot(), 300, 300, 100))

    async def long_sleep(seconds: float) -> None:
        await asyncio.Event().wait()

    book.clock.sleep = long_sleep
    task = asyncio.ensure_future(book.ask(BODY, defer_seconds=4 * HOUR))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert book.pipeline.deferrer.waiting_requests == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (entry,) = book.ledger_entries
    assert (entry.outcome, entry.usage_basis, sum(amounts_of(entry))) == ("cancelled", "none", 0)
    assert (book.pipeline.deferrer.waiting_requests, book.budget_book.open_holds) == (0, 0)


async def test_a_gateway_that_goes_down_lets_nobody_wait():
    book = playbook(on_grid(snapshot(), 300, 300, 100))

    async def going_down(seconds: float) -> None:
        book.clock.seconds += seconds
        book.pipeline.deferrer.release()

    book.clock.sleep = going_down
    await book.ask(BODY, defer_seconds=4 * HOUR)
    assert book.clock.seconds - NOW <= 5
    assert book.ledger_entries[0].outcome == "completed"


async def test_a_budget_that_was_used_up_meanwhile_refuses():
    more = "budgets: {small: {limit: {calls: 1}, window: total}}"
    book = playbook(on_grid(snapshot(more=more), 300, 300, 100), answers=2)

    async def another_comes(seconds: float) -> None:
        book.clock.seconds += seconds
        if len(book.ledger_entries) == 0:
            await book.ask(BODY)

    book.clock.sleep = another_comes
    answer = await book.ask(BODY, defer_seconds=4 * HOUR)
    assert answer.status == 400
    assert [entry.outcome for entry in book.ledger_entries] == ["completed", "refused"]


@pytest.mark.parametrize("loops", [False, True], ids=["killed", "stopped for a loop"])
async def test_a_session_that_was_stopped_meanwhile_is_not_served_and_stays_stopped(loops):
    book = playbook(on_grid(snapshot(), 300, 300, 100))
    sessions = book.pipeline._identifier._sessions

    async def stopped(seconds: float) -> None:
        book.clock.seconds += 2 * HOUR if loops else seconds
        session = sessions.get("k1", "s1")
        if loops:
            session.stop = SessionStop(
                id="x", stopped_at=book.clock.seconds, code="loop_stopped", message="It repeats itself.", details={}
            )
            session.refused_at = book.clock.seconds
        else:
            ladder.kill_session(session, id="x", at=book.clock.seconds, why="enough")

    book.clock.sleep = stopped
    answer = await book.ask(BODY, defer_seconds=4 * HOUR, session="s1", session_source="header")
    assert answer.status == 400
    assert book.events == ["entry refused"]
    session = sessions.get("k1", "s1")
    assert (session.refusals_since_stop, book.pipeline.refused_after_stop) == (0, 0), "nobody has asked again"
    assert session.stop is not None
    assert not loops or session.refused_at == book.clock.seconds, "when it was stopped, not when it came"


async def test_a_plan_that_takes_longer_meanwhile_is_begun_earlier():
    book = playbook(on_grid(snapshot(), 300, 300, 250, 200, 100))
    slower = on_grid(snapshot(small=", timeouts: {total: 7200}"), 299, 299, 250, 200, 100)

    async def other_timeouts(seconds: float) -> None:
        book.clock.seconds += seconds
        book.snapshot = slower

    book.clock.sleep = other_timeouts
    await book.ask(BODY, defer_seconds=4 * HOUR)
    assert book.clock.seconds <= NOW + 2 * HOUR


async def test_it_waits_no_longer_than_its_session_may_run():
    book = playbook(on_grid(snapshot(more="sessions: {caps: {minutes: 90}}"), 300, 300, 250, 50))
    answer = await book.ask(BODY, defer_seconds=4 * HOUR, session="s1", session_source="header")
    assert answer.status == 200
    assert book.ledger_entries[0].deferred_ms == 0, "the green hour lies beyond it, and the other gains too little"


async def test_an_outage_meanwhile_ends_no_wait_that_has_hours_left():
    book = playbook(on_grid(snapshot(), 300, 300, 250, 100))
    circuit_breakers = book.pipeline._circuit_breakers

    async def outage(seconds: float) -> None:
        book.clock.seconds += seconds
        if book.clock.seconds - NOW < 60:
            for _ in range(10):
                circuit_breakers.record_failure("small", now=book.clock.seconds)
            book.snapshot = on_grid(snapshot(), 290, 290, 250, 100)

    book.clock.sleep = outage
    answer = await book.ask(BODY, defer_seconds=4 * HOUR)
    assert answer.status == 200
    assert book.ledger_entries[0].deferred_ms >= 2 * 3600 * 1000


async def test_a_wall_clock_that_is_set_back_moves_no_deadline():
    book = playbook(on_grid(snapshot(), 300, 300, 250, 100))
    real = [0.0]

    async def set_back(seconds: float) -> None:
        real[0] += seconds
        book.clock.seconds = NOW - 10 * HOUR

    book.clock.sleep, book.clock.monotonic = set_back, lambda: real[0]
    await book.ask(BODY, defer_seconds=4 * HOUR)
    assert real[0] <= 4 * HOUR - 600


async def test_what_is_asked_for_learning_s_sake_does_not_wait():
    at = on_grid(snapshot(more="energy: {defer: {hours: 4}}"), 300, 300, 100)
    book = playbook(at)
    route = replace(at.routes["small"], is_auto=False)
    shadow = Caller(key=SHADOW_KEY, team=SHADOW_KEY)
    await book.pipeline.serve_route(route, chat.parse(BODY), shadow, HeaderHints(), book.caller_stream)
    assert book.clock.seconds == NOW


def test_a_route_that_is_not_the_file_s_stays_what_it_is_in_a_new_world():
    at = snapshot()
    alone = replace(at.routes["auto"], candidates=(at.deployments["frontier"],), is_auto=False)
    fresh = on_grid(snapshot(), 100)
    now = fresh.with_current_deployments(alone)
    assert [one.name for one in now.candidates] == ["frontier"]
    assert now.candidates[0] is fresh.deployments["frontier"]


@pytest.mark.parametrize(
    "text, seconds",
    [("4h", 14400), ("30m", 1800), ("90s", 90), ("3600", 3600), ("no", 0), ("0", 0), (" 4H ", 14400), ("48h", 172_800)],
)
def test_how_long_a_request_may_wait(text, seconds):
    assert parse_hints({"x-penstock-defer": text}, snapshot()).defer_seconds == seconds


@pytest.mark.parametrize("text", ["", "h", "-4h", "49h", "4d", "1e3", "4.5h", "٤h", "9" * 30, "nan"])
def test_a_wait_that_cannot_be_is_a_bad_request(text):
    with pytest.raises(BadRequest, match="x-penstock-defer"):
        parse_hints({"x-penstock-defer": text}, snapshot())
