"""Lazily imported packages work, and serving does not import them."""

import json
import subprocess
import sys

import pytest

from gateway.dialects import chat
from gateway.feeds.package_data import DATA_FOLDER, data_file
from gateway.feeds.self_energy import OwnEnergyMeter
from gateway.http.token_counter import TokenCounter
from gateway.simulator.playbook import Playbook
from tests.pipeline.test_pipeline import answers
from tests.snapshots import snapshot


def messages(content: object):
    return chat.parse(json.dumps({"model": "a", "messages": [{"role": "user", "content": content}]}).encode()).messages


async def test_tokens_are_counted_with_a_real_vocabulary_offline():
    counter = TokenCounter(DATA_FOLDER)
    assert await counter.count(messages("hello world")) == 2 + 4
    assert await counter.count(messages("<|endoftext|>")) > 5, "text that looks like a control token is text"
    assert await counter.count(messages([{"type": "text", "text": "hello"}, 7])) == 1 + 4
    assert await counter.count(messages("x" * 5_000_000)) is None


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


def test_serving_imports_none_of_the_heavy_packages():
    code = "import sys, gateway.cli.serve; print([n for n in ('litellm','codecarbon','tiktoken','openai','pandas','numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_has_no_data_file():
    assert data_file("no_such_package", "x.json") is None
    assert data_file("orjson", "no_such_file") is None


@pytest.mark.filterwarnings("ignore")
def test_the_gateway_s_own_energy_is_measured():
    meter = OwnEnergyMeter("FRA")
    meter.read()
    meter.read()
    meter.stop()
    assert meter.energy_joules > 0
    assert meter.carbon_grams > 0
