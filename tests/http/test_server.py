"""The street door, over real sockets: what callers send, what they see, what the ledger says."""

import asyncio
import gzip
import json
import sqlite3

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.http import server
from tests.gateways import AUTH_HEADERS, Gateway, StartGateway


def entries(gateway: Gateway) -> list[sqlite3.Row]:
    db = sqlite3.connect(gateway.data_folder / "ledger.sqlite")
    db.row_factory = sqlite3.Row
    rows = db.execute("SELECT * FROM entries ORDER BY at_ms, id").fetchall()
    db.close()
    return rows


async def eventually(condition, seconds: float = 3.0):
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen")


async def test_a_plain_request_says_what_happened(start_gateway: StartGateway):
    async with start_gateway() as at, at.post() as answer:
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


async def test_the_body_arrives_as_it_was_sent(start_gateway: StartGateway):
    raw = b'{"model":"auto", "messages":[{"role":"user","content":"h\\u00e9"}],\n "future":{"x":[1e400,12345678901234567890123]}}'
    async with start_gateway() as at:
        async with at.client.post(f"{at.base_url}/v1/chat/completions", data=raw, headers=AUTH_HEADERS) as answer:
            # The simulated provider cannot read 1e400; what it received is what counts.
            await answer.read()
        assert at.small_provider.request_bodies == [] or at.small_provider.request_bodies[0] == raw.replace(
            b'"auto"', b'"sim-small"'
        )


async def test_the_provider_sees_its_own_key_and_not_the_caller_s(start_gateway: StartGateway):
    async with start_gateway() as at:
        async with at.post(
            {"Cookie": "a=b", "OpenAI-Organization": "org", "OpenAI-Beta": "b", "X-Secret": "s"}
        ) as answer:
            await answer.read()
        (seen,) = at.small_provider.request_headers
    assert seen["Authorization"] == "Bearer provider-secret"
    assert seen["openai-beta"] == "b"
    assert not {"Cookie", "X-Secret", "openai-organization", "OpenAI-Organization"} & set(seen)


@pytest.mark.parametrize("asked", [True, False], ids=["asked for usage", "did not ask"])
async def test_a_stream_arrives_whole_with_usage_only_for_those_who_ask(start_gateway: StartGateway, asked):
    options = {"stream_options": {"include_usage": True}} if asked else {}
    async with start_gateway() as at:
        async with at.post(stream=True, **options) as answer:
            text = (await answer.read()).decode()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert text.endswith("data: [DONE]\n\n")
        assert ('"usage":{' in text) is asked
        await eventually(lambda: entries(at))
        (entry,) = entries(at)
    assert (entry["usage_basis"], entry["outcome"]) == ("exact", "completed")


async def test_ledger_metrics_and_export_agree_to_the_nano_dollar(start_gateway: StartGateway):
    async with start_gateway() as at:
        for number in range(12):
            async with at.post(stream=number % 2 == 0, sim={"output_tokens": 7 + number}) as answer:
                await answer.read()
        async with at.post(sim={"fault": "status:500"}) as answer:
            assert answer.status == 502
        await eventually(lambda: len(entries(at)) >= 15)
        spent = sum(entry["charge_nusd"] for entry in entries(at))
        async with at.get("/metrics") as answer:
            families = {f.name: f for f in text_string_to_metric_families(await answer.text())}
        async with at.get("/export?format=json&by=task_type,tier") as answer:
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
async def test_keys(start_gateway: StartGateway, headers, status, code):
    async with start_gateway() as at, at.get("/v1/models", headers=headers) as answer:
        assert answer.status == status
        document = await answer.json()
        assert document.get("error", {}).get("code") == code
        assert "wrong" not in await answer.text()


async def test_models_are_the_routes(start_gateway: StartGateway):
    async with start_gateway() as at:
        async with at.get("/v1/models", headers=AUTH_HEADERS) as answer:
            assert [model["id"] for model in (await answer.json())["data"]] == ["auto", "small", "frontier"]
        async with at.get("/v1/models/small", headers=AUTH_HEADERS) as answer:
            assert (await answer.json())["id"] == "small"
        async with at.get("/v1/models/none", headers=AUTH_HEADERS) as answer:
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
    async with start_gateway(body_bytes_max=2000) as at:
        async with at.client.request(method, f"{at.base_url}{path}", data=data, headers=AUTH_HEADERS) as answer:
            assert answer.status == status
            error = (await answer.json())["error"]
            assert error["code"] == code
            assert "Traceback" not in error["message"]
        await asyncio.sleep(0.15)
        assert entries(at) == []


async def test_a_chunked_or_compressed_body_cannot_pass_the_limit_either(start_gateway: StartGateway):
    async def dribble():
        for _ in range(30):
            yield b" " * 100

    async with start_gateway(body_bytes_max=2000) as at:
        for data, more in ((dribble(), {}), (gzip.compress(b" " * 1_000_000), {"Content-Encoding": "gzip"})):
            async with at.client.post(
                f"{at.base_url}/v1/chat/completions", data=data, headers={**AUTH_HEADERS, **more}
            ) as answer:
                assert answer.status == 413


async def test_what_is_not_http_is_answered_without_echo(start_gateway: StartGateway):
    async with start_gateway() as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.app.port)
        writer.write(b"GARBAGE secret-token HTTP/9.9\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert b"400" in answer.split(b"\r\n")[0]
    assert b"secret-token" not in answer
    assert b'"code":"invalid_http"' in answer


async def test_a_caller_who_hangs_up_mid_stream_ends_the_provider_s_work_at_once(start_gateway: StartGateway):
    async with start_gateway(rate=50.0) as at:
        answer = await at.post(stream=True, sim={"output_tokens": 400})
        await answer.content.readany()
        await asyncio.sleep(0.1)
        answer.close()
        await eventually(lambda: at.small_provider.disconnects == 1)
        await eventually(lambda: entries(at))
        (entry,) = entries(at)
    assert (entry["outcome"], entry["usage_basis"]) == ("cancelled", "estimated")
    assert 0 < entry["output_tokens"] < 100
    assert 0 < entry["charge_nusd"] < entry["hold_nusd"]


async def test_a_client_that_closes_once_it_has_seen_the_end_had_a_complete_answer(start_gateway: StartGateway):
    async with start_gateway() as at:
        async with openai.AsyncOpenAI(base_url=f"{at.base_url}/v1", api_key="secret-one", max_retries=0) as client:
            for _ in range(10):
                stream = await client.chat.completions.create(
                    model="small", stream=True, messages=[{"role": "user", "content": "hi"}]
                )
                async for _chunk in stream:
                    pass
        await eventually(lambda: len(entries(at)) == 10)
        assert {entry["outcome"] for entry in entries(at)} == {"completed"}


async def test_a_caller_who_hangs_up_on_a_silent_provider_is_noticed_at_once(start_gateway: StartGateway):
    async with start_gateway() as at:
        request = asyncio.ensure_future(at.post(stream=True, sim={"fault": "hang"}).__aenter__())
        await eventually(lambda: len(at.small_provider.request_bodies) == 1)
        request.cancel()
        await eventually(lambda: at.small_provider.disconnects == 1)
        await eventually(lambda: entries(at))
        (entry,) = entries(at)
        assert at.app._budget_service.book.open_holds == 0
    assert entry["outcome"] == "cancelled"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "fault, status, outcome",
    [
        ("status:503", 502, "upstream_error"), ("status:400", 400, "rejected"), ("not_json", 502, "upstream_error"),
        ("garbage", None, None), ("no_usage", 200, "completed"),
    ],
)  # fmt: skip
async def test_a_provider_that_misbehaves_is_a_clean_answer_and_one_final_entry(
    start_gateway: StartGateway, stream, fault, status, outcome
):
    async with start_gateway() as at:
        async with at.post(model="small", stream=stream, sim={"fault": fault}) as answer:
            text = await answer.text(errors="replace")
        assert status is None or answer.status == status
        assert not any(word in text for word in ("Traceback", "provider-secret", "site-packages"))
        await eventually(lambda: any(entry["final"] for entry in entries(at)))
        finals = [entry for entry in entries(at) if entry["final"]]
        assert at.app._budget_service.book.open_holds == 0
    assert len(finals) == 1
    assert outcome is None or finals[0]["outcome"] == outcome
    if fault == "no_usage":
        assert finals[0]["usage_basis"] == "estimated"


@pytest.mark.parametrize("fault", ["cut", "error_event", "hang_mid", "flood"])
async def test_a_stream_that_breaks_raises_in_the_client(start_gateway: StartGateway, fault):
    async with start_gateway(small=", timeouts: {idle: 0.3}") as at:
        async with openai.AsyncOpenAI(base_url=f"{at.base_url}/v1", api_key="secret-one", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="small",
                stream=True,
                messages=[{"role": "user", "content": "hi"}],
                extra_body={"sim": {"fault": fault}},
            )
            with pytest.raises(openai.APIError):
                async for _ in stream:
                    pass
        await eventually(lambda: entries(at))
        (entry,) = entries(at)
    assert (entry["outcome"], entry["usage_basis"]) == ("cut", "estimated")
    assert entry["charge_nusd"] > 0


@pytest.mark.parametrize(
    "timeouts, sim", [("first_byte: 0.2", {"fault": "hang"}), ("total: 0.3", {"fault": "hang_mid"})]
)
async def test_a_provider_that_hangs_is_given_up(start_gateway: StartGateway, timeouts, sim):
    async with start_gateway(small=f", timeouts: {{{timeouts}}}", more="") as at:
        async with at.post(model="small", stream=True, sim=sim) as answer:
            text = await answer.text()
        assert '"code":"upstream_timeout"' in text
        await eventually(lambda: entries(at))
        assert at.app._budget_service.book.open_holds == 0


async def test_readiness_and_liveness(start_gateway: StartGateway):
    async with start_gateway() as at:
        for path in ("/livez", "/readyz", "/healthz"):
            async with at.get(path) as answer:
                assert answer.status == 200
        at.app._draining = True
        async with at.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "draining: finishing open requests\n")


async def test_stopping_lets_a_stream_end(start_gateway: StartGateway):
    async with start_gateway(rate=200.0) as at:
        answer = await at.post(stream=True, sim={"output_tokens": 100})
        await answer.content.readany()
        stopping = asyncio.ensure_future(at.app.stop())
        text = (await answer.read()).decode()
        await stopping
        assert text.endswith("data: [DONE]\n\n")
        (entry,) = entries(at)
        assert entry["outcome"] == "completed"
        at.app._runners.clear()

        async def done() -> None:
            return None

        at.app.stop = done


async def test_too_many_calls_at_once_are_told_to_come_back(start_gateway: StartGateway):
    async with start_gateway(slow=0.3, concurrent_requests_max=1) as at:

        async def one() -> int:
            async with at.post() as answer:
                await answer.read()
                return answer.status

        assert sorted(await asyncio.gather(*(one() for _ in range(3)))) == [200, 503, 503]


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
async def test_the_export_refuses_what_it_does_not_know(start_gateway: StartGateway, path, status):
    async with start_gateway() as at, at.get(path) as answer:
        assert answer.status == status


async def test_the_export_wants_a_token_where_one_is_set(start_gateway: StartGateway):
    async with start_gateway(admin_token="let-me-in") as at:
        async with at.get("/export") as answer:
            assert answer.status == 401
        async with at.get("/export", headers={"Authorization": "Bearer let-me-in"}) as answer:
            assert answer.status == 200


async def test_an_own_admin_port_takes_metrics_off_the_callers_port(start_gateway: StartGateway):
    async with start_gateway(admin_port=0) as at:
        async with at.get("/metrics") as answer:
            assert answer.status == 404
        async with at.client.get(f"http://127.0.0.1:{at.app.admin_port}/metrics") as answer:
            assert answer.status == 200


async def test_sessions_are_taken_from_headers_and_cleaned(start_gateway: StartGateway):
    async with start_gateway() as at:
        for headers, expected in (
            ({"x-session-id": "run 7"}, "run 7"), ({"session-id": "abc"}, "abc"), ({"x-session-id": "x" * 500}, "x" * 128),
        ):  # fmt: skip
            async with at.post(headers) as answer:
                assert answer.headers["x-penstock-session"] == expected


async def test_three_hundred_calls_at_once_lose_none(start_gateway: StartGateway):
    async with start_gateway(slow=0.05) as at:
        at.client._connector._limit = 200

        async def one(number: int) -> int:
            async with at.post(stream=number % 3 == 0, sim={"output_tokens": 3}) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(one(number) for number in range(300)))
        assert set(statuses) == {200}
        await eventually(lambda: len(entries(at)) == 300)
        assert at.app._budget_service.book.open_holds == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"Authorization: Bearer \xff\xfe\r\n",
        b"Authorization: Bearer secret-one\r\nx-session-id: caf\xe9\r\n",
        b"Authorization: Bearer secret-one\r\nx-penstock-task-type: caf\xe9\r\n",
    ],
    ids=["key", "session", "task type"],
)
async def test_header_bytes_that_are_no_text_never_make_a_500(start_gateway: StartGateway, raw):
    body = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
    async with start_gateway() as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.app.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + raw)
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        status = (await asyncio.wait_for(reader.readline(), 5)).split()[1]
        writer.close()
    assert status in (b"200", b"400", b"401")


async def test_a_caller_that_waits_to_be_told_to_send_its_body_is_told(start_gateway: StartGateway):
    body = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
    async with start_gateway() as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.app.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-one\r\n")
        writer.write(b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert b"100 Continue" in await asyncio.wait_for(reader.readline(), 2)
        await reader.readline()
        writer.write(body)
        assert b"200" in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_caller_who_does_not_read_is_given_up_and_its_hold_resolved(
    start_gateway: StartGateway, monkeypatch, stream
):
    monkeypatch.setattr(server, "STALL_SECONDS", 0.3)
    async with start_gateway() as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.app.port, limit=1024)
        reply = json.dumps({"model": "small", "stream": stream, "messages": [{"role": "user", "content": "x"}], "sim": {"reply": {"content": "x" * 4_000_000}}}).encode()  # fmt: skip
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-one\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(reply) + reply)
        await reader.readline()
        writer.transport.pause_reading()
        await eventually(lambda: entries(at) and at.app._server.open_calls == 0, seconds=15)
        assert at.app._budget_service.book.open_holds == 0
        await eventually(lambda: not at.app._runners[0].server.connections, seconds=5)
        writer.transport.abort()


async def test_one_folder_has_one_gateway(start_gateway: StartGateway, tmp_path):
    async with start_gateway(data=tmp_path / "shared") as at:
        with pytest.raises(OSError, match="another gateway"):
            async with start_gateway(data=tmp_path / "shared"):
                pass
        async with at.post() as answer:
            assert answer.status == 200


async def test_absurd_usage_is_estimated_and_the_ledger_goes_on(start_gateway: StartGateway):
    async with start_gateway() as at:
        async with at.post(sim={"output_tokens": 2**53 - 1}) as answer:
            await answer.read()
        async with at.post() as answer:
            await answer.read()
        await eventually(lambda: len(entries(at)) == 2)
        assert [entry["usage_basis"] for entry in entries(at)] == ["estimated", "exact"]
