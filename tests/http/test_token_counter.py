"""Token counts with the shipped vocabulary, and their use near a context limit."""

import json

from gateway.dialects import chat
from gateway.feeds.package_data import DATA_FOLDER
from gateway.http.token_counter import TokenCounter
from gateway.simulator.playbook import Playbook
from tests.pipeline.test_pipeline import answers
from tests.snapshots import snapshot


def messages(content: object):
    return chat.parse(json.dumps({"model": "a", "messages": [{"role": "user", "content": content}]}).encode()).messages


async def test_tokens_are_counted_with_a_real_vocabulary_offline():
    counter = TokenCounter(DATA_FOLDER)
    assert await counter.count(messages("hello world")) == 2 + 4
    control_token = await counter.count(messages("<|endoftext|>"))
    assert control_token is not None and control_token > 5, "text that looks like a control token is text"
    assert await counter.count(messages([{"type": "text", "text": "hello"}, 7])) == 1 + 4
    assert await counter.count(messages("x" * 5_000_000)) is None


async def test_tool_calls_are_counted():
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"city": "Graz"}'}}
    body = {"model": "a", "messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}
    count = await TokenCounter(DATA_FOLDER).count(chat.parse(json.dumps(body).encode()).messages)
    assert count is not None and count > 4 + 10


async def test_without_the_vocabulary_nothing_is_counted(tmp_path):
    counter = TokenCounter(tmp_path)
    assert await counter.count(messages("hello world")) is None
    assert await counter.count(messages("again")) is None


async def test_a_history_near_a_context_limit_is_counted_before_a_candidate_is_excluded():
    words = "word " * 900  # estimated 1,150 tokens, counted 900
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": words}]}).encode()
    playbook = Playbook(
        snapshot(
            small=", context_tokens: 1000", more="tiers: {small: {max_complexity: 1}, medium: {max_complexity: 1}}"
        ),
        [answers()],
    )
    answer = await playbook.ask(body)
    assert playbook.events[:2] == ["count", "reserve"]
    assert answer.headers["x-penstock-deployment"] == "small"
