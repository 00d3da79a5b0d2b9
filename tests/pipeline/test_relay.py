"""What becomes of a provider's answer: relayed, or a failed attempt that another deployment makes good."""

import json

import pytest

from gateway.dialects import responses
from gateway.simulator.playbook import CALLER, Playbook, Silence, UpstreamAnswer
from gateway.values.errors import BrokenResponse
from gateway.values.request import HeaderHints
from tests.snapshots import snapshot

EASY = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}).encode()
STREAM = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
WHOLE = json.dumps({"choices": [{"message": {"content": "hello there"}}], "usage": USAGE}).encode()
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
ERROR = b'data: {"error":{"message":"engine died","code":500}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n' + DONE


def answers(document: object, status: int = 200, **headers: str) -> UpstreamAnswer:
    body = json.dumps(document).encode()
    return UpstreamAnswer(status=status, headers={"Content-Type": "application/json", **headers}, body=[body])


def streams(*body: bytes | Exception | Silence, content_type: str = "text/event-stream") -> UpstreamAnswer:
    return UpstreamAnswer(headers={"Content-Type": content_type}, body=body)


def served() -> UpstreamAnswer:
    return UpstreamAnswer(headers={"Content-Type": "application/json"}, body=[WHOLE])


@pytest.mark.parametrize(
    "document, code",
    [
        ({"error": {"message": "Provider returned error", "code": 429}}, "provider_rate_limited"),
        ({"error": {"message": "no", "code": 401}}, "provider_account"),
        ({"error": {"message": "no", "code": 400}}, "provider_rejected"),
        ({"choices": None}, "upstream_error"),
        ({}, "upstream_error"),
        (
            [{"error": {"message": "Resource exhausted", "code": 429, "status": "RESOURCE_EXHAUSTED"}}],
            "provider_rate_limited",
        ),
        ("text", "upstream_invalid_response"),
        (None, "upstream_invalid_response"),
    ],
    ids=["rate limited", "our key", "rejected", "no choices", "nothing", "Google's list", "a text", "null"],
)
async def test_a_failure_under_status_200_is_free_and_the_next_deployment_serves(document, code):
    book = Playbook(snapshot(), [answers(document), served()])
    answer = await book.ask(EASY)
    assert answer.body == WHOLE
    first, second = book.ledger_entries
    assert (first.outcome, first.code, first.charge_nusd, first.usage_basis) == ("upstream_error", code, 0, "none")
    assert (second.outcome, second.deployment) == ("completed", "frontier")


async def test_the_words_of_a_failure_may_end_within_a_character():
    body = b'{"error":{"message":"half \\ud83d","code":503}}'
    failed = UpstreamAnswer(headers={"Content-Type": "application/json"}, body=[body])
    book = Playbook(snapshot(), [failed, served()])
    assert (await book.ask(EASY)).body == WHOLE
    assert book.ledger_entries[0].code == "upstream_error"


async def test_a_failure_that_reports_usage_is_charged_for_it():
    document = {"choices": [{"finish_reason": "error", "error": {"code": 502}}], "usage": {**USAGE, "completion_tokens": 0, "total_tokens": 20}}  # fmt: skip
    book = Playbook(snapshot(), [answers(document), served()])
    await book.ask(EASY)
    assert (book.ledger_entries[0].usage_basis, book.ledger_entries[0].input_tokens) == ("exact", 20)


@pytest.mark.parametrize(
    "document, status, code, words",
    [
        ({"error": {"message": "slow down", "code": 429}}, 429, "provider_rate_limited", "slow down"),
        ({"error": {"message": "died", "code": 503}}, 503, "upstream_error", "died"),
        ({"error": {"message": "too long", "code": "context_length_exceeded"}}, 400, "context_length_exceeded", "too"),
        (
            {"error": {"message": "no", "code": "unsupported_value", "param": "n", "type": "invalid_request_error"}},
            400,
            "unsupported_value",
            "no",
        ),
        ({}, 502, "upstream_error", "Provider"),
    ],
    ids=["429 by its number", "5xx by its number", "the provider's own code", "a field", "nothing"],
)
async def test_the_last_failure_under_status_200_is_an_error_of_the_caller_s_shape(document, status, code, words):
    book = Playbook(snapshot(), [answers(document), answers(document)])
    answer = await book.ask(EASY.replace(b"auto", b"small"))
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"]) == (status, code)
    assert words in error["message"]
    assert book.ledger_entries[-1].final == 1


async def test_failures_under_status_200_open_the_circuit_breaker():
    book = Playbook(snapshot(), [step for _ in range(5) for step in (answers({}), served())] + [served()])
    for _ in range(6):
        await book.ask(EASY)
    assert [call.deployment.name for call in book.upstream_calls][-1:] == ["frontier"]
    assert len(book.upstream_calls) == 11


OPENINGS = {
    "a comment": [b": PROCESSING\n\n"],
    "a role": [ROLE],
    "a comment and a role": [b": PROCESSING\n\n", ROLE],
    "nothing": [],
}


@pytest.mark.parametrize("name", OPENINGS)
@pytest.mark.parametrize(
    "ending",
    [
        ERROR,
        b'event: error\ndata: {"message":"engine died"}\n\n',
        b"event: error\ndata: engine died\n\n",
        DONE,
        b"",
        BrokenResponse("cut"),
    ],
    ids=["an error", "an error event", "an error in text", "only the end mark", "the end", "a lost connection"],
)
async def test_a_stream_that_fails_before_its_first_word_falls_back(name, ending):
    book = Playbook(snapshot(), [streams(*OPENINGS[name], ending), streams(WORD, END)])
    await book.ask(STREAM)
    assert book.caller_stream.written == WORD + END
    assert [entry.outcome for entry in book.ledger_entries] == ["upstream_error", "completed"]
    if not isinstance(ending, Exception):
        assert book.ledger_entries[0].charge_nusd == 0


async def test_an_opening_is_sent_with_the_first_word():
    book = Playbook(snapshot(), [streams(b": PROCESSING\n\n", ROLE, WORD, END)])
    await book.ask(STREAM)
    assert book.caller_stream.written == b": PROCESSING\n\n" + ROLE + WORD + END
    assert book.events.count("chunk") == 2


async def test_an_opening_is_held_back_for_a_limited_time_only():
    book = Playbook(snapshot(), [streams(ROLE, Silence(), ERROR), streams(WORD, END)])
    await book.ask(STREAM)
    assert book.caller_stream.written == ROLE + ERROR
    assert book.ledger_entries[-1].outcome == "cut"


async def test_an_opening_is_held_back_up_to_a_limited_size():
    comment = b": " + b"x" * 1000 + b"\n\n"
    book = Playbook(snapshot(), [streams(*[comment] * 70, ERROR), streams(WORD, END)])
    await book.ask(STREAM)
    assert book.caller_stream.written == comment * 70 + ERROR


async def test_an_empty_finish_reason_does_not_complete_an_answer():
    cut = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}]}\n\n'
    book = Playbook(snapshot(), [streams(cut)])
    await book.ask(STREAM)
    assert book.caller_stream.written.startswith(cut)
    assert b"upstream_invalid_response" in book.caller_stream.written
    assert book.ledger_entries[-1].outcome == "cut"


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/octet-stream", ""])
@pytest.mark.parametrize("split", [1, 3, 1000])
async def test_a_stream_under_another_content_type_is_streamed(content_type, split):
    raw = b"\xef\xbb\xbf" * (split == 3) + WORD + END
    pieces = [raw[at : at + split] for at in range(0, len(raw), split)]
    book = Playbook(snapshot(), [streams(*pieces, content_type=content_type)])
    await book.ask(STREAM)
    assert book.caller_stream.written == raw
    assert book.caller_stream.headers["content-type"].startswith("text/event-stream")


async def test_a_whole_answer_to_a_request_for_a_stream_is_streamed():
    document = {"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello there"}, "finish_reason": "stop"}], "usage": USAGE}  # fmt: skip
    book = Playbook(snapshot(), [answers(document)])
    await book.ask(STREAM)
    first, end = book.caller_stream.written.split(b"\n\n")[:2]
    assert json.loads(first[6:])["choices"][0]["delta"]["content"] == "hello there"
    assert end == b"data: [DONE]"
    assert (book.ledger_entries[-1].usage_basis, book.ledger_entries[-1].output_tokens) == ("exact", 10)


@pytest.mark.parametrize(
    "rest",
    [[DONE], [], [BrokenResponse("cut")], [Silence(), DONE]],
    ids=["an end mark", "nothing", "a lost connection", "a late end mark"],
)
async def test_what_follows_a_complete_answer_changes_nothing_but_an_end_mark(rest):
    completed = b'data: {"type":"response.completed","response":{"id":"r","status":"completed","output":[],"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'  # fmt: skip
    book = Playbook(snapshot(), [streams(completed, *rest)])
    request = responses.parse(b'{"model":"small","input":"hi","stream":true}')
    await book.pipeline.serve(request, CALLER, HeaderHints(), book.caller_stream)
    assert book.caller_stream.written == completed + (DONE if rest == [DONE] else b"")
    assert (book.ledger_entries[-1].outcome, book.ledger_entries[-1].output_tokens) == ("completed", 1)


async def test_a_long_event_is_relayed_whole():
    picture = b'data: {"choices":[{"index":0,"delta":{"images":["' + b"x" * 9_000_000 + b'"]}}]}\n\n'
    book = Playbook(snapshot(), [streams(picture, END)])
    await book.ask(STREAM)
    assert book.caller_stream.written == picture + END


async def test_an_endless_stream_is_ended():
    book = Playbook(snapshot(), [streams(WORD, *[b"x" * 1_000_000] * 70)])
    await book.ask(STREAM)
    assert book.ledger_entries[-1].outcome == "cut"


async def test_a_model_unknown_to_the_provider_is_not_the_caller_s_error():
    missing = answers({"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}, 404)
    book = Playbook(snapshot(), [missing, served()])
    assert (await book.ask(EASY)).body == WHOLE
    assert book.ledger_entries[0].code == "provider_model_not_found"
    book = Playbook(snapshot(), [missing] * 5)
    for _ in range(5):
        answer = await book.ask(EASY.replace(b"auto", b"small"))
        missing.body = [b'{"error":{"message":"The model `x` does not exist"}}']
    assert answer.status == 502
    assert "deployment 'small'" in json.loads(answer.body)["error"]["message"]
    assert not book.circuit_breakers.is_healthy("small", now=book.clock.monotonic())


async def test_a_missing_object_of_the_caller_s_own_is_its_error():
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]})  # fmt: skip
    book = Playbook(snapshot(), [answers({"error": {"message": "No such File object: file-1"}}, 404)])
    answer = await book.ask(body.encode())
    assert (answer.status, book.ledger_entries[-1].outcome) == (404, "rejected")


async def test_a_request_for_usage_that_is_refused_is_left_out_and_remembered():
    refusal = {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"]}]}
    book = Playbook(snapshot(), [answers(refusal, 422), streams(WORD, END), streams(WORD, END)])
    for _ in range(2):
        await book.ask(STREAM.replace(b"auto", b"small"))
    bodies = [b"".join(call.body) for call in book.upstream_calls]
    assert [b"stream_options" in body for body in bodies] == [True, False, False]
    assert [entry.outcome for entry in book.ledger_entries] == ["upstream_error", "completed", "completed"]
    book.clock.seconds += 3600
    book.upstream_script.append(streams(WORD, END))
    await book.ask(STREAM.replace(b"auto", b"small"))
    assert b"stream_options" in b"".join(book.upstream_calls[-1].body)


async def test_a_request_for_usage_of_the_caller_s_own_is_its_error():
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": True, "stream_options": {"include_usage": True}})  # fmt: skip
    book = Playbook(snapshot(), [answers({"error": {"message": "stream_options is not supported"}}, 400)])
    answer = await book.ask(body.encode())
    assert (answer.status, len(book.upstream_calls)) == (400, 1)


TOO_LONG = {"error": {"message": "prompt is too long", "code": "context_length_exceeded"}}


@pytest.mark.parametrize(
    "small, served_by",
    [(", context_tokens: 1000", "frontier"), (", context_tokens: 900000", None)],
    ids=["a longer context is tried", "a shorter one is not"],
)
async def test_a_request_too_long_for_its_model_goes_to_a_longer_context_only(small, served_by):
    book = Playbook(snapshot(small=small), [answers(TOO_LONG, 400), served()])
    answer = await book.ask(EASY)
    assert [call.deployment.name for call in book.upstream_calls] == ["small", served_by][: 2 if served_by else 1]
    assert answer.status == (200 if served_by else 400)


async def test_a_limit_that_the_message_names_counts_instead_of_the_configured_one():
    error = {"error": {"message": "This model's maximum context length is 4096 tokens."}}
    book = Playbook(snapshot(small=", context_tokens: 900000"), [answers(error, 400), served()])
    assert (await book.ask(EASY)).status == 200


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_goes_to_the_next_deployment_and_opens_the_circuit_breaker(status):
    refused = [answers({"error": {"message": "bad key"}}, status) for _ in range(5)]
    book = Playbook(snapshot(), [step for refusal in refused for step in (refusal, served())] + [served()])
    for _ in range(6):
        assert (await book.ask(EASY)).status == 200
    assert len(book.upstream_calls) == 11
