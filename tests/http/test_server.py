"""The HTTP server over real sockets: requests, responses and ledger entries."""

import asyncio
import gzip
import json
import re
import socket
from typing import Any

import openai
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from gateway.http import server
from tests.gateways import AUTH_HEADERS, StartGateway, metric_sum, until
from tests.http.raw_http import exchange, request_bytes


async def test_a_response_carries_the_gateway_headers(start_gateway: StartGateway):
    async with start_gateway() as gateway, gateway.post() as answer:
        assert answer.status == 200
        body = await answer.json()
        assert body["choices"][0]["message"]["content"]
        for name in (
            "request-id",
            "session",
            "deployment",
            "tier",
            "complexity",
            "task-type",
            "reason",
            "cost-usd",
            "energy-wh",
            "carbon-g",
            "config",
        ):
            assert answer.headers[f"x-penstock-{name}"], name
        assert answer.headers["x-request-id"] == body["id"], "the provider's own id, as clients log it"
        assert answer.headers["Server"] == "penstock"


async def test_the_body_reaches_the_provider_unchanged(start_gateway: StartGateway):
    raw = b'{"model":"auto", "messages":[{"role":"user","content":"h\\u00e9"}],\n "future":{"x":[1e400,12345678901234567890123]}}'
    async with start_gateway() as gateway:
        async with gateway.client.post(
            f"{gateway.base_url}/v1/chat/completions", data=raw, headers=AUTH_HEADERS
        ) as answer:
            # The simulated provider cannot parse 1e400; only the bytes it received matter.
            await answer.read()
        assert gateway.small_provider.request_bodies == [] or gateway.small_provider.request_bodies[0] == raw.replace(
            b'"auto"', b'"sim-small"'
        )


async def test_the_provider_gets_its_own_key_and_not_the_callers(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        async with gateway.post(
            {"Cookie": "a=b", "OpenAI-Organization": "org", "OpenAI-Beta": "b", "X-Secret": "s"}
        ) as answer:
            await answer.read()
        (headers,) = gateway.small_provider.request_headers
    assert headers["Authorization"] == "Bearer provider-secret"
    assert headers["openai-beta"] == "b"
    assert not {"Cookie", "X-Secret", "openai-organization", "OpenAI-Organization"} & set(headers)


@pytest.mark.parametrize("wants_usage", [True, False], ids=["usage requested", "usage not requested"])
async def test_a_stream_is_complete_and_has_usage_only_on_request(start_gateway: StartGateway, wants_usage):
    options: Any = {"stream_options": {"include_usage": True}} if wants_usage else {}
    async with start_gateway() as gateway:
        async with gateway.post(stream=True, **options) as answer:
            text = (await answer.read()).decode()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert text.endswith("data: [DONE]\n\n")
        assert ('"usage":{' in text) is wants_usage
        await until(gateway.ledger_rows)
        (entry,) = gateway.ledger_rows()
    assert (entry["usage_basis"], entry["outcome"]) == ("exact", "completed")


async def test_ledger_metrics_and_export_agree_to_the_nano_dollar(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        for number in range(12):
            async with gateway.post(stream=number % 2 == 0, sim={"output_tokens": 7 + number}) as answer:
                await answer.read()
        async with gateway.post(sim={"fault": "status:500"}) as answer:
            assert answer.status == 502
        await until(lambda: len(gateway.ledger_rows()) >= 15)
        spent = sum(entry["charge_nusd"] for entry in gateway.ledger_rows())
        async with gateway.get("/metrics") as answer:
            families = {f.name: f for f in text_string_to_metric_families(await answer.text())}
        async with gateway.get("/export?format=json&by=task_type,tier") as answer:
            rows = (await answer.json(content_type=None))["rows"]
    metric = sum(round(sample.value * 1e9) for sample in families["penstock_charge_usd"].samples)
    assert metric == sum(row["charge_nusd"] for row in rows) == spent > 0
    assert (
        sum(sample.value for sample in families["penstock_requests"].samples)
        == 13
        == sum(row["requests"] for row in rows)
    )
    for bound in ("low", "mid", "high"):
        joules = sum(s.value for s in families["penstock_energy_joules"].samples if s.labels["bound"] == bound)
        assert round(joules * 1000) == sum(row[f"energy_mj_{bound}"] for row in rows)


@pytest.mark.parametrize(
    "headers, status, code",
    [
        ({}, 401, "missing_api_key"),
        ({"Authorization": "Bearer wrong"}, 401, "invalid_api_key"),
        ({"x-api-key": "secret-two"}, 200, None),
        ({"api-key": "secret-two"}, 200, None),
        ({"authorization": "bearer secret-one"}, 200, None),
        ({"Authorization": "Bearer "}, 401, "missing_api_key"),
        ({"Authorization": "Bearer secret-one\u00e9"}, 401, "invalid_api_key"),
    ],
)
async def test_api_keys(start_gateway: StartGateway, headers, status, code):
    async with start_gateway() as gateway, gateway.get("/v1/models", headers=headers) as answer:
        assert answer.status == status
        document = await answer.json()
        assert document.get("error", {}).get("code") == code
        assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
        assert "wrong" not in await answer.text()


async def test_models_are_the_routes(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        async with gateway.get("/v1/models", headers=AUTH_HEADERS) as answer:
            assert [model["id"] for model in (await answer.json())["data"]] == ["auto", "small", "frontier"]
        async with gateway.get("/v1/models/small", headers=AUTH_HEADERS) as answer:
            assert (await answer.json())["id"] == "small"
        async with gateway.get("/v1/models/none", headers=AUTH_HEADERS) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "method, path, data, status, code",
    [
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b'{"model":"auto","messages":[]}', 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b'{"model":"nope","messages":[{"role":"user"}]}', 404, "model_not_found"),
        ("POST", "/v1/chat/completions", b" " * 3000, 413, "body_too_large"),
        ("GET", "/v1/chat/completions", None, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", None, 405, "method_not_allowed"),
        ("GET", "/nothing", None, 404, "not_found"),
        ("GET", "/../../etc/passwd", None, 404, "not_found"),
    ],
)
async def test_bad_requests_get_an_openai_error_and_no_ledger_entry(
    start_gateway: StartGateway, method, path, data, status, code
):
    async with start_gateway(body_bytes_max=2000) as gateway:
        async with gateway.client.request(
            method, f"{gateway.base_url}{path}", data=data, headers=AUTH_HEADERS
        ) as answer:
            assert answer.status == status
            error = (await answer.json())["error"]
            assert error["code"] == code
            assert "Traceback" not in error["message"]
        await gateway.stop()
        assert gateway.ledger_rows() == []


@pytest.mark.parametrize(
    "path, message",
    [
        (
            "/chat/completions",
            "No such endpoint: POST /chat/completions. Endpoints begin with /v1; check that the base URL is "
            "http://HOST:PORT/v1.",
        ),
        ("/v1/organization/users", "No such endpoint: POST /v1/organization/users."),
    ],
)
async def test_a_wrong_path_points_to_the_base_url(start_gateway: StartGateway, path, message):
    async with (
        start_gateway() as gateway,
        gateway.client.post(f"{gateway.base_url}{path}", json={}, headers=AUTH_HEADERS) as answer,
    ):
        assert (answer.status, (await answer.json())["error"]["message"]) == (404, message)


async def test_the_body_limit_applies_to_chunked_and_compressed_bodies(start_gateway: StartGateway):
    async def chunks():
        for _ in range(30):
            yield b" " * 100

    async with start_gateway(body_bytes_max=2000) as gateway:
        for data, more in ((chunks(), {}), (gzip.compress(b" " * 1_000_000), {"Content-Encoding": "gzip"})):
            async with gateway.client.post(
                f"{gateway.base_url}/v1/chat/completions", data=data, headers={**AUTH_HEADERS, **more}
            ) as answer:
                assert answer.status == 413


async def test_invalid_http_is_not_echoed_in_the_error(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.app.port)
        writer.write(b"GARBAGE secret-token HTTP/9.9\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert b"400" in answer.split(b"\r\n")[0]
    assert b"secret-token" not in answer
    assert b'"code":"invalid_http"' in answer


async def test_a_client_that_disconnects_mid_stream_cancels_the_upstream_call(start_gateway: StartGateway):
    async with start_gateway(rate=50.0) as gateway:
        answer = await gateway.post(stream=True, sim={"output_tokens": 400})
        # The first event has a role only; the usage of a cancelled stream is estimated from its text.
        while not re.search(rb'"content":"[^"]', await answer.content.readline()):
            pass
        answer.close()
        await until(lambda: gateway.small_provider.disconnects == 1)
        await until(gateway.ledger_rows)
        (entry,) = gateway.ledger_rows()
    assert (entry["outcome"], entry["usage_basis"]) == ("cancelled", "estimated")
    assert 0 < entry["output_tokens"] < 100
    assert 0 < entry["charge_nusd"] < entry["hold_nusd"]


async def test_a_client_that_closes_after_the_last_event_counts_as_completed(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        async with openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="secret-one", max_retries=0) as client:
            for _ in range(10):
                stream = await client.chat.completions.create(
                    model="small", stream=True, messages=[{"role": "user", "content": "hi"}]
                )
                async for _chunk in stream:
                    pass
        await until(lambda: len(gateway.ledger_rows()) == 10)
        assert {entry["outcome"] for entry in gateway.ledger_rows()} == {"completed"}


async def test_a_client_that_disconnects_from_a_silent_provider_cancels_the_call(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        request = asyncio.ensure_future(gateway.post(stream=True, sim={"fault": "hang"}).__aenter__())
        await until(lambda: len(gateway.small_provider.request_bodies) == 1)
        request.cancel()
        await until(lambda: gateway.small_provider.disconnects == 1)
        await until(gateway.ledger_rows)
        (entry,) = gateway.ledger_rows()
        assert await gateway.open_holds() == 0
    assert entry["outcome"] == "cancelled"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "fault, status, outcome",
    [
        ("status:503", 502, "upstream_error"), ("status:400", 400, "rejected"), ("not_json", 502, "upstream_error"),
        ("garbage", None, None), ("no_usage", 200, "completed"),
    ],
)  # fmt: skip
async def test_a_misbehaving_provider_yields_a_clean_response_and_one_final_entry(
    start_gateway: StartGateway, stream, fault, status, outcome
):
    async with start_gateway() as gateway:
        async with gateway.post(model="small", stream=stream, sim={"fault": fault}) as answer:
            text = await answer.text(errors="replace")
        assert status is None or answer.status == status
        assert not any(word in text for word in ("Traceback", "provider-secret", "site-packages"))
        await until(lambda: any(entry["final"] for entry in gateway.ledger_rows()))
        finals = [entry for entry in gateway.ledger_rows() if entry["final"]]
        assert await gateway.open_holds() == 0
    assert len(finals) == 1
    assert outcome is None or finals[0]["outcome"] == outcome
    if fault == "no_usage":
        assert finals[0]["usage_basis"] == "estimated"


@pytest.mark.parametrize("fault", ["cut", "hang_mid", "flood"])
async def test_a_broken_stream_raises_in_the_client(start_gateway: StartGateway, fault):
    async with start_gateway(small=", timeouts: {idle: 0.3}") as gateway:
        async with openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="secret-one", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="small",
                stream=True,
                messages=[{"role": "user", "content": "hi"}],
                extra_body={"sim": {"fault": fault}},
            )
            with pytest.raises(openai.APIError):
                async for _ in stream:
                    pass
        await until(gateway.ledger_rows)
        (entry,) = gateway.ledger_rows()
    assert (entry["outcome"], entry["usage_basis"]) == ("cut", "estimated")
    assert entry["charge_nusd"] > 0


@pytest.mark.parametrize(
    "timeouts, sim", [("first_byte: 0.2", {"fault": "hang"}), ("total: 0.3", {"fault": "hang_mid"})]
)
async def test_a_provider_that_hangs_times_out(start_gateway: StartGateway, timeouts, sim):
    async with start_gateway(small=f", timeouts: {{{timeouts}}}", more="") as gateway:
        async with gateway.post(model="small", stream=True, sim=sim) as answer:
            text = await answer.text()
        assert '"code":"upstream_timeout"' in text
        await until(gateway.ledger_rows)
        assert await gateway.open_holds() == 0


async def test_readiness_and_liveness(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        for path in ("/livez", "/readyz", "/healthz"):
            async with gateway.get(path) as answer:
                assert answer.status == 200


async def test_readiness_fails_while_open_streams_finish(start_gateway: StartGateway):
    async with start_gateway(rate=50.0, admin_port=0) as gateway:
        stream = await gateway.post(stream=True, sim={"output_tokens": 400})
        await stream.content.readany()
        stopping = asyncio.ensure_future(gateway.stop())
        readyz = f"http://127.0.0.1:{gateway.app.admin_port}/readyz"

        async def draining() -> bool:
            async with gateway.client.get(readyz) as answer:
                return (answer.status, await answer.text()) == (503, "draining: finishing open requests\n")

        await until(draining)
        assert not stopping.done()
        stream.close()
        await stopping


async def test_shutdown_lets_open_streams_finish(start_gateway: StartGateway):
    async with start_gateway(rate=200.0) as gateway:
        answer = await gateway.post(stream=True, sim={"output_tokens": 100})
        await answer.content.readany()
        stopping = asyncio.ensure_future(gateway.stop())
        text = (await answer.read()).decode()
        await stopping
        assert text.endswith("data: [DONE]\n\n")
        (entry,) = gateway.ledger_rows()
        assert entry["outcome"] == "completed"


async def test_requests_over_the_concurrency_limit_get_503(start_gateway: StartGateway):
    async with start_gateway(slow=0.3, concurrent_requests_max=1) as gateway:

        async def post_status() -> int:
            async with gateway.post() as answer:
                await answer.read()
                return answer.status

        assert sorted(await asyncio.gather(*(post_status() for _ in range(3)))) == [200, 503, 503]


@pytest.mark.parametrize(
    "path, status",
    [
        ("/export?by=secret", 400),
        ("/export?format=xml", 400),
        ("/export?from=yesterday", 400),
        ("/export?x=1", 400),
        ("/export", 200),
    ],
)
async def test_the_export_rejects_invalid_parameters(start_gateway: StartGateway, path, status):
    async with start_gateway() as gateway, gateway.get(path) as answer:
        assert answer.status == status


async def test_the_export_names_the_form_of_a_time(start_gateway: StartGateway):
    async with start_gateway() as gateway, gateway.get("/export?to=tomorrow") as answer:
        assert (await answer.json())["error"]["message"] == (
            "Invalid export query: 'to' must be an ISO 8601 time, like 2026-11-01."
        )


async def test_the_export_requires_the_admin_token_if_one_is_set(start_gateway: StartGateway):
    async with start_gateway(admin_token="let-me-in") as gateway:
        async with gateway.get("/export") as answer:
            assert answer.status == 401
        async with gateway.get("/export", headers={"Authorization": "Bearer let-me-in"}) as answer:
            assert answer.status == 200


async def test_a_separate_admin_port_removes_metrics_from_the_callers_port(start_gateway: StartGateway):
    async with start_gateway(admin_port=0) as gateway:
        async with gateway.get("/metrics") as answer:
            assert answer.status == 404
        async with gateway.client.get(f"http://127.0.0.1:{gateway.app.admin_port}/metrics") as answer:
            assert answer.status == 200


async def test_session_ids_are_read_from_headers_and_truncated(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        for headers, expected in (
            ({"x-session-id": "run 7"}, "run 7"), ({"session-id": "abc"}, "abc"), ({"x-session-id": "x" * 500}, "x" * 128),
        ):  # fmt: skip
            async with gateway.post(headers) as answer:
                assert answer.headers["x-penstock-session"] == expected


async def test_three_hundred_concurrent_requests_all_complete(start_gateway: StartGateway):
    async with start_gateway(slow=0.05) as gateway:

        async def post_status(number: int) -> int:
            async with gateway.post(stream=number % 3 == 0, sim={"output_tokens": 3}) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(post_status(number) for number in range(300)))
        assert set(statuses) == {200}
        await until(lambda: len(gateway.ledger_rows()) == 300)
        assert await gateway.open_holds() == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"Authorization: Bearer \xff\xfe\r\n",
        b"Authorization: Bearer secret-one\r\nx-session-id: caf\xe9\r\n",
        b"Authorization: Bearer secret-one\r\nx-penstock-task-type: caf\xe9\r\n",
    ],
    ids=["key", "session", "task type"],
)
async def test_header_bytes_that_are_not_utf8_never_cause_a_500(start_gateway: StartGateway, raw):
    body = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
    async with start_gateway() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.app.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + raw)
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        status = (await asyncio.wait_for(reader.readline(), 5)).split()[1]
        writer.close()
    assert status in (b"200", b"400", b"401")


async def test_expect_100_continue_is_answered(start_gateway: StartGateway):
    body = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
    async with start_gateway() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.app.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-one\r\n")
        writer.write(b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert b"100 Continue" in await asyncio.wait_for(reader.readline(), 2)
        await reader.readline()
        writer.write(body)
        assert b"200" in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_caller_that_does_not_read_is_disconnected_and_its_hold_resolved(
    start_gateway: StartGateway, monkeypatch, stream
):
    monkeypatch.setattr(server, "STALL_SECONDS", 0.3)
    # More than the kernel buffers: an event of the stream has about 200 bytes for 4 characters.
    text = "x" * (400_000 if stream else 4_000_000)
    body = {"model": "small", "stream": stream, "messages": [{"role": "user", "content": "x"}], "sim": {"reply": {"content": text}}}  # fmt: skip
    document = json.dumps(body).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-one\r\n"
    loop = asyncio.get_running_loop()
    async with start_gateway() as gateway:
        await gateway.metrics()
        connections_before = gateway.app.open_connections
        with socket.socket() as caller:
            caller.setblocking(False)
            await loop.sock_connect(caller, ("127.0.0.1", gateway.app.port))
            await loop.sock_sendall(caller, head + b"Content-Length: %d\r\n\r\n" % len(document) + document)

            async def is_settled() -> bool:
                metrics = await gateway.metrics()
                return bool(gateway.ledger_rows()) and metric_sum(metrics, "penstock_open_requests") == 0

            await until(is_settled)
            assert await gateway.open_holds() == 0
            await until(lambda: gateway.app.open_connections == connections_before)
            received = await _read_to_end(caller)
        assert received.startswith(b"HTTP/1.1 200")
        assert not (b"data: [DONE]" in received if stream else len(received) > len(text)), "cut off"


async def _read_to_end(caller: socket.socket) -> bytes:
    """What is received until the gateway closes or resets the connection."""
    received = b""
    try:
        async with asyncio.timeout(20):
            while data := await asyncio.get_running_loop().sock_recv(caller, 65536):
                received += data
    except ConnectionResetError:
        pass
    return received


async def test_a_data_folder_is_locked_by_one_gateway(start_gateway: StartGateway, tmp_path):
    async with start_gateway(data=tmp_path / "shared") as gateway:
        with pytest.raises(OSError, match="another gateway"):
            async with start_gateway(data=tmp_path / "shared"):
                pass
        async with gateway.post() as answer:
            assert answer.status == 200


async def test_implausible_usage_is_replaced_by_an_estimate(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        async with gateway.post(sim={"output_tokens": 2**53 - 1}) as answer:
            await answer.read()
        async with gateway.post() as answer:
            await answer.read()
        await until(lambda: len(gateway.ledger_rows()) == 2)
        assert [entry["usage_basis"] for entry in gateway.ledger_rows()] == ["estimated", "exact"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/v1/chat/completions", "/v1/v1/messages", "/anthropic/v1/v1/messages", "/v1/v1/images/generations",
        "/v1/%76%31/responses", "//v1/v1/responses", "/v1/engines/small/completions", "/v1/openai/v1/chat/completions",
        "/v1/budgets", "/v1/session", "/v1/message", "/chat/completions", "/V1/chat/completions", "/v1//chat/completions",
        "/v1%2Fchat/completions", "/%761/chat/completions", "/v1/chat%2Fcompletions", "/v1/chat/completions%20",
        "/v1/./chat/completions", "http://gateway/v1/v1/chat/completions",
    ],
)  # fmt: skip
async def test_a_misspelled_path_reaches_no_provider_and_no_budget(start_gateway: StartGateway, path):
    async with start_gateway(more="budgets: {none: {limit: {usd: 0.000000001}, window: day}}") as gateway:
        answer = await exchange(gateway.app.port, request_bytes(path))
        document = json.loads(answer.body)
        assert (answer.status, document["error"]["code"]) == (404, "not_found")
        assert document["error"]["message"].startswith("No such endpoint: POST ")
        assert ("type" in document) is path.endswith("/messages"), "Anthropic's shape"
        assert "budget is" not in document["error"]["message"].lower()
        assert not gateway.small_provider.request_bodies and not gateway.frontier_provider.request_bodies
        assert gateway.ledger_rows() == []


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("GET", "/v1/chat/completions", "POST"), ("DELETE", "/v1/models", "GET, HEAD"), ("PUT", "/v1/messages", "POST"),
        ("POST", "/v1/budgets/me", "GET, HEAD"), ("GET", "/v1/sessions", "POST"), ("PUT", "/v1/sessions/s1", "GET, HEAD, POST"),
        ("GET", "/v1/messages/count_tokens", "POST"), ("TRACE", "/v1/files", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        ("POST", "/metrics", "GET, HEAD"), ("DELETE", "/readyz", "GET, HEAD"), ("PUT", "/approve/x", "GET, HEAD, POST"),
    ],
)  # fmt: skip
async def test_a_405_names_the_methods_of_its_path(start_gateway: StartGateway, method, path, allow):
    async with start_gateway() as gateway:
        answer = await exchange(gateway.app.port, request_bytes(path, b"", method=method))
    assert (answer.status, answer.headers.get("allow"), answer.headers["server"]) == (405, allow, "penstock")


@pytest.mark.parametrize(
    "path, allow",
    [("/v1/chat/completions", "POST, OPTIONS"), ("/v1/models", "GET, HEAD, OPTIONS"),
     ("/v1/files", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"), ("*", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")],
)  # fmt: skip
async def test_options_names_the_methods_without_a_key(start_gateway: StartGateway, path, allow):
    async with start_gateway() as gateway:
        answer = await exchange(gateway.app.port, request_bytes(path, b"", method="OPTIONS", headers=()))
        assert not gateway.small_provider.request_headers
    assert (answer.status, answer.headers["allow"], answer.body) == (204, allow, b"")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/small", "/v1/budgets/me", "/livez", "/readyz", "/metrics"])
async def test_head_answers_like_get_without_a_body(start_gateway: StartGateway, path):
    async with start_gateway() as gateway:
        answer = await exchange(gateway.app.port, request_bytes(path, b"", method="HEAD"))
    assert (answer.status, answer.body, answer.headers["server"]) == (200, b"", "penstock")


async def test_headers_that_are_too_large_are_counted_and_say_so(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        for headers in ((("X-Long", "x" * 20_000),), tuple((f"X-{number}", "x") for number in range(200))):
            answer = await exchange(gateway.app.port, request_bytes("/v1/models", b"", method="GET", headers=headers))
            error = json.loads(answer.body)["error"]
            assert (answer.status, error["code"], answer.headers["server"]) == (431, "invalid_http", "penstock")
        assert metric_sum(await gateway.metrics(), "penstock_errors_total") == 2
        long = (("Authorization", "Bearer secret-one"), ("X-Codex-Turn-Metadata", "x" * 16_000))
        assert (await exchange(gateway.app.port, request_bytes("/v1/chat/completions", headers=long))).status == 200


async def test_a_repeated_header_reaches_the_provider_as_a_list(start_gateway: StartGateway):
    headers = (("Authorization", "Bearer secret-one"), ("OpenAI-Beta", "one=v1"), ("openai-beta", "two=v2"))
    async with start_gateway() as gateway:
        assert (await exchange(gateway.app.port, request_bytes("/v1/chat/completions", headers=headers))).status == 200
        (sent,) = gateway.small_provider.request_headers
    assert {name.lower(): value for name, value in sent.items()}["openai-beta"] == "one=v1,two=v2"


@pytest.mark.parametrize(
    "headers",
    [(("Authorization", "Bearer sk-ant-oat-login"), ("x-api-key", "secret-two")),
     (("Authorization", "Bearer secret-two"), ("x-api-key", "sk-ant-other"))],
)  # fmt: skip
async def test_of_two_keys_the_known_one_counts_and_neither_is_sent_on(start_gateway: StartGateway, headers):
    async with start_gateway() as gateway:
        assert (await exchange(gateway.app.port, request_bytes("/v1/chat/completions", headers=headers))).status == 200
        sent = str(gateway.small_provider.request_headers)
        await until(gateway.ledger_rows)
        assert [row["key"] for row in gateway.ledger_rows()] == ["k2"]
    assert "sk-ant" not in sent and "secret-two" not in sent and "Bearer provider-secret" in sent


async def test_a_large_answer_is_sent_in_slices(start_gateway: StartGateway, monkeypatch):
    """The time limit of a write applies to each slice: a 4K picture takes longer than that on a slow line."""
    sizes, write, text = [], web.StreamResponse.write, "x" * 1_000_000

    async def recorded(self, data):
        sizes.append(len(data))
        await write(self, data)

    monkeypatch.setattr(web.StreamResponse, "write", recorded)
    async with start_gateway() as gateway, gateway.post(model="small", sim={"reply": text}) as answer:
        body = await answer.read()
        assert json.loads(body)["choices"][0]["message"]["content"] == text
        assert (answer.headers["Content-Length"], answer.headers["Content-Type"]) == (
            str(len(body)),
            "application/json",
        )
    assert sum(size for size in sizes if size > 1000) >= len(text) and max(sizes) <= 256 * 1024
