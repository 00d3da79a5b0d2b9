"""Pass-through endpoints: metered with a price, counted without one."""

import json

import aiohttp
import pytest
from yarl import URL

from gateway.dialects import passthrough
from gateway.values.units import nusd_to_usd
from tests.http.running_gateway import running_gateway


async def test_images_are_charged_per_image(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        body = {"model": "painter", "prompt": "a pump", "n": 2}
        status, headers, content = await gateway.post("/v1/images/generations", body)
        assert status == 200, content
        assert json.loads(gateway.providers["openai"].request_bodies[0]) == {**body, "model": "sim-openai"}
        (entry,) = await gateway.ledger()
        assert (entry.hold_nusd, entry.priced) == (2 * 60_000_000, 1)
        assert headers["x-penstock-cost-usd"] == nusd_to_usd(entry.charge_nusd)


async def test_the_model_is_read_from_a_form(tmp_path):
    form = aiohttp.FormData()
    form.add_field("file", b"RIFF" + bytes(range(256)) * 40, filename="a.wav", content_type="audio/wav")
    form.add_field("model", "openai")
    async with running_gateway(tmp_path) as gateway:
        async with gateway.client.post(f"{gateway.base_url}/v1/audio/transcriptions", data=form) as answer:
            assert answer.status == 200, await answer.text()
        sent = gateway.providers["openai"].request_bodies[0]
        assert b"\r\n\r\nsim-openai\r\n" in sent and bytes(range(256)) * 40 in sent
        (entry,) = await gateway.ledger()
        assert (entry.outcome, entry.deployment) == ("completed", "openai")


async def test_files_are_passed_through_free_of_charge(tmp_path):
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", b'{"a":1}\n', filename="a.jsonl")
    async with running_gateway(tmp_path, more="budgets: {none: {limit: {usd: 0.000001}, window: total}}") as gateway:
        async with gateway.client.post(
            f"{gateway.base_url}/v1/files", data=form, headers={"x-penstock-route": "openai"}
        ) as answer:
            assert answer.status == 200, await answer.text()
            file = await answer.json()
        status, _, content = await gateway.request("GET", f"/v1/files/{file['id']}")
        assert status == 200, content
        status, _, content = await gateway.request("GET", f"/v1/files/{file['id']}/content")
        assert status == 200 and content
        entries = await gateway.ledger()
        assert {(entry.outcome, entry.charge_nusd, entry.priced) for entry in entries} == {("completed", 0, 1)}


async def test_an_endpoint_without_a_price_is_refused_by_a_money_budget(tmp_path):
    body = {"model": "painter", "query": "q", "documents": ["a"]}
    async with running_gateway(tmp_path) as gateway:
        assert (await gateway.post("/v1/rerank", body))[0] == 404, "the provider's own answer"
        (entry,) = await gateway.ledger()
        assert entry.outcome == "rejected"
    async with running_gateway(tmp_path / "b", more="budgets: {some: {limit: {usd: 5}, window: total}}") as gateway:
        status, _, content = await gateway.post("/v1/rerank", body)
        assert (status, json.loads(content)["error"]["code"]) == (400, "unpriced")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/organization/usage", "/v1/Organization/x", "/v1//organization/usage", "/v1/./organization/usage", "/v1/../etc",
        "/v2/x", "/v1/%2e%2e/x", "/v1/files/..%5corganization", "/v1/responses/resp%5F1", "/v1/responses//resp_1",
        "/v1/chat/completions/abc/messages", "/v1/realtime/client_secrets",
    ],
)  # fmt: skip
async def test_account_administration_and_noncanonical_paths_are_not_passed_through(tmp_path, path):
    async with running_gateway(tmp_path) as gateway, aiohttp.ClientSession() as client:
        async with client.get(URL(gateway.base_url + path, encoded=True)) as answer:
            assert answer.status == 404
        assert not any(provider.request_bodies for provider in gateway.providers.values())


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/fine_tuning/jobs", "/v1/messages/batches"])
async def test_endpoints_that_charge_later_are_refused_by_a_money_budget(tmp_path, path):
    async with running_gateway(tmp_path, more="budgets: {some: {limit: {usd: 5}, window: total}}") as gateway:
        status, _, content = await gateway.post(path, {"input_file_id": "file-1", "endpoint": "/v1/chat/completions"})
        error = json.loads(content)["error"]
        assert (status, error["code"]) in ((400, "unpriced"), (402, "unpriced"))
        assert f"the cost of POST {path} is not known when it ends" in error["message"]


async def test_a_price_of_tokens_does_not_admit_a_video(tmp_path):
    async with running_gateway(tmp_path, more="budgets: {some: {limit: {usd: 5}, window: total}}") as gateway:
        status, _, content = await gateway.post("/v1/videos", {"prompt": "a cat"})
        error = json.loads(content)["error"]
        assert (status, error["code"]) == (400, "unpriced")
        assert "no price of model" in error["message"]


async def test_a_trailing_slash_does_not_bypass_the_dialect(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        body = {"model": "openai", "messages": [{"role": "user", "content": "hi"}]}
        status, headers, _ = await gateway.post("/v1/chat/completions/", body)
        assert (status, headers["x-penstock-task-type"]) == (200, "other")
        (entry,) = await gateway.ledger()
        assert entry.usage_basis == "exact"


@pytest.mark.parametrize("field, kind", [("Model", "multipart/form-data"), ("model", "Multipart/Form-Data")])
async def test_form_fields_with_odd_case_cannot_change_the_routed_model(tmp_path, field, kind):
    parts = [f'--b\r\nContent-Disposition: form-data; name="{field}"\r\n\r\nanthropic\r\n', "--b--\r\n"]
    async with running_gateway(tmp_path) as gateway:
        headers = {"Content-Type": f"{kind}; boundary=b"}
        async with gateway.client.post(
            f"{gateway.base_url}/v1/audio/transcriptions", data="".join(parts), headers=headers
        ) as answer:
            # The route leads to Anthropic, which has no such endpoint.
            assert answer.status == 400, await answer.text()
        assert not gateway.providers["openai"].request_bodies


async def test_json_fields_with_odd_case_cannot_change_the_routed_model(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        status, _, content = await gateway.post("/v1/rerank", {"Model": "openai", "query": "q"})
        assert (status, json.loads(content)["error"]["param"]) == (400, "model")


async def test_a_form_of_repeated_field_headers_is_parsed_in_linear_time(tmp_path):
    async with running_gateway(tmp_path) as gateway:
        body = b'--b\r\nname="model"\r\n' + b"name=model\r\n" * 40_000
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        async with gateway.client.post(
            f"{gateway.base_url}/v1/audio/transcriptions", data=body, headers=headers
        ) as answer:
            assert answer.status < 500


def test_the_model_field_of_a_form_is_located_and_replaced():
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\n'
    data = b'x--xyz not at the beginning of a line; name="model"\r\n\r\nfake\r\n'
    model = b'\r\n--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--xyz--\r\n'
    request = passthrough.parse(
        "POST", "/audio/transcriptions", 'multipart/form-data; boundary="xyz"', head + data + model, "openai"
    )
    start, end = request.model_span
    assert (request.model, request.body[start:end]) == ("whisper-1", b"whisper-1")
    assert b"".join(passthrough.upstream_body(request, "theirs", ask_usage=True)) == head + data + model.replace(
        b"whisper-1", b"theirs"
    )
