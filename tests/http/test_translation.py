"""Translated answers over real sockets: what is lost is named, and what JSON forbids is read."""

import json

import pytest

from tests.dialects.translation.dialect_clients import CLIENTS
from tests.dialects.translation.translating import chat_answer, chat_chunks
from tests.http.scripted_provider import scripted_gateway

LOSSY = {"content": "Hi", "audio": {"id": "a"}, "annotations": [{"type": "url_citation", "url": "https://example.com"}]}


def encoded(answer: dict | list[dict]) -> bytes:
    if isinstance(answer, dict):
        return json.dumps(answer).encode()
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in answer) + b"data: [DONE]\n\n"


def request_body(caller: str, *, stream: bool, model: str = "chat") -> dict:
    client = CLIENTS[caller]
    return client.request_body(model, [client.user_message("hi")], stream=stream)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_an_answer_lost_is_in_header_ledger_and_metric(tmp_path, stream):
    answer = chat_chunks(LOSSY) if stream else chat_answer(LOSSY)
    async with scripted_gateway(tmp_path, encoded(answer)) as (gateway, _):
        status, headers, _ = await gateway.post("/v1/messages", request_body("messages", stream=stream))
        assert status == 200
        assert headers.get("x-penstock-dropped") == (
            None if stream else "answer: message.annotations; answer: message.audio"
        )
        _, _, metrics = await gateway.request("GET", "/metrics")
        for kind in ("citation", "media"):
            series = f'penstock_translation_dropped_total{{from="chat",kind="{kind}",to="messages"}} 1.0'
            assert series.encode() in metrics
        (entry,) = await gateway.ledger()
        assert entry.translation == "messages to chat"
        assert entry.answer_losses == "citation: message.annotations; media: message.audio"


async def test_a_complete_answer_has_no_loss(tmp_path):
    async with scripted_gateway(tmp_path, encoded(chat_answer({"content": "Hi"}))) as (gateway, _):
        _, headers, _ = await gateway.post("/v1/responses", request_body("responses", stream=False))
        assert "x-penstock-dropped" not in headers
        assert b"penstock_translation_dropped_total{" not in (await gateway.request("GET", "/metrics"))[2]
        (entry,) = await gateway.ledger()
        assert (entry.translation, entry.answer_losses) == ("responses to chat", "")


ODD_BODIES = [
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"x\\ud83d"},"finish_reason":"stop",'
    b'"logprobs":{"content":[{"token":"x","logprob":-Infinity}]}}],"usage":{"prompt_tokens":3,"completion_tokens":NaN}}',
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"x\xff"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":5}}',
]


@pytest.mark.parametrize("caller", CLIENTS)
@pytest.mark.parametrize("body", ODD_BODIES, ids=["NaN and a lone surrogate", "a byte that is no UTF-8"])
async def test_an_answer_in_json_that_the_standard_forbids_is_no_failure(tmp_path, caller, body):
    async with scripted_gateway(tmp_path, body) as (gateway, _):
        status, _, content = await gateway.post(CLIENTS[caller].path, request_body(caller, stream=False))
        assert status == 200
        if caller == "chat":
            assert content == body, "the same dialect passes bytes"
        else:
            assert CLIENTS[caller].parse_answer(json.loads(content)).text == "x�"


@pytest.mark.parametrize("caller", ["messages", "responses"])
async def test_chunks_that_the_standard_forbids_do_not_vanish(tmp_path, caller):
    pieces = (b"x\\ud83d", b"\\ude00", b"\xf0\x9f", b"\x98\x80y")
    chunks = [
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"logprobs":{"x":NaN}}]}\n\n' % piece for piece in pieces
    ]
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n'
    async with scripted_gateway(tmp_path, b"".join(chunks) + end + b"data: [DONE]\n\n") as (gateway, _):
        status, _, content = await gateway.post(CLIENTS[caller].path, request_body(caller, stream=True))
        assert (status, CLIENTS[caller].parse_stream(content).text) == (200, "x😀😀y")


CONTEXT = "This model's maximum context length is 4096 tokens."
ERROR_BODIES = [
    ({"object": "error", "message": CONTEXT, "type": "BadRequestError", "param": None, "code": 400}, CONTEXT, "context_length_exceeded"),
    ({"error": {"message": CONTEXT, "code": "context_length_exceeded"}}, CONTEXT, "context_length_exceeded"),
    ({"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "body.messages: field required", "provider_rejected"),
    ([{"error": {"code": 400, "message": "Invalid JSON payload", "status": "INVALID_ARGUMENT"}}], "Invalid JSON payload", "provider_rejected"),
    ({"error": {"message": "No such tool.", "code": "invalid_function_parameters"}}, "No such tool.", "invalid_function_parameters"),
]  # fmt: skip


@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize(
    "body, message, code", ERROR_BODIES, ids=["vLLM, too long", "OpenAI, too long", "FastAPI", "Google", "a code of its own"]
)  # fmt: skip
async def test_the_provider_s_own_words_and_code_reach_the_caller(tmp_path, caller, body, message, code):
    async with scripted_gateway(tmp_path, json.dumps(body).encode(), status=400) as (gateway, _):
        status, _, content = await gateway.post(CLIENTS[caller].path, request_body(caller, stream=True))
        error = json.loads(content)["error"]
        assert (status, error["message"], error["code"]) == (400, message, code)


async def test_what_a_model_refuses_is_not_sent_and_named(tmp_path):
    body = {**request_body("messages", stream=False), "temperature": 0.5, "stop_sequences": ["x"]}
    async with scripted_gateway(tmp_path, encoded(chat_answer({"content": "Hi"})), model="o3") as (gateway, provider):
        status, _, content = await gateway.post("/v1/messages", body)
        error = json.loads(content)["error"]
        assert (status, error["code"], error["param"]) == (400, "no_eligible_deployment", "stop")
        assert "no stop sequences" in error["message"] and not provider.requests
        del body["stop_sequences"]
        status, headers, _ = await gateway.post("/v1/messages", body)
        assert (status, headers["x-penstock-dropped"]) == (200, "temperature")
        assert "temperature" not in provider.requests[0]


@pytest.mark.parametrize("model, sent", [("deepseek-v4-pro", "hm"), ("llama", None)])
async def test_reasoning_is_sent_back_to_models_that_require_it(tmp_path, model, sent):
    answer = encoded(chat_answer({"content": "Hi", "reasoning_content": "hm"}))
    client = CLIENTS["messages"]
    async with scripted_gateway(tmp_path, answer, model=model) as (gateway, provider):
        turns = [client.user_message("hi")]
        _, _, content = await gateway.post(
            "/v1/messages", client.request_body("chat", turns, stream=False, thinking=True)
        )
        turns += [*client.parse_answer(json.loads(content)).history_messages, client.user_message("more")]
        _, headers, _ = await gateway.post(
            "/v1/messages", client.request_body("chat", turns, stream=False, thinking=True)
        )
        assert provider.requests[1]["messages"][1].get("reasoning_content") == sent
        assert ("reasoning of earlier turns" in headers.get("x-penstock-dropped", "")) is (sent is None)
