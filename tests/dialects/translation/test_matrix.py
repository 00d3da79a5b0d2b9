"""Every caller's dialect before every kind of provider: what goes in arrives, what comes out is heard."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.dialects.translation.dialect_clients import CLIENTS, TOOL_NAME, ReceivedAnswer, sse_payloads

# One red pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
PROVIDERS = ("openai", "chat-only", "anthropic", "gemini")
FINISHES = {"stop", "completed", "end_turn"}


@pytest.fixture(scope="module")
def port(tmp_path_factory) -> Iterator[int]:
    """A gateway before all of them."""
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


def post(port: int, speaker, body: dict) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", speaker.path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask(port: int, speaker, model: str, turns: list, *, stream: bool, **more: object) -> ReceivedAnswer:
    status, body = post(port, speaker, speaker.request_body(model, turns, stream=stream, **more))
    assert status == 200, (status, body)
    heard = speaker.parse_stream(body) if stream else speaker.parse_answer(json.loads(body))
    assert heard.input_tokens > 0 and heard.output_tokens > 0, "usage arrives"
    return heard


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request) -> bool:
    return request.param


@pytest.fixture(params=list(CLIENTS))
def speaker(request):
    return CLIENTS[request.param]


@pytest.fixture(params=PROVIDERS)
def model(request) -> str:
    return request.param


def test_text(port, speaker, model, stream):
    heard = ask(port, speaker, model, [speaker.user_message('[[sim {"text": "Grüße, 世界"}]]')], stream=stream)
    assert heard.text == "Grüße, 世界"
    assert heard.finish_reason in FINISHES


def test_a_tool_round_trip(port, speaker, model, stream):
    turns = [speaker.user_message("use the tool")]
    heard = ask(port, speaker, model, turns, stream=stream, tools=True)
    assert [name for _, name, _ in heard.tool_calls] == [TOOL_NAME]
    assert set(heard.tool_calls[0][2]) == {"city"}
    turns += [*heard.history_messages, *speaker.tool_result_messages([(heard.tool_calls[0][0], "rain in Łódź")])]
    assert "rain in Łódź" in ask(port, speaker, model, turns, stream=stream, tools=True).text


def test_parallel_tools(port, speaker, model, stream):
    calls = json.dumps([{"name": TOOL_NAME, "arguments": {"city": city}} for city in ("Oslo", "Rome")])
    turns = [speaker.user_message(f'[[sim {{"tool_calls": {calls}}}]]')]
    heard = ask(port, speaker, model, turns, stream=stream, tools=True)
    assert [arguments for _, _, arguments in heard.tool_calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert len({call_id for call_id, _, _ in heard.tool_calls}) == 2
    results = [(call_id, f"sun in {arguments['city']}") for call_id, _, arguments in heard.tool_calls]
    text = ask(
        port, speaker, model, [*turns, *heard.history_messages, *speaker.tool_result_messages(results)], stream=stream, tools=True
    ).text
    assert "Oslo" in text or "Rome" in text


def test_a_picture(port, speaker, model, stream):
    heard = ask(port, speaker, model, [speaker.user_message("what is this", image=PIXEL)], stream=stream)
    assert "1 image" in heard.text


def test_thinking(port, speaker, model, stream):
    """Thinking is shown where the provider shows it, and its signature goes back with the next turn."""
    turns = [speaker.user_message("use the tool")]
    heard = ask(port, speaker, model, turns, stream=stream, tools=True, thinking=True)
    assert [name for _, name, _ in heard.tool_calls] == [TOOL_NAME]
    if model in ("anthropic", "gemini") or (model == "openai" and speaker is CLIENTS["responses"]):
        assert heard.thinking
    turns += [*heard.history_messages, *speaker.tool_result_messages([(heard.tool_calls[0][0], "fog")])]
    assert "fog" in ask(port, speaker, model, turns, stream=stream, tools=True, thinking=True).text


@pytest.mark.parametrize(
    "fault, status",
    [("status:400", 400), ("status:503", 502), ("retry_after:7", 429), ("not_json", 502), ("hang", 504)],
)
def test_failures_behind_litellm_look_like_any_other(port, speaker, fault, status):
    ask(port, speaker, "gemini", [speaker.user_message("all is forgiven")], stream=False)
    turns = [speaker.user_message(f'[[sim {{"fault": "{fault}"}}]]')]
    found, body = post(port, speaker, speaker.request_body("gemini", turns, stream=False))
    assert found == status, body
    assert json.loads(body)["error"]["message"]
    assert b"litellm" not in body.lower()


@pytest.mark.parametrize("fault", ["cut", "hang_mid"])
def test_a_stream_that_breaks_behind_litellm_ends_in_an_error_event(port, speaker, fault):
    ask(port, speaker, "gemini", [speaker.user_message("all is forgiven")], stream=False)
    turns = [speaker.user_message(f'[[sim {{"fault": "{fault}", "text": "{"word " * 30}"}}]]')]
    status, body = post(port, speaker, speaker.request_body("gemini", turns, stream=True))
    errors = (
        [event for event in sse_payloads(body) if event.get("error")] if status == 200 else [json.loads(body)["error"]]
    )
    assert errors and status in (200, 502, 504), body[-500:]
