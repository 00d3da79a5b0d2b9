"""Every dialect over real sockets: responses, upstream calls, ledger entries."""

import json

import pytest

from gateway.routing.circuit_breaker import FAILURES_TO_OPEN
from tests.dialects.translation.dialect_clients import CLIENTS, SCHEMA, sse_payloads
from tests.http.running_gateway import running_gateway

PATHS = {name: dialect_client.path for name, dialect_client in CLIENTS.items()}
ANTHROPIC = {"anthropic_version": "2023-06-01"}


def body(name: str, text: str, model: str = "all", *, stream: bool = False, **more: object) -> dict:
    dialect_client = CLIENTS[name]
    return {**dialect_client.request_body(model, [dialect_client.user_message(text)], stream=stream), **more}


async def test_a_websocket_upgrade_gets_426_and_plain_get_405(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        upgrade = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec_WebSocket_Key": "x" * 24,
            "Sec_WebSocket_Version": "13",
        }
        status, _, content = await gateway.request("GET", "/v1/responses", **upgrade)
        assert (status, json.loads(content)["error"]["code"]) == (426, "upgrade_required")
        assert (await gateway.request("GET", "/v1/responses"))[0] == 405


async def test_models_are_listed_in_the_callers_dialect(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        openai = json.loads((await gateway.request("GET", "/v1/models"))[2])
        anthropic = json.loads((await gateway.request("GET", "/v1/models", **ANTHROPIC))[2])
        assert openai["object"] == "list" and openai["data"][0]["object"] == "model"
        assert anthropic["has_more"] is False and anthropic["data"][0]["type"] == "model"
        assert [model["id"] for model in openai["data"]] == [model["id"] for model in anthropic["data"]]
        assert "claude-*" not in {model["id"] for model in openai["data"]}
        assert json.loads((await gateway.request("GET", "/v1/models/claude-next"))[2])["id"] == "claude-next"
        assert (await gateway.request("GET", "/v1/models/unknown"))[0] == 404


@pytest.mark.parametrize("prefix", ["", "/anthropic"])
async def test_anthropic_bytes_and_headers_pass_through_both_ways(tmp_path, prefix):
    async with running_gateway(tmp_path) as gateway:
        request = {**body("messages", "hello", "claude-next"), "metadata": {"user_id": "u"}}
        status, headers, _ = await gateway.post(f"{prefix}/v1/messages?beta=true", request, anthropic_beta="context-management-2025-06-27", x_api_key="any", anthropic_version="2026-10-21")  # fmt: skip
        assert status == 200 and headers["request-id"] and headers["anthropic-ratelimit-requests-limit"]
        provider = gateway.providers["anthropic"]
        assert json.loads(provider.request_bodies[0]) == {**request, "model": "sim-anthropic"}
        sent = {name.lower(): value for name, value in provider.request_headers[0].items()}
        assert (sent["x-api-key"], sent["anthropic-version"]) == ("anthropic-key", "2026-10-21")
        assert sent["anthropic-beta"] == "context-management-2025-06-27"
        (entry,) = await gateway.ledger()
        assert (entry.route, entry.outcome, entry.usage_basis) == ("claude-*", "completed", "exact")


async def test_filling_the_prompt_cache_without_an_answer_is_passed_on_and_held_at_its_input(tmp_path):
    """`max_tokens: 0` (Anthropic, prompt caching, 2026): no output is generated, and none is billed."""
    async with running_gateway(tmp_path) as gateway:
        request = {**body("messages", "hello " * 2000, "anthropic"), "max_tokens": 0}
        status, _, content = await gateway.post("/v1/messages", request, **ANTHROPIC)
        assert status == 200, content
        assert json.loads(gateway.providers["anthropic"].request_bodies[0])["max_tokens"] == 0
        (entry,) = await gateway.ledger()
    assert (entry.outcome, entry.usage_basis, entry.output_tokens) == ("completed", "exact", 0)
    assert 0 < entry.charge_nusd <= entry.hold_nusd


@pytest.mark.parametrize("path, field, value", [
    ("/v1/chat/completions", "max_tokens", -1), ("/v1/responses", "max_output_tokens", 0), ("/v1/completions", "max_tokens", 0),
])  # fmt: skip
async def test_other_special_output_limits_are_the_providers_to_judge(tmp_path, path, field, value):
    async with running_gateway(tmp_path) as gateway:
        request = {"model": "openai", "messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi"}
        kept = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/completions": "prompt"}[path]
        await gateway.post(path, {"model": "openai", kept: request[kept], field: value})
        (sent,) = gateway.providers["openai"].request_bodies
        assert json.loads(sent)[field] == value


@pytest.mark.parametrize("model", ["anthropic", "chat-only"])
async def test_count_tokens_uses_anthropic_or_the_estimate(tmp_path, model):
    async with running_gateway(tmp_path) as gateway:
        request = {"model": model, "messages": [{"role": "user", "content": "how long is this"}]}
        status, _, content = await gateway.post("/v1/messages/count_tokens", request, **ANTHROPIC)
        assert status == 200 and json.loads(content)["input_tokens"] > 0
        calls = await gateway.ledger()
        assert [(entry.charge_nusd, entry.priced) for entry in calls] == ([(0, 1)] if model == "anthropic" else [])


@pytest.mark.parametrize("name", PATHS)
async def test_errors_are_in_the_callers_dialect(tmp_path, name):
    async with running_gateway(tmp_path) as gateway:
        status, _, content = await gateway.post(PATHS[name], body(name, "hi", "unknown"))
        error = json.loads(content)
        assert status == 404 and error["error"]["code"] == "model_not_found"
        assert error.get("type") == ("error" if name == "messages" else None)
        status, _, content = await gateway.post(PATHS[name], {"model": "all", "messages": 7, "input": 7})
        assert status == 400


REFUSING = "budgets: {none: {limit: {usd: 0}, window: total}}"


@pytest.mark.parametrize("name, status", [("chat", 400), ("responses", 400), ("messages", 402)])
async def test_a_refusal_has_a_status_that_clients_of_the_dialect_do_not_retry(tmp_path, name, status):
    async with running_gateway(tmp_path, more=REFUSING) as gateway:
        response_status, headers, content = await gateway.post(PATHS[name], body(name, "hi", stream=True))
        assert (response_status, headers["x-should-retry"]) == (status, "false")
        error = json.loads(content)["error"]
        assert error["code"] == "cap_exceeded" and error["message"]
        assert "retry-after" not in headers
        assert not any(provider.request_bodies for provider in gateway.providers.values())


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("model", ["openai", "chat-only", "anthropic"])
@pytest.mark.parametrize("fault", ["cut", "error_event"])
async def test_a_broken_stream_ends_in_an_error_event_that_sdks_raise(tmp_path, name, model, fault):
    text = f'[[sim {{"fault": "{fault}", "text": "{"word " * 40}"}}]]'
    async with running_gateway(tmp_path, rate=300) as gateway:
        status, _, content = await gateway.post(PATHS[name], body(name, text, model, stream=True))
        assert status == 200
        last = [event for event in sse_payloads(content) if event.get("error") or event.get("type") == "error"]
        assert last, content[-500:]
        assert last[-1]["error"]["message"]
        if name == "responses":
            assert any(event.get("type") == "response.failed" for event in sse_payloads(content))
        entry = (await gateway.ledger())[-1]
        # Only OpenAI's response.failed event reports usage.
        reports_usage = name == "responses" and model == "openai" and fault == "error_event"
        assert (entry.outcome, entry.usage_basis) == ("cut", "exact" if reports_usage else "estimated")
        assert entry.charge_nusd > 0


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("model", ["openai", "chat-only", "anthropic"])
async def test_a_provider_rejection_is_returned_in_the_callers_dialect(tmp_path, name, model):
    async with running_gateway(tmp_path) as gateway:
        status, _, content = await gateway.post(PATHS[name], body(name, '[[sim {"fault": "status:422"}]]', model))
        assert status == 422
        error = json.loads(content)
        assert "422" in error["error"]["message"] and error.get("type") == ("error" if name == "messages" else None)
        assert (await gateway.ledger())[-1].outcome == "rejected"


async def test_a_provider_without_the_responses_dialect_is_detected_once(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        for _ in range(3):
            status, headers, _ = await gateway.post("/v1/responses", body("responses", "hi", "chat-only"))
            assert status == 200 and headers["x-penstock-translated"] == "responses to chat"
        entries = await gateway.ledger()
        assert [(entry.outcome, entry.final) for entry in entries] == [("upstream_error", 0), *[("completed", 1)] * 3]
        assert entries[0].charge_nusd == 0


async def test_a_404_for_one_request_does_not_disable_the_dialect(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        stale = {"model": "openai", "input": [{"type": "item_reference", "id": "rs_gone"}]}
        for _ in range(2):
            assert (await gateway.post("/v1/responses", stale))[0] == 404
        _, headers, _ = await gateway.post("/v1/responses", {"model": "openai", "input": "hi"})
        assert "x-penstock-translated" not in headers


async def test_reasoning_sealed_by_the_gateway_never_reaches_openai(tmp_path):
    tool = {"type": "function", "name": "look_up", "parameters": SCHEMA}
    more = {"tools": [tool], "include": ["reasoning.encrypted_content"], "store": False, "reasoning": {"effort": "low"}}
    async with running_gateway(tmp_path) as gateway:
        _, _, content = await gateway.post("/v1/responses", {"model": "anthropic", "input": "use the tool", **more})
        output = json.loads(content)["output"]
        call = next(item for item in output if item["type"] == "function_call")
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "x"}
        turns = [{"role": "user", "content": "use the tool"}, *output, result]
        status, headers, content = await gateway.post("/v1/responses", {"model": "auto", "input": turns, **more})
        assert (status, headers["x-penstock-deployment"]) == (200, "anthropic"), content


@pytest.mark.parametrize("blocks", [None, []])
async def test_empty_thinking_blocks_create_no_affinity(tmp_path, blocks):
    turns = [{"role": "assistant", "content": "x", "thinking_blocks": blocks}, {"role": "user", "content": "y"}]
    async with running_gateway(tmp_path) as gateway:
        _, headers, _ = await gateway.post("/v1/chat/completions", {"model": "auto", "messages": turns})
        assert "affinity" not in headers["x-penstock-reason"]


async def test_background_responses_are_charged_as_held(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        await gateway.post("/v1/responses", {"model": "openai", "input": "x", "background": True})
        for entry in await gateway.ledger():
            assert entry.usage_basis == "exact" or entry.charge_nusd == entry.hold_nusd


async def test_caller_secrets_are_not_forwarded(tmp_path):
    secrets = {"Authorization": "Bearer s3cret", "x_api_key": "s3cret", "api_key": "s3cret", "Cookie": "a=s3cret",
               "x_stainless_api_key": "s3cret", "anthropic_api_key": "s3cret", "idempotency_key": "s3cret"}  # fmt: skip
    async with running_gateway(tmp_path) as gateway:
        for name in PATHS:
            await gateway.post(PATHS[name], body(name, "hi", "all"), **secrets)
        await gateway.post("/v1/messages", body("messages", "hi", "anthropic"), **secrets)
        sent = [str(headers) for provider in gateway.providers.values() for headers in provider.request_headers]
        assert len(sent) >= 4 and not [headers for headers in sent if "s3cret" in headers]


async def test_dropped_fields_are_named_in_a_header(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        _, headers, _ = await gateway.post("/v1/chat/completions", body("chat", "hi", "anthropic", seed=7, store=True))
        assert headers["x-penstock-dropped"] == "store; seed"
        assert headers["x-penstock-translated"] == "chat to messages"


async def test_an_untranslatable_field_is_routed_to_its_dialect_or_refused_before_dialing(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        status, headers, _ = await gateway.post("/v1/messages", body("messages", "hi", "all", top_k=3), **ANTHROPIC)
        assert (status, headers["x-penstock-deployment"]) == (200, "anthropic")
        status, _, content = await gateway.post(
            "/v1/messages", body("messages", "hi", "chat-only", top_k=3), **ANTHROPIC
        )
        error = json.loads(content)["error"]
        assert (status, error["type"], error["code"], error["param"]) == (
            400,
            "invalid_request_error",
            "no_eligible_deployment",
            "top_k",
        )
        assert error["message"].endswith(").") and ".)" not in error["message"]
        assert not gateway.providers["chatonly"].request_bodies


async def test_signed_thinking_stays_with_its_provider(tmp_path):
    """A history with thinking is routed to Anthropic even if the target is small."""
    dialect_client = CLIENTS["messages"]
    async with running_gateway(tmp_path) as gateway:
        first = dialect_client.request_body(
            "anthropic", [dialect_client.user_message("use the tool")], stream=False, tools=True, thinking=True
        )
        answer = dialect_client.parse_answer(json.loads((await gateway.post("/v1/messages", first, **ANTHROPIC))[2]))
        turns = [
            dialect_client.user_message("use the tool"),
            *answer.history_messages,
            *dialect_client.tool_result_messages([(answer.tool_calls[0][0], "fog")]),
        ]
        second = dialect_client.request_body("auto", turns, stream=False, tools=True, thinking=True)
        status, headers, content = await gateway.post("/v1/messages", second, **ANTHROPIC)
        assert (status, headers["x-penstock-deployment"]) == (200, "anthropic"), content
        assert "affinity: signed thinking" in headers["x-penstock-reason"]


async def test_a_stored_response_is_continued_at_its_provider_and_in_its_session(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        request = {"model": "openai", "input": "first"}
        _, headers, content = await gateway.post("/v1/responses", request)
        answer = json.loads(content)
        session = headers["x-penstock-session"]
        follow_up = {"model": "auto", "input": "[[sim {}]] and on", "previous_response_id": answer["id"]}
        status, headers, content = await gateway.post("/v1/responses", follow_up)
        assert (status, headers["x-penstock-deployment"], headers["x-penstock-session"]) == (200, "openai", session), (
            content
        )
        assert json.loads(gateway.providers["openai"].request_bodies[-1])["previous_response_id"] == answer["id"]
        assert (await gateway.request("GET", f"/v1/responses/{answer['id']}"))[0] == 200


@pytest.mark.parametrize("model", ["chat-only", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_translated_response_is_continued_from_the_gateways_store(tmp_path, model, stream):
    tool = {"type": "function", "name": "look_up", "parameters": SCHEMA}
    async with running_gateway(tmp_path) as gateway:
        request = {"model": model, "input": "use the tool", "tools": [tool], "stream": stream}
        _, headers, content = await gateway.post("/v1/responses", request)
        answer = sse_payloads(content)[-1]["response"] if stream else json.loads(content)
        call = next(item for item in answer["output"] if item["type"] == "function_call")
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "hail"}
        follow_up = {"model": model, "input": [output], "previous_response_id": answer["id"], "tools": [tool]}
        status, second, content = await gateway.post("/v1/responses", follow_up)
        assert (status, second["x-penstock-session"]) == (200, headers["x-penstock-session"]), content
        assert "hail" in content.decode()
        status, _, content = await gateway.post("/v1/responses", {**follow_up, "previous_response_id": "resp_unknown"})
        assert status == 400 and json.loads(content)["error"]["param"] == "previous_response_id"


async def test_a_response_of_another_key_cannot_be_continued(tmp_path):
    keys = "keys: [{id: a, team: a, secret: {env: OPENAI}}, {id: b, team: b, secret: {env: ANTHROPIC}}]"
    async with running_gateway(tmp_path, more=keys) as gateway:
        for model in ("openai", "chat-only"):
            _, _, content = await gateway.post(
                "/v1/responses", {"model": model, "input": "x"}, Authorization="Bearer openai-key"
            )
            answer = json.loads(content)["id"]
            follow_up = {"model": model, "input": "y", "previous_response_id": answer}
            assert (await gateway.post("/v1/responses", follow_up, Authorization="Bearer anthropic-key"))[0] == 404
            assert (await gateway.request("GET", f"/v1/responses/{answer}", Authorization="Bearer anthropic-key"))[
                0
            ] == 404
            assert (await gateway.post("/v1/responses", follow_up, Authorization="Bearer openai-key"))[0] == 200


async def test_a_response_with_store_false_is_not_kept(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        _, _, content = await gateway.post("/v1/responses", {"model": "chat-only", "input": "x", "store": False})
        follow_up = {"model": "chat-only", "input": "y", "previous_response_id": json.loads(content)["id"]}
        assert (await gateway.post("/v1/responses", follow_up))[0] == 400


async def test_anthropic_cache_usage_is_counted_within_input(tmp_path):
    system = [{"type": "text", "text": "long " * 2000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    async with running_gateway(tmp_path) as gateway:
        for _ in range(2):
            assert (
                await gateway.post("/v1/messages", body("messages", "hi", "anthropic", system=system), **ANTHROPIC)
            )[0] == 200
        first, second = await gateway.ledger()
        assert first.cache_write_tokens > 1000 and second.cached_input_tokens == first.cache_write_tokens
        assert first.input_tokens == second.input_tokens
        plain = first.input_tokens - first.cache_write_tokens
        assert first.charge_nusd == plain * 1000 + first.cache_write_tokens * 2000 + first.output_tokens * 2000
        assert second.charge_nusd == plain * 1000 + second.cached_input_tokens * 100 + second.output_tokens * 2000
        assert first.charge_nusd <= first.hold_nusd


@pytest.mark.parametrize("inputs", ["text", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
async def test_embeddings_of_text_and_tokens(tmp_path, inputs):
    async with running_gateway(tmp_path) as gateway:
        status, _, content = await gateway.post(
            "/v1/embeddings", {"model": "openai", "input": inputs, "encoding_format": "base64"}
        )
        assert status == 200, content
        (entry,) = await gateway.ledger()
        assert (entry.outcome, entry.output_tokens, entry.usage_basis) == ("completed", 0, "exact")
        assert 0 < entry.charge_nusd <= entry.hold_nusd


async def test_embeddings_never_change_their_model(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        gateway.providers["chatonly"]  # the first candidate of 'all'
        status, headers, content = await gateway.post("/v1/embeddings", {"model": "all", "input": "[[sim {}]]"})
        assert (status, headers["x-penstock-deployment"]) == (200, "chatonly"), content


@pytest.mark.parametrize("stream", [False, True])
async def test_text_completions(tmp_path, stream):
    async with running_gateway(tmp_path) as gateway:
        status, _, content = await gateway.post(
            "/v1/completions", {"model": "openai", "prompt": "go", "stream": stream}
        )
        assert status == 200, content
        assert (b"data: [DONE]" in content) == stream
        assert b'"usage":{' not in content.replace(b" ", b"") or not stream, "usage was not requested"
        (entry,) = await gateway.ledger()
        assert (entry.outcome, entry.usage_basis) == ("completed", "exact")


async def test_repeated_failures_open_the_circuit_breaker(tmp_path):
    async with running_gateway(tmp_path, more="retries: {same_deployment: 0}") as gateway:
        broken = body("chat", '[[sim {"fault": "status:500"}]]', "openai")
        for _ in range(FAILURES_TO_OPEN):
            assert (await gateway.post("/v1/chat/completions", broken))[0] == 502
        status, headers, content = await gateway.post("/v1/chat/completions", body("chat", "hi", "openai"))
        assert (status, json.loads(content)["error"]["code"]) == (503, "circuit_breaker_open")
        assert 1 <= int(headers["retry-after"]) <= 5
        assert len(gateway.providers["openai"].request_bodies) == FAILURES_TO_OPEN
        status, headers, _ = await gateway.post("/v1/chat/completions", body("chat", "hi", "all"))
        assert (status, headers["x-penstock-deployment"]) == (200, "chatonly"), "other deployments serve meanwhile"


@pytest.mark.parametrize("name", PATHS)
async def test_a_provider_out_of_quota_is_not_retried(tmp_path, name):
    text = '[[sim {"fault": "insufficient_quota", "at": "sim-anthropic"}]]'
    async with running_gateway(tmp_path) as gateway:
        assert (await gateway.post(PATHS[name], body(name, text, "anthropic")))[0] == 502
        assert len(gateway.providers["anthropic"].request_bodies) == 1


async def test_fallback_translates_for_a_deployment_of_another_dialect(tmp_path):
    text = '[[sim {"fault": "status:503", "at": "sim-chatonly"}]]'
    async with running_gateway(tmp_path) as gateway:
        status, headers, _ = await gateway.post("/v1/messages", body("messages", text, "all"), **ANTHROPIC)
        assert (status, headers["x-penstock-deployment"]) == (200, "openai")
        entries = await gateway.ledger()
        assert [(entry.deployment, entry.final) for entry in entries] == [("chatonly", 0), ("openai", 1)]
