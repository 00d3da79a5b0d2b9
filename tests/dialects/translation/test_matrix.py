"""Every caller's dialect with every kind of provider, end to end: text, tools, images, thinking, failures."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dialects.translation.dialect_clients import CLIENTS, TOOL_NAME, DialectClient, ReceivedAnswer, sse_payloads

# One red pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
PROVIDERS = ("openai", "chat-only", "anthropic", "gemini")
FINISHES = {"stop", "completed", "end_turn"}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a gateway in front of all providers."""
    folder = tmp_path_factory.mktemp("matrix")
    command = [sys.executable, "-m", "tests.dialects.translation.gateway_process", str(folder)]
    with (folder / "err").open("w") as err, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "err").read_text()
            yield int(line)
        finally:
            process.kill()


def post(port: int, client: DialectClient, body: dict[str, Any]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", client.path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask(
    port: int, client: DialectClient, model: str, turns: list[Any], *, stream: bool, **options: bool
) -> ReceivedAnswer:
    status, body = post(port, client, client.request_body(model, turns, stream=stream, **options))
    assert status == 200, (status, body)
    answer = client.parse_stream(body) if stream else client.parse_answer(json.loads(body))
    assert answer.input_tokens > 0 and answer.output_tokens > 0, "usage is reported"
    return answer


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> DialectClient:
    return CLIENTS[request.param]


@pytest.fixture(params=PROVIDERS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_text_answer(port, client, model, stream):
    answer = ask(port, client, model, [client.user_message('[[sim {"text": "Grüße, 世界"}]]')], stream=stream)
    assert answer.text == "Grüße, 世界"
    assert answer.finish_reason in FINISHES


def test_a_tool_round_trip(port, client, model, stream):
    turns = [client.user_message("use the tool")]
    answer = ask(port, client, model, turns, stream=stream, tools=True)
    assert [name for _, name, _ in answer.tool_calls] == [TOOL_NAME]
    assert set(answer.tool_calls[0][2]) == {"city"}
    turns += [*answer.history_messages, *client.tool_result_messages([(answer.tool_calls[0][0], "rain in Łódź")])]
    assert "rain in Łódź" in ask(port, client, model, turns, stream=stream, tools=True).text


def test_parallel_tool_calls(port, client, model, stream):
    calls = json.dumps([{"name": TOOL_NAME, "arguments": {"city": city}} for city in ("Oslo", "Rome")])
    turns = [client.user_message(f'[[sim {{"tool_calls": {calls}}}]]')]
    answer = ask(port, client, model, turns, stream=stream, tools=True)
    assert [arguments for _, _, arguments in answer.tool_calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert len({call_id for call_id, _, _ in answer.tool_calls}) == 2
    results = [(call_id, f"sun in {arguments['city']}") for call_id, _, arguments in answer.tool_calls]
    text = ask(
        port,
        client,
        model,
        [*turns, *answer.history_messages, *client.tool_result_messages(results)],
        stream=stream,
        tools=True,
    ).text
    assert "Oslo" in text or "Rome" in text


def test_an_image(port, client, model, stream):
    answer = ask(port, client, model, [client.user_message("what is this", image=PIXEL)], stream=stream)
    assert "1 image" in answer.text


def test_thinking_is_returned_and_sent_back(port, client, model, stream):
    """Providers that return thinking have it in the answer; its signature is sent with the next turn."""
    turns = [client.user_message("use the tool")]
    answer = ask(port, client, model, turns, stream=stream, tools=True, thinking=True)
    assert [name for _, name, _ in answer.tool_calls] == [TOOL_NAME]
    if model in ("anthropic", "gemini") or (model == "openai" and client is CLIENTS["responses"]):
        assert answer.thinking
    turns += [*answer.history_messages, *client.tool_result_messages([(answer.tool_calls[0][0], "fog")])]
    assert "fog" in ask(port, client, model, turns, stream=stream, tools=True, thinking=True).text


@pytest.mark.parametrize(
    "fault, status",
    [("status:400", 400), ("status:503", 502), ("retry_after:7", 429), ("not_json", 502), ("hang", 504)],
)
def test_a_failure_behind_litellm_has_the_gateway_s_own_form(port, client, fault, status):
    ask(port, client, "gemini", [client.user_message("reset the failures")], stream=False)
    turns = [client.user_message(f'[[sim {{"fault": "{fault}"}}]]')]
    received, body = post(port, client, client.request_body("gemini", turns, stream=False))
    assert received == status, body
    assert json.loads(body)["error"]["message"]
    assert b"litellm" not in body.lower()


@pytest.mark.parametrize("fault", ["cut", "hang_mid"])
def test_a_stream_that_breaks_behind_litellm_ends_with_an_error_event(port, client, fault):
    ask(port, client, "gemini", [client.user_message("reset the failures")], stream=False)
    turns = [client.user_message(f'[[sim {{"fault": "{fault}", "text": "{"word " * 30}"}}]]')]
    status, body = post(port, client, client.request_body("gemini", turns, stream=True))
    errors = (
        [event for event in sse_payloads(body) if event.get("error")] if status == 200 else [json.loads(body)["error"]]
    )
    assert errors and status in (200, 502, 504), body[-500:]
