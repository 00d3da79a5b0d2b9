"""The pipeline as a playbook: what provider and caller do, what follows."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import parse
from gateway.dialects import messages
from gateway.providers.upstream_call import UpstreamCall
from gateway.simulator.playbook import CALLER, SSE_HEADERS, Playbook, UpstreamAnswer
from gateway.values.budget import BudgetExceeded, Reservation
from gateway.values.errors import (
    BrokenResponse,
    CallerDisconnected,
    NotFound,
    Overloaded,
    Unreachable,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.values.request import Caller, HeaderHints
from gateway.values.snapshot import Snapshot
from tests.snapshots import BASE_CONFIG, ENV, snapshot

ROOT = Path(__file__).resolve().parents[2]
EASY = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}).encode()
STREAM = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
WHOLE = json.dumps({"choices": [{"message": {"content": "hello there"}}], "usage": USAGE}).encode()


def event(content: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"' + content.encode() + b'"}}]}\n\n'


DONE = b"data: [DONE]\n\n"
END = b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\ndata: [DONE]\n\n"


def answers(body: bytes = WHOLE, status: int = 200, **headers: str) -> UpstreamAnswer:
    return UpstreamAnswer(status=status, headers={"Content-Type": "application/json", **headers}, body=[body])


def error(message: str = "no", code: str = "x", status: int = 400, **headers: str) -> UpstreamAnswer:
    return answers(json.dumps({"error": {"message": message, "code": code}}).encode(), status, **headers)


async def test_a_request_is_reserved_dialed_settled_and_recorded():
    book = Playbook(snapshot(), [answers()])
    answer = await book.ask(EASY)
    assert book.events == ["reserve", "hold", "dial small", "settle", "entry completed"]
    assert answer.body == WHOLE
    assert answer.headers["x-penstock-deployment"] == "small"
    assert answer.headers["x-penstock-cost-usd"] == "0.000025"  # 20 * 0.25 + 10 * 2 dollars per million
    (entry,) = book.ledger_entries
    assert (entry.charge_nusd, entry.usage_basis, entry.final) == (25_000, "exact", 1)
    assert entry.reference_nusd == 125_000
    assert book.budget_accounts.open_holds == 0


async def test_a_stream_is_forwarded_and_settled_at_its_end():
    book = Playbook(snapshot(), [UpstreamAnswer(headers=SSE_HEADERS, body=[event("a"), event("b"), END])])
    answer = await book.ask(STREAM)
    assert book.events == [
        "reserve",
        "hold",
        "dial small",
        "begin 200",
        "chunk",
        "chunk",
        "chunk",
        "settle",
        "entry completed",
    ]
    assert answer.already_sent
    assert book.caller_stream.written == event("a") + event("b") + b"data: [DONE]\n\n"
    assert book.caller_stream.headers["x-penstock-tier"] == "small"
    assert book.ledger_entries[0].output_tokens == 10


async def test_nothing_is_awaited_after_the_end_of_a_stream():
    upstream = UpstreamAnswer(headers=SSE_HEADERS, body=[event("a"), END, BrokenResponse("must not be read")])
    book = Playbook(snapshot(), [upstream])
    await book.ask(STREAM)
    assert book.events[-2:] == ["settle", "entry completed"]
    assert upstream.closed


async def test_an_unreachable_provider_costs_nothing_and_the_next_deployment_serves():
    book = Playbook(snapshot(), [Unreachable("down"), answers()])
    await book.ask(EASY)
    assert book.events == [
        "reserve", "hold", "dial small", "void", "entry upstream_error",
        "reserve", "hold", "dial frontier", "settle", "entry completed",
    ]  # fmt: skip
    assert [entry.final for entry in book.ledger_entries] == [0, 1]
    assert book.ledger_entries[0].charge_nusd == 0
    assert book.ledger_entries[1].attempts == 2


async def test_a_timeout_is_charged_as_held():
    book = Playbook(snapshot(), [UpstreamTimeout("slow"), answers()])
    await book.ask(EASY)
    first, second = book.ledger_entries
    assert first.charge_nusd == first.hold_nusd > 0
    assert (first.usage_basis, first.final, second.outcome) == ("estimated", 0, "completed")


async def test_the_same_deployment_is_retried_only_when_no_other_is_left():
    book = Playbook(snapshot(), [error(status=503), answers()])
    started = book.clock.seconds
    answer = await book.ask(EASY.replace(b"auto", b"small"))
    assert answer.status == 200
    assert book.clock.seconds > started, "it waited in between"
    assert [call.deployment.name for call in book.upstream_calls] == ["small", "small"]


async def test_when_every_attempt_fails_the_caller_gets_one_error_and_the_ledger_one_final_entry():
    book = Playbook(snapshot(), [error(status=500), error(status=500), error(status=500)])
    answer = await book.ask(EASY)
    assert answer.status == 502
    assert answer.headers["x-should-retry"] == "false"
    assert [entry.final for entry in book.ledger_entries] == [0, 0, 1]
    assert sum(entry.charge_nusd for entry in book.ledger_entries) == 0


@pytest.mark.parametrize(
    "response, status, hidden",
    [
        (error("bad temperature", status=400), 400, False),
        (error("no such model", status=404), 502, False),
        (error("your key sk-123 is wrong", status=401), 502, True),
        (error("slow down", status=429, **{"Retry-After": "3600"}), 429, False),
        (error("pay", code="insufficient_quota", status=429), 502, True),
        (error("moved", status=302), 502, True),
    ],
    ids=["a caller error is returned", "an unknown model is the gateway's error", "an error of our key is hidden", "a rate limit is returned", "a billing error is hidden", "a redirect is not followed"],
)  # fmt: skip
async def test_provider_errors_are_returned_or_hidden(response, status, hidden):
    message = json.loads(response.body[0])["error"]["message"]
    book = Playbook(snapshot(), [response])
    answer = await book.ask(EASY.replace(b"auto", b"small"))
    assert answer.status == status
    assert (message.encode() not in answer.body) is hidden
    assert book.ledger_entries[-1].charge_nusd == 0
    assert book.budget_accounts.open_holds == 0


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("pause", ["Sun, 29 Nov 2099 23:59:00 GMT", "Sunday, 29-Nov-46 23:59:00 GMT", "3600"])
async def test_a_deployment_that_names_a_pause_rests_while_another_serves(status, pause):
    book = Playbook(snapshot(), [error("slow down", status=status, **{"Retry-After": pause}), answers(), answers()])
    for _ in range(2):
        assert (await book.ask(EASY)).status == 200
    assert [call.deployment.name for call in book.upstream_calls] == ["small", "frontier", "frontier"]


async def test_a_stream_that_breaks_before_its_first_byte_is_retried_on_another_deployment():
    book = Playbook(
        snapshot(),
        [
            UpstreamAnswer(headers=SSE_HEADERS, body=[BrokenResponse("cut")]),
            UpstreamAnswer(headers=SSE_HEADERS, body=[event("a"), END]),
        ],
    )
    await book.ask(STREAM)
    assert [call.deployment.name for call in book.upstream_calls] == ["small", "frontier"]
    assert book.caller_stream.written.startswith(event("a"))


@pytest.mark.parametrize("ending", [[BrokenResponse("cut")], []], ids=["connection lost", "no final event"])
async def test_a_stream_that_breaks_later_ends_with_an_error_event_and_is_charged_for_its_output(ending):
    book = Playbook(snapshot(), [UpstreamAnswer(headers=SSE_HEADERS, body=[event("abcd"), event("efgh"), *ending])])
    await book.ask(STREAM)
    assert len(book.upstream_calls) == 1, "no second attempt after the first byte"
    last = book.caller_stream.written.split(b"\n\n")[-3]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_invalid_response"
    (entry,) = book.ledger_entries
    assert (entry.outcome, entry.usage_basis, entry.output_tokens) == ("cut", "estimated", 2)
    assert 0 < entry.charge_nusd < entry.hold_nusd


async def test_a_caller_that_disconnects_is_charged_for_the_output_so_far():
    upstream = UpstreamAnswer(headers=SSE_HEADERS, body=[event("abcd"), event("efgh"), event("ijkl"), END])
    book = Playbook(snapshot(), [upstream])
    book.caller_stream.disconnect_after_bytes = 1
    with pytest.raises(CallerDisconnected):
        await book.ask(STREAM)
    assert upstream.closed
    (entry,) = book.ledger_entries
    assert (entry.outcome, entry.usage_basis, entry.output_tokens) == ("cancelled", "estimated", 2)
    assert book.budget_accounts.open_holds == 0


async def test_a_cancelled_stream_is_settled_exactly_once():
    reading = asyncio.Event()

    class Silent(UpstreamAnswer):
        async def read_chunk(self) -> bytes:
            reading.set()
            await asyncio.Event().wait()
            return b""

    book = Playbook(snapshot(), [Silent(headers=SSE_HEADERS)])
    task = asyncio.ensure_future(book.ask(STREAM))
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert book.events[-2:] == ["settle", "entry cancelled"]
    assert book.budget_accounts.open_holds == 0


@pytest.mark.parametrize(
    "body, basis",
    [(b"<html>", "none"), (b"\xff\xfe", "none"), (b"[1]", "none"), (b"", "none"), (b'{"choices": [', "estimated")],
    ids=["html", "not utf-8", "a list", "nothing", "an object that broke off"],
)
async def test_an_invalid_provider_response_is_a_502(body, basis):
    book = Playbook(snapshot(), [answers(body), answers(body), answers(body)])
    answer = await book.ask(EASY.replace(b"auto", b"small"))
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] == "upstream_invalid_response"
    assert book.ledger_entries[-1].usage_basis == basis


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": "9"},
        7,
    ],
)
async def test_missing_or_invalid_usage_is_estimated(usage):
    body = json.dumps({"choices": [{"message": {"content": "x" * 400}}], "usage": usage}).encode()
    book = Playbook(snapshot(), [answers(body)])
    await book.ask(EASY)
    (entry,) = book.ledger_entries
    assert (entry.usage_basis, entry.output_tokens) == ("estimated", 100)
    assert entry.input_tokens > 0


@pytest.mark.parametrize(
    "usage, tokens",
    [
        ({"prompt_tokens": 5000}, (5000, 100)),
        ({"prompt_tokens": 5000, "completion_tokens": 0}, (5000, 100)),
    ],
    ids=["no output", "an output of zero"],
)
async def test_an_output_that_is_not_reported_is_estimated_beside_the_reported_input(usage, tokens):
    body = json.dumps({"choices": [{"message": {"content": "x" * 400}}], "usage": usage}).encode()
    stream = (
        event("x" * 400) + event("") + b'data: {"choices":[],"usage":' + json.dumps(usage).encode() + b"}\n\n" + DONE
    )
    for request, upstream in ((EASY, answers(body)), (STREAM, UpstreamAnswer(headers=SSE_HEADERS, body=[stream]))):
        book = Playbook(snapshot(), [upstream])
        await book.ask(request)
        (entry,) = book.ledger_entries
        assert (entry.usage_basis, entry.input_tokens, entry.output_tokens) == ("estimated", *tokens)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_estimated_output_is_no_longer_than_the_limit_of_the_request(stream):
    text = (
        event("x" * 999) + DONE if stream else json.dumps({"choices": [{"message": {"content": "x" * 999}}]}).encode()
    )
    book = Playbook(snapshot(), [UpstreamAnswer(headers=SSE_HEADERS, body=[text]) if stream else answers(text)])
    await book.ask(json.dumps({**json.loads(EASY), "stream": stream}).encode())
    (entry,) = book.ledger_entries
    assert (entry.usage_basis, entry.output_tokens) == ("estimated", 100)
    assert entry.charge_nusd <= entry.hold_nusd, "a worst case that covers whatever is charged"


ANTHROPIC = BASE_CONFIG.replace("near: {{base_url", "near: {{dialect: anthropic, base_url")
OPENING = {"input_tokens": 5000, "output_tokens": 1}


def message_events(*texts: str, reason: str = "end_turn", **usage: int) -> bytes:
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}} for t in texts]
    events = [
        {"type": "message_start", "message": {"id": "m", "usage": OPENING}},
        *(
            [{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}]
            if texts
            else []
        ),
        *deltas,
        {"type": "message_delta", "delta": {"stop_reason": reason}, **({"usage": usage} if usage else {})},
        {"type": "message_stop"},
    ]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


@pytest.mark.parametrize(
    "body, expected",
    [
        (message_events("x" * 400, output_tokens=90), ("exact", 5000, 90)),
        (message_events("x" * 400), ("estimated", 5000, 100)),
        (message_events("x" * 400, output_tokens=0), ("estimated", 5000, 100)),
        (message_events(reason="refusal", output_tokens=5), ("none", 0, 0)),
    ],
    ids=["a reported output", "the opening placeholder alone", "an output of zero", "refused before any output"],
)
async def test_the_output_of_a_messages_stream_is_reported_or_estimated(body, expected):
    book = Playbook(snapshot(config=ANTHROPIC), [UpstreamAnswer(headers=SSE_HEADERS, body=[body])])
    await book.ask(STREAM.replace(b"auto", b"small")[:-1] + b', "stream_options": {"include_usage": true}}')
    entry = book.ledger_entries[-1]
    assert (entry.usage_basis, entry.input_tokens, entry.output_tokens) == expected
    shown = json.loads(book.caller_stream.written.split(b"data: ")[-2])["usage"]
    assert (shown["prompt_tokens"], shown["completion_tokens"]) == expected[1:]


@pytest.mark.parametrize("chars", [400, 999])
@pytest.mark.parametrize("usage", [None, {"input_tokens": 5000}], ids=["none", "the input alone"])
async def test_a_translated_caller_sees_the_estimate_that_is_booked(usage, chars):
    answer = {
        "type": "message",
        "content": [{"type": "text", "text": "x" * chars}],
        "stop_reason": "end_turn",
        "usage": usage,
    }
    book = Playbook(snapshot(config=ANTHROPIC), [answers(json.dumps(answer).encode())])
    body = json.loads((await book.ask(EASY.replace(b"auto", b"small"))).body)
    (entry,) = book.ledger_entries
    assert (entry.usage_basis, entry.output_tokens) == ("estimated", 100)
    assert body["choices"][0]["message"]["content"] == "x" * chars
    assert body["usage"]["prompt_tokens"] == entry.input_tokens > 0
    assert body["usage"]["completion_tokens"] == entry.output_tokens


async def test_calls_within_a_request_are_booked_and_shown_to_the_caller():
    """The counts of a recorded compaction: pydantic/pydantic-ai, test_anthropic_compaction_end_to_end, 2026-08-22."""
    usage = {
        "input_tokens": 220, "output_tokens": 8,
        "iterations": [
            {"type": "compaction", "input_tokens": 55196, "output_tokens": 125},
            {"type": "message", "input_tokens": 220, "output_tokens": 8},
        ],
    }  # fmt: skip
    answer = {"type": "message", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": usage}
    book = Playbook(snapshot(config=ANTHROPIC), [answers(json.dumps(answer).encode())])
    shown = json.loads((await book.ask(EASY.replace(b"auto", b"small"))).body)["usage"]
    (entry,) = book.ledger_entries
    assert (entry.input_tokens, entry.output_tokens, entry.usage_basis) == (55416, 133, "exact")
    assert (shown["prompt_tokens"], shown["completion_tokens"]) == (55416, 133)


async def test_a_full_disk_stops_the_call_before_it_is_dialed():
    book = Playbook(snapshot(), [answers()], disk_full=True)
    with pytest.raises(Overloaded):
        await book.ask(EASY)
    assert book.events == ["reserve", "void"]
    assert book.budget_accounts.open_holds == 0


async def test_an_unknown_model_is_not_found():
    with pytest.raises(NotFound) as refused:
        await Playbook(snapshot(), []).ask(EASY.replace(b"auto", b"gpt-99"))
    assert refused.value.code == "model_not_found"


BUDGET = "budgets: {{day: {{scope: {{team: research}}, limit: {{{limit}}}, window: day}}}}"


async def test_a_budget_refuses_before_dialing_and_states_its_limit():
    book = Playbook(snapshot(more=BUDGET.format(limit="usd: 0.0001")), [])
    answer = await book.ask(EASY)
    assert book.events == ["reserve", "entry refused"]
    assert (answer.status, answer.headers["x-should-retry"]) == (400, "false")
    error_body = json.loads(answer.body)["error"]
    assert error_body["code"] == "budget_exceeded"
    assert error_body["details"]["limit"] == 0.0001
    assert "It resets in" in error_body["message"]


async def test_a_budget_too_tight_for_frontier_falls_back_to_small():
    hard = json.dumps({"model": "auto", "max_tokens": 1000, "messages": [{"role": "user", "content": "prove the theorem, derive why, optimize the algorithm design"}]}).encode()  # fmt: skip
    book = Playbook(snapshot(more=BUDGET.format(limit="usd: 0.004")), [answers()])
    answer = await book.ask(hard)
    assert answer.headers["x-penstock-deployment"] == "small"
    assert "below frontier" in answer.headers["x-penstock-reason"]


@pytest.mark.parametrize("limit", ["wh: 0.0001", "calls: 0"])
async def test_energy_and_calls_are_limits_too(limit):
    answer = await Playbook(snapshot(more=BUDGET.format(limit=limit)), []).ask(EASY)
    assert json.loads(answer.body)["error"]["code"] == "budget_exceeded"


class OverlappingCalls(Playbook):
    """No provider answers before all of the expected requests have tried to reserve."""

    def __init__(self, snapshot: Snapshot, provider: Sequence[UpstreamAnswer], *, requests: int) -> None:
        super().__init__(snapshot, provider)
        self._requests_expected = requests
        self._all_reserved = asyncio.Event()

    async def reserve(self, *args: Any, **keywords: Any) -> Reservation | BudgetExceeded:
        reserved = await super().reserve(*args, **keywords)
        if self.events.count("reserve") == self._requests_expected:
            self._all_reserved.set()
        return reserved

    async def dial(self, call: UpstreamCall) -> UpstreamAnswer:
        await self._all_reserved.wait()
        return await super().dial(call)


async def test_concurrent_calls_cannot_exceed_a_budget():
    # Each call may take up to 0.00042 USD; only two fit into 0.001.
    start = snapshot(more=BUDGET.format(limit="usd: 0.001"))
    book = OverlappingCalls(start, [answers() for _ in range(20)], requests=20)
    results = await asyncio.gather(*(book.ask(EASY) for _ in range(20)))
    assert sum(answer.status == 200 for answer in results) <= 4
    assert sum(entry.charge_nusd for entry in book.ledger_entries) <= 1_000_000


async def test_caps_apply_per_session():
    more = "sessions: {caps: {calls: 2}}"
    book = Playbook(snapshot(more=more), [answers() for _ in range(5)])
    statuses = [(await book.ask(EASY, session="run-1")).status for _ in range(3)]
    assert statuses == [200, 200, 400]
    assert (await book.ask(EASY, session="run-2")).status == 200
    assert book.ledger_entries[2].code == "cap_exceeded"


# Without max_tokens the worst case at the frontier model is 4,000 tokens: 0.04 USD.
HARD = json.dumps({"model": "frontier", "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "hints",
    [
        pytest.param([{}] * 8, id="of one agent"),
        pytest.param([{"sub_agent": f"a{number}"} for number in range(8)], id="of eight sub-agents"),
        pytest.param([{"caps_text": "usd=0.3"}] * 8, id="of a run with a cap of its own"),
    ],
)
async def test_eight_parallel_calls_without_an_output_limit_fit_a_session_cap(hints, stream):
    # Eight usual cases of 3,000 tokens are 0.24 USD, eight worst cases 0.32.
    start = snapshot(more="sessions: {caps: {usd: 0.3}}")
    served = [UpstreamAnswer(headers=SSE_HEADERS, body=[event("hi"), END]) if stream else answers() for _ in hints]
    book = OverlappingCalls(start, served, requests=8)
    body = json.dumps({**json.loads(HARD), "stream": stream}).encode()
    results = await asyncio.gather(*(book.ask(body, session="run", session_source="x", **hint) for hint in hints))
    assert [answer.status for answer in results] == [200] * 8
    assert sum(entry.charge_nusd for entry in book.ledger_entries) < 10_000_000


@pytest.mark.parametrize("limit", ["usd: 0.1", "tokens: 8500", "calls: 2", "wh: 5.5"])
async def test_parallel_calls_that_a_cap_does_not_hold_are_asked_to_retry_and_then_served(limit):
    start = snapshot(more=f"sessions: {{caps: {{{limit}}}, hold: worst_case}}")
    book = OverlappingCalls(start, [answers() for _ in range(8)], requests=8)
    results = await asyncio.gather(*(book.ask(HARD, session="run", session_source="x") for _ in range(4)))
    assert [answer.status for answer in results] == [200, 200, 429, 429]
    for refused in results[2:]:
        error = json.loads(refused.body)["error"]
        assert error["code"] == "budget_held" and refused.headers["retry-after"] in ("1", "2")
        assert "held by calls in flight: 0 " in error["message"]
    again = await book.ask(HARD, session="run", session_source="x")
    assert again.status == (400 if limit.startswith("calls") else 200)


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("output", [10, 3000, 4000])
async def test_a_cap_is_passed_by_no_more_than_what_calls_in_flight_take_beyond_their_holds(limit, output):
    usage = {"prompt_tokens": 20, "completion_tokens": output}
    body = json.dumps({"choices": [{"message": {"content": "hi"}}], "usage": usage}).encode()
    start = snapshot(more=f"sessions: {{caps: {{usd: {limit}}}}}")
    book = OverlappingCalls(start, [answers(body) for _ in range(40)], requests=8)
    for _ in range(4):
        before = len(book.ledger_entries)
        await asyncio.gather(*(book.ask(HARD, session="run", session_source="x") for _ in range(8)))
        last = book.ledger_entries[before:]
        spent = sum(entry.charge_nusd for entry in book.ledger_entries)
        allowed = sum(max(0, entry.charge_nusd - entry.hold_nusd) for entry in last)
        assert spent <= limit * 1e9 + allowed, "what each call in flight takes beyond its hold"
        if spent >= limit * 1e9:
            answer = await book.ask(HARD, session="run", session_source="x")
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "cap_exceeded")
            break


async def test_a_refusal_for_held_amounts_has_the_shape_of_messages():
    book = Playbook(snapshot(more="budgets: {b: {limit: {calls: 1}, window: day}}"), [])
    book.hold("other", 1)
    request = messages.parse(b'{"model":"small","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}')
    answer = await book.pipeline.serve(request, CALLER, HeaderHints(), book.caller_stream)
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "budget_held")


async def test_eight_parallel_calls_pass_the_example_for_users():
    env = {"PENSTOCK_KEY_MY_AGENT": "secret-of-my-agent", "OPENAI_API_KEY": "provider-secret"}
    start = parse((ROOT / "config/routing.yaml").read_text(), "routing.yaml", env)[0]
    book = OverlappingCalls(start, [answers() for _ in range(8)], requests=8)
    body = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}]}).encode()
    caller = Caller(key="my-agent", team="my-team")
    results = await asyncio.gather(*(book.ask(body, caller, session="run", session_source="x") for _ in range(8)))
    assert [answer.status for answer in results] == [200] * 8


async def test_a_session_is_refused_after_its_time_cap():
    book = Playbook(snapshot(more="sessions: {caps: {minutes: 10}}"), [answers(), answers()])
    await book.ask(EASY, session="run-1")
    book.clock.seconds += 601
    answer = await book.ask(EASY, session="run-1")
    assert json.loads(answer.body)["error"]["code"] == "session_time_exceeded"


def looping(turns: int) -> bytes:
    call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
    history: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for _ in range(turns):
        history += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "no"}]
    return json.dumps({"model": "auto", "messages": history}).encode()


async def test_a_loop_is_warned_and_then_stopped():
    book = Playbook(snapshot(more="loop_guard: {warn_at: 2, stop_at: 4}"), [answers() for _ in range(9)])
    answers_by_turn = [await book.ask(looping(turns), session="run-1") for turns in range(1, 7)]
    assert [answer.status for answer in answers_by_turn] == [200, 200, 200, 200, 400, 400]
    assert [answer.headers.get("x-penstock-loop", "")[:4] for answer in answers_by_turn] == [
        "",
        "",
        "warn",
        "warn",
        "stop",
        "stop",
    ]
    assert json.loads(answers_by_turn[-1].body)["error"]["code"] == "loop_stopped"


async def test_in_shadow_mode_a_loop_is_only_reported():
    book = Playbook(snapshot(more="loop_guard: {mode: shadow, warn_at: 2, stop_at: 4}"), [answers() for _ in range(9)])
    answers_by_turn = [await book.ask(looping(turns), session="run-1") for turns in range(1, 8)]
    assert {answer.status for answer in answers_by_turn} == {200}
    assert answers_by_turn[-1].headers["x-penstock-loop"].startswith("stop")


async def test_an_unpriced_deployment_serves_where_no_cost_budget_applies():
    text = "price: {input: 0.25, output: 2, cached_input: 0.025}"
    raw = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1").replace(f" {text},", "")
    book = Playbook(parse(raw, "t", ENV)[0], [answers()])
    answer = await book.ask(EASY.replace(b"auto", b"small"))
    assert answer.headers["x-penstock-cost-usd"] == "unpriced"
    assert (book.ledger_entries[0].priced, book.ledger_entries[0].charge_nusd) == (0, 0)


async def test_the_ledger_names_the_snapshot_of_the_request():
    book = Playbook(snapshot(), [answers()])
    await book.ask(EASY)
    assert book.ledger_entries[0].config_hash == snapshot().generation


async def test_a_hold_with_an_expired_lease_still_leaves_its_entry():
    class Slow(UpstreamAnswer):
        async def read_chunk(self) -> bytes:
            book.clock.seconds += 10_000
            book.budget_accounts.expire(book.clock.seconds)
            return await UpstreamAnswer.read_chunk(self)

    book = Playbook(snapshot(), [Slow(body=[WHOLE])])
    answer = await book.ask(EASY)
    assert answer.status == 200
    assert [entry.outcome for entry in book.ledger_entries] == ["completed"]


async def test_a_lease_outlasts_the_slowest_deployment_of_the_plan():
    book = Playbook(snapshot(small=", timeouts: {total: 5}"), [answers()])
    await book.ask(json.dumps({"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "prove the theorem, derive why, optimize the algorithm design"}]}).encode())  # fmt: skip
    assert book.leases[0] > 600


async def test_a_caller_that_disconnects_between_attempts_leaves_one_final_entry():
    book = Playbook(snapshot(), [error(status=503)])

    async def cancelled_sleep(_: float) -> None:
        raise asyncio.CancelledError

    book.clock.on_sleep = cancelled_sleep
    with pytest.raises(asyncio.CancelledError):
        await book.ask(EASY.replace(b"auto", b"small"))
    assert [(entry.outcome, entry.final) for entry in book.ledger_entries] == [("upstream_error", 0), ("cancelled", 1)]


async def test_a_deployment_of_unknown_energy_is_refused_by_an_energy_budget():
    raw = BASE_CONFIG.format(more=BUDGET.format(limit="wh: 100"), small="", near="http://a/v1", far="http://b/v1")
    book = Playbook(parse(raw.replace("energy: {active_params_b: 8},", ""), "t", ENV)[0], [])
    answer = await book.ask(EASY.replace(b"auto", b"small"))
    error = json.loads(answer.body)["error"]
    assert error["code"] == "energy_unknown"
    assert "Energy unknown: the size of model" in error["message"] and "Budget 'day' (Wh)" in error["message"]


def upstream_bodies(book: Playbook) -> list[dict]:
    return [json.loads(b"".join(call.body)) for call in book.upstream_calls]


async def test_a_loop_moves_the_rest_of_the_session_to_a_higher_tier():
    book = Playbook(
        snapshot(
            more="tiers: {small: {max_complexity: 0.5}}\nloop_guard: {warn_at: 1, nudge_at: null, tier_at: 2, stop_at: 6}"
        ),
        [answers() for _ in range(12)],
    )
    for turns in range(1, 6):
        await book.ask(looping(turns), session="run-1")
    # Four turns: one new result and three repeated ones.
    assert [call.deployment.name for call in book.upstream_calls] == [
        "small",
        "small",
        "frontier",
        "frontier",
        "frontier",
    ]
    assert "escalated by the loop guard" in book.ledger_entries[2].reason
    await book.ask(EASY, session="run-2")
    assert book.upstream_calls[-1].deployment.name == "small"


async def test_a_loop_may_move_the_session_to_a_lower_tier():
    loop_guard = "loop_guard: {warn_at: 1, nudge_at: null, tier_at: 2, tier_move: downgrade, stop_at: 6}"
    book = Playbook(snapshot(more=loop_guard), [answers() for _ in range(12)])
    for turns in range(1, 6):
        task = json.dumps("debug this function, then prove by induction why it terminates " * 20).encode()
        await book.ask(looping(turns).replace(b'"go"', task), session="run-1")
    names = [call.deployment.name for call in book.upstream_calls]
    assert names[:2] == ["frontier"] * 2 and names[2:] == ["small"] * 3


async def test_before_the_stop_one_turn_without_tools_may_be_requested():
    book = Playbook(
        snapshot(more="loop_guard: {warn_at: 1, nudge_at: 2, answer_at: 3, stop_at: 6}"), [answers() for _ in range(12)]
    )
    for turns in range(1, 6):
        body = json.loads(looping(turns)) | {"tools": [{"type": "function", "function": {"name": "bash"}}]}
        await book.ask(json.dumps(body).encode(), session="run-1")
    bodies = upstream_bodies(book)
    assert [body.get("tool_choice") for body in bodies] == [None, None, None, "none", None]
    assert [("[Gateway note" in body["messages"][-1]["content"]) for body in bodies] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert all(body["tools"] for body in bodies)
    assert [event.kind for event in book.session_events] == ["loop_warn", "loop_nudge", "loop_answer"]


async def test_a_rule_gives_a_route_its_own_ladder():
    loop_guard = "loop_guard: {warn_at: 1, stop_at: 2, rules: [{route: small, mode: shadow}]}"
    book = Playbook(snapshot(more=loop_guard), [answers() for _ in range(12)])
    small = [await book.ask(looping(turns).replace(b'"auto"', b'"small"'), session="run-1") for turns in range(1, 7)]
    assert {answer.status for answer in small} == {200}
    assert [event.was_enforced for event in book.session_events] == [False, False]
    auto = [await book.ask(looping(turns), session="run-2") for turns in range(1, 7)]
    assert auto[-1].status == 400


async def test_the_depth_of_a_session_tree_is_capped():
    book = Playbook(snapshot(more="sessions: {caps: {depth: 1}}"), [answers() for _ in range(12)])
    assert (await book.ask(EASY, session="root")).status == 200
    assert (await book.ask(EASY, session="child", parent="root")).status == 200
    answer = await book.ask(EASY, session="grandchild", parent="child")
    assert json.loads(answer.body)["error"]["code"] == "depth_exceeded"


async def test_each_session_of_a_tree_has_its_own_cap_in_addition_to_the_tree():
    book = Playbook(
        snapshot(more="sessions: {caps: {calls: 5}, caps_per_session: {calls: 2}}"), [answers() for _ in range(12)]
    )
    for name in ("root", "one", "two"):
        parent: dict[str, Any] = {} if name == "root" else {"parent": "root"}
        statuses = [(await book.ask(EASY, session=name, **parent)).status for _ in range(3)]
        # The five calls of the tree are used up before the last child has made two.
        assert statuses == ([200, 200, 400] if name != "two" else [200, 400, 400])


async def test_a_key_may_have_tighter_caps():
    text = BASE_CONFIG.replace("{{id: k1, team: research,", "{{id: k1, team: research, caps: {{calls: 1}},")
    raw = text.format(more="sessions: {caps: {calls: 3}}", small="", near="http://a/v1", far="http://b/v1")
    book = Playbook(parse(raw, "t", ENV)[0], [answers() for _ in range(12)])
    assert [(await book.ask(EASY, session="s")).status for _ in range(2)] == [200, 400]
    other = Caller(key="k2", team="sales")
    assert [(await book.ask(EASY, other, session="s")).status for _ in range(4)] == [200, 200, 200, 400]


async def test_a_caps_header_may_cap_energy_and_tokens():
    book = Playbook(snapshot(), [answers() for _ in range(12)])
    assert (await book.ask(EASY, session="a", caps_text="tokens=10")).status == 400
    assert (await book.ask(EASY, session="b", caps_text="wh=0.000001")).status == 400
    assert (await book.ask(EASY, session="c", caps_text="tokens=100000, wh=100")).status == 200


REJECTED_ANSWER = json.dumps(
    {"choices": [{"message": {"content": "I'm sorry, but I can't help."}}], "usage": USAGE}
).encode()
PLAIN = EASY.replace(b', "max_tokens": 100', b"")
CASCADE = "cascade: {mode: enforce}"


async def test_an_answer_that_fails_verification_is_settled_before_the_next_tier_is_reserved():
    book = Playbook(snapshot(more=CASCADE), [answers(REJECTED_ANSWER), answers()])
    answer = await book.ask(PLAIN)
    assert answer.body == WHOLE
    assert book.events == [
        "reserve", "hold", "dial small", "settle", "entry completed",
        "reserve", "hold", "dial frontier", "settle", "entry completed",
    ]  # fmt: skip
    assert [(entry.final, entry.code) for entry in book.ledger_entries] == [(0, "escalated"), (1, "")]
    assert book.budget_accounts.open_holds == 0


@pytest.mark.parametrize("end", ["caller disconnected", "broken", "unreachable"])
async def test_however_an_escalation_ends_it_leaves_one_final_entry_and_no_hold(end):
    responses: dict[str, UpstreamAnswer | UpstreamError] = {
        "caller disconnected": UpstreamAnswer(
            headers={"Content-Type": "application/json"}, body=[CallerDisconnected("gone")]
        ),
        "broken": UpstreamAnswer(headers={"Content-Type": "application/json"}, body=[BrokenResponse("broken")]),
        "unreachable": Unreachable("down"),
    }
    response = responses[end]
    book = Playbook(snapshot(more=CASCADE), [answers(REJECTED_ANSWER), response, response, response])
    if end == "caller disconnected":
        with pytest.raises(CallerDisconnected):
            await book.ask(PLAIN)
        assert book.ledger_entries[-1].outcome == "cancelled"
    else:
        answer = await book.ask(PLAIN)
        assert answer.body == REJECTED_ANSWER
        assert book.ledger_entries[-1].code == "escalation_failed"
    assert sum(entry.final for entry in book.ledger_entries) == 1
    assert book.budget_accounts.open_holds == 0


async def test_without_budget_for_the_next_tier_the_first_answer_is_returned():
    more = CASCADE + "\nbudgets: {calls: {limit: {calls: 1}, window: day}}"
    book = Playbook(snapshot(more=more), [answers(REJECTED_ANSWER), answers()])
    answer = await book.ask(PLAIN)
    assert (answer.status, answer.body) == (200, REJECTED_ANSWER)
    assert [(entry.final, entry.code) for entry in book.ledger_entries] == [(0, "escalated"), (1, "escalation_failed")]


async def test_when_the_budget_store_fails_the_first_answer_is_returned():
    book = Playbook(snapshot(more=CASCADE), [answers(REJECTED_ANSWER), answers()], reservations_max=1)
    answer = await book.ask(PLAIN)
    assert (answer.status, answer.body) == (200, REJECTED_ANSWER)
    assert [(entry.final, entry.code) for entry in book.ledger_entries] == [(0, "escalated"), (1, "escalation_failed")]


_TIERS = """
routes:
  auto: {{candidates: [small, frontier], auto: true}}
  small: {{candidates: [small], service_tiers: {tiers}}}
  frontier: {{candidates: [frontier]}}
"""


def asking_for(**fields: Any) -> bytes:
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, **fields}
    return json.dumps(body).encode()


def with_tiers(tiers: str, more: str = "") -> Snapshot:
    head, _, rest = BASE_CONFIG.partition("routes:")
    tail = rest.partition("task_types:")[2]
    routes = _TIERS.replace("{tiers}", tiers.replace("{", "{{").replace("}", "}}"))
    return snapshot(config=f"{head}{routes}task_types:{tail}", more=more)


async def test_a_tier_without_a_price_is_taken_out_of_the_body():
    book = Playbook(snapshot(), [answers()])
    answer = await book.ask(asking_for(service_tier="priority", seed=7))
    assert answer.headers["x-penstock-dropped"] == "service_tier"
    (call,) = book.upstream_calls
    sent = json.loads(b"".join(call.body))
    assert "service_tier" not in sent and sent["seed"] == 7


async def test_a_tier_that_the_route_refuses_ends_the_request():
    book = Playbook(with_tiers("{priority: refuse}"), [])
    answer = await book.ask(asking_for(service_tier="fast"))
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "service_tier_not_allowed", "service_tier")
    assert [entry.code for entry in book.ledger_entries] == ["service_tier_not_allowed"]


async def test_an_allowed_tier_without_a_price_is_refused_by_a_money_budget():
    book = Playbook(with_tiers("{priority: allow}", BUDGET.format(limit="usd: 500")), [])
    answer = await book.ask(asking_for(service_tier="priority"))
    error = json.loads(answer.body)["error"]
    assert error["code"] == "unpriced"
    assert error["message"].startswith("Unpriced: no price of priority at 'small'. Budget 'day' (USD)")
    assert error["details"]["remaining"] == 500


async def test_an_allowed_tier_without_a_price_reaches_the_provider_where_no_budget_counts_money():
    book = Playbook(with_tiers("{priority: allow}"), [answers()])
    answer = await book.ask(asking_for(service_tier="priority"))
    assert answer.status == 200 and "x-penstock-dropped" not in answer.headers
    (call,) = book.upstream_calls
    assert json.loads(b"".join(call.body))["service_tier"] == "priority"
