"""Background responses: charged as held until their end reports the usage, which is booked once."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.dialects import passthrough, responses
from gateway.dialects.stored_objects import ResponseEnd
from gateway.pipeline import background
from gateway.sessions import caps, ladder
from gateway.simulator.playbook import CALLER, SSE_HEADERS, Playbook, UpstreamAnswer
from gateway.values.errors import BrokenResponse, CallerDisconnected, NotFound
from gateway.values.request import Caller, HeaderHints
from tests.snapshots import snapshot

# Shapes as OpenAI's API sends them (cassettes of pydantic-ai, test_background_mode_*, February 2026): `usage` is null
# until the end, and a stream opens with response.created, response.queued and response.in_progress.
USAGE = {
    "input_tokens": 15, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 24,
}  # fmt: skip
# At the prices of `small`: 15 * 0.25 + 9 * 2 dollars per million.
CHARGE_NUSD = 21_750


def response(status: str, usage: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "status": status, "background": True, "error": None, "output": [],
        "usage": usage, **more,
    }  # fmt: skip


def event(kind: str, number: int, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': number, **fields})}\n\n".encode()


OPENING = [
    event("response.created", 0, response=response("queued")),
    event("response.queued", 1, response=response("queued")),
    event("response.in_progress", 2, response=response("in_progress")),
]
WORDS = event("response.output_text.delta", 3, item_id="msg_1", output_index=0, content_index=0, delta="4")


async def ask(book: Playbook, *, stream: bool = False) -> Any:
    body = json.dumps({"model": "small", "input": "2 + 2?", "background": True, "stream": stream}).encode()
    return await book.pipeline.serve(responses.parse(body), CALLER, HeaderHints(), book.caller_stream)


@pytest.mark.parametrize(
    "kind, status",
    [("response.completed", "completed"), ("response.incomplete", "incomplete"), ("response.failed", "failed")],
)
async def test_a_background_stream_whose_end_reports_usage_is_charged_exactly(kind, status):
    end = event(kind, 4, response=response(status, USAGE))
    book = Playbook(snapshot(), [UpstreamAnswer(headers=SSE_HEADERS, body=[*OPENING, WORDS, end])])
    await ask(book, stream=True)
    entry = book.ledger_entries[-1]
    assert (entry.usage_basis, entry.charge_nusd, entry.output_tokens) == ("exact", CHARGE_NUSD, 9)


async def test_a_background_stream_that_breaks_off_is_charged_as_held():
    body: list[bytes | Exception] = [*OPENING, WORDS, BrokenResponse("connection reset")]
    book = Playbook(snapshot(), [UpstreamAnswer(headers=SSE_HEADERS, body=body)])
    await ask(book, stream=True)
    (entry,) = book.ledger_entries
    assert (entry.usage_basis, entry.charge_nusd) == ("estimated", entry.hold_nusd)


async def test_a_background_stream_whose_caller_disconnects_is_charged_as_held():
    book = Playbook(snapshot(), [UpstreamAnswer(headers=SSE_HEADERS, body=[*OPENING, WORDS, WORDS])])
    book.caller_stream.disconnect_after_bytes = 1
    with pytest.raises(CallerDisconnected):
        await ask(book, stream=True)
    (entry,) = book.ledger_entries
    assert (entry.outcome, entry.charge_nusd) == ("cancelled", entry.hold_nusd)


async def test_a_queued_background_response_is_charged_as_held():
    book = Playbook(snapshot(), [UpstreamAnswer(body=[json.dumps(response("queued")).encode()])])
    await ask(book)
    (entry,) = book.ledger_entries
    assert (entry.outcome, entry.usage_basis, entry.charge_nusd) == ("completed", "estimated", entry.hold_nusd)


async def test_a_background_response_that_ends_at_once_is_charged_exactly():
    book = Playbook(snapshot(), [UpstreamAnswer(body=[json.dumps(response("completed", USAGE)).encode()])])
    await ask(book)
    assert (book.ledger_entries[0].usage_basis, book.ledger_entries[0].charge_nusd) == ("exact", CHARGE_NUSD)


async def poll(book: Playbook, answer: bytes | UpstreamAnswer, path: str = "/responses/resp_1", **caller: Any) -> Any:
    book.upstream_script.append(answer if isinstance(answer, UpstreamAnswer) else UpstreamAnswer(body=[answer]))
    request = passthrough.parse("POST" if path.endswith("/cancel") else "GET", path, "", b"", "openai")
    return await book.pipeline.serve(request, Caller(**{"key": "k1", "team": "research", **caller}), HeaderHints(), book.caller_stream)  # fmt: skip


async def started_book(config: str = "") -> Playbook:
    """A playbook with a background response that was charged as held."""
    book = Playbook(snapshot(more=config), [UpstreamAnswer(body=[json.dumps(response("queued")).encode()])])
    await ask(book)
    return book


@pytest.mark.parametrize(
    "status, usage, charge",
    [
        ("completed", USAGE, CHARGE_NUSD),
        ("incomplete", USAGE, CHARGE_NUSD),
        ("cancelled", USAGE, CHARGE_NUSD),
        ("failed", USAGE, CHARGE_NUSD),
        ("failed", None, 0),
        ("cancelled", None, None),
        ("completed", None, None),
        ("in_progress", USAGE, None),
    ],
    ids=[
        "completed", "cut at its limit", "cancelled with usage", "failed with usage", "failed without usage costs nothing",
        "cancelled without usage stays as held", "without usage stays as held", "not ended",
    ],
)  # fmt: skip
async def test_the_end_of_a_response_decides_what_it_costs(status, usage, charge):
    book = await started_book("budgets: {money: {limit: {usd: 1}, window: day}}")
    held = book.ledger_entries[0].charge_nusd
    (line,) = book.budget_lines()
    for path in ("/responses/resp_1", "/responses/resp_1/cancel", "/responses/resp_1"):
        await poll(book, json.dumps(response(status, usage)).encode(), path)
    expected = held if charge is None else charge
    assert book.budget_accounts.balance(line, now=book.clock.seconds)[0] == expected
    assert sum(entry.charge_nusd for entry in book.ledger_entries) == expected
    corrections = [entry for entry in book.ledger_entries if entry.outcome == "corrected"]
    assert len(corrections) == (0 if charge is None else 1)


async def test_the_caps_of_the_session_get_the_difference_back():
    book = await started_book("sessions: {caps: {usd: 1}, caps_per_session: {tokens: 100000}}")
    (original,) = book.ledger_entries
    session = book.sessions.get("k1", original.session)
    assert session is not None
    session.own_caps = caps.parse_caps({"usd": 0.5})
    await poll(book, json.dumps(response("completed", USAGE)).encode())
    lines = {
        line.name: line for line in caps.lines_at(book.snapshot.default_caps, session, "k1", now=book.clock.seconds)
    }
    spent = {name: book.budget_accounts.balance(line, now=book.clock.seconds)[0] for name, line in lines.items()}
    assert spent == {"session-usd": CHARGE_NUSD, "each-tokens": 24, "run-usd": 0}, "own caps were set later: no account"
    assert session.charge_nusd == CHARGE_NUSD


async def test_a_correction_has_the_time_and_the_groups_of_the_response():
    book = await started_book()
    (original,) = book.ledger_entries
    book.clock.seconds += 3600
    await poll(book, json.dumps(response("completed", USAGE)).encode())
    correction = next(entry for entry in book.ledger_entries if entry.outcome == "corrected")
    same = (
        "at_ms",
        "window_ms",
        "duration_ms",
        "key",
        "team",
        "session",
        "route",
        "deployment",
        "task_type",
        "request_id",
    )
    assert [getattr(correction, name) for name in same] == [getattr(original, name) for name in same]
    assert (correction.id, correction.final, correction.usage_basis) == (f"{original.id}.usage", 0, "exact")
    for name, value in (("input_tokens", 15), ("output_tokens", 9), ("charge_nusd", CHARGE_NUSD)):
        assert getattr(original, name) + getattr(correction, name) == value
    assert original.energy_mj_mid + correction.energy_mj_mid > 0
    assert book.sessions.session_count == 1


async def test_another_responses_end_is_not_booked():
    book = await started_book()
    await poll(book, json.dumps({**response("completed", USAGE), "id": "resp_2"}).encode())
    await poll(book, json.dumps({**response("completed", USAGE), "object": "list"}).encode())
    assert not [entry for entry in book.ledger_entries if entry.outcome == "corrected"]


async def test_an_end_that_is_read_while_its_own_stream_is_open_is_booked_when_that_breaks_off():
    book = Playbook(snapshot(), [])
    end = json.dumps(response("completed", USAGE)).encode()

    class Polled(UpstreamAnswer):
        """Its stream is read elsewhere to the end before it breaks off."""

        async def read_chunk(self) -> bytes:
            if len(self.body) == 1:
                await poll(book, end)
            return await super().read_chunk()

    book.upstream_script.append(Polled(headers=SSE_HEADERS, body=[*OPENING, BrokenResponse("reset")]))
    await ask(book, stream=True)
    assert [entry.outcome for entry in book.ledger_entries] == ["completed", "cut", "corrected"]
    assert sum(entry.charge_nusd for entry in book.ledger_entries) == CHARGE_NUSD
    await poll(book, end)
    assert sum(entry.charge_nusd for entry in book.ledger_entries) == CHARGE_NUSD


async def test_a_stream_that_reports_the_end_is_booked_though_its_reader_disconnects():
    book = await started_book()
    end = event("response.completed", 4, response=response("completed", USAGE))
    book.caller_stream.disconnect_after_bytes = 1
    with pytest.raises(CallerDisconnected):
        await poll(book, UpstreamAnswer(headers=SSE_HEADERS, body=[OPENING[0], end]), "/responses/resp_1?stream=true")
    assert sum(entry.charge_nusd for entry in book.ledger_entries) == CHARGE_NUSD


async def test_the_stream_of_a_failed_response_is_no_failed_attempt():
    book = await started_book()
    end = event("response.failed", 4, response=response("failed", error={"code": "server_error", "message": "no"}))
    await poll(book, UpstreamAnswer(headers=SSE_HEADERS, body=[OPENING[0] + end]), "/responses/resp_1?stream=true")
    assert book.caller_stream.written == OPENING[0] + end
    assert [entry.outcome for entry in book.ledger_entries] == ["completed", "completed", "corrected"]
    assert sum(entry.charge_nusd for entry in book.ledger_entries) == 0


async def test_the_opening_of_a_background_stream_is_sent_at_once_and_never_asked_for_twice():
    upstream = UpstreamAnswer(headers=SSE_HEADERS, body=[OPENING[0], BrokenResponse("reset")])
    book = Playbook(snapshot(), [upstream])
    body = json.dumps({"model": "auto", "input": "x", "background": True, "stream": True}).encode()
    await book.pipeline.serve(responses.parse(body), CALLER, HeaderHints(), book.caller_stream)
    assert len(book.upstream_calls) == 1
    assert book.caller_stream.written.startswith(OPENING[0])
    assert b"response.failed" not in book.caller_stream.written, "the response has not failed"
    assert [entry.outcome for entry in book.ledger_entries] == ["cut"]


@pytest.mark.parametrize("fault", ["response.failed", "error"])
async def test_a_background_response_that_fails_at_once_may_be_served_by_another_deployment(fault):
    error = {"code": "server_error", "message": "no"}
    failed = OPENING[0] + event("response.failed", 1, response=response("failed", error=error))
    end = event("response.completed", 4, response=response("completed", USAGE))
    opening = event("error", 0, error=error) if fault == "error" else failed
    first = UpstreamAnswer(headers=SSE_HEADERS, body=[opening])
    book = Playbook(snapshot(), [first, UpstreamAnswer(headers=SSE_HEADERS, body=[OPENING[0], end])])
    body = json.dumps({"model": "auto", "input": "x", "background": True, "stream": True}).encode()
    await book.pipeline.serve(responses.parse(body), CALLER, HeaderHints(), book.caller_stream)
    assert book.caller_stream.written == OPENING[0] + end
    assert book.ledger_entries[0].charge_nusd == 0


async def test_a_poll_that_fails_leaves_the_session_and_the_charge_alone():
    book = await started_book()
    held, session = book.ledger_entries[0].charge_nusd, book.ledger_entries[0].session
    answer = await poll(book, UpstreamAnswer(status=404, body=[b'{"error":{"message":"gone"}}']))
    assert answer.status == 404
    assert [entry.session for entry in book.ledger_entries] == [session, session]
    assert sum(entry.charge_nusd for entry in book.ledger_entries) == held


async def test_the_poll_of_another_tenant_is_not_found():
    book = await started_book()
    for caller in ({"key": "k2"}, {"org": "other"}):
        with pytest.raises(NotFound):
            await poll(book, b"{}", **caller)


async def test_a_stopped_session_may_poll_and_cancel():
    book = await started_book()
    session = book.sessions.get("k1", book.ledger_entries[0].session)
    assert session is not None
    ladder.kill_session(session, id="x", at=book.clock.seconds, note="")
    answer = await poll(book, json.dumps(response("cancelled")).encode(), "/responses/resp_1/cancel")
    assert answer.status == 200


async def test_a_response_of_a_removed_deployment_stays_charged_as_held():
    book = await started_book()
    (original,) = book.ledger_entries
    others = {name: each for name, each in book.snapshot.deployments.items() if name != "small"}
    end = ResponseEnd(id="resp_1", status="completed", document=response("completed", USAGE))
    assert background.correction(replace(book.snapshot, deployments=others), original, end) is None
