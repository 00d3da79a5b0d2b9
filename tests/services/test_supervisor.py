"""Background tasks: periodic work, its failures, and the end of all of them."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator

import pytest

from gateway.services.supervisor import Supervisor
from tests.services.clocks import NOW, ManualClock


@contextlib.asynccontextmanager
async def running_supervisor(clock: ManualClock) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(clock.sleep)
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def test_periodic_work_runs_first_after_its_interval():
    clock, runs = ManualClock(), list[float]()

    async def work() -> None:
        runs.append(clock.now() - NOW)

    async with running_supervisor(clock) as supervisor:
        supervisor.run_every(10, "work", work)
        await clock.advance(9)
        assert runs == []
        await clock.advance(21)
        assert runs == [10, 20, 30]


async def test_periodic_work_that_fails_is_logged_and_retried_after_a_pause(caplog: pytest.LogCaptureFixture):
    clock, runs = ManualClock(), list[float]()

    async def work() -> None:
        runs.append(clock.now() - NOW)
        if len(runs) == 1:
            raise ValueError("broken once")

    async with running_supervisor(clock) as supervisor:
        supervisor.run_every(10, "polling", work)
        await clock.advance(40)
        assert runs == [10, 25, 35], "the interval follows a pause of five seconds"
    (record,) = caplog.records
    assert record.getMessage() == "background_task_failed task=polling retry_seconds=5"
    assert record.exc_info is not None and "broken once" in str(record.exc_info[1])


async def test_slow_work_does_not_run_twice_at_once():
    clock, started, finish = ManualClock(), list[float](), asyncio.Event()

    async def work() -> None:
        started.append(clock.now() - NOW)
        await finish.wait()

    async with running_supervisor(clock) as supervisor:
        supervisor.run_every(10, "slow", work)
        await clock.advance(35)
        assert started == [10]
        finish.set()
        await clock.advance(10)
        assert started == [10, 45]


async def test_failing_work_stops_no_other():
    clock, runs = ManualClock(), list[float]()

    async def fail() -> None:
        raise ValueError("broken")

    async def work() -> None:
        runs.append(clock.now() - NOW)

    async with running_supervisor(clock) as supervisor:
        supervisor.run_every(10, "broken", fail)
        supervisor.run_every(10, "work", work)
        await clock.advance(20)
        assert runs == [10, 20]


async def test_the_failure_of_a_single_task_is_reported(caplog: pytest.LogCaptureFixture):
    failures: asyncio.Queue[Exception] = asyncio.Queue()

    async def fail() -> None:
        raise OSError("disk full")

    async with running_supervisor(ManualClock()) as supervisor:
        supervisor.spawn("writing", fail(), failures.put_nowait)
        error = await asyncio.wait_for(failures.get(), 60)
    assert str(error) == "disk full"
    assert "background_task_failed task=writing error=OSError" in caplog.text


async def test_a_task_that_ends_well_reports_nothing(caplog: pytest.LogCaptureFixture):
    done, failures = asyncio.Event(), list[Exception]()

    async def work() -> None:
        done.set()

    async with running_supervisor(ManualClock()) as supervisor:
        supervisor.spawn("work", work(), failures.append)
        await asyncio.wait_for(done.wait(), 60)
    assert failures == [] and caplog.text == ""


async def test_a_cancelled_task_cleans_up_and_reports_no_failure():
    started, cleaned_up, failures = asyncio.Event(), asyncio.Event(), list[Exception]()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    async with running_supervisor(ManualClock()) as supervisor:
        cancel = supervisor.spawn("work", work(), failures.append)
        await started.wait()
        cancel()
        await asyncio.wait_for(cleaned_up.wait(), 60)
    assert failures == []


async def test_work_that_is_cancelled_before_it_began_is_closed():
    runs = list[str]()

    async def work() -> None:
        runs.append("begun")

    supervisor, pending = Supervisor(ManualClock().sleep), work()
    supervisor.spawn("work", pending, lambda error: None)
    await supervisor.stop()
    assert runs == [] and inspect.getcoroutinestate(pending) == inspect.CORO_CLOSED


async def test_stopping_waits_until_every_task_has_cleaned_up():
    clock, cleaned_up, started = ManualClock(), list[str](), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.append("single")

    async def periodic() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.append("periodic")

    supervisor = Supervisor(clock.sleep)
    supervisor.spawn("work", work(), lambda error: None)
    supervisor.run_every(1, "periodic", periodic)
    supervisor.run_every(10, "asleep", periodic)
    await clock.advance(1)
    await started.wait()
    await supervisor.stop()
    assert sorted(cleaned_up) == ["periodic", "single"]
    await clock.advance(30)
    assert sorted(cleaned_up) == ["periodic", "single"], "nothing runs after the stop"
