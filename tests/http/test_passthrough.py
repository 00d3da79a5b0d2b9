"""What passes through: images, audio, files, moderations: metered where a price is known, counted where none is."""

import json

import aiohttp
import pytest
from yarl import URL

from gateway.dialects import passthrough
from gateway.values.units import nusd_to_usd
from tests.http.running_gateway import running_gateway


async def test_images_are_charged_by_the_piece(tmp_path):
    async with running_gateway(tmp_path) as at:
        asked = {"model": "painter", "prompt": "a pump", "n": 2}
        status, headers, said = await at.post("/v1/images/generations", asked)
        assert status == 200, said
        assert json.loads(at.providers["openai"].request_bodies[0]) == {**asked, "model": "sim-openai"}
        (entry,) = await at.ledger()
        assert (entry.hold_nusd, entry.priced) == (2 * 60_000_000, 1)
        assert headers["x-penstock-cost-usd"] == nusd_to_usd(entry.charge_nusd)


async def test_a_form_names_its_model(tmp_path):
    form = aiohttp.FormData()
    form.add_field("file", b"RIFF" + bytes(range(256)) * 40, filename="a.wav", content_type="audio/wav")
    form.add_field("model", "openai")
    async with running_gateway(tmp_path) as at:
        async with at.client.post(f"{at.base_url}/v1/audio/transcriptions", data=form) as answer:
            assert answer.status == 200, await answer.text()
        sent = at.providers["openai"].request_bodies[0]
        assert b"\r\n\r\nsim-openai\r\n" in sent and bytes(range(256)) * 40 in sent
        (entry,) = await at.ledger()
        assert (entry.outcome, entry.deployment) == ("completed", "openai")


async def test_files_go_to_their_provider_and_come_back_free_of_charge(tmp_path):
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", b'{"a":1}\n', filename="a.jsonl")
    async with running_gateway(tmp_path, more="budgets: {none: {limit: {usd: 0.000001}, window: total}}") as at:
        async with at.client.post(
            f"{at.base_url}/v1/files", data=form, headers={"x-penstock-route": "openai"}
        ) as answer:
            assert answer.status == 200, await answer.text()
            file = await answer.json()
        status, _, said = await at.request("GET", f"/v1/files/{file['id']}")
        assert status == 200, said
        status, _, said = await at.request("GET", f"/v1/files/{file['id']}/content")
        assert status == 200 and said
        entries = await at.ledger()
        assert {(entry.outcome, entry.charge_nusd, entry.priced) for entry in entries} == {("completed", 0, 1)}


async def test_what_has_no_price_is_counted_as_unpriced_and_admitted_by_no_money_budget(tmp_path):
    asked = {"model": "painter", "query": "q", "documents": ["a"]}
    async with running_gateway(tmp_path) as at:
        assert (await at.post("/v1/rerank", asked))[0] == 404, "the provider's own answer"
        (entry,) = await at.ledger()
        assert entry.outcome == "rejected"
    async with running_gateway(tmp_path / "b", more="budgets: {some: {limit: {usd: 5}, window: total}}") as at:
        status, _, said = await at.post("/v1/rerank", asked)
        assert (status, json.loads(said)["error"]["code"]) == (400, "cap_exceeded")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/organization/usage", "/v1/Organization/x", "/v1//organization/usage", "/v1/./organization/usage", "/v1/../etc",
        "/v2/x", "/v1/%2e%2e/x", "/v1/files/..%5corganization", "/v1/responses/resp%5F1", "/v1/responses//resp_1",
        "/v1/chat/completions/abc/messages", "/v1/realtime/client_secrets",
    ],
)  # fmt: skip
async def test_the_account_s_administration_and_odd_spellings_are_closed(tmp_path, path):
    async with running_gateway(tmp_path) as at, aiohttp.ClientSession() as client:
        async with client.get(URL(at.base_url + path, encoded=True)) as answer:
            assert answer.status == 404
        assert not any(provider.request_bodies for provider in at.providers.values())


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/videos", "/v1/fine_tuning/jobs", "/v1/messages/batches"])
async def test_what_costs_later_is_admitted_by_no_money_budget(tmp_path, path):
    async with running_gateway(tmp_path, more="budgets: {some: {limit: {usd: 5}, window: total}}") as at:
        status, _, said = await at.post(path, {"input_file_id": "file-1", "endpoint": "/v1/chat/completions"})
        assert (status, json.loads(said)["error"]["code"]) in ((400, "cap_exceeded"), (402, "cap_exceeded"))


async def test_a_slash_at_the_end_is_no_way_round(tmp_path):
    async with running_gateway(tmp_path) as at:
        asked = {"model": "openai", "messages": [{"role": "user", "content": "hi"}]}
        status, headers, _ = await at.post("/v1/chat/completions/", asked)
        assert (status, headers["x-penstock-task-type"]) == (200, "other")
        (entry,) = await at.ledger()
        assert entry.usage_basis == "exact"


@pytest.mark.parametrize("field, kind", [("Model", "multipart/form-data"), ("model", "Multipart/Form-Data")])
async def test_a_form_cannot_name_another_model_than_is_routed(tmp_path, field, kind):
    parts = [f'--b\r\nContent-Disposition: form-data; name="{field}"\r\n\r\nanthropic\r\n', "--b--\r\n"]
    async with running_gateway(tmp_path) as at:
        headers = {"Content-Type": f"{kind}; boundary=b"}
        async with at.client.post(
            f"{at.base_url}/v1/audio/transcriptions", data="".join(parts), headers=headers
        ) as answer:
            # The route's deployments are Anthropic's: no such path leads there.
            assert answer.status == 400, await answer.text()
        assert not at.providers["openai"].request_bodies


async def test_a_json_body_cannot_spell_its_model_differently(tmp_path):
    async with running_gateway(tmp_path) as at:
        status, _, said = await at.post("/v1/rerank", {"Model": "openai", "query": "q"})
        assert (status, json.loads(said)["error"]["param"]) == (400, "model")


async def test_a_form_of_nothing_but_beginnings_is_read_once(tmp_path):
    async with running_gateway(tmp_path) as at:
        body = b'--b\r\nname="model"\r\n' + b"name=model\r\n" * 40_000
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        async with at.client.post(f"{at.base_url}/v1/audio/transcriptions", data=body, headers=headers) as answer:
            assert answer.status < 500


def test_where_a_form_s_model_stands():
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
