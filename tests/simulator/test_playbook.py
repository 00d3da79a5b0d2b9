"""The playbook's own fakes: a clock that is set, a caller that disconnects, budgets used by others."""

import json

import pytest

from gateway.simulator.playbook import FakeCallerStream, FakeClock, Playbook, UpstreamAnswer
from gateway.values.budget import Measure
from gateway.values.errors import BrokenResponse, CallerDisconnected, Overloaded
from tests.budget_lines import amounts
from tests.snapshots import snapshot

BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}).encode()
ANSWER = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
CALLS = "budgets: {day: {scope: {team: research}, limit: {calls: 5}, window: day}}"


async def test_the_clock_moves_only_by_sleeping():
    clock = FakeClock(seconds=10.0)
    await clock.sleep(2.5)
    assert (clock.now(), clock.monotonic()) == (12.5, 12.5)
    clock.monotonic_seconds = 1.0
    assert (clock.now(), clock.monotonic()) == (12.5, 1.0)


async def test_what_happens_during_a_sleep_replaces_it():
    clock, slept = FakeClock(seconds=10.0), []

    async def wake_late(seconds: float) -> None:
        slept.append(seconds)
        clock.seconds += 60

    clock.on_sleep = wake_late
    await clock.sleep(2.5)
    assert (slept, clock.now()) == ([2.5], 70.0)


async def test_a_caller_disconnects_once_it_has_received_enough():
    events: list[str] = []
    caller = FakeCallerStream(events, disconnect_after_bytes=3)
    await caller.begin(200, {"a": "b"})
    await caller.write(b"ab")
    await caller.write(b"cd")
    with pytest.raises(CallerDisconnected):
        await caller.write(b"ef")
    assert (caller.written, events, caller.headers) == (b"abcd", ["begin 200", "chunk", "chunk"], {"a": "b"})


async def test_an_answer_is_read_in_chunks_and_an_exception_is_raised_in_its_place():
    answer = UpstreamAnswer(body=[b"ab", b"cd", BrokenResponse("cut")])
    assert await answer.read_chunk() == b"ab"
    with pytest.raises(BrokenResponse):
        await answer.read(99)
    assert await UpstreamAnswer(body=[b"ab", b"cd"]).read(3) == b"abc" and await UpstreamAnswer().read_chunk() == b""


async def test_what_others_spend_and_hold_is_on_the_accounts_of_the_requests():
    book = Playbook(snapshot(more=CALLS), [UpstreamAnswer(body=[ANSWER.encode()])])
    (line,) = book.budget_lines()
    assert line.measure is Measure.calls
    book.spend(2)
    book.hold("other", 2)
    assert (await book.ask(BODY)).status == 200
    assert book.budget_accounts.balance(line, now=book.clock.now()) == (3, 2, 0)
    assert (await book.ask(BODY)).status == 429, "three spent and two held are the limit"
    book.resolve("other")
    assert book.budget_accounts.balance(line, now=book.clock.now()) == (3, 0, 0)
    book.hold("another", 1)
    book.resolve("another", amounts(calls=1))
    assert book.budget_accounts.balance(line, now=book.clock.now()) == (4, 0, 0)


async def test_the_budget_store_may_become_unavailable():
    book = Playbook(snapshot(), [UpstreamAnswer(body=[ANSWER.encode()])], reservations_max=1)
    assert (await book.ask(BODY)).status == 200
    with pytest.raises(Overloaded):
        await book.ask(BODY)
    assert len(book.leases) == 2
