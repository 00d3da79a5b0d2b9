"""What passes through: images, audio, files, moderations: metered where a price is known, counted where none is."""

import json

import aiohttp
import pytest

from gateway.values.units import nusd_to_usd
from tests.edge.stage import stage


async def test_images_are_charged_by_the_piece(tmp_path):
    async with stage(tmp_path) as at:
        asked = {"model": "painter", "prompt": "a pump", "n": 2}
        status, headers, said = await at.post("/v1/images/generations", asked)
        assert status == 200, said
        assert json.loads(at.providers["openai"].received[0]) == {**asked, "model": "sim-openai"}
        (entry,) = await at.ledger()
        assert (entry.hold_nusd, entry.priced) == (2 * 60_000_000, 1)
        assert headers["x-penstock-cost-usd"] == nusd_to_usd(entry.charge_nusd)


async def test_a_form_names_its_model(tmp_path):
    form = aiohttp.FormData()
    form.add_field("file", b"RIFF" + bytes(range(256)) * 40, filename="a.wav", content_type="audio/wav")
    form.add_field("model", "openai")
    async with stage(tmp_path) as at:
        async with at.client.post(f"{at.base}/v1/audio/transcriptions", data=form) as answer:
            assert answer.status == 200, await answer.text()
        sent = at.providers["openai"].received[0]
        assert b"\r\n\r\nsim-openai\r\n" in sent and bytes(range(256)) * 40 in sent
        (entry,) = await at.ledger()
        assert (entry.outcome, entry.deployment) == ("completed", "openai")


async def test_files_go_to_their_provider_and_come_back_free_of_charge(tmp_path):
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", b'{"a":1}\n', filename="a.jsonl")
    async with stage(tmp_path, more="budgets: {none: {limit: {usd: 0.000001}, window: total}}") as at:
        async with at.client.post(f"{at.base}/v1/files", data=form, headers={"x-penstock-route": "openai"}) as answer:
            assert answer.status == 200, await answer.text()
            file = await answer.json()
        status, _, said = await at.ask("GET", f"/v1/files/{file['id']}")
        assert status == 200, said
        status, _, said = await at.ask("GET", f"/v1/files/{file['id']}/content")
        assert status == 200 and said
        entries = await at.ledger()
        assert {(entry.outcome, entry.charge_nusd, entry.priced) for entry in entries} == {("completed", 0, 1)}


async def test_what_has_no_price_is_counted_as_unpriced_and_admitted_by_no_money_budget(tmp_path):
    asked = {"model": "painter", "query": "q", "documents": ["a"]}
    async with stage(tmp_path) as at:
        assert (await at.post("/v1/rerank", asked))[0] == 404, "the provider's own answer"
        (entry,) = await at.ledger()
        assert entry.outcome == "rejected"
    async with stage(tmp_path / "b", more="budgets: {some: {limit: {usd: 5}, window: total}}") as at:
        status, _, said = await at.post("/v1/rerank", asked)
        assert (status, json.loads(said)["error"]["code"]) == (400, "cap_exceeded")


@pytest.mark.parametrize("path", ["/v1/organization/usage", "/v1/../etc", "/v2/x", "/v1/%2e%2e/x"])
async def test_the_account_s_administration_and_other_places_are_closed(tmp_path, path):
    async with stage(tmp_path) as at:
        status, _, _ = await at.ask("GET", path)
        assert status == 404
        assert not any(provider.received for provider in at.providers.values())
