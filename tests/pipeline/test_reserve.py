"""Budget stages and expected holds: what the caller sees, and what is booked."""

import asyncio
import json

import pytest

from gateway.pipeline.settle import amounts_of
from gateway.simulator.playbook import JSON_HEADERS, SSE_HEADERS, Playbook, UpstreamAnswer
from gateway.values.budget import Measure
from gateway.values.errors import UpstreamError, UpstreamTimeout
from tests.budget_lines import amounts
from tests.snapshots import snapshot

USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
WHOLE = json.dumps({"choices": [{"message": {"content": "hello there"}}], "usage": USAGE}).encode()
# One token of output on the small deployment is 2,000 nUSD, on the frontier 10,000.
USD = 1_000_000_000


def body(**more: object) -> bytes:
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], **more}).encode()


def budget(limit: str, more: str = "", window: str = "day") -> str:
    return f"budgets: {{b: {{limit: {{{limit}}}, window: {window}{more}}}}}"


def playbook(more: str, *answers: UpstreamAnswer | UpstreamError) -> Playbook:
    return Playbook(snapshot(more=more), list(answers) or [UpstreamAnswer(headers=JSON_HEADERS, body=[WHOLE])])


async def test_above_the_downgrade_threshold_only_lower_tiers_are_chosen():
    more = (
        budget("usd: 1", ", stages: {downgrade: {at: 50}}")
        + "\ntiers: {small: {max_complexity: 0}, medium: {max_complexity: 0}}"
    )
    book = playbook(more)
    await book.ask(body(max_tokens=100))
    assert book.ledger_entries[-1].tier == "frontier"
    book = playbook(more)
    book.spend(USD // 2)
    await book.ask(body(max_tokens=100))
    assert book.ledger_entries[-1].tier == "small"
    assert "b has no capacity for frontier" in book.ledger_entries[-1].reason


async def test_a_route_without_a_lower_tier_may_use_the_whole_limit():
    book = playbook(budget("usd: 1", ", stages: {downgrade: {at: 50}}"))
    book.spend(USD // 2)
    await book.ask(body(model="frontier", max_tokens=100))
    assert book.ledger_entries[-1].outcome == "completed"


@pytest.mark.parametrize("limits", [{"max_tokens": 3000}, {"max_completion_tokens": 3000}, {}])
async def test_output_limits_shrink_to_fit_and_a_header_states_the_limit(limits):
    book = playbook(budget("usd: 0.001", ", stages: {shrink: {at: 100, min_output_tokens: 50}}"))
    answer = await book.ask(body(model="small", **limits))
    document = json.loads(b"".join(book.upstream_calls[0].body))
    limit = document.get("max_completion_tokens") or document["max_tokens"]
    assert 50 <= limit < 500 and document["model"] == "sim-small"
    assert answer.headers["x-penstock-max-output-tokens"] == str(limit)
    assert book.ledger_entries[-1].hold_nusd <= USD // 1000
    assert "output tokens" in book.ledger_entries[-1].reason


async def test_below_the_minimum_output_a_call_is_refused():
    book = playbook(budget("usd: 0.0001", ", stages: {shrink: {at: 100, min_output_tokens: 50}}"))
    answer = await book.ask(body(model="small", max_tokens=3000))
    assert answer.status == 400 and not book.upstream_calls


async def test_a_queued_call_is_served_when_capacity_is_freed():
    book = playbook(
        budget("calls: 1", ", stages: {queue: {seconds: 5}}"), *[UpstreamAnswer(headers=JSON_HEADERS, body=[WHOLE])] * 2
    )
    sleeps = 0

    async def sleep(seconds: float) -> None:
        nonlocal sleeps
        sleeps += 1
        book.clock.seconds += seconds
        if sleeps == 3:
            book.resolve("other")

    book.clock.on_sleep = sleep
    book.hold("other", 1)
    answer = await book.ask(body(max_tokens=10))
    assert (answer.status, sleeps) == (200, 3)


async def test_a_queued_call_waits_no_longer_than_its_limit_and_not_for_spent_capacity():
    book = playbook(budget("calls: 1", ", stages: {queue: {seconds: 5}}"))
    book.hold("other", 1)
    started_at = book.clock.seconds
    assert (await book.ask(body(max_tokens=10))).status == 429
    assert 5 <= book.clock.seconds - started_at < 6
    book.resolve("other", amounts(calls=1))
    started_at = book.clock.seconds
    assert (await book.ask(body(max_tokens=10))).status == 400
    assert book.clock.seconds == started_at, "spent capacity is not freed today"


HELD_BUDGETS = {
    # A limit of about two calls of `body(model="small", max_tokens=1000)`, and the amount that another call holds of it.
    "usd: 0.004": 3_000_000,
    "tokens: 2600": 2000,
    "calls: 1": 1,
    "wh: 0.1": 300_000,
    "g_co2e: 0.03": 29_000,
}


@pytest.mark.parametrize("window", ["day", "rolling-1h", "total"])
@pytest.mark.parametrize("limit, held", HELD_BUDGETS.items())
async def test_while_only_held_amounts_are_in_the_way_a_call_waits_a_second_and_is_asked_to_retry(limit, held, window):
    book = playbook(budget(limit, window=window))
    book.hold("other", held)
    started_at = book.clock.seconds
    answer = await book.ask(body(model="small", max_tokens=1000))
    assert 1 <= book.clock.seconds - started_at < 1.2
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    assert "x-should-retry" not in answer.headers
    error = json.loads(answer.body)["error"]
    assert error["code"] == book.ledger_entries[-1].code == "budget_held"
    assert "is held by calls in flight: 0 " in error["message"] and "exceeded" not in error["message"]
    assert error["details"]["used"] == 0 and 0 < error["details"]["held"] <= error["details"]["limit"]
    assert not book.upstream_calls


@pytest.mark.parametrize("limit, held", HELD_BUDGETS.items())
async def test_a_call_is_served_when_the_amounts_in_its_way_are_released(limit, held):
    book = playbook(budget(limit))
    book.hold("other", held)

    async def sleep(seconds: float) -> None:
        book.clock.seconds += seconds
        book.resolve("other")

    book.clock.on_sleep = sleep
    assert (await book.ask(body(model="small", max_tokens=1000))).status == 200
    assert book.events[:3] == ["reserve", "reserve", "hold"]


@pytest.mark.parametrize("limit, held", HELD_BUDGETS.items())
async def test_a_call_is_refused_at_once_where_spent_amounts_are_in_its_way(limit, held):
    book = playbook(budget(limit))
    book.spend(held)
    started_at = book.clock.seconds
    answer = await book.ask(body(model="small", max_tokens=1000))
    assert (answer.status, book.clock.seconds) == (400, started_at)
    assert answer.headers["x-should-retry"] == "false" and "retry-after" not in answer.headers
    assert json.loads(answer.body)["error"]["code"] == "budget_exceeded"


async def test_a_call_whose_wait_ends_in_spent_amounts_is_refused_as_such():
    book = playbook(budget("usd: 0.004"))
    book.hold("other", 3_000_000)

    async def sleep(seconds: float) -> None:
        book.clock.seconds += seconds
        book.resolve("other", amounts(nusd=3_000_000))

    book.clock.on_sleep = sleep
    answer = await book.ask(body(model="small", max_tokens=1000))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "budget_exceeded")


async def test_a_call_waits_for_held_amounts_before_its_answer_is_cut_and_is_cut_before_it_is_refused():
    book = playbook(budget("usd: 0.01", ", hold: expected"))
    # A usual hold is 6,000,000 nUSD and some input.
    book.hold("other", 7_000_000)
    started_at = book.clock.seconds
    answer = await book.ask(body(model="small"))
    assert answer.status == 200 and 1 <= book.clock.seconds - started_at < 1.2
    assert 1000 < json.loads(b"".join(book.upstream_calls[0].body))["max_tokens"] < 1500


async def test_an_answer_is_cut_at_once_where_waiting_cannot_help():
    book = playbook(budget("usd: 0.01", ", hold: expected"))
    book.spend(7_000_000)
    started_at = book.clock.seconds
    assert (await book.ask(body(model="small"))).status == 200
    assert book.clock.seconds == started_at and "max_tokens" in json.loads(b"".join(book.upstream_calls[0].body))


async def test_above_the_downgrade_threshold_a_shrunk_call_of_a_higher_tier_does_not_fit():
    more = budget("usd: 1", ", stages: {downgrade: {at: 50}, shrink: {at: 60, min_output_tokens: 16}}")
    for hold in ("worst_case", "expected"):
        book = playbook(more.replace("window: day", f"window: day, hold: {hold}") + DEAR)
        book.spend(USD * 97 // 100)
        await book.ask(body(max_tokens=3000))
        assert book.ledger_entries[-1].tier == "small", hold


DEAR = "\ntiers: {small: {max_complexity: 0}, medium: {max_complexity: 0}}"


async def test_a_queue_threshold_does_not_refuse_a_call_below_the_limit():
    more = (
        "budgets: {soft: {limit: {usd: 1}, window: day, stages: {queue: {at: 50, seconds: 1}}},"
        " tight: {scope: {tier: small}, limit: {usd: 0}, window: day}}" + DEAR
    )
    book = playbook(more)
    assert book.budget_lines()[0].budget.name == "soft"
    book.spend(USD * 6 // 10)
    assert (await book.ask(body(max_tokens=100))).status == 200
    assert book.ledger_entries[-1].tier == "frontier"


async def test_a_call_that_may_queue_waits_before_its_output_is_cut():
    book = playbook(budget("usd: 0.01", ", hold: expected, stages: {queue: {seconds: 5}}"))
    book.hold("other", USD // 100 - 200_000)
    waits = 0

    async def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        book.clock.seconds += seconds
        if waits == 2:
            book.resolve("other")

    book.clock.on_sleep = sleep
    await book.ask(body(model="small"))
    assert waits == 2 and "max_tokens" not in json.loads(b"".join(book.upstream_calls[0].body))


async def test_headers_state_the_remaining_amount_of_every_budget():
    book = playbook("budgets: {day: {limit: {usd: 1}, window: day}, ever: {limit: {tokens: 1000000}, window: total}}")
    answer = await book.ask(body(max_tokens=10))
    day, ever = answer.headers["x-penstock-budget"].split(", ")
    assert day.startswith('"day";unit=USD;limit=1;remaining=0.999975;reset=')
    assert ever == '"ever";unit=tokens;limit=1000000;remaining=999970'


async def test_without_max_tokens_an_expected_hold_leaves_a_budget_usable():
    for hold, status in (("worst_case", 400), ("expected", 200)):
        book = playbook(budget("usd: 0.007", f", hold: {hold}"))
        assert (await book.ask(body(model="small"))).status == status


def text_events(count: int) -> bytes:
    return b"".join(
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
        for _ in range(count)
    )


END = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":4000}}\n\ndata: [DONE]\n\n'
)


async def test_a_stream_that_outgrows_its_hold_extends_it():
    chunks = [text_events(100) for _ in range(40)]
    book = playbook(budget("usd: 1", ", hold: expected"), UpstreamAnswer(headers=SSE_HEADERS, body=[*chunks, END]))
    await book.ask(body(model="small", stream=True))
    assert "extend" in book.events and "extend refused" not in book.events
    assert book.events[book.events.index("extend") + 1] == "hold", "the extended hold is recorded for crash recovery"
    assert book.ledger_entries[-1].output_tokens == 4000 and book.ledger_entries[-1].code == ""
    assert b'"finish_reason":"stop"' in book.caller_stream.written


async def test_a_stream_that_cannot_extend_its_hold_ends_as_at_its_output_limit():
    chunks = [text_events(20) for _ in range(200)]
    upstream = UpstreamAnswer(headers=SSE_HEADERS, body=[*chunks, END])
    book = playbook(budget("usd: 0.005", ", hold: expected"), upstream)
    await book.ask(body(model="small", stream=True))
    entry = book.ledger_entries[-1]
    assert (entry.outcome, entry.code) == ("completed", "hold_exhausted")
    assert book.caller_stream.written.endswith(b"data: [DONE]\n\n")
    assert (
        b'"finish_reason":"length"' in book.caller_stream.written
        and b'"finish_reason":"stop"' not in book.caller_stream.written
    )
    assert upstream.closed and 1000 < entry.output_tokens < 2600
    assert entry.charge_nusd <= 5_000_000
    assert book.budget_accounts.open_holds == 0


async def test_a_stream_whose_hold_could_not_grow_tries_again_when_others_have_ended():
    book = playbook(budget("usd: 0.012", ", hold: expected"))

    class Upstream(UpstreamAnswer):
        async def read_chunk(self) -> bytes:
            if len(self.body) == 40:
                book.resolve("other")
            return await super().read_chunk()

    # 4,000 tokens; the usual hold of 3,000 has to grow at three quarters, while another call holds the rest.
    chunks = [text_events(40) for _ in range(100)]
    book.upstream_script = [Upstream(headers=SSE_HEADERS, body=[*chunks, END])]
    book.hold("other", 5_900_000)
    await book.ask(body(model="small", stream=True))
    assert "extend refused" in book.events and "extend" in book.events
    assert (book.ledger_entries[-1].code, book.ledger_entries[-1].output_tokens) == ("", 4000)


async def test_a_stream_of_usual_length_is_not_checked_with_the_store():
    chunks = [text_events(10) for _ in range(100)]
    book = playbook(budget("usd: 1", ", hold: expected"), UpstreamAnswer(headers=SSE_HEADERS, body=[*chunks, END]))
    await book.ask(body(model="small", stream=True))
    assert "extend" not in book.events and "extend refused" not in book.events


async def test_a_whole_answer_that_barely_fits_is_limited_to_its_hold():
    book = playbook(budget("usd: 0.002", ", hold: expected"))
    answer = await book.ask(body(model="small"))
    limit = json.loads(b"".join(book.upstream_calls[0].body))["max_tokens"]
    assert answer.headers["x-penstock-max-output-tokens"] == str(limit)
    assert 16 <= limit < 1000


async def test_observed_output_lengths_set_the_hold():
    book = playbook(
        budget("usd: 1", ", hold: expected, safety_factor: 2"),
        *[UpstreamAnswer(headers=JSON_HEADERS, body=[WHOLE])] * 40,
    )
    for _ in range(25):
        book.upstream_script[0] = UpstreamAnswer(headers=JSON_HEADERS, body=[WHOLE])
        await book.ask(body(model="small"))
    first, last = book.ledger_entries[0], book.ledger_entries[-1]
    assert first.hold_nusd > 6_000_000 > 100_000 > last.hold_nusd > last.charge_nusd


async def test_an_answer_of_unknown_usage_is_charged_as_held():
    book = playbook(budget("usd: 1", ", hold: expected"), UpstreamTimeout("late"), UpstreamTimeout("late"))
    await book.ask(body(model="small"))
    entry = book.ledger_entries[0]
    assert entry.usage_basis == "estimated"
    assert entry.output_tokens == 3000, "the usual length, not the model's limit"
    assert entry.charge_nusd == entry.hold_nusd


async def test_concurrent_calls_never_exceed_a_limit_of_any_measure():
    for limit in ("usd: 0.001", "tokens: 3000", "calls: 7", "wh: 0.03", "g_co2e: 0.003"):
        book = playbook(budget(limit), *[UpstreamAnswer(headers=JSON_HEADERS, body=[WHOLE]) for _ in range(100)])
        answers = await asyncio.gather(*(book.ask(body(model="small", max_tokens=200)) for _ in range(100)))
        (line,) = book.budget_lines()
        configured = line.budget
        used, held, _ = book.budget_accounts.balance(line, now=book.clock.now())
        assert 0 < used <= configured.limit and held == 0, limit
        assert {answer.status for answer in answers} == {200, 400}, limit
        sums = [sum(column) for column in zip(*(amounts_of(entry) for entry in book.ledger_entries), strict=True)]
        assert used == sums[Measure(configured.measure)]
