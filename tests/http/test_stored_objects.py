"""Requests about files, batches, videos and containers reach the provider that has them, from any replica."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.app import App, export_ledger
from gateway.config.load import parse
from gateway.config.settings import Settings
from tests.entries import entries_in
from tests.stores.servers import Server

CONFIG = """
version: 1
access: keys
keys:
  - {{id: k1, team: research, secret: {{env: KEY_ONE}}}}
  - {{id: k2, team: sales, secret: {{env: KEY_TWO}}}}
providers:
  one: {{base_url: "{one}"}}
  two: {{base_url: "{two}"}}
  claude: {{dialect: anthropic, base_url: "{claude}"}}
  claude-two: {{dialect: anthropic, base_url: "{claude_two}"}}
deployments:
  one: {{provider: one, model: m, tier: small, price: {{input: 1, output: 2}}}}
  two: {{provider: two, model: m, tier: small, price: {{input: 1, output: 2}}}}
  claude: {{provider: claude, model: m, tier: small, price: {{input: 1, output: 2}}}}
  claude-two: {{provider: claude-two, model: m, tier: small, price: {{input: 1, output: 2}}}}
routes:
  one: {{candidates: [one]}}
  two: {{candidates: [two]}}
  claude: {{candidates: [claude]}}
  claude-two: {{candidates: [claude-two]}}
  both: {{candidates: [one, two]}}
"""
ENV = {"KEY_ONE": "secret-one-0123456789", "KEY_TWO": "secret-two-0123456789"}
MINE, OTHERS = ({"Authorization": f"Bearer {secret}"} for secret in ENV.values())
# Answers as the providers document them: OpenAI's reference (July 2026) for batches, files, vector stores, containers
# and videos, xAI's for videos, Anthropic's for message batches.
ANSWERS: dict[str, Any] = {
    "POST /v1/files": {"id": "file-In1", "object": "file"},
    "POST /v1/batches": {"id": "batch_1", "object": "batch", "status": "validating", "output_file_id": None},
    "GET /v1/batches/batch_1": {"id": "batch_1", "object": "batch", "status": "completed", "output_file_id": "file-Out1", "error_file_id": "file-Err1"},
    "POST /v1/uploads": {"id": "upload_1", "object": "upload"},
    "POST /v1/uploads/upload_1/complete": {"id": "upload_1", "file": {"id": "file-Up1", "object": "file"}},
    "POST /v1/vector_stores": {"id": "vs_1", "object": "vector_store"},
    "POST /v1/containers": {"id": "cntr_1", "object": "container"},
    "POST /v1/containers/cntr_1/files": {"id": "cfile_12", "object": "container.file"},
    "POST /v1/videos": {"id": "video_1", "object": "video", "status": "queued"},
    "POST /v1/videos/generations": {"request_id": "0192-abcd"},
    "POST /v1/fine_tuning/jobs": {"id": "ftjob-1", "object": "fine_tuning.job", "result_files": []},
    "POST /v1/conversations": {"id": "conv_1", "object": "conversation"},
    "POST /v1/messages/batches": {"id": "msgbatch_01", "type": "message_batch", "processing_status": "in_progress"},
    "POST /v1/agent": {"id": "resp_agent1", "object": "response", "status": "in_progress", "usage": None},
    "GET /v1/responses/resp_agent1": {
        "id": "resp_agent1", "object": "response", "status": "completed", "output": [],
        "usage": {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}},
    "POST /v1/chat/completions": {
        "id": "chatcmpl-1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "see"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}},
    "POST /v1/responses": {
        "id": "resp_1", "object": "response", "status": "completed", "usage": {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8},
        "output": [
            {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_auto", "code": "", "outputs": [], "status": "completed"},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
                {"type": "output_text", "text": "see", "annotations": [
                    {"type": "container_file_citation", "container_id": "cntr_auto", "file_id": "cfile_auto1", "filename": "a.png"}]}]},
        ],
    },
}  # fmt: skip


class FakeProvider:
    """Answers documents by method and path, {} to the rest; `requests` are those received."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        name = f"{request.method} {request.path}"
        self.requests.append(name)
        return web.Response(body=json.dumps(ANSWERS.get(name, {})), content_type="application/json")

    async def start(self) -> str:
        self._runner = web.ServerRunner(web.Server(self.handle))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()


class Providers:
    """The four providers; `base_urls` by name."""

    def __init__(self) -> None:
        self.by_name = {name: FakeProvider() for name in ("one", "two", "claude", "claude_two")}
        self.base_urls: dict[str, str] = {}

    def take_requests(self) -> dict[str, list[str]]:
        """What each provider received since the last time; empty ones are left out."""
        taken = {name: list(provider.requests) for name, provider in self.by_name.items() if provider.requests}
        for provider in self.by_name.values():
            provider.requests.clear()
        return taken


@pytest.fixture
async def providers() -> AsyncIterator[Providers]:
    started = Providers()
    for name, provider in started.by_name.items():
        url = await provider.start()
        started.base_urls[name] = url if name.startswith("claude") else f"{url}/v1"
    yield started
    for provider in started.by_name.values():
        await provider.stop()


@asynccontextmanager
async def gateway(
    providers: Providers, data: Path, *, config: str = CONFIG, **settings: Any
) -> AsyncIterator["Client"]:
    snapshot = parse(config.format(**providers.base_urls), "s.yaml", ENV)[0]
    app = App(Settings(data=data, port=0, drain_seconds=1.0, **settings), snapshot)
    await app.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(session, f"http://127.0.0.1:{app.port}")
    finally:
        await app.stop()


class Client:
    """Sends requests to one gateway; returns the status."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session, self._base_url = session, base_url

    async def send(self, request: str, headers: dict[str, str] = MINE, *, route: str = "", **body: Any) -> int:
        """A request "METHOD /path"; `body` are the fields of its document."""
        method, path = request.split(" ")
        more = {"x-penstock-route": route} if route else {}
        if path.startswith("/v1/messages"):
            more["anthropic-version"] = "2023-06-01"
        document = body or None
        async with self._session.request(
            method, self._base_url + path, json=document, headers={**headers, **more}
        ) as answer:
            await answer.read()
            return answer.status


# What creates an object, what is asked about it then.
OBJECTS = [
    ("POST /v1/files", {"purpose": "batch"}, ["GET /v1/files/file-In1/content", "DELETE /v1/files/file-In1"]),
    ("POST /v1/batches", {"endpoint": "/v1/responses"}, [
        "GET /v1/batches/batch_1", "GET /v1/files/file-Out1/content", "GET /v1/files/file-Err1/content",
        "POST /v1/batches/batch_1/cancel"]),
    ("POST /v1/uploads", {"bytes": 1}, ["POST /v1/uploads/upload_1/complete", "GET /v1/files/file-Up1"]),
    ("POST /v1/vector_stores", {"name": "x"}, ["POST /v1/vector_stores/vs_1/search", "GET /v1/vector_stores/vs_1/files"]),
    ("POST /v1/containers", {"name": "x"}, ["POST /v1/containers/cntr_1/files", "GET /v1/containers/cntr_1/files/cfile_12/content"]),
    ("POST /v1/videos", {"prompt": "x"}, ["GET /v1/videos/video_1", "GET /v1/videos/video_1/content", "POST /v1/videos/video_1/remix"]),
    ("POST /v1/videos/generations", {"prompt": "x"}, ["GET /v1/videos/0192-abcd"]),
    ("POST /v1/fine_tuning/jobs", {"training_file": "file-unknown"}, ["GET /v1/fine_tuning/jobs/ftjob-1/events"]),
    ("POST /v1/conversations", {"metadata": {}}, ["GET /v1/conversations/conv_1/items", "DELETE /v1/conversations/conv_1"]),
    ("POST /v1/messages/batches", {"requests": []}, [
        "GET /v1/messages/batches/msgbatch_01", "GET /v1/messages/batches/msgbatch_01/results",
        "POST /v1/messages/batches/msgbatch_01/cancel"]),
]  # fmt: skip
IDS = [create.rpartition("/v1/")[2] for create, _, _ in OBJECTS]


@pytest.mark.parametrize("create, body, later", OBJECTS, ids=IDS)
async def test_requests_about_an_object_reach_the_provider_that_made_it(
    tmp_path: Path, providers: Providers, create: str, body: dict[str, Any], later: list[str]
):
    name = "claude_two" if "messages" in create else "two"
    async with gateway(providers, tmp_path) as client:
        assert await client.send(create, route=name.replace("_", "-"), **body) == 200
        for request in later:
            assert await client.send(request) == 200
        assert providers.take_requests() == {name: [create, *later]}
        for request in later:
            assert await client.send(request, OTHERS) == 404, "another key's"
        assert not providers.take_requests()
    async with gateway(providers, tmp_path) as client:
        for request in later:
            assert await client.send(request, OTHERS) == 404, "also after a restart"
            assert await client.send(request) == 200
        assert providers.take_requests() == {name: later}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "store")
    yield server
    server.kill()


async def test_any_replica_knows_where_an_object_is(tmp_path: Path, providers: Providers, store: Server):
    shared: dict[str, Any] = {"redis_url": store.url, "redis_timeout_seconds": 5.0}
    async with (
        gateway(providers, tmp_path / "one", **shared) as first,
        gateway(providers, tmp_path / "two", **shared) as second,
    ):
        assert await first.send("POST /v1/batches", route="two", endpoint="/v1/responses") == 200
        assert await second.send("GET /v1/batches/batch_1", OTHERS) == 404
        assert await second.send("GET /v1/batches/batch_1") == 200
        assert await first.send("GET /v1/files/file-Out1/content", OTHERS) == 404, "found by the other replica"
        assert await first.send("GET /v1/files/file-Out1/content") == 200
        assert set(providers.take_requests()) == {"two"}


async def test_what_a_response_made_is_read_at_its_provider(tmp_path: Path, providers: Providers):
    async with gateway(providers, tmp_path) as client:
        assert await client.send("POST /v1/responses", model="two", input="plot") == 200
        later = ["GET /v1/containers/cntr_auto/files/cfile_auto1/content", "GET /v1/responses/resp_1/input_items"]
        for request in later:
            assert await client.send(request) == 200
            assert await client.send(request, OTHERS) == 404
        assert providers.take_requests() == {"two": ["POST /v1/responses", *later]}


async def test_a_response_of_another_path_is_polled_and_booked_where_it_runs(tmp_path: Path, providers: Providers):
    """As Perplexity's agents run in the background (docs.perplexity.ai, agent API, background mode, 2026)."""
    async with gateway(providers, tmp_path) as client:
        assert await client.send("POST /v1/agent", route="two", input="x", background=True) == 200
        for _ in range(2):
            assert await client.send("GET /v1/responses/resp_agent1") == 200
        assert providers.take_requests() == {"two": ["POST /v1/agent", *["GET /v1/responses/resp_agent1"] * 2]}
    first, *_, last = sorted(entries_in(tmp_path), key=lambda entry: entry.outcome == "corrected")
    assert (first.usage_basis, last.outcome) == ("estimated", "corrected")
    assert (first.charge_nusd + last.charge_nusd, last.priced) == (5 * 1000 + 3 * 2000, 1)
    (row,) = json.loads(export_ledger(tmp_path, {"format": "json", "by": ""}, now=2e9)[0])["rows"]
    assert (row["unpriced_entries"], row["estimated_entries"]) == (0, 0)


async def test_a_body_that_names_an_object_leads_to_its_provider(tmp_path: Path, providers: Providers):
    async with gateway(providers, tmp_path) as client:
        assert await client.send("POST /v1/files", route="two", purpose="batch") == 200
        providers.take_requests()
        batch: dict[str, Any] = {"input_file_id": "file-In1", "endpoint": "/v1/responses"}
        assert await client.send("POST /v1/batches", **batch) == 200
        assert await client.send("POST /v1/fine_tuning/jobs", model="both", training_file="file-In1") == 200
        assert providers.take_requests() == {"two": ["POST /v1/batches", "POST /v1/fine_tuning/jobs"]}
        assert await client.send("POST /v1/batches", OTHERS, **batch) == 404, "another key's file"


# Ways to use a file, a vector store or a container in a request.
FILE_PART = {"type": "input_file", "file_id": "file-In1"}
USES = [
    ("POST /v1/files", "/v1/responses", {"input": [{"role": "user", "content": [FILE_PART]}]}),
    ("POST /v1/files", "/v1/chat/completions", {
        "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-In1"}}]}]}),
    ("POST /v1/files", "/v1/responses", {"input": "x", "tools": [
        {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-In1"]}}]}),
    ("POST /v1/containers", "/v1/responses", {"input": "x", "tools": [{"type": "code_interpreter", "container": "cntr_1"}]}),
    ("POST /v1/vector_stores", "/v1/responses", {"input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
    ("POST /v1/conversations", "/v1/responses", {"input": "x", "conversation": {"id": "conv_1"}}),
]  # fmt: skip


@pytest.mark.parametrize("create, path, body", USES, ids=["file", "file of chat", "file of a tool", "container", "vector store", "conversation"])  # fmt: skip
async def test_a_request_that_uses_an_object_is_served_where_it_is(
    tmp_path: Path, providers: Providers, create: str, path: str, body: dict[str, Any]
):
    async with gateway(providers, tmp_path) as client:
        assert await client.send(create, route="two", name="x") == 200
        providers.take_requests()
        await client.send(f"POST {path}", model="both", **body)
        assert providers.take_requests() == {"two": [f"POST {path}"]}
        assert await client.send(f"POST {path}", OTHERS, model="both", **body) == 404, "another key's"


async def test_an_object_of_a_provider_that_is_no_longer_configured_is_not_found(tmp_path: Path, providers: Providers):
    async with gateway(providers, tmp_path) as client:
        assert await client.send("POST /v1/files", route="two", purpose="batch") == 200
    renamed = CONFIG.replace("\n  two:", "\n  three:").replace("provider: two,", "provider: three,")
    renamed = renamed.replace("[two]", "[three]").replace("[one, two]", "[one]")
    providers.take_requests()
    async with gateway(providers, tmp_path, config=renamed) as client:
        assert await client.send("GET /v1/files/file-In1") == 404
    assert not providers.take_requests()
