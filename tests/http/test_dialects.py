"""Every dialect over real sockets: what callers of each see, what providers of each get, what the ledger says."""

import json

import pytest

from gateway.routing.circuit_breaker import FAILURES_TO_OPEN
from tests.dialects.translation.dialect_clients import CLIENTS, SCHEMA, sse_payloads
from tests.http.running_gateway import running_gateway

PATHS = {name: speaker.path for name, speaker in CLIENTS.items()}
ANTHROPIC = {"anthropic_version": "2023-06-01"}


def body(name: str, text: str, model: str = "all", *, stream: bool = False, **more: object) -> dict:
    speaker = CLIENTS[name]
    return {**speaker.request_body(model, [speaker.user_message(text)], stream=stream), **more}


async def test_a_websocket_is_answered_426_and_plain_get_405(tmp_path):
    async with running_gateway(tmp_path) as at:
        upgrade = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec_WebSocket_Key": "x" * 24,
            "Sec_WebSocket_Version": "13",
        }
        status, _, said = await at.request("GET", "/v1/responses", **upgrade)
        assert (status, json.loads(said)["error"]["code"]) == (426, "upgrade_required")
        assert (await at.request("GET", "/v1/responses"))[0] == 405


async def test_models_are_listed_in_the_shape_of_who_asks(tmp_path):
    async with running_gateway(tmp_path) as at:
        openai = json.loads((await at.request("GET", "/v1/models"))[2])
        anthropic = json.loads((await at.request("GET", "/v1/models", **ANTHROPIC))[2])
        assert openai["object"] == "list" and openai["data"][0]["object"] == "model"
        assert anthropic["has_more"] is False and anthropic["data"][0]["type"] == "model"
        assert [one["id"] for one in openai["data"]] == [one["id"] for one in anthropic["data"]]
        assert "claude-*" not in {one["id"] for one in openai["data"]}
        assert json.loads((await at.request("GET", "/v1/models/claude-next"))[2])["id"] == "claude-next"
        assert (await at.request("GET", "/v1/models/nobody"))[0] == 404


@pytest.mark.parametrize("prefix", ["", "/anthropic"])
async def test_anthropic_s_own_bytes_and_headers_pass_both_ways(tmp_path, prefix):
    async with running_gateway(tmp_path) as at:
        asked = {**body("messages", "hello", "claude-next"), "metadata": {"user_id": "u"}}
        status, headers, _ = await at.post(f"{prefix}/v1/messages?beta=true", asked, anthropic_beta="context-management-2025-06-27", x_api_key="any", anthropic_version="2026-10-21")  # fmt: skip
        assert status == 200 and headers["request-id"] and headers["anthropic-ratelimit-requests-limit"]
        provider = at.providers["anthropic"]
        assert json.loads(provider.request_bodies[0]) == {**asked, "model": "sim-anthropic"}
        sent = {name.lower(): value for name, value in provider.request_headers[0].items()}
        assert (sent["x-api-key"], sent["anthropic-version"]) == ("anthropic-key", "2026-10-21")
        assert sent["anthropic-beta"] == "context-management-2025-06-27"
        (entry,) = await at.ledger()
        assert (entry.route, entry.outcome, entry.usage_basis) == ("claude-*", "completed", "exact")


@pytest.mark.parametrize("model", ["anthropic", "chat-only"])
async def test_tokens_are_counted_by_anthropic_or_by_us(tmp_path, model):
    async with running_gateway(tmp_path) as at:
        asked = {"model": model, "messages": [{"role": "user", "content": "how long is this"}]}
        status, _, said = await at.post("/v1/messages/count_tokens", asked, **ANTHROPIC)
        assert status == 200 and json.loads(said)["input_tokens"] > 0
        calls = await at.ledger()
        assert [(entry.charge_nusd, entry.priced) for entry in calls] == ([(0, 1)] if model == "anthropic" else [])


@pytest.mark.parametrize("name", PATHS)
async def test_errors_speak_the_caller_s_dialect(tmp_path, name):
    async with running_gateway(tmp_path) as at:
        status, _, said = await at.post(PATHS[name], body(name, "hi", "nobody"))
        error = json.loads(said)
        assert status == 404 and error["error"]["code"] == "model_not_found"
        assert error.get("type") == ("error" if name == "messages" else None)
        status, _, said = await at.post(PATHS[name], {"model": "all", "messages": 7, "input": 7})
        assert status == 400


REFUSING = "budgets: {none: {limit: {usd: 0}, window: total}}"


@pytest.mark.parametrize("name, status", [("chat", 400), ("responses", 400), ("messages", 402)])
async def test_a_refusal_has_the_status_that_stops_the_clients_of_its_dialect(tmp_path, name, status):
    async with running_gateway(tmp_path, more=REFUSING) as at:
        found, headers, said = await at.post(PATHS[name], body(name, "hi", stream=True))
        assert (found, headers["x-should-retry"]) == (status, "false")
        error = json.loads(said)["error"]
        assert error["code"] == "cap_exceeded" and error["message"]
        assert "retry-after" not in headers
        assert not any(provider.request_bodies for provider in at.providers.values())


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("model", ["openai", "chat-only", "anthropic"])
@pytest.mark.parametrize("fault", ["cut", "error_event"])
async def test_a_stream_that_breaks_ends_in_an_event_that_sdks_raise(tmp_path, name, model, fault):
    text = f'[[sim {{"fault": "{fault}", "text": "{"word " * 40}"}}]]'
    async with running_gateway(tmp_path, rate=300) as at:
        status, _, said = await at.post(PATHS[name], body(name, text, model, stream=True))
        assert status == 200
        last = [event for event in sse_payloads(said) if event.get("error") or event.get("type") == "error"]
        assert last, said[-500:]
        assert last[-1]["error"]["message"]
        if name == "responses":
            assert any(event.get("type") == "response.failed" for event in sse_payloads(said))
        entry = (await at.ledger())[-1]
        # OpenAI's response.failed says what was used; nobody else does.
        told = name == "responses" and model == "openai" and fault == "error_event"
        assert (entry.outcome, entry.usage_basis) == ("cut", "exact" if told else "estimated")
        assert entry.charge_nusd > 0


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("model", ["openai", "chat-only", "anthropic"])
async def test_a_provider_s_rejection_is_told_in_the_caller_s_dialect(tmp_path, name, model):
    async with running_gateway(tmp_path) as at:
        status, _, said = await at.post(PATHS[name], body(name, '[[sim {"fault": "status:422"}]]', model))
        assert status == 422
        error = json.loads(said)
        assert "422" in error["error"]["message"] and error.get("type") == ("error" if name == "messages" else None)
        assert (await at.ledger())[-1].outcome == "rejected"


async def test_a_server_without_responses_is_learnt_once(tmp_path):
    async with running_gateway(tmp_path) as at:
        for _ in range(3):
            status, headers, _ = await at.post("/v1/responses", body("responses", "hi", "chat-only"))
            assert status == 200 and headers["x-penstock-crossed"] == "responses to chat"
        entries = await at.ledger()
        assert [(entry.outcome, entry.final) for entry in entries] == [("upstream_error", 0), *[("completed", 1)] * 3]
        assert entries[0].charge_nusd == 0


async def test_one_caller_s_404_takes_nothing_from_the_others(tmp_path):
    async with running_gateway(tmp_path) as at:
        stale = {"model": "openai", "input": [{"type": "item_reference", "id": "rs_gone"}]}
        for _ in range(2):
            assert (await at.post("/v1/responses", stale))[0] == 404
        _, headers, _ = await at.post("/v1/responses", {"model": "openai", "input": "hi"})
        assert "x-penstock-crossed" not in headers


async def test_reasoning_that_was_sealed_here_never_reaches_openai(tmp_path):
    tool = {"type": "function", "name": "look_up", "parameters": SCHEMA}
    more = {"tools": [tool], "include": ["reasoning.encrypted_content"], "store": False, "reasoning": {"effort": "low"}}
    async with running_gateway(tmp_path) as at:
        _, _, said = await at.post("/v1/responses", {"model": "anthropic", "input": "use the tool", **more})
        output = json.loads(said)["output"]
        call = next(item for item in output if item["type"] == "function_call")
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "x"}
        turns = [{"role": "user", "content": "use the tool"}, *output, result]
        status, headers, said = await at.post("/v1/responses", {"model": "auto", "input": turns, **more})
        assert (status, headers["x-penstock-deployment"]) == (200, "anthropic"), said


@pytest.mark.parametrize("blocks", [None, []])
async def test_thinking_that_is_none_binds_nobody(tmp_path, blocks):
    turns = [{"role": "assistant", "content": "x", "thinking_blocks": blocks}, {"role": "user", "content": "y"}]
    async with running_gateway(tmp_path) as at:
        _, headers, _ = await at.post("/v1/chat/completions", {"model": "auto", "messages": turns})
        assert "bound" not in headers["x-penstock-reason"]


async def test_what_goes_on_in_the_background_is_charged_as_held(tmp_path):
    async with running_gateway(tmp_path) as at:
        await at.post("/v1/responses", {"model": "openai", "input": "x", "background": True})
        for entry in await at.ledger():
            assert entry.usage_basis == "exact" or entry.charge_nusd == entry.hold_nusd


async def test_no_secret_of_the_caller_travels_on(tmp_path):
    secrets = {"Authorization": "Bearer s3cret", "x_api_key": "s3cret", "api_key": "s3cret", "Cookie": "a=s3cret",
               "x_stainless_api_key": "s3cret", "anthropic_api_key": "s3cret", "idempotency_key": "s3cret"}  # fmt: skip
    async with running_gateway(tmp_path) as at:
        for name in PATHS:
            await at.post(PATHS[name], body(name, "hi", "all"), **secrets)
        await at.post("/v1/messages", body("messages", "hi", "anthropic"), **secrets)
        sent = [str(headers) for provider in at.providers.values() for headers in provider.request_headers]
        assert len(sent) >= 4 and not [headers for headers in sent if "s3cret" in headers]


async def test_what_was_left_out_is_told(tmp_path):
    async with running_gateway(tmp_path) as at:
        _, headers, _ = await at.post("/v1/chat/completions", body("chat", "hi", "anthropic", seed=7, store=True))
        assert headers["x-penstock-dropped"] == "store; seed"
        assert headers["x-penstock-crossed"] == "chat to messages"


async def test_what_cannot_be_carried_goes_to_who_can_read_it_or_is_refused_before_dialling(tmp_path):
    async with running_gateway(tmp_path) as at:
        status, headers, _ = await at.post("/v1/messages", body("messages", "hi", "all", top_k=3), **ANTHROPIC)
        assert (status, headers["x-penstock-deployment"]) == (200, "anthropic")
        status, _, said = await at.post("/v1/messages", body("messages", "hi", "chat-only", top_k=3), **ANTHROPIC)
        error = json.loads(said)["error"]
        assert (status, error["type"], error["code"], error["param"]) == (
            400,
            "invalid_request_error",
            "no_eligible_deployment",
            "top_k",
        )
        assert not at.providers["chatonly"].request_bodies


async def test_signed_thinking_stays_where_it_was_written(tmp_path):
    """On a route that would go to the small tier, a history with thinking goes back to Anthropic."""
    speaker = CLIENTS["messages"]
    async with running_gateway(tmp_path) as at:
        first = speaker.request_body(
            "anthropic", [speaker.user_message("use the tool")], stream=False, tools=True, thinking=True
        )
        heard = speaker.parse_answer(json.loads((await at.post("/v1/messages", first, **ANTHROPIC))[2]))
        turns = [
            speaker.user_message("use the tool"),
            *heard.history_messages,
            *speaker.tool_result_messages([(heard.tool_calls[0][0], "fog")]),
        ]
        second = speaker.request_body("auto", turns, stream=False, tools=True, thinking=True)
        status, headers, said = await at.post("/v1/messages", second, **ANTHROPIC)
        assert (status, headers["x-penstock-deployment"]) == (200, "anthropic"), said
        assert "bound by signed thinking" in headers["x-penstock-reason"]


async def test_a_stored_answer_is_continued_where_it_lies_and_in_its_session(tmp_path):
    async with running_gateway(tmp_path) as at:
        asked = {"model": "openai", "input": "first"}
        _, headers, said = await at.post("/v1/responses", asked)
        answer = json.loads(said)
        session = headers["x-penstock-session"]
        again = {"model": "auto", "input": "[[sim {}]] and on", "previous_response_id": answer["id"]}
        status, headers, said = await at.post("/v1/responses", again)
        assert (status, headers["x-penstock-deployment"], headers["x-penstock-session"]) == (200, "openai", session), (
            said
        )
        assert json.loads(at.providers["openai"].request_bodies[-1])["previous_response_id"] == answer["id"]
        assert (await at.request("GET", f"/v1/responses/{answer['id']}"))[0] == 200


@pytest.mark.parametrize("model", ["chat-only", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_crossed_is_continued_from_our_own_memory(tmp_path, model, stream):
    tool = {"type": "function", "name": "look_up", "parameters": SCHEMA}
    async with running_gateway(tmp_path) as at:
        asked = {"model": model, "input": "use the tool", "tools": [tool], "stream": stream}
        _, headers, said = await at.post("/v1/responses", asked)
        answer = sse_payloads(said)[-1]["response"] if stream else json.loads(said)
        call = next(item for item in answer["output"] if item["type"] == "function_call")
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "hail"}
        again = {"model": model, "input": [output], "previous_response_id": answer["id"], "tools": [tool]}
        status, second, said = await at.post("/v1/responses", again)
        assert (status, second["x-penstock-session"]) == (200, headers["x-penstock-session"]), said
        assert "hail" in said.decode()
        status, _, said = await at.post("/v1/responses", {**again, "previous_response_id": "resp_unknown"})
        assert status == 400 and json.loads(said)["error"]["param"] == "previous_response_id"


async def test_nobody_continues_another_s_answer(tmp_path):
    keys = "keys: [{id: a, team: a, secret: {env: OPENAI}}, {id: b, team: b, secret: {env: ANTHROPIC}}]"
    async with running_gateway(tmp_path, more=keys) as at:
        for model in ("openai", "chat-only"):
            _, _, said = await at.post(
                "/v1/responses", {"model": model, "input": "x"}, Authorization="Bearer openai-key"
            )
            answer = json.loads(said)["id"]
            again = {"model": model, "input": "y", "previous_response_id": answer}
            assert (await at.post("/v1/responses", again, Authorization="Bearer anthropic-key"))[0] == 404
            assert (await at.request("GET", f"/v1/responses/{answer}", Authorization="Bearer anthropic-key"))[0] == 404
            assert (await at.post("/v1/responses", again, Authorization="Bearer openai-key"))[0] == 200


async def test_nothing_is_kept_that_is_not_to_be_stored(tmp_path):
    async with running_gateway(tmp_path) as at:
        _, _, said = await at.post("/v1/responses", {"model": "chat-only", "input": "x", "store": False})
        again = {"model": "chat-only", "input": "y", "previous_response_id": json.loads(said)["id"]}
        assert (await at.post("/v1/responses", again))[0] == 400


async def test_usage_of_anthropic_s_cache_is_counted_within_input(tmp_path):
    system = [{"type": "text", "text": "long " * 2000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    async with running_gateway(tmp_path) as at:
        for _ in range(2):
            assert (await at.post("/v1/messages", body("messages", "hi", "anthropic", system=system), **ANTHROPIC))[
                0
            ] == 200
        first, second = await at.ledger()
        assert first.cache_write_tokens > 1000 and second.cached_input_tokens == first.cache_write_tokens
        assert first.input_tokens == second.input_tokens
        plain = first.input_tokens - first.cache_write_tokens
        assert first.charge_nusd == plain * 1000 + first.cache_write_tokens * 2000 + first.output_tokens * 2000
        assert second.charge_nusd == plain * 1000 + second.cached_input_tokens * 100 + second.output_tokens * 2000
        assert first.charge_nusd <= first.hold_nusd


@pytest.mark.parametrize("given", ["text", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
async def test_embeddings_of_text_and_tokens(tmp_path, given):
    async with running_gateway(tmp_path) as at:
        status, _, said = await at.post(
            "/v1/embeddings", {"model": "openai", "input": given, "encoding_format": "base64"}
        )
        assert status == 200, said
        (entry,) = await at.ledger()
        assert (entry.outcome, entry.output_tokens, entry.usage_basis) == ("completed", 0, "exact")
        assert 0 < entry.charge_nusd <= entry.hold_nusd


async def test_embeddings_never_change_their_model(tmp_path):
    async with running_gateway(tmp_path) as at:
        at.providers["chatonly"]  # the first candidate of 'all'
        status, headers, said = await at.post("/v1/embeddings", {"model": "all", "input": "[[sim {}]]"})
        assert (status, headers["x-penstock-deployment"]) == (200, "chatonly"), said


@pytest.mark.parametrize("stream", [False, True])
async def test_text_completions(tmp_path, stream):
    async with running_gateway(tmp_path) as at:
        status, _, said = await at.post("/v1/completions", {"model": "openai", "prompt": "go", "stream": stream})
        assert status == 200, said
        assert (b"data: [DONE]" in said) == stream
        assert b'"usage":{' not in said.replace(b" ", b"") or not stream, "usage was not asked for"
        (entry,) = await at.ledger()
        assert (entry.outcome, entry.usage_basis) == ("completed", "exact")


async def test_a_failing_deployment_is_left_alone_and_probed_by_one(tmp_path):
    async with running_gateway(tmp_path, more="retries: {same_deployment: 0}") as at:
        broken = body("chat", '[[sim {"fault": "status:500"}]]', "openai")
        for _ in range(FAILURES_TO_OPEN):
            assert (await at.post("/v1/chat/completions", broken))[0] == 502
        status, headers, said = await at.post("/v1/chat/completions", body("chat", "hi", "openai"))
        assert (status, json.loads(said)["error"]["code"]) == (503, "deployments_resting")
        assert 1 <= int(headers["retry-after"]) <= 5
        assert len(at.providers["openai"].request_bodies) == FAILURES_TO_OPEN
        status, headers, _ = await at.post("/v1/chat/completions", body("chat", "hi", "all"))
        assert (status, headers["x-penstock-deployment"]) == (200, "chatonly"), "others serve meanwhile"


@pytest.mark.parametrize("name", PATHS)
async def test_a_provider_that_may_spend_no_more_is_not_asked_again(tmp_path, name):
    text = '[[sim {"fault": "insufficient_quota", "at": "sim-anthropic"}]]'
    async with running_gateway(tmp_path) as at:
        assert (await at.post(PATHS[name], body(name, text, "anthropic")))[0] == 502
        assert len(at.providers["anthropic"].request_bodies) == 1


async def test_fallback_crosses_where_the_next_speaks_another_dialect(tmp_path):
    text = '[[sim {"fault": "status:503", "at": "sim-chatonly"}]]'
    async with running_gateway(tmp_path) as at:
        status, headers, _ = await at.post("/v1/messages", body("messages", text, "all"), **ANTHROPIC)
        assert (status, headers["x-penstock-deployment"]) == (200, "openai")
        entries = await at.ledger()
        assert [(entry.deployment, entry.final) for entry in entries] == [("chatonly", 0), ("openai", 1)]
