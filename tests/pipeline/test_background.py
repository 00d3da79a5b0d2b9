"""Background responses: charged as held until their end reports the usage, which is booked once."""

import json
from typing import Any

import pytest

from gateway.dialects import responses
from gateway.simulator.playbook import CALLER, SSE_HEADERS, Playbook, UpstreamAnswer
from gateway.values.errors import BrokenResponse, CallerDisconnected
from gateway.values.request import HeaderHints
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
